// State and time of one dialect: the nodes, their monitor, the caches, the clock. Built by the composition
// root from a Config and the ports; it opens nothing until it is started and holds nothing once it is stopped.

import type { Config, HookConnection, NodeConfig, TypeParsers } from '../config/options.ts'
import { Balancer } from '../core/balance.ts'
import { Catalog } from '../core/catalog.ts'
import { ConfigError, SmartPgError } from '../core/errors.ts'
import type { RouteExplanation } from '../core/explain.ts'
import type { Fault } from '../core/fault.ts'
import { OwnWrites } from '../core/own-writes.ts'
import { Refusals } from '../core/refusals.ts'
import type { Wish } from '../core/route.ts'
import { PreparedNames } from '../core/statements.ts'
import type { Chance, Clock, Facts, OpenSession, Role, Session, Statement } from '../core/types.ts'
import { UsualTimes } from '../core/usual-time.ts'
import { FactsCache } from '../sql/facts-of.ts'
import { builtInEffect } from './catalog-reader.ts'
import { Cluster } from './cluster.ts'
import { digest } from './digest.ts'
import { explain } from './explain.ts'
import { anotherCluster, answersForAnother, identify, knowsTransactions, lockTimeoutOf } from './first-questions.ts'
import { Gate } from './gate.ts'
import type { Hold } from './hold.ts'
import type { Listeners } from './listeners.ts'
import { Notifications } from './listen.ts'
import { Monitor } from './monitor.ts'
import { Node } from './node.ts'
import { ReadSessions } from './read-session.ts'
import { Roles } from './roles.ts'

export interface EnginePorts {
  readonly clock: Clock
  readonly chance: Chance
  readonly listeners: Listeners
  readonly faultOf: (error: unknown, during: 'connect' | 'query') => Fault
  /** An opener for one node; `onAddress` hears where its connections go. */
  readonly opener: (node: NodeConfig, hooks: OpenerHooks) => OpenSession
}

export interface OpenerHooks {
  readonly onAddress: (host: string, port: number) => void
  readonly onStatementsUnreliable: () => void
  /** The row type of a statement has changed, and so may those of others. */
  readonly onStatementsOutdated: (name: string) => void
  /** Until it is known that nothing in between answers for the server. */
  readonly mayBePooled: () => boolean
  /** Instead of the configured ones. */
  readonly types?: TypeParsers
  /** For questions about connections that are silent. */
  readonly aside?: boolean
}

const AS_TEXT: TypeParsers = { getTypeParser: () => String }

/** A cancel request is one connect and one message. */
const CANCEL_MS = 2_000

export class Engine {
  readonly config: Config
  readonly clock: Clock
  readonly chance: Chance
  readonly listeners: Listeners
  readonly faultOf: EnginePorts['faultOf']
  readonly cluster: Cluster
  readonly roles: Roles
  readonly notifications: Notifications
  readonly sessions = new ReadSessions()
  /** How long texts take, on whatever server. */
  readonly usualTimes = new UsualTimes()
  readonly catalog: Catalog
  /** Before reads that the primary takes because no replica will do. */
  readonly fallbacks: Gate
  readonly #ownWrites = new OwnWrites()
  readonly #refusals = new Refusals()
  readonly onReserve: Config['onReserveConnection']
  readonly #monitor: Monitor
  readonly #facts = new FactsCache()
  readonly #names: PreparedNames
  readonly #ports: EnginePorts
  #started = false

