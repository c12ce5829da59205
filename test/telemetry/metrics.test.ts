// What a Prometheus server, and a person with a registry in hand, sees of a dialect.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { AggregatorRegistry, Counter, register, Registry } from 'prom-client'
import type { RegistryContentType } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { ERROR_CATEGORIES, NodeCells, QUERY_KINDS } from '../../src/core/cells.ts'
import { isSmartPgError } from '../../src/core/errors.ts'
import { registerPool, registry } from '../../src/telemetry/metrics.ts'
import type { NodeSnapshot, PoolSource } from '../../src/telemetry/metrics.ts'

interface Series {
  name: string
  labels: Record<string, string>
  value: number
}
interface Exposition {
  types: Map<string, string>
  series: Series[]
}

/** Reads Prometheus' text format strictly: a line that is not of the format throws. */
function parse(text: string): Exposition {
  const types = new Map<string, string>()
  const series: Series[] = []
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# HELP ') || line === '# EOF') continue
    const type = /^# TYPE ([a-z_]+) (gauge|counter|histogram)$/.exec(line)
    if (type) {
      if (types.has(type[1]!)) throw new Error(`Two types: ${line}`)
      types.set(type[1]!, type[2]!)
      continue
    }
    const sample = /^([a-z_]+)\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\} (-?[0-9.e+-]+)$/.exec(line)
    if (!sample) throw new Error(`Not of the format: ${line}`)
    const labels = Object.fromEntries(
      Array.from(sample[2]!.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g), ([, label, escaped]) => [label!, escaped!]),
    )
    series.push({ name: sample[1]!, labels, value: Number(sample[3]) })
  }
  return { types, series }
}

async function scrape(from: { metrics(): Promise<string> }): Promise<Exposition> {
  return parse(await from.metrics())
}

function find(exposition: Exposition, name: string, labels: Record<string, string> = {}): Series[] {
  return exposition.series.filter(
    (series) =>
      series.name === `connection_pool_${name}` &&
      Object.entries(labels).every(([label, text]) => series.labels[label] === text),
  )
}

/** The value of the one series with that name and those labels. */
function value(exposition: Exposition, name: string, labels: Record<string, string> = {}): number {
  const found = find(exposition, name, labels)
  if (found.length !== 1) throw new Error(`${found.length} series of ${name} with ${JSON.stringify(labels)}`)
  return found[0]!.value
}

function labelsOf(exposition: Exposition, name: string): string[] {
  const sets = new Set(find(exposition, name).map((series) => Object.keys(series.labels).toSorted().join()))
  if (sets.size !== 1) throw new Error(`${sets.size} sets of labels on ${name}`)
  return [...sets][0]!.split(',')
}

function withoutInfo(exposition: Exposition): Series[] {
  return exposition.series.filter((series) => series.name !== 'connection_pool_node_info')
}

function aNode(over: Partial<NodeSnapshot> = {}): NodeSnapshot {
  return {
    node: 'primary',
    role: 'primary',
    host: 'db.example',
    port: 5432,
    cells: new NodeCells(),
    counts: { total: 5, active: 3, idle: 2, connecting: 1, waiting: 4, min: 1, max: 10 },
    breakerState: 0,
    consecutiveFailures: 0,
    up: true,
    lagMs: null,
    lagBytes: null,
    healthy: true,
    inflight: 7,
    ...over,
  }
}

function anOpenMetricsRegistry(): Registry<RegistryContentType> {
  const made = new Registry<RegistryContentType>()
  made.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
  return made
}

function aPool(pool: string, ...nodes: NodeSnapshot[]): PoolSource {
  return { pool, nodes: () => nodes }
}

