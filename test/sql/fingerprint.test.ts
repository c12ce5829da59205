// Texts that ask the same have one fingerprint, texts that ask anything else have another, and nothing of a literal is
// in it.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { factsOf } from '../../src/sql/facts.ts'

const fingerprint = (sql: string): string => factsOf(sql).fingerprint

test('it is sixteen hexadecimal digits, whatever the text', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(0xffff)), (codes) => {
      const text = String.fromCharCode(...codes)
      expect(fingerprint(text)).toMatch(/^[0-9a-f]{16}$/)
      expect(fingerprint(text)).toBe(fingerprint(text))
    }),
  )
})

describe('one fingerprint for', () => {
  test.each([
    ['values', "select a from t where b = 'x' and c = 5", 'select a from t where b = $1 and c = $2'],
    [
      'all ways to write a string',
      "select 'a'",
      "select E'b'",
      'select $$c$$',
      "select N'd'",
      "select x'1F'",
      "select U&'e'",
    ],
    ['all ways to write a number', 'select 1', 'select .5', 'select 1e-3', 'select 0xff', 'select -1', 'select + 2'],
    ['a string over several lines', "select 'a'", "select 'a'\n'b'\n'c'"],
    ['NULL and the truth values', 'select a = null', 'select a = true', 'select a = FALSE', 'select a = 1'],
    ['a sign', 'select a=-1', 'select a = - 1', 'select a = 1', 'select a=+$1'],
    ['white space', 'select a,b from t', ' select\ta ,\n b\nfrom t '],
    ['comments', 'select a from t', 'select /* x /* y */ */ a -- z\nfrom t--'],
    ['the case of plain words', 'select a from t', 'SELECT A From T'],
    ['semicolons at its ends', 'select 1', ';;select 1;', 'select 1 ; ;'],
    ['more semicolons between two', 'select a; select b', 'select a;;; select b;'],
    [
      'lists of IN',
      'select a from t where b in (1)',
      'select a from t where b in ($1, $2, $3)',
      "select a from t where b in (-1, null, 'x')",
    ],
    ['lists of NOT IN', 'select a from t where b not in (1)', 'select a from t where b not in (1, 2)'],
    ['rows of IN', 'select a from t where (b, c) in ((1, 2))', 'select a from t where (b, c) in ((1, 2), (3, 4))'],
    ['casts in lists', 'select a from t where b in ($1::uuid)', 'select a from t where b in ($1::uuid, $2::uuid)'],
    ['arrays', 'select array[1]', 'select array[1, 2, 3]', 'select array[$1, $2]'],
    ['arrays of arrays', 'select array[[1]]', 'select array[[1, 2], [3, 4]]'],
    ['VALUES', 'values (1, 2)', 'values (1, 2), (3, 4)', "values ($1, 'x'), (null, $2), (-1, true)"],
    [
      'rows of INSERT',
      'insert into t (a, b) values ($1, $2) returning a',
      'insert into t (a, b) values ($1, $2), ($3, default), (4, 5) returning a',
    ],
    ['VALUES in FROM', 'select * from (values (1)) v (a), t', 'select * from (values (1), (2)) v (a), t'],
    ['VALUES in IN', 'select a in (values (1))', 'select a in (values (1), (2), (3))'],
    ['lists in lists', 'select a in (1, b in (1))', 'select a in (1, 2, b in (1, 2, 3))'],
    ['rows with functions', 'insert into t values (1, now())', 'insert into t values (1, now()), (2, now())'],
  ])('%s', (_what, ...texts) => {
    expect(new Set(texts.map(fingerprint)).size).toBe(1)
  })
})

