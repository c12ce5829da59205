// A real PostgreSQL cluster for tests, demo and bench: a primary and streaming standbys on this machine, made from
// nothing in about a second and gone without a trace. Start here; the other files of this folder are its parts.
//
//     const cluster = await startCluster({ replicas: 2 })
//     await cluster.primary.query('create table t (id int)')
//     await cluster.caughtUp()
//     await cluster.close()
//
// TEST_DATABASE_URL (and TEST_REPLICA_URLS, separated by commas) gives servers of your own instead, which are only
// asked and never stopped; TEST_PG=testcontainers a primary in a container; TEST_PG_VERSION chooses a major version.

import { once } from 'node:events'
import { chmodSync, cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { giveTo } from './account.ts'
import { findBinaries } from './binaries.ts'
import { borrowedServer, containedServer, refuse } from './borrowed.ts'
import { freePort } from './free-port.ts'
import { Premises } from './premises.ts'
import { OwnServer, tail, type Server } from './server.ts'

export type { Server, StopMode } from './server.ts'

export interface ClusterOptions {
  /** Standbys. Default 0. */
  replicas?: number
  /** Lines of postgresql.conf for all servers, over the ones below. */
  settings?: Record<string, string>
  /** Major version. Default: TEST_PG_VERSION, else what is found first. */
  version?: number
}

export interface Cluster extends AsyncDisposable {
  readonly primary: Server
  readonly replicas: readonly Server[]
  /** The primary's url and the replicas' urls, as `createDatabase` takes them. */
  readonly url: string
  readonly replicaUrls: readonly string[]
  /** False: servers of TEST_DATABASE_URL or a container; nothing here but `caughtUp` and `close` works then. */
  readonly owned: boolean
  /** The temporary folder; undefined when there is none. */
  readonly folder: string | undefined
  /** Settles when the replicas (or replica `i`) have replayed all that `from` (the primary) has written so far. */
  caughtUp(i?: number, from?: Server): Promise<void>
  /** Replica `i` receives but does not replay: it lags. */
  pauseReplay(i: number): Promise<void>
  resumeReplay(i: number): Promise<void>
  /** Replica `i` loses its connection to the primary, and finds none. */
  cutOff(i: number): Promise<void>
  /**
   * Replica `i` streams from `from` (default: the primary): after a cut, or after a promotion. It cannot when it has
   * replayed more of the old primary than the promoted one had: stop the old primary first, while both stream.
   */
  follow(i: number, from?: Server): Promise<void>
  /** Ends all processes and removes the folder. Also done when the program ends without it. */
  close(): Promise<void>
}

// Speed where a test loses nothing by it, then what a cluster on one machine needs.
const defaults: Record<string, string> = {
  fsync: 'off', // kill -9 loses nothing by that: the operating system has the pages
  full_page_writes: 'off',
  max_connections: '200',
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_keep_size: '256MB', // a standby that was away finds its WAL
  wal_retrieve_retry_interval: '200ms', // 5 s by default: how long it waits before it asks again
  dynamic_shared_memory_type: 'mmap', // in the data directory, so that it goes with the folder even after kill -9
  timezone: 'UTC',
  log_timezone: 'UTC',
}

const withinMs = 30_000

export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const { replicas = 0, settings = {} } = options
  const url = process.env['TEST_DATABASE_URL']
  if (url) {
    const replicaUrls = (process.env['TEST_REPLICA_URLS'] ?? '').split(',').filter(Boolean)
    return borrowedCluster(borrowedServer(url), replicaUrls.slice(0, replicas).map(borrowedServer))
  }
  if (process.env['TEST_PG'] === 'testcontainers') {
    const container = await containedServer({ max_connections: '200', ...settings })
    return borrowedCluster(container.server, [], container.stop)
  }
  return ownCluster(replicas, settings, options.version ?? (Number(process.env['TEST_PG_VERSION']) || undefined))
}

function borrowedCluster(primary: Server, replicas: readonly Server[], stop = async (): Promise<void> => {}): Cluster {
  return {
    primary,
    replicas,
    url: primary.url,
    replicaUrls: replicas.map((replica) => replica.url),
    owned: false,
    folder: undefined,
    caughtUp: (i, from = primary) => caughtUp(from, i === undefined ? replicas : [at(replicas, i)]),
    pauseReplay: refuse,
    resumeReplay: refuse,
    cutOff: refuse,
    follow: refuse,
    close: stop,
    [Symbol.asyncDispose]: stop,
  }
}