  /** `replicas` where they are others than `config` says: some were added, or removed. */
  constructor(config: Config, ports: EnginePorts, replicas: readonly NodeConfig[] = config.replicas) {
    this.config = config
    this.clock = ports.clock
    this.chance = ports.chance
    this.listeners = ports.listeners
    this.faultOf = ports.faultOf
    this.onReserve = config.onReserveConnection
    this.#ports = ports
    this.#names = new PreparedNames(config.statements.prepare, digest, config.statements.never)
    this.catalog = new Catalog(config.routing.functions, builtInEffect, { systemCatalogs: 'anywhere' })
    this.fallbacks = new Gate(config.routing.fallbackLimit, this.clock)
    const primary = this.#newNode(config.primary, 'primary')
    const { clock, chance, listeners } = ports
    const readers = replicas.map((replica) => this.#newNode(replica, 'replica'))
    this.roles = new Roles(primary, readers, config.rolesUnknown, {
      clock,
      listeners,
      onTimeline: () => {
        this.#ownWrites.newTimeline()
        this.#monitor.newTimeline()
      },
      onMoved: () => this.notifications.moved(),
    })
    const { roles, catalog } = this
    this.notifications = new Notifications(
      () => roles.primary.name,
      (how) => roles.primary.openApart(how),
      config.primary.pool,
      ports,
    )
    this.#monitor = new Monitor(
      {
        intervalMs: config.failover.probeIntervalMs,
        connectTimeoutMs: config.primary.pool.connectTimeoutMs,
        limits: { maxLagMs: config.routing.maxLagMs, maxLagBytes: config.routing.maxLagBytes },
      },
      { roles, ownWrites: this.#ownWrites, catalog, clock, chance, listeners },
    )
    this.cluster = new Cluster(config.routing, {
      roles,
      balancer: new Balancer(config.routing, chance),
      ownWrites: this.#ownWrites,
      catalog,
      refusals: this.#refusals,
      monitor: this.#monitor,
      clock,
    })
  }

  start(): void {
    this.#started = true
    for (const node of this.cluster.nodes) node.pool.start()
    if (this.cluster.replicas.length > 0) this.#monitor.poke()
  }

  /** Settles when every node has its first connections, every replica has been looked at, and the catalog been read. */
  async ready(timeoutMs: number): Promise<void> {
    const deadline = this.clock.now() + timeoutMs
    const waits = this.cluster.nodes.map((node) => node.pool.ready(deadline))
    const settled = await Promise.allSettled(waits)
    const faults = settled.filter((one) => one.status === 'rejected').map((one) => one.reason as unknown)
    if (faults.length === 0 && this.cluster.replicas.length > 0) faults.push(...(await this.#lookedAt()))
    if (faults.length === 0) return
    const misconfigured = faults.filter((fault) => fault instanceof ConfigError)
    if (misconfigured.length === faults.length) throw misconfigured[0]
    const messages = faults.map((fault) => (fault instanceof Error ? fault.message : String(fault)))
    throw new SmartPgError('SMARTPG_CONNECT_FAILED', `Not ready: ${messages.join('; ')}`, {
      phase: 'connect',
      retryable: true,
      cause: faults.length === 1 ? faults[0] : new AggregateError(faults),
    })
  }

  /** Lets what runs finish, then closes every connection. Always settles. */
  async stop(): Promise<void> {
    const deadlineMs = this.config.queryTimeoutMs || 30_000
    const closed = new SmartPgError('SMARTPG_CLOSED', 'The dialect was destroyed.', { phase: 'acquire' })
    this.fallbacks.close(closed)
    this.roles.stop(closed)
    const pools = this.cluster.nodes.map((node) => node.pool.close(deadlineMs))
    await Promise.all([this.notifications.close(), this.#monitor.stop(), ...pools])
  }

  /** Looks at every node once; what it finds stands in their health. */
  async look(): Promise<void> {
    await this.#monitor.look()
  }

  /** A role may have moved: looks at every node at once. */
  suspect(): void {
    if (this.cluster.replicas.length > 0) this.#monitor.suspect()
  }

  /** Whether it must be looked who the primary is before anything is sent to it. */
  unsureOf(primary: Node): boolean {
    return this.cluster.replicas.length > 0 && this.#monitor.unsure(primary, this.clock.now())
  }

  /** Settles when every node has been looked at, whatever was found. */
  makeSure(): Promise<void> {
    return this.#monitor.makeSure()
  }

  /** Whether the server that a node's name leads to now says that it is a standby. */
  isStandby(node: Node): Promise<boolean> {
    return this.#monitor.isStandby(node)
  }

  /** Settles after a look at what the replicas have replayed, or after `ms`. */
  async replayed(ms: number): Promise<void> {
    await this.#monitor.glance(ms)
  }

  /** A write, or a transaction that wrote, has ended. */
  wrote(tables: ReadonlySet<string> | 'everything'): void {
    if (this.cluster.replicas.length === 0) return
    this.#ownWrites.wrote(tables === 'everything' ? null : this.catalog.tablesWritten(tables))
  }

  /** What is known of the catalog may be out of date. */
  catalogChanged(): void {
    this.catalog.forget()
    this.#refusals.forget()
    this.#monitor.catalogChanged()
  }

  /** A standby would not run this text, and the primary will be asked from now on. */
  refused({ sql, facts }: Statement, { name, cells }: Node, code: string | undefined, because: string): void {
    cells.reruns++
    this.#refusals.add(sql, because, this.clock.now())
    this.listeners.emit('rerun', { node: name, summary: facts.summary, code })
  }

  /** Why a standby has refused a text; null: none has, as far as is remembered. */
  refusalOf(sql: string): string | null {
    return this.#refusals.of(sql, this.clock.now())
  }

  /** Where a statement would run now, and why; asks nobody. */
  explain(statement: Statement, wish: Wish | undefined): RouteExplanation {
    return explain(this, statement, wish)
  }

  /** One more server to read from. Throws ConfigError when its name is taken. */
  add(config: NodeConfig): Node {
    const node = this.#newNode(config, 'replica')
    this.roles.add(node)
    this.#monitor.watch(node)
    if (this.#started) {
      node.pool.start()
      this.#monitor.suspect()
    }
    return node
  }

  /** Nothing is sent there any more; what runs may finish. Throws ConfigError for the primary. */
  async remove(node: Node): Promise<void> {
    this.roles.remove(node)
    await Promise.all([this.#monitor.forget(node), node.pool.close(this.config.queryTimeoutMs || 30_000)])
  }

  async #lookedAt(): Promise<unknown[]> {
    await this.#monitor.look()
    await this.#monitor.catalogRead()
    const faults = this.cluster.nodes.map((node) => this.#monitor.faultOf(node)).filter((fault) => fault !== null)
    return faults.length === 0 && this.roles.vacant ? [this.roles.noPrimary(0)] : faults
  }

  statement(sql: string, parameters: readonly unknown[]): Statement {
    return { sql, parameters, facts: this.catalog.judge(this.#facts.of(sql)) }
  }

  /** The name to run a text under on this node; counts that it was seen. */
  nameOf(statement: Statement, node: Node, inTransaction: boolean, attempt: number): string | undefined {
    // A name that a pooler has lost cannot be prepared anew within a transaction: that is gone with it. And what one of
    // its server connections did not have, the next one may not have either: the second try needs no name.
    if (node.behindPooler && (inTransaction || attempt > 1)) return undefined
    return this.#names.nameOf(statement.sql, statement.facts)
  }

  /** From now on a text runs unnamed. */
  unname(facts: Facts): void {
    this.#names.unname(facts)
  }

  /** Asks the server to cancel what a lease runs now; nothing when it runs nothing. */
  async cancel(hold: Hold): Promise<void> {
    const { passage, pooled } = hold
    if (passage !== null) await hold.node!.pool.lanes.cancel(passage, CANCEL_MS)
    else if (pooled !== null && pooled.session.lost === null && pooled.session.unanswered > 0)
      await pooled.cancel(this.clock, CANCEL_MS)
  }

  /** Cancels and closes a lease's connection. */
  async kill(hold: Hold): Promise<void> {
    const killed = new SmartPgError('SMARTPG_CONNECTION_LOST', 'The session was killed on request.', {
      phase: 'execute',
    })
    const { passage, pooled } = hold
    if (passage !== null) {
      await hold.node!.pool.lanes.kill(passage, CANCEL_MS, killed)
    } else if (pooled !== null && pooled.session.lost === null) {
      await this.cancel(hold)
      pooled.session.destroy(killed)
    }
  }

  /** A connection as a hook of the user sees it. */
  hookConnection(session: Session): HookConnection {
    return { executeQuery: async ({ sql, parameters }) => session.send(this.statement(sql, parameters)) }
  }

  #newNode(config: NodeConfig, role: Role): Node {
    const ports = this.#ports
    const hooks: OpenerHooks = {
      onAddress: (host, port) => (node.address = { host, port }),
      onStatementsUnreliable: () => this.#names.markUnreliable(),
      onStatementsOutdated: (name) => this.#names.outdated(name),
      mayBePooled: () => node.behindPooler !== false,
    }
    // What the server says of itself, whatever the user's type parsers make of it.
    const ownHooks = { ...hooks, types: AS_TEXT }
    const { onCreateConnection, session } = this.config
    const restore = (fresh: Session): Promise<void> => this.#initSession(fresh)
    const node: Node = new Node(config, role, this.config.breaker, {
      ...ports,
      open: ports.opener(config, hooks),
      openApart: ports.opener(config, ownHooks),
      openBeside: ports.opener(config, { ...ownHooks, aside: true }),
      prepare: async (fresh) => {
        node.behindPooler ??= await answersForAnother(fresh)
        // An address may stand for several servers: each connection may be with another one.
        if (node.behindPooler === false) await this.#identify(fresh, node)
        if (session.init !== undefined) await this.#initSession(fresh)
        if (onCreateConnection !== undefined) await onCreateConnection(this.hookConnection(fresh))
        if (this.config.transactions.resolveCommit) node.knowsTransactions ??= await knowsTransactions(fresh)
        // Behind a pooler nobody knows on which connection a setting would stay.
        const mayDiffer = config.pool.pipelineWrites && node.behindPooler === false
        if (mayDiffer) node.lockTimeout ??= await lockTimeoutOf(fresh)
        fresh.onStandby(() => this.#roleSeen(fresh, node))
        this.#roleSeen(fresh, node)
      },
      // What onCreateConnection set up cannot be told from what a lease left behind.
      restore: onCreateConnection === undefined ? restore : null,
      onTrouble: () => this.#troubled(node),
      queryTimeoutMs: this.config.queryTimeoutMs,
      retryShare: this.config.retry.budget,
      pipelines: this.config.wire === 'native',
    })
    return node
  }

  /** Which of the servers behind its address this is; and one of another cluster is none of them. */
  async #identify(session: Session, node: Node): Promise<void> {
    const identity = await identify(session)
    if (identity === null) return
    const { server, systemIdentifier } = identity
    if (server !== null) node.servers.set(session, server)
    const ours = this.roles.systemIdentifier
    // Where there is one address only, it says which cluster is meant.
    if (systemIdentifier === null || ours === null || this.cluster.replicas.length === 0) return
    if (systemIdentifier !== ours) throw anotherCluster(node, systemIdentifier, ours)
  }

  /** The server says that it is a standby, or that it is none. */
  #roleSeen({ standby }: Session, node: Node): void {
    if (standby === null || this.cluster.replicas.length === 0) return
    if (standby === (node.role === 'primary')) this.#monitor.suspect()
  }

  /** The primary could not be connected to, or a connection to it was lost: is another one the primary now? */
  #troubled(node: Node): void {
    if (node.role === 'primary' && this.cluster.replicas.length > 0) this.#monitor.suspect()
  }

  async #initSession(session: Session): Promise<void> {
    const { init } = this.config.session
    if (typeof init === 'string') await session.send(this.statement(init, []))
    else if (init !== undefined) await init(this.hookConnection(session))
  }
}
