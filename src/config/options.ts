// What a user may write (`SmartPgOptions`) and what the house lives by (`Config`): frozen, complete, in
// milliseconds. Nothing here comes from `pg`, so that a strict consumer without @types/pg can compile.

import type { Registry } from 'prom-client'
import type { BreakerSettings } from '../core/breaker-rules.ts'
import type { BalanceStrategy } from '../core/balance.ts'
import type { Traits } from '../core/standing.ts'

/** Milliseconds, or text such as `'500ms'`, `'30s'`, `'5min'`, `'1h'`. */
export type Duration = number | string

/** A connection's coordinates, as pg's ClientConfig writes them; unknown keys are refused. */
export interface ConnectionConfig {
  connectionString?: string
  host?: string
  port?: number
  user?: string
  /** Text, or an (async) function asked anew at every connect. */
  password?: string | (() => string | Promise<string>)
  database?: string
  ssl?: SslOptions
  options?: string
}

/** false: no TLS; true: verified TLS; or the options of node:tls. */
export type SslOptions = boolean | { readonly [option: string]: unknown }

/** A URL, a ConnectionConfig, or an (async) function returning one, asked anew at every connect. */
export type ConnectionSource = string | ConnectionConfig | (() => ConnectionTarget | Promise<ConnectionTarget>)
export type ConnectionTarget = string | ConnectionConfig

export interface ReplicaOptions extends ConnectionConfig {
  /** Label in events, metrics and errors. Default: `replica-1`, `replica-2` … */
  name?: string
  /** Asked anew at every connect; instead of the coordinates. */
  connect?: () => ConnectionTarget | Promise<ConnectionTarget>
  /** Where it stands; those in `routing.zone` come first. Default none. */
  zone?: string
  /** Its share of the reads among those of its priority. Default 1. */
  weight?: number
  /** 1 comes first; the next ones take reads while none before them can. Default 1. */
  priority?: number
  /** What `db.onReplica({ tags })` asks for. Default none. */
  tags?: readonly string[]
}

/** Type parsers as in pg: `getTypeParser(oid, format)`. */
export interface TypeParsers {
  // oxlint-disable-next-line typescript/no-explicit-any -- pg's own signature, which users hand in as it is
  getTypeParser(oid: any, format?: any): (value: any) => any
}

/** One value for every node, or one per node name with `default` for the rest. */
export type PerNode<T> = T | { readonly [node: string]: T }

export interface PoolOptions {
  /** Connections kept open per node. Default 1. */
  min?: PerNode<number>
  /** Connections opened at the start per node. Default 2. */
  initial?: PerNode<number>
  /** Most connections per node. Default 50. */
  max?: PerNode<number>
  /** Idle connections kept ready per node. Default 1. */
  minIdle?: PerNode<number>
  /** Longest wait for a connection, connecting and its retries included. Default 10 s. */
  acquireTimeout?: Duration
  /** Longest time for one connect, authentication included. Default 10 s. */
  connectTimeout?: Duration
  /** Idle connections above `min` and `minIdle` are closed after this. Default 5 min. */
  idleTimeout?: Duration
  /** A connection is replaced after this, ±15 %. Default 30 min. */
  maxLifetime?: Duration
  /** Callers that may wait at once, per node. Default 10,000. */
  maxWaiting?: number
  /** A connection idle for longer is asked whether it lives before it is handed out. Default 500 ms. */
  validateAfterIdle?: Duration
  /** Idle connections are pinged this often. Default 30 s; 0 = never. */
  keepalive?: Duration
  /** Reports a lease held for longer, with the acquiring stack. Default 0 = off; 60 s in development. */
  leakDetection?: Duration
  /** Autocommit statements share connections; false: every statement rides alone. Default true. */
  lanes?: boolean
  /** Plain writes share connections as well, each under a `lock_timeout` of 20 ms; needs the native wire. Default false. */
  pipelineWrites?: boolean
}

/** A connection as a hook sees it: run SQL on it with `executeQuery(CompiledQuery.raw(…))`. */
export interface HookConnection {
  executeQuery(query: {
    readonly sql: string
    readonly parameters: readonly unknown[]
  }): Promise<{ readonly rows: Record<string, unknown>[] }>
}

export interface SessionOptions {
  /** SQL, or a function, run once on every new connection and again after each reset. */
  init?: string | ((connection: HookConnection) => void | Promise<void>)
  /** Server settings sent with the startup message: `{ statement_timeout: '30s', search_path: 'app' }`. */
  settings?: { readonly [setting: string]: string | number | boolean }
}

export interface StatementOptions {
  /** `auto`: named prepared statements for what repeats, until the server shows it cannot. Default `auto`. */
  prepare?: 'auto' | 'never' | 'always'
  /** Named statements kept per connection. Default 1000. */
  cacheSize?: number
  /** Statements that are never named: exact texts, or RegExps without the flags `g` and `y`. Default none. */
  never?: readonly (string | RegExp)[]
}