async function ownCluster(count: number, settings: Record<string, string>, version?: number): Promise<Cluster> {
  const premises = new Premises()
  try {
    const bin = findBinaries(version).unpack(premises.folder)
    giveTo(premises.account, premises.folder)
    const primary = new OwnServer(premises, bin, 'primary', await freePort())
    await initialize(premises, bin, primary)
    primary.configure({ ...defaults, ...settings })
    const replicas: OwnServer[] = []
    for (let i = 0; i < count; i++) replicas.push(await copyOf(primary, premises, bin, `replica-${i + 1}`))
    await Promise.all([primary, ...replicas].map((server) => server.start()))
    const cluster = clusterOf(premises, primary, replicas)
    await streaming(primary, count)
    return cluster
  } catch (error) {
    premises.clear()
    throw error
  }
}

function clusterOf(premises: Premises, primary: OwnServer, replicas: readonly OwnServer[]): Cluster {
  const close = async (): Promise<void> => premises.clear()
  return {
    primary,
    replicas,
    url: primary.url,
    replicaUrls: replicas.map((replica) => replica.url),
    owned: true,
    folder: premises.folder,
    caughtUp: (i, from = primary) => caughtUp(from, i === undefined ? replicas : [at(replicas, i)]),
    pauseReplay: async (i) => {
      await at(replicas, i).query('select pg_wal_replay_pause()')
      // It pauses at the next record or a moment later; until then it still applies.
      await until(async () => {
        const [row] = await at(replicas, i).query<{ state: string }>('select pg_get_wal_replay_pause_state() as state')
        return row?.state === 'paused'
      }, `replica ${i} did not pause its replay`)
    },
    resumeReplay: async (i) => {
      await at(replicas, i).query('select pg_wal_replay_resume()')
    },
    cutOff: async (i) => {
      await connectTo(at(replicas, i), await freePort())
      await until(async () => (await receivers(at(replicas, i))) === 0, `replica ${i} is still connected`)
    },
    follow: async (i, from = primary) => {
      await connectTo(at(replicas, i), from.port)
      await until(async () => (await receivers(at(replicas, i))) === 1, `replica ${i} does not stream`)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

async function initialize(premises: Premises, bin: string, server: OwnServer): Promise<void> {
  const log = join(premises.folder, 'initdb.log')
  const args = ['-D', server.data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync']
  const initdb = premises.spawn(join(bin, 'initdb'), args, log)
  const [code] = (await once(initdb, 'exit')) as [number | null]
  if (code !== 0) throw new Error(`initdb failed:\n${tail(log)}`)
}

// A data directory that was never started is as good as a base backup, and needs no program to make.
async function copyOf(primary: OwnServer, premises: Premises, bin: string, name: string): Promise<OwnServer> {
  const replica = new OwnServer(premises, bin, name, await freePort())
  cpSync(primary.data, replica.data, { recursive: true })
  chmodSync(replica.data, 0o700) // the copy has the umask's mode, which PostgreSQL refuses
  writeFileSync(join(replica.data, 'standby.signal'), '')
  replica.configure({ primary_conninfo: conninfo(primary.port, name) })
  giveTo(premises.account, replica.data)
  return replica
}

function conninfo(port: number, name: string): string {
  return `host=127.0.0.1 port=${port} user=postgres application_name=${name}`
}

async function connectTo(replica: OwnServer, port: number): Promise<void> {
  replica.configure({ primary_conninfo: conninfo(port, replica.name) })
  await replica.reload()
}

async function receivers(replica: Server): Promise<number> {
  const [row] = await replica.query<{ n: number }>(
    "select count(*)::int as n from pg_stat_wal_receiver where status = 'streaming'",
  )
  return row?.n ?? 0
}

async function streaming(primary: Server, count: number): Promise<void> {
  if (count === 0) return
  await until(async () => {
    const [row] = await primary.query<{ n: number }>(
      "select count(*)::int as n from pg_stat_replication where state = 'streaming'",
    )
    return row?.n === count
  }, 'the replicas do not stream')
}

async function caughtUp(primary: Server, replicas: readonly Server[]): Promise<void> {
  const [row] = await primary.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn')
  const lsn = row?.lsn
  await Promise.all(
    replicas.map((replica) =>
      until(async () => {
        const [here] = await replica.query<{ reached: boolean }>(
          'select pg_last_wal_replay_lsn() >= $1::pg_lsn as reached',
          [lsn],
        )
        return here?.reached === true
      }, `the replica on port ${replica.port} has not replayed ${lsn}`),
    ),
  )
}

function at<T extends Server>(replicas: readonly T[], i: number): T {
  const replica = replicas[i]
  if (!replica) throw new RangeError(`there is no replica ${i}; the cluster has ${replicas.length}`)
  return replica
}

async function until(holds: () => Promise<boolean>, otherwise: string): Promise<void> {
  const deadline = performance.now() + withinMs
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${otherwise} within ${withinMs} ms`)
    await sleep(5)
  }
}
