// A bound on what may be under way at once: who finds it full waits, first come first served, up to his own deadline.
// It stands before reads that come to the primary because no replica will do, so that a set of replicas that died does
// not take the primary along.

import { NotExecutedError } from '../core/errors.ts'
import type { Clock } from '../core/types.ts'
import type { Waiter } from './wait-queue.ts'
import { WaitingRoom } from './waiting-room.ts'

/** More would only wait to be told that they have waited in vain. */
const MOST_WAITING = 10_000

interface Entering extends Waiter<void> {
  readonly node: string
}

export class Gate {
  readonly #limit: number
  readonly #clock: Clock
  readonly #waiting: WaitingRoom<void, Entering>
  #inside = 0

  constructor(limit: number, clock: Clock) {
    this.#limit = limit
    this.#clock = clock
    this.#waiting = new WaitingRoom<void, Entering>(clock, (late, now) => {
      for (const waiter of late) waiter.reject(this.#tooMany(waiter.node, now - waiter.since))
    })
  }

  get inside(): number {
    return this.#inside
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /**
   * null: he is in, and must leave. Else settles when he is; rejects with NotExecutedError that names `node`, or the
   * signal's reason.
   */
  enter(node: string, timeoutMs: number, signal: AbortSignal | undefined): Promise<void> | null {
    if (this.#inside < this.#limit) {
      this.#inside++
      return null
    }
    if (this.#waiting.length >= MOST_WAITING) return Promise.reject(this.#tooMany(node, 0))
    return new Promise((resolve, reject) => {
      const since = this.#clock.now()
      const unwatch = (): void => signal?.removeEventListener('abort', abort)
      const waiter: Entering = {
        node,
        since,
        deadline: since + timeoutMs,
        resolve: () => {
          unwatch()
          resolve()
        },
        reject: (error) => {
          unwatch()
          reject(error)
        },
      }
      const ticket = this.#waiting.join(waiter)
      const abort = (): void => {
        if (this.#waiting.leave(ticket)) waiter.reject(signal!.reason)
      }
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  leave(): void {
    const next = this.#waiting.next()
    // His place goes to whoever has waited longest.
    if (next === null) this.#inside--
    else next.resolve(undefined, this.#clock.now())
  }

  close(error: Error): void {
    this.#waiting.rejectAll(error)
  }

  #tooMany(node: string, waitedMs: number): NotExecutedError {
    const message =
      `No replica can take this read, and the primary has ${this.#limit} of that sort already ` +
      `(routing.fallbackLimit); ${this.#waiting.length} others wait, this one has waited ${Math.round(waitedMs)} ms.`
    return new NotExecutedError(node, message, 'acquire', undefined)
  }
}
