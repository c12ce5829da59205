// Of whom it is asked what has become of a transaction whose COMMIT was not answered: connections to the same server
// that stood before it was sent, because a server that has crashed since gives its id to strangers. Nobody is disturbed:
// idle and shared connections are asked, and those that go from hand to hand in between.

import { fateByStatus } from '../core/commit-fate.ts'
import type { CommitFate, StatusAnswer, TransactionIdentity } from '../core/commit-fate.ts'
import { whatBecameOf } from '../core/statements.ts'
import type { Clock, Row, Session } from '../core/types.ts'
import { pause, within } from './clock.ts'
import type { Pool } from './pool.ts'
import type { PooledSession } from './pooled-session.ts'

/** An answer is one round trip, behind what others have asked on a shared connection; then another one is asked. */
const ANSWER_MS = 300
/** Between two rounds: a millisecond, then twice that, and so on. */
const FIRST_PAUSE_MS = 1
const LONGEST_PAUSE_MS = 250

export interface Inquiry {
  readonly clock: Clock
  readonly pool: Pool
  readonly identity: TransactionIdentity
  /** When COMMIT was sent. */
  readonly sentAt: number
  readonly deadline: number
}

/** Asks until somebody knows, nobody is left, or the time is over. */
export async function askWitnesses(inquiry: Inquiry): Promise<CommitFate> {
  const { clock, pool, deadline } = inquiry
  const witnesses = new Witnesses(inquiry)
  const stop = pool.onFreed((pooled) => witnesses.freed(pooled))
  try {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      const fate = await witnesses.round()
      if (fate !== null) return fate
      if (clock.now() >= deadline) return TOO_LATE
      await witnesses.rest(pauseMs)
    }
  } finally {
    stop()
  }
}

const NOBODY: CommitFate = { is: 'unknown', because: 'no connection that stood before COMMIT was sent is left' }
const TOO_LATE: CommitFate = { is: 'unknown', because: 'nobody could tell in time' }
const late = (): Error => new Error('no answer in time')

class Witnesses {
  readonly #inquiry: Inquiry
  /** Whoever has not answered yet is not asked anew. */
  readonly #asked = new Map<Session, Promise<void>>()
  /** Not to be believed. */
  readonly #unfit = new Set<Session>()
  #fate: CommitFate | null = null
  #inProgress = false
  #wake: (() => void) | null = null

  constructor(inquiry: Inquiry) {
    this.#inquiry = inquiry
  }

  /** Asks one after the other; null: nobody knows yet. */
  async round(): Promise<CommitFate | null> {
    const { clock, pool, sentAt, deadline } = this.#inquiry
    const { free, held } = pool.stoodBefore(sentAt)
    this.#inProgress = false
    for (const session of free) {
      const ms = Math.min(ANSWER_MS, deadline - clock.now())
      if (this.#fate !== null || this.#inProgress || ms <= 0) break
      if (!this.#unfit.has(session)) await within(clock, ms, this.#ask(session), late).catch(() => undefined)
    }
    if (this.#fate !== null || this.#inProgress || held > 0) return this.#fate
    return free.every((session) => session.lost !== null || this.#unfit.has(session)) ? NOBODY : null
  }

  /** Until somebody has told who came free meanwhile. */
  async rest(ms: number): Promise<void> {
    if (this.#fate !== null) return
    const told = new AbortController()
    this.#wake = () => told.abort()
    await pause(this.#inquiry.clock, ms, told.signal).catch(() => undefined)
    this.#wake = null
  }

  /** It has nothing to do before somebody else gets it. */
  freed({ openedAt, session }: PooledSession): void {
    if (this.#wake === null || openedAt >= this.#inquiry.sentAt || this.#unfit.has(session)) return
    void this.#ask(session).then(() => {
      if (this.#fate !== null) this.#wake?.()
    })
  }

  /** Never rejects. */
  #ask(session: Session): Promise<void> {
    const asked = this.#asked.get(session) ?? this.#question(session)
    this.#asked.set(session, asked)
    return asked
  }

  async #question(session: Session): Promise<void> {
    const { identity } = this.#inquiry
    try {
      const { rows } = await session.send(whatBecameOf(identity.xid))
      const heard = fateByStatus(identity, statusIn(rows[0], session))
      if (heard === 'ask another') this.#unfit.add(session)
      else if (heard === 'ask again') this.#inProgress = true
      else this.#fate ??= heard
    } catch (error) {
      // A cancel that was meant for a neighbour says nothing, and a connection that is gone is not found any more.
      if ((error as { code?: string }).code !== '57014') this.#unfit.add(session)
    } finally {
      this.#asked.delete(session)
    }
  }
}

/** As text, because a type parser of the user may make of it what it likes. */
function statusIn(row: Row | undefined, session: Session): StatusAnswer {
  const { status, server, pid } = row ?? {}
  return {
    status: typeof status === 'string' ? status : null,
    server: typeof server === 'string' ? server : '',
    ownBackend: Number(pid) === session.pid,
  }
}
