// The servers the shop is opened on: a cluster made for this run, or the user's own. Either way the shop lives in a
// schema with a random name, and `close` takes everything away again, whatever state the run is in.

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { startCluster } from '../../test/support/postgres/cluster.ts'
import { rowsOf } from './counts.ts'
import type { Flags } from './flags.ts'
import { messageOf } from './report.ts'
import { createShop, tidyShop } from './schema.ts'

/** Something to take away, registered before it comes into being. */
export type Undo = (() => Promise<void>)[]

export interface Servers {
  /** The schema stands first in their search path. */
  readonly primary: string
  readonly replicas: readonly string[]
  readonly schema: string
  /** True: they go with this run, and nothing on them need be cleared away. */
  readonly temporary: boolean
  /** One line for the reader. */
  readonly description: string
}

export async function findServers(flags: Flags, undo: Undo): Promise<Servers> {
  const schema = `smartpg_demo_${randomBytes(4).toString('hex')}`
  if (flags.url === undefined) return temporaryServers(schema, undo)
  const version = await reach(flags.url, '--url', false)
  for (const replica of flags.replicas) await reach(replica, '--replica', true)
  return {
    primary: inSchema(flags.url, schema),
    replicas: flags.replicas.map((url) => inSchema(url, schema)),
    schema,
    temporary: false,
    description: `PostgreSQL ${version} at ${placeOf(flags.url)}, ${replicasInWords(flags.replicas.length)}`,
  }
}

async function temporaryServers(schema: string, undo: Undo): Promise<Servers> {
  const cluster = await startCluster({ replicas: 2 })
  undo.push(() => cluster.close())
  const [row] = await rowsOf<{ server_version: string }>(cluster.url, 'show server_version')
  return {
    primary: inSchema(cluster.url, schema),
    replicas: cluster.replicaUrls.map((url) => inSchema(url, schema)),
    schema,
    temporary: cluster.owned,
    description: `PostgreSQL ${row!.server_version} ${cluster.owned ? 'on this machine, fsync off' : `at ${placeOf(cluster.url)}`}, ${replicasInWords(cluster.replicas.length)}`,
  }
}

/** Creates and fills the tables, and waits until the replicas have them. */
export async function openShop(servers: Servers, undo: Undo, signal: AbortSignal): Promise<void> {
  if (!servers.temporary) undo.push(() => dropShop(servers))
  const client = new Client({ connectionString: servers.primary, application_name: `${servers.schema} setup` })
  client.on('error', () => {}) // told by the query that fails
  await client.connect()
  try {
    // Sent after an interruption, it might be carried out when the schema has already been dropped.
    signal.throwIfAborted()
    await client.query(`begin; create schema ${servers.schema}; ${createShop}; commit`)
    for (const statement of tidyShop) await client.query(statement)
    // The last of all: where this can be seen, everything can.
    await client.query('create table complete ()')
  } finally {
    await client.end().catch(() => {})
  }
  await Promise.all(servers.replicas.map((url) => replicated(url, servers.schema)))
}

// Connections of this run are ended first: one of them may hold locks, or be in the middle of filling the tables.
async function dropShop({ primary, schema }: Servers): Promise<void> {
  for (let left = 1; left > 0; await sleep(20)) {
    const ended = await rowsOf(
      primary,
      'select pg_terminate_backend(pid) from pg_stat_activity where application_name like $1 and pid <> pg_backend_pid()',
      [`${schema.replaceAll('_', '\\_')} %`],
    )
    left = ended.length
  }
  await rowsOf(primary, `drop schema if exists ${schema} cascade`)
}

async function replicated(url: string, schema: string): Promise<void> {
  const until = performance.now() + 60_000
  for (;;) {
    const [row] = await rowsOf<{ there: boolean }>(url, 'select to_regclass($1) is not null as there', [
      `${schema}.complete`,
    ])
    if (row?.there) return
    if (performance.now() > until) {
      throw new Error(`the data have not reached ${placeOf(url)} within 60 s: is it a replica of --url?`)
    }
    await sleep(20)
  }
}

async function reach(url: string, flag: string, replica: boolean): Promise<string> {
  const [row] = await rowsOf<{ version: string; standby: boolean }>(
    url,
    "select current_setting('server_version') as version, pg_is_in_recovery() as standby",
  ).catch((error: unknown) => {
    throw new Error(`cannot reach ${flag} ${placeOf(url)}: ${messageOf(error)}`, { cause: error })
  })
  const { version, standby } = row!
  if (replica && !standby) throw new Error(`${flag} ${placeOf(url)} is not a standby`)
  if (!replica && standby) throw new Error(`${flag} ${placeOf(url)} is a standby; it must be the primary`)
  return version
}

/** Host, port and database: what may be shown of a URL. */
function placeOf(url: string): string {
  const { hostname, port, pathname } = new URL(url)
  return `${hostname}:${port || 5432}${pathname}`
}

function inSchema(url: string, schema: string): string {
  const target = new URL(url)
  const options = target.searchParams.get('options')
  target.searchParams.set('options', `${options ? `${options} ` : ''}-c search_path=${schema}`)
  return target.href
}

function replicasInWords(count: number): string {
  if (count === 0) return 'no replicas'
  return count === 1 ? '1 replica' : `${count} replicas`
}
