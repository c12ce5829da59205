// The queue of a pool with its deadlines. One timer serves them all, so ten thousand waiters cost one, and it is
// there only while somebody waits: it keeps the process alive for them, and not a moment longer.

import type { Clock, Timer } from '../core/types.ts'
import { GRACE_MS } from './clock.ts'
import { WaitQueue } from './wait-queue.ts'
import type { Ticket, Waiter } from './wait-queue.ts'

/** Callers who are told at once that they have waited in vain; the rest a turn later, so that others are served too. */
const EXPIRED_AT_ONCE = 200

export class WaitingRoom<T, W extends Waiter<T> = Waiter<T>> {
  readonly #queue = new WaitQueue<T, W>()
  readonly #clock: Clock
  readonly #tell: (late: readonly W[], now: number, waited: number) => void
  #timer: Timer = null
  /** When it is to ring. */
  #due = 0

  /** `tell` rejects those whose deadline has come; `waited` is how many stood in the queue with them. */
  constructor(clock: Clock, tell: (late: readonly W[], now: number, waited: number) => void) {
    this.#clock = clock
    this.#tell = tell
  }

  get length(): number {
    return this.#queue.length
  }

  /** How long the first in the queue has waited, milliseconds; 0 when nobody waits. */
  headWaitMs(): number {
    const { since } = this
    return since === null ? 0 : this.#clock.now() - since
  }

  /** Since when the first in the queue has waited; null when nobody waits. */
  get since(): number | null {
    return this.#queue.head?.since ?? null
  }

  /** The one who has waited longest, still in the queue. */
  get head(): W | null {
    return this.#queue.head
  }

  join(waiter: W): Ticket<T, W> {
    const ticket = this.#queue.join(waiter)
    // Whoever comes later may have less time left.
    if (this.#timer !== null && waiter.deadline < this.#due) {
      this.#clock.clearTimeout(this.#timer)
      this.#timer = null
    }
    // Who comes from another queue with his time over waits for what came while the process was busy.
    if (this.#timer === null) this.#watch(waiter.deadline <= this.#clock.now() ? GRACE_MS : 1)
    return ticket
  }

  /** Whether it still stood in the queue. */
  leave(ticket: Ticket<T, W>): boolean {
    const waited = this.#queue.leave(ticket)
    this.#restIfEmpty()
    return waited
  }

  /** The one who has waited longest, now out of the queue. */
  next(): W | null {
    const waiter = this.#queue.next()
    this.#restIfEmpty()
    return waiter
  }

  /** Rejects whoever waits since `since` or longer. */
  rejectAll(error: unknown, since = Infinity): void {
    for (let { head } = this; head !== null && head.since <= since; head = this.head) {
      this.#queue.next()!.reject(error)
    }
    this.#restIfEmpty()
  }

  #watch(atLeastMs = 1): void {
    const now = this.#clock.now()
    const ms = Math.max(atLeastMs, this.#queue.earliestDeadline() - now)
    this.#due = now + ms
    // One more turn: after a blocked event loop the connection may be here already, unread.
    const due = (): void => void (this.#timer = this.#clock.setTimeout(() => this.#expire(), 1, 'awaited'))
    this.#timer = this.#clock.setTimeout(due, ms, 'awaited')
  }

  #expire(): void {
    const now = this.#clock.now()
    const waited = this.#queue.length
    const late = this.#queue.expired(now, EXPIRED_AT_ONCE)
    if (late.length > 0) this.#tell(late, now, waited)
    this.#timer = null
    if (this.#queue.length > 0) this.#watch()
  }

  #restIfEmpty(): void {
    if (this.#timer === null || this.#queue.length > 0) return
    this.#clock.clearTimeout(this.#timer)
    this.#timer = null
  }
}
