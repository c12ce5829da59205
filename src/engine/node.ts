// One server: its name and role, its pool, its two circuits (connecting and querying, apart), its counters,
// and what the monitor last saw of it.

import type { NodeConfig } from '../config/options.ts'
import { NodeCells } from '../core/cells.ts'
import { Breaker, refused } from '../core/breaker.ts'
import type { BreakerStatus, Outcome, Permit, Transition } from '../core/breaker.ts'
import type { BreakerSettings } from '../core/breaker-rules.ts'
import { CircuitOpenError } from '../core/errors.ts'
import type { CircuitName } from '../core/events.ts'
import type { Fault } from '../core/fault.ts'
import { PlanWatch } from '../core/plan-watch.ts'
import { RetryBudget } from '../core/retry.ts'
import { Standing } from '../core/standing.ts'
import type { Chance, Clock, OpenSession, Role, Session } from '../core/types.ts'
import type { Host } from './connector.ts'
import type { Listeners } from './listeners.ts'
import { Pool } from './pool.ts'
import type { PoolPorts } from './pool.ts'

/** What the monitor knows of a node. Until it has asked, a replica is not fit for reads. */
export interface Health {
  /** The node answers and is fresh enough to read from. */
  readonly fit: boolean
  readonly up: boolean
  readonly because: string
  readonly lagMs: number | null
  readonly lagBytes: number | null
  /** When this was found out. */
  readonly at: number
}

const NOT_ASKED: Health = { fit: false, up: true, because: 'not asked yet', lagMs: null, lagBytes: null, at: 0 }

/** Of a node's two circuits the one that is further from closed. */
export interface CircuitStatus extends BreakerStatus {
  readonly circuit: CircuitName
}

export interface NodePorts extends PoolPorts {
  readonly clock: Clock
  readonly chance: Chance
  readonly listeners: Listeners
  readonly faultOf: (error: unknown, during: 'connect' | 'query') => Fault
  /** Most retries, as a share of the requests. */
  readonly retryShare: number
  /** A connection of the house's own, whose values are text whatever the user's type parsers say. */
  readonly openApart: OpenSession
  /** It could not be connected to, or a connection was lost. */
  readonly onTrouble: () => void
}

export class Node implements Host {
  readonly name: string
  readonly cells = new NodeCells()
  /** What balancing remembers of it. */
  readonly standing: Standing
  /** A connection of the house's own beside the pool. */
  readonly openApart: OpenSession
  readonly pool: Pool
  /** How many statements may still be tried again here. */
  readonly retries: RetryBudget
  /** How long named statements take here. */
  readonly planWatch = new PlanWatch()
  /** Where connections really go; empty until the first. */
  address = { host: '', port: 0 }
  health: Health
  /** A pooler answers here, which may hand the next statement to another server connection. Unknown until the first connect. */
  behindPooler: boolean | undefined = undefined
  lockTimeout: string | null = null
  /** Which server a connection is with; none for one that could not be asked. */
  readonly servers = new WeakMap<Session, string>()
  /** The server can be asked for the id of a transaction; unknown until the first connect that has asked. */
  knowsTransactions: boolean | undefined = undefined
  /** How far it has replayed, when it was asked last; null while that is not known. */
  replayed: bigint | null = null
  #role: Role
  readonly #connecting: Breaker
  #connectedOnce = false
  readonly #querying: Breaker
  readonly #ports: NodePorts

  constructor(config: NodeConfig, role: Role, breaker: BreakerSettings | null, ports: NodePorts) {
    this.name = config.name
    this.#role = role
    this.#ports = ports
    this.standing = new Standing(config.traits)
    this.openApart = ports.openApart
    this.retries = new RetryBudget({ share: ports.retryShare })
    const circuit = (of: CircuitName): Breaker =>
      new Breaker(breaker, {
        onTransition: (transition) => this.#transition(of, transition),
        // Where callers share connections nobody may need another one, and a pool has a pace of its own.
        closesAtOnce: of === 'connect',
      })
    this.#connecting = circuit('connect')
    this.#querying = circuit('query')
    this.health = { ...NOT_ASKED, fit: role === 'primary' }
    this.pool = new Pool(this, config.pool, ports)
  }

  /** What it is now: a name and an address stay, a role moves. */
  get role(): Role {
    return this.#role
  }

