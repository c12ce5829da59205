// The connections to one node. Callers wait first come first served and are served by *any* connection that
// comes free (HikariCP's prime directive), never by the one that was opened for them; idle ones are taken
// last in first out, so that surplus ones age and can be closed. Nothing dirty, dead, expired or unasked for
// too long is handed out. One timer serves every deadline of the pool, so ten thousand waiters cost one.

import type { NodePoolConfig } from '../config/options.ts'
import type { CloseReason, NodeCells } from '../core/cells.ts'
import { AcquireTimeoutError, CircuitOpenError, QueueFullError, SmartPgError, isSmartPgError } from '../core/errors.ts'
import type { PoolCounts } from '../core/errors.ts'
import { connectBackoff, lifetimeEnd, planPool, planShrink } from '../core/pool-plan.ts'
import type { PoolState } from '../core/pool-plan.ts'
import { READ_FACTS, RESET_FACTS } from '../core/statements.ts'
import type { Chance, Clock, OpenSession, Session, Timer } from '../core/types.ts'
import { within } from './clock.ts'
import type { Listeners } from './listeners.ts'
import type { Node } from './node.ts'
import { PooledSession } from './pooled-session.ts'
import { WaitQueue } from './wait-queue.ts'

export interface PoolPorts {
  readonly open: OpenSession
  readonly clock: Clock
  readonly chance: Chance
  readonly listeners: Listeners
  /** Runs once on every new connection, before anybody uses it: hooks of the user. */
  readonly prepare: (session: Session) => Promise<void>
  /** Runs after a reset; null: a dirty connection is closed instead of being reset. */
  readonly restore: ((session: Session) => Promise<void>) | null
  readonly queryTimeoutMs: number
}

export interface AcquireOptions {
  /** Absolute, on the clock; default: now + acquireTimeout. */
  readonly deadline?: number
  readonly signal?: AbortSignal | undefined
}

/** An answer to the ping of an idle connection takes a round trip; one that takes longer than this is no answer. */
const PING_MS = 300
/** Rolling back or resetting what a lease left behind. */
const CLEANING_MS = 5_000
/** After CancelRequest the server answers at once or not at all. */
const CANCEL_GRACE_MS = 1_000
const CLOSE_GRACE_MS = 2_000
/** A slot limit that the server has shown is tried again after this. */
const SLOTS_RETRY_MS = 30_000

export class Pool {
  readonly #config: NodePoolConfig
  readonly #ports: PoolPorts
  readonly #node: Node
  readonly #cells: NodeCells
  readonly #idle: PooledSession[] = []
  /** Held by a lease, being asked whether it lives, or being cleaned. */
  readonly #busy = new Set<PooledSession>()
  readonly #waiting = new WaitQueue<PooledSession>()
  readonly #closing = new AbortController()
  #state: 'new' | 'open' | 'draining' | 'closed' = 'new'
  #connecting = 0
  #generation = 0
  #connectFailures = 0
  #connectedOnce = false
  #lastConnectError: unknown = undefined
  #useMs = 0
  #connectMs = 0
  /** Learned from 53300: the server has no more slots for us than this. */
  #slots = Infinity
  #slotsUntil = 0
  #retryTimer: Timer | null = null
  #waitTimer: Timer | null = null
  #tickTimer: Timer | null = null
  #whenEmpty: (() => void) | null = null

  constructor(node: Node, config: NodePoolConfig, ports: PoolPorts) {
    this.#node = node
    this.#config = config
    this.#ports = ports
    this.#cells = node.cells
  }

  get config(): NodePoolConfig {
    return this.#config
  }

  counts(): PoolCounts {
    return {
      total: this.#idle.length + this.#busy.size + this.#connecting,
      active: this.#busy.size,
      idle: this.#idle.length,
      connecting: this.#connecting,
      waiting: this.#waiting.length,
      max: this.#max,
    }
  }

  /** Statements' worth of work at this node: what is held and what waits. */
  get load(): number {
    return this.#busy.size + this.#waiting.length
  }

  /** Whether there is a connection that could serve without a new one being opened. */
  get hasSessions(): boolean {
    return this.#idle.length + this.#busy.size > 0
  }

  get lastConnectError(): unknown {
    return this.#lastConnectError
  }

