// From what a user wrote to the frozen Config that everything inside lives by. Values are looked for in layers
// (own options, breaker preset, preset, defaults), every fault is collected, and nothing is ever corrected: either all
// of it is right, or one ConfigError names all that is not.

import type { BreakerSettings } from '../core/breaker-rules.ts'
import { ConfigError } from '../core/errors.ts'
import type { ConfigFault } from '../core/errors.ts'
import { pathOf, shown } from './describe.ts'
import { checkOrder, gather, layersOf, numberOn, valueOf } from './layers.ts'
import type { Layers } from './layers.ts'
import { checkAdded, checkServers } from './nodes.ts'
import type { Server, Servers } from './nodes.ts'
import type { Config, NodeConfig, NodePoolConfig, SslOptions } from './options.ts'
import { rules } from './rules.ts'
import type { OptionPath } from './rules.ts'

/**
 * The Config for these options, or for a connection string alone.
 * Throws a ConfigError with every fault; no message of it shows a password, a URL or a key.
 */
export function resolveConfig(options: unknown): Config {
  const faults: ConfigFault[] = []
  const given = gather(typeof options === 'string' ? { primary: options } : options, faults)
  const servers = given === undefined ? nobody : checkServers(given, faults)
  const layers = layersOf(given ?? new Map(), servers.names, faults)
  checkOrder(layers, servers.names ?? ['primary'], faults)
  checkWire(layers, faults)
  checkFunctions(layers, faults)
  if (faults.length > 0) throw new ConfigError(faults)
  return configOf(layers, servers)
}

const nobody: Servers = { names: null, sources: [], rolesUnknown: false }

/**
 * A server that joins those of `config` while they run; `taken` are the names of those there are. Its pool is that of
 * the name, else that of any server that is not named. Throws a ConfigError with every fault.
 */
export function resolveReplica(given: unknown, taken: readonly string[], config: Config): NodeConfig {
  const faults: ConfigFault[] = []
  const server = checkAdded(given, config.rolesUnknown ? 'host' : 'replica', taken, faults)
  if (server === undefined || faults.length > 0) throw new ConfigError(faults)
  const namesake = [config.primary, ...config.replicas].find((node) => node.name === server.name)
  return nodeOf(server, namesake?.pool ?? config.pool)
}

/** pg's own Client waits for each answer, so that nothing can ride behind a write. */
function checkWire(layers: Layers, faults: ConfigFault[]): void {
  if (valueOf(layers, 'wire') !== 'pg') return
  for (const path of ['pool.pipelineWrites', 'transactions.resolveCommit'] as const) {
    if (valueOf(layers, path)) faults.push({ path, received: 'true', expected: "false, or `wire: 'native'`" })
  }
}

/** One function cannot both write and not. */
function checkFunctions(layers: Layers, faults: ConfigFault[]): void {
  const readOnly = valueOf(layers, 'routing.functions.readOnly')
  valueOf(layers, 'routing.functions.writing')?.forEach((name, index) => {
    if (!readOnly?.includes(name)) return
    const path = pathOf('routing.functions.writing', index)
    faults.push({ path, received: shown(name), expected: 'a name that does not stand in `readOnly`, too' })
  })
}

function configOf(layers: Layers, { sources, rolesUnknown }: Servers): Config {
  const value = <P extends OptionPath>(path: P) => valueOf(layers, path)
  const name = value('name') ?? cutToLabel(sources[0]!.source.database ?? 'postgres')
  const ssl = value('ssl')
  const [primary, ...replicas] = sources.map((server) => nodeOf(server, poolOf(server.name, layers)))
  return Object.freeze<Config>({
    name,
    preset: value('preset'),
    wire: value('wire'),
    primary: primary!,
    replicas: Object.freeze(replicas),
    rolesUnknown,
    pool: poolOf('default', layers),
    // A getter, so that whoever reads it has a copy of his own, and Config is frozen.
    get ssl() {
      return concealed(ssl)
    },
    allowInsecureAuth: value('allowInsecureAuth'),
    types: value('types'),
    applicationName: value('applicationName') ?? cutToLabel(`kysely-smart-pg:${name}`),
    session: Object.freeze({
      init: value('session.init'),
      settings: Object.freeze(value('session.settings') ?? {}),
    }),
    statements: Object.freeze({
      prepare: value('statements.prepare'),
      cacheSize: value('statements.cacheSize'),
      never: value('statements.never') ?? Object.freeze([]),
    }),
    transactions: Object.freeze({
      lazyBegin: value('transactions.lazyBegin'),
      resolveCommit: value('transactions.resolveCommit'),
    }),
    onCreateConnection: value('onCreateConnection'),
    onReserveConnection: value('onReserveConnection'),
    routing: routingOf(layers, primary!),
    failover: Object.freeze({
      probeIntervalMs: value('failover.probeInterval'),
      timeoutMs: value('failover.timeout'),
      attempts: value('failover.attempts'),
    }),
    breaker: breakerOf(layers),
    retry: Object.freeze({
      attempts: value('retry.attempts'),
      baseMs: Math.min(value('retry.base'), value('retry.max')),
      maxMs: value('retry.max'),
      budget: value('retry.budget'),
    }),
    queryTimeoutMs: value('queryTimeout'),
    metrics: value('metrics') === false ? null : Object.freeze({ registry: value('metrics.registry') }),
    logger: value('logger'),
  })
}