export interface TransactionOptions {
  /** BEGIN leaves together with the first statement; false: it is sent, and answered, by itself. Default true. */
  lazyBegin?: boolean
  /** A COMMIT whose answer is lost is asked for on another connection that stood before; needs the native wire. Default false. */
  resolveCommit?: boolean
}

export interface RoutingOptions {
  /** Reads may go to replicas. Default true. */
  readWriteSplit?: boolean
  /**
   * Which replica takes a read. `performance`: of two at random the one with less work under way for its latency;
   * `adaptive` chooses among the others by what it sees. Default `performance`.
   */
  strategy?: BalanceStrategy
  /** A replica further behind gets no reads. Default `{ ms: 10_000, bytes: 16 MiB }`. */
  maxLag?: { ms?: Duration; bytes?: number }
  /**
   * Which reads see which writes. `auto`: reads of tables that this process wrote see that, and reads within
   * `dialect.session` what the session wrote; `session`: only the latter; `always`: every read sees every write of
   * this process; `off`: none waits. Default `auto`.
   */
  readYourWrites?: ReadYourWrites
  /** Reads go to the primary when no replica will do. Default true. */
  fallbackToPrimary?: boolean
  /**
   * Reads that may run on the primary at once because no replica will do, so that lost replicas do not drown it; the
   * others wait. Default: the primary's `pool.max`.
   */
  fallbackLimit?: number
  /** A transaction with access mode `read only` may run on a replica. Default true. */
  readOnlyTransactions?: boolean
  /**
   * What the functions of the database do, where the catalog says it wrongly or cannot say it: names, with or without
   * schema. `readOnly`: a replica may run them; `writing`: only the primary. Default: as the catalog says.
   */
  functions?: { readOnly?: readonly string[]; writing?: readonly string[] }
  /** Where this process runs: replicas of the same `zone` come first. Default none. */
  zone?: string
  /** A replica whose health score (0 to 100) falls below this gets no reads until it is 10 above it. Default 50. */
  healthThreshold?: number
  /** How host names are looked up, anew at each connect. Default `dns.lookup`. */
  lookup?: Lookup
}
export type ReadYourWrites = 'auto' | 'session' | 'always' | 'off'

/** As `dns.lookup`, and as `net.connect` takes it. */
// oxlint-disable-next-line typescript/no-explicit-any -- Node's own signature has several shapes
export type Lookup = (hostname: string, options: any, callback: (...answer: any[]) => void) => void

export interface BreakerOptions {
  /**
   * Consecutive faults of the server that open it; connections that are lost or cannot be had within
   * `recoveryTimeout.min` of each other are one. Default 5.
   */
  failureThreshold?: number
  /** Share of the calls in `window` that fails, 0 to 1, which opens it. Default 0.5. */
  errorRate?: number
  /** What the rates look back at. Default 10 s. */
  window?: Duration
  /** Calls in `window` below which no rate opens it. Default 20. */
  minimumCalls?: number
  /** A call that takes this long is slow. Default 0: only those that run into `queryTimeout` are. */
  slowCall?: Duration
  /** Share of the calls in `window` that is slow, 0 to 1, which opens it. Default 0.8. */
  slowCallRate?: number
  /** How long it stays open; doubles with each failed trial. Default `{ min: '1s', max: '60s' }`. */
  recoveryTimeout?: { min?: Duration; max?: Duration }
  /** Trial calls let through when it is half open; as many successes close it. Default 3. */
  halfOpenMaxCalls?: number
  /** It changes its state, counts and tells, and refuses nobody. Default false. */
  metricsOnly?: boolean
}
export type BreakerPreset = 'conservative' | 'balanced' | 'tolerant'

export interface RetryOptions {
  /** Tries in all, for reads and for what was never sent. Default 3; 1 = no retry. */
  attempts?: number
  /** First backoff; full jitter. Default 50 ms. */
  base?: Duration
  /** Longest backoff. Default 2 s. */
  max?: Duration
  /** Most retries, as a share of the requests of the last ten seconds; ten a second always may. Default 0.2. */
  budget?: number
}

export interface FailoverOptions {
  /** How often nodes are asked for role and lag while there is traffic. Default 1 s. */
  probeInterval?: Duration
  /** Longest wait of a statement for a new primary, while no server is one. Default 5 s. */
  timeout?: Duration
  /** How often a statement is tried in all because the server it came to was no primary any more. Default 3. */
  attempts?: number
}

export interface MetricsOptions {
  /** A prom-client Registry instead of the exported one. */
  registry?: Registry
}

