// What `npm run bench` does: one PostgreSQL, every client in a process of its own, short rounds in turns, and tables.
// Read on in workloads/ (what is asked), clients/ (who is asked), compare.ts and round.ts (how it is measured), delay/
// (the network in between) and README.md (what came out).

import { availableParallelism } from 'node:os'
import { startCluster } from '../test/support/postgres/cluster.ts'
import type { Cluster } from '../test/support/postgres/cluster.ts'
import { createDatabase } from '../test/support/postgres/database.ts'
import { ask } from '../test/support/postgres/server.ts'
import { ensureBuilt } from './build.ts'
import { compare } from './compare.ts'
import type { Entrant } from './compare.ts'
import { openLine } from './delay/line.ts'
import { enter, everyone, takingPart } from './field.ts'
import type { Ground } from './field.ts'
import { readFlags, usage } from './flags.ts'
import type { Flags } from './flags.ts'
import { findPgbench } from './pgbench.ts'
import { Results } from './results.ts'
import type { Setting } from './results.ts'
import type { RoundPlan } from './round.ts'
import { setUp, tenantRole } from './schema.ts'
import { workloadOf } from './workloads/all.ts'
import type { Workload } from './workloads/contract.ts'

const warmUpMs = 200

/** A fast operation is late when it has waited for longer than this beyond its round trip. */
const lateMs = 20

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
  return ensureBuilt() ? bench(flags) : 2
}

async function bench(flags: Flags): Promise<number> {
  const program = flags.clients.includes('pgbench') ? findPgbench() : undefined
  await using cluster = await startCluster({ settings: settingsFor(flags) })
  const database = await createDatabase(cluster)
  const { url } = database
  try {
    for (const statement of setUp) await ask(url, statement)
    const setting = await settingOf(url, flags)
    introduce(flags, setting, program)
    const results = new Results(flags, setting)
    for (const delay of flags.delays) {
      const line = await openLine(url, delay)
      if (delay > 0)
        console.log(`${delay} ms of network: the proxy adds ${line.addedMs.toFixed(2)} ms to a round trip.\n`)
      try {
        const ground = { line, connections: flags.connections, profiles: flags.profile, program }
        for (const name of flags.workloads) await run(workloadOf(name), flags, cluster, url, ground, results)
      } finally {
        await line.close()
      }
    }
    return results.errors > 0 ? 1 : 0
  } finally {
    await database.drop()
    // Roles belong to no database. Another bench on the same server may still use it, and then drops it.
    await ask(cluster.url, `drop role if exists ${tenantRole}`).catch(() => undefined)
  }
}

function settingsFor({ connections }: Flags): Record<string, string> {
  return {
    shared_buffers: '256MB',
    max_connections: String(20 + connections * everyone.length),
    // Both would come in the middle of somebody's round.
    autovacuum: 'off',
    checkpoint_timeout: '1d',
    max_wal_size: '2GB',
  }
}

async function run(
  workload: Workload,
  flags: Flags,
  { primary }: Cluster,
  url: string,
  ground: Ground,
  results: Results,
): Promise<void> {
  console.log(`### ${workload.name}: ${workload.description}\n`)
  const entrants: Entrant[] = []
  try {
    for (const label of takingPart(flags.clients, workload, ground.program)) {
      entrants.push(await entrant(label, workload, ground))
    }
    for (const callers of workload.crowd === undefined ? flags.concurrency : [0]) {
      for (const statement of workload.refresh ?? []) await ask(url, statement)
      const plan: RoundPlan = {
        workload: workload.name,
        callers,
        warmUpMs,
        measuredMs: 1000 * flags.seconds,
        lateMs: lateMs + ground.line.roundTripMs,
      }
      results.add(workload, callers, ground.line, await compare(entrants, plan, flags.rounds, primary.pid))
    }
  } finally {
    await Promise.all(entrants.map(async ({ participant }) => participant?.close()))
  }
}

async function entrant(label: string, workload: Workload, ground: Ground): Promise<Entrant> {
  try {
    return { label, participant: await enter(label, workload, ground) }
  } catch (error) {
    return { label, participant: null, failed: String(error) }
  }
}

async function settingOf(url: string, { connections }: Flags): Promise<Setting> {
  const [row] = await ask<{ server_version: string; max_connections: string }>(
    url,
    "select current_setting('server_version') as server_version, current_setting('max_connections') as max_connections",
  )
  const needed = connections * everyone.length
  if (Number(row!.max_connections) < needed) {
    console.error(`The server takes ${row!.max_connections} connections; all clients together may want ${needed}.`)
  }
  return { node: process.versions.node, postgres: row!.server_version, cores: availableParallelism() }
}

function introduce(flags: Flags, { node, postgres, cores }: Setting, program: string | undefined): void {
  const { rounds, seconds, connections } = flags
  console.log(`node ${node}, PostgreSQL ${postgres}, ${cores} cores`)
  console.log(`${rounds} rounds of ${seconds} s, ${connections} connections to each client`)
  if (flags.quick) console.log('Quick: rounds so few and so short that the figures are mostly noise.')
  if (flags.clients.includes('pgbench')) {
    console.log(program === undefined ? 'There is no pgbench here: it is left out.' : `pgbench is ${program}`)
  }
  const cells = flags.workloads.map((name) => {
    const workload = workloadOf(name)
    const tables = workload.crowd === undefined ? flags.concurrency.length : 1
    return tables * takingPart(flags.clients, workload, program).length
  })
  const inAll = cells.reduce((sum, cell) => sum + cell, 0) * flags.delays.length * rounds * (seconds + 0.3)
  console.log(`This takes at least ${inAll < 100 ? `${Math.ceil(inAll)} s` : `${Math.ceil(inAll / 60)} minutes`}.\n`)
}
