// What the catalog adds to what a text tells, and what it takes. Facts come from texts, as they do in life; the
// catalog is written by hand.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CatalogIndex } from '../../src/core/catalog-index.ts'
import type { CatalogFunction, CatalogRelation, CatalogSnapshot } from '../../src/core/catalog-snapshot.ts'
import { Catalog } from '../../src/core/catalog.ts'
import type { CatalogRules, FunctionOverrides } from '../../src/core/catalog.ts'
import type { Facts } from '../../src/core/types.ts'
import { builtInEffect } from '../../src/engine/catalog-reader.ts'
import { factsOf } from '../../src/sql/facts.ts'
import { readExpressions, readSqlBody } from '../../src/sql/function-body.ts'

const NOTHING_SAID = { readOnly: [], writing: [] }

/** `app.f` or `f`, with the source of a function in SQL or none. */
function fn(name: string, source: string | null, rest: Partial<CatalogFunction> = {}): CatalogFunction {
  const [schema, bare] = name.includes('.') ? name.split('.') : ['public', name]
  const body = source === null ? null : readSqlBody(source)
  return { schema: schema!, name: bare!, volatility: 'volatile', hidden: false, body, ...rest }
}

function table(name: string, rest: Partial<CatalogRelation> = {}): CatalogRelation {
  const [schema, bare] = name.includes('.') ? name.split('.') : ['public', name]
  const plain = { kind: 'table', unlogged: false, definition: null, policies: [], ruled: false } as const
  return { schema: schema!, name: bare!, ...plain, children: [], cascades: [], onWrite: [], ...rest }
}

const view = (name: string, query: string | null): CatalogRelation =>
  table(name, { kind: 'view', definition: query === null ? null : factsOf(query) })

function snapshotOf(all: readonly (CatalogFunction | CatalogRelation)[], whole = true): CatalogSnapshot {
  return {
    functions: new CatalogIndex(all.filter((one) => 'volatility' in one)),
    relations: new CatalogIndex(all.filter((one) => 'kind' in one)),
    whole,
    fingerprint: null,
  }
}

function catalogOf(
  all: readonly (CatalogFunction | CatalogRelation)[],
  said: Partial<FunctionOverrides> = {},
  rules?: CatalogRules,
): Catalog {
  const catalog = new Catalog({ ...NOTHING_SAID, ...said }, builtInEffect, rules)
  catalog.learn(snapshotOf(all), catalog.version)
  return catalog
}

/** Why the statement runs where it runs. */
const because = (catalog: Catalog, sql: string): string => catalog.judge(factsOf(sql)).because

const READ = {
  safeOnReplica: true,
  stateful: false,
  writes: false,
  lockWaiter: false,
  retrySafe: true,
  because: 'read',
}
const ANYTHING = {
  safeOnReplica: false,
  stateful: true,
  writes: true,
  lockWaiter: true,
  retrySafe: false,
  because: 'unknown function',
}

