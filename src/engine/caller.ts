// Somebody who waits for a connection. A class, because thousands wait at once and closures cost more.

import type { NodeCells } from '../core/cells.ts'
import { AcquireTimeoutError } from '../core/errors.ts'
import type { PooledSession } from './pooled-session.ts'
import type { Waiter } from './wait-queue.ts'

export class Caller implements Waiter<PooledSession> {
  readonly since: number
  readonly deadline: number
  /** Settles when the wait is over. */
  readonly served: Promise<PooledSession>
  readonly #cells: NodeCells
  readonly #stack: string | undefined
  #resolve!: (pooled: PooledSession) => void
  #reject!: (error: unknown) => void
  #unwatch: (() => void) | null = null

  constructor(cells: NodeCells, since: number, deadline: number, stack: string | undefined) {
    this.#cells = cells
    this.since = since
    this.deadline = deadline
    this.#stack = stack
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

  resolve(pooled: PooledSession, now: number): void {
    this.#unwatch?.()
    pooled.stack = this.#stack
    this.#cells.acquires.ok++
    this.#cells.acquireDuration.observe(Math.round((now - this.since) * 1000))
    this.#resolve(pooled)
  }

  reject(error: unknown): void {
    this.#unwatch?.()
    this.#cells.acquires[error instanceof AcquireTimeoutError ? 'timeout' : 'rejected']++
    this.#reject(error)
  }
}
