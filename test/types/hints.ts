// Compiled, never run: hints give back a Kysely that can do what it could, but for `onReplica`, which only reads. Each
// expected error fails the type check when it is none.

import { CompiledQuery, sql } from 'kysely'
import type { Generated, Kysely, QueryResult, Transaction } from 'kysely'
import { batch, explainRoute, onPrimary, onReplica, withTimeout } from '../../src/index.ts'
import type { ReadOnlyKysely, RouteExplanation } from '../../src/index.ts'
import { same } from './batch.ts'

interface Tables {
  person: { id: Generated<number>; name: string; age: number | null }
  pet: { id: Generated<number>; owner_id: number; name: string }
}

export async function readsAsKyselyDoes(db: Kysely<Tables>): Promise<void> {
  const replica = db.onReplica()
  same<typeof replica, ReadOnlyKysely<Tables>>()

  const people = await replica.selectFrom('person').innerJoin('pet', 'owner_id', 'person.id').selectAll('pet').execute()
  same<typeof people, { id: number; owner_id: number; name: string }[]>()
  const one = await replica.selectNoFrom(sql<number>`1`.as('one')).executeTakeFirstOrThrow()
  same<typeof one, { one: number }>()
  const named = await replica
    .with('adult', (cte) => cte.selectFrom('person').select(['id', 'name']).where('age', '>', 17))
    .with(
      (cte) => cte('owner').materialized(),
      (cte) => cte.selectFrom('adult').innerJoin('pet', 'owner_id', 'adult.id').select('adult.name'),
    )
    .selectFrom('owner')
    .selectAll()
    .execute()
  same<typeof named, { name: string }[]>()
  const listed = await replica
    .withRecursive('line(id, up)', (cte) =>
      cte
        .selectFrom('pet')
        .select(['id', 'owner_id as up'])
        .unionAll(cte.selectFrom('line').select(['line.id', 'line.up'])),
    )
    .selectFrom('line')
    .select(['id', 'up'])
    .execute()
  same<typeof listed, { id: number; up: number }[]>()
  const raw = await sql<{ n: bigint }>`select 1`.execute(replica)
  same<typeof raw, QueryResult<{ n: bigint }>>()
  await replica.executeQuery(CompiledQuery.raw('select 1'))
  for await (const row of replica.selectFrom('person').select('name').stream()) same<typeof row, { name: string }>()

  replica
    .selectFrom('person')
    .select([replica.fn.countAll().as('n'), replica.case().when('age', '>', 1).then(1).end().as('o')])
  replica.dynamic.table('person').as('p')
  same<typeof replica.isTransaction, boolean>()
}

export async function takesWhatNamesAReplica(db: Kysely<Tables>): Promise<void> {
  db.onReplica({ maxLag: '5s', name: 'eu-2', tags: ['reports'] as const })
  db.onReplica({ maxLag: 500 })
  db.onReplica({ maxLag: { ms: '1s' } })
  db.onReplica({ maxLag: { bytes: 0 } })
  // @ts-expect-error -- misspelt
  db.onReplica({ maxlag: '5s' })
  // @ts-expect-error -- a list
  db.onReplica({ tags: 'reports' })
  // @ts-expect-error -- its name
  db.onReplica('eu-2')
}

export async function staysReadOnly(db: Kysely<Tables>, trx: Transaction<Tables>): Promise<void> {
  const made = [
    db.onReplica().withSchema('app'),
    db.onReplica().withoutPlugins(),
    db.onReplica().withTimeout('5s'),
    db.onReplica().onPrimary(),
    db.onReplica().onReplica({ maxLag: 0 }),
    db.withTimeout('5s').onReplica(),
    trx.onReplica(),
    onReplica(db),
    onReplica(trx, { name: 'eu-2' }),
    onReplica(db.onReplica()),
    onPrimary(db.onReplica()),
    withTimeout(db.onReplica(), 1),
  ]
  same<typeof made, ReadOnlyKysely<Tables>[]>()
  await db.onReplica().transaction().setIsolationLevel('repeatable read').execute(readOnlyOf)
  await db.onReplica().transaction().setAccessMode('read only').execute(readOnlyOf)
  await db.onReplica().connection().execute(readOnlyOf)
  const controlled = await db.onReplica().startTransaction().execute()
  await readOnlyOf(controlled)
  await controlled.commit().execute()
}

