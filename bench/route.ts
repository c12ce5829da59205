// What it costs to decide where a read goes: `node bench/route.ts`. First the balancer alone, by strategy and number of
// replicas; then the whole of it, `Cluster.route` of an engine over scripted servers. The median is of rounds of many
// decisions, nanoseconds each; the 99th percentile is of decisions timed one by one, less what reading the time takes.
// It measures the sources, which need no build.

import { resolveConfig } from '../src/config/resolve.ts'
import { NODE_SQL } from '../src/core/node-sample.ts'
import { Balancer } from '../src/core/balance.ts'
import type { Replica } from '../src/core/balance.ts'
import { Standing } from '../src/core/standing.ts'
import { systemChance, systemClock } from '../src/engine/clock.ts'
import { Engine } from '../src/engine/engine.ts'
import { Listeners } from '../src/engine/listeners.ts'
import { FactsCache } from '../src/sql/facts-of.ts'
import { faultOf } from '../src/wire/fault-of.ts'
import { ScriptedServer } from '../test/support/scripted-server.ts'
import { medianOf, percentile, spreadOf } from './statistics.ts'

const rounds = 15
const callsPerRound = 100_000
const timedPerRound = 20_000
const strategies = ['performance', 'round-robin', 'least-connections', 'random', 'adaptive'] as const
const sql = 'select "id", "value" from "bench" where "id" = $1'

interface Case {
  readonly name: string
  /** One decision; what comes back is used, so that nothing can be left out as useless. */
  readonly decide: () => unknown
}

/** Each with a past of its own, and now and then another load, so that no branch is always the same. */
function balancerCase(strategy: (typeof strategies)[number], count: number): Case {
  const balancer = new Balancer({ strategy, zone: 'a', healthThreshold: 50 }, systemChance)
  const replicas: (Replica & { load: number })[] = Array.from({ length: count }, (_, i) => {
    const standing = new Standing({ zone: 'a', weight: 1 + (i % 3), priority: 1, tags: [] })
    for (let j = 0; j < 100; j++) standing.answered(true, 1 + ((i + j) % 4), j, 2)
    return { name: `replica-${i + 1}`, standing, load: i % 3 }
  })
  let now = 100
  const decide = (): unknown => {
    // As under 20,000 reads a second.
    now += 0.05
    const chosen = balancer.choose(replicas, count, now)!
    chosen.load = (chosen.load + 1) % 4
    return chosen
  }
  return { name: `choose: ${strategy}, ${count} ${count === 1 ? 'replica' : 'replicas'}`, decide }
}

function routeCase({ cluster }: Engine, strategy: string): Case {
  const statement = { sql, parameters: [], facts: new FactsCache().of(sql) }
  const ask = {
    statement,
    transaction: 'none',
    forcePrimary: false,
    wish: undefined,
    session: undefined,
    failedOn: [],
  } as const
  const decide = (): unknown => {
    const routed = cluster.route(ask)
    if (routed?.node.role !== 'replica') throw new Error('a read went to the primary')
    return routed
  }
  return { name: `route: ${strategy}, ${cluster.replicas.length} replicas`, decide }
}

async function startEngine(count: number, strategy: (typeof strategies)[number]): Promise<Engine> {
  // What the monitor asks, as a primary and replicas answer that are level with it.
  const sizes = { block: '8192', segment: '16777216' }
  const primary = new ScriptedServer(systemClock)
  primary.on(NODE_SQL, () => ({ rows: [{ recovering: 'false', lsn: '0/1000', ...sizes }] }))
  const standby = new ScriptedServer(systemClock)
  const level = { recovering: 'true', received: '0/1000', replayed: '0/1000', receiving: 'true', ...sizes }
  standby.on(NODE_SQL, () => ({ rows: [level] }))
  const replicas = Array.from({ length: count }, (_, i) => `postgres://bench@replica-${i + 1}/bench`)
  const config = resolveConfig({ primary: 'postgres://bench@primary/bench', replicas, routing: { strategy } })
  const engine = new Engine(config, {
    clock: systemClock,
    chance: systemChance,
    listeners: new Listeners(),
    faultOf,
    opener: ({ name }) => (name === 'primary' ? primary.open : standby.open),
  })
  engine.start()
  await engine.ready(5_000)
  return engine
}

function nsPerDecision({ decide }: Case): number {
  const began = process.hrtime.bigint()
  for (let i = 0; i < callsPerRound; i++) used = decide()
  return Number(process.hrtime.bigint() - began) / callsPerRound
}

/** Nanoseconds that one in a hundred exceeds. */
function p99Of(decide: () => unknown): number {
  for (let i = 0; i < timedPerRound; i++) {
    const began = process.hrtime.bigint()
    used = decide()
    timed[i] = Number(process.hrtime.bigint() - began)
  }
  return percentile(timed.toSorted(), 0.99)
}

let used: unknown
const timed = new Float64Array(timedPerRound)
const engines: Engine[] = []
const cases = [1, 2, 8].flatMap((count) => strategies.map((strategy) => balancerCase(strategy, count)))
for (const [count, strategy] of [
  [2, 'performance'],
  [8, 'performance'],
  [8, 'round-robin'],
] as const) {
  const engine = await startEngine(count, strategy)
  engines.push(engine)
  cases.push(routeCase(engine, strategy))
}
const series = cases.map((one) => ({ one, ns: [] as number[], p99: [] as number[] }))
const clockP99: number[] = []
for (const { one } of series) nsPerDecision(one)
for (let round = 0; round < rounds; round++) {
  clockP99.push(p99Of(() => used))
  for (const { one, ns, p99 } of round % 2 === 0 ? series : series.toReversed()) {
    ns.push(nsPerDecision(one))
    p99.push(p99Of(one.decide))
    // The monitor's questions are answered between the rounds, so that the replicas stay fit for reads.
    await new Promise((resolve) => setImmediate(resolve))
  }
}
await Promise.all(engines.map((engine) => engine.stop()))

const decisions = callsPerRound.toLocaleString('en-US')
console.log(`${rounds} rounds of ${decisions} decisions, ns each: median (min–max); 99th percentile of single ones\n`)
for (const { one, ns, p99 } of series) {
  const { median, min, max } = spreadOf(ns)
  const alone = Math.max(0, medianOf(p99) - medianOf(clockP99))
  const spread = `${Math.round(median)} (${Math.round(min)}–${Math.round(max)})`
  console.log(`${one.name.padEnd(40)} ${spread.padEnd(18)} p99 ${Math.round(alone)}`)
}
if (used === undefined) throw new Error('nothing was decided')