/** What one worker of a cluster sends: through JSON, as it travels to the primary process. */
async function aWorker(active: number, breakerState: 0 | 1 | 2, us: number): Promise<object> {
  const into = new Registry()
  const counts = { total: active, active, idle: 0, connecting: 0, waiting: 0, min: 0, max: 10 }
  const node = aNode({ counts, breakerState })
  node.cells.queries = active
  node.cells.acquireDuration.observe(us)
  registerPool(into, aPool('orders', node))
  return JSON.parse(JSON.stringify(await into.getMetricsAsJSON())) as object
}

const everyMetric = [
  'total_connections active_connections idle_connections connecting_connections min_connections max_connections',
  'target_connections pending_acquires inflight_queries utilization_ratio connections_opened_total',
  'connect_errors_total connections_closed_total acquires_total waited_acquires_total acquire_timeouts_total',
  'leaks_detected_total acquire_duration_seconds connect_duration_seconds use_duration_seconds queries_total',
  'query_errors_total queries_by_operation_total query_errors_by_category_total retries_total',
  'resent_reads_total lock_timeouts_total',
  'query_duration_seconds circuit_breaker_state circuit_breaker_transitions_total circuit_breaker_rejections_total',
  'circuit_breaker_consecutive_failures node_up node_info replication_lag_seconds replication_lag_bytes',
  'routing_decisions_total reruns_total batches_total batch_size batch_duration_seconds info',
].flatMap((line) => line.split(' ').map((name) => `connection_pool_${name}`))

describe('a scrape', () => {
  test('shows the state of each node as it is now', async () => {
    const into = new Registry()
    const replica = aNode({
      node: 'replica-1',
      role: 'replica',
      up: false,
      breakerState: 2,
      consecutiveFailures: 6,
      lagMs: 1500,
      lagBytes: 4096,
      counts: { total: 1, active: 1, idle: 0, connecting: 0, waiting: 0, min: 0, max: 4, target: 3 },
    })
    registerPool(into, aPool('orders', aNode(), replica))
    const seen = await scrape(into)
    const primary = { pool: 'orders', node: 'primary' }
    expect(value(seen, 'total_connections', primary)).toBe(5)
    expect(value(seen, 'active_connections', primary)).toBe(3)
    expect(value(seen, 'idle_connections', primary)).toBe(2)
    expect(value(seen, 'connecting_connections', primary)).toBe(1)
    expect(value(seen, 'min_connections', primary)).toBe(1)
    expect(value(seen, 'max_connections', primary)).toBe(10)
    expect(value(seen, 'pending_acquires', primary)).toBe(4)
    expect(value(seen, 'inflight_queries', primary)).toBe(7)
    expect(value(seen, 'utilization_ratio', primary)).toBe(0.3)
    expect(value(seen, 'node_up', primary)).toBe(1)
    expect(value(seen, 'circuit_breaker_state', primary)).toBe(0)
    const second = { node: 'replica-1' }
    expect(value(seen, 'node_up', second)).toBe(0)
    expect(value(seen, 'circuit_breaker_state', second)).toBe(2)
    expect(value(seen, 'circuit_breaker_consecutive_failures', second)).toBe(6)
    expect(value(seen, 'replication_lag_seconds', second)).toBe(1.5)
    expect(value(seen, 'replication_lag_bytes', second)).toBe(4096)
    expect(value(seen, 'target_connections', second)).toBe(3)
  })

  test('reads the cells anew each time', async () => {
    const into = new Registry()
    const node = aNode()
    registerPool(into, aPool('orders', node))
    expect(value(await scrape(into), 'queries_total')).toBe(0)
    node.cells.queries += 2
    expect(value(await scrape(into), 'queries_total')).toBe(2)
  })

  test('shows what is not known as absent and not as 0', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode({ lagMs: null, lagBytes: null })))
    const seen = await scrape(into)
    for (const name of ['replication_lag_seconds', 'replication_lag_bytes', 'target_connections', 'info']) {
      expect(find(seen, name)).toEqual([])
    }
  })

  test('a pool that may open nothing is not utilized', async () => {
    const into = new Registry()
    const counts = { total: 0, active: 0, idle: 0, connecting: 0, waiting: 0, min: 0, max: 0 }
    registerPool(into, aPool('orders', aNode({ counts })))
    expect(value(await scrape(into), 'utilization_ratio')).toBe(0)
  })

  test('has every metric of the documentation, each with help and a type', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode()))
    const { types } = await scrape(into)
    expect([...types.keys()].toSorted()).toEqual(everyMetric.toSorted())
    for (const [name, type] of types) expect(name.endsWith('_total')).toBe(type === 'counter')
  })

  test('an unusual pool name is escaped', async () => {
    const into = new Registry()
    registerPool(into, aPool('a"b\\c\nd', aNode()))
    const [series] = find(await scrape(into), 'queries_total')
    expect(series!.labels.pool).toBe('a\\"b\\\\c\\nd')
  })
})

