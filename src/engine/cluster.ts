// Who among the nodes serves what: asks core where a statement belongs and which replica takes it, with what the monitor
// saw. No object is made for a candidate: this is asked for every statement.

import type { InUse } from '../core/adaptive.ts'
import type { Balancer } from '../core/balance.ts'
import type { Catalog } from '../core/catalog.ts'
import type { RouteReason } from '../core/cells.ts'
import { ConfigError, NotExecutedError } from '../core/errors.ts'
import type { OwnWrites } from '../core/own-writes.ts'
import type { Refusals } from '../core/refusals.ts'
import { destinationOf } from '../core/route.ts'
import type { RouteRules, Wish } from '../core/route.ts'
import { satisfied } from '../core/token.ts'
import type { Clock, Statement } from '../core/types.ts'
import type { Monitor } from './monitor.ts'
import type { Node } from './node.ts'
import type { ReadSession } from './read-session.ts'
import type { Roles } from './roles.ts'

export interface ClusterRules extends Omit<RouteRules, 'replicas'> {
  readonly fallbackToPrimary: boolean
  readonly readYourWrites: 'auto' | 'session' | 'always' | 'off'
}

export interface ClusterPorts {
  readonly roles: Roles
  readonly balancer: Balancer
  readonly ownWrites: OwnWrites
  readonly catalog: Catalog
  readonly refusals: Refusals
  readonly monitor: Monitor
  readonly clock: Clock
}

/** What one statement asks of the cluster. */
export interface RouteAsk {
  readonly statement: Statement
  readonly transaction: 'none' | 'read-write' | 'read-only'
  /** An earlier try was sent to the primary, or a read on a replica came first. */
  readonly forcePrimary: boolean
  readonly wish: Wish | undefined
  readonly session: ReadSession | undefined
  readonly failedOn: readonly Node[]
}

export interface Routed {
  readonly node: Node
  readonly because: RouteReason
}

/** Why a replica cannot take a statement, as far as its place in metrics goes. */
export type Obstacle = 'not asked for' | 'fallback' | 'stale-replicas' | 'own-write'

export class Cluster {
  readonly #rules: ClusterRules
  readonly #ports: ClusterPorts
  readonly roles: Roles
  readonly #routeRules: { -readonly [Rule in keyof RouteRules]: RouteRules[Rule] }
  /** Those that could take the read that is being routed. */
  readonly #fit: Node[] = []

  constructor(rules: ClusterRules, ports: ClusterPorts) {
    this.#rules = rules
    this.#routeRules = { ...rules, replicas: 0 }
    this.#ports = ports
    this.roles = ports.roles
  }

  /** How reads are spread now, and because of what. */
  get strategy(): InUse {
    return this.#ports.balancer.using
  }

  get primary(): Node {
    return this.roles.primary
  }

  get replicas(): readonly Node[] {
    return this.roles.replicas
  }

  get nodes(): readonly Node[] {
    return this.roles.nodes
  }

  node(name: string): Node | undefined {
    return this.roles.node(name)
  }

