// What Prometheus sees. Every metric here is an object that reads the nodes' cells when somebody scrapes, and does
// nothing in between: there is no timer, and no query knows of it. A registry may be shared by several dialects, which
// the label `pool` tells apart. Labels come from closed sets and from the names of pools and nodes, never from SQL.

import { Registry } from 'prom-client'
import type { Metric, RegistryContentType } from 'prom-client'
import type { NodeCells } from '../core/cells.ts'
import { ConfigError } from '../core/errors.ts'
import type { PoolCounts } from '../core/errors.ts'
import { cumulated } from '../core/histogram.ts'
import type { Histogram } from '../core/histogram.ts'
import type { Role } from '../core/types.ts'

/** The registry of every dialect that names none. Never prom-client's own default, so that nothing there collides. */
export const registry: Registry = new Registry()

/** One server at the moment of a scrape. */
export interface NodeSnapshot {
  node: string
  role: Role
  host?: string
  port?: number
  cells: NodeCells
  counts: PoolCounts & { min: number; target?: number }
  /** 0 closed, 1 half-open, 2 open. */
  breakerState: 0 | 1 | 2
  consecutiveFailures: number
  up: boolean
  /** null where there is nothing to lag behind, or where it is not known. */
  lagMs: number | null
  lagBytes: number | null
  healthy: boolean
  inflight: number
}

/** One dialect, as the scrape asks it. */
export interface PoolSource {
  pool: string
  nodes(): Iterable<NodeSnapshot>
  /** Version of this package, and of the server as far as it is known. */
  versions?(): { version: string; server?: string }
}

/** Ends the registration; a second call does nothing. `pool` is the label that the series carry. */
export type Unregister = (() => void) & { readonly pool: string }

/**
 * Shows a pool in a registry until the returned function is called. Where the name is taken, its series carry
 * `name-2`, `name-3` … Throws a ConfigError when the registry holds somebody else's metric of the same name.
 */
export function registerPool(into: Registry<RegistryContentType>, source: PoolSource): Unregister {
  const set = metricSetOf(into)
  set.join(into)
  const pool = set.add(source)
  let registered = true
  const unregister = (): void => {
    // Only once: by the second call the label may be another pool's.
    if (registered) set.pools.delete(pool)
    registered = false
  }
  return Object.assign(unregister, { pool })
}

const metricSets = new WeakMap<object, MetricSet>()

function metricSetOf(of: Registry<RegistryContentType>): MetricSet {
  const known = metricSets.get(of)
  if (known !== undefined) return known
  const set = new MetricSet()
  metricSets.set(of, set)
  return set
}

/** The metrics of one registry and the pools they read. */
class MetricSet {
  readonly pools = new Map<string, PoolSource>()
  readonly #metrics = definitions.map((definition) => new LazyMetric(definition, this.pools))

  /** Asked at every registration, because the user may have cleared the registry since the last one. */
  join(registered: Registry<RegistryContentType>): void {
    const taken = this.#metrics.find((metric) => {
      const present = registered.getSingleMetric(metric.name)
      return present !== undefined && present !== metric.asPromClient()
    })
    if (taken !== undefined) {
      const received = `a registry that holds another metric named ${taken.name}`
      throw new ConfigError([{ path: 'metrics.registry', received, expected: 'a registry where that name is free' }])
    }
    for (const metric of this.#metrics) registered.registerMetric(metric.asPromClient())
  }

  /** Files the pool under its name, or under the first that is free; gives the label back. */
  add(source: PoolSource): string {
    let label = source.pool
    for (let copy = 2; this.pools.has(label); copy++) label = `${source.pool}-${copy}`
    this.pools.set(label, source)
    return label
  }
}

type Labels = Record<string, string | number>

/** `value` is a histogram where the metric's type is. `since` owns the value: with it, what was counted is forgotten. */
interface Reading {
  readonly labels: Labels
  readonly value: number | Histogram
  readonly since: object
}

interface Definition {
  readonly name: string
  readonly help: string
  readonly type: 'gauge' | 'counter' | 'histogram'
  /** How prom-client's cluster mode joins the workers: counts add up, of states and limits the highest speaks. */
  readonly aggregator: 'sum' | 'max' | 'average'
  /** A histogram's values are divided by it: Prometheus wants seconds. */
  readonly divisor: number
  readonly read: (source: PoolSource) => readonly Reading[]
}

