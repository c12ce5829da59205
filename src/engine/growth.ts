// When a pool opens connections: whenever something changes the plan is asked, and where the plan expects the queue to be
// empty before a connection could stand, it is asked again when that time is over.

import { planPool } from '../core/pool-plan.ts'
import type { PoolBounds, PoolState } from '../core/pool-plan.ts'
import type { Clock, Timer } from '../core/types.ts'
import type { Connector } from './connector.ts'

/** The pool, as far as its growth needs it. */
export interface Growing {
  open(count: number): void
  mayOpen(): boolean
  state(): PoolState
  bounds(): PoolBounds
  /** Those who wait cannot have the idle ones. */
  keepsIdle(): boolean
}

export class Growth {
  readonly #clock: Clock
  readonly #connector: Connector
  readonly #pool: Growing
  #timer: Timer = null

  constructor(clock: Clock, connector: Connector, pool: Growing) {
    this.#clock = clock
    this.#connector = connector
    this.#pool = pool
  }

  /** Opens what the plan asks for: for those who wait, and, when `unasked`, up to `min` and `minIdle` as well. */
  grow(unasked = false): void {
    const pool = this.#pool
    if (!pool.mayOpen() || this.#connector.resting) return
    const state = pool.state()
    if (state.total >= this.#connector.max) return
    const bounds = pool.bounds()
    const plan = planPool(
      pool.keepsIdle() ? { ...state, idle: 0 } : state,
      unasked ? bounds : { ...bounds, min: 0, minIdle: 0 },
    )
    if (plan.do === 'open') pool.open(plan.count)
    else if (plan.because === 'queue-drains-first') this.#growUnlessDrained(state)
  }

  stop(): void {
    this.#clock.clearTimeout(this.#timer)
  }

  #growUnlessDrained({ connectMs, headWaitMs }: PoolState): void {
    if (this.#timer !== null) return
    const again = (): void => {
      this.#timer = null
      this.grow()
    }
    this.#timer = this.#clock.setTimeout(again, Math.max(1, Math.ceil(connectMs - headWaitMs) + 1))
  }
}
