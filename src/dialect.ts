// The composition root: the only file that knows every room. It joins configuration, wire, engine, Kysely's
// face and metrics, and starts nothing: no timer, no socket, until Kysely asks for the first connection.

import { Kysely, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type { DatabaseIntrospector, Dialect, DialectAdapter, Driver, QueryCompiler } from 'kysely'
import type { Registry } from 'prom-client'
import type { ConnectionSource, Duration, ReplicaOptions, SmartPgOptions } from './config/options.ts'
import { waitMs } from './config/duration.ts'
import { resolveConfig, resolveReplica } from './config/resolve.ts'
import type { Config, NodeConfig } from './config/options.ts'
import { ConfigError } from './core/errors.ts'
import type { EventName, Events } from './core/events.ts'
import { formatToken, parseToken } from './core/token.ts'
import type { OpenSession } from './core/types.ts'
import type { ListenOptions, NotificationListener } from './engine/channel.ts'
import { systemChance, systemClock } from './engine/clock.ts'
import { EngineHandle } from './engine/engine-handle.ts'
import { Engine } from './engine/engine.ts'
import type { EnginePorts, OpenerHooks } from './engine/engine.ts'
import { lendTo } from './engine/lend.ts'
import type { Listening } from './engine/listen.ts'
import { Listeners } from './engine/listeners.ts'
import type { CircuitStatus, Node } from './engine/node.ts'
import { installBatch } from './kysely/batch.ts'
import { SmartPgDriver } from './kysely/driver.ts'
import { SmartPgAdapter } from './kysely/adapter.ts'
import { installHints, onPrimary } from './kysely/hints.ts'
import { warnOfSecondKysely } from './kysely/second-copy.ts'
import { logTo, warnOfInsecure } from './telemetry/log.ts'
import { registerPool, registry as exportedRegistry } from './telemetry/metrics.ts'
import { snapshotOf } from './telemetry/snapshot.ts'
import { VERSION } from './telemetry/version.ts'
import { faultOf } from './wire/fault-of.ts'
import { lendClient } from './wire/lend.ts'
import { nativeSessionOpener, sessionOpener } from './wire/open.ts'

/** One node's circuit breaker, for hands. */
export interface BreakerControl {
  /** Keeps every query from the node until `forceClose`. */
  forceOpen(reason: string): void
  /** Lets queries through again, counting from zero. */
  forceClose(reason: string): void
  /** Keeps every query from the node until what is returned is disposed, or `forceClose`; may be nested. */
  isolate(reason: string): Disposable
  /**
   * Of the circuits for connecting and for querying the one that is further from closed: state, since when, consecutive
   * failures, rates, milliseconds until the next trial, the last five transitions.
   */
  status(): CircuitStatus
  /** The same, for JSON.stringify. */
  toJSON(): CircuitStatus
}

/**
 * As much of `pg.Client` as can be said without its types. Where @types/pg is installed, say what you get:
 * `dialect.withClient(async (client: pg.Client) => …)`.
 */
export interface LentClient {
  readonly processID: number
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller knows what he asks for
  query<Row = Record<string, unknown>>(
    query: string | { readonly text: string; readonly values?: readonly unknown[]; readonly name?: string },
    values?: readonly unknown[],
  ): Promise<{ readonly rows: Row[]; readonly rowCount: number | null; readonly command: string }>
  /** A COPY stream of pg-copy-streams, a Cursor of pg-cursor. */
  query<Query extends { submit(connection: never): void }>(query: Query): Query
  // oxlint-disable-next-line typescript/no-explicit-any -- as every event emitter's
  on(event: string, listener: (...details: any[]) => void): this
}

export interface WithClientOptions {
  /** Name of the node. Default: the primary. */
  readonly node?: string
  /** Gives up the wait for a connection. */
  readonly signal?: AbortSignal
}

export interface ReadSessionOptions {
  /** What `currentToken()` gave elsewhere. Default: none. */
  readonly token?: string | undefined
}

/**
 * Kysely dialect for a PostgreSQL primary with any number of replicas.
 * Throws ConfigError naming every wrong option; connects at the first query.
 */
export class SmartPgDialect implements Dialect {
  readonly #config: Config
  readonly #listeners = new Listeners()
  readonly #handle: EngineHandle
  readonly #registry: Registry | undefined
  /** As configured, with those that were added and without those that were removed. */
  #replicas: readonly NodeConfig[]
  /** Nodes of which it was told that their connections are not safe. */
  readonly #insecure = new Set<string>()
  /** For a second copy of Kysely, which one warning names. */
  #looked = false

  constructor(options: SmartPgOptions | string) {
    this.#config = resolveConfig(options)
    this.#replicas = this.#config.replicas
    this.#registry = this.#config.metrics === null ? undefined : (this.#config.metrics.registry ?? exportedRegistry)
    logTo(this.#config.logger, this.#listeners)
    this.#handle = new EngineHandle(
      () => this.#newEngine(),
      (engine) => this.#register(engine),
    )
    installBatch(Kysely)
    installHints(Kysely)
  }

  createDriver(): Driver {
    return new SmartPgDriver(this.#handle)
  }

  createQueryCompiler(): QueryCompiler {
    return new PostgresQueryCompiler()
  }

  createAdapter(): DialectAdapter {
    return new SmartPgAdapter(this.#handle)
  }

  // oxlint-disable-next-line typescript/no-explicit-any -- Kysely's own signature
  createIntrospector(db: Kysely<any>): DatabaseIntrospector {
    // Migrations ask for what they have just made, or what somebody else makes at the same time.
    return new PostgresIntrospector(onPrimary(db))
  }

  /**
   * Connects every node, opens `pool.initial` connections each and looks at every replica.
   * Rejects with one SmartPgError that names every fault. Default timeout: `pool.acquireTimeout`.
   * The connections then stand until `destroy()` of the Kysely instance, or of the dialect if no query ever runs.
   */
  async ready(options: { timeout?: Duration } = {}): Promise<void> {
    const timeoutMs = waitMs(options.timeout ?? this.#config.primary.pool.acquireTimeoutMs, 'ready.timeout')
    const user = {}
    const engine = await this.#handle.start(user)
    try {
      await engine.ready(timeoutMs)
    } catch (error) {
      await this.#handle.stop(user)
      throw error
    }
    this.#handle.forget(user)
  }

  /**
   * Closes every connection, as `destroy()` of the last Kysely instance does. Needed only after `ready()`, `listen()` or
   * `withClient()` when no query ever ran, because Kysely's `destroy()` does nothing then. Lets running queries finish;
   * safe to call twice.
   */
  async destroy(): Promise<void> {
    await this.#handle.end()
  }

  /**
   * Hears what is sent by NOTIFY on `channel`, a name of at most 63 bytes that means itself, upper case included.
   * Settles when the primary has answered LISTEN, which needs no query before; rejects within `pool.acquireTimeout`.
   * After a lost connection it listens anew and calls `options.onGap`. Dispose what comes back to end it; `destroy()`
   * ends it, too.
   */
  listen(channel: string, fn: NotificationListener, options?: ListenOptions): Promise<Listening> {
    return this.#handle.engine.notifications.listen(channel, fn, options)
  }

  /**
   * Calls `fn` with a `pg.Client` that is nobody else's, for COPY streams, cursors and large objects, and settles as it
   * does. The client is a connection of the pool, set up like every other and counted while it is held; it is closed
   * afterwards. Waits for it like a query: `pool.acquireTimeout`. `destroy()` waits for `fn` as it does for queries.
   */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- pg's own type, which is not known here
  async withClient<T, Client = LentClient>(
    fn: (client: Client) => T | Promise<T>,
    { node: name, signal }: WithClientOptions = {},
  ): Promise<T> {
    // A wrong name starts nothing.
    if (name !== undefined) this.#node(name, 'withClient')
    // Counted out at once, so that `destroy()` of the last Kysely instance ends the engine although `fn` still runs.
    const user = {}
    const engine = await this.#handle.start(user)
    this.#handle.forget(user)
    const node = name === undefined ? engine.cluster.primary : this.#node(name, 'withClient')
    return lendTo(engine, { node, lend: lendClient, use: (client) => fn(client as Client), signal })
  }

  /** Calls `listener` for every event of that name; dispose what comes back to stop. */
  on<Name extends EventName>(event: Name, listener: (event: Events[Name]) => void): Disposable {
    return this.#listeners.on(event, listener)
  }

  /**
   * Calls `fn` in a session of reads that see the writes of the session: each write within it, across awaits, tells where
   * in the log it stands, and a read goes to a replica that has replayed that, or to the primary. `token` is what
   * `currentToken()` gave in another session, be it of another process (a cookie): then reads see that as well. Sessions
   * may be nested. With `routing.readYourWrites: 'off'` nothing waits. Throws ConfigError for a token that is none.
   */
  session<T>(fn: () => T): T
  session<T>(options: ReadSessionOptions, fn: () => T): T
  session<T>(...given: [() => T] | [ReadSessionOptions, () => T]): T {
    const [options, fn] = given.length === 1 ? [{}, given[0]] : given
    const token = options.token === undefined ? null : parseToken(options.token, 'session(options).token')
    return this.#handle.engine.sessions.run(token, fn)
  }

  /**
   * How far the log was at the last write of the session that the caller stands in, as text for a cookie or a header;
   * undefined outside of `session()`, and before anything was written or handed in.
   */
  currentToken(): string | undefined {
    const token = this.#handle.engine.sessions.current?.token ?? null
    return token === null ? undefined : formatToken(token)
  }

  /**
   * One more server to read from, as in `replicas`; it takes reads when it has been looked at. Throws ConfigError as the
   * constructor does, and for a name that is taken. Default name: `replica-` and the next number.
   */
  addReplica(replica: ConnectionSource | ReplicaOptions): void {
    const { engine } = this.#handle
    const taken = engine.cluster.nodes.map(({ name }) => name)
    const config = resolveReplica(replica, taken, this.#config)
    engine.add(config)
    this.#replicas = [...this.#replicas, config]
  }

  /**
   * Takes a replica away by its name: nothing new is sent there, what runs may finish within `queryTimeout`, then its
   * connections are closed. Throws ConfigError for a name that is none, and for the server that is the primary now.
   */
  async removeReplica(name: string): Promise<void> {
    const removed = this.#handle.engine.remove(this.#node(name, 'removeReplica'))
    this.#replicas = this.#replicas.filter((replica) => replica.name !== name)
    await removed
  }

  /** The prom-client registry with this dialect's metrics. Throws ConfigError with `metrics: false`. */
  get registry(): Registry {
    if (this.#registry !== undefined) return this.#registry
    throw new ConfigError([{ path: 'metrics', received: 'false', expected: 'metrics, to have a registry' }])
  }

  /** The registry's metrics as Prometheus text. */
  metricsText(): Promise<string> {
    return this.registry.metrics()
  }

  /** The circuit breaker of a node by name. Throws ConfigError for a name that is no node. */
  breaker(node: string): BreakerControl {
    const find = (): Node => this.#node(node, 'breaker')
    find()
    return {
      forceOpen: (reason) => find().forceOpen(reason),
      forceClose: (reason) => find().forceClose(reason),
      isolate: (reason) => {
        const end = find().isolate(reason)
        return { [Symbol.dispose]: end }
      },
      status: () => find().circuitStatus(),
      toJSON: () => find().circuitStatus(),
    }
  }

  #node(name: string, askedBy: string): Node {
    const { cluster } = this.#handle.engine
    const node = cluster.node(name)
    if (node !== undefined) return node
    const expected = `one of ${cluster.nodes.map((one) => one.name).join(', ')}`
    throw new ConfigError([{ path: `${askedBy}(node)`, received: `'${name}'`, expected }])
  }

  #newEngine(): Engine {
    const ports: EnginePorts = {
      clock: systemClock,
      chance: systemChance,
      listeners: this.#listeners,
      faultOf,
      opener: (node, hooks) => this.#opener(node, hooks),
    }
    return new Engine(this.#config, ports, this.#replicas)
  }

  #opener(node: NodeConfig, hooks: OpenerHooks): OpenSession {
    const { wire, ssl, allowInsecureAuth, types, applicationName, session, statements, routing, logger } = this.#config
    const opener = wire === 'native' ? nativeSessionOpener : sessionOpener
    return opener({
      node: node.name,
      clock: systemClock,
      target: node.target,
      ssl,
      allowInsecureAuth,
      types,
      applicationName,
      settings: session.settings,
      cacheSize: statements.cacheSize,
      lookup: routing.lookup,
      onInsecure: (message) => {
        if (!this.#insecure.has(node.name)) warnOfInsecure(logger, node.name, message)
        this.#insecure.add(node.name)
      },
      ...hooks,
    })
  }

  #register(engine: Engine): () => void {
    if (!this.#looked) warnOfSecondKysely()
    this.#looked = true
    if (this.#registry === undefined) return () => undefined
    return registerPool(this.#registry, {
      pool: this.#config.name,
      nodes: () => snapshotOf(engine.cluster.nodes),
      versions: () => ({ version: VERSION }),
    })
  }
}