interface Sample {
  labels: Labels
  value: number
  metricName?: string
}

/** A metric in the shape that prom-client, and its successor @prometheus-io/client, ask of `registerMetric`. */
class LazyMetric {
  readonly help: string
  readonly type: Definition['type']
  readonly aggregator: Definition['aggregator']
  readonly #definition: Definition
  readonly #pools: ReadonlyMap<string, PoolSource>
  #nameForThisScrape: string | undefined
  #counted = new WeakMap<object, Map<string, number>>()

  constructor(definition: Definition, pools: ReadonlyMap<string, PoolSource>) {
    this.help = definition.help
    this.type = definition.type
    this.aggregator = definition.aggregator
    this.#definition = definition
    this.#pools = pools
  }

  get name(): string {
    return this.#nameForThisScrape ?? this.#definition.name
  }

  /**
   * In OpenMetrics mode the registry takes `_total` off the name just before it asks for the values, and appends it
   * to the samples. That name holds for one scrape only: kept, it would rename the counter in every later scrape in
   * Prometheus' own format.
   */
  set name(name: string) {
    this.#nameForThisScrape = name
  }

  get(): { name: string; help: string; type: string; aggregator: string; values: Sample[] } {
    const { name, help, type, aggregator } = this
    this.#nameForThisScrape = undefined
    return { name, help, type, aggregator, values: this.#samples((sample, since) => this.#sinceReset(sample, since)) }
  }

  /** Counts start anew here; the cells go on, for others read them too. A gauge shows the present and has no past. */
  reset(): void {
    if (this.type === 'gauge') return
    const counted = new WeakMap<object, Map<string, number>>()
    this.#samples((sample, since) => {
      const ofOwner = counted.get(since) ?? new Map<string, number>()
      counted.set(since, ofOwner.set(keyOf(sample), sample.value))
      return sample
    })
    this.#counted = counted
  }

  #sinceReset(sample: Sample, since: object): Sample {
    const before = this.#counted.get(since)?.get(keyOf(sample))
    return before === undefined ? sample : { ...sample, value: sample.value - before }
  }

  #samples(adjust: (sample: Sample, since: object) => Sample): Sample[] {
    const samples: Sample[] = []
    for (const [pool, source] of this.#pools) {
      for (const { labels, value, since } of this.#definition.read(source)) {
        const own = { pool, ...labels }
        const shown = typeof value === 'number' ? [{ labels: own, value }] : this.#buckets(own, value)
        for (const sample of shown) samples.push(adjust(sample, since))
      }
    }
    return samples
  }

  #buckets(labels: Labels, histogram: Histogram): Sample[] {
    const { name, divisor } = this.#definition
    const snapshot = histogram.snapshot()
    const { limits } = snapshot.ladder
    const counts = cumulated(snapshot)
    const buckets = counts.map((value, rung): Sample => {
      const limit = limits[rung]
      const le = limit === undefined ? '+Inf' : limit / divisor
      return { metricName: `${name}_bucket`, labels: { ...labels, le }, value }
    })
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: snapshot.sum / divisor },
      { metricName: `${name}_count`, labels, value: counts.at(-1)! },
    ]
  }

  /** prom-client declares its own classes as the only metrics; what it calls is `name`, `type`, `get` and `reset`. */
  asPromClient(): Metric {
    return this as unknown as Metric
  }
}

function keyOf(sample: Sample): string {
  return JSON.stringify([sample.metricName, sample.labels])
}

const gauge = (
  name: string,
  help: string,
  aggregator: Definition['aggregator'],
  value: (node: NodeSnapshot) => number | null | undefined,
): Definition => {
  // What is not known has no series: a 0 would claim to be an answer.
  const read = (node: NodeSnapshot): Reading[] => {
    const known = value(node)
    return known === null || known === undefined ? [] : [reading(node, known)]
  }
  return define('gauge', name, help, aggregator, perNode(read))
}

const counter = (name: string, help: string, value: (cells: NodeCells) => number): Definition =>
  define(
    'counter',
    name,
    help,
    'sum',
    perNode((node) => [reading(node, value(node.cells))]),
  )

