// postgres.js as it comes: prepared statements, and pipelining over the connections that it has.

import postgres from 'postgres'
import type { Sql, TransactionSql } from 'postgres'
import type { Item, Wide } from '../operations.ts'
import { pageSize } from '../schema.ts'
import type { OpenClient, OpenOptions } from './contract.ts'

export function openPostgresJs({ url, connections }: OpenOptions): OpenClient {
  const sql = postgres(url, { max: connections })
  return {
    byId: async (id) => (await sql<Item[]>`select id, value from bench where id = ${id}`)[0],
    page: (id) =>
      sql<Wide[]>`select id, big, label, price, at, open from wide where id > ${id} order by id limit ${pageSize}`,
    insert: (value) => insertInto(sql, value),
    update: async (id, value) =>
      (await sql<{ id: number }[]>`update bench set value = ${value} where id = ${id} returning id`)[0]?.id,
    sleep: async (seconds) => {
      await sql`select pg_sleep(${seconds})`
    },
    insertTogether: (values) =>
      sql.begin(async (trx) => {
        const ids: (number | undefined)[] = []
        for (const value of values) ids.push(await insertInto(trx, value))
        return ids
      }),
    close: () => sql.end(),
  }
}

async function insertInto(sql: Sql | TransactionSql, value: string): Promise<number | undefined> {
  return (await sql<{ id: number }[]>`insert into journal (value) values (${value}) returning id`)[0]?.id
}
