// The operations in Kysely's words, the same code for every dialect.

import { sql } from 'kysely'
import type { Generated, Kysely } from 'kysely'
import type { Entry, Item, Operations, Wide } from '../operations.ts'
import { pageSize } from '../schema.ts'
import { tenantAtWork } from './tenant.ts'

export interface Database {
  readonly bench: Item
  readonly wide: Wide
  readonly journal: { readonly id: Generated<number>; readonly value: string }
  readonly ledger: Entry
}

export function operationsOf(db: Kysely<Database>): Operations {
  return {
    byId: (id) => db.selectFrom('bench').select(['id', 'value']).where('id', '=', id).executeTakeFirst(),
    page: (id) =>
      db
        .selectFrom('wide')
        .select(['id', 'big', 'label', 'price', 'at', 'open'])
        .where('id', '>', id)
        .orderBy('id')
        .limit(sql.lit(pageSize))
        .execute(),
    insert: (value) => insertInto(db, value),
    update: async (id, value) => {
      const updated = await db
        .updateTable('bench')
        .set({ value })
        .where('id', '=', id)
        .returning('id')
        .executeTakeFirst()
      return updated?.id
    },
    sleep: async (seconds) => {
      await sql`select pg_sleep(${seconds})`.execute(db)
    },
    insertTogether: (values) =>
      db.transaction().execute(async (trx) => {
        const ids = []
        for (const value of values) ids.push(await insertInto(trx, value))
        return ids
      }),
    entriesOf: (tenant) =>
      tenantAtWork.run(tenant, () =>
        db.selectFrom('ledger').select(['id', 'tenant']).orderBy('id').limit(sql.lit(10)).execute(),
      ),
  }
}

async function insertInto(db: Kysely<Database>, value: string): Promise<number | undefined> {
  const inserted = await db.insertInto('journal').values({ value }).returning('id').executeTakeFirst()
  return inserted?.id
}
