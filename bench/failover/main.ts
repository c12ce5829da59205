// What `npm run bench:failover` does: round after round a new cluster, one client under load, somebody takes over or a
// replica fails, and a table. What happens in a round is test/support/fault-load/level.ts, what happens to the cluster
// test/support/failover/scenarios.ts; what came out is in ../README.md.

import { writeFileSync } from 'node:fs'
import { clusterScenarios, startFor } from '../../test/support/failover/scenarios.ts'
import type { ClusterScenario } from '../../test/support/failover/scenarios.ts'
import type { ClientName } from '../../test/support/fault-load/clients.ts'
import { runLevel } from '../../test/support/fault-load/level.ts'
import type { Level } from '../../test/support/fault-load/level.ts'
import { lineOf, timelineOf } from '../faults/report.ts'
import { readFlags, usage } from './flags.ts'
import type { Flags } from './flags.ts'
import { measureOwnReads, ownReadModes } from './own-reads.ts'
import type { OwnReads } from './own-reads.ts'
import { tableOf } from './report.ts'

const leadInMs = 1_000
const tailMs = 3_000

process.exitCode = await main(process.argv.slice(2))

async function main(args: readonly string[]): Promise<number> {
  let flags: Flags | undefined
  try {
    flags = readFlags(args)
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`)
    return 2
  }
  if (flags === undefined) {
    console.log(usage)
    return 0
  }
  if (process.env['TEST_DATABASE_URL'] ?? process.env['TEST_PG']) {
    console.error('Servers are stopped and killed here: TEST_DATABASE_URL and TEST_PG must not be set.')
    return 2
  }
  return run(flags)
}

async function run(flags: Flags): Promise<number> {
  const results: Level[][] = []
  for (const scenario of flags.scenarios) {
    for (const client of flags.clients) {
      const rounds: Level[] = []
      for (let round = 0; round < flags.rounds; round++) rounds.push(await runRound(flags, scenario, client, round))
      results.push(rounds)
    }
  }
  const ownReads: OwnReads[] = []
  for (const mode of flags.ownReads > 0 ? ownReadModes : []) {
    const one = await measureOwnReads(mode, flags.ownReads)
    ownReads.push(one)
    console.log(`readYourWrites ${mode}: ${JSON.stringify(one)}`)
  }
  if (results.length > 0) console.log(`\n${tableOf(results)}`)
  if (flags.json !== undefined) writeFileSync(flags.json, `${JSON.stringify({ ...flags, results, ownReads }, withoutLogs, 1)}\n`) // prettier-ignore
  const stale = ownReads.some(({ mode, missed }) => mode !== 'off' && missed > 0)
  return stale || results.flat().some((level) => isBroken(level, flags.connections)) ? 1 : 0
}

async function runRound(flags: Flags, scenario: ClusterScenario, client: ClientName, round: number): Promise<Level> {
  const { rate, connections: max } = flags
  await using cluster = await startFor(scenario)
  const faultMs = 1_000 * scenario.seconds
  const seed = flags.seed + round
  const level = await runLevel(cluster, { scenario, client, seed, rate, max, leadInMs, faultMs, tailMs })
  console.log(`${round + 1}. ${lineOf(level)}`)
  if (flags.timeline) console.log(timelineOf(level))
  return level
}

function withoutLogs(key: string, value: unknown): unknown {
  return key === 'log' || value === clusterScenarios ? undefined : value
}

/** What is promised of ours, however many were answered; stock promises nothing. */
function isBroken({ client, verdict, crashes, capacity, left, destroyMs }: Level, max: number): boolean {
  if (client.startsWith('stock')) return false
  return verdict.examples.length > 0 || crashes.length > 0 || capacity < max || left > 0 || destroyMs === null
}
