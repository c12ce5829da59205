// Which statements run as named prepared statements, and the facts of the few statements the house itself
// sends. A name is a digest of its text, so that it can never come to mean another text, not even behind a
// pooler that hands one server connection to several clients (counters did: the wrong statement ran).

import type { Facts, Statement } from './types.ts'

/** A statement seen once may never come again, and a name costs memory on the server: wait for the second. */
const SIGHTINGS_BEFORE_NAMING = 2

export class PreparedNames {
  readonly #mode: 'auto' | 'never' | 'always'
  readonly #digest: (text: string) => string
  /** By facts, which are one object per text while the text is in the facts' cache. */
  readonly #sightings = new WeakMap<Facts, { count: number; name: string | undefined }>()
  #unreliable = false

  constructor(mode: 'auto' | 'never' | 'always', digest: (text: string) => string) {
    this.#mode = mode
    this.#digest = digest
  }

  /** The name to run this text under, or undefined to run it unnamed. Counts the sighting. */
  nameOf(sql: string, facts: Facts): string | undefined {
    if (!facts.preparable || this.#mode === 'never' || (this.#unreliable && this.#mode === 'auto')) return undefined
    let seen = this.#sightings.get(facts)
    if (seen === undefined) this.#sightings.set(facts, (seen = { count: 0, name: undefined }))
    if (seen.name !== undefined) return seen.name
    if (++seen.count < SIGHTINGS_BEFORE_NAMING && this.#mode === 'auto') return undefined
    return (seen.name = `s_${this.#digest(sql)}`)
  }

  /** The server lost or already had a name of ours: something in between shares its connections. */
  markUnreliable(): void {
    this.#unreliable = true
  }

  get reliable(): boolean {
    return !this.#unreliable
  }
}

const NOTHING: readonly string[] = []

const PLAIN_READ: Facts = {
  kind: 'read_simple',
  verb: 'select',
  safeOnReplica: true,
  stateful: false,
  lockWaiter: false,
  retrySafe: true,
  writes: false,
  multiple: false,
  preparable: false,
  tablesRead: NOTHING,
  tablesWritten: NOTHING,
  functions: NOTHING,
  summary: 'SELECT',
}

/** A read of nothing: pings, probes. */
export const READ_FACTS: Facts = PLAIN_READ

/** Does it live? Without a row, because a type parser of the user would see it. */
export const PING: Statement = { sql: 'select 1 where false', parameters: [], facts: READ_FACTS }

/** Whose session this really is. */
export const WHO_ANSWERS: Statement = { sql: 'select pg_backend_pid()::text as pid', parameters: [], facts: READ_FACTS }

/** What makes a session as new as it was. */
export const RESET_FACTS: Facts = {
  ...PLAIN_READ,
  kind: 'unknown',
  verb: 'discard',
  safeOnReplica: false,
  summary: 'DISCARD',
}

/** BEGIN changes nothing, so one that was lost with its connection may be sent again on another. */
export const BEGIN_FACTS: Facts = {
  ...PLAIN_READ,
  kind: 'transaction',
  verb: 'begin',
  safeOnReplica: false,
  summary: 'BEGIN',
}
