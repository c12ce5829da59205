// From what a user wrote to the frozen Config that everything inside lives by. Values are looked for in layers
// (own options, breaker preset, preset, defaults), every fault is collected, and nothing is ever corrected: either all
// of it is right, or one ConfigError names all that is not.

import type { BreakerSettings } from '../core/breaker-rules.ts'
import { ConfigError } from '../core/errors.ts'
import type { ConfigFault } from '../core/errors.ts'
import { checkPerNode, checkValue } from './check.ts'
import { checkSource } from './connection.ts'
import type { Source } from './connection.ts'
import { kindOf, pathOf } from './describe.ts'
import { durationText } from './duration.ts'
import { nearestName } from './nearest.ts'
import { checkReplicas } from './nodes.ts'
import type { NamedSource } from './nodes.ts'
import type { Config, NodeConfig, NodePoolConfig, SslOptions } from './options.ts'
import { isObject, ownEntries } from './own.ts'
import { breakerPresets, presets } from './presets.ts'
import { isOptionPath, optionPaths, ruleOf, rules, sections } from './rules.ts'
import type { Checked, NodeValues, OptionPath } from './rules.ts'

/**
 * The Config for these options, or for a connection string alone.
 * Throws a ConfigError with every fault; no message of it shows a password, a URL or a key.
 */
export function resolveConfig(options: unknown): Config {
  const faults: ConfigFault[] = []
  const given = gather(typeof options === 'string' ? { primary: options } : options, faults)
  const primary = given && checkSource(given.get('primary'), 'primary', faults)
  const replicas = checkReplicas(given?.get('replicas'), faults)
  const nodes = replicas.names && ['primary', ...replicas.names]
  const layers = layersOf(given ?? new Map(), nodes, faults)
  checkOrder(layers, nodes ?? ['primary'], faults)
  checkWire(layers, faults)
  if (faults.length > 0) throw new ConfigError(faults)
  return configOf(layers, primary as Source, replicas.sources)
}

type Given = Map<OptionPath, unknown>

/** What was given, option by option. Each property is read once. */
function gather(options: unknown, faults: ConfigFault[]): Given | undefined {
  if (!isObject(options)) {
    faults.push({ path: 'options', received: kindOf(options), expected: 'an object of options or a connection string' })
    return undefined
  }
  const given: Given = new Map()
  gatherSection(options, '', given, faults)
  return given
}

function gatherSection(section: object, parent: string, given: Given, faults: ConfigFault[]): void {
  for (const [key, value] of ownEntries(section)) {
    const path = parent === '' ? key : `${parent}.${key}`
    if (!sections.get(parent)!.has(key)) faults.push(unknownOption(parent, key, value))
    else if (sections.has(path) && isObject(value)) gatherSection(value, path, given, faults)
    else if (value === undefined) continue
    else if (isOptionPath(path)) given.set(path, value)
    else faults.push({ path, received: kindOf(value), expected: 'an object' })
  }
}

/** The nearest name of the same section; else an option of that very name elsewhere (`max` is `pool.max`). */
function unknownOption(parent: string, key: string, value: unknown): ConfigFault {
  const sibling = nearestName(key, sections.get(parent)!)
  const elsewhere = optionPaths.find((path) => path.endsWith(`.${key}`))
  const nearest = sibling === undefined ? elsewhere : pathOf(parent, sibling)
  const fault = { path: pathOf(parent, key), received: kindOf(value), expected: 'a known option' }
  return nearest === undefined ? fault : { ...fault, nearest }
}

/** Checked values of one origin. */
type Layer = Partial<Record<OptionPath, unknown>>

interface Layers {
  readonly own: Layer
  /** Own values first, defaults last. */
  readonly all: readonly Layer[]
  /** Options whose own value was refused: nothing is compared with the default that stands in for them. */
  readonly refused: ReadonlySet<OptionPath>
}

function layersOf(given: Given, nodes: readonly string[] | null, faults: ConfigFault[]): Layers {
  const own = checkAll(given, nodes, faults)
  const refused = new Set([...given.keys()].filter((path) => own[path] === undefined))
  const fromPatch = (patch: object) => checkAll(gather(patch, [])!, nodes, [])
  const preset = fromPatch(presets[(own.preset as Checked<'preset'>) ?? rules.preset.default])
  const breaker = typeof own.breaker === 'string' ? breakerPresets[own.breaker as keyof typeof breakerPresets] : {}
  return { own, all: [own, fromPatch({ breaker }), preset, defaults], refused }
}