  /**
   * The node for a lease's first statement, and why; null when no replica will do and the primary may not help. Whoever
   * only wants to know leaves the monitor alone.
   */
  route(ask: RouteAsk, asking: 'also the monitor' | 'nobody' = 'also the monitor'): Routed | null {
    const { primary } = this
    if (ask.forcePrimary) return { node: primary, because: 'pinned' }
    const { target, because } = this.destination(ask)
    if (target === 'primary') return { node: primary, because }
    if (ask.wish?.name !== undefined) this.#assertReplica(ask.wish.name)
    if (asking === 'also the monitor') this.#ports.monitor.poke()
    const now = this.#ports.clock.now()
    const obstacle = this.#gather(ask, now)
    const chosen = this.#ports.balancer.choose(this.#fit, this.#fit.length, now)
    this.#fit.length = 0
    if (chosen !== null) return { node: chosen, because }
    if (obstacle !== 'own-write' && !this.#rules.fallbackToPrimary) return null
    if (obstacle === 'own-write' && asking === 'also the monitor') this.#ports.monitor.hurry()
    return { node: primary, because: obstacle }
  }

  /** Where the statement belongs, whoever is there to take it. */
  destination({ statement, transaction, wish }: RouteAsk): ReturnType<typeof destinationOf> {
    const { clock, refusals } = this.#ports
    const refused = refusals.size > 0 && refusals.of(statement.sql, clock.now()) !== null
    this.#routeRules.replicas = this.replicas.length
    return destinationOf({ facts: statement.facts, transaction, wish, refused }, this.#routeRules)
  }

  /** Why this replica cannot take the statement; null: it can. `writes` as `writesToShow` says. */
  obstacle(node: Node, ask: RouteAsk, writes: number, now: number): Obstacle | null {
    const { wish } = ask
    if (wish !== undefined && !asked(node, wish)) return 'not asked for'
    if (!node.health.up || ask.failedOn.includes(node) || !node.admits(now)) return 'fallback'
    if (!this.#ports.monitor.knows(node, now) || !freshFor(node, wish)) return 'stale-replicas'
    return this.showsOwnWrites(node, ask.session, writes) ? null : 'own-write'
  }

  /** The newest write of this process that a read must show, counted from 1; 0: none, but for those of its session. */
  writesToShow({ facts }: Statement): number {
    const { readYourWrites } = this.#rules
    if (readYourWrites === 'off' || readYourWrites === 'session') return 0
    const { catalog, ownWrites } = this.#ports
    // Nothing that was written concerns nobody.
    if (ownWrites.finished === 0) return 0
    return ownWrites.newest(readYourWrites === 'auto' ? catalog.tablesRead(facts) : null)
  }

  /** Whether there is any write that the statement must see. */
  mustShowWrites({ statement, session }: RouteAsk): boolean {
    if (this.#rules.readYourWrites === 'off') return false
    if (session !== undefined && (session.unplaced || session.token !== null)) return true
    return this.writesToShow(statement) > 0
  }

  showsOwnWrites(node: Node, session: ReadSession | undefined, writes: number): boolean {
    if (!this.#ports.ownWrites.shows(node.name, writes)) return false
    if (session === undefined || this.#rules.readYourWrites === 'off') return true
    if (session.unplaced) return false
    return session.token === null || satisfied(session.token, node.replayed, this.roles.current)
  }

  /** What to tell a read that found no replica. */
  noReplica(failedOn: readonly Node[], cause: unknown): NotExecutedError {
    const now = this.#ports.clock.now()
    const state = (node: Node): string => {
      if (failedOn.includes(node)) return 'failed'
      if (!node.admits(now)) return 'circuit open'
      return this.#ports.monitor.knows(node, now) ? node.health.because : 'not asked for long'
    }
    const states = this.replicas.map((node) => `${node.name}: ${state(node)}`).join('; ')
    const message = `No replica can take this read, and routing.fallbackToPrimary is false (${states}).`
    return new NotExecutedError(this.replicas[0]!.name, message, 'acquire', cause)
  }

  /** Gathers those that can take it, and says what kept the others from it. */
  #gather(ask: RouteAsk, now: number): RouteReason {
    const fit = this.#fit
    const writes = this.writesToShow(ask.statement)
    let because: RouteReason = 'fallback'
    for (const node of this.replicas) {
      const obstacle = this.obstacle(node, ask, writes, now)
      if (obstacle === null) fit.push(node)
      else if (obstacle === 'own-write') because = 'own-write'
      else if (obstacle === 'stale-replicas' && because === 'fallback') because = 'stale-replicas'
    }
    return because
  }

  #assertReplica(name: string): void {
    if (this.roles.node(name) !== undefined) return
    const expected = `one of ${this.nodes.map((node) => node.name).join(', ')}`
    throw new ConfigError([{ path: 'onReplica.name', received: `'${name}'`, expected }])
  }
}

function asked({ name, standing: { traits } }: Node, wish: Wish): boolean {
  if (wish.name !== undefined && wish.name !== name) return false
  return wish.tags === undefined || wish.tags.every((tag) => traits.tags.includes(tag))
}

/** A caller's own limits stand in the place of `routing.maxLag`; what else keeps a replica from being read stays. */
function freshFor({ health }: Node, wish: Wish | undefined): boolean {
  const { maxLagMs, maxLagBytes } = wish ?? NO_LIMITS
  if (maxLagMs === undefined && maxLagBytes === undefined) return health.fit
  const onlyBehind = health.because === 'too many bytes behind' || health.because === 'too long behind'
  if (!health.fit && !onlyBehind) return false
  return (
    (health.lagMs ?? Infinity) <= (maxLagMs ?? Infinity) && (health.lagBytes ?? Infinity) <= (maxLagBytes ?? Infinity)
  )
}

const NO_LIMITS: Pick<Wish, 'maxLagMs' | 'maxLagBytes'> = {}
