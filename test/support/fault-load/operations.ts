// What the callers of a fault run do, in Kysely's words, the same for every dialect: six kinds of operations, each of
// which can be checked afterwards, because whatever is written carries a number of its own and whatever is read is known.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'

export interface Tables {
  /** Never changed: what is read here is known beforehand. */
  known: { n: number; value: string }
  /** Not unique: a write that was done twice shall be seen, not refused. */
  written: { n: number; part: Part }
  accounts: { id: number; balance: number }
  transfers: { n: number; origin: number; target: number; amount: number }
}

export type Part = 'whole' | 'left' | 'right'
export type Kind = 'insert' | 'read' | 'recall' | 'transfer' | 'own-write' | 'batch' | 'stream'

export const knownRows = 1_000
export const streamedRows = 300
export const accountCount = 40
export const firstBalance = 1_000

export const schema: readonly string[] = [
  'create table known (n int primary key, value text not null)',
  `insert into known select n, 'value ' || n from generate_series(1, ${knownRows}) as n`,
  'create table written (n int not null, part text not null)',
  'create index on written (n)',
  'create table accounts (id int primary key, balance int not null)',
  `insert into accounts select id, ${firstBalance} from generate_series(1, ${accountCount}) as id`,
  'create table transfers (n int not null, origin int not null, target int not null, amount int not null)',
  'analyze',
]

/** What one operation is about; `chance` numbers were drawn when the load was planned. */
export interface Work {
  readonly kind: Kind
  /** Of this operation alone. */
  readonly n: number
  /** In [0, 1): which row, which accounts. */
  readonly choice: number
  /** Of a recall: a number that somebody was told is written. */
  readonly of: number | undefined
}

/** What an operation that came to its end found: null, or what was wrong with the answer. */
export type Wrong = string | null

/** What a dialect may be able to do beyond Kysely's own. */
export interface Abilities {
  /** Two inserts that happen together or not at all. */
  readonly together: (db: Kysely<Tables>, parts: readonly { n: number; part: Part }[]) => Promise<unknown>
  readonly streams: boolean
}

/** Runs one; `wrote` is called as soon as the caller has been told that what he wrote is there. */
export function perform(db: Kysely<Tables>, abilities: Abilities, work: Work, wrote: () => void): Promise<Wrong> {
  switch (work.kind) {
    case 'insert':
      return insert(db, work.n).then(() => (wrote(), null))
    case 'read':
      return read(db, 1 + Math.floor(work.choice * knownRows))
    case 'recall':
      return recall(db, work.of ?? 0)
    case 'transfer':
      return transfer(db, work).then(() => (wrote(), null))
    case 'own-write':
      return ownWrite(db, work.n, wrote)
    case 'batch':
      return abilities.together(db, [part(work.n, 'left'), part(work.n, 'right')]).then(() => (wrote(), null))
    case 'stream':
      return stream(db, abilities.streams)
    default:
      return work.kind satisfies never
  }
}

const part = (n: number, which: Part): { n: number; part: Part } => ({ n, part: which })

function insert(db: Kysely<Tables>, n: number): Promise<unknown> {
  return db.insertInto('written').values({ n, part: 'whole' }).execute()
}

// With every column, as most applications ask: DDL changes what that means.
async function read(db: Kysely<Tables>, n: number): Promise<Wrong> {
  const rows = await db.selectFrom('known').selectAll().where('n', '=', n).execute()
  const right = rows.length === 1 && rows[0]!.n === n && rows[0]!.value === `value ${n}`
  return right ? null : `read ${n}: ${JSON.stringify(rows)}`
}

async function recall(db: Kysely<Tables>, n: number): Promise<Wrong> {
  const rows = await db.selectFrom('written').select(['n', 'part']).where('n', '=', n).execute()
  return rows.length === 1 && rows[0]!.n === n ? null : `recalled ${n}: ${JSON.stringify(rows)}`
}

async function ownWrite(db: Kysely<Tables>, n: number, wrote: () => void): Promise<Wrong> {
  await insert(db, n)
  wrote()
  return recall(db, n)
}

async function transfer(db: Kysely<Tables>, { n, choice }: Work): Promise<void> {
  // Of all ordered pairs one; rows are locked in the order of their ids, so that no two wait for each other.
  const pair = Math.floor(choice * accountCount * (accountCount - 1))
  const origin = 1 + Math.floor(pair / (accountCount - 1))
  const other = 1 + (pair % (accountCount - 1))
  const target = other < origin ? other : other + 1
  const amount = 1 + (n % 10)
  await db.transaction().execute(async (trx) => {
    const locked = trx.selectFrom('accounts').selectAll().where('id', 'in', [origin, target]).orderBy('id').forUpdate()
    const rows = await locked.execute()
    if (rows.length !== 2) throw new Error(`accounts ${origin} and ${target}: ${JSON.stringify(rows)}`)
    const add = (id: number, by: number): Promise<unknown> =>
      trx.updateTable('accounts').set({ balance: sql`balance + ${by}` }).where('id', '=', id).execute() // prettier-ignore
    await add(origin, -amount)
    await add(target, amount)
    await trx.insertInto('transfers').values({ n, origin, target, amount }).execute()
  })
}

async function stream(db: Kysely<Tables>, streams: boolean): Promise<Wrong> {
  const query = db.selectFrom('known').select(['n', 'value']).orderBy('n').limit(streamedRows)
  let rows = 0
  const look = (row: { n: number; value: string }): Wrong =>
    row.n === ++rows && row.value === `value ${row.n}` ? null : `streamed ${JSON.stringify(row)} as number ${rows}`
  if (streams) {
    for await (const row of query.stream(50)) {
      const wrong = look(row)
      if (wrong !== null) return wrong
    }
  } else {
    for (const row of await query.execute()) {
      const wrong = look(row)
      if (wrong !== null) return wrong
    }
  }
  return rows === streamedRows ? null : `short: a stream of ${rows} rows ended as if it were whole`
}
