// An application on a cluster whose servers are stopped, killed and promoted: one table, what it was told by the dialect,
// and where its statements ran. Nothing of it is started anew, whatever happens.

import type { Kysely } from 'kysely'
import { expect, onTestFinished } from 'vitest'
import type { FailoverEvent, QueryEvent } from '../../src/core/events.ts'
import type { SmartPgDialect, SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster, Server } from '../support/postgres/cluster.ts'
import { open, spread } from './dialects.ts'

export interface Tables {
  notes: { id: number }
  /** Written by whoever does not want those who read notes to wait for it. */
  journal: { id: number }
}

/** A cluster of its own for a test, because what was promoted stays it; the row 0 is everywhere. */
export async function serversWithNotes({ replicas = 2 } = {}): Promise<Cluster> {
  const cluster = await startCluster({ replicas })
  onTestFinished(() => cluster.close())
  await layNotes(cluster)
  return cluster
}

export async function layNotes(cluster: Cluster): Promise<void> {
  await cluster.primary.query(`${notesTable}; insert into notes values (0)`)
  await cluster.caughtUp()
}

const notesTable = 'create table notes (id int primary key); create table journal (id int)'

export interface Application {
  readonly db: Kysely<Tables>
  readonly dialect: SmartPgDialect
  readonly applicationName: string
  readonly failovers: FailoverEvent[]
  /** Of all statements that were answered. */
  readonly answered: QueryEvent[]
  /** Whatever was told as an error in the background, or of a node that left or came back. */
  readonly told: string[]
  write(id: number): Promise<void>
  /** Whether a read finds that row. */
  finds(id: number): Promise<boolean>
  /** Looks so often for the row 0, which is there from the beginning, and answers where that was read. */
  reads(times: number): Promise<string[]>
  /** Settles with the first write that is answered; each of them has an id of its own, from `from` on. */
  writesAgain(from: number): Promise<number>
  /** Settles when a read ran on that node. */
  readsOn(node: string): Promise<void>
}

/** Ready, and gone with its test. */
export async function application(
  cluster: Pick<Cluster, 'url' | 'replicaUrls'>,
  options: Partial<SmartPgOptions> = {},
): Promise<Application> {
  const servers = options.hosts ? {} : { primary: cluster.url, replicas: cluster.replicaUrls }
  const app = observed({ ...servers, ...options })
  await app.dialect.ready()
  return app
}

/** Without a word to any server yet. */
export function observed(options: SmartPgOptions): Application {
  const { db, dialect, applicationName } = open<Tables>(options)
  const failovers: FailoverEvent[] = []
  const answered: QueryEvent[] = []
  const told: string[] = []
  dialect.on('failover', (event) => failovers.push(event))
  dialect.on('query', (event) => void (event.ok && answered.push(event)))
  dialect.on('node', ({ node, up, because }) => told.push(`${node} ${up ? 'up' : 'down'}: ${because}`))
  dialect.on('error', ({ node, during, error }) => told.push(`${node}, ${during}: ${String(error)}`))
  const write = async (id: number): Promise<void> => {
    await db.insertInto('notes').values({ id }).execute()
  }
  const finds = async (id: number): Promise<boolean> =>
    (await db.selectFrom('notes').select('id').where('id', '=', id).execute()).length === 1
  const reads = async (times: number): Promise<string[]> => {
    const before = answered.length
    await spread(times, 8, async () => {
      if (!(await finds(0))) throw new Error('the row 0 was not found')
    })
    return answered.slice(before).map(({ node }) => node)
  }
  return {
    db,
    dialect,
    applicationName,
    failovers,
    answered,
    told,
    write,
    finds,
    reads,
    writesAgain: async (from) => {
      let id = from - 1
      await expect.poll(() => write(++id).then(() => 'written', String)).toBe('written')
      return id
    },
    readsOn: async (node) => {
      const wasRead = async (): Promise<boolean> => (await reads(10)).includes(node)
      await expect.poll(wasRead, { message: `nothing is read on ${node}; told: ${told.join(' | ')}` }).toBe(true)
    },
  }
}

/** The name of a server in `primary` and `replicas`. */
export function nameOf(cluster: Cluster, server: Server): string {
  const i = cluster.replicas.indexOf(server)
  return i < 0 ? 'primary' : `replica-${i + 1}`
}

/** The rows of a server itself. */
export async function notesOn(server: Server): Promise<number[]> {
  const rows = await server.query<{ id: number }>('select id from notes order by id')
  return rows.map(({ id }) => id)
}
