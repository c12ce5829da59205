// Compiled, never run: each element of a batch has exactly the type of its own `.execute()`, and what is no query
// is refused. Each expected error fails the type check when it is none.

import { CompiledQuery, sql } from 'kysely'
import type {
  DeleteResult,
  Generated,
  InsertResult,
  Kysely,
  MergeResult,
  QueryResult,
  Transaction,
  UpdateResult,
} from 'kysely'
import { batch } from '../../src/index.ts'
import type { BatchItem, BatchOutputs } from '../../src/index.ts'

interface Tables {
  person: { id: Generated<number>; name: string; age: number | null }
  pet: { id: Generated<number>; owner_id: number; name: string }
}

/** True for the very same type, not merely for types that can be assigned to each other. */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- TypeScript compares such functions exactly
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- they are what is compared
export declare function same<A, B>(...differ: Same<A, B> extends true ? [] : ['they are not the same']): void

interface Person {
  id: number
  name: string
  age: number | null
}

export async function everyKind(db: Kysely<Tables>): Promise<void> {
  const results = await db.batch([
    db.selectFrom('person').selectAll(),
    db.selectFrom('person').select(['name', 'age']),
    db.selectNoFrom(sql<number>`1`.as('one')),
    db.insertInto('person').values({ name: 'ada' }),
    db.insertInto('person').values({ name: 'ada' }).returning('id'),
    db.updateTable('person').set({ age: 1 }),
    db.updateTable('person').set({ age: 1 }).returningAll(),
    db.deleteFrom('person'),
    db.deleteFrom('person').returning(['id', 'name as called']),
    db.mergeInto('person').using('pet', 'pet.owner_id', 'person.id').whenMatched().thenDelete(),
    db.mergeInto('person').using('pet', 'pet.owner_id', 'person.id').whenMatched().thenDelete().returning('person.id'),
    sql<{ n: number }>`select 1 as n`,
    sql`select 1`,
    db.selectFrom('person').select('id').compile(),
    CompiledQuery.raw('select 1'),
    db.schema.createTable('made'),
    db.schema.dropIndex('gone'),
  ])
  same<
    typeof results,
    [
      Person[],
      { name: string; age: number | null }[],
      { one: number }[],
      InsertResult[],
      { id: number }[],
      UpdateResult[],
      Person[],
      DeleteResult[],
      { id: number; called: string }[],
      MergeResult[],
      { id: number }[],
      QueryResult<{ n: number }>,
      QueryResult<unknown>,
      QueryResult<{ id: number }>,
      QueryResult<unknown>,
      void,
      void,
    ]
  >()
}

export async function likeExecute(db: Kysely<Tables>): Promise<void> {
  const select = db.selectFrom('person').innerJoin('pet', 'pet.owner_id', 'person.id').select(['person.name', 'pet.id'])
  const insert = db.insertInto('pet').values({ name: 'rex', owner_id: 1 }).returningAll()
  const raw = sql<{ n: bigint }>`select 1`
  const [a, b, c] = await db.batch([select, insert, raw])
  same<typeof a, Awaited<ReturnType<typeof select.execute>>>()
  same<typeof b, Awaited<ReturnType<typeof insert.execute>>>()
  same<typeof c, Awaited<ReturnType<typeof raw.execute>>>()
}

export async function shapes(db: Kysely<Tables>, trx: Transaction<Tables>): Promise<void> {
  const person = (id: number) => db.selectFrom('person').selectAll().where('id', '=', id)

  const none = await db.batch([])
  same<typeof none, []>()

  const one = await db.batch([person(1)])
  same<typeof one, [Person[]]>()

  // A list made in a loop: as many arrays of rows as there were queries.
  const mapped = await db.batch([1, 2, 3].map(person))
  same<typeof mapped, Person[][]>()

  // A tuple that was made before, writable or not.
  const tuple = [person(1), db.deleteFrom('pet')] as const
  const fromTuple = await db.batch(tuple)
  same<typeof fromTuple, [Person[], DeleteResult[]]>()
  const list: readonly ReturnType<typeof person>[] = [person(1)]
  const fromList = await db.batch(list)
  same<typeof fromList, Person[][]>()

  // A list of different queries: each answer is one of theirs.
  const mixed = [person(1), db.deleteFrom('pet')]
  const fromMixed = await db.batch(mixed)
  same<typeof fromMixed, (Person[] | DeleteResult[])[]>()

  // Some known, then a rest.
  const first = [db.insertInto('person').values({ name: 'ada' }), ...[1, 2].map(person)] as const
  const rest = await db.batch(first)
  same<typeof rest, [InsertResult[], ...Person[][]]>()

  const anything: BatchItem[] = mixed
  const unknown = await db.batch(anything)
  same<typeof unknown, unknown[]>()

  const inside = await trx.batch([person(1)], { signal: new AbortController().signal })
  same<typeof inside, [Person[]]>()
  const byFunction = await batch(db, [person(1), db.deleteFrom('pet')], { isolationLevel: 'serializable' })
  same<typeof byFunction, [Person[], DeleteResult[]]>()
  const onSchema = await db.withSchema('abroad').batch([person(1)])
  same<typeof onSchema, [Person[]]>()

  same<BatchOutputs<readonly [ReturnType<typeof person>]>, [Person[]]>()
}

export async function wrong(db: Kysely<Tables>): Promise<void> {
  const query = db.selectFrom('person').selectAll()
  // @ts-expect-error -- a number is no query
  await db.batch([query, 1])
  // @ts-expect-error -- neither is a text
  await db.batch(['select 1'])
  // @ts-expect-error -- nor what a query resolves with
  await db.batch([query.execute()])
  // @ts-expect-error -- nor an expression that stands in a query
  await db.batch([sql`1`.as('one')])
  // @ts-expect-error -- an array, even of one
  await db.batch(query)
  // @ts-expect-error -- misspelt
  await db.batch([query], { isolationlevel: 'serializable' })
  // @ts-expect-error -- no such level
  await db.batch([query], { isolationLevel: 'strict' })
  // @ts-expect-error -- no such strategy
  await db.batch([query], { strategy: 'lazy' })
  const results = await db.batch([query, query])
  // @ts-expect-error -- no such column
  console.log(results[0][0]?.nme)
  // @ts-expect-error -- there were two
  console.log(results[2])
}
