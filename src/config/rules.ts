// Every option in one table, a line each: its kind, default and range, whether it may change while the dialect
// runs, and a sentence. The checks, the types of the checked values and docs/configuration.md come from it; the
// compiler refuses an option that stands in options.ts and not here, or the other way round.

import type { Registry } from 'prom-client'
import { longestMs } from './duration.ts'
import type { Logger, Lookup, SessionOptions, SmartPgOptions, SslOptions, TypeParsers } from './options.ts'

/** Options that hold options. */
type SectionName =
  | 'pool'
  | 'session'
  | 'statements'
  | 'transactions'
  | 'routing'
  | 'maxLag'
  | 'functions'
  | 'failover'
  | 'breaker'
  | 'recoveryTimeout'
  | 'retry'
  | 'metrics'

type Paths<T, Prefix extends string = ''> = {
  [K in keyof T & string]-?: K extends SectionName
    ? Paths<Extract<NonNullable<T[K]>, object>, `${Prefix}${K}.`>
    : `${Prefix}${K}`
}[keyof T & string]

/** `breaker` and `metrics` are sections that may also be one word or false. */
export type OptionPath = Paths<SmartPgOptions> | 'breaker' | 'metrics'

/** What the value of each kind is once it has been checked. */
export interface Kinds {
  duration: number
  integer: number
  bytes: number
  /** Parts of one. */
  share: number
  boolean: boolean
  choice: string | boolean
  name: string
  hook: NonNullable<SmartPgOptions['onCreateConnection']>
  init: NonNullable<SessionOptions['init']>
  texts: readonly (string | RegExp)[]
  functions: readonly string[]
  lookup: Lookup
  settings: { readonly [setting: string]: string }
  ssl: SslOptions
  parsers: TypeParsers
  registry: Registry
  logger: Logger
  connection: unknown
  replicas: unknown
}
export type Kind = keyof Kinds

export interface Rule {
  readonly kind: Kind
  /** As a user would write it; null: none, or it follows from other options (`derived` says how). */
  readonly default: string | number | boolean | null
  readonly derived?: string
  readonly min?: number
  readonly max?: number
  readonly choices?: readonly (string | boolean)[]
  /** The option that this one must not exceed. */
  readonly atMost?: OptionPath
  /** An object with a value per node name is right, too. */
  readonly perNode?: true
  /** An object is right, too: its options have rules of their own. */
  readonly section?: true
  /** May change while the dialect runs. */
  readonly reloadable: boolean
  readonly doc: string
}

/** PostgreSQL's own upper bound of max_connections. */
const mostConnections = 262_143

