// The connections to one node. Callers wait first come first served and are served by *any* connection that
// comes free (HikariCP's prime directive), never by the one that was opened for them; idle ones are taken
// last in first out, so that surplus ones age and can be closed. Nothing dirty, dead, expired or unasked for
// too long is handed out.

import type { NodePoolConfig } from '../config/options.ts'
import type { CloseReason, NodeCells } from '../core/cells.ts'
import { AcquireTimeoutError, QueueFullError, SmartPgError } from '../core/errors.ts'
import type { PoolCounts } from '../core/errors.ts'
import type { PoolBounds, PoolState } from '../core/pool-plan.ts'
import type { Clock, Facts, OpenSession, Session } from '../core/types.ts'
import { within } from './clock.ts'
import { Caller } from './caller.ts'
import { Connector } from './connector.ts'
import type { ConnectorPorts, Host } from './connector.ts'
import { Growth } from './growth.ts'
import { silent, surplus } from './housekeeping.ts'
import { clean, needsCleaning, ping } from './hygiene.ts'
import { Lanes } from './lanes.ts'
import type { LaneHost } from './lanes.ts'
import type { Listeners } from './listeners.ts'
import { setLockTimeout } from './lock-timeout.ts'
import type { LanePassage, SharedLane } from './passage.ts'
import type { PooledSession } from './pooled-session.ts'
import type { Ticket, Waiter } from './wait-queue.ts'
import { WaitingRoom } from './waiting-room.ts'
import { Watch } from './watch.ts'
import type { Watched } from './watch.ts'

export interface PoolPorts extends ConnectorPorts {
  readonly listeners: Listeners
  /** Sets a session up again after a reset; null: a marked connection is closed instead of being reset. */
  readonly restore: ((session: Session) => Promise<void>) | null
  readonly queryTimeoutMs: number
  /** Connections take statements before they have answered others. */
  readonly pipelines: boolean
  /** A connection that is no part of the pool. */
  readonly openBeside: OpenSession
}

/** A connection of one's own, or a place on one that others use. */
type Wants = 'connection' | 'place'

export interface AcquireOptions {
  /** Longest wait. Default: `pool.acquireTimeout`. */
  readonly timeoutMs?: number
  /** Leaves the queue when aborted. */
  readonly signal?: AbortSignal | undefined
}

/** After the goodbye the server closes the socket at once or not at all. */
const CLOSE_GRACE_MS = 2_000
/** Who the error of an acquire that was in vain names. */
const HOLDERS_NAMED = 3

export class Pool implements LaneHost, Watched {
  readonly #config: NodePoolConfig
  readonly #ports: PoolPorts
  readonly #node: Host
  readonly #cells: NodeCells
  readonly #connector: Connector
  readonly #growth: Growth
  readonly #watch: Watch
  readonly #idle: PooledSession[] = []
  /** Held by a lease, being asked whether it lives, or being cleaned. */
  readonly #busy = new Set<PooledSession>()
  /** Those who wait for a connection of their own. */
  readonly #waiting: WaitingRoom<PooledSession>
  readonly lanes: Lanes
  readonly #goodbyes = new Set<Promise<void>>()
  readonly #freedListeners = new Set<(pooled: PooledSession) => void>()
  #state: 'new' | 'open' | 'draining' | 'closed' = 'new'
  #generation = 0
  /** Until they have stood once, `initial` connections are asked for. */
  #wanted = 0
  /** Idle connections that are being asked whether they live, for somebody who waits. */
  #validating = 0
  /** Mean time a lease holds a connection, milliseconds. */
  #useMs = 0
  #drained: Promise<void> | null = null
  #whenEmpty: (() => void) | null = null

