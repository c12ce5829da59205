// What `npm run bench` does: one PostgreSQL, every client in a process of its own, short rounds in turns, and a table.
// Only one client works at a time. Read on in workloads.ts (what is asked), clients/ (who is asked), round.ts (how it
// is measured) and README.md (what came out).

import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { startCluster } from '../test/support/postgres/cluster.ts'
import type { Cluster } from '../test/support/postgres/cluster.ts'
import { ClientHandle } from './client-handle.ts'
import { readFlags, usage } from './flags.ts'
import type { Flags } from './flags.ts'
import { tableOf } from './report.ts'
import type { MeasuredRound, Series } from './report.ts'
import type { RoundPlan } from './round.ts'
import { serverCpuUs } from './server-cpu.ts'
import { setUp, workloads } from './workloads.ts'
import type { Workload } from './workloads.ts'

const connections = 10
const warmUpMs = 200

/** The second process of the same client shows how far two equals lie apart on this machine. */
const stock = { label: 'PostgresDialect', client: 'PostgresDialect' }
const measured = [
  { label: 'kysely-smart-pg', client: 'kysely-smart-pg' },
  { label: 'kysely-smart-pg native', client: 'kysely-smart-pg native' },
  stock,
  { label: 'PostgresDialect again', client: 'PostgresDialect' },
]

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
  if (!existsSync(fileURLToPath(import.meta.resolve('kysely-smart-pg')))) {
    console.error('There is no build to measure: npm run build')
    return 2
  }
  return bench(flags)
}

async function bench(flags: Flags): Promise<number> {
  await using cluster = await startCluster({ settings: { shared_buffers: '256MB' } })
  const version = await prepare(cluster)
  console.log(`node ${process.versions.node}, PostgreSQL ${version}, ${availableParallelism()} cores`)
  console.log(`${flags.rounds} rounds of ${flags.seconds} s, ${connections} connections to each client\n`)
  const handles = measured.map(({ label, client }) => new ClientHandle(label, client, flags.profile))
  try {
    for (const handle of handles) await handle.open(cluster.url, connections)
    let errors = 0
    for (const workload of workloads) errors += await compare(handles, cluster, workload, flags)
    return errors > 0 ? 1 : 0
  } finally {
    await Promise.all(handles.map((handle) => handle.close()))
  }
}

async function prepare({ primary }: Cluster): Promise<string> {
  for (const statement of setUp) await primary.query(statement)
  const [row] = await primary.query<{ server_version: string }>('show server_version')
  return row!.server_version
}

/** Prints a table per number of callers; the number of errors comes back. */
async function compare(
  handles: readonly ClientHandle[],
  cluster: Cluster,
  workload: Workload,
  flags: Flags,
): Promise<number> {
  console.log(`### ${workload.name}: ${workload.description}\n`)
  let errors = 0
  for (const concurrency of flags.concurrency) {
    const plan = { workload: workload.name, concurrency, warmUpMs, measuredMs: 1000 * flags.seconds }
    const series = await allRounds(handles, cluster, plan, flags.rounds)
    const divisor = series.find(({ label }) => label === stock.label)!
    console.log(`${tableOf(series, divisor, concurrency)}\n`)
    errors += tell(series)
  }
  return errors
}

async function allRounds(
  handles: readonly ClientHandle[],
  cluster: Cluster,
  plan: RoundPlan,
  count: number,
): Promise<readonly Series[]> {
  const series = handles.map((handle) => ({ handle, label: handle.label, rounds: [] as MeasuredRound[] }))
  for (let n = 0; n < count; n++) {
    // a b c, c b a, a b c …: what changes with time meets all alike.
    for (const { handle, rounds } of n % 2 === 0 ? series : series.toReversed()) {
      rounds.push(await oneRound(handle, cluster, plan))
    }
  }
  return series
}

async function oneRound(handle: ClientHandle, { primary }: Cluster, plan: RoundPlan): Promise<MeasuredRound> {
  const before = serverCpuUs(primary.pid)
  const round = await handle.round(plan)
  return { ...round, serverCpuUs: (serverCpuUs(primary.pid) - before) / round.operations }
}

function tell(series: readonly Series[]): number {
  let sum = 0
  for (const { label, rounds } of series) {
    for (const { errors, firstError } of rounds) {
      sum += errors
      if (errors > 0) console.error(`${label}: ${errors} errors, the first ${firstError}`)
    }
  }
  return sum
}