describe('while the catalog is not known', () => {
  test('what the text tells stands, and which tables stand behind its names cannot be told', () => {
    const catalog = new Catalog(NOTHING_SAID, builtInEffect)
    expect(catalog.known).toBe(false)
    for (const sql of [
      'select 1',
      'select f(1)',
      'select * from t',
      'insert into t values (f(1))',
      'select 1; select 2',
    ]) {
      const facts = factsOf(sql)
      expect(catalog.judge(facts)).toBe(facts)
      expect(catalog.tablesRead(facts)).toBeNull()
    }
    expect(catalog.tablesWritten(['t'])).toBeNull()
  })

  test('a function that the user vouches for may run on a replica', () => {
    const catalog = new Catalog({ readOnly: ['report', 'app.total'], writing: [] }, builtInEffect)
    const judged = catalog.judge(factsOf('select report(lower(x)) from t'))
    expect(judged).toMatchObject(READ)
    expect(Object.isFrozen(judged)).toBe(true)
    expect(because(catalog, 'select any_schema.report(1)')).toBe('read')
    expect(because(catalog, 'select app.total(1)')).toBe('read')
    expect(because(catalog, 'select total(1)')).toBe('unknown function')
    expect(because(catalog, 'select report(other(1))')).toBe('unknown function')
  })

  test('a function of which the user says that it writes stays, though it has the name of a built-in one', () => {
    const catalog = new Catalog({ readOnly: ['lower'], writing: ['lower', 'app.upper'] }, builtInEffect)
    const stays = { ...ANYTHING, because: 'function stays on the primary' }
    expect(catalog.judge(factsOf('select lower(x) from t'))).toMatchObject(stays)
    expect(because(catalog, 'select app.upper(x) from t')).toBe('function stays on the primary')
    expect(because(catalog, 'select upper(x) from t')).toBe('read')
  })

  test('a built-in function that takes a number or a lock does so whatever the user says of it', () => {
    const catalog = new Catalog(
      { readOnly: ['nextval', 'pg_advisory_lock', 'current_setting'], writing: [] },
      builtInEffect,
    )
    expect(catalog.judge(factsOf("select nextval('s')"))).toMatchObject({ safeOnReplica: false, writes: true })
    expect(catalog.judge(factsOf('select pg_advisory_lock(1)'))).toMatchObject({ safeOnReplica: false, stateful: true })
    expect(catalog.judge(factsOf("select current_setting('app.x')"))).toMatchObject(READ)
  })
})