function routingOf(layers: Layers, primary: NodeConfig): Config['routing'] {
  const value = <P extends OptionPath>(path: P) => valueOf(layers, path)
  const none: readonly string[] = Object.freeze([])
  return Object.freeze({
    readWriteSplit: value('routing.readWriteSplit'),
    maxLagMs: value('routing.maxLag.ms'),
    maxLagBytes: value('routing.maxLag.bytes'),
    strategy: value('routing.strategy'),
    readYourWrites: value('routing.readYourWrites'),
    fallbackToPrimary: value('routing.fallbackToPrimary'),
    fallbackLimit: value('routing.fallbackLimit') ?? primary.pool.max,
    readOnlyTransactions: value('routing.readOnlyTransactions'),
    functions: Object.freeze({
      readOnly: value('routing.functions.readOnly') ?? none,
      writing: value('routing.functions.writing') ?? none,
    }),
    zone: value('routing.zone'),
    healthThreshold: value('routing.healthThreshold'),
    lookup: value('routing.lookup'),
  })
}

function nodeOf({ name, source, traits }: Server, pool: NodePoolConfig): NodeConfig {
  return Object.freeze({ name, target: Object.freeze(source.target), pool, traits })
}

/** The pool of the node of this name; no node is called `default`. */
function poolOf(name: string, layers: Layers): NodePoolConfig {
  const max = numberOn(name, 'pool.max', layers.all)!
  const upToMax = (path: OptionPath) => Math.min(numberOn(name, path, layers.all)!, max)
  return Object.freeze({
    min: upToMax('pool.min'),
    initial: upToMax('pool.initial'),
    max,
    minIdle: upToMax('pool.minIdle'),
    acquireTimeoutMs: valueOf(layers, 'pool.acquireTimeout'),
    connectTimeoutMs: valueOf(layers, 'pool.connectTimeout'),
    idleTimeoutMs: valueOf(layers, 'pool.idleTimeout'),
    maxLifetimeMs: valueOf(layers, 'pool.maxLifetime'),
    maxWaiting: valueOf(layers, 'pool.maxWaiting'),
    validateAfterIdleMs: valueOf(layers, 'pool.validateAfterIdle'),
    keepaliveMs: valueOf(layers, 'pool.keepalive'),
    leakDetectionMs: valueOf(layers, 'pool.leakDetection'),
    lanes: valueOf(layers, 'pool.lanes'),
    pipelineWrites: valueOf(layers, 'pool.pipelineWrites'),
  })
}

function breakerOf(layers: Layers): BreakerSettings | null {
  if (valueOf(layers, 'breaker') === false) return null
  const recoveryMaxMs = valueOf(layers, 'breaker.recoveryTimeout.max')
  return Object.freeze({
    failureThreshold: valueOf(layers, 'breaker.failureThreshold'),
    errorRate: valueOf(layers, 'breaker.errorRate'),
    windowMs: valueOf(layers, 'breaker.window'),
    minimumCalls: valueOf(layers, 'breaker.minimumCalls'),
    slowCallMs: valueOf(layers, 'breaker.slowCall'),
    slowCallRate: valueOf(layers, 'breaker.slowCallRate'),
    recoveryMinMs: Math.min(valueOf(layers, 'breaker.recoveryTimeout.min'), recoveryMaxMs),
    recoveryMaxMs,
    halfOpenMaxCalls: valueOf(layers, 'breaker.halfOpenMaxCalls'),
    metricsOnly: valueOf(layers, 'breaker.metricsOnly'),
  })
}

/** PostgreSQL cuts identifiers and `application_name` at 63 bytes; cut between characters, not within one. */
function cutToLabel(text: string): string {
  let label = ''
  for (const character of text) {
    if (Buffer.byteLength(label + character) > rules.name.max) break
    label += character
  }
  return label
}

/** TLS options may hold a private key: usable by whoever connects, hidden from inspection and JSON. */
function concealed(ssl: SslOptions | undefined): SslOptions | undefined {
  if (typeof ssl !== 'object') return ssl
  const hidden = { value: () => '[TLS options]' }
  return Object.defineProperties({ ...ssl }, { toJSON: hidden, [Symbol.for('nodejs.util.inspect.custom')]: hidden })
}