describe('counters', () => {
  test('queries_total and query_errors_total carry exactly pool and node, so that their ratio can be taken', async () => {
    const into = new Registry()
    const node = aNode()
    node.cells.queries = 10
    node.cells.queryErrors = 3
    registerPool(into, aPool('orders', node))
    const seen = await scrape(into)
    expect(labelsOf(seen, 'queries_total')).toEqual(['node', 'pool'])
    expect(labelsOf(seen, 'query_errors_total')).toEqual(['node', 'pool'])
    expect(value(seen, 'queries_total')).toBe(10)
    expect(value(seen, 'query_errors_total')).toBe(3)
  })

  test('what happened stands in the series of its own label and in no other', async () => {
    const into = new Registry()
    const node = aNode()
    const { cells } = node
    cells.connectionsOpened = 2
    cells.connectErrors.connection_refused = 3
    cells.connectionsClosed.lifetime = 4
    cells.acquires.ok = 5
    cells.acquires.timeout = 6
    cells.waitedAcquires = 7
    cells.leaksDetected = 8
    cells.operations.write_bulk.queries = 9
    cells.errorsByCategory.deadlock = 10
    cells.retries.unreachable.ok = 11
    cells.breakerTransitions.closed.open = 12
    cells.breakerRejections = 13
    cells.reruns = 14
    cells.routed.primary['own-write'] = 15
    cells.batches['best-effort'].results.partial = 16
    registerPool(into, aPool('orders', node))
    const seen = await scrape(into)
    const counted = seen.series
      .filter((series) => series.name.endsWith('_total') && series.value > 0)
      .map(({ name, labels: { pool: _pool, node: _node, ...rest }, value: n }) => [name.slice(16), rest, n])
    expect(counted).toEqual([
      ['connections_opened_total', {}, 2],
      ['connect_errors_total', { category: 'connection_refused' }, 3],
      ['connections_closed_total', { reason: 'lifetime' }, 4],
      ['acquires_total', { result: 'ok' }, 5],
      ['acquires_total', { result: 'timeout' }, 6],
      ['waited_acquires_total', {}, 7],
      ['acquire_timeouts_total', {}, 6],
      ['leaks_detected_total', {}, 8],
      ['queries_by_operation_total', { operation: 'write_bulk' }, 9],
      ['query_errors_by_category_total', { category: 'deadlock' }, 10],
      ['retries_total', { reason: 'unreachable', outcome: 'ok' }, 11],
      ['circuit_breaker_transitions_total', { from: 'closed', to: 'open' }, 12],
      ['circuit_breaker_rejections_total', {}, 13],
      ['routing_decisions_total', { target: 'primary', reason: 'own-write' }, 15],
      ['reruns_total', {}, 14],
      ['batches_total', { strategy: 'best-effort', result: 'partial' }, 16],
    ])
  })

  test('the first error of a category is not lost to rate(): its series stands at 0 from the start', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode()))
    const seen = await scrape(into)
    const categories = find(seen, 'query_errors_by_category_total').map((series) => series.labels.category)
    expect(categories).toEqual(ERROR_CATEGORIES)
    expect(value(seen, 'circuit_breaker_transitions_total', { from: 'closed', to: 'open' })).toBe(0)
  })

  test('no breaker changes from a state to itself', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode()))
    const transitions = find(await scrape(into), 'circuit_breaker_transitions_total')
    expect(transitions).toHaveLength(6)
    expect(transitions.filter(({ labels }) => labels.from === labels.to)).toEqual([])
  })

  test('a pair of reason and outcome has a series only once it has happened', async () => {
    const into = new Registry()
    const node = aNode()
    registerPool(into, aPool('orders', node))
    expect(find(await scrape(into), 'retries_total')).toEqual([])
    node.cells.retries['connection-lost'].failed++
    expect(find(await scrape(into), 'retries_total')).toHaveLength(1)
  })
})