  /** Its role is another one from now on: who waits here for what it was goes elsewhere, and no connection outlives that. */
  becomes(role: Role, because: string): void {
    if (role === this.#role) return
    this.#role = role
    const { lagMs, lagBytes } = NOT_ASKED
    // A replica is to be looked at before anything is read from it.
    this.health = { fit: role === 'primary', up: true, because, lagMs, lagBytes, at: this.#ports.clock.now() }
    this.replayed = null
    this.pool.retireAll()
    // Reads that wait for a replica are as well off with a primary.
    if (role === 'primary') return
    this.pool.turnAway(because)
    // What it acknowledges now is not kept, and where it is frozen it never answers.
    this.pool.abandon(because, 'all')
  }

  /** Work under way here; what balancing compares. */
  get load(): number {
    return this.pool.load
  }

  /** Whether a query would be let through now; takes no permit. */
  admits(now: number): boolean {
    if (!this.#querying.admits(now)) return false
    return this.pool.hasSessions || (!this.pool.resting && this.#connecting.admits(now))
  }

  /** A permit for one query, or null when the circuit is open. */
  admitQuery(now: number): Permit | null {
    this.retries.requested(now)
    const permit = this.#querying.admit(now)
    if (permit !== refused && (this.pool.hasSessions || this.#connecting.admits(now))) return permit
    if (permit !== refused) {
      this.#querying.giveBack(permit)
      // Whoever is turned away lets it be found out for those who come after him whether the server is back.
      this.pool.probe()
    }
    this.cells.breakerRejections++
    return null
  }

  /** `permit` is null for a statement of a lease that holds its connection already: heard without having asked. */
  settleQuery(permit: Permit | null, outcome: Outcome, now: number, cause?: unknown, tookMs = 0): void {
    if (permit === null && this.#querying.state !== 'closed') return
    this.#querying.settle(permit ?? this.#querying.current, outcome, now, this.#ports.chance, cause, tookMs)
  }

  /** The query never reached the server. */
  giveBackQuery(permit: Permit): void {
    this.#querying.giveBack(permit)
  }

  /** A permit for one connect, or null when the circuit is open; now and then one to see whether it still has to be. */
  admitConnect(): Permit | null {
    const probe = this.admitProbe()
    if (probe !== null) return probe
    const permit = this.#connecting.admit(this.#ports.clock.now())
    return permit === refused ? null : permit
  }

  admitProbe(): Permit | null {
    // A server that was never there is no better for being asked more often.
    if (!this.#connectedOnce) return null
    const permit = this.#connecting.admitProbe(this.#ports.clock.now())
    return permit === refused ? null : permit
  }

  settleConnect(permit: Permit, outcome: Outcome, cause?: unknown): void {
    this.#connectedOnce ||= outcome === 'success'
    // A server that has never been reached is more likely misnamed than restarting: whoever waits is to know soon.
    const told = outcome === 'lost' && !this.#connectedOnce ? 'failure' : outcome
    this.#connecting.settle(permit, told, this.#ports.clock.now(), this.#ports.chance, cause)
    if (outcome !== 'success') this.#ports.onTrouble()
  }

  lostOne(): void {
    this.#ports.onTrouble()
  }

  giveBackConnect(permit: Permit): void {
    this.#connecting.giveBack(permit)
  }

  faultOf(error: unknown, during: 'connect' | 'query'): Fault {
    return this.#ports.faultOf(error, during)
  }

  /** What to throw at a caller who was not let through. */
  circuitOpen(): CircuitOpenError {
    const { since, retryAfterMs, because, cause } = this.#openCircuit.refusal(this.#ports.clock.now())
    return new CircuitOpenError(this.name, since, retryAfterMs, because, cause)
  }

  forceOpen(reason: string): void {
    const now = this.#ports.clock.now()
    for (const circuit of [this.#connecting, this.#querying]) circuit.forceOpen(reason, now)
  }

  forceClose(reason: string): void {
    const now = this.#ports.clock.now()
    for (const circuit of [this.#connecting, this.#querying]) circuit.forceClose(reason, now)
  }

  /** Both circuits are open until what is returned is called. */
  isolate(reason: string): () => void {
    const { clock } = this.#ports
    const ends = [this.#connecting, this.#querying].map((circuit) => circuit.isolate(reason, clock.now()))
    return () => {
      for (const end of ends) end(clock.now())
    }
  }

  /** The circuit that is further from closed. */
  circuitStatus(): CircuitStatus {
    const circuit = this.#circuitToShow
    const name = circuit === this.#connecting ? 'connect' : 'query'
    const status = circuit.status(this.#ports.clock.now())
    // Who was turned away by the circuit for connecting has only been told so.
    return { circuit: name, ...status, rejections: this.cells.breakerRejections }
  }

  /** Sets what the monitor saw and tells when the node left or rejoined those that reads go to. */
  observed(health: Health): void {
    const before = this.health
    this.health = health
    // Others may answer those who wait here.
    if (this.role === 'replica') {
      if (health.fit && !before.fit) this.standing.returned(health.at)
      if (before.up && !health.up) this.pool.turnAway(health.because)
    }
    // Of the first look only what it found amiss.
    if (before.at === 0 ? health.fit : before.fit === health.fit) return
    this.#ports.listeners.emit('node', { node: this.name, role: this.role, up: health.fit, because: health.because })
  }

  /** The one that is further from closed; of two that are equally far the one that has changed last. */
  get #circuitToShow(): Breaker {
    const [connecting, querying] = [this.#connecting, this.#querying]
    const equal = RANK[connecting.state] === RANK[querying.state]
    return equal && connecting.toJSON().since > querying.toJSON().since ? connecting : this.#openCircuit
  }

  get #openCircuit(): Breaker {
    return RANK[this.#connecting.state] > RANK[this.#querying.state] ? this.#connecting : this.#querying
  }

  #transition(circuit: CircuitName, { from, to, because }: Transition): void {
    this.cells.breakerTransitions[from][to]++
    this.#ports.listeners.emit('breaker', { node: this.name, circuit, from, to, because })
  }
}

const RANK = { closed: 0, 'half-open': 1, open: 2 } as const
