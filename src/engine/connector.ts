// Opens connections for a pool: asks the circuit first, runs the hooks, backs off after a failure, and learns
// from "too many connections" how many the server has for us. It knows nothing of who waits for them.

import type { NodePoolConfig } from '../config/options.ts'
import type { Outcome, Permit } from '../core/breaker.ts'
import type { NodeCells } from '../core/cells.ts'
import { CircuitOpenError, isSmartPgError } from '../core/errors.ts'
import { saidByServer } from '../core/fault.ts'
import type { Fault } from '../core/fault.ts'
import { connectBackoff, lifetimeEnd } from '../core/pool-plan.ts'
import type { Chance, Clock, OpenSession, Role, Session, Timer } from '../core/types.ts'
import { within } from './clock.ts'
import { PooledSession } from './pooled-session.ts'

/** The node, as far as its connections need to know it. */
export interface Host {
  readonly name: string
  readonly role: Role
  readonly cells: NodeCells
  /** The user's own lock_timeout, where connections may have another for a while; null where they may not. */
  readonly lockTimeout: string | null
  /** Whether something in between answers for the server; undefined while unknown. */
  readonly behindPooler: boolean | undefined
  /** Which server a connection is with, as far as that is known. */
  readonly servers: WeakMap<Session, string>
  /** A permit for one connect, or null when the circuit is open. */
  admitConnect(): Permit | null
  /** A permit for one connect to see whether the server is back; null most of the time, and while nothing is wrong. */
  admitProbe(): Permit | null
  settleConnect(permit: Permit, outcome: Outcome, cause?: unknown): void
  giveBackConnect(permit: Permit): void
  /** A connection was lost that nobody here has closed. */
  lostOne(): void
  circuitOpen(): CircuitOpenError
  faultOf(error: unknown, during: 'connect' | 'query'): Fault
}

export interface ConnectorPorts {
  readonly open: OpenSession
  readonly clock: Clock
  readonly chance: Chance
  /** Runs once on every new connection, before anybody uses it: hooks of the user. */
  readonly prepare: (session: Session) => Promise<void>
}

/** What the pool is told. */
export interface ConnectorEvents {
  opened(pooled: PooledSession): void
  /** `pointless`: the next try would fail as well, so whoever waits should be told. */
  failed(error: unknown, startedAt: number, pointless: boolean): void
  /** The backoff after a failure is over. */
  rested(): void
  /** How many connections stand, whether idle or busy. */
  standing(): number
}

/** A slot limit that the server has shown is tried again after this. */
const SLOTS_RETRY_MS = 30_000
/** The same when it is less than we have had before: others hold what was ours. Doubles as long as they do. */
const SLOTS_BACK_MS = 250
/** Without waiters a failing server is only asked again when somebody comes. */
const TRIES_UNASKED = 3

export class Connector {
  readonly #node: Host
  readonly #config: NodePoolConfig
  readonly #ports: ConnectorPorts
  readonly #events: ConnectorEvents
  readonly #stopped = new AbortController()
  #connecting = 0
  #failures = 0
  #succeededOnce = false
  #lastError: unknown = undefined
  #connectMs = 0
  #slots = Infinity
  #slotsUntil = 0
  #slotsBackMs = SLOTS_BACK_MS
  /** The limit that the server has shown; `#slots` may be one more, to see whether it still holds. */
  #slotsShown = Infinity
  /** Most connections that have stood at once. */
  #stood = 0
  #restTimer: Timer = null
  readonly #watchers: (() => void)[] = []

  constructor(node: Host, config: NodePoolConfig, ports: ConnectorPorts, events: ConnectorEvents) {
    this.#node = node
    this.#config = config
    this.#ports = ports
    this.#events = events
  }

  /** Connects under way. */
  get connecting(): number {
    return this.#connecting
  }

  /** The last connect failed. */
  get failing(): boolean {
    return this.#failures > 0
  }

  /** Backing off after a failure: opening more now would only repeat it. */
  get resting(): boolean {
    return this.#restTimer !== null
  }