describe('a function of the user', () => {
  const functions = [
    fn('always_same', null, { volatility: 'immutable' }),
    fn('same_for_now', null, { volatility: 'stable' }),
    fn('compiled', null),
    fn('doubles', 'select $1 * 2'),
    fn('doubles_twice', 'select doubles(doubles($1))'),
    fn('reads', 'select count(*) from t'),
    fn('logs', 'insert into log values ($1)'),
    fn('numbers', "select nextval('s')"),
    fn('locks', 'select pg_advisory_lock($1)'),
    fn('calls_writer', 'select logs($1)'),
    fn('calls_unheard_of', 'select nobody_knows($1)'),
    fn('said_stable', "select nextval('s')", { volatility: 'stable' }),
    fn('said_stable_calls', 'select logs($1)', { volatility: 'immutable' }),
    fn('said_stable_calls_unheard_of', 'select nobody_knows($1)', { volatility: 'stable' }),
    fn('biggest', null, { body: { reading: true, calls: ['public.doubles', 'pg_catalog.int4larger'], reads: [] } }),
    fn('pg_catalog.int4larger', null, { volatility: 'immutable' }),
    fn('pg_catalog.ts_rewrite', null),
    fn('app.ts_rewrite', 'select 1'),
    table('t'),
    table('log'),
  ]

  test.each([
    ['always_same', 'declared IMMUTABLE'],
    ['same_for_now', 'declared STABLE'],
    ['doubles', 'whose source only reads'],
    ['doubles_twice', 'whose source calls such a one'],
    ['reads', 'that reads a table'],
    ['said_stable_calls_unheard_of', 'declared STABLE that calls what is not known'],
    ['biggest', 'that aggregates with such'],
    ['public.doubles', 'named with its schema'],
    ['int4larger', 'built in, in no list, IMMUTABLE'],
  ])('%s: one %s runs on a replica and shares connections', (name) => {
    expect(catalogOf(functions).judge(factsOf(`select ${name}(1)`))).toMatchObject(READ)
  })

  test.each([
    ['compiled', 'VOLATILE without a source'],
    ['logs', 'that writes'],
    ['calls_writer', 'that calls a writer'],
    ['calls_unheard_of', 'VOLATILE that calls what is not known'],
    ['said_stable_calls', 'declared IMMUTABLE that calls a writer'],
    ['nobody_knows', 'that is not in the catalog'],
    ['other.doubles', 'of a schema that has none of that name'],
    ['ts_rewrite', 'built in, in no list, VOLATILE'],
  ])('%s: one %s stays on the primary and may do anything', (name) => {
    expect(catalogOf(functions).judge(factsOf(`select ${name}(1)`))).toMatchObject(ANYTHING)
  })

  test.each([
    ['numbers', { writes: true, stateful: false, lockWaiter: false }],
    ['said_stable', { writes: true, stateful: false, lockWaiter: false }],
    ['locks', { writes: false, stateful: true, lockWaiter: true }],
  ])('%s stays for what the built-in function does that it calls, and does no more', (name, effects) => {
    expect(catalogOf(functions).judge(factsOf(`select ${name}(1)`))).toMatchObject({
      ...effects,
      because: 'function stays on the primary',
      safeOnReplica: false,
      retrySafe: false,
    })
  })

  test('one of several that is not known keeps the statement on the primary', () => {
    expect(because(catalogOf(functions), 'select doubles(1), compiled(2)')).toBe('unknown function')
  })

  test('what a trusted function calls is not trusted for that when it is called by itself', () => {
    const catalog = catalogOf(functions)
    expect(because(catalog, 'select said_stable_calls_unheard_of(1), nobody_knows(2)')).toBe('unknown function')
  })

  test('what is known to act is told before what is not known', () => {
    const acts = { ...ANYTHING, because: 'function stays on the primary' }
    const catalog = catalogOf(functions)
    expect(catalog.judge(factsOf('select compiled(1), numbers(2)'))).toMatchObject(acts)
    expect(catalog.judge(factsOf('select nobody_knows(1), pg_promote()'))).toMatchObject(acts)
    expect(because(catalog, 'select nobody_knows(1), pg_is_in_recovery()')).toBe('function stays on the primary')
  })

  test('all of that name must be readers, since the search path is not known', () => {
    const catalog = catalogOf([...functions, fn('audit.doubles', 'insert into log values ($1)')])
    expect(because(catalog, 'select doubles(1)')).toBe('unknown function')
    expect(because(catalog, 'select public.doubles(1)')).toBe('read')
    expect(because(catalog, 'select doubles_twice(1)')).toBe('unknown function')
  })

  test('what the user says counts inside of functions, too, and before what the catalog says', () => {
    const catalog = catalogOf(functions, {
      readOnly: ['compiled', 'public.logs'],
      writing: ['always_same', 'public.same_for_now'],
    })
    expect(because(catalog, 'select compiled(1)')).toBe('read')
    expect(because(catalog, 'select calls_writer(1)')).toBe('read')
    expect(because(catalog, 'select always_same(1)')).toBe('function stays on the primary')
    expect(because(catalog, 'select same_for_now(1)')).toBe('function stays on the primary')
    expect(because(catalog, 'select public.same_for_now(1)')).toBe('function stays on the primary')
  })

  test('a function that calls itself, by way of others, is a reader if all of them are', () => {
    const even = [fn('even', 'select odd($1 - 1)'), fn('odd', 'select even($1 - 1)')]
    expect(because(catalogOf(even), 'select even(2)')).toBe('read')
    const catalog = catalogOf([...even.slice(1), fn('even', 'select odd($1 - 1), logs(1)'), ...functions])
    expect(because(catalog, 'select odd(2)')).toBe('unknown function')
    expect(because(catalog, 'select even(2)')).toBe('unknown function')
  })

  test('exactly the functions from which no writer can be reached run on a replica', () => {
    const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
    const graph = fc.tuple(
      ...names.map(() =>
        fc.record({ calls: fc.subarray(names, { maxLength: 3 }), writes: fc.integer({ max: 6, min: 0 }) }),
      ),
    )
    fc.assert(
      fc.property(graph, (made) => {
        const writes = (name: string, seen: Set<string>): boolean => {
          if (seen.has(name)) return false
          seen.add(name)
          const one = made[names.indexOf(name)]!
          return one.writes === 0 || one.calls.some((called) => writes(called, seen))
        }
        const catalog = catalogOf(
          names.map((name, i) =>
            fn(
              name,
              `select ${made[i]!.calls.map((called) => `${called}(1)`).join(', ')};${made[i]!.writes === 0 ? 'delete from t' : ''}`,
            ),
          ),
        )
        for (const name of names) {
          const expected = writes(name, new Set()) ? 'unknown function' : 'read'
          expect(because(catalog, `select ${name}(1)`)).toBe(expected)
        }
      }),
    )
  })

  test('an overload of a built-in function that writes takes all calls of that name off the replicas', () => {
    const overload = fn('app.lower', 'insert into log values ($1)')
    expect(catalogOf([overload]).judge(factsOf('select lower(x)'))).toMatchObject(ANYTHING)
    expect(because(catalogOf([overload]), 'select pg_catalog.lower(x)')).toBe('read')
    const harmless = fn('public.lower', null, { volatility: 'immutable' })
    expect(because(catalogOf([harmless]), 'select lower(x)')).toBe('read')
  })

  test('one with the arguments of a built-in one is met only where its schema is named', () => {
    const catalog = catalogOf([fn('public.gen_random_uuid', null, { hidden: true })])
    expect(because(catalog, 'select gen_random_uuid()')).toBe('read')
    expect(because(catalog, 'select public.gen_random_uuid()')).toBe('unknown function')
  })

  test('planning a call runs it no more than calling it does', () => {
    const catalog = catalogOf(functions)
    expect(catalog.judge(factsOf('explain select doubles(1)'))).toMatchObject({ ...READ, because: 'plan' })
    expect(because(catalog, 'explain select logs(1)')).toBe('unknown function')
    expect(because(catalog, "explain select nextval('s'), doubles(1)")).toBe('plan')
    expect(because(catalog, "explain analyze select nextval('s')")).toBe('function stays on the primary')
    expect(because(catalog, 'explain analyze select doubles(1) from t')).toBe('plan')
  })

  test('a write whose functions are known leaves nothing behind in its session', () => {
    const catalog = catalogOf(functions)
    const write = { safeOnReplica: false, writes: true, lockWaiter: true, retrySafe: false, because: 'write' }
    const judged = (sql: string): Facts => catalog.judge(factsOf(sql))
    expect(judged('insert into t values (doubles(1))')).toMatchObject({ ...write, stateful: false })
    expect(judged('insert into t values (logs(1))')).toMatchObject({ ...write, stateful: true })
    expect(judged('insert into pg_temp.x values (doubles(1))')).toMatchObject({ ...write, stateful: true })
    expect(judged('insert into t select numbers(1)')).toMatchObject({ ...write, stateful: false })
  })

  test('what else keeps a statement on the primary does so', () => {
    const catalog = catalogOf(functions)
    expect(catalog.judge(factsOf('select doubles(a) from t for update'))).toMatchObject({
      because: 'locks rows',
      lockWaiter: true,
    })
    expect(because(catalog, 'select doubles(a) from kysely_migration')).toBe('migration table')
    expect(because(catalog, 'select doubles(1) from pg_temp.x')).toBe('temporary table')
    for (const sql of [
      'select 1; select doubles(1)',
      'call doubles(1)',
      'create table x as select doubles(1)',
      'begin',
    ]) {
      const facts = factsOf(sql)
      expect(catalog.judge(facts)).toBe(facts)
      expect(catalog.tablesRead(facts)).toBeNull()
    }
  })
})

