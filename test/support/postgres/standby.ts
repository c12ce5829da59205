// What makes one server a standby of another: a copy of its data, a file that says so, and a line of the settings that
// says whose. No program of PostgreSQL is needed for that.

import { chmodSync, copyFileSync, cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Client } from 'pg'
import { giveTo } from './account.ts'
import type { OwnServer } from './server.ts'

/** From whom it streams, from the next start or reload on. */
export function streamFrom(server: OwnServer, port: number): void {
  const primary_conninfo = `host=127.0.0.1 port=${port} user=postgres application_name=${server.name}`
  server.configure({ primary_conninfo })
}

/** A server that is down will be a standby when it starts, of the newest timeline that it is offered. */
export function standBy(server: OwnServer, port: number): void {
  writeFileSync(join(server.data, 'standby.signal'), '')
  // Whom it waited for as a primary would hold up its writes when it is promoted once more.
  server.configure({ recovery_target_timeline: 'latest', synchronous_standby_names: '' })
  streamFrom(server, port)
  settle(server)
}

/** A data directory that was never started is as good as a base backup. */
export function copyOf(primary: OwnServer, replica: OwnServer): void {
  cpSync(primary.data, replica.data, { recursive: true })
  standBy(replica, primary.port)
}

/** A base backup of a running server, over whatever `server` had. */
export async function rebuildFrom(source: OwnServer, server: OwnServer): Promise<void> {
  const client = new Client({ connectionString: source.url })
  await client.connect()
  try {
    await client.query("select pg_backup_start('rebuild', true)")
    rmSync(server.data, { recursive: true, force: true })
    copyLive(source.data, server.data)
    const { rows } = await client.query<{ labelfile: string }>('select labelfile from pg_backup_stop(false)')
    writeFileSync(join(server.data, 'backup_label'), rows[0]!.labelfile)
  } finally {
    await client.end()
  }
  standBy(server, source.port)
}

/** What belongs to the running server and not to its data. */
const itsOwn = new Set(['postmaster.pid', 'postmaster.opts', 'pg_dynshmem', 'pg_replslot', 'pg_stat_tmp', 'pgsql_tmp'])

/** Files come and go while it copies; those that matter stand in the WAL as well. */
function copyLive(from: string, to: string): void {
  mkdirSync(to, { recursive: true })
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory() && itsOwn.has(entry.name)) mkdirSync(target)
    else if (entry.isDirectory()) copyLive(source, target)
    else if (!itsOwn.has(entry.name)) copyUnlessGone(source, target)
  }
}

function copyUnlessGone(source: string, target: string): void {
  try {
    copyFileSync(source, target)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

function settle(server: OwnServer): void {
  chmodSync(server.data, 0o700) // a copy has the umask's mode, which PostgreSQL refuses
  giveTo(server.account, server.data)
}