  /** Most connections: the option, or what the server has shown to be its limit. */
  get max(): number {
    return Math.min(this.#config.max, this.#slots)
  }

  /** Mean time of a connect, milliseconds; 0 while unknown. */
  get connectMs(): number {
    return this.#connectMs
  }

  /** Why the last connect failed; undefined when it did not. */
  get lastError(): unknown {
    return this.#lastError
  }

  open(generation: number): void {
    const permit = this.#node.admitConnect()
    if (permit === null) {
      this.#failed(this.#node.circuitOpen(), this.#ports.clock.now())
      return
    }
    this.#openWith(permit, generation)
  }

  /** One connect that nobody waits for, if the circuit has one to spare: is the server back? */
  probe(generation: number): void {
    const permit = this.#node.admitProbe()
    if (permit !== null) this.#openWith(permit, generation)
  }

  #openWith(permit: Permit, generation: number): void {
    const startedAt = this.#ports.clock.now()
    this.#connecting++
    void this.#openOne(generation).then(
      (pooled) => {
        this.#connecting--
        this.#node.settleConnect(permit, 'success')
        this.#opened(pooled, startedAt)
      },
      (error: unknown) => {
        this.#connecting--
        const fault = this.#node.faultOf(error, 'connect')
        // What only we have said (no descriptors left, the pool is closed) says nothing about the server.
        if (fault.breaker === 'ignore' && !saidByServer(fault)) this.#node.giveBackConnect(permit)
        else this.#node.settleConnect(permit, fault.breaker, error)
        this.#failed(error, startedAt)
      },
    )
  }

  /** Settles when the next connect has ended, well or badly, or after `ms`. */
  async settled(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#ports.clock.setTimeout(resolve, ms, 'awaited')
      this.#watchers.push(() => {
        this.#ports.clock.clearTimeout(timer)
        resolve()
      })
    })
  }

  /** Tries one slot more than the server had, once in a while. */
  keepHouse(now: number): void {
    if (this.#slots === Infinity || now < this.#slotsUntil) return
    this.#slots = this.#slotsShown + 1
    this.#slotsUntil = now + SLOTS_RETRY_MS
  }

  /** Gives up every connect under way. */
  stop(reason: Error): void {
    if (this.#restTimer !== null) this.#ports.clock.clearTimeout(this.#restTimer)
    this.#stopped.abort(reason)
  }

  async #openOne(generation: number): Promise<PooledSession> {
    const { chance, clock, open, prepare } = this.#ports
    const { connectTimeoutMs, maxLifetimeMs } = this.#config
    const session = await open({ timeoutMs: connectTimeoutMs, signal: this.#stopped.signal })
    try {
      const slow = (): Error => new Error(`hooks of a new connection took longer than ${connectTimeoutMs} ms`)
      await within(clock, connectTimeoutMs, prepare(session), slow)
      session.keepSettings()
      if (session.lost !== null) throw session.lost
    } catch (error) {
      session.destroy(error as Error)
      throw error
    }
    return new PooledSession(session, clock.now(), lifetimeEnd(clock.now(), maxLifetimeMs, chance()), generation)
  }

  #opened(pooled: PooledSession, startedAt: number): void {
    const ms = this.#ports.clock.now() - startedAt
    this.#succeededOnce = true
    this.#failures = 0
    this.#lastError = undefined
    this.#connectMs = this.#connectMs === 0 ? ms : this.#connectMs + (ms - this.#connectMs) / 10
    this.#node.cells.connectionsOpened++
    this.#node.cells.connectDuration.observe(Math.round(ms * 1000))
    this.#events.opened(pooled)
    this.#forgetSlots()
    this.#tellWatchers()
  }

  #failed(error: unknown, startedAt: number): void {
    this.#lastError = error
    this.#failures++
    const fault = this.#node.faultOf(error, 'connect')
    this.#node.cells.connectErrors[fault.category]++
    if (fault.class === 'too-many-connections') this.#learnSlots()
    if (!this.#stopped.signal.aborted) this.#rest()
    const pointless =
      // Reads that wait for a replica can be answered elsewhere.
      this.#node.role === 'replica' ||
      fault.class === 'authentication' ||
      isSmartPgError(error, 'SMARTPG_CONFIG') ||
      // A server that has never answered is more likely misnamed than restarting.
      (error instanceof CircuitOpenError && !this.#succeededOnce)
    this.#events.failed(error, startedAt, pointless)
    this.#tellWatchers()
  }

  /** Whether to go on without anybody asking is decided when the rest is over. */
  #rest(): void {
    if (this.#restTimer !== null) return
    this.#restTimer = this.#ports.clock.setTimeout(
      () => {
        this.#restTimer = null
        this.#events.rested()
        // Whoever waits for connections to stand may have one opened for himself now.
        this.#tellWatchers()
      },
      connectBackoff(this.#failures, this.#ports.chance()),
    )
  }

  /** Whether a connect for nobody in particular is worth trying. */
  get worthTryingUnasked(): boolean {
    return this.#failures <= TRIES_UNASKED
  }

  /** The server has no slot left: live with what there is and with what is still on its way. */
  #learnSlots(): void {
    const now = this.#ports.clock.now()
    // Connects that were refused together tell it once.
    if (now >= this.#slotsUntil || this.#slots > this.#slotsShown)
      this.#slotsBackMs = Math.min(SLOTS_RETRY_MS, 2 * this.#slotsBackMs)
    this.#slotsShown = Math.max(1, this.#events.standing() + this.#connecting)
    this.#slots = this.#slotsShown
    this.#slotsUntil = now + (this.#slotsShown < this.#stood ? this.#slotsBackMs : SLOTS_RETRY_MS)
  }

  /** A server that lets in one more than it could has room again: how much, it will show. */
  #forgetSlots(): void {
    const standing = this.#events.standing()
    this.#stood = Math.max(this.#stood, standing)
    if (standing <= this.#slotsShown) return
    this.#slots = this.#slotsShown = Infinity
    this.#slotsBackMs = SLOTS_BACK_MS
  }

  #tellWatchers(): void {
    for (const wake of this.#watchers.splice(0)) wake()
  }
}
