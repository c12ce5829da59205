// Drizzle over pg.Pool, with its query builder. Its type declarations compile only beside those of every database that
// it knows, so TypeScript never sees them: they are imported by names that it does not resolve, and what is used of
// them is written down below.

import type { Pool } from 'pg'
import type { Item, Wide } from '../operations.ts'
import { pageSize } from '../schema.ts'
import type { OpenClient, OpenOptions } from './contract.ts'
import { poolOf } from './pg.ts'

const [{ drizzle }, pgCore, { eq, gt, sql }] = (await Promise.all(
  ['drizzle-orm/node-postgres', 'drizzle-orm/pg-core', 'drizzle-orm'].map((name) => import(name)),
)) as [DrizzleForPg, PgCore, Operators]

const { bigint, boolean, integer, numeric, pgTable, serial, text, timestamp } = pgCore
const bench = pgTable('bench', { id: integer('id').primaryKey(), value: text('value').notNull() })
const journal = pgTable('journal', { id: serial('id').primaryKey(), value: text('value').notNull() })
const wide = pgTable('wide', {
  id: integer('id').primaryKey(),
  big: bigint('big', { mode: 'bigint' }),
  label: text('label'),
  price: numeric('price', { precision: 12, scale: 2 }),
  at: timestamp('at', { withTimezone: true }),
  open: boolean('open'),
})

export function openDrizzle({ url, connections }: OpenOptions): OpenClient {
  const pool = poolOf(url, connections)
  const db = drizzle(pool)
  return {
    byId: async (id) => (await db.select<Item>().from(bench).where(eq(bench['id'], id)))[0],
    page: async (id) => db.select<Wide>().from(wide).where(gt(wide['id'], id)).orderBy(wide['id']).limit(pageSize),
    insert: (value) => insertInto(db, value),
    update: async (id, value) =>
      (await db.update(bench).set({ value }).where(eq(bench['id'], id)).returning({ id: bench['id'] }))[0]?.id,
    sleep: async (seconds) => {
      await db.execute(sql`select pg_sleep(${seconds})`)
    },
    insertTogether: (values) =>
      db.transaction(async (trx) => {
        const ids = []
        for (const value of values) ids.push(await insertInto(trx, value))
        return ids
      }),
    close: () => pool.end(),
  }
}

async function insertInto(db: Db, value: string): Promise<number | undefined> {
  return (await db.insert(journal).values({ value }).returning({ id: journal['id'] }))[0]?.id
}

interface Column {
  primaryKey(): Column
  notNull(): Column
}
type Table = Readonly<Record<string, Column>>
type ColumnOf = (name: string, options?: object) => Column

interface PgCore {
  readonly pgTable: (name: string, columns: Record<string, Column>) => Table
  readonly bigint: ColumnOf
  readonly boolean: ColumnOf
  readonly integer: ColumnOf
  readonly numeric: ColumnOf
  readonly serial: ColumnOf
  readonly text: ColumnOf
  readonly timestamp: ColumnOf
}

type Operator = (column: Column | undefined, value: unknown) => object

interface Operators {
  readonly eq: Operator
  readonly gt: Operator
  readonly sql: (text: TemplateStringsArray, ...values: unknown[]) => object
}

interface Query<R> extends PromiseLike<R[]> {
  from(table: Table): this
  where(condition: object): this
  orderBy(column: Column | undefined): this
  limit(count: number): this
  values(row: object): this
  set(row: object): this
  returning(columns: Record<string, Column | undefined>): this
}

interface Db {
  select<R>(): Query<R>
  insert(table: Table): Query<{ id: number }>
  update(table: Table): Query<{ id: number }>
  execute(statement: object): Promise<unknown>
  transaction<R>(work: (trx: Db) => Promise<R>): Promise<R>
}

interface DrizzleForPg {
  readonly drizzle: (pool: Pool) => Db
}
