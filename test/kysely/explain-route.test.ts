// `explainRoute(db, query)`: it says where a statement would run, for the text that would be sent, without sending
// anything, and without telling anybody's data.

import { inspect } from 'node:util'
import { CamelCasePlugin, CompiledQuery, DummyDriver, Kysely, PostgresAdapter, sql } from 'kysely'
import { PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import { beforeAll, describe, expect, test } from 'vitest'
import { ConfigError, explainRoute, onReplica } from '../../src/index.ts'
import type { ReadOnlyKysely } from '../../src/index.ts'
import { backendsOf, failureOf, hasReplicas, inDatabase } from './support.ts'
import type { Tables } from './support.ts'

const place = inDatabase()
beforeAll(() =>
  place.ask(
    `create function secret_write() returns int language sql as
     $$ insert into person (name) values ('made') returning id $$`,
  ),
)

const people = (db: ReadOnlyKysely<Tables>) => db.selectFrom('person').select('id')

describe('explainRoute', () => {
  test('opens nothing, before the first query and after it', async () => {
    const { db, applicationName } = place.open({ replicas: place.replicaUrls })
    const explanation = explainRoute(db, db.deleteFrom('person'))
    expect(explanation).toMatchObject({ target: 'primary', node: 'primary', reason: 'write', refused: null })
    expect(explanation.candidates).toHaveLength(1 + place.replicaUrls.length)
    explainRoute(db, people(db))
    expect(await backendsOf(place.url, applicationName)).toEqual([])
    for (const url of place.replicaUrls) expect(await backendsOf(url, applicationName)).toEqual([])
  })

  test('explains builders, sql`…` and compiled queries, each by the text that would be sent', () => {
    const { db } = place.open()
    const camel = db.withPlugin(new CamelCasePlugin()) as unknown as Kysely<{ petOwner: { id: number } }>
    const tables = (query: Parameters<typeof explainRoute>[1], of: Parameters<typeof explainRoute>[0] = db) =>
      explainRoute(of, query).facts.tablesRead
    expect(tables(people(db))).toEqual(['person'])
    expect(tables(people(db.withSchema('app')))).toEqual(['app.person'])
    expect(tables(camel.selectFrom('petOwner').select('id'))).toEqual(['pet_owner'])
    expect(tables(sql`select from ${sql.table('petOwner')}`, camel)).toEqual(['pet_owner'])
    expect(tables(sql`select from ${sql.table('petOwner')}`)).toEqual(['petOwner'])
    expect(tables(sql`select from person, pet`)).toEqual(['person', 'pet'])
    expect(tables(CompiledQuery.raw('select * from pet'))).toEqual(['pet'])
    expect(explainRoute(db, db.schema.dropTable('pet')).facts).toMatchObject({ kind: 'ddl', tablesWritten: ['pet'] })
  })

  test('is data, and a text for people; neither tells a literal or a parameter', () => {
    const { db } = place.open({ replicas: place.replicaUrls })
    const secret = db
      .selectFrom('person')
      .select(['id', sql.lit('hush').as('said')])
      .where('name', '=', 'hush')
      .where(sql`lower(name)`, 'in', [sql`'hush'`, sql`$$hush$$`])
    const explanation = explainRoute(db, secret)
    const text = String(explanation)
    expect(explanation.toString()).toBe(text)
    expect(text).toMatch(/: SELECT person\n/)
    expect(text).toMatch(/calls +lower\n/)
    for (const { name } of explanation.candidates) expect(text).toContain(name)
    const json = JSON.stringify(explanation)
    expect(JSON.parse(json)).toMatchObject({ target: explanation.target, facts: { summary: 'SELECT person' } })
    expect(Object.keys(explanation).toSorted()).toEqual([
      'candidates',
      'facts',
      'node',
      'reason',
      'refused',
      'strategy',
      'target',
    ])
    const inspected = inspect(explanation, { depth: 5 })
    expect(inspected).toContain('candidates: [')
    expect(inspected).not.toContain('[Function')
    for (const told of [text, json, inspected]) expect(told).not.toContain('hush')
  })

  test('throws for a Kysely of another dialect, for a transaction, and for what is no query', async () => {
    const { db } = place.open()
    const other = new Kysely<Tables>({
      dialect: {
        createAdapter: () => new PostgresAdapter(),
        createDriver: () => new DummyDriver(),
        createIntrospector: (one) => new PostgresIntrospector(one),
        createQueryCompiler: () => new PostgresQueryCompiler(),
      },
    })
    expect(() => explainRoute(other, people(db))).toThrow(ConfigError)
    expect(() => explainRoute(other, people(db))).toThrow(/explainRoute\(db\).*another dialect/)
    expect(() => explainRoute(onReplica(other), people(db))).toThrow(/explainRoute\(db\).*another dialect/)
    expect(() => explainRoute(undefined as never, people(db))).toThrow(/explainRoute\(db\).*received nothing/)
    expect(() => explainRoute(db, 'select 1' as never)).toThrow(/explainRoute\(query\).*received text/)
    const within = db.transaction().execute(async (trx) => explainRoute(trx, people(trx)))
    expect(await failureOf(within)).toMatchObject({
      code: 'SMARTPG_CONFIG',
      message: expect.stringContaining('explainRoute(db)'),
    })
  })

  test('throws for a write on a replica what running it would throw', () => {
    const { db } = place.open({ replicas: place.replicaUrls })
    expect(() => explainRoute(db.onReplica(), db.deleteFrom('person'))).toThrow(
      expect.objectContaining({ code: 'SMARTPG_INVALID_QUERY' }),
    )
  })
})

describe.skipIf(!hasReplicas)('with replicas (there are none when TEST_DATABASE_URL names one server)', () => {
  test('says where a statement then runs, and why', async () => {
    const { db, dialect } = await place.openWithReplicas()
    const ran: object[] = []
    using _ = dialect.on('query', ({ role, reason }) => void ran.push({ target: role, reason }))
    const queries = [
      people(db),
      people(db).forUpdate(),
      db.updateTable('person').set({ age: 1 }).where('id', '=', 0),
      sql`select unknown_to_all()`,
      sql`select pg_is_in_recovery()`,
    ]
    const said = []
    for (const query of queries) {
      const { target, reason, node, candidates } = explainRoute(db, query)
      said.push({ target, reason })
      expect(candidates.find(({ name }) => name === node)).toMatchObject({ role: target, eligible: true })
      await (query.execute as (db: unknown) => Promise<unknown>).call(query, db).catch(() => undefined)
    }
    expect(said).toEqual(ran)
    expect(said[0]).toEqual({ target: 'replica', reason: 'read' })
  })

  test('knows of each server how far it is behind, and which could take the statement', async () => {
    const { db } = await place.openWithReplicas()
    const [primary, ...replicas] = explainRoute(db, people(db)).candidates
    expect(primary).toMatchObject({ name: 'primary', role: 'primary', breaker: 'closed', eligible: true })
    for (const replica of replicas) {
      expect(replica).toMatchObject({ role: 'replica', breaker: 'closed', eligible: true, priority: 1, tags: [] })
      expect(replica.lagBytes).toBeGreaterThanOrEqual(0)
    }
    const write = explainRoute(db, db.deleteFrom('person')).candidates
    expect(write.map(({ eligible }) => eligible)).toEqual([true, ...replicas.map(() => false)])
  })

  const ways: [string, (db: Kysely<Tables>) => ReadOnlyKysely<Tables>][] = [
    ['it', (db) => db.onReplica({ name: 'small' })],
    ['a plugin', (db) => db.onReplica({ name: 'small' }).withPlugin(new CamelCasePlugin())],
    ['a schema', (db) => db.onReplica({ name: 'small' }).withSchema('public')],
    ['withoutPlugins', (db) => db.withPlugin(new CamelCasePlugin()).onReplica({ name: 'small' }).withoutPlugins()],
    ['withTimeout', (db) => db.onReplica({ name: 'small' }).withTimeout('5s')],
    ['all of that', (db) => db.withTimeout('5s').onReplica({ name: 'small' }).withSchema('public').withTimeout('1s')],
    ['what was said before', (db) => onReplica(db.onPrimary(), { name: 'small' })],
  ]

  test('hears the hint of the Kysely it is given, whatever Kysely made of that', async () => {
    const [first, second] = place.replicaUrls
    const { db } = await place.openWithReplicas({
      replicas: [
        { connectionString: first, name: 'big' },
        { connectionString: second ?? first, name: 'small' },
      ],
    })
    const said = (one: ReadOnlyKysely<Tables>) => {
      const { node, reason } = explainRoute(one, people(db))
      return `${node} (${reason})`
    }
    const heard: [string, string, string][] = []
    for (const [way, through] of ways) {
      const hinted = through(db)
      heard.push([way, said(hinted), await hinted.connection().execute(async (one) => said(one))])
    }
    expect(heard).toEqual(ways.map(([way]) => [way, 'small (hint)', 'small (hint)']))
    // Of the query's own Kysely nothing is heard, nor does the one it was made from say it.
    const hinted = people(db.onReplica({ name: 'small' }))
    expect(explainRoute(db, hinted)).toMatchObject({ target: 'replica', reason: 'read' })
    expect(explainRoute(db.onPrimary(), hinted)).toMatchObject({ node: 'primary', reason: 'hint' })
  })

  test('throws for a replica that is none', async () => {
    const { db } = await place.openWithReplicas()
    expect(() => explainRoute(db.onReplica({ name: 'nobody' }), people(db))).toThrow(/onReplica.*name.*replica-1/)
  })

  test('tells what a standby has refused', async () => {
    const { db } = await place.openWithReplicas()
    const write = sql`select secret_write()`
    expect(explainRoute(db.onReplica(), write)).toMatchObject({ target: 'replica', refused: null })
    await write.execute(db.onReplica())
    const explanation = explainRoute(db.onReplica(), write)
    expect(explanation).toMatchObject({
      target: 'primary',
      reason: 'refused',
      refused: expect.stringMatching(/read-only/),
    })
    expect(String(explanation)).toMatch(/refused +.*read-only/)
  })
})
