// The statements of the operations, for the clients that take them as text. They say what Kysely makes of kysely.ts.

import { pageSize } from './schema.ts'

export const statements = {
  byId: 'select "id", "value" from "bench" where "id" = $1',
  page: `select "id", "big", "label", "price", "at", "open" from "wide" where "id" > $1 order by "id" limit ${pageSize}`,
  insert: 'insert into "journal" ("value") values ($1) returning "id"',
  update: 'update "bench" set "value" = $1 where "id" = $2 returning "id"',
  sleep: 'select pg_sleep($1)',
} as const
