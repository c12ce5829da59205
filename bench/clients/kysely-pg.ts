// Kysely's own PostgresDialect over pg.Pool: what everything else is divided by.

import { Kysely, PostgresDialect } from 'kysely'
import type { OpenClient, OpenOptions } from './contract.ts'
import { operationsOf } from './kysely.ts'
import type { Database } from './kysely.ts'
import { poolOf } from './pg.ts'
import { asTenant, tellTenant } from './tenant.ts'

export function openKyselyPg({ url, connections, tenants }: OpenOptions): OpenClient {
  const pool = poolOf(tenants ? asTenant(url) : url, connections)
  const dialect = new PostgresDialect(tenants ? { pool, onReserveConnection: tellTenant } : { pool })
  const db = new Kysely<Database>({ dialect })
  return { ...operationsOf(db), close: () => db.destroy() }
}