/** Any logger with pino's shape. */
export interface Logger {
  debug(details: object, message: string): void
  info(details: object, message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}

export type Preset = 'development' | 'staging' | 'production' | 'serverless'

/** Options of SmartPgDialect. Only `primary`, or `hosts`, is needed. */
export interface SmartPgOptions {
  /**
   * Where writes go, as long as that server is the primary: after a failover the roles move by themselves. An
   * environment variable that is not set is refused with one clear error.
   */
  primary?: ConnectionSource | undefined
  /** Where reads may go. */
  replicas?: readonly (ConnectionSource | ReplicaOptions | undefined)[]
  /** Instead of `primary` and `replicas`: servers whose roles are found out. */
  hosts?: readonly (ConnectionSource | ReplicaOptions | undefined)[]
  /** Label in metrics, logs and `application_name`. Default: the database's name. */
  name?: string
  /** A set of defaults; own options win. Default `production`. */
  preset?: Preset
  /**
   * `native`: our own encoder and decoder on the socket that pg has authenticated. `pg`: every statement through pg's
   * own Client.query, one at a time, for tools that patch it. Default `native`.
   */
  wire?: 'native' | 'pg'
  /** TLS for every node that says nothing of its own. */
  ssl?: SslOptions
  /**
   * Sends the password to servers that ask for it in the clear, or as MD5 hash, without TLS over a network. Default
   * false: such a connect fails, and nothing was sent.
   */
  allowInsecureAuth?: boolean
  /** Type parsers for this dialect alone. Default: pg's global ones. */
  types?: TypeParsers
  /** Default `kysely-smart-pg:<name>`. */
  applicationName?: string
  pool?: PoolOptions
  session?: SessionOptions
  statements?: StatementOptions
  transactions?: TransactionOptions
  /** Called once for each physical connection. */
  onCreateConnection?: (connection: HookConnection) => void | Promise<void>
  /** Called and awaited before the first statement of every lease. */
  onReserveConnection?: (connection: HookConnection) => void | Promise<void>
  routing?: RoutingOptions
  failover?: FailoverOptions
  breaker?: BreakerOptions | BreakerPreset | false
  retry?: RetryOptions
  /** From the first byte sent to the answer, per attempt. Default 30 s; 0 = none. */
  queryTimeout?: Duration
  /** `false`: no metrics. */
  metrics?: MetricsOptions | false
  /** Warnings and background failures. Default: warnings to `process.emitWarning`, nothing else. */
  logger?: Logger
}

/** One server as configured. `target` is a function so that no secret is reachable by inspection. */
export interface NodeConfig {
  readonly name: string
  /** Called at every connect. */
  readonly target: () => ConnectionTarget | Promise<ConnectionTarget>
  readonly pool: NodePoolConfig
  readonly traits: Traits
}

export interface NodePoolConfig {
  readonly min: number
  readonly initial: number
  readonly max: number
  readonly minIdle: number
  readonly acquireTimeoutMs: number
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number
  readonly maxLifetimeMs: number
  readonly maxWaiting: number
  readonly validateAfterIdleMs: number
  readonly keepaliveMs: number
  readonly leakDetectionMs: number
  readonly lanes: boolean
  readonly pipelineWrites: boolean
}

/** Everything resolved: frozen, complete, in milliseconds and bytes. */
export interface Config {
  readonly name: string
  readonly preset: Preset
  readonly wire: 'native' | 'pg'
  /** The first of `hosts`, where these were given. */
  readonly primary: NodeConfig
  readonly replicas: readonly NodeConfig[]
  /** `hosts` were given: nobody has said which one is the primary. */
  readonly rolesUnknown: boolean
  /** Of a server that is added later: what holds for those without values of their own. */
  readonly pool: NodePoolConfig
  readonly ssl: SslOptions | undefined
  readonly allowInsecureAuth: boolean
  readonly types: TypeParsers | undefined
  readonly applicationName: string
  readonly session: {
    readonly init: SessionOptions['init'] | undefined
    readonly settings: { readonly [setting: string]: string }
  }
  readonly statements: {
    readonly prepare: 'auto' | 'never' | 'always'
    readonly cacheSize: number
    /** The RegExps are copies, without state and frozen. */
    readonly never: readonly (string | RegExp)[]
  }
  readonly transactions: { readonly lazyBegin: boolean; readonly resolveCommit: boolean }
  readonly onCreateConnection: SmartPgOptions['onCreateConnection'] | undefined
  readonly onReserveConnection: SmartPgOptions['onReserveConnection'] | undefined
  readonly routing: {
    readonly readWriteSplit: boolean
    readonly maxLagMs: number
    readonly maxLagBytes: number
    readonly strategy: BalanceStrategy
    readonly readYourWrites: ReadYourWrites
    readonly fallbackToPrimary: boolean
    readonly fallbackLimit: number
    readonly readOnlyTransactions: boolean
    readonly functions: { readonly readOnly: readonly string[]; readonly writing: readonly string[] }
    readonly zone: string | undefined
    readonly healthThreshold: number
    readonly lookup: Lookup | undefined
  }
  readonly failover: { readonly probeIntervalMs: number; readonly timeoutMs: number; readonly attempts: number }
  /** null: no breaker. */
  readonly breaker: BreakerSettings | null
  readonly retry: {
    readonly attempts: number
    readonly baseMs: number
    readonly maxMs: number
    readonly budget: number
  }
  readonly queryTimeoutMs: number
  readonly metrics: { readonly registry: Registry | undefined } | null
  readonly logger: Logger | undefined
}
