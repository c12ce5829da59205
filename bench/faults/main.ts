// What `npm run bench:faults` does: one PostgreSQL, one client under load at a time, one fault after another, and a
// table. What happens in a run is test/support/fault-load/level.ts, what happens to it scenarios.ts, and who says
// whether all went well judge.ts, all of them in the same folder; what came out is in ../README.md.

import { writeFileSync } from 'node:fs'
import { runLevel, serverSettings } from '../../test/support/fault-load/level.ts'
import type { Level } from '../../test/support/fault-load/level.ts'
import { startCluster } from '../../test/support/postgres/cluster.ts'
import { readFlags, usage } from './flags.ts'
import type { Flags } from './flags.ts'
import { lineOf, tableOf, timelineOf } from './report.ts'

const leadInMs = 2_000
const tailMs = 4_000

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
  return run(flags)
}

async function run(flags: Flags): Promise<number> {
  const { seed, rate, connections: max } = flags
  await using cluster = await startCluster({ settings: serverSettings })
  if (!cluster.owned) {
    console.error('Servers are stopped and killed here: TEST_DATABASE_URL and TEST_PG must not be set.')
    return 2
  }
  const levels: Level[] = []
  for (const scenario of flags.scenarios) {
    const faultMs = 1_000 * (flags.seconds ?? scenario.seconds)
    for (const client of flags.clients) {
      const level = await runLevel(cluster, { scenario, client, seed, rate, max, leadInMs, faultMs, tailMs })
      levels.push(level)
      console.log(lineOf(level))
      if (flags.timeline) console.log(timelineOf(level))
    }
  }
  console.log(`\n${tableOf(levels)}`)
  if (flags.json !== undefined) writeFileSync(flags.json, `${JSON.stringify({ ...flags, levels }, withoutLogs, 1)}\n`)
  return levels.some((level) => isBroken(level, max)) ? 1 : 0
}

function withoutLogs(key: string, value: unknown): unknown {
  return key === 'log' ? undefined : value
}

/** What is promised of ours, however many were answered; stock promises nothing. */
function isBroken({ client, verdict, crashes, capacity, left, destroyMs }: Level, max: number): boolean {
  if (client === 'stock') return false
  return verdict.examples.length > 0 || crashes.length > 0 || capacity < max || left > 0 || destroyMs === null
}