describe('a relation', () => {
  const relations = [
    table('t'),
    table('scratch', { unlogged: true }),
    table('parent', { children: ['public.child'] }),
    table('child', { children: ['public.grandchild'] }),
    table('grandchild', { unlogged: true }),
    table('parts', { children: ['public.part'] }),
    table('part'),
    table('numbers', { kind: 'sequence' }),
    table('remote', { kind: 'foreign' }),
    view('plain_view', 'select * from t where lower(x) = $1'),
    view('view_of_view', 'select * from plain_view'),
    view('numbering', "select nextval('numbers'), * from t"),
    view('view_of_numbering', 'select * from numbering'),
    view('locking', 'select * from t for update'),
    view('waiting', 'select pg_advisory_lock(id) from t'),
    view('over_scratch', 'select * from view_of_view, scratch'),
    view('over_activity', 'select * from pg_stat_activity'),
    view('calling', 'select doubles(id) from t'),
    view('writing', 'select logs(id) from t'),
    view('unreadable', null),
    view('strange', "select 'x\\'' from t"),
    fn('doubles', 'select $1 * 2'),
    fn('logs', 'insert into t values ($1)'),
    fn('reads_scratch', 'select count(*) from scratch'),
    fn('reads_view', 'select count(*) from view_of_view'),
    fn('compiled_reader', null, { volatility: 'stable' }),
  ]
  const catalog = catalogOf(relations)

  test.each(['t', 'public.t', 'parts', 'remote', 'plain_view', 'view_of_view', 'calling', 'unreadable'])(
    '%s is read from replicas',
    (name) => {
      expect(catalog.judge(factsOf(`select * from ${name}`))).toMatchObject(READ)
    },
  )

  test.each([
    ['scratch', 'unlogged table'],
    ['grandchild', 'unlogged table'],
    ['parent', 'unlogged table'],
    ['over_scratch', 'unlogged table'],
    ['numbers', 'server answers for itself'],
    ['numbering', 'function stays on the primary'],
    ['view_of_numbering', 'function stays on the primary'],
    ['locking', 'locks rows'],
    ['waiting', 'function stays on the primary'],
    ['over_activity', 'system catalog'],
    ['writing', 'unknown function'],
    ['strange', 'unknown function'],
    ['not_there', 'temporary table'],
    ['public.not_there', 'temporary table'],
  ])('%s is read on the primary: %s', (name, why) => {
    expect(catalog.judge(factsOf(`select * from ${name}`))).toMatchObject({ safeOnReplica: false, because: why })
    expect(because(catalog, `explain select * from ${name}`)).toBe(why)
  })

  test('what a view does, the statement does that reads it', () => {
    const judged = (name: string): Facts => catalog.judge(factsOf(`select * from ${name}`))
    expect(judged('view_of_numbering')).toMatchObject({ writes: true, stateful: false, retrySafe: false })
    expect(judged('locking')).toMatchObject({ writes: false, lockWaiter: true, retrySafe: false })
    expect(judged('waiting')).toMatchObject({ writes: false, stateful: true })
    expect(judged('writing')).toMatchObject(ANYTHING)
    expect(judged('strange')).toMatchObject(ANYTHING)
  })

  test('reading rows that no standby has may be tried again', () => {
    expect(catalog.judge(factsOf('select * from scratch'))).toMatchObject({
      retrySafe: true,
      writes: false,
      stateful: false,
    })
  })

  test('a function that reads such a relation stays on the primary', () => {
    expect(because(catalog, 'select reads_scratch()')).toBe('unlogged table')
  })

  test('of all relations of a name each one counts, unless the schema is named', () => {
    const both = catalogOf([...relations, table('app.t', { unlogged: true })])
    expect(because(both, 'select * from t')).toBe('unlogged table')
    expect(because(both, 'select * from public.t')).toBe('read')
    expect(because(both, 'select * from "db".app.t')).toBe('unlogged table')
  })

  test('a name that is not in the snapshot is left to the text when the snapshot is not whole', () => {
    const some = new Catalog(NOTHING_SAID, builtInEffect)
    some.learn(snapshotOf([table('t')], false), some.version)
    expect(because(some, 'select * from not_there')).toBe('read')
    expect(some.tablesRead(factsOf('select * from not_there'))).toBeNull()
  })

  test('what its policies ask counts: a writer keeps it on the primary, a setting of the session does not', () => {
    const secured = (...policies: string[]): Catalog =>
      catalogOf([...relations, table('mine', { policies: policies.map(readExpressions) })])
    expect(because(secured("tenant = current_setting('app.tenant')"), 'select * from mine')).toBe('read')
    expect(because(secured('true', 'logs(id) > 0'), 'select * from mine')).toBe('unknown function')
    expect(because(secured('id in (select id from scratch)'), 'select * from mine')).toBe('unlogged table')
    expect(because(secured("x = 'unfinished"), 'select * from mine')).toBe('unknown function')
  })

  describe('shows rows of base tables', () => {
    const tables = (sql: string): readonly string[] | null => catalog.tablesRead(factsOf(sql))

    test.each([
      ['select 1', []],
      ['select lower($1)', []],
      ['select * from t', ['public.t']],
      ['select * from plain_view', ['public.t']],
      ['select * from view_of_view v, part', ['public.t', 'public.part']],
      ['select * from parts', ['public.parts', 'public.part']],
      ['select doubles(1) from part', ['public.part']],
      ['select reads_view() from part', ['public.t', 'public.part']],
      ['with t as (select * from part) select * from t', ['public.part']],
      ['select * from numbers', ['public.numbers']],
    ])('%s', (sql, keys) => {
      expect(tables(sql)?.toSorted()).toEqual(keys.toSorted())
    })

    test.each([
      ['select * from not_there', 'a relation that is not known'],
      ['select * from t, not_there', 'another that is not known'],
      ['select * from unreadable', 'a view whose query could not be read'],
      ['select * from remote', 'a table of another server'],
      ['select compiled_reader()', 'a function that reads, and nobody can read it'],
      ['select compiled(1)', 'a function that is not known'],
      ["select pg_get_viewdef('plain_view'::regclass)", 'what a definition may change'],
      ['select * from pg_class', 'the catalog'],
      ['select 1; select 2', 'several statements'],
      ['create table x (a int)', 'a definition'],
    ])('%s: perhaps of all of them (%s)', (sql) => {
      expect(tables(sql)).toBeNull()
    })

    test('with those that its policies look at', () => {
      const secured = catalogOf([
        ...relations,
        table('mine', { policies: [readExpressions('id in (select id from part)')] }),
      ])
      expect(secured.tablesRead(factsOf('select * from mine'))).toEqual(['public.mine', 'public.part'])
      const unread = catalogOf([table('mine', { policies: null })])
      expect(unread.tablesRead(factsOf('select * from mine'))).toBeNull()
      expect(because(unread, 'select * from mine')).toBe('read')
    })
  })
})

