// Kysely's own PostgresDialect over pg.Pool: what everything else is compared with.

import { Kysely, PostgresDialect } from 'kysely'
import { Pool } from 'pg'
import type { OpenClient } from './contract.ts'
import { operationsOf } from './kysely.ts'
import type { Database } from './kysely.ts'

export function openStock(url: string, connections: number): OpenClient {
  // By default idle connections are closed after 10 s, which would put connecting anew into some rounds.
  const pool = new Pool({ connectionString: url, max: connections, idleTimeoutMillis: 0 })
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) })
  return { ...operationsOf(db), close: () => db.destroy() }
}