describe('histograms', () => {
  test('classic buckets are exact, cumulative, in seconds, and agree with count and sum', async () => {
    const into = new Registry()
    const node = aNode()
    for (const us of [500, 501, 2_500, 2_501, 163_000, 10_000_000, 10_000_001]) node.cells.acquireDuration.observe(us)
    registerPool(into, aPool('orders', node))
    const seen = await scrape(into)
    const buckets = find(seen, 'acquire_duration_seconds_bucket').map((series) => [series.labels.le, series.value])
    expect(buckets).toEqual([
      ['0.0005', 1],
      ['0.001', 2],
      ['0.0025', 3],
      ['0.005', 4],
      ['0.01', 4],
      ['0.025', 4],
      ['0.05', 4],
      ['0.1', 4],
      ['0.25', 5],
      ['0.5', 5],
      ['1', 5],
      ['2.5', 5],
      ['5', 5],
      ['10', 6],
      ['+Inf', 7],
    ])
    expect(value(seen, 'acquire_duration_seconds_count')).toBe(7)
    expect(value(seen, 'acquire_duration_seconds_sum')).toBeCloseTo(20.169003, 9)
    expect(labelsOf(seen, 'acquire_duration_seconds_bucket')).toEqual(['le', 'node', 'pool'])
    expect(labelsOf(seen, 'acquire_duration_seconds_sum')).toEqual(['node', 'pool'])
  })

  test('query durations are kept per kind of statement', async () => {
    const into = new Registry()
    const node = aNode()
    node.cells.operations.read_complex.duration.observe(30_000)
    registerPool(into, aPool('orders', node))
    const seen = await scrape(into)
    const counts = find(seen, 'query_duration_seconds_count')
    expect(counts.map((series) => series.labels.operation)).toEqual(QUERY_KINDS)
    expect(counts.filter((series) => series.value > 0).map((series) => series.labels.operation)).toEqual([
      'read_complex',
    ])
    expect(value(seen, 'query_duration_seconds_sum', { operation: 'read_complex' })).toBe(0.03)
    expect(labelsOf(seen, 'query_duration_seconds_bucket')).toEqual(['le', 'node', 'operation', 'pool'])
  })

  test('the size of a batch is a number of queries and not a time', async () => {
    const into = new Registry()
    const node = aNode()
    node.cells.batchSize.observe(20)
    node.cells.batchSize.observe(21)
    registerPool(into, aPool('orders', node))
    const seen = await scrape(into)
    expect(value(seen, 'batch_size_bucket', { le: '20' })).toBe(1)
    expect(value(seen, 'batch_size_bucket', { le: '50' })).toBe(2)
    expect(value(seen, 'batch_size_sum')).toBe(41)
  })

  test('connects, uses and batches are timed each on their own', async () => {
    const into = new Registry()
    const node = aNode()
    node.cells.connectDuration.observe(1_000_000)
    node.cells.useDuration.observe(2_000_000)
    node.cells.batches.transactional.duration.observe(3_000_000)
    registerPool(into, aPool('orders', node))
    const seen = await scrape(into)
    expect(value(seen, 'connect_duration_seconds_sum')).toBe(1)
    expect(value(seen, 'use_duration_seconds_sum')).toBe(2)
    expect(value(seen, 'batch_duration_seconds_sum', { strategy: 'transactional' })).toBe(3)
  })
})