/** One series for each name of a closed set, from the start and at 0, so that `rate()` sees the first event. */
const counterBy = (
  label: string,
  name: string,
  help: string,
  values: (cells: NodeCells) => Record<string, number>,
): Definition => {
  const read = (node: NodeSnapshot): Reading[] =>
    Object.entries(values(node.cells)).map(([key, value]) => reading(node, value, { [label]: key }))
  return define('counter', name, help, 'sum', perNode(read))
}

/** Two labels make dozens of pairs, most of which never occur: unless told otherwise a series begins when one does. */
const counterByPair = (
  [outer, inner]: readonly [string, string],
  name: string,
  help: string,
  values: (cells: NodeCells) => Record<string, Record<string, number>>,
  shown = (value: number, _key: string, _innerKey: string): boolean => value > 0,
): Definition => {
  const read = (node: NodeSnapshot): Reading[] =>
    Object.entries(values(node.cells)).flatMap(([key, row]) =>
      Object.entries(row)
        .filter(([innerKey, value]) => shown(value, key, innerKey))
        .map(([innerKey, value]) => reading(node, value, { [outer]: key, [inner]: innerKey })),
    )
  return define('counter', name, help, 'sum', perNode(read))
}

const histogram = (name: string, help: string, value: (cells: NodeCells) => Histogram, divisor = 1e6): Definition =>
  define(
    'histogram',
    name,
    help,
    'sum',
    perNode((node) => [reading(node, value(node.cells))]),
    divisor,
  )

const histogramBy = (
  label: string,
  name: string,
  help: string,
  values: (cells: NodeCells) => Record<string, { readonly duration: Histogram }>,
): Definition => {
  const read = (node: NodeSnapshot): Reading[] =>
    Object.entries(values(node.cells)).map(([key, cells]) => reading(node, cells.duration, { [label]: key }))
  return define('histogram', name, help, 'sum', perNode(read), 1e6)
}

function define(
  type: Definition['type'],
  name: string,
  help: string,
  aggregator: Definition['aggregator'],
  read: Definition['read'],
  divisor = 1,
): Definition {
  return { name: `connection_pool_${name}`, help, type, aggregator, divisor, read }
}

function perNode(read: (node: NodeSnapshot) => Reading[]): Definition['read'] {
  return (source) => Array.from(source.nodes(), read).flat()
}

function reading(node: NodeSnapshot, value: number | Histogram, labels: Labels = {}): Reading {
  return { labels: { node: node.node, ...labels }, value, since: node.cells }
}

const versionsOf = (source: PoolSource): Reading[] => {
  const versions = source.versions?.()
  if (versions === undefined) return []
  return [{ labels: { version: versions.version, server_version: versions.server ?? '' }, value: 1, since: source }]
}

/** The role stands here and nowhere else: were it a label of the counts, a failover would break every series. */
const nodeInfo = (node: NodeSnapshot): Reading[] => [
  reading(node, 1, { role: node.role, host: node.host ?? '', port: node.port === undefined ? '' : `${node.port}` }),
]

