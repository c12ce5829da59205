// The one place that reads the time and draws chance. Milliseconds since 1970 that never run backwards, so
// that deadlines and the times shown to people are the same numbers.

import type { Chance, Clock, Timer } from '../core/types.ts'

const ORIGIN = performance.timeOrigin

export const systemClock: Clock = {
  now: () => ORIGIN + performance.now(),
  setTimeout: (run, ms, awaited) => (awaited === undefined ? setTimeout(run, ms).unref() : new FairTimer(run, ms)),
  nextTurn: (run) => void setImmediate(run),
  clearTimeout: (timer: Timer) => {
    if (timer instanceof FairTimer) timer.clear()
    else clearTimeout(timer as NodeJS.Timeout)
  },
}

/** A timer that is later than this was kept waiting by a busy process. */
export const BUSY_MS = 50
/** What it keeps from others is given to them again, but no more than this: everything settles within its time and a second. */
export const GRACE_MS = 1_000

/**
 * A deadline over what comes through a socket. Timers run before sockets are read, so after a blocked event loop all
 * deadlines would be over although the answers are there: what the process was deaf for is waited for once more, and
 * then the event loop comes round twice.
 */
class FairTimer {
  readonly #run: () => void
  #due = 0
  #grace = GRACE_MS
  #timer: NodeJS.Timeout | undefined
  #turn: NodeJS.Immediate | undefined

  constructor(run: () => void, ms: number) {
    this.#run = run
    this.#wait(ms)
  }

  clear(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#turn)
  }

  #wait(ms: number): void {
    this.#due = performance.now() + ms
    this.#timer = setTimeout(() => this.#over(), ms)
  }

  #over(): void {
    const lateMs = performance.now() - this.#due
    if (lateMs > BUSY_MS && this.#grace > 0) {
      const again = Math.min(lateMs, this.#grace)
      this.#grace -= again
      this.#wait(again)
    } else {
      this.#turn = setImmediate(() => (this.#turn = setImmediate(this.#run)))
    }
  }
}

export const systemChance: Chance = Math.random

/** Settles after `ms`, or rejects with the signal's reason as soon as it is aborted. */
export function pause(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason as Error)
      return
    }
    const onAbort = (): void => {
      clock.clearTimeout(timer)
      reject(signal?.reason as Error)
    }
    const timer = clock.setTimeout(
      () => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      },
      ms,
      'awaited',
    )
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/**
 * Settles as `work` does, or rejects with `late()` after `ms`; `work` itself goes on. When the time is over it gives
 * the event loop one more turn: after a blocked one the answer may lie in the socket, unread.
 */
export function within<T>(clock: Clock, ms: number, work: Promise<T>, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    let timer = clock.setTimeout(
      () => {
        timer = clock.setTimeout(() => reject(late()), 1, 'awaited')
      },
      ms,
      'awaited',
    )
    work.then(resolve, reject).finally(() => clock.clearTimeout(timer))
  })
}
