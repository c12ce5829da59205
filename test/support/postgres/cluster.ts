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
import { join } from 'node:path'
import { giveTo } from './account.ts'
import { findBinaries } from './binaries.ts'
import { borrowedServer, containedServer, refuse } from './borrowed.ts'
import { freePort } from './free-port.ts'
import { Premises } from './premises.ts'
import { OwnServer, tail, type Server } from './server.ts'
import { copyOf, rebuildFrom, standBy, streamFrom } from './standby.ts'
import { timeline } from './timeline.ts'
import { until } from './until.ts'

export type { Server, StopMode } from './server.ts'

export interface ClusterOptions {
  /** Standbys. Default 0. */
  replicas?: number
  /** Lines of postgresql.conf for all servers, over the ones below. */
  settings?: Record<string, string>
  /**
   * The first primary acknowledges a commit when one standby at least has it, so that none is lost when it crashes and
   * the standby that has received most is promoted. That one then waits for nobody.
   */
  synchronous?: boolean
  /** Major version. Default: TEST_PG_VERSION, else what is found first. */
  version?: number
}

export interface Cluster extends AsyncDisposable {
  /** As they were when it started; who is the primary by now says `leader` in succession.ts. */
  readonly primary: Server
  readonly replicas: readonly Server[]
  /** The primary's url and the replicas' urls, as `createDatabase` takes them. */
  readonly url: string
  readonly replicaUrls: readonly string[]
  /** False: servers of TEST_DATABASE_URL or a container; nothing here but `caughtUp` and `close` works then. */
  readonly owned: boolean
  /** The temporary folder; undefined when there is none. */
  readonly folder: string | undefined
  /** Settles when the replicas (or one of them) have replayed all that `from` (the primary) has written so far. */
  caughtUp(which?: Which, from?: Server): Promise<void>
  /** It receives but does not replay: it lags. */
  pauseReplay(which: Which): Promise<void>
  resumeReplay(which: Which): Promise<void>
  /** It loses its connection to the primary, and finds none. */
  cutOff(which: Which): Promise<void>
  /**
   * It streams from `from` (default: the primary): after a cut, or after a promotion. It cannot when it has
   * replayed more of the old primary than the promoted one had: stop the old primary first, while both stream.
   */
  follow(which: Which, from?: Server): Promise<void>
  /**
   * A server that is down comes back as a standby of `of`, and streams. What it wrote last, `of` must have: as after a
   * proper stop while `of` was streaming. After a crash see `rebuild`.
   */
  comeBack(server: Server, of: Server): Promise<void>
  /** A server that is down comes back as a standby of `of` with a new copy of its data, and streams. */
  rebuild(server: Server, of: Server): Promise<void>
  /** Ends all processes and removes the folder. Also done when the program ends without it. */
  close(): Promise<void>
}

/** A replica by its number, or any server. */
export type Which = number | Server

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

export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const { replicas = 0, settings = {}, synchronous = false } = options
  const url = process.env['TEST_DATABASE_URL']
  if (url) {
    const replicaUrls = (process.env['TEST_REPLICA_URLS'] ?? '').split(',').filter(Boolean)
    return borrowedCluster(borrowedServer(url), replicaUrls.slice(0, replicas).map(borrowedServer))
  }
  if (process.env['TEST_PG'] === 'testcontainers') {
    const container = await containedServer({ max_connections: '200', ...settings })
    return borrowedCluster(container.server, [], container.stop)
  }
  const version = options.version ?? (Number(process.env['TEST_PG_VERSION']) || undefined)
  return ownCluster({ replicas, settings, synchronous, version })
}

function borrowedCluster(primary: Server, replicas: readonly Server[], stop = async (): Promise<void> => {}): Cluster {
  return {
    primary,
    replicas,
    url: primary.url,
    replicaUrls: replicas.map((replica) => replica.url),
    owned: false,
    folder: undefined,
    caughtUp: (which, from = primary) => caughtUp(from, which === undefined ? replicas : [at(replicas, which)]),
    pauseReplay: refuse,
    resumeReplay: refuse,
    cutOff: refuse,
    follow: refuse,
    comeBack: refuse,
    rebuild: refuse,
    close: stop,
    [Symbol.asyncDispose]: stop,
  }
}

