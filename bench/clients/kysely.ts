// The operations in Kysely's words, the same code for every dialect.

import type { Kysely } from 'kysely'
import type { Item, Operations } from '../workloads.ts'

export interface Database {
  readonly bench: Item
}

export function operationsOf(db: Kysely<Database>): Operations {
  return {
    byId: (id) => db.selectFrom('bench').select(['id', 'value']).where('id', '=', id).executeTakeFirst(),
  }
}
