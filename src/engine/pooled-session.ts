// One connection as its pool sees it: whose it is, since when, until when, and what runs on it now.

import type { Permit } from '../core/breaker.ts'
import type { Clock, Rows, Session, Statement } from '../core/types.ts'
import type { Seat } from './seat.ts'

/** A statement that has not heard a cancel request is asked to end again after this, and then after twice as long. */
const CANCEL_AGAIN_MS = 100

/** What is known of one connection since it was last heard. */
export interface Quiet {
  /** Bytes heard until then. */
  readonly bytes: number
  readonly since: number
  /** When the server is to be asked about it. */
  askAt: number
  /** The server has said that nothing runs there. */
  doubted: boolean
}

export class PooledSession implements Seat {
  readonly session: Session
  /** When it stood, set up: its backend is older. */
  readonly openedAt: number
  /** Replaced after this. */
  readonly lifetimeEnd: number
  /** The pool's generation it was opened in; an older one is not handed out again. */
  readonly generation: number

  idleSince = 0
  pingedAt = 0
  /** Since when a lease holds it; 0 while nobody does. */
  heldSince = 0
  /** What the lease runs or ran last, for people who look for who holds the connections. */
  doing = ''
  /** Where the connection was asked for; only with leak detection. */
  stack: string | undefined = undefined
  leakReported = false
  /** Something ran that may have left a trace in the session. */
  dirty = false
  /** And no reset undoes it. */
  unresettable = false

  /** Whose lock timeout is in force: what the user set, or the short one of connections that pipeline writes. */
  lockTimeout: 'own' | 'short' = 'own'

  /** The circuit's permit for the lease's first statement; null once it is settled. */
  permit: Permit | null = null

  /** When the statement that is under way with a deadline was sent; 0 while there is none. */
  sentAt = 0
  /** How far the deadline has been acted upon. */
  overdue: 'no' | 'seen' | 'cancelled' = 'no'
  overdueSince = 0

  constructor(session: Session, now: number, lifetimeEnd: number, generation: number) {
    this.session = session
    this.openedAt = now
    this.lifetimeEnd = lifetimeEnd
    this.generation = generation
    this.idleSince = now
  }

  /** Since when nothing was heard of it although a statement is under way. */
  quiet: Quiet | null = null
  /** A cancel request on its way. */
  cancelling: Promise<void> | null = null
  /** How long each statement that is under way may take, in the order in which they were sent. */
  readonly #timeouts: number[] = []

  /** Out of its pool, whether said goodbye to or destroyed. */
  closed = false

  /** The lease has given it back. */
  returned(): void {
    this.heldSince = 0
    this.leakReported = false
    this.stack = undefined
    this.permit = null
    this.#timeouts.length = 0
    this.sentAt = 0
  }

  /** A statement goes out; behind another one its time begins when that one has ended. */
  sends(now: number, doing: string, timeoutMs: number): void {
    this.doing = doing
    if (this.#timeouts.push(timeoutMs) > 1) return
    this.sentAt = timeoutMs > 0 ? now : 0
    this.overdue = 'no'
  }

  /** How long the statement that runs now may take, milliseconds; 0: as long as it takes, or nothing runs. */
  get timeoutMs(): number {
    return this.#timeouts[0] ?? 0
  }

  send(statement: Statement): Promise<Rows> {
    return this.session.send(statement)
  }

  settles(now: number): void {
    // One that its lease did not wait for was no longer counted.
    this.#timeouts.shift()
    this.sentAt = this.timeoutMs > 0 ? now : 0
    // Of statements that were sent together the cancelled one is not always the first to be told.
    if (this.#timeouts.length === 0 || this.overdue !== 'cancelled') this.overdue = 'no'
  }

  /** Asks the server to cancel what runs. Until that has ended nothing else may be sent: it would be hit instead. */
  cancel(clock: Clock, timeoutMs: number): Promise<void> {
    this.#repeatCancel(clock, timeoutMs, this.session.bytesRead, CANCEL_AGAIN_MS)
    return this.#cancelNow(timeoutMs)
  }

  #cancelNow(timeoutMs: number): Promise<void> {
    this.cancelling ??= this.session
      .cancel(timeoutMs)
      .catch(() => undefined)
      .finally(() => (this.cancelling = null))
    return this.cancelling
  }

  /** A request that overtakes its statement finds the backend idle, which takes no notice of it. */
  #repeatCancel(clock: Clock, timeoutMs: number, heard: number, waitMs: number): void {
    if (waitMs > timeoutMs) return
    clock.setTimeout(() => {
      const { session } = this
      if (session.lost !== null || session.unanswered === 0 || session.bytesRead !== heard) return
      void this.#cancelNow(timeoutMs)
      this.#repeatCancel(clock, timeoutMs, heard, 2 * waitMs)
    }, waitMs)
  }

  /** Whether the statement that just ended was ended by its deadline. */
  get timedOut(): boolean {
    return this.overdue === 'cancelled'
  }
}