  /** Opens `initial` connections in the background. */
  start(): void {
    if (this.#state !== 'new') return
    this.#state = 'open'
    for (let n = Math.max(this.#config.initial, this.#config.min); n > 0; n--) this.#connect()
  }

  /** Settles when `initial` connections stand, or rejects with the fault of the first that cannot. */
  async ready(deadline: number): Promise<void> {
    while (this.#idle.length + this.#busy.size < Math.min(this.#config.initial, this.#max)) {
      const before = this.#lastConnectError
      const left = deadline - this.#ports.clock.now()
      if (left <= 0) throw this.#timeout(this.#config.acquireTimeoutMs)
      if (this.#connecting === 0 && this.#retryTimer === null) this.#connect()
      await new Promise<void>((resolve) => {
        this.#whenConnectSettled.push(resolve)
        this.#ports.clock.setTimeout(resolve, left)
      })
      if (this.#lastConnectError !== undefined && this.#lastConnectError !== before) throw this.#lastConnectError
    }
  }

  /** An idle connection that needs no question asked, or null: the fast path, without a promise. */
  take(): PooledSession | null {
    if (this.#waiting.length > 0 || this.#state !== 'open') return null
    const now = this.#ports.clock.now()
    const pooled = this.#idle.at(-1)
    if (pooled === undefined || now - pooled.idleSince > this.#config.validateAfterIdleMs || now >= pooled.lifetimeEnd) {
      return null
    }
    this.#idle.pop()
    this.#hold(pooled, now)
    this.#cells.acquires.ok++
    this.#cells.acquireDuration.observe(0)
    return pooled
  }

  /**
   * A connection of the caller's own until `release`.
   * Rejects with AcquireTimeoutError, QueueFullError, the signal's reason, or what makes connecting pointless.
   */
  acquire(options: AcquireOptions = {}): Promise<PooledSession> {
    const now = this.#ports.clock.now()
    const { signal } = options
    const refusal = this.#refusal(signal)
    if (refusal !== null) {
      this.#cells.acquires[signal?.aborted ? 'aborted' : 'rejected']++
      return Promise.reject(refusal as Error)
    }
    const stack = this.#config.leakDetectionMs > 0 ? new Error('acquired').stack : undefined
    return new Promise((resolve, reject) => {
      const settled = (): void => signal?.removeEventListener('abort', onAbort)
      const ticket = this.#waiting.join({
        since: now,
        deadline: options.deadline ?? now + this.#config.acquireTimeoutMs,
        resolve: (pooled) => {
          settled()
          pooled.stack = stack
          this.#cells.acquires.ok++
          this.#cells.acquireDuration.observe(Math.round((this.#ports.clock.now() - now) * 1000))
          resolve(pooled)
        },
        reject: (error) => {
          settled()
          this.#cells.acquires[error instanceof AcquireTimeoutError ? 'timeout' : 'rejected']++
          reject(error as Error)
        },
      })
      const onAbort = (): void => {
        if (!this.#waiting.leave(ticket)) return
        this.#cells.acquires.aborted++
        reject(signal!.reason as Error)
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#serve()
      if (!ticket.left) this.#cells.waitedAcquires++
      this.#watchDeadlines()
      this.#grow()
    })
  }

  /** Gives a connection back. `because` says why it must not be used again; without it, it is cleaned if need be. */
  release(pooled: PooledSession, because?: CloseReason): void {
    if (!this.#busy.has(pooled)) return
    const now = this.#ports.clock.now()
    this.#observeUse(pooled, now)
    pooled.settles()
    pooled.stack = undefined
    const { session } = pooled
    if (because !== undefined || session.lost !== null) this.#remove(pooled, because ?? 'error')
    else if (session.status !== 'idle' || session.unanswered > 0 || pooled.dirty) void this.#clean(pooled)
    else this.#offer(pooled, now)
  }

  /** Every idle connection is asked whether it lives before it is used: one socket of this host went silent. */
  suspect(): void {
    for (const pooled of this.#idle) pooled.idleSince = Number.NEGATIVE_INFINITY
  }

  /** No connection opened until now is handed out again. */
  retireAll(): void {
    this.#generation++
    for (const pooled of this.#idle.splice(0)) this.#close(pooled, 'failover')
  }

  /** Rejects who waits, lets who holds finish until `deadlineMs`, closes everything. Always settles. */
  async close(deadlineMs: number): Promise<void> {
    if (this.#state === 'closed') return
    this.#state = 'draining'
    const closed = new SmartPgError('SMARTPG_CLOSED', `The pool of node '${this.#node.name}' was closed.`, {
      node: this.#node.name,
      phase: 'acquire',
    })
    this.#closing.abort(closed)
    for (const timer of [this.#retryTimer, this.#waitTimer]) if (timer !== null) this.#ports.clock.clearTimeout(timer)
    for (let waiter = this.#waiting.next(); waiter !== null; waiter = this.#waiting.next()) waiter.reject(closed)
    const goodbyes = this.#idle.splice(0).map((pooled) => this.#close(pooled, 'drain'))
    if (this.#busy.size + this.#connecting > 0) {
      const empty = new Promise<void>((resolve) => (this.#whenEmpty = resolve))
      await within(this.#ports.clock, deadlineMs, empty, () => closed).catch(() => undefined)
    }
    for (const pooled of this.#busy) pooled.session.destroy(closed)
    this.#busy.clear()
    if (this.#tickTimer !== null) this.#ports.clock.clearTimeout(this.#tickTimer)
    await Promise.all(goodbyes)
    await Promise.all(this.#goodbyes)
    this.#state = 'closed'
  }

  readonly #goodbyes = new Set<Promise<void>>()
  readonly #whenConnectSettled: (() => void)[] = []

  get #max(): number {
    return Math.min(this.#config.max, this.#slots)
  }

  #refusal(signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason
    if (this.#state !== 'open') {
      return new SmartPgError('SMARTPG_CLOSED', `The pool of node '${this.#node.name}' is not open.`, {
        node: this.#node.name,
        phase: 'acquire',
      })
    }
    if (this.#waiting.length >= this.#config.maxWaiting && this.#idle.length === 0) {
      return new QueueFullError(this.#node.name, this.counts())
    }
    return null
  }

  #hold(pooled: PooledSession, now: number): void {
    pooled.heldSince = now
    pooled.leakReported = false
    this.#busy.add(pooled)
    this.#tick()
  }

  /** Gives idle connections to those who wait; those that need a question asked are asked first. */
  #serve(): void {
    const now = this.#ports.clock.now()
    while (this.#waiting.length > 0 && this.#idle.length > 0) {
      const pooled = this.#idle.pop()!
      if (now >= pooled.lifetimeEnd) void this.#close(pooled, 'lifetime')
      else if (now - pooled.idleSince > this.#config.validateAfterIdleMs) void this.#validate(pooled)
      else this.#hand(pooled, now)
    }
  }

  #hand(pooled: PooledSession, now: number): void {
    const waiter = this.#waiting.next()
    if (waiter === null) {
      this.#rest(pooled, now)
    } else {
      this.#hold(pooled, now)
      waiter.resolve(pooled)
    }
  }

  /** A clean connection came free. */
  #offer(pooled: PooledSession, now: number): void {
    this.#busy.delete(pooled)
    if (this.#state !== 'open') void this.#close(pooled, 'drain')
    else if (now >= pooled.lifetimeEnd) void this.#close(pooled, 'lifetime')
    else if (pooled.generation !== this.#generation) void this.#close(pooled, 'failover')
    else this.#hand(pooled, now)
  }

  #rest(pooled: PooledSession, now: number): void {
    pooled.idleSince = now
    pooled.heldSince = 0
    this.#idle.push(pooled)
  }

  /** Asks an idle connection whether it lives; a waiter gets it, or whichever comes free before. */
  async #validate(pooled: PooledSession): Promise<void> {
    this.#busy.add(pooled)
    try {
      await this.#ping(pooled)
      if (this.#busy.has(pooled)) this.#offer(pooled, this.#ports.clock.now())
    } catch {
      this.#remove(pooled, 'error')
    }
  }

  #ping(pooled: PooledSession): Promise<unknown> {
    const silent = (): Error => new Error(`no answer to a ping within ${PING_MS} ms`)
    return within(this.#ports.clock, PING_MS, pooled.session.send(PING), silent)
  }

  /** Makes a session that a lease left open or marked as new as it was, or closes it. */
  async #clean(pooled: PooledSession): Promise<void> {
    const { session } = pooled
    const tooLong = (): Error => new Error(`not clean within ${CLEANING_MS} ms`)
    try {
      // Still running: it was sent by a lease that is gone, so nobody waits for its answer.
      const settled = session.unanswered > 0 ? session.send(PING) : undefined
      if (settled !== undefined) await within(this.#ports.clock, CLEANING_MS, settled.catch(() => undefined), tooLong)
      if (session.status !== 'idle') await within(this.#ports.clock, CLEANING_MS, session.send(ROLLBACK), tooLong)
      if (pooled.dirty) {
        if (this.#ports.restore === null) {
          this.#busy.delete(pooled)
          void this.#close(pooled, 'error')
          return
        }
        await within(this.#ports.clock, CLEANING_MS, session.send(RESET), tooLong)
        session.forgetStatements()
        await within(this.#ports.clock, CLEANING_MS, this.#ports.restore(session), tooLong)
        pooled.dirty = false
      }
      if (session.status !== 'idle') throw new Error('still in a transaction after ROLLBACK')
      if (this.#busy.has(pooled)) this.#offer(pooled, this.#ports.clock.now())
    } catch (error) {
      this.#ports.listeners.emit('error', { node: this.#node.name, during: 'reset of a connection', error })
      this.#remove(pooled, 'error')
    }
  }

  /** Out of the pool and off the server, at once. */
  #remove(pooled: PooledSession, reason: CloseReason): void {
    this.#forget(pooled)
    this.#cells.connectionsClosed[reason]++
    pooled.session.destroy(new Error(`connection closed: ${reason}`))
    this.#left()
  }

  /** Out of the pool with a goodbye to the server. */
  #close(pooled: PooledSession, reason: CloseReason): Promise<void> {
    this.#forget(pooled)
    this.#cells.connectionsClosed[reason]++
    const goodbye = pooled.session.close(CLOSE_GRACE_MS)
    this.#goodbyes.add(goodbye)
    void goodbye.finally(() => this.#goodbyes.delete(goodbye))
    this.#left()
    return goodbye
  }

  #forget(pooled: PooledSession): void {
    this.#busy.delete(pooled)
    const at = this.#idle.indexOf(pooled)
    if (at >= 0) this.#idle.splice(at, 1)
  }

  #left(): void {
    if (this.#state === 'draining' && this.#busy.size + this.#connecting === 0) this.#whenEmpty?.()
    else if (this.#state === 'open') this.#grow()
  }

  #grow(withMinIdle = false): void {
    if (this.#state !== 'open' || this.#retryTimer !== null) return
    const bounds = { min: this.#config.min, max: this.#max, minIdle: withMinIdle ? this.#config.minIdle : 0 }
    const plan = planPool(this.#planState(), bounds)
    if (plan.do === 'open') for (let n = plan.count; n > 0; n--) this.#connect()
  }

  #planState(): PoolState {
    const { total, idle, connecting, waiting } = this.counts()
    const head = this.#waiting.headSince()
    const headWaitMs = head === null ? 0 : this.#ports.clock.now() - head
    return { total, idle, connecting, waiting, useMs: this.#useMs, connectMs: this.#connectMs, headWaitMs }
  }

  #connect(): void {
    const now = this.#ports.clock.now()
    const permit = this.#node.admitConnect(now)
    if (permit === null) {
      this.#connectFailed(this.#node.circuitOpen())
      return
    }
    this.#connecting++
    void this.#openOne(now).then(
      (pooled) => {
        this.#connecting--
        this.#node.settleConnect(permit, 'success')
        this.#opened(pooled, now)
      },
      (error: unknown) => {
        this.#connecting--
        this.#node.settleConnect(permit, this.#node.faultOf(error, 'connect').breaker, error)
        this.#connectFailed(error)
      },
    )
  }

  async #openOne(now: number): Promise<PooledSession> {
    const { chance, open, prepare } = this.#ports
    const session = await open({ timeoutMs: this.#config.connectTimeoutMs, signal: this.#closing.signal })
    const end = lifetimeEnd(now, this.#config.maxLifetimeMs, chance())
    const pooled = new PooledSession(session, this.#node, now, end, this.#generation)
    try {
      const slow = (): Error => new Error(`hooks of a new connection took longer than ${this.#config.connectTimeoutMs} ms`)
      await within(this.#ports.clock, this.#config.connectTimeoutMs, prepare(session), slow)
    } catch (error) {
      session.destroy(error as Error)
      throw error
    }
    return pooled
  }

  #opened(pooled: PooledSession, startedAt: number): void {
    const now = this.#ports.clock.now()
    this.#connectedOnce = true
    this.#connectFailures = 0
    this.#lastConnectError = undefined
    this.#cells.connectionsOpened++
    this.#cells.connectDuration.observe(Math.round((now - startedAt) * 1000))
    this.#connectMs = smooth(this.#connectMs, now - startedAt)
    pooled.session.onLost((reason) => this.#lost(pooled, reason))
    if (pooled.session.lost === null) this.#offer(pooled, now)
    this.#tick()
    this.#connectSettled()
    this.#grow()
  }

  #lost(pooled: PooledSession, reason: Error): void {
    const wasIdle = this.#idle.includes(pooled)
    // Who holds it finds out by its own statement and gives it back.
    if (!wasIdle) return
    this.#forget(pooled)
    this.#cells.connectionsClosed.error++
    this.#ports.listeners.emit('error', { node: this.#node.name, during: 'idle connection', error: reason })
    this.#left()
  }

  #connectFailed(error: unknown): void {
    this.#lastConnectError = error
    this.#connectFailures++
    this.#connectSettled()
    if (this.#state !== 'open') {
      this.#left()
      return
    }
    const fault = this.#node.faultOf(error, 'connect')
    this.#cells.connectErrors[fault.category]++
    if (fault.class === 'too-many-connections') this.#learnSlots()
    const pointless =
      // Reads that wait for a replica can be answered elsewhere.
      this.#node.role === 'replica' ||
      fault.class === 'authentication' ||
      isSmartPgError(error, 'SMARTPG_CONFIG') ||
      (error instanceof CircuitOpenError && !this.#connectedOnce)
    if (pointless && this.#idle.length + this.#busy.size === 0) this.#rejectAll(error)
    if (this.#waiting.length === 0 && this.#connectFailures > 3) return
    if (this.#retryTimer === null) {
      const { clock, chance } = this.#ports
      this.#retryTimer = clock.setTimeout(
        () => {
          this.#retryTimer = null
          this.#grow()
        },
        connectBackoff(this.#connectFailures, chance()),
      )
    }
  }

  #connectSettled(): void {
    for (const wake of this.#whenConnectSettled.splice(0)) wake()
  }

  /** The server has no slot left: live with what there is, and ask again later. */
  #learnSlots(): void {
    this.#slots = Math.max(1, this.#idle.length + this.#busy.size)
    this.#slotsUntil = this.#ports.clock.now() + SLOTS_RETRY_MS
  }

  #rejectAll(error: unknown): void {
    for (let waiter = this.#waiting.next(); waiter !== null; waiter = this.#waiting.next()) waiter.reject(error)
  }

  #watchDeadlines(): void {
    if (this.#waitTimer !== null || this.#waiting.length === 0) return
    const { clock } = this.#ports
    const ms = Math.max(1, this.#waiting.earliestDeadline() - clock.now())
    this.#waitTimer = clock.setTimeout(() => {
      // One more turn: after a blocked event loop the connection may be here already, unread.
      this.#waitTimer = clock.setTimeout(() => {
        this.#waitTimer = null
        this.#expireWaiters()
        this.#watchDeadlines()
      }, 1)
    }, ms)
  }

  #expireWaiters(): void {
    const now = this.#ports.clock.now()
    const expired = this.#waiting.expired(now)
    if (expired.length === 0) return
    const counts = this.counts()
    const holders = this.#holders(now)
    for (const waiter of expired) {
      waiter.reject(
        new AcquireTimeoutError(this.#node.name, now - waiter.since, counts, holders, this.#lastConnectError),
      )
    }
  }

  #timeout(waitedMs: number): AcquireTimeoutError {
    const holders = this.#holders(this.#ports.clock.now())
    return new AcquireTimeoutError(this.#node.name, waitedMs, this.counts(), holders, this.#lastConnectError)
  }

  #holders(now: number): AcquireTimeoutError['holders'] {
    return [...this.#busy]
      .filter((pooled) => pooled.heldSince > 0)
      .toSorted((a, b) => a.heldSince - b.heldSince)
      .slice(0, 3)
      .map((pooled) => ({ heldMs: now - pooled.heldSince, summary: pooled.doing }))
  }

  #observeUse(pooled: PooledSession, now: number): void {
    const ms = now - pooled.heldSince
    this.#cells.useDuration.observe(Math.round(ms * 1000))
    this.#useMs = smooth(this.#useMs, ms)
  }

  /** The pool's housekeeping; runs only while there is something to keep. */
  #tick(): void {
    if (this.#tickTimer !== null || this.#state === 'closed') return
    this.#tickTimer = this.#ports.clock.setTimeout(() => {
      this.#tickTimer = null
      this.#keepHouse()
      if (this.counts().total > 0 || this.#waiting.length > 0) this.#tick()
    }, this.#tickMs)
  }

  get #tickMs(): number {
    const { queryTimeoutMs } = this.#ports
    const shares = [queryTimeoutMs, this.#config.leakDetectionMs, this.#config.idleTimeoutMs, this.#config.keepaliveMs]
    const finest = Math.min(...shares.filter((ms) => ms > 0).map((ms) => ms / 10))
    return Math.min(500, Math.max(10, finest))
  }

  #keepHouse(): void {
    const now = this.#ports.clock.now()
    for (const pooled of this.#busy) {
      this.#watchStatement(pooled, now)
      this.#watchLease(pooled, now)
    }
    if (this.#state !== 'open') return
    if (this.#slots !== Infinity && now >= this.#slotsUntil) {
      this.#slots++
      this.#slotsUntil = now + SLOTS_RETRY_MS
    }
    this.#retireIdle(now)
    this.#keepAlive(now)
    this.#grow(true)
  }

  /**
   * queryTimeout: cancel, then destroy. An overdue statement is only acted upon at the tick after the one
   * that saw it, so that an answer that waits in the socket of a blocked process is read first.
   */
  #watchStatement(pooled: PooledSession, now: number): void {
    const limit = this.#ports.queryTimeoutMs
    if (limit === 0 || pooled.sentAt === 0 || now - pooled.sentAt < limit) return
    if (pooled.overdue === 'no') {
      pooled.overdue = 'seen'
    } else if (pooled.overdue === 'seen') {
      pooled.overdue = 'cancelled'
      pooled.overdueSince = now
      pooled.session.cancel(CANCEL_GRACE_MS).catch(() => undefined)
    } else if (now - pooled.overdueSince > CANCEL_GRACE_MS) {
      this.suspect()
      pooled.session.destroy(new Error(`no answer within queryTimeout (${limit} ms), nor to a cancel request`))
    }
  }

  #watchLease(pooled: PooledSession, now: number): void {
    const limit = this.#config.leakDetectionMs
    if (limit === 0 || pooled.leakReported || pooled.heldSince === 0 || now - pooled.heldSince < limit) return
    pooled.leakReported = true
    this.#cells.leaksDetected++
    this.#ports.listeners.emit('leak', {
      node: this.#node.name,
      heldMs: now - pooled.heldSince,
      summary: pooled.doing,
      stack: pooled.stack ?? '',
    })
  }

  #retireIdle(now: number): void {
    for (const pooled of this.#idle.filter((one) => now >= one.lifetimeEnd)) void this.#close(pooled, 'lifetime')
    if (this.#config.idleTimeoutMs === 0) return
    const bounds = { min: this.#config.min, max: this.#max, minIdle: this.#config.minIdle }
    const idleFor = this.#idle.map((pooled) => now - pooled.idleSince)
    const surplus = planShrink(this.#planState(), bounds, idleFor, this.#config.idleTimeoutMs)
    for (const pooled of this.#idle.slice(0, surplus)) void this.#close(pooled, 'idle')
  }

  #keepAlive(now: number): void {
    const { keepaliveMs } = this.#config
    if (keepaliveMs === 0 || this.#waiting.length > 0) return
    for (const pooled of this.#idle.filter((one) => now - Math.max(one.idleSince, one.pingedAt) >= keepaliveMs)) {
      pooled.pingedAt = now
      this.#idle.splice(this.#idle.indexOf(pooled), 1)
      this.#busy.add(pooled)
      const { idleSince } = pooled
      void this.#ping(pooled).then(
        () => {
          if (!this.#busy.delete(pooled)) return
          if (this.#waiting.length > 0 || this.#state !== 'open') this.#offer(pooled, this.#ports.clock.now())
          // A ping is no use: the connection keeps its age, so that idleTimeout still finds it.
          else this.#idle.unshift(Object.assign(pooled, { idleSince, heldSince: 0 }))
        },
        () => this.#remove(pooled, 'error'),
      )
    }
  }
}

const PING = { sql: 'select 1', parameters: [], facts: READ_FACTS }
const ROLLBACK = { sql: 'rollback', parameters: [], facts: RESET_FACTS }
const RESET = { sql: 'discard all', parameters: [], facts: RESET_FACTS }

/** Exponentially weighted mean over about ten samples. */
function smooth(mean: number, sample: number): number {
  return mean === 0 ? sample : mean + (sample - mean) / 10
}