// prettier-ignore
export const rules = {
  name: { kind: 'name', default: null, derived: "the database's name", max: 63, reloadable: false, doc: 'Label in metrics, logs and `application_name`.' },
  primary: { kind: 'connection', default: null, derived: 'required, or `hosts`', reloadable: false, doc: 'Where writes go, as long as that server is the primary.' },
  replicas: { kind: 'replicas', default: null, derived: 'none', reloadable: true, doc: 'Where reads may go; an object may add `name`, `zone`, `weight`, `priority`, `tags`, or `connect` instead of coordinates.' },
  hosts: { kind: 'replicas', default: null, derived: 'none', reloadable: true, doc: 'Servers whose roles are found out, written as `replicas` are; instead of `primary` and `replicas`.' },
  preset: { kind: 'choice', default: 'production', choices: ['development', 'staging', 'production', 'serverless'], reloadable: false, doc: 'A set of defaults; own options win.' },
  wire: { kind: 'choice', default: 'native', choices: ['native', 'pg'], reloadable: false, doc: "How statements travel: `native` speaks the protocol itself on the socket that pg has authenticated; `pg` sends each through pg's own Client.query, one at a time, for tools that patch it." },
  ssl: { kind: 'ssl', default: null, derived: 'as pg does: none, with a warning', reloadable: false, doc: 'TLS for every node that says nothing of its own: false, true (verified), or options of node:tls.' },
  allowInsecureAuth: { kind: 'boolean', default: false, reloadable: false, doc: 'Sends the password to servers that ask for it in the clear, or as MD5 hash, without TLS over a network; false: such a connect fails, and nothing was sent.' },
  types: { kind: 'parsers', default: null, derived: "pg's own", reloadable: false, doc: 'Type parsers for this dialect alone.' },
  applicationName: { kind: 'name', default: null, derived: '`kysely-smart-pg:` and the name, cut to 63 bytes', max: 63, reloadable: false, doc: 'What `pg_stat_activity` shows.' },
  'pool.min': { kind: 'integer', default: 1, min: 0, max: mostConnections, atMost: 'pool.max', perNode: true, reloadable: true, doc: 'Connections kept open per node.' },
  'pool.initial': { kind: 'integer', default: 2, min: 0, max: mostConnections, atMost: 'pool.max', perNode: true, reloadable: false, doc: 'Connections opened at the start per node.' },
  'pool.max': { kind: 'integer', default: 50, min: 1, max: mostConnections, perNode: true, reloadable: true, doc: 'Most connections per node.' },
  'pool.minIdle': { kind: 'integer', default: 1, min: 0, max: mostConnections, atMost: 'pool.max', perNode: true, reloadable: true, doc: 'Idle connections kept ready per node.' },
  'pool.acquireTimeout': { kind: 'duration', default: '10s', min: 1, max: longestMs, reloadable: true, doc: 'Longest wait for a connection, connecting and its retries included.' },
  'pool.connectTimeout': { kind: 'duration', default: '10s', min: 1, max: longestMs, reloadable: true, doc: 'Longest time for one connect, authentication included.' },
  'pool.idleTimeout': { kind: 'duration', default: '5min', min: 1, max: longestMs, reloadable: true, doc: 'Idle connections above `min` and `minIdle` are closed after this.' },
  'pool.maxLifetime': { kind: 'duration', default: '30min', min: 1, max: longestMs, reloadable: true, doc: 'A connection is replaced after this, ±15 %.' },
  'pool.maxWaiting': { kind: 'integer', default: 10_000, min: 0, max: 1_000_000, reloadable: true, doc: 'Callers that may wait for a connection at once, per node.' },
  'pool.validateAfterIdle': { kind: 'duration', default: '500ms', min: 0, max: longestMs, reloadable: true, doc: 'A connection idle for longer is asked whether it lives before it is handed out.' },
  'pool.keepalive': { kind: 'duration', default: '30s', min: 0, max: longestMs, reloadable: true, doc: 'Idle connections are pinged this often; 0 = never.' },
  'pool.leakDetection': { kind: 'duration', default: 0, min: 0, max: longestMs, reloadable: true, doc: 'Reports a connection held for longer, with the stack that took it; 0 = off.' },
  'pool.lanes': { kind: 'boolean', default: true, reloadable: true, doc: 'Autocommit statements share connections; false: every statement rides alone.' },
  'pool.pipelineWrites': { kind: 'boolean', default: false, reloadable: true, doc: "Plain writes share connections as well, each under a `lock_timeout` of 20 ms; for direct connections, and not with `wire: 'pg'`." },
  'session.init': { kind: 'init', default: null, derived: 'none', reloadable: false, doc: 'SQL or a function, run once on every new connection and again after each reset.' },
  'session.settings': { kind: 'settings', default: null, derived: 'none', reloadable: false, doc: 'Server settings sent with the startup message, such as `statement_timeout` or `search_path`.' },
  'statements.prepare': { kind: 'choice', default: 'auto', choices: ['auto', 'never', 'always'], reloadable: true, doc: 'Named prepared statements; `auto`: for what repeats, until the server shows it cannot.' },
  'statements.cacheSize': { kind: 'integer', default: 1000, min: 1, max: 100_000, reloadable: true, doc: 'Named statements kept per connection.' },
  'statements.never': { kind: 'texts', default: null, derived: 'none', reloadable: true, doc: 'Statements that are never named.' },
  'transactions.lazyBegin': { kind: 'boolean', default: true, reloadable: true, doc: 'BEGIN leaves together with the first statement; false: it is sent, and answered, by itself.' },
  'transactions.resolveCommit': { kind: 'boolean', default: false, reloadable: true, doc: "A COMMIT whose answer is lost is asked for on another connection that stood before, where that can be known for certain; for direct connections, and not with `wire: 'pg'`." },
  onCreateConnection: { kind: 'hook', default: null, derived: 'none', reloadable: false, doc: 'Called once for each physical connection.' },
  onReserveConnection: { kind: 'hook', default: null, derived: 'none', reloadable: false, doc: 'Called and awaited before the first statement of every lease.' },
  'routing.readWriteSplit': { kind: 'boolean', default: true, reloadable: true, doc: 'Reads may go to replicas; false: all to the primary.' },
  'routing.strategy': { kind: 'choice', default: 'performance', choices: ['performance', 'round-robin', 'least-connections', 'random', 'adaptive'], reloadable: true, doc: 'Which replica takes a read; `performance`: of two at random the one with less work under way for its latency; `adaptive` chooses among the others by what it sees.' },
  'routing.maxLag.ms': { kind: 'duration', default: '10s', min: 0, max: longestMs, reloadable: true, doc: 'A replica further behind in time gets no reads.' },
  'routing.maxLag.bytes': { kind: 'bytes', default: 16 * 1024 * 1024, min: 0, max: Number.MAX_SAFE_INTEGER, reloadable: true, doc: 'A replica further behind in WAL gets no reads.' },
  'routing.readYourWrites': { kind: 'choice', default: 'auto', choices: ['auto', 'session', 'always', 'off'], reloadable: true, doc: 'Which reads see which writes. `auto`: reads of tables that this process wrote see that, and reads within `dialect.session` what the session wrote; `session`: only the latter; `always`: every read sees every write of this process; `off`: none waits.' },
  'routing.fallbackToPrimary': { kind: 'boolean', default: true, reloadable: true, doc: 'Reads go to the primary when no replica will do.' },
  'routing.fallbackLimit': { kind: 'integer', default: null, derived: "the primary's `pool.max`", min: 1, max: 1_000_000, reloadable: true, doc: 'Reads that may run on the primary at once because no replica will do, so that lost replicas do not drown it; the others wait.' },
  'routing.readOnlyTransactions': { kind: 'boolean', default: true, reloadable: true, doc: 'A transaction with access mode `read only` may run on a replica.' },
  'routing.functions.readOnly': { kind: 'functions', default: null, derived: 'as the catalog says', reloadable: true, doc: 'Functions of the database that a replica may run.' },
  'routing.functions.writing': { kind: 'functions', default: null, derived: 'as the catalog says', reloadable: true, doc: 'Functions of the database that only the primary may run.' },
  'routing.zone': { kind: 'name', default: null, derived: 'none', max: 63, reloadable: true, doc: 'Where this process runs: replicas of the same `zone` come first.' },
  'routing.healthThreshold': { kind: 'integer', default: 50, min: 0, max: 100, reloadable: true, doc: 'A replica whose health score falls below this gets no reads until it is 10 above it.' },
  'routing.lookup': { kind: 'lookup', default: null, derived: '`dns.lookup`', reloadable: false, doc: 'How host names are looked up, anew at each connect.' },
  'failover.probeInterval': { kind: 'duration', default: '1s', min: 10, max: longestMs, reloadable: true, doc: 'How often nodes are asked for role and lag while there is traffic.' },
  'failover.timeout': { kind: 'duration', default: '5s', min: 0, max: longestMs, reloadable: true, doc: 'Longest wait of a statement for a new primary, while no server is one; 0 = none.' },
  'failover.attempts': { kind: 'integer', default: 3, min: 1, max: 100, reloadable: true, doc: 'How often a statement is tried in all because the server it came to was no primary any more.' },
  breaker: { kind: 'choice', default: null, derived: 'on, as below', choices: ['conservative', 'balanced', 'tolerant', false], section: true, reloadable: true, doc: 'The circuit breaker of each node: a preset, false for none, or the options below.' },
  'breaker.failureThreshold': { kind: 'integer', default: 5, min: 1, max: 10_000, reloadable: true, doc: 'Consecutive faults of the server that open it; connections that are lost or cannot be had within `recoveryTimeout.min` of each other are one.' },
  'breaker.errorRate': { kind: 'share', default: 0.5, min: 0.01, max: 1, reloadable: true, doc: 'Share of the calls in `window` that fails, which opens it.' },
  'breaker.window': { kind: 'duration', default: '10s', min: 100, max: longestMs, reloadable: true, doc: 'What the rates look back at.' },
  'breaker.minimumCalls': { kind: 'integer', default: 20, min: 1, max: 1_000_000, reloadable: true, doc: 'Calls in `window` below which no rate opens it.' },
  'breaker.slowCall': { kind: 'duration', default: 0, min: 0, max: longestMs, reloadable: true, doc: 'A call that takes this long is slow; 0: only those that run into `queryTimeout` are.' },
  'breaker.slowCallRate': { kind: 'share', default: 0.8, min: 0.01, max: 1, reloadable: true, doc: 'Share of the calls in `window` that is slow, which opens it.' },
  'breaker.recoveryTimeout.min': { kind: 'duration', default: '1s', min: 1, max: longestMs, atMost: 'breaker.recoveryTimeout.max', reloadable: true, doc: 'How long it stays open at first; doubles with each failed trial.' },
  'breaker.recoveryTimeout.max': { kind: 'duration', default: '60s', min: 1, max: longestMs, reloadable: true, doc: 'How long it stays open at most.' },
  'breaker.halfOpenMaxCalls': { kind: 'integer', default: 3, min: 1, max: 10_000, reloadable: true, doc: 'Trial calls let through when it is half open; as many successes close it.' },
  'breaker.metricsOnly': { kind: 'boolean', default: false, reloadable: true, doc: 'It changes its state, counts and tells, and refuses nobody.' },
  'retry.attempts': { kind: 'integer', default: 3, min: 1, max: 100, reloadable: true, doc: 'Tries in all, for reads and for what was never sent; 1 = no retry.' },
  'retry.base': { kind: 'duration', default: '50ms', min: 0, max: longestMs, atMost: 'retry.max', reloadable: true, doc: 'First backoff; full jitter.' },
  'retry.max': { kind: 'duration', default: '2s', min: 0, max: longestMs, reloadable: true, doc: 'Longest backoff.' },
  'retry.budget': { kind: 'share', default: 0.2, min: 0, max: 100, reloadable: true, doc: 'Most retries per node, as a share of its requests of the last ten seconds; ten a second always may.' },
  queryTimeout: { kind: 'duration', default: '30s', min: 0, max: longestMs, reloadable: true, doc: 'From the first byte sent to the answer, per attempt; 0 = none.' },
  metrics: { kind: 'choice', default: null, derived: 'on', choices: [false], section: true, reloadable: false, doc: 'Prometheus metrics; false for none.' },
  'metrics.registry': { kind: 'registry', default: null, derived: 'the exported `registry`', reloadable: false, doc: 'A prom-client Registry of your own.' },
  logger: { kind: 'logger', default: null, derived: '`process.emitWarning`, warnings only', reloadable: false, doc: "Any logger with pino's methods: warnings and background failures." },
} as const satisfies { readonly [P in OptionPath]: Rule }

type Rules = typeof rules

/** One value for all nodes stands under `default`; no node may have that name. */
export type NodeValues = ReadonlyMap<string, number>

/** The type of an option's checked value. */
export type Checked<P extends OptionPath> = Rules[P] extends { perNode: true }
  ? NodeValues
  : Rules[P] extends { choices: readonly (infer Choice)[] }
    ? Choice
    : Kinds[Rules[P]['kind']]

export const optionPaths = Object.keys(rules) as OptionPath[]

export function isOptionPath(path: string): path is OptionPath {
  return Object.hasOwn(rules, path)
}

/** A rule without the literal types of the table. */
export function ruleOf(path: OptionPath): Rule {
  return rules[path]
}

/** The names that stand directly below each section; the top is `''`. */
export const sections: ReadonlyMap<string, ReadonlySet<string>> = sectionsOf(optionPaths)

function sectionsOf(paths: readonly string[]): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>()
  for (const path of paths) {
    const words = path.split('.')
    words.forEach((word, depth) => {
      const parent = words.slice(0, depth).join('.')
      found.set(parent, (found.get(parent) ?? new Set()).add(word))
    })
  }
  return found
}