describe('a write', () => {
  const catalog = catalogOf([
    table('alone'),
    table('app.alone'),
    table('orders', { cascades: ['public.lines'] }),
    table('lines', { cascades: ['public.notes', 'public.orders'] }),
    table('notes'),
    table('parts', { children: ['public.part_1', 'public.part_2'] }),
    table('part_1'),
    table('part_2', { onWrite: ['public.stamp'] }),
    table('stamped', { onWrite: ['public.stamp'] }),
    table('logged', { onWrite: ['public.stamp', 'public.logs'] }),
    table('numbered', { onWrite: ['public.numbers'] }),
    table('compiled', { onWrite: ['pg_catalog.tsvector_update_trigger'] }),
    table('ruled', { ruled: true }),
    table('far', { kind: 'foreign' }),
    table('holds_far', { children: ['public.far'] }),
    table('holds_unknown', { children: ['public.dropped'] }),
    table('master', { cascades: ['public.logged'] }),
    view('seen', 'select * from alone'),
    fn('stamp', 'select now()'),
    fn('logs', 'insert into alone values (1)'),
    fn('numbers', "select nextval('s')"),
  ])

  test.each([
    [['public.alone'], ['public.alone']],
    [['alone'], ['public.alone', 'app.alone']],
    [['orders'], ['public.orders', 'public.lines', 'public.notes']],
    [['parts'], ['public.parts', 'public.part_1', 'public.part_2']],
    [
      ['stamped', 'part_1'],
      ['public.stamped', 'public.part_1'],
    ],
  ])('to %s changes %s', (tables, keys) => {
    expect(catalog.tablesWritten(tables)?.toSorted()).toEqual(keys.toSorted())
    expect(catalog.tablesWritten(new Set(tables))).toHaveLength(keys.length)
  })

  test.each([
    'logged',
    'numbered',
    'compiled',
    'ruled',
    'far',
    'holds_far',
    'holds_unknown',
    'master',
    'seen',
    'not_there',
  ])('to %s may change anything', (name) => {
    expect(catalog.tablesWritten([name])).toBeNull()
    expect(catalog.tablesWritten(['alone', name])).toBeNull()
  })

  test('to no table that is named may change anything', () => {
    expect(catalog.tablesWritten([])).toBeNull()
  })

  test('is remembered by the keys that reads are asked by', () => {
    const written = catalog.tablesWritten(['part_1'])!
    expect(catalog.tablesRead(factsOf('select * from parts'))).toEqual(expect.arrayContaining([...written]))
  })
})