const defaults: Layer = checkAll(
  new Map(optionPaths.map((path) => [path, ruleOf(path).default ?? undefined])),
  null,
  [],
)

function checkAll(
  given: ReadonlyMap<OptionPath, unknown>,
  nodes: readonly string[] | null,
  faults: ConfigFault[],
): Layer {
  const layer: Layer = {}
  for (const [path, value] of given) {
    const rule = ruleOf(path)
    if (value === undefined || rule.kind === 'connection' || rule.kind === 'replicas') continue
    const check = rule.perNode ? checkPerNode(rule, path, value, nodes, faults) : checkValue(rule, path, value, faults)
    if (check !== undefined) layer[path] = check
  }
  return layer
}

/** An option's value: never undefined for one that has a default. */
type Found<P extends OptionPath> = (typeof rules)[P] extends { default: null } ? Checked<P> | undefined : Checked<P>

function valueOf<P extends OptionPath>(layers: Layers, path: P): Found<P> {
  return layers.all.find((layer) => layer[path] !== undefined)?.[path] as Found<P>
}

/** A number's value on one node. */
function numberOn(node: string, path: OptionPath, layers: readonly Layer[]): number | undefined {
  for (const layer of layers) {
    const held = layer[path] as number | NodeValues | undefined
    const value = typeof held === 'object' ? (held.get(node) ?? held.get('default')) : held
    if (value !== undefined) return value
  }
  return undefined
}

/** A user's own value must respect its bound. A default gives way instead: `max: 1` alone is right. */
function checkOrder(layers: Layers, nodes: readonly string[], faults: ConfigFault[]): void {
  const reported = new Set<string>()
  for (const path of optionPaths) {
    const { atMost, perNode, kind } = ruleOf(path)
    if (atMost === undefined || layers.refused.has(atMost)) continue
    const text = kind === 'duration' ? durationText : String
    for (const node of perNode ? nodes : ['default']) {
      const value = numberOn(node, path, [layers.own])
      const bound = numberOn(node, atMost, layers.all)!
      if (value === undefined || value <= bound) continue
      const at = perNode && (layers.own[path] as NodeValues).has(node) ? pathOf(path, node) : path
      if (!reported.has(at))
        faults.push({ path: at, received: text(value), expected: `at most ${atMost} (${text(bound)})` })
      reported.add(at)
    }
  }
}

/** pg's own Client waits for each answer, so that nothing can ride behind a write. */
function checkWire(layers: Layers, faults: ConfigFault[]): void {
  if (valueOf(layers, 'wire') !== 'pg') return
  for (const path of ['pool.pipelineWrites', 'transactions.resolveCommit'] as const) {
    if (valueOf(layers, path)) faults.push({ path, received: 'true', expected: "false, or `wire: 'native'`" })
  }
}

function configOf(layers: Layers, primary: Source, replicas: readonly NamedSource[]): Config {
  const value = <P extends OptionPath>(path: P) => valueOf(layers, path)
  const name = value('name') ?? cutToLabel(primary.database ?? 'postgres')
  const ssl = value('ssl')
  const nodes = replicas.map((replica) => nodeOf(replica, layers))
  return Object.freeze<Config>({
    name,
    preset: value('preset'),
    wire: value('wire'),
    primary: nodeOf({ name: 'primary', source: primary }, layers),
    replicas: Object.freeze(nodes),
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
    routing: Object.freeze({
      readWriteSplit: value('routing.readWriteSplit') ?? nodes.length > 0,
      maxLagMs: value('routing.maxLag.ms'),
      maxLagBytes: value('routing.maxLag.bytes'),
      readYourWrites: value('routing.readYourWrites'),
      fallbackToPrimary: value('routing.fallbackToPrimary'),
      readOnlyTransactions: value('routing.readOnlyTransactions'),
    }),
    probeIntervalMs: value('failover.probeInterval'),
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

function nodeOf({ name, source }: NamedSource, layers: Layers): NodeConfig {
  const max = numberOn(name, 'pool.max', layers.all)!
  const upToMax = (path: OptionPath) => Math.min(numberOn(name, path, layers.all)!, max)
  const pool: NodePoolConfig = {
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
  }
  return Object.freeze({ name, target: Object.freeze(source.target), pool: Object.freeze(pool) })
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