describe('a failover', () => {
  test('moves the role and leaves every counter where it was', async () => {
    const into = new Registry()
    const node = aNode({ node: 'a', role: 'replica' })
    node.cells.routed.replica.read = 5
    registerPool(into, aPool('orders', node))
    const before = await scrape(into)
    node.role = 'primary'
    const after = await scrape(into)
    expect(withoutInfo(after)).toEqual(withoutInfo(before))
    expect(find(before, 'node_info').map((series) => series.labels.role)).toEqual(['replica'])
    expect(find(after, 'node_info').map((series) => series.labels.role)).toEqual(['primary'])
  })
})

describe('info', () => {
  test('a node tells role, host and port', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode()))
    expect(find(await scrape(into), 'node_info')).toEqual([
      {
        name: 'connection_pool_node_info',
        labels: { pool: 'orders', node: 'primary', role: 'primary', host: 'db.example', port: '5432' },
        value: 1,
      },
    ])
  })

  test('a node whose address is not known still tells its role', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode({ host: undefined, port: undefined })))
    expect(find(await scrape(into), 'node_info')[0]!.labels).toMatchObject({ role: 'primary', host: '', port: '' })
  })

  test('a pool tells the versions it knows', async () => {
    const into = new Registry()
    registerPool(into, { ...aPool('orders', aNode()), versions: () => ({ version: '0.1.0', server: '18.4' }) })
    expect(find(await scrape(into), 'info')).toEqual([
      {
        name: 'connection_pool_info',
        labels: { pool: 'orders', version: '0.1.0', server_version: '18.4' },
        value: 1,
      },
    ])
  })
})

describe('several dialects in one registry', () => {
  test('stand next to each other under their own label', async () => {
    const into = new Registry()
    const orders = aNode()
    const billing = aNode()
    orders.cells.queries = 1
    billing.cells.queries = 2
    registerPool(into, aPool('orders', orders))
    registerPool(into, aPool('billing', billing))
    const seen = await scrape(into)
    expect(value(seen, 'queries_total', { pool: 'orders' })).toBe(1)
    expect(value(seen, 'queries_total', { pool: 'billing' })).toBe(2)
  })

  test('of the same name do not collide: the second is told the label it got', async () => {
    const into = new Registry()
    const first = aNode()
    const second = aNode()
    first.cells.queries = 1
    second.cells.queries = 2
    expect(registerPool(into, aPool('orders', first)).pool).toBe('orders')
    expect(registerPool(into, aPool('orders', second)).pool).toBe('orders-2')
    expect(registerPool(into, aPool('orders', aNode())).pool).toBe('orders-3')
    const seen = await scrape(into)
    expect(value(seen, 'queries_total', { pool: 'orders' })).toBe(1)
    expect(value(seen, 'queries_total', { pool: 'orders-2' })).toBe(2)
  })

  test("a suffix that is somebody's real name is passed over", () => {
    const into = new Registry()
    registerPool(into, aPool('orders-2', aNode()))
    registerPool(into, aPool('orders', aNode()))
    expect(registerPool(into, aPool('orders', aNode())).pool).toBe('orders-3')
  })

  test('do not see what stands in another registry', async () => {
    const one = new Registry()
    const other = new Registry()
    registerPool(one, aPool('orders', aNode()))
    expect(registerPool(other, aPool('orders', aNode())).pool).toBe('orders')
    expect(find(await scrape(one), 'queries_total')).toHaveLength(1)
  })
})

