// Somebody who waits for a connection, or for a place on one. A class, because thousands wait at once and closures cost more.

import type { NodeCells } from '../core/cells.ts'
import { AcquireTimeoutError } from '../core/errors.ts'
import type { Waiter } from './wait-queue.ts'

export class Caller<T> implements Waiter<T> {
  readonly since: number
  readonly deadline: number
  /** Settles when the wait is over. */
  readonly served: Promise<T>
  readonly #cells: NodeCells
  #resolve!: (granted: T) => void
  #reject!: (error: unknown) => void
  #unwatch: (() => void) | null = null

  constructor(cells: NodeCells, since: number, deadline: number) {
    this.#cells = cells
    this.since = since
    this.deadline = deadline
    this.served = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  /** `leave` is called when the signal is aborted during the wait; it says whether the caller still waited. */
  watch(signal: AbortSignal, leave: () => boolean): void {
    const onAbort = (): void => {
      if (!leave()) return
      this.#cells.acquires.aborted++
      this.#reject(signal.reason)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    this.#unwatch = () => signal.removeEventListener('abort', onAbort)
  }

  resolve(granted: T, now: number): void {
    this.#unwatch?.()
    this.#cells.acquires.ok++
    this.#cells.acquireDuration.observe(Math.round((now - this.since) * 1000))
    this.#resolve(granted)
  }

  reject(error: unknown): void {
    this.#unwatch?.()
    this.#cells.acquires[error instanceof AcquireTimeoutError ? 'timeout' : 'rejected']++
    this.#reject(error)
  }
}
