// Time that passes only when a test says so. Timers that come due run in order, and between two of them the
// promises they settled are let run to their ends: a backoff of a minute is tested in no time at all.

import { setImmediate } from 'node:timers/promises'
import type { Clock, Timer } from '../../src/core/types.ts'

interface FakeTimer {
  readonly at: number
  readonly run: () => void
}

/** More timers than this within one advance is a loop that waits for nothing. */
const MOST_TIMERS = 10_000

export class FakeClock implements Clock {
  #now: number
  #timers: FakeTimer[] = []

  constructor(startMs = 1_000_000) {
    this.#now = startMs
  }

  now(): number {
    return this.#now
  }

  setTimeout(run: () => void, ms: number): Timer {
    const timer: FakeTimer = { at: this.#now + Math.max(0, ms), run }
    // Kept in the order in which they come due; of two for the same moment, the elder comes first.
    const later = this.#timers.findIndex((other) => other.at > timer.at)
    this.#timers.splice(later === -1 ? this.#timers.length : later, 0, timer)
    return timer
  }

  /** Runs with what is due now. */
  nextTurn(run: () => void): void {
    this.setTimeout(run, 0)
  }

  clearTimeout(timer: Timer): void {
    this.#timers = this.#timers.filter((other) => other !== timer)
  }

  /** Timers set and neither run nor cleared: what a closed engine must have none of. */
  get pendingTimers(): number {
    return this.#timers.length
  }

  /** Milliseconds until the next timer is due, or null when there is none. */
  get nextTimerMs(): number | null {
    const [next] = this.#timers
    return next === undefined ? null : next.at - this.#now
  }

  /** The process is blocked for `ms`: time passes and nothing runs. What came due meanwhile runs at the next `advance`. */
  block(ms: number): void {
    this.#now += ms
  }

  /** Lets `ms` pass. `advance(0)` lets promises settle and runs what is due now. */
  async advance(ms = 0): Promise<void> {
    const until = this.#now + ms
    await settlePromises()
    for (let count = 0; this.#timers[0] !== undefined && this.#timers[0].at <= until; count++) {
      if (count === MOST_TIMERS) throw new Error(`${MOST_TIMERS} timers ran within ${ms} ms: one sets itself again`)
      const timer = this.#timers.shift()!
      this.#now = Math.max(this.#now, timer.at)
      timer.run()
      await settlePromises()
    }
    this.#now = until
  }
}

/** All promise reactions and ticks that are ready run before the event loop comes to its next immediate. */
async function settlePromises(): Promise<void> {
  await setImmediate()
}
