// What our own decisions cost, in nanoseconds: `node bench/acquire.ts`. No network: the engine runs against the scripted
// server of the tests, on the system's clock, because reading it is part of the price. It measures the sources, which
// need no build.

import { resolveConfig } from '../src/config/resolve.ts'
import { systemChance, systemClock } from '../src/engine/clock.ts'
import { Engine } from '../src/engine/engine.ts'
import { Listeners } from '../src/engine/listeners.ts'
import { FactsCache } from '../src/sql/facts-of.ts'
import { faultOf } from '../src/wire/fault-of.ts'
import { ScriptedServer } from '../test/support/scripted-server.ts'
import { spreadOf } from './statistics.ts'

const rounds = 15
const callsPerRound = 200_000
const sql = 'select "id", "value" from "bench" where "id" = $1'

interface Case {
  readonly name: string
  readonly goalNs?: number
  /** Calls it so often; what comes back is used, so that nothing can be left out as useless. */
  readonly run: (calls: number) => unknown
}

async function startEngine(): Promise<Engine> {
  const server = new ScriptedServer(systemClock)
  // Between its rounds a session is idle for longer than it may be without being asked whether it lives.
  const pool = { validateAfterIdle: '1h' }
  const engine = new Engine(resolveConfig({ primary: 'postgres://bench@primary/bench', pool }), {
    clock: systemClock,
    chance: systemChance,
    listeners: new Listeners(),
    faultOf,
    opener: () => server.open,
  })
  engine.start()
  await engine.ready(5_000)
  return engine
}

function poolCase({ cluster }: Engine): Case {
  const { pool } = cluster.primary
  const run = (calls: number): unknown => {
    let last
    for (let i = 0; i < calls; i++) {
      last = pool.take()
      if (last === null) throw new Error('no idle session')
      pool.release(last)
    }
    return last
  }
  return { name: 'pool: take + release of an idle session', goalNs: 1_000, run }
}

function breakerCase({ cluster, clock }: Engine): Case {
  const { primary } = cluster
  const run = (calls: number): unknown => {
    let permit
    for (let i = 0; i < calls; i++) {
      permit = primary.admitQuery(clock.now())
      if (permit === null) throw new Error('the circuit is open')
      primary.settleQuery(permit, 'success', clock.now())
    }
    return permit
  }
  return { name: 'breaker: admit + settle of a query', run }
}

function factsCase(): Case {
  const facts = new FactsCache()
  // Every query arrives as a new string, and its hash must be computed anew.
  const texts = Array.from({ length: callsPerRound }, () => Buffer.from(sql).toString('latin1'))
  const run = (calls: number): unknown => {
    let last
    for (let i = 0; i < calls; i++) last = facts.of(texts[i]!)
    return last
  }
  return { name: 'facts: of a text seen before', run }
}

function nsPerCall({ run }: Case): number {
  const began = process.hrtime.bigint()
  used.push(run(callsPerRound))
  return Number(process.hrtime.bigint() - began) / callsPerRound
}

const used: unknown[] = []
const engine = await startEngine()
const cases = [poolCase(engine), breakerCase(engine), factsCase()]
const series = cases.map((one) => ({ one, ns: [] as number[] }))
for (const { one } of series) nsPerCall(one)
for (let round = 0; round < rounds; round++) {
  for (const { one, ns } of round % 2 === 0 ? series : series.toReversed()) ns.push(nsPerCall(one))
}
await engine.stop()

console.log(`${rounds} rounds of ${callsPerRound.toLocaleString('en-US')} calls, ns per call: median (min–max)\n`)
for (const { one, ns } of series) {
  const { median, min, max } = spreadOf(ns)
  const goal = one.goalNs === undefined ? '' : `, goal ≤ ${one.goalNs}`
  console.log(`${one.name.padEnd(42)} ${Math.round(median)} (${Math.round(min)}–${Math.round(max)})${goal}`)
}