async function readOnlyOf(trx: ReadOnlyKysely<Tables>): Promise<void> {
  await trx.selectFrom('person').selectAll().execute()
}

export async function batches(db: Kysely<Tables>): Promise<void> {
  const replica = db.onReplica()
  const query = replica.selectFrom('person').select('id')
  const answers = await replica.batch([query, sql<{ n: number }>`select 1`, query.compile()])
  same<typeof answers, [{ id: number }[], QueryResult<{ n: number }>, QueryResult<{ id: number }>]>()
  const byFunction = await batch(replica, [query])
  same<typeof byFunction, [{ id: number }[]]>()
  // @ts-expect-error -- a write
  await replica.batch([db.deleteFrom('person')])
}

/** A function that only reads takes any of the three. */
export async function reading<DB>(db: Kysely<DB>, trx: Transaction<DB>): Promise<ReadOnlyKysely<DB>[]> {
  return [db, trx, db.onReplica(), db.onPrimary()]
}
export async function calls(db: Kysely<Tables>, trx: Transaction<Tables>): Promise<void> {
  await readOnlyOf(db)
  await readOnlyOf(trx)
  await readOnlyOf(db.onReplica())
  // @ts-expect-error -- a function that may write does not take it
  await writing(db.onReplica())
  await writing(db.onPrimary())
}
async function writing(db: Kysely<Tables>): Promise<void> {
  await db.deleteFrom('person').execute()
}

export function primary(db: Kysely<Tables>, trx: Transaction<Tables>): void {
  const marked = db.onPrimary()
  same<typeof marked, Kysely<Tables>>()
  const inside = trx.onPrimary()
  same<typeof inside, Transaction<Tables>>()
  const byFunction = onPrimary(trx)
  same<typeof byFunction, Transaction<Tables>>()
  // @ts-expect-error -- it takes nothing
  db.onPrimary({ maxLag: 0 })
}

export async function neverWrites(db: Kysely<Tables>): Promise<void> {
  const replica = db.onReplica()
  // @ts-expect-error -- a write
  replica.insertInto('person')
  // @ts-expect-error -- a write
  replica.updateTable('person')
  // @ts-expect-error -- a write
  replica.deleteFrom('person')
  // @ts-expect-error -- a write
  replica.mergeInto('person')
  // @ts-expect-error -- a write
  replica.replaceInto('person')
  // @ts-expect-error -- a definition
  console.log(replica.schema)
  // @ts-expect-error -- it is not its own to close
  await replica.destroy()
  // @ts-expect-error -- a write
  replica.with('made', (cte) => cte.insertInto('person').values({ name: 'ada' }).returning('id'))
  // @ts-expect-error -- a write behind a read
  replica.with('adult', (cte) => cte.selectFrom('person').select('id')).deleteFrom('person')
  // @ts-expect-error -- a write in another schema
  replica.withSchema('app').insertInto('person')
  // @ts-expect-error -- not on a replica
  replica.transaction().setAccessMode('read write')
  // @ts-expect-error -- a write in a transaction that only reads
  await replica.transaction().execute((trx) => trx.deleteFrom('person').execute())
  // @ts-expect-error -- the same, on a connection of one's own
  await replica.connection().execute((one) => one.deleteFrom('person').execute())
  // @ts-expect-error -- no such table
  replica.selectFrom('nobody')
  // @ts-expect-error -- no such column of what the name lists
  replica.with('adult(id)', (cte) => cte.selectFrom('person').select('name'))
}

export function explains(db: Kysely<Tables>): void {
  const explanation = explainRoute(db, db.selectFrom('person'))
  same<typeof explanation, RouteExplanation>()
  explainRoute(db.onReplica(), sql`select 1`)
  explainRoute(db, CompiledQuery.raw('select 1'))
  explainRoute(db, db.schema.dropTable('person'))
  // @ts-expect-error -- a text is no query
  explainRoute(db, 'select 1')
}
