// The one place that reads the time and draws chance. Milliseconds since 1970 that never run backwards, so
// that deadlines and the times shown to people are the same numbers.

import type { Chance, Clock, Timer } from '../core/types.ts'

const ORIGIN = performance.timeOrigin

export const systemClock: Clock = {
  now: () => ORIGIN + performance.now(),
  setTimeout: (run, ms, awaited) => (awaited === undefined ? setTimeout(run, ms).unref() : setTimeout(run, ms)),
  nextTurn: (run) => void setImmediate(run),
  clearTimeout: (timer: Timer) => clearTimeout(timer as NodeJS.Timeout),
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
