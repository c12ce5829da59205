// Which statements run as named prepared statements, and the facts of the few statements the house itself
// sends. A name is a digest of its text, so that it can never come to mean another text, not even behind a
// pooler that hands one server connection to several clients (counters did: the wrong statement ran).

import type { Facts, Statement } from './types.ts'

/** A statement seen once may never come again, and a name costs memory on the server: wait for the second. */
const SIGHTINGS_BEFORE_NAMING = 2

/** What is remembered of one text. */
interface Sighting {
  count: number
  /** The name in its first generation; undefined until it is worth one. */
  base: string | undefined
  /** The name in `generation`. */
  name: string | undefined
  generation: number
}

/** Stands for every text that never gets a name. */
const NEVER: Sighting = { count: 0, base: undefined, name: undefined, generation: 0 }

export class PreparedNames {
  readonly #mode: 'auto' | 'never' | 'always'
  readonly #digest: (text: string) => string
  readonly #neverTexts: ReadonlySet<string>
  readonly #neverPatterns: readonly RegExp[]
  /** By facts, which are one object per text while the text is in the facts' cache. */
  readonly #sightings = new WeakMap<Facts, Sighting>()
  #unreliable = false
  #generation = 0

  /** `digest` answers without `_`; `never` holds texts and patterns that keep no state. */
  constructor(
    mode: 'auto' | 'never' | 'always',
    digest: (text: string) => string,
    never: readonly (string | RegExp)[] = [],
  ) {
    this.#mode = mode
    this.#digest = digest
    this.#neverTexts = new Set(never.filter((one) => typeof one === 'string'))
    this.#neverPatterns = never.filter((one) => typeof one !== 'string')
  }

  /** The name to run this text under, or undefined to run it unnamed. Counts the sighting. */
  nameOf(sql: string, facts: Facts): string | undefined {
    if (!facts.preparable || this.#mode === 'never' || (this.#unreliable && this.#mode === 'auto')) return undefined
    const seen = this.#sightings.get(facts) ?? this.#firstSighting(sql, facts)
    if (seen === NEVER) return undefined
    if (seen.name !== undefined && seen.generation === this.#generation) return seen.name
    if (++seen.count < SIGHTINGS_BEFORE_NAMING && this.#mode === 'auto') return undefined
    seen.base ??= `s_${this.#digest(sql)}`
    seen.generation = this.#generation
    return (seen.name = named(seen.base, this.#generation))
  }

  /**
   * The row type of this one has changed under it (0A000), so that of any other may have: every text gets a new name,
   * and with it is parsed anew on every connection, before it can fail there, too. True when that begins now; what
   * is reported of names that are not given out any more changes nothing.
   */
  outdated(name: string): boolean {
    if (generationOf(name) !== this.#generation) return false
    this.#generation++
    return true
  }

  /** From now on this text runs unnamed, in every mode. */
  unname(facts: Facts): void {
    this.#sightings.set(facts, NEVER)
  }

  /** The server lost or already had a name of ours: something in between shares its connections. */
  markUnreliable(): void {
    this.#unreliable = true
  }

  get reliable(): boolean {
    return !this.#unreliable
  }

  /** Texts and patterns are asked once for each text, not for each run. */
  #firstSighting(sql: string, facts: Facts): Sighting {
    const never = this.#neverTexts.has(sql) || this.#neverPatterns.some((pattern) => pattern.test(sql))
    const seen = never ? NEVER : { count: 0, base: undefined, name: undefined, generation: 0 }
    this.#sightings.set(facts, seen)
    return seen
  }
}

/** The generation stands behind the digest, so that a name can still mean one text only: 46 bytes of 63 at most. */
function named(base: string, generation: number): string {
  return generation === 0 ? base : `${base}_${generation.toString(36)}`
}

/** The contrary of `named`; NaN for a name that is none of ours. */
function generationOf(name: string): number {
  const parts = /^s_[^_]+(?:_([0-9a-z]+))?$/.exec(name)
  return parts === null ? NaN : parseInt(parts[1] ?? '0', 36)
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
  because: 'read',
  // Nobody counts these texts.
  fingerprint: '0'.repeat(16),
}

/** A read of nothing: pings, probes. */
export const READ_FACTS: Facts = PLAIN_READ

/** Does it live? Without a row, because a type parser of the user would see it. */
export const PING: Statement = { sql: 'select 1 where false', parameters: [], facts: READ_FACTS }

/** Whose session this really is. */
export const WHO_ANSWERS: Statement = { sql: 'select pg_backend_pid()::text as pid', parameters: [], facts: READ_FACTS }

/** Which transaction this is, on which server, and whether it is the backend that the connection was opened with. */
export const WHOSE_TRANSACTION: Statement = {
  sql:
    'select pg_catalog.pg_current_xact_id_if_assigned()::text as xid, ' +
    'extract(epoch from pg_catalog.pg_postmaster_start_time())::text as server, pg_catalog.pg_backend_pid()::text as pid',
  parameters: [],
  facts: READ_FACTS,
}

/** What has become of a transaction. */
export function whatBecameOf(xid: string): Statement {
  const sql =
    'select pg_catalog.pg_xact_status($1::pg_catalog.xid8) as status, ' +
    'extract(epoch from pg_catalog.pg_postmaster_start_time())::text as server, pg_catalog.pg_backend_pid()::text as pid'
  return { sql, parameters: [xid], facts: READ_FACTS }
}

/** What these backends do now, and the one that is asked. */
export function whatTheyDo(pids: readonly number[]): Statement {
  const sql =
    'select pid::text as pid, state, backend_start::text as born, ' +
    'extract(epoch from pg_catalog.pg_postmaster_start_time())::text as server from pg_catalog.pg_stat_activity ' +
    'where pid = any($1::int[]) or pid = pg_catalog.pg_backend_pid()'
  return { sql, parameters: [pids], facts: READ_FACTS }
}

/** Ends a backend that nobody can reach any more, as long as it is the same and does nothing. */
export function endOrphan(pid: number, born: string): Statement {
  const sql =
    'select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity ' +
    "where pid = $1 and backend_start = $2::timestamptz and state like 'idle%'"
  return { sql, parameters: [pid, born], facts: READ_FACTS }
}

/** What the user has set. */
export const LOCK_TIMEOUT: Statement = {
  sql: `select current_setting('lock_timeout') as lock_timeout`,
  parameters: [],
  facts: READ_FACTS,
}

/** What makes a session as new as it was. */
export const RESET_FACTS: Facts = {
  ...PLAIN_READ,
  kind: 'unknown',
  verb: 'discard',
  safeOnReplica: false,
  summary: 'DISCARD',
  because: 'session',
}

/** BEGIN changes nothing, so one that was lost with its connection may be sent again on another. */
export const BEGIN_FACTS: Facts = {
  ...PLAIN_READ,
  kind: 'transaction',
  verb: 'begin',
  safeOnReplica: false,
  summary: 'BEGIN',
  because: 'transaction',
}
