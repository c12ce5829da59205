// The two ways to the servers that are compared. Everything else of the shop is the same code for both.

import { Kysely, PostgresDialect } from 'kysely'
import { SmartPgDialect } from 'kysely-smart-pg'
import { Pool } from 'pg'
import { pageQueries } from './operations.ts'
import type { Shop } from './schema.ts'

export type ClientName = 'kysely-smart-pg' | 'PostgresDialect'

export interface ShopClient {
  readonly db: Kysely<Shop>
  /** The four queries of a product's page, in one transaction. */
  pageOf(product: number, category: number): Promise<readonly [readonly { id: number }[], ...unknown[]]>
  close(): Promise<void>
}

export interface Addresses {
  readonly primary: string
  readonly replicas: readonly string[]
  /** Shown in pg_stat_activity. */
  readonly applicationName: string
}

/** Most connections to one server, for both. */
export const connectionsPerServer = 20

export function openClient(name: ClientName, addresses: Addresses): ShopClient {
  return name === 'kysely-smart-pg' ? openSmart(addresses) : openStock(addresses)
}

function openSmart({ primary, replicas, applicationName }: Addresses): ShopClient {
  const dialect = new SmartPgDialect({ primary, replicas, applicationName, pool: { max: connectionsPerServer } })
  const db = new Kysely<Shop>({ dialect })
  return {
    db,
    pageOf: (product, category) => db.batch(pageQueries(db, product, category)),
    close: () => db.destroy(),
  }
}

function openStock({ primary, applicationName }: Addresses): ShopClient {
  const pool = new Pool({ connectionString: primary, application_name: applicationName, max: connectionsPerServer })
  // A connection that breaks while it is idle, in the pool or between two queries of a transaction, would end this
  // process. The pool opens another one, and a caller that fails is counted.
  pool.on('error', () => {})
  pool.on('connect', (connection) => connection.on('error', () => {}))
  const db = new Kysely<Shop>({ dialect: new PostgresDialect({ pool }) })
  return {
    db,
    pageOf: (product, category) =>
      db.transaction().execute(async (trx) => {
        const [shown, stock, related, sold] = pageQueries(trx, product, category)
        return [await shown.execute(), await stock.execute(), await related.execute(), await sold.execute()]
      }),
    close: () => db.destroy(),
  }
}