describe('unregister', () => {
  test('removes every series of the pool and of no other', async () => {
    const into = new Registry()
    const unregister = registerPool(into, aPool('orders', aNode()))
    registerPool(into, aPool('billing', aNode()))
    unregister()
    const pools = new Set((await scrape(into)).series.map((series) => series.labels.pool))
    expect([...pools]).toEqual(['billing'])
  })

  test('frees the name', () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode()))()
    expect(registerPool(into, aPool('orders', aNode())).pool).toBe('orders')
  })

  test('called twice does not remove the pool that took the name since', async () => {
    const into = new Registry()
    const source = aPool('orders', aNode())
    const unregister = registerPool(into, source)
    unregister()
    registerPool(into, source)
    unregister()
    expect(find(await scrape(into), 'queries_total')).toHaveLength(1)
  })

  test('a pool that is gone is not asked again', async () => {
    const into = new Registry()
    let asked = 0
    const nodes = (): NodeSnapshot[] => {
      asked++
      return []
    }
    const unregister = registerPool(into, { pool: 'orders', nodes })
    await into.metrics()
    expect(asked).toBeGreaterThan(0)
    unregister()
    const before = asked
    await into.metrics()
    expect(asked).toBe(before)
  })
})

describe("the user's registry", () => {
  test('keeps its own metrics and labels', async () => {
    const into = new Registry()
    into.setDefaultLabels({ service: 'shop' })
    new Counter({ name: 'orders_placed_total', help: 'Own.', registers: [into] }).inc(3)
    registerPool(into, aPool('orders', aNode()))
    const seen = await scrape(into)
    expect(seen.series.find((series) => series.name === 'orders_placed_total')!.value).toBe(3)
    expect(find(seen, 'queries_total')[0]!.labels).toEqual({ pool: 'orders', node: 'primary', service: 'shop' })
  })

  test('that was cleared shows the next dialect again', async () => {
    const into = new Registry()
    registerPool(into, aPool('orders', aNode()))
    into.clear()
    registerPool(into, aPool('billing', aNode()))
    expect(find(await scrape(into), 'queries_total', { pool: 'billing' })).toHaveLength(1)
  })

  test('that holds another metric of our name is refused by name, and is left as it was', async () => {
    const into = new Registry()
    const theirs = new Counter({ name: 'connection_pool_queries_total', help: 'Somebody else.', registers: [into] })
    const attempt = (): unknown => registerPool(into, aPool('orders', aNode()))
    expect(attempt).toThrow(/metrics\.registry.*connection_pool_queries_total/)
    expect(attempt).toThrow(expect.toSatisfy((error: unknown) => isSmartPgError(error, 'SMARTPG_CONFIG')))
    expect(into.getMetricsAsArray()).toEqual([theirs])
  })

  test('resetMetrics() makes counts start anew and leaves states and the cells alone', async () => {
    const into = new Registry()
    const node = aNode()
    node.cells.queries = 10
    node.cells.acquireDuration.observe(700)
    registerPool(into, aPool('orders', node))
    into.resetMetrics()
    node.cells.queries += 2
    node.cells.acquireDuration.observe(300)
    const seen = await scrape(into)
    expect(value(seen, 'queries_total')).toBe(2)
    expect(value(seen, 'acquire_duration_seconds_bucket', { le: '0.0005' })).toBe(1)
    expect(value(seen, 'acquire_duration_seconds_count')).toBe(1)
    expect(value(seen, 'acquire_duration_seconds_sum')).toBeCloseTo(0.0003, 9)
    expect(value(seen, 'total_connections')).toBe(5)
    expect(node.cells.queries).toBe(12)
  })

  test('a new pool under the name of one that was reset and left counts from its own 0', async () => {
    const into = new Registry()
    const old = aNode()
    old.cells.queries = 10
    const unregister = registerPool(into, aPool('orders', old))
    into.resetMetrics()
    unregister()
    const young = aNode()
    young.cells.queries = 1
    registerPool(into, aPool('orders', young))
    expect(value(await scrape(into), 'queries_total')).toBe(1)
  })
})

