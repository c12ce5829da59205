// Plugins, schemas and introspection see over this dialect what they see over Kysely's own.

import { CamelCasePlugin, DeduplicateJoinsPlugin, OperationNodeTransformer, ParseJSONResultsPlugin, sql } from 'kysely'
import type { Kysely, KyselyPlugin, PluginTransformQueryArgs, PluginTransformResultArgs } from 'kysely'
import { jsonArrayFrom } from 'kysely/helpers/postgres'
import { describe, expect, test } from 'vitest'
import { hasReplicas, inDatabase, newLog } from './support.ts'

const place = inDatabase()

/** Builds every node of a query anew: whoever recognises a query by its nodes does not find it again. */
class Rebuilding implements KyselyPlugin {
  readonly #copier = new OperationNodeTransformer()
  readonly seen: string[] = []
  transformQuery({ node }: PluginTransformQueryArgs) {
    this.seen.push(node.kind)
    return structuredClone(this.#copier.transformNode(node))
  }
  async transformResult({ result }: PluginTransformResultArgs) {
    return { ...result, rows: result.rows.map((row) => structuredClone(row)) }
  }
}

describe('plugins', () => {
  test('CamelCasePlugin names both ways, in streams, transactions and batches too', async () => {
    const { db: plain } = place.open()
    const db = plain.withPlugin(new CamelCasePlugin()) as unknown as Kysely<{ pet: { ownerId: number; name: string } }>
    await db.insertInto('pet').values({ name: 'rex', ownerId: 1 }).execute()
    const query = db.selectFrom('pet').select(['name', 'ownerId'])
    const rex = [{ name: 'rex', ownerId: 1 }]
    expect(await query.execute()).toEqual(rex)
    for await (const row of query.stream()) expect(row).toEqual(rex[0])
    expect(await db.transaction().execute((trx) => trx.selectFrom('pet').select('ownerId').execute())).toEqual([
      { ownerId: 1 },
    ])
    expect(await db.batch([query, sql`select owner_id from pet`])).toEqual([
      rex,
      expect.objectContaining({ rows: [{ ownerId: 1 }] }),
    ])
  })

  test('ParseJSONResultsPlugin parses what the server gives as text', async () => {
    const { db: plain } = place.open()
    const db = plain.withPlugin(new ParseJSONResultsPlugin())
    const query = db.selectNoFrom(sql<{ a: number }>`'{"a":1}'::text`.as('j'))
    expect(await query.execute()).toEqual([{ j: { a: 1 } }])
    expect(await db.batch([query])).toEqual([[{ j: { a: 1 } }]])
    expect(await plain.batch([query])).toEqual([[{ j: '{"a":1}' }]])
  })

  test('the JSON helpers nest rows', async () => {
    const { db } = place.open()
    await place.ask("insert into pet (name, owner_id) values ('rex', 1), ('tom', 1)")
    const people = await db
      .selectFrom('person')
      .select((eb) => [
        'name',
        jsonArrayFrom(
          eb.selectFrom('pet').select('pet.name').whereRef('pet.owner_id', '=', 'person.id').orderBy('pet.id'),
        ).as('pets'),
      ])
      .where('id', '<', 3)
      .orderBy('id')
      .execute()
    expect(people).toEqual([
      { name: 'ada', pets: [{ name: 'rex' }, { name: 'tom' }] },
      { name: 'bob', pets: [] },
    ])
  })

  test('DeduplicateJoinsPlugin sends a doubled join once', async () => {
    const { log, texts } = newLog()
    const { db: plain } = place.open({}, { log })
    const query = plain
      .withPlugin(new DeduplicateJoinsPlugin())
      .selectFrom('person')
      .innerJoin('pet', 'pet.owner_id', 'person.id')
      .innerJoin('pet', 'pet.owner_id', 'person.id')
      .select('person.name')
    expect(await query.execute()).toEqual([])
    expect(texts()[0]?.match(/inner join/g)).toHaveLength(1)
  })

  test('one that builds every node anew changes no answer: select, writes, raw, schema, stream, batch', async () => {
    const plugin = new Rebuilding()
    const { db: plain } = place.open()
    const db = plain.withPlugin(plugin)
    expect(await db.insertInto('person').values({ name: 'dora', age: 1 }).returning('name').execute()).toEqual([
      { name: 'dora' },
    ])
    expect((await db.updateTable('person').set({ age: 2 }).executeTakeFirstOrThrow()).numUpdatedRows).toBe(4n)
    await db.schema.createTable('fresh').addColumn('id', 'integer').execute()
    expect((await sql<{ n: number }>`select count(*)::int as n from fresh`.execute(db)).rows).toEqual([{ n: 0 }])
    const seen: string[] = []
    for await (const { name } of db.selectFrom('person').select('name').orderBy('id').stream(2)) seen.push(name)
    expect(seen).toEqual(['ada', 'bob', 'cleo', 'dora'])
    const [names, [deleted], raw] = await db.batch([
      db.selectFrom('person').select('name').where('id', '=', 1),
      db.deleteFrom('person').where('name', '=', 'dora'),
      sql<{ n: number }>`select 1 as n`,
    ])
    expect(names).toEqual([{ name: 'ada' }])
    expect(deleted?.numDeletedRows).toBe(1n)
    expect(raw.rows).toEqual([{ n: 1 }])
    await db.schema.dropTable('fresh').execute()
    expect(plugin.seen).toEqual(
      expect.arrayContaining(['InsertQueryNode', 'CreateTableNode', 'RawNode', 'SelectQueryNode']),
    )
  })

  test.skipIf(!hasReplicas)('does not keep a read from the replicas', async () => {
    const { db, dialect } = await place.openWithReplicas()
    const roles: string[] = []
    using _ = dialect.on('query', ({ role }) => void roles.push(role))
    expect(await db.withPlugin(new Rebuilding()).selectFrom('person').select('id').execute()).toHaveLength(3)
    expect(roles).toEqual(['replica'])
  })
})

describe('withSchema', () => {
  test('sends queries, writes, streams and transactions to that schema', async () => {
    await place.ask('create schema if not exists abroad; create table abroad.person (like person including all)')
    const { db } = place.open()
    const abroad = db.withSchema('abroad')
    await abroad.insertInto('person').values({ id: 1, name: 'zoe', age: 1 }).execute()
    expect(await abroad.selectFrom('person').select('name').execute()).toEqual([{ name: 'zoe' }])
    for await (const { name } of abroad.selectFrom('person').select('name').stream()) expect(name).toBe('zoe')
    await abroad.transaction().execute(async (trx) => {
      await trx.updateTable('person').set({ name: 'yan' }).execute()
      expect(await trx.withSchema('public').selectFrom('person').select('name').where('id', '=', 1).execute()).toEqual([
        { name: 'ada' },
      ])
    })
    const [here, there] = await db.batch([
      db.selectFrom('person').select('name').where('id', '=', 1),
      abroad.selectFrom('person').select('name'),
    ])
    expect([here, there]).toEqual([[{ name: 'ada' }], [{ name: 'yan' }]])
    await place.ask('drop schema abroad cascade')
  })
})

describe('introspection', () => {
  test('lists schemas, tables and their columns', async () => {
    const { db } = place.open()
    expect((await db.introspection.getSchemas()).map(({ name }) => name)).toContain('public')
    const tables = await db.introspection.getTables()
    expect(tables.map(({ name }) => name).toSorted()).toEqual(['person', 'pet'])
    const person = tables.find(({ name }) => name === 'person')
    expect(person).toMatchObject({ schema: 'public', isView: false })
    expect(
      person?.columns.map(({ name, dataType, isNullable, isAutoIncrementing }) => [
        name,
        dataType,
        isNullable,
        isAutoIncrementing,
      ]),
    ).toEqual([
      ['id', 'int4', false, true],
      ['name', 'text', false, false],
      ['age', 'int4', true, false],
    ])
  })

  test.skipIf(!hasReplicas)('asks the primary, whose tables a replica may not have yet', async () => {
    const { db, dialect } = await place.openWithReplicas()
    const roles: string[] = []
    using _ = dialect.on('query', ({ role }) => void roles.push(role))
    await db.introspection.getTables()
    expect(new Set(roles)).toEqual(new Set(['primary']))
  })
})
