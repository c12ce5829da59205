// Kysely over postgres.js, by the dialect of Kysely's own organization.

import { Kysely } from 'kysely'
import { PostgresJSDialect } from 'kysely-postgres-js'
import postgres from 'postgres'
import type { OpenClient, OpenOptions } from './contract.ts'
import { operationsOf } from './kysely.ts'
import type { Database } from './kysely.ts'

export function openKyselyPostgresJs({ url, connections }: OpenOptions): OpenClient {
  const dialect = new PostgresJSDialect({ postgres: postgres(url, { max: connections }) })
  const db = new Kysely<Database>({ dialect })
  return { ...operationsOf(db), close: () => db.destroy() }
}