describe('the system catalog', () => {
  const system = [
    table('pg_catalog.pg_class'),
    view('over_classes', 'select relname from pg_class'),
    view('over_locks', 'select * from pg_locks'),
    fn('pg_catalog.int4larger', null, { volatility: 'immutable' }),
    table('t'),
  ]

  test('is read on the primary, whatever else is known', () => {
    const catalog = catalogOf(system)
    expect(because(catalog, 'select * from pg_class')).toBe('system catalog')
    expect(because(catalog, 'select * from over_classes')).toBe('system catalog')
    expect(because(catalog, "select pg_get_viewdef('t'::regclass)")).toBe('function stays on the primary')
  })

  describe('where its tables may be read anywhere', () => {
    const catalog = catalogOf(system, {}, { systemCatalogs: 'anywhere' })

    test.each([
      'select relname from pg_class join pg_catalog.pg_class c using (oid), t',
      'select * from over_classes',
      "select pg_get_viewdef('t'::regclass)",
      "select has_table_privilege('t', 'select') from pg_class",
    ])('%s runs on a replica that shows every own write', (sql) => {
      expect(catalog.judge(factsOf(sql))).toMatchObject(READ)
      expect(catalog.tablesRead(factsOf(sql))).toBeNull()
    })

    test.each([
      'select * from pg_locks',
      'select * from pg_class, pg_stat_activity',
      'select * from over_locks',
      'select * from information_schema.tables',
      "select '0/0' > pg_lsn '0/1'",
    ])('%s stays: what is behind it may be the asked server’s own', (sql) => {
      expect(because(catalog, sql)).toBe('system catalog')
    })

    test('a function that stays, stays', () => {
      expect(because(catalog, 'select pg_backend_pid() from pg_class')).toBe('function stays on the primary')
      expect(because(catalog, 'select nobody_knows() from pg_class')).toBe('unknown function')
    })

    test('until the catalog is known it stays on the primary', () => {
      const unknown = new Catalog({ readOnly: ['f'], writing: [] }, builtInEffect, { systemCatalogs: 'anywhere' })
      expect(because(unknown, 'select f(1) from pg_class')).toBe('system catalog')
      expect(because(unknown, "select pg_get_viewdef('t'::regclass)")).toBe('function stays on the primary')
    })
  })
})

