// What holds for every text, whatever it says: the scanner never throws, white space and comments change nothing,
// keywords inside strings, comments and quoted names never change the decision, and a damaged statement is at
// worst taken for an unknown one, never for a safe one of a different shape.

import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { factsOf } from '../../src/sql/facts.ts'
import type { Facts } from '../../src/core/types.ts'

/** Statements as lists of tokens, so that anything may be put between them. */
const statements: readonly (readonly string[])[] = [
  'select * from orders where id = $1',
  'select "a" , lower ( b ) from app . orders o join "Customers" c on o . id = c . id where c . name like \'x%\'',
  'with x ( a ) as materialized ( select 1 ) select count ( * ) filter ( where a > 1 ) over ( order by a ) from x',
  'select a :: numeric ( 10 , 2 ) from t x ( a , b ) for update',
  'select distinct on ( a ) f ( b ) from t',
  "insert into orders ( id , total ) values ( 1 , E'a\\'b' ) , ( 2 , $$x;y$$ ) returning id",
  'with gone as ( delete from orders using t returning * ) select * from gone',
  'update only orders as o set ( a , b ) = ( 1 , 2 ) from customers',
  'merge into t using s on a = b when not matched then insert ( a ) values ( 1 )',
  'explain ( costs off , analyze ) select * from t',
  'explain delete from t',
  'select into temp t2 from t',
  'create temp table t ( a int )',
  'create unique index i on only orders ( lower ( a ) )',
  "set local work_mem = '1MB'",
  'set local . x = 1',
  'begin ; insert into t values ( 1 ) ; commit',
  'select nextval ( \'s\' ) ; select "for" , "update"',
  'copy t ( a ) from stdin',
  "select * from json_table ( j , '$' columns ( a text path '$.a' ) )",
  'select extract ( day from a ) from pg_class',
].map((text) => text.split(' '))

const statement = fc.constantFrom(...statements)

const blank = fc.constantFrom(
  ...[
    ' ',
    '\n',
    '\t\r\n',
    ' /* for update */ ',
    '/* ; nextval( /* into */ */',
    ' -- insert into x values (1);\n',
    '--\r',
  ],
)

function joined(tokens: readonly string[], blanks: readonly string[]): string {
  return tokens.map((token, at) => token + (blanks[at] ?? ' ')).join('')
}

// An E string that is followed by another string on the next line is one string; none of these is.
test('white space and comments between tokens change nothing', () => {
  fc.assert(
    fc.property(statement, fc.array(blank, { minLength: 40, maxLength: 40 }), blank, (tokens, blanks, before) => {
      expect(factsOf(before + joined(tokens, blanks))).toEqual(factsOf(tokens.join(' ')))
    }),
    { numRuns: 500 },
  )
})

test('upper and lower case of unquoted words change nothing', () => {
  fc.assert(
    fc.property(statement, fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }), (tokens, upper) => {
      const plain = /^[a-z_0-9]+$/
      const shouted = tokens.map((token, at) => (upper[at] && plain.test(token) ? token.toUpperCase() : token))
      expect(factsOf(shouted.join(' '))).toEqual(factsOf(tokens.join(' ')))
    }),
    { numRuns: 300 },
  )
})

const alarming = fc.constantFrom(
  'for update',
  '; drop table t',
  'insert into t values (1)',
  'nextval(1)',
  'into',
  '-- ',
  '/* ',
  '$$',
  "select f('",
  'pg_class',
  'information_schema',
  'set role x',
  '\n',
)
const words = fc.array(alarming, { minLength: 1, maxLength: 4 }).map((parts) => parts.join(' '))

const decision = ({ safeOnReplica, stateful, writes, lockWaiter, multiple, preparable, kind, because }: Facts) => ({
  safeOnReplica,
  stateful,
  writes,
  lockWaiter,
  multiple,
  preparable,
  kind,
  because,
})

test('whatever stands in a string, a comment or a dollar quote is no code', () => {
  const hidden = fc.oneof(
    words.map((text) => `'${text.replaceAll("'", "''")}'`),
    words.map((text) => `E'${text.replaceAll("'", "\\'")}'`),
    words.map((text) => `$hide$${text}$hide$`),
    words.map((text) => `1 /* ${text.replaceAll('/*', '')} */`),
    words.map((text) => `1 -- ${text.replaceAll('\n', ' ')}\n`),
  )
  fc.assert(
    fc.property(hidden, (text) => {
      for (const [before, after] of [
        ['select a from t where b = ', ''],
        ['select f(', ')'],
        ['insert into t values (', ')'],
        ['explain select ', ''],
        ['update t set a = ', ' where c'],
        ['select * from t where b in (', ') for share'],
      ]) {
        expect(decision(factsOf(`${before}${text}${after}`))).toEqual(decision(factsOf(`${before}1${after}`)))
      }
    }),
    { numRuns: 500 },
  )
})

