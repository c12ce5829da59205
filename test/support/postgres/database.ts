// A database of its own for a test file, so that files run side by side on one cluster.

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { ask } from './server.ts'

export interface Database {
  readonly url: string
  readonly replicaUrls: readonly string[]
  /** Ends its connections and drops it. */
  drop(): Promise<void>
}

/** Takes a cluster, a server, or urls; settles when the database can be reached on the replicas, too. */
export async function createDatabase(server: {
  readonly url: string
  readonly replicaUrls?: readonly string[]
}): Promise<Database> {
  const name = `test_${randomBytes(6).toString('hex')}`
  await ask(server.url, `create database ${name}`)
  const replicaUrls = (server.replicaUrls ?? []).map((url) => inDatabase(url, name))
  await Promise.all(replicaUrls.map(reachable))
  return {
    url: inDatabase(server.url, name),
    replicaUrls,
    drop: async () => {
      await ask(server.url, `drop database if exists ${name} with (force)`)
    },
  }
}

function inDatabase(url: string, name: string): string {
  const target = new URL(url)
  target.pathname = `/${name}`
  return target.href
}

async function reachable(url: string): Promise<void> {
  const deadline = performance.now() + 30_000
  for (;;) {
    const client = new Client({ connectionString: url })
    try {
      await client.connect()
      return
    } catch (error) {
      // 3D000: the standby has not replayed CREATE DATABASE yet. Anything else will not go away by waiting.
      if ((error as { code?: string }).code !== '3D000' || performance.now() > deadline) throw error
    } finally {
      await client.end().catch(() => {})
    }
    await sleep(5)
  }
}