  constructor(node: Host, config: NodePoolConfig, ports: PoolPorts) {
    this.#node = node
    this.#config = config
    this.#ports = ports
    this.#cells = node.cells
    this.#waiting = new WaitingRoom(ports.clock, (late, now, waited) => this.tellLate(late, now, waited))
    this.lanes = new Lanes(this)
    this.#connector = new Connector(node, config, ports, {
      opened: (pooled) => this.#opened(pooled),
      failed: (error, startedAt, pointless) => this.#connectFailed(error, startedAt, pointless),
      rested: () => this.#growth.grow(this.#connector.worthTryingUnasked),
      standing: () => this.#standing,
    })
    this.#watch = new Watch(this, ports.queryTimeoutMs, ports.openBeside)
    this.#growth = new Growth(ports.clock, this.#connector, {
      open: (count) => this.#open(count),
      mayOpen: () => this.#state === 'open',
      state: () => this.#planState(),
      bounds: () => this.#bounds,
      // Where somebody waits for a place although connections are idle, they are kept from him.
      keepsIdle: () => this.lanes.waiting > 0 && this.#waiting.length === 0,
    })
  }

  get config(): NodePoolConfig {
    return this.#config
  }

  counts(): PoolCounts {
    const { connecting, max } = this.#connector
    return {
      total: this.#standing + connecting,
      active: this.#busy.size + this.lanes.lanes.size,
      idle: this.#idle.length,
      connecting,
      waiting: this.#waiting.length + this.lanes.waiting,
      max,
    }
  }

  /** Work at this node: what is held and what waits. */
  get load(): number {
    return this.#busy.size + this.#waiting.length + this.lanes.riding + this.lanes.waiting
  }

  /** Statements sent and not yet answered. */
  get running(): number {
    let running = this.lanes.riding
    for (const { session } of this.#busy) running += session.unanswered
    return running
  }

  /** Backing off after a failed connect: who asks now waits at least for the end of that. */
  get resting(): boolean {
    return this.#connector.resting
  }

  /** Whether there is a connection that could serve without a new one being opened. */
  get hasSessions(): boolean {
    return this.#standing > 0
  }

  /** Whether callers share connections here. */
  get sharing(): boolean {
    return this.#config.lanes && this.#ports.pipelines
  }

  /** Opens `initial` connections in the background. */
  start(): void {
    if (this.#state !== 'new') return
    this.#state = 'open'
    this.#wanted = this.#config.initial
    this.#growth.grow(true)
  }

  /** Settles when `initial` connections stand; rejects with the fault of the next that fails, or at `deadline`. */
  async ready(deadline: number): Promise<void> {
    const { clock } = this.#ports
    const ms = deadline - clock.now()
    const wait = { over: false }
    const late = (): Error => {
      wait.over = true
      return this.#acquireTimeout(ms)
    }
    const stand = async (): Promise<void> => {
      while (!wait.over && this.#standing < Math.min(this.#config.initial, this.#connector.max)) {
        if (this.#connector.connecting === 0 && !this.#connector.resting) this.#open(1)
        const tries = this.#connector.connecting > 0
        await this.#connector.settled(ms)
        if (tries && this.#connector.lastError !== undefined) throw this.#connector.lastError
      }
    }
    await within(clock, ms, stand(), late)
  }

  /** An idle connection of the caller's own that needs no question asked, or null: the fast path, without a promise. */
  take(): PooledSession | null {
    if (this.#waiting.length > 0 || this.#state !== 'open') return null
    const now = this.#ports.clock.now()
    const pooled = this.takeIdle(now)
    if (pooled === null) return null
    // Only a connection that somebody holds keeps the process alive: a script that is done may end.
    pooled.session.ref()
    this.#hold(pooled, now)
    if (this.#config.leakDetectionMs > 0) pooled.stack = new Error('acquired').stack
    this.#cells.acquires.ok++
    this.#cells.acquireDuration.observe(0)
    return pooled
  }

  /** A place on a connection that others use as well, or null: the fast path, without a promise. */
  lane(facts: Facts): LanePassage | null {
    if (this.#state !== 'open') return null
    const passage = this.lanes.ride(facts)
    if (passage !== null) this.#watch.wake()
    return passage
  }

  /** The same for those who have to wait. Rejects as `acquire` does. */
  waitForLane(facts: Facts, options: AcquireOptions = {}): Promise<LanePassage> {
    const { signal, timeoutMs = this.#config.acquireTimeoutMs } = options
    const refused = this.#refused<LanePassage>(signal, 'place')
    if (refused !== null) return refused
    const served = this.lanes.wait(facts, timeoutMs, signal)
    this.#serve()
    this.#growth.grow()
    this.#watch.wake()
    return served
  }

  /**
   * A connection of the caller's own until `release`.
   * Rejects with AcquireTimeoutError, QueueFullError, the signal's reason, or what makes connecting pointless.
   */
  acquire(options: AcquireOptions = {}): Promise<PooledSession> {
    const { signal, timeoutMs = this.#config.acquireTimeoutMs } = options
    const refused = this.#refused<PooledSession>(signal, 'connection')
    if (refused !== null) return refused
    const now = this.#ports.clock.now()
    const stack = this.#config.leakDetectionMs > 0 ? new Error('acquired').stack : undefined
    const caller = new Caller<PooledSession>(this.#cells, now, now + timeoutMs)
    const ticket = this.#waiting.join(caller)
    if (signal !== undefined) caller.watch(signal, () => this.#leave(ticket))
    this.#serve()
    if (!ticket.left) {
      this.#cells.waitedAcquires++
      this.#reserve()
    }
    this.#growth.grow()
    if (stack === undefined) return caller.served
    return caller.served.then((pooled) => {
      pooled.stack = stack
      return pooled
    })
  }

  /** Gives a connection back. `because` says why it must not be used again; without it, it is cleaned if need be. */
  release(pooled: PooledSession, because?: CloseReason): void {
    if (!this.#busy.has(pooled)) return
    const now = this.#ports.clock.now()
    const heldMs = now - pooled.heldSince
    this.#cells.useDuration.observe(Math.round(heldMs * 1000))
    this.#useMs = this.#useMs === 0 ? heldMs : this.#useMs + (heldMs - this.#useMs) / 10
    pooled.returned()
    if (because !== undefined || pooled.session.lost !== null) this.#remove(pooled, because ?? 'error')
    else if (needsCleaning(pooled)) void this.#clean(pooled)
    else this.#offer(pooled, now)
  }

  /** One connect that nobody waits for, if the circuit has one to spare: is the server back? */
  probe(): void {
    if (this.#state === 'open') this.#connector.probe(this.#generation)
  }

  /** Rejects who waits: the server does not answer. */
  turnAway(because: string): void {
    const message = `Node '${this.#node.name}' does not answer: ${because}.`
    const error = new SmartPgError('SMARTPG_CONNECT_FAILED', message, { node: this.#node.name, phase: 'acquire' })
    this.#waiting.rejectAll(error)
    this.lanes.queue.rejectAll(error)
  }

  /**
   * What it was sent and has not answered nobody shall wait for any longer; with `all`, nobody shall send anything more on
   * what is held either.
   */
  abandon(because: string, which: 'unanswered' | 'all' = 'unanswered'): void {
    const { name } = this.#node
    const message = `Node '${name}' is given up: ${because}.`
    const reason = new SmartPgError('SMARTPG_CONNECTION_LOST', message, { node: name, phase: 'execute' })
    const shared = [...this.lanes.lanes].map(({ pooled }) => pooled)
    for (const { session } of [...this.#busy, ...shared]) {
      if (which === 'all' || session.unanswered > 0) session.destroy(reason)
    }
  }

  /**
   * Connections that stood before `at` and are alive as far as anybody knows: those on which a question disturbs nobody,
   * the idle ones first, and how many are held by callers of their own.
   */
  stoodBefore(at: number): { readonly free: readonly Session[]; readonly held: number } {
    const stood = ({ openedAt, session }: PooledSession): boolean => openedAt < at && session.lost === null
    const shared = [...this.lanes.lanes].map(({ pooled }) => pooled)
    return {
      free: [...this.#idle.toReversed(), ...shared].filter(stood).map(({ session }) => session),
      held: [...this.#busy].filter(stood).length,
    }
  }

  /** Calls `listener` with each connection that comes free, before anybody gets it, until what is returned is called. */
  onFreed(listener: (pooled: PooledSession) => void): () => void {
    this.#freedListeners.add(listener)
    return () => this.#freedListeners.delete(listener)
  }

  /** Every idle connection is asked now whether it lives, and used by nobody before: one socket of this host went silent. */
  suspect(): void {
    if (this.#state !== 'open') return
    // Together, because those who come next would otherwise meet the silent ones one after the other.
    for (const pooled of this.#idle.splice(0)) void this.#validate(pooled)
  }

  /** No connection opened until now is handed out again. */
  retireAll(): void {
    this.#generation++
    for (const pooled of [...this.#idle]) void this.#close(pooled, 'failover')
  }

  /** Rejects who waits, lets who holds finish for `deadlineMs`, closes everything. Always settles. */
  close(deadlineMs: number): Promise<void> {
    return (this.#drained ??= this.#drain(deadlineMs))
  }

  async #drain(deadlineMs: number): Promise<void> {
    this.#state = 'draining'
    const { clock } = this.#ports
    const closed = this.#closedError()
    this.#connector.stop(closed)
    this.#waiting.rejectAll(closed)
    this.lanes.queue.rejectAll(closed)
    for (const pooled of [...this.#idle]) void this.#close(pooled, 'drain')
    if (this.#inUse + this.#connector.connecting > 0) {
      const empty = new Promise<void>((resolve) => (this.#whenEmpty = resolve))
      await within(clock, deadlineMs, empty, () => closed).catch(() => undefined)
    }
    for (const pooled of [...this.#busy]) this.#remove(pooled, 'drain', closed)
    for (const { pooled } of [...this.lanes.lanes]) this.#remove(pooled, 'drain', closed)
    this.#growth.stop()
    this.#watch.stop()
    this.lanes.stop()
    await Promise.all(this.#goodbyes)
    this.#state = 'closed'
  }

  // What its lanes, and who watches it, ask of the pool.

  get node(): string {
    return this.#node.name
  }

  get cells(): NodeCells {
    return this.#cells
  }

  serverOf(session: Session): string | undefined {
    return this.#node.servers.get(session)
  }

  get clock(): Clock {
    return this.#ports.clock
  }

  get busy(): Iterable<PooledSession> {
    return this.#busy
  }

  get shared(): Iterable<SharedLane> {
    return this.lanes.lanes
  }

  get behindPooler(): boolean | undefined {
    return this.#node.behindPooler
  }

  get worthWatching(): boolean {
    return this.#state !== 'closed' && (this.counts().total > 0 || this.#waiting.length > 0)
  }

  get pipelineWrites(): boolean {
    return this.#config.pipelineWrites && this.#node.lockTimeout !== null
  }

  get idle(): number {
    return this.#idle.length
  }

  get pinned(): boolean {
    return this.#busy.size > 0 || this.#waiting.length > 0
  }

  takeIdle(now: number): PooledSession | null {
    const pooled = this.#idle.at(-1)
    if (pooled === undefined || this.#isDoubtful(pooled, now) || now >= pooled.lifetimeEnd) return null
    this.#idle.pop()
    return pooled
  }

  underLockTimeout(pooled: PooledSession, whose: 'own' | 'short'): void {
    if (this.pipelineWrites) setLockTimeout(pooled, whose, this.#node.lockTimeout!)
  }

  keeps({ lifetimeEnd, generation, session }: PooledSession, now: number): boolean {
    return now < lifetimeEnd && !session.drifted && generation === this.#generation && this.#state === 'open'
  }

  giveBack(pooled: PooledSession, now: number): void {
    if (pooled.session.lost !== null) this.#remove(pooled, 'error')
    else if (!pooled.session.drifted) this.#offer(pooled, now)
    else {
      this.#busy.add(pooled)
      void this.#clean(pooled)
    }
  }

  silent(): void {
    this.suspect()
  }

  grow(): void {
    this.#growth.grow()
  }

  get #inUse(): number {
    return this.#busy.size + this.lanes.lanes.size
  }

  get #standing(): number {
    return this.#idle.length + this.#inUse
  }

  #refused<T>(signal: AbortSignal | undefined, wants: Wants): Promise<T> | null {
    const refusal = this.#refusal(signal, wants)
    if (refusal === null) return null
    this.#cells.acquires[signal?.aborted ? 'aborted' : 'rejected']++
    return Promise.reject(refusal)
  }

  #refusal(signal: AbortSignal | undefined, wants: Wants): unknown {
    if (signal?.aborted) return signal.reason
    if (this.#state !== 'open') return this.#closedError()
    if (this.#waiting.length + this.lanes.waiting < this.#config.maxWaiting) return null
    // An idle connection is for who wants one; for a place on it only if it has yet to be asked whether it lives.
    const idle = this.#idle.at(-1)
    if (idle !== undefined && (wants === 'connection' || this.#isDoubtful(idle, this.#ports.clock.now()))) return null
    return new QueueFullError(this.#node.name, this.counts())
  }

  #closedError(): SmartPgError {
    const { name } = this.#node
    return new SmartPgError('SMARTPG_CLOSED', `The pool of node '${name}' is closed.`, { node: name, phase: 'acquire' })
  }

  #leave(ticket: Ticket<PooledSession>): boolean {
    const waited = this.#waiting.leave(ticket)
    this.#reserve()
    return waited
  }

  #hold(pooled: PooledSession, now: number): void {
    pooled.heldSince = now
    this.underLockTimeout(pooled, 'own')
    this.#busy.add(pooled)
    this.#watch.wake()
  }

  /** Gives idle connections to those who wait; one that has been idle for long is asked first. */
  #serve(): void {
    if (this.#idle.length === 0) return
    const now = this.#ports.clock.now()
    while (this.#waiting.length + this.lanes.wanted > this.#validating && this.#idle.length > 0) {
      const pooled = this.#idle.pop()!
      if (now >= pooled.lifetimeEnd) void this.#close(pooled, 'lifetime')
      else if (this.#isDoubtful(pooled, now)) void this.#validate(pooled)
      else {
        pooled.session.ref()
        if (this.#hand(pooled, now)) continue
        pooled.session.unref()
        this.#idle.push(pooled)
        return
      }
    }
  }

  /** To whoever has waited longest, for a connection or for a place on one; whether anybody could use it. */
  #hand(pooled: PooledSession, now: number): boolean {
    const since = this.lanes.queue.since
    const reserved = this.lanes.wasReserved(pooled)
    const shared = !reserved && since !== null && since <= (this.#waiting.since ?? Infinity)
    if (shared && this.lanes.admit(pooled, now)) {
      this.#reserve()
      return true
    }
    const waiter = this.#waiting.next()
    if (waiter !== null) {
      this.#hold(pooled, now)
      waiter.resolve(pooled, now)
      this.#reserve()
      return true
    }
    return !shared && this.lanes.admit(pooled, now)
  }

  /** For everyone who waits for a connection of his own one lane is let run dry. */
  #reserve(): void {
    this.lanes.reserve(this.#waiting.length)
    // One that is kept no more may have room for those who wait for a place.
    this.lanes.serve()
  }

  /** A clean connection came free. */
  #offer(pooled: PooledSession, now: number): void {
    this.#busy.delete(pooled)
    if (this.#state !== 'open') void this.#close(pooled, 'drain')
    else if (now >= pooled.lifetimeEnd) void this.#close(pooled, 'lifetime')
    else if (pooled.generation !== this.#generation) void this.#close(pooled, 'failover')
    else {
      for (const listener of this.#freedListeners) listener(pooled)
      if (this.#hand(pooled, now)) return
      pooled.idleSince = now
      pooled.session.unref()
      this.#idle.push(pooled)
    }
  }

  /** Whoever waits longest gets it when it has answered, or whichever comes free before. */
  async #validate(pooled: PooledSession): Promise<void> {
    this.#busy.add(pooled)
    this.#validating++
    pooled.session.ref()
    const failure = await this.#ping(pooled).then(
      () => null,
      (error: unknown) => error as Error,
    )
    this.#validating--
    if (failure !== null) this.#remove(pooled, 'error', failure)
    else if (this.#busy.has(pooled)) this.#offer(pooled, this.#ports.clock.now())
    this.#serve()
  }

  /** Nothing is quicker to answer: what it takes is the way there and back. */
  async #ping(pooled: PooledSession): Promise<void> {
    const { clock } = this.#ports
    const sentAt = clock.now()
    await ping(clock, pooled.session)
    this.lanes.roundTrip.observe(clock.now() - sentAt, clock.now())
  }

  /** Whether it must be asked if it lives before anybody gets it. */
  #isDoubtful(pooled: PooledSession, now: number): boolean {
    return now - pooled.idleSince > this.#config.validateAfterIdleMs
  }

  async #clean(pooled: PooledSession): Promise<void> {
    const { clock, listeners, restore } = this.#ports
    try {
      const fit = await clean(clock, pooled, restore)
      if (!this.#busy.has(pooled)) return
      if (fit) this.#offer(pooled, clock.now())
      else void this.#close(pooled, 'error')
    } catch (error) {
      this.#remove(pooled, 'error', error as Error)
      listeners.emit('error', { node: this.#node.name, during: 'cleaning of a used connection', error })
    }
  }

  /** Out of the pool and off the server, at once. */
  #remove(pooled: PooledSession, reason: CloseReason, because?: Error): void {
    if (!this.#forget(pooled, reason)) return
    pooled.session.destroy(because ?? new Error(`connection closed: ${reason}`))
    this.#left()
  }

  /** Out of the pool, with a goodbye to the server. */
  #close(pooled: PooledSession, reason: CloseReason): Promise<void> {
    this.#forget(pooled, reason)
    const goodbye = pooled.session.close(CLOSE_GRACE_MS).finally(() => this.#goodbyes.delete(goodbye))
    this.#goodbyes.add(goodbye)
    this.#left()
    return goodbye
  }

  /** Whether it still stood here, or was on its way from one place to another. */
  #forget(pooled: PooledSession, reason: CloseReason): boolean {
    const at = this.#idle.indexOf(pooled)
    if (at >= 0) this.#idle.splice(at, 1)
    this.#busy.delete(pooled)
    if (pooled.closed) return false
    pooled.closed = true
    this.#cells.connectionsClosed[reason]++
    return true
  }

  #left(): void {
    if (this.#state === 'open') this.#growth.grow()
    else if (this.#inUse + this.#connector.connecting === 0) this.#whenEmpty?.()
  }

  #open(count: number): void {
    // A server that has just refused one would refuse them all.
    const most = this.#connector.failing ? 1 - this.#connector.connecting : count
    for (let n = most; n > 0 && !this.#connector.resting; n--) this.#connector.open(this.#generation)
  }

  get #bounds(): PoolBounds {
    const { min, minIdle } = this.#config
    // A lane that takes more is as good as an idle connection.
    const spare = this.lanes.open ? 0 : minIdle
    return { min: Math.max(min, this.#wanted), max: this.#connector.max, minIdle: spare }
  }

  #planState(): PoolState {
    const { connecting, connectMs } = this.#connector
    return {
      total: this.#standing + connecting - this.#deadInUse,
      idle: this.#idle.length,
      // A ping is shorter than a connect, and serves as well.
      connecting: connecting + this.#validating,
      waiting: this.#waiting.length + this.lanes.wanted,
      workMs: this.lanes.workMs + (this.#waiting.length === 0 ? 0 : this.#waiting.length * (this.#useMs || Infinity)),
      connectMs,
      headWaitMs: this.#headWaitMs,
    }
  }

  /** Lost, and still in somebody's hands: they serve nobody. */
  get #deadInUse(): number {
    let dead = 0
    for (const { session } of this.#busy) if (session.lost !== null) dead++
    return dead
  }

  get #headWaitMs(): number {
    return Math.max(this.#waiting.headWaitMs(), this.lanes.queue.headWaitMs())
  }

  #opened(pooled: PooledSession): void {
    pooled.session.onLost((reason) => this.#lost(pooled, reason))
    if (this.#standing + 1 >= Math.min(this.#wanted, this.#connector.max)) this.#wanted = 0
    this.#busy.add(pooled)
    this.#offer(pooled, this.#ports.clock.now())
    this.#watch.wake()
    this.#growth.grow(this.#wanted > 0)
  }

  #lost(pooled: PooledSession, reason: Error): void {
    if (!pooled.closed) this.#node.lostOne()
    if (this.lanes.lost(pooled)) {
      this.#remove(pooled, 'error', reason)
      return
    }
    // Who holds it finds out by its own statement and gives it back; who waits need not wait for that.
    if (!this.#idle.includes(pooled)) {
      this.#growth.grow()
      return
    }
    this.#remove(pooled, 'error', reason)
    this.#ports.listeners.emit('error', { node: this.#node.name, during: 'idle connection', error: reason })
  }

  #connectFailed(error: unknown, startedAt: number, pointless: boolean): void {
    if (this.#state !== 'open') {
      this.#left()
      return
    }
    this.#ports.listeners.emit('error', { node: this.#node.name, during: 'connect', error })
    // Who came after it began may be luckier: the address or the password may be another by now.
    if (!pointless || this.#standing > 0) return
    this.#waiting.rejectAll(error, startedAt)
    this.lanes.queue.rejectAll(error, startedAt)
  }

  tellLate(late: readonly Waiter<never>[], now: number, waited: number): void {
    const counts = { ...this.counts(), waiting: waited }
    const holders = this.#holders(now)
    const { lastError } = this.#connector
    for (const waiter of late) {
      waiter.reject(new AcquireTimeoutError(this.#node.name, now - waiter.since, counts, holders, lastError))
    }
    this.#reserve()
  }

  #acquireTimeout(waitedMs: number): AcquireTimeoutError {
    const { lastError } = this.#connector
    const holders = this.#holders(this.#ports.clock.now())
    return new AcquireTimeoutError(this.#node.name, waitedMs, this.counts(), holders, lastError)
  }

  #holders(now: number): AcquireTimeoutError['holders'] {
    return [...this.#busy]
      .filter(({ heldSince }) => heldSince > 0)
      .map(({ heldSince, doing }) => ({ heldMs: now - heldSince, summary: doing }))
      .concat(this.lanes.heads(now))
      .toSorted((a, b) => b.heldMs - a.heldMs)
      .slice(0, HOLDERS_NAMED)
  }

  /** A statement went out whose time may be over before the next look at those that are under way. */
  hurry(): void {
    this.#watch.hurry()
  }

  keepHouse(now: number): void {
    if (this.#state !== 'open') return
    // The rules look at how long ago something was.
    this.#reserve()
    this.#connector.keepHouse(now)
    for (const pooled of this.#idle.filter((one) => now >= one.lifetimeEnd)) void this.#close(pooled, 'lifetime')
    const { idleTimeoutMs, keepaliveMs } = this.#config
    for (const pooled of surplus(this.#idle, now, this.#planState(), this.#bounds, idleTimeoutMs)) {
      void this.#close(pooled, 'idle')
    }
    for (const pooled of silent(this.#idle, now, keepaliveMs)) void this.#keepAlive(pooled, now)
    this.#growth.grow(this.#connector.worthTryingUnasked)
  }

  leaks(pooled: PooledSession, now: number): void {
    this.#cells.leaksDetected++
    this.#ports.listeners.emit('leak', {
      node: this.#node.name,
      heldMs: now - pooled.heldSince,
      summary: pooled.doing,
      stack: pooled.stack ?? '',
    })
  }

  /** A ping is no use: the connection keeps its age and its place, so that idleTimeout still finds it. */
  async #keepAlive(pooled: PooledSession, now: number): Promise<void> {
    pooled.pingedAt = now
    this.#idle.splice(this.#idle.indexOf(pooled), 1)
    this.#busy.add(pooled)
    try {
      await this.#ping(pooled)
      if (!this.#busy.has(pooled)) return
      const stays = this.#waiting.length === 0 && this.#state === 'open' && pooled.generation === this.#generation
      if (!stays) {
        pooled.session.ref()
        this.#offer(pooled, this.#ports.clock.now())
      } else if (this.#busy.delete(pooled)) this.#idle.unshift(pooled)
    } catch (error) {
      this.#remove(pooled, 'error', error as Error)
    }
  }
}