const definitions: readonly Definition[] = [
  gauge('total_connections', 'Open connections, idle or in use.', 'sum', (node) => node.counts.total),
  gauge('active_connections', 'Connections in use.', 'sum', (node) => node.counts.active),
  gauge('idle_connections', 'Connections open and free.', 'sum', (node) => node.counts.idle),
  gauge('connecting_connections', 'Connections being opened.', 'sum', (node) => node.counts.connecting),
  gauge('min_connections', 'Connections that are always kept open.', 'max', (node) => node.counts.min),
  gauge('max_connections', 'Most connections that may be open.', 'max', (node) => node.counts.max),
  gauge('target_connections', 'Connections the sizing wants open.', 'max', (node) => node.counts.target),
  gauge('pending_acquires', 'Callers waiting for a connection.', 'sum', (node) => node.counts.waiting),
  gauge('inflight_queries', 'Statements sent and not yet answered.', 'sum', (node) => node.inflight),
  gauge('utilization_ratio', 'Connections in use, of those that may be open (0-1).', 'average', ({ counts }) =>
    counts.max > 0 ? counts.active / counts.max : 0,
  ),

  counter('connections_opened_total', 'Connections opened.', (cells) => cells.connectionsOpened),
  counterBy('category', 'connect_errors_total', 'Connects that failed.', (cells) => cells.connectErrors),
  counterBy('reason', 'connections_closed_total', 'Connections closed.', (cells) => cells.connectionsClosed),
  counterBy('result', 'acquires_total', 'Requests for a connection, by how they ended.', (cells) => cells.acquires),
  counter('waited_acquires_total', 'Requests for a connection that had to queue.', (cells) => cells.waitedAcquires),
  counter('acquire_timeouts_total', 'Requests that got no connection in time.', (cells) => cells.acquires.timeout),
  counter('leaks_detected_total', 'Connections held longer than pool.leakDetection.', (cells) => cells.leaksDetected),
  histogram('acquire_duration_seconds', 'Wait for a connection.', (cells) => cells.acquireDuration),
  histogram('connect_duration_seconds', 'Time to open a connection.', (cells) => cells.connectDuration),
  histogram('use_duration_seconds', 'Time a caller held a connection.', (cells) => cells.useDuration),

  counter('queries_total', 'Statements settled, well or badly.', (cells) => cells.queries),
  counter('query_errors_total', 'Statements that failed.', (cells) => cells.queryErrors),
  counterBy('operation', 'queries_by_operation_total', 'Statements settled, by kind.', ({ operations }) =>
    Object.fromEntries(Object.entries(operations).map(([kind, cells]) => [kind, cells.queries])),
  ),
  counterBy('category', 'query_errors_by_category_total', 'Statements that failed.', (cells) => cells.errorsByCategory),
  counterByPair(['reason', 'outcome'], 'retries_total', 'Statements sent again.', (cells) => cells.retries),
  counter(
    'resent_reads_total',
    'Reads sent once more on another connection, because what stood before them did not move.',
    (cells) => cells.resent,
  ),
  counter(
    'lock_timeouts_total',
    'Statements that waited too long for a lock on a shared connection and were sent again on one of their own.',
    (cells) => cells.lockTimeouts,
  ),
  histogramBy(
    'operation',
    'query_duration_seconds',
    'Time from sending a statement to its answer.',
    (cells) => cells.operations,
  ),

  gauge('circuit_breaker_state', '0 closed, 1 half-open, 2 open.', 'max', (node) => node.breakerState),
  counterByPair(
    ['from', 'to'],
    'circuit_breaker_transitions_total',
    'Changes of the circuit breaker.',
    (cells) => cells.breakerTransitions,
    // All from the start: the very first opening is the one that an alert on `increase()` must not miss.
    (_value, from, to) => from !== to,
  ),
  counter(
    'circuit_breaker_rejections_total',
    'Statements turned away by the open circuit breaker.',
    (cells) => cells.breakerRejections,
  ),
  gauge(
    'circuit_breaker_consecutive_failures',
    'Faults of the server since its last answer.',
    'max',
    (node) => node.consecutiveFailures,
  ),

  gauge('node_up', '1 while the server answers.', 'max', (node) => (node.up ? 1 : 0)),
  define('gauge', 'node_info', 'Role and address of a node.', 'max', perNode(nodeInfo)),
  gauge('replication_lag_seconds', 'How far a replica is behind, in time.', 'max', (node) =>
    node.lagMs === null ? null : node.lagMs / 1000,
  ),
  gauge('replication_lag_bytes', 'How far a replica is behind, in WAL.', 'max', (node) => node.lagBytes),
  counterByPair(
    ['target', 'reason'],
    'routing_decisions_total',
    'Where statements went, and why.',
    (cells) => cells.routed,
  ),
  counter('reruns_total', 'Statements a replica refused, run again on the primary.', (cells) => cells.reruns),

  counterByPair(['strategy', 'result'], 'batches_total', 'Batches, by how they ended.', ({ batches }) =>
    Object.fromEntries(Object.entries(batches).map(([strategy, cells]) => [strategy, cells.results])),
  ),
  histogram('batch_size', 'Queries in a batch.', (cells) => cells.batchSize, 1),
  histogramBy('strategy', 'batch_duration_seconds', 'Time from the call to the last answer.', (cells) => cells.batches),

  define('gauge', 'info', 'Versions of kysely-smart-pg and of the server.', 'max', versionsOf),
]