describe('what was learnt', () => {
  const known = snapshotOf([fn('doubles', 'select $1 * 2'), table('t')])

  test('holds until something may have changed it', () => {
    const catalog = new Catalog(NOTHING_SAID, builtInEffect)
    const facts = factsOf('select doubles(a) from t')
    catalog.learn(known, catalog.version)
    expect(catalog.known).toBe(true)
    expect(catalog.snapshot).toBe(known)
    expect(catalog.judge(facts).because).toBe('read')
    expect(catalog.tablesWritten(['t'])).toEqual(['public.t'])
    catalog.forget()
    expect(catalog.known).toBe(false)
    expect(catalog.snapshot).toBeNull()
    expect(catalog.judge(facts)).toBe(facts)
    expect(catalog.tablesRead(facts)).toBeNull()
    expect(catalog.tablesWritten(['t'])).toBeNull()
  })

  test('is not taken over when something has changed while it was read', () => {
    const catalog = new Catalog(NOTHING_SAID, builtInEffect)
    const { version } = catalog
    catalog.forget()
    catalog.learn(known, version)
    expect(catalog.known).toBe(false)
  })

  test('takes the place of what was learnt before', () => {
    const catalog = catalogOf([fn('doubles', 'select $1 * 2')])
    const facts = factsOf('select doubles(1)')
    expect(catalog.judge(facts).because).toBe('read')
    catalog.learn(snapshotOf([fn('doubles', 'delete from t')]), catalog.version)
    expect(catalog.judge(facts).because).toBe('unknown function')
  })

  test('makes one object of a text’s facts, however often it is learnt anew', () => {
    const catalog = new Catalog(NOTHING_SAID, builtInEffect)
    const facts = factsOf('select doubles(1)')
    catalog.learn(known, catalog.version)
    const judged = catalog.judge(facts)
    expect(judged).not.toBe(facts)
    expect(catalog.judge(facts)).toBe(judged)
    catalog.forget()
    catalog.learn(snapshotOf([fn('doubles', 'select $1 * 3')]), catalog.version)
    expect(catalog.judge(facts)).toBe(judged)
  })

  test('is not gone through again when it is learnt again', () => {
    const catalog = new Catalog(NOTHING_SAID, builtInEffect)
    catalog.learn(known, catalog.version)
    const facts = factsOf('select * from t')
    const tables = catalog.tablesRead(facts)
    catalog.learn(known, catalog.version)
    expect(catalog.tablesRead(facts)).toBe(tables)
  })

  test('changes nothing of what it has nothing to say about', () => {
    const catalog = new Catalog(NOTHING_SAID, builtInEffect)
    catalog.learn(known, catalog.version)
    for (const sql of ['select 1', 'select lower(a) from t', 'insert into t values (1)', 'explain select * from t']) {
      const facts = factsOf(sql)
      expect(catalog.judge(facts)).toBe(facts)
    }
  })

  test('of what has been judged, the same is said again', () => {
    const catalog = catalogOf([fn('doubles', 'select $1 * 2'), table('scratch', { unlogged: true })])
    for (const sql of ['select doubles(1)', 'select * from scratch', 'select * from not_there', 'select nobody(1)']) {
      const judged = catalog.judge(factsOf(sql))
      expect(catalog.judge(judged)).toBe(judged)
    }
  })
})

describe('a name', () => {
  const index = new CatalogIndex([
    { schema: 'public', name: 't' },
    { schema: '"a.b"', name: '"c.d"' },
    { schema: 'x', name: '"c.d"' },
    { schema: 'public', name: 'odd"name' },
  ])
  test.each([
    ['t', 1],
    ['public.t', 1],
    ['db.public.t', 1],
    ['"my.db".public.t', 1],
    ['app.t', 0],
    ['"c.d"', 2],
    ['x."c.d"', 1],
    ['"a.b"."c.d"', 1],
    ['db."a.b"."c.d"', 1],
    ['d', 0],
    ['odd"name', 1],
    ['U&"t"', 0],
    ['', 0],
  ])('%s means %i of them', (name, count) => {
    expect(index.find(name)).toHaveLength(count)
  })
})
