// Callers who leave their session in a mess: an open transaction, another role, another search_path, a temporary table
// that hides a real one. Whoever gets the connection next must not notice.

import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { knownRows } from './operations.ts'
import type { Tables } from './operations.ts'

/** A role without any right, and a schema with tables of the same names that hold something else. */
export const dirtySchema = (role: string): readonly string[] => [
  `do $$ begin if not exists (select from pg_roles where rolname = 'fault_guest') then create role fault_guest; end if; end $$`,
  `grant fault_guest to ${role}`,
  'create schema elsewhere',
  `create table elsewhere.known as select n, 'not ' || n as value from generate_series(1, ${knownRows}) as n`,
  'create table elsewhere.written (n int, part text)',
  'create table elsewhere.accounts as select id, 0 as balance from public.accounts',
  'create table elsewhere.transfers (n int, origin int, target int, amount int)',
  `grant usage on schema elsewhere to ${role}`,
  `grant all on all tables in schema elsewhere to ${role}`,
]

const hidden = `create temp table if not exists known as select n, 'hidden' as value from generate_series(1, ${knownRows}) as n`

const messes: readonly (readonly string[])[] = [
  ['begin'],
  ['begin', 'select 1 / 0'],
  ['set role fault_guest'],
  ['set search_path to elsewhere'],
  ["select set_config('search_path', 'elsewhere', false)"],
  ['begin', 'set search_path to elsewhere', 'commit'],
  [hidden],
  ['create temp table if not exists written (n int, part text)'],
  ['set default_transaction_read_only to on'],
  ['begin', 'savepoint half', 'set role fault_guest'],
]

/** One mess after another, on a session of one's own and then again in single statements, with a pause in between. */
export async function leaveMesses(db: Kysely<Tables>, ms: number): Promise<void> {
  const until = performance.now() + ms
  for (let i = 0; performance.now() < until; i++) {
    const mess = messes[i % messes.length]!
    // They do not look what becomes of it.
    const left =
      i % 3 === 0
        ? rollBack(db)
        : i % 3 === 1
          ? db.connection().execute((one) => run(one, mess))
          : run(
              db,
              mess.filter((text) => text !== 'begin' && text !== 'commit'),
            )
    await left.catch(() => undefined)
    await sleep(20)
  }
}

async function run(db: Kysely<Tables>, texts: readonly string[]): Promise<void> {
  for (const text of texts) await sql.raw(text).execute(db)
}

/** Nothing to complain of: a transaction that its caller gives up. But others may have been put into it. */
function rollBack(db: Kysely<Tables>): Promise<unknown> {
  return db.transaction().execute(async (trx) => {
    await sql`select 1`.execute(trx)
    throw new Error('changed my mind')
  })
}
