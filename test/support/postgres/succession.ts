// Who is the primary, and who is it after him. The other files know servers; here is what an operator, or the program
// that he has for it, does to all of them together.
//
//     await crash(cluster)              // the primary is killed; nobody takes over by himself
//     await succeed(cluster)            // the standby that has received most does, and the others follow
//     await switchOver(cluster, standby)

import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import type { Cluster, Server } from './cluster.ts'
import { timeline } from './timeline.ts'

/** Those whose processes run. */
export function running({ primary, replicas }: Cluster): Server[] {
  return [primary, ...replicas].filter(({ pid }) => pid !== undefined)
}

/** Of those that take writes the one of the highest timeline: an old primary that came back has a lower one. */
export async function leader(cluster: Cluster): Promise<Server> {
  const timelines = await Promise.all(running(cluster).map(async (server) => ({ server, at: await timeline(server) })))
  const [first] = timelines.filter(({ at }) => at > 0).toSorted((a, b) => b.at - a.at)
  if (first === undefined) throw new Error('no server of this cluster takes writes')
  return first.server
}

/** Of the standbys that run the one that has received most: only it can be followed by all others. */
export async function heir(cluster: Cluster): Promise<Server> {
  const standbys = await Promise.all(
    running(cluster).map(async (server) => {
      const [row] = await server.query<{ received: string | null }>(
        `select (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::text as received
         where pg_is_in_recovery()`,
      )
      return { server, received: BigInt(row?.received ?? -1) }
    }),
  )
  const [first] = standbys
    .filter(({ received }) => received >= 0)
    .toSorted((a, b) => (a.received > b.received ? -1 : 1))
  if (first === undefined) throw new Error('this cluster has no standby that runs')
  return first.server
}

/** The primary is killed with all its processes; it is handed back. */
export async function crash(cluster: Cluster): Promise<Server> {
  const primary = await leader(cluster)
  await primary.kill9()
  return primary
}

export interface Succession {
  readonly primary: Server
  /** When it was seen to take writes; milliseconds on the wall clock. */
  readonly at: number
}

/** The standby that has received most becomes the primary, and the others follow it unless `alone`. */
export async function succeed(cluster: Cluster, { alone = false } = {}): Promise<Succession> {
  const primary = await heir(cluster)
  const at = await promote(primary)
  if (!alone) await follow(cluster, primary)
  return { primary, at }
}

/** Looked at closely: what PostgreSQL's own function answers may come 100 ms late. */
async function promote(server: Server): Promise<number> {
  const client = new Client({ connectionString: server.url })
  await client.connect()
  try {
    await client.query('select pg_promote(false)')
    for (;;) {
      const { rows } = await client.query<{ standby: boolean }>('select pg_is_in_recovery() as standby')
      if (!rows[0]!.standby) return performance.timeOrigin + performance.now()
      await sleep(2)
    }
  } finally {
    await client.end()
  }
}

/** All standbys that run stream from `primary`, and have replayed what it has. */
export async function follow(cluster: Cluster, primary: Server): Promise<void> {
  const timelines = await Promise.all(running(cluster).map(async (server) => ({ server, at: await timeline(server) })))
  const standbys = timelines.filter(({ at }) => at === 0).map(({ server }) => server)
  await Promise.all(standbys.map((server) => cluster.follow(server, primary)))
  // One that is promoted before it has replayed anything of the new timeline panics (invalid magic number, PostgreSQL 18).
  await Promise.all(standbys.map((server) => cluster.caughtUp(server, primary)))
}

/**
 * As planned maintenance does it: the primary is stopped, which ends when all standbys that stream have received all
 * of it; `to` is promoted, the others follow it, and the old primary comes back as its standby.
 */
export async function switchOver(cluster: Cluster, to: Server): Promise<Succession> {
  const from = await leader(cluster)
  await from.stop('fast')
  const at = await promote(to)
  await follow(cluster, to)
  await cluster.comeBack(from, to)
  await cluster.caughtUp(from, to)
  return { primary: to, at }
}
