// A named portal read in steps, for streams. Each step is one exchange that ends with ReadyForQuery, so the
// connection is never left half read; pg-cursor's hang on a dead connection cannot happen, because every
// step settles with the connection.

import type { Portal, Row } from '../core/types.ts'

/** How the steps reach the server. */
export interface PortalSteps {
  open(count: number): Promise<Chunk>
  next(count: number): Promise<Chunk>
  close(): Promise<unknown>
}

export interface Chunk {
  readonly rows: Row[]
  /** The server stopped at the count: there may be more. */
  readonly suspended: boolean
}

export class SteppedPortal implements Portal {
  readonly #steps: PortalSteps
  #state: 'unopened' | 'suspended' | 'done' = 'unopened'

  constructor(steps: PortalSteps) {
    this.#steps = steps
  }

  async read(count: number): Promise<Row[]> {
    if (this.#state === 'done') return []
    try {
      const { rows, suspended } = await (this.#state === 'unopened' ? this.#steps.open(count) : this.#steps.next(count))
      this.#state = suspended ? 'suspended' : 'done'
      return rows
    } catch (error) {
      this.#state = 'done'
      throw error
    }
  }

  async close(): Promise<void> {
    if (this.#state !== 'suspended') return
    this.#state = 'done'
    await this.#steps.close()
  }
}