interface OwnOrder {
  readonly replicas: number
  readonly settings: Record<string, string>
  readonly synchronous: boolean
  readonly version: number | undefined
}

async function ownCluster({ replicas: count, settings, synchronous, version }: OwnOrder): Promise<Cluster> {
  const premises = new Premises()
  try {
    const bin = findBinaries(version).unpack(premises.folder)
    giveTo(premises.account, premises.folder)
    const primary = new OwnServer(premises, bin, 'primary', await freePort())
    await initialize(premises, bin, primary)
    primary.configure({ ...defaults, ...settings })
    const replicas: OwnServer[] = []
    for (let i = 0; i < count; i++) {
      const replica = new OwnServer(premises, bin, `replica-${i + 1}`, await freePort())
      copyOf(primary, replica)
      replicas.push(replica)
    }
    // Here alone: a standby that is promoted shall not wait for others.
    if (synchronous) primary.configure({ synchronous_standby_names: 'ANY 1 (*)' })
    await Promise.all([primary, ...replicas].map((server) => server.start()))
    await streaming(primary, count)
    return clusterOf(premises, primary, replicas)
  } catch (error) {
    premises.clear()
    throw error
  }
}

function clusterOf(premises: Premises, primary: OwnServer, replicas: readonly OwnServer[]): Cluster {
  const close = async (): Promise<void> => premises.clear()
  const servers = [primary, ...replicas]
  const own = (which: Which): OwnServer => {
    const found = typeof which === 'number' ? at(replicas, which) : servers.find((one) => one === which)
    if (found === undefined) throw new RangeError('this server is not of this cluster')
    return found
  }
  /** From that one and no other, and its newest timeline. */
  const streams = async (server: Server, from: Server): Promise<void> => {
    const text = `select count(*)::int as n from pg_stat_wal_receiver
      where status = 'streaming' and sender_port = $1 and received_tli >= $2`
    const asked = [from.port, await timeline(from)]
    await until(async () => {
      const [row] = await server.query<{ n: number }>(text, asked)
      return row?.n === 1
    }, `the server on port ${server.port} does not stream`)
  }
  return {
    primary,
    replicas,
    url: primary.url,
    replicaUrls: replicas.map((replica) => replica.url),
    owned: true,
    folder: premises.folder,
    caughtUp: (which, from = primary) => caughtUp(from, which === undefined ? replicas : [own(which)]),
    pauseReplay: async (which) => {
      const server = own(which)
      await server.query('select pg_wal_replay_pause()')
      // It pauses at the next record or a moment later; until then it still applies.
      await until(async () => {
        const [row] = await server.query<{ state: string }>('select pg_get_wal_replay_pause_state() as state')
        return row?.state === 'paused'
      }, `the server on port ${server.port} did not pause its replay`)
    },
    resumeReplay: async (which) => {
      await own(which).query('select pg_wal_replay_resume()')
    },
    cutOff: async (which) => {
      const server = own(which)
      streamFrom(server, await freePort())
      await server.reload()
      await until(async () => (await receivers(server)) === 0, `the server on port ${server.port} is still connected`)
    },
    follow: async (which, from = primary) => {
      const server = own(which)
      streamFrom(server, from.port)
      await server.reload()
      await streams(server, from)
    },
    comeBack: async (server, of) => {
      standBy(own(server), of.port)
      await server.start()
      await streams(server, of)
    },
    rebuild: async (server, of) => {
      await rebuildFrom(own(of), own(server))
      await server.start()
      await streams(server, of)
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

function at<T extends Server>(replicas: readonly T[], which: number): T
function at(replicas: readonly Server[], which: Which): Server
function at(replicas: readonly Server[], which: Which): Server {
  if (typeof which !== 'number') return which
  const replica = replicas[which]
  if (!replica) throw new RangeError(`there is no replica ${which}; the cluster has ${replicas.length}`)
  return replica
}
