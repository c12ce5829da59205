// pg.Pool with statements as text, as it is mostly used, and with named ones, which the server parses once.

import { Pool } from 'pg'
import type { PoolClient, QueryConfig } from 'pg'
import type { Item, Wide } from '../operations.ts'
import { statements } from '../statements.ts'
import type { OpenClient, OpenOptions } from './contract.ts'

type Name = keyof typeof statements
/** How a statement is said to pg. */
type Say = (name: Name, values: unknown[]) => QueryConfig

export function openPg(options: OpenOptions): OpenClient {
  return open(options, (name, values) => ({ text: statements[name], values }))
}

export function openPgNamed(options: OpenOptions): OpenClient {
  return open(options, (name, values) => ({ name, text: statements[name], values }))
}

export function poolOf(url: string, connections: number): Pool {
  // By default idle connections are closed after 10 s, which would put connecting anew into some rounds.
  return new Pool({ connectionString: url, max: connections, idleTimeoutMillis: 0 })
}

function open({ url, connections }: OpenOptions, say: Say): OpenClient {
  const pool = poolOf(url, connections)
  return {
    byId: async (id) => (await pool.query<Item>(say('byId', [id]))).rows[0],
    page: async (id) => (await pool.query<Wide>(say('page', [id]))).rows,
    insert: async (value) => (await pool.query<{ id: number }>(say('insert', [value]))).rows[0]?.id,
    update: async (id, value) => (await pool.query<{ id: number }>(say('update', [value, id]))).rows[0]?.id,
    sleep: async (seconds) => {
      await pool.query(say('sleep', [seconds]))
    },
    insertTogether: async (values) => {
      const client = await pool.connect()
      try {
        return await insertOn(client, values, say)
      } finally {
        client.release()
      }
    },
    close: () => pool.end(),
  }
}

async function insertOn(client: PoolClient, values: readonly string[], say: Say): Promise<(number | undefined)[]> {
  const ids = []
  await client.query('begin')
  try {
    for (const value of values) {
      const { rows } = await client.query<{ id: number }>(say('insert', [value]))
      ids.push(rows[0]?.id)
    }
    await client.query('commit')
    return ids
  } catch (error) {
    await client.query('rollback')
    throw error
  }
}