test('whatever stands in a quoted name is a name', () => {
  const harmless = words.filter((text) => !/^(pg_class|information_schema)$/.test(text))
  fc.assert(
    fc.property(harmless, (text) => {
      const name = `"x${text.replaceAll('"', '""')}"`
      for (const sql of [`select ${name} from t`, `select a as ${name} from t`, `select t.${name} from t`]) {
        expect(decision(factsOf(sql))).toEqual(decision(factsOf('select a from t')))
      }
      expect(decision(factsOf(`select ${name}(1)`))).toEqual(decision(factsOf('select unknown_function(1)')))
    }),
  )
})

/** What every answer must hold, whatever the text. */
function mustHold(facts: Facts): void {
  expect(facts.retrySafe).toBe(facts.safeOnReplica)
  if (facts.safeOnReplica) {
    expect(facts).toMatchObject({
      writes: false,
      stateful: false,
      lockWaiter: false,
      multiple: false,
      tablesWritten: [],
    })
    expect(['read', 'plan']).toContain(facts.because)
    expect(facts.kind).toMatch(/^read_/)
  }
  if (facts.tablesWritten.length > 0) expect(facts.writes).toBe(true)
  if (facts.multiple) expect(facts.preparable).toBe(false)
  expect(facts.summary.length).toBeGreaterThan(0)
}

test('no text makes it throw or contradict itself', () => {
  const piece = fc.oneof(
    fc.constantFrom(...statements.flat(), ';', '(', ')', '[', ']', "'", '"', '$$', '$a$', '/*', '*/', '--', '\\', '\0'),
    fc.string({ unit: 'binary', maxLength: 8 }),
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), fc.constantFrom('', ' '), (pieces, space) => {
      mustHold(factsOf(pieces.join(space)))
    }),
    { numRuns: 3_000 },
  )
})

test('a statement cut off, doubled or with a part taken out is no reason to throw', () => {
  fc.assert(
    fc.property(statement, fc.nat(200), fc.nat(200), fc.string({ maxLength: 3 }), (tokens, from, length, put) => {
      const sql = tokens.join(' ')
      mustHold(factsOf(sql.slice(0, from)))
      mustHold(factsOf(sql.slice(0, from) + put + sql.slice(from + length)))
      mustHold(factsOf(`${sql.slice(from)} ${sql}`))
    }),
    { numRuns: 1_000 },
  )
})

test('a lock, an unknown function or a catalog table is found wherever a query nests', () => {
  const wraps: readonly ((inner: string) => string)[] = [
    (inner) => `select * from (${inner}) x`,
    (inner) => `select * from a, lateral (${inner}) as x (b, c) join d using (e)`,
    (inner) => `select (${inner}) as b from a`,
    (inner) => `select a from t where b in (${inner}) and c`,
    (inner) => `select a from t where exists (${inner}) group by cube (a)`,
    (inner) => `with x (a) as (${inner}) select * from x`,
    (inner) => `with recursive x as not materialized (select 1), y as (${inner}) select * from x`,
    (inner) => `(${inner}) union all select 1`,
    (inner) => `select 1 union (${inner}) order by 1`,
    (inner) => `select array(${inner})::numeric(10, 2)[]`,
    (inner) => `select coalesce((${inner}), 1) from t x (a, b)`,
    (inner) => `select count(*) filter (where a = (${inner})) over (partition by b) from t`,
    (inner) => `select case when a then (${inner}) else b end from t`,
    (inner) => `select a from t order by (${inner}) limit (${inner})`,
    (inner) => `select * from t join u on t.a = (${inner}), v`,
    (inner) => `values ((${inner}))`,
    (inner) => `explain analyze ${inner}`,
  ]
  const cores = [
    'select * from t for update',
    'select * from t for no key update',
    'select unknown_function(1) from t x (a)',
    "select nextval('s')",
    'select a from pg_catalog.pg_class',
    'select a from t join information_schema.tables u on true',
    'table kysely_migration',
    'select a into b from t',
    'with x as (delete from t returning a) select * from x',
    'select set_config($1, $2, true) from t',
  ]
  fc.assert(
    fc.property(fc.constantFrom(...cores), fc.array(fc.constantFrom(...wraps), { maxLength: 4 }), (core, around) => {
      const sql = around.reduce((inner, wrap) => wrap(inner.startsWith('explain') ? 'select 1' : inner), core)
      if (sql.includes(core)) expect(factsOf(sql)).toMatchObject({ safeOnReplica: false })
    }),
    { numRuns: 1_000 },
  )
})

test('a plain read stays a read however deep it nests in such queries', () => {
  const wraps: readonly ((inner: string) => string)[] = [
    (inner) => `select * from (${inner}) x`,
    (inner) => `select (${inner}) as b from a`,
    (inner) => `with x (a) as (${inner}) select * from x`,
    (inner) => `(${inner}) union all select 1`,
    (inner) => `select coalesce((${inner}), 1) from t x (a, b)`,
    (inner) => `select * from t join u on t.a = (${inner}), v`,
  ]
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...wraps), { maxLength: 6 }), (around) => {
      const sql = around.reduce((inner, wrap) => wrap(inner), 'select lower(a) from deep')
      expect(factsOf(sql)).toMatchObject({
        safeOnReplica: true,
        tablesRead: expect.arrayContaining(['deep']) as string[],
      })
    }),
    { numRuns: 300 },
  )
})