describe('OpenMetrics', () => {
  test('a counter is named without _total and its samples with it', async () => {
    const into = anOpenMetricsRegistry()
    registerPool(into, aPool('orders', aNode()))
    const text = await into.metrics()
    expect(text).toContain('# TYPE connection_pool_queries counter')
    expect(text).toContain('connection_pool_queries_total{pool="orders",node="primary"} 0')
    expect(text).not.toContain('_total_total')
    expect(text.endsWith('# EOF\n')).toBe(true)
    const { types } = parse(text)
    expect([...types.keys()].toSorted()).toEqual(everyMetric.map((name) => name.replace(/_total$/, '')).toSorted())
  })

  test('scraped in turn with the Prometheus format, each scrape has its own names', async () => {
    const into = new Registry<RegistryContentType>()
    registerPool(into, aPool('orders', aNode()))
    const before = await into.metrics()
    into.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
    const openMetrics = await into.metrics()
    into.setContentType(Registry.PROMETHEUS_CONTENT_TYPE)
    expect(await into.metrics()).toBe(before)
    into.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
    expect(await into.metrics()).toBe(openMetrics)
  })

  test('a dialect that comes after a scrape does not double the metrics', async () => {
    const into = anOpenMetricsRegistry()
    registerPool(into, aPool('orders', aNode()))
    await into.metrics()
    registerPool(into, aPool('billing', aNode()))
    expect(find(await scrape(into), 'queries_total')).toHaveLength(2)
  })
})

describe('cluster mode', () => {
  test('counts add up, of states and limits the highest speaks, ratios are averaged', async () => {
    const together = AggregatorRegistry.aggregate([await aWorker(2, 0, 400), await aWorker(4, 2, 900)])
    const seen = await scrape(together)
    expect(value(seen, 'queries_total')).toBe(6)
    expect(value(seen, 'active_connections')).toBe(6)
    expect(value(seen, 'max_connections')).toBe(10)
    expect(value(seen, 'circuit_breaker_state')).toBe(2)
    expect(value(seen, 'utilization_ratio')).toBeCloseTo(0.3, 9)
    expect(value(seen, 'acquire_duration_seconds_bucket', { le: '0.0005' })).toBe(1)
    expect(value(seen, 'acquire_duration_seconds_bucket', { le: '0.001' })).toBe(2)
    expect(value(seen, 'acquire_duration_seconds_count')).toBe(2)
    expect(value(seen, 'node_info')).toBe(1)
  })
})

describe('the exported registry', () => {
  test("is not prom-client's own, where nothing of ours ever stands", () => {
    const unregister = registerPool(registry, aPool('orders', aNode()))
    unregister()
    expect(registry).not.toBe(register)
    expect(register.getMetricsAsArray()).toEqual([])
  })

  test('importing it starts nothing: no timer, no socket, no metric, and the process ends by itself', async () => {
    const at = new URL('../../src/telemetry/metrics.ts', import.meta.url).href
    // What reads the module's own file is gone once the import has settled.
    const script = `
      const timers = ['setTimeout', 'setInterval', 'setImmediate']
      const started = []
      for (const name of timers) globalThis[name] = () => started.push(name)
      const before = process.getActiveResourcesInfo().toSorted()
      const { registry } = await import(${JSON.stringify(at)})
      const after = process.getActiveResourcesInfo().toSorted()
      console.log(JSON.stringify({ started, before, after, metrics: registry.getMetricsAsArray().length }))
    `
    const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script])
    expect(stderr).toBe('')
    const seen = JSON.parse(stdout) as { started: string[]; before: string[]; after: string[]; metrics: number }
    expect(seen.started).toEqual([])
    expect(seen.after).toEqual(seen.before)
    expect(seen.metrics).toBe(0)
  })
})