describe('another fingerprint for', () => {
  test.each([
    ['other tables', 'select a from t', 'select a from u'],
    ['other columns', 'select a from t', 'select b from t'],
    ['other word ends', 'select ab c', 'select a bc'],
    ['more columns', 'select a from t', 'select a, a from t'],
    ['quoted names in another case', 'select "a"', 'select "A"'],
    ['a keyword and a quoted name', 'select user', 'select "user"'],
    ['another operator', 'select a < 1', 'select a > 1'],
    [
      'IS NULL, IS TRUE, IS NOT NULL',
      'select a is null',
      'select a is true',
      'select a is not null',
      'select a is false',
    ],
    ['wider rows', 'values (1)', 'values (1, 2)', 'values (1, 2, 3)'],
    ['wider rows of IN', 'select (a, b) in ((1, 2))', 'select (a, b, c) in ((1, 2, 3))'],
    ['other arguments', 'select f(1)', 'select f(1, 2)', 'select f(a)', 'select f()'],
    ['names in a list', 'select a in (1)', 'select a in (b)', 'select a in (1, b)', 'select a in (b, 1)'],
    ['a subtraction and a sign', 'select a - 1', 'select a, - 1'],
    [
      'more columns of a query in IN',
      'select a in (select b)',
      'select a in (select b, b)',
      'select a in (select b, b, b)',
    ],
    ['IS NOT NULL and IS NOT TRUE', 'select a is not null', 'select a is not true'],
    ['a name that ends where another one begins', 'select "ab\u0002"', 'select "ab" ""'],
    ['a text that ends too soon', "select '", 'select', "select a '"],
    ['another cast', 'select 1::int', 'select 1::text', 'select 1'],
    ['another order', 'select a, b', 'select b, a'],
    ['two statements and one', 'select a; select b', 'select a select b'],
    ['what the scanner does not understand', "select '", 'select 1'],
  ])('%s', (_what, ...texts) => {
    expect(new Set(texts.map(fingerprint)).size).toBe(texts.length)
  })
})

test('lists deeper in lists than anyone writes are counted in full', () => {
  const deep = (inner: string): string => `select ${'a in (b, '.repeat(1_200)}${inner}${')'.repeat(1_200)}`
  expect(fingerprint(deep('a in (1)'))).not.toBe(fingerprint(deep('a in (1, 2)')))
})

const literal = fc.oneof(
  fc.integer().map(String),
  fc.double({ noNaN: true, noDefaultInfinity: true, min: 0 }).map(String),
  fc.integer({ min: 1, max: 99 }).map((number) => `$${number}`),
  fc.string().map((text) => `'${text.replaceAll(/['\\\0]/g, '')}'`),
  fc.string().map((text) => `$tag$${text.replaceAll(/[$\0]/g, '')}$tag$`),
  fc.constantFrom('null', 'true', 'FALSE', "E'\\''", "b'01'", '-5', '+ .5'),
)
const blank = fc.constantFrom(' ', '\n', '\t ', ' /* no */ ', ' -- no\n')
const list = fc.array(literal, { minLength: 1, maxLength: 5 }).map((all) => all.join(', '))

test('no literal and no length of a list is seen in it', () => {
  const texts = fc.tuple(literal, list, list, literal, blank, fc.boolean()).map(([a, b, c, d, space, shout]) => {
    const sql = (text: string): string => (shout ? text.toUpperCase() : text)
    return (
      `${sql('select x from t where a =')}${space}${a} ${sql('and b in')} (${b})${space}${sql('and c = any (array')}[${c}])` +
      `${space}${sql('union values')} (${d}, ${a}), (${a}, ${d}) ${sql('limit')} ${d}`
    )
  })
  fc.assert(
    fc.property(texts, texts, (one, other) => {
      expect(fingerprint(one)).toBe(fingerprint(other))
    }),
    { numRuns: 1_000 },
  )
})

test('a name of another kind or in another place is seen in it', () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9_]{0,20}$/)
  fc.assert(
    fc.property(name, name, name, (a, b, c) => {
      fc.pre(a !== b)
      const texts = [`select x.${a} from x.${b} q`, `select x.${b} from x.${a} q`, `select x.${a} from x.${a} q`]
      expect(new Set([...texts, `select x.${a} from x.${b} q, x.${c} r`].map(fingerprint)).size).toBe(4)
    }),
    { numRuns: 500 },
  )
})

test('of fifty thousand statements that differ a little no two are alike', () => {
  const seen = new Set<string>()
  for (let at = 0; at < 50_000; at++) seen.add(fingerprint(`select c${at} from t`))
  expect(seen.size).toBe(50_000)
  // Each half alone is as good as 32 bits can be: one pair may be alike.
  for (const half of [(all: string) => all.slice(0, 8), (all: string) => all.slice(8)]) {
    expect(new Set([...seen].map(half)).size).toBeGreaterThan(49_990)
  }
})
