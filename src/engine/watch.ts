// A pool's eye on its connections in use: those over their deadline, those held too long, those on which nothing is heard.
// One timer, only while there is something to look after; a process that was busy, and deaf, looks a little later.

import type { NodePoolConfig } from '../config/options.ts'
import type { OpenSession, Timer } from '../core/types.ts'
import { BUSY_MS, GRACE_MS } from './clock.ts'
import { SHORTEST_TICK_MS, enforceDeadline, leaked, tickMs, untilNextLook } from './housekeeping.ts'
import { enforceLaneDeadlines, untilLaneDeadline } from './lane-deadlines.ts'
import type { DeadlineHost } from './lane-deadlines.ts'
import type { SharedLane } from './passage.ts'
import type { PooledSession } from './pooled-session.ts'
import { Silence } from './silence.ts'
import type { SilenceHost } from './silence.ts'

/** The pool, as far as it is watched. */
export interface Watched extends DeadlineHost, SilenceHost {
  readonly config: NodePoolConfig
  /** Held by a lease, being asked whether it lives, or being cleaned. */
  readonly busy: Iterable<PooledSession>
  readonly shared: Iterable<SharedLane>
  /** Whether something in between answers for the server. */
  readonly behindPooler: boolean | undefined
  /** There are connections, or somebody waits for one. */
  readonly worthWatching: boolean
  /** Somebody holds a connection for longer than he should. */
  leaks(pooled: PooledSession, now: number): void
  /** What is to be done about connections that nobody uses. */
  keepHouse(now: number): void
}

/** A process that is busy all the time keeps no deadline off for longer. */
const DEAF_AGAIN_MS = 5_000

export class Watch {
  readonly #pool: Watched
  readonly #queryTimeoutMs: number
  readonly #silence: Silence
  #timer: Timer = null
  /** Until then answers that came while the process was busy may still lie in the sockets. */
  #hearsUntil = 0

  constructor(pool: Watched, queryTimeoutMs: number, openBeside: OpenSession) {
    this.#pool = pool
    this.#queryTimeoutMs = queryTimeoutMs
    this.#silence = new Silence(pool, openBeside)
  }

  /** There is something to look after now. */
  wake(): void {
    if (this.#timer === null) this.#tick()
  }

  /** A statement went out whose time may be over before the next look. */
  hurry(): void {
    this.#pool.clock.clearTimeout(this.#timer)
    this.#tick()
  }

  stop(): void {
    this.#pool.clock.clearTimeout(this.#timer)
    this.#silence.stop()
  }

  #tick(): void {
    const { clock } = this.#pool
    const ms = this.#untilNextLook(clock.now())
    const due = clock.now() + ms
    this.#timer = clock.setTimeout(() => {
      this.#timer = null
      this.#hearsAgain(clock.now() - due)
      this.#look(clock.now())
      if (this.#pool.worthWatching) this.wake()
    }, ms)
  }

  #untilNextLook(now: number): number {
    const { busy, shared, config } = this.#pool
    const ms = untilNextLook(busy, now, tickMs(config, this.#queryTimeoutMs))
    return Math.max(SHORTEST_TICK_MS, untilLaneDeadline(shared, now, ms))
  }

  /** What the process was deaf for is given to the statements under way again, but not without end. */
  #hearsAgain(lateMs: number): void {
    const now = this.#pool.clock.now()
    if (lateMs > BUSY_MS && now - this.#hearsUntil > DEAF_AGAIN_MS) this.#hearsUntil = now + Math.min(lateMs, GRACE_MS)
  }

  #look(now: number): void {
    const pool = this.#pool
    const { leakDetectionMs } = pool.config
    const hears = now >= this.#hearsUntil
    for (const pooled of [...pool.busy]) {
      if (hears && enforceDeadline(pooled, now, pool.clock)) pool.silent()
      if (leaked(pooled, now, leakDetectionMs)) pool.leaks(pooled, now)
    }
    if (hears) enforceLaneDeadlines(pool.shared, pool, now)
    // Behind a pooler nobody knows whose backend a connection has.
    if (hears && pool.behindPooler === false) this.#silence.look(this.#inUse())
    pool.keepHouse(now)
  }

  *#inUse(): Iterable<PooledSession> {
    yield* this.#pool.busy
    for (const { pooled } of this.#pool.shared) yield pooled
  }
}
