// Twice the text is twice the work, for the texts that make careless scanners quadratic. Work is counted, not timed.

import { afterEach, expect, test, vi } from 'vitest'
import { judge } from '../../src/sql/facts.ts'
import { scan } from '../../src/sql/scan.ts'

afterEach(() => void vi.restoreAllMocks())

const shapes: readonly [name: string, text: (size: number) => string][] = [
  ['open parentheses', (n) => `select ${'('.repeat(n)}`],
  ['closed parentheses', (n) => `select ${')'.repeat(n)}`],
  ['empty calls', (n) => `select ${'(),'.repeat(n)}`],
  ['calls', (n) => `select ${'f(1),'.repeat(n)}`],
  ['dotted names', (n) => `select ${'a.'.repeat(n)}a`],
  ['columns', (n) => `select ${'a,'.repeat(n)}a`],
  ['tables', (n) => `select * from ${Array.from({ length: n }, (_, at) => `t${at}`).join(',')}`],
  ['subqueries one in the other', (n) => `select ${'(select '.repeat(n)}1${')'.repeat(n)}`],
  ['subqueries side by side', (n) => `select ${'(select 1),'.repeat(n)}1`],
  [
    'WITH queries',
    (n) => `with ${Array.from({ length: n }, (_, at) => `c${at} as (select 1 from c0)`).join(',')} select 1`,
  ],
  ['unions', (n) => 'select 1 union '.repeat(n)],
  ['statements', (n) => 'select 1;'.repeat(n)],
  ['statements in parentheses', (n) => `(${';'.repeat(n)}`],
  ['EXPLAIN EXPLAIN …', (n) => 'explain '.repeat(n)],
  ['CREATE without end', (n) => `create table t as ${'as ('.repeat(n)}`],
  ['rows of VALUES', (n) => `insert into t values ${"(1,'a'),".repeat(n)}(1)`],
  ['doubled quotes', (n) => `select '${"''".repeat(n)}'`],
  ['escaped quotes', (n) => `select E'${"\\'".repeat(n)}'`],
  ['strings that go on', (n) => `select ${"E'a'\n".repeat(n)}`],
  ['strings that do not go on', (n) => `select ${"E'a' ".repeat(n)}`],
  ['open quotes', (n) => `select ${"'a".repeat(2 * n + 1)}`],
  ['dollar quotes', (n) => `select ${'$a$ $a$,'.repeat(n)}1`],
  ['dollar quotes that do not end', (n) => `select ${'$a$b$'.repeat(n)}`],
  ['line comments', (n) => `select ${'--\n'.repeat(n)}1`],
  ['nested comments', (n) => `${'/*'.repeat(n)}${'*/'.repeat(n)}`],
  ['open comments', (n) => '/*'.repeat(n)],
  ['operators that end in signs', (n) => `select 1 ${'+-'.repeat(n)}1`],
  ['operators that may not end in signs', (n) => `select 1 ${'=-'.repeat(n)}1, ${'=+'.repeat(n)}1`],
  ['operators that may', (n) => `select 1 ${'@-+'.repeat(n)}1`],
  ['one long name', (n) => `select ${'a'.repeat(n)}, "${'b""'.repeat(n)}"`],
  ['names beyond ASCII', (n) => `select ${'Äa '.repeat(n)}${'ÖB'.repeat(n)}`],
  ['dots', (n) => `select ${'.'.repeat(n)}`],
  ['brackets in brackets', (n) => `select ${'['.repeat(n)}${']'.repeat(n)}`],
  ['lists', (n) => `select a in (${'1,'.repeat(n)}1)`],
  ['lists in lists', (n) => `select ${'a in (1,'.repeat(n)}1${')'.repeat(n)}`],
  ['VALUES in VALUES', (n) => `${'values ('.repeat(n)}1${')'.repeat(n)}`],
  ['WITH in WITH', (n) => `${'with c as ('.repeat(n)}select 1${') select 1 from c'.repeat(n)}`],
  ['backslashes', (n) => `select '${'\\'.repeat(n)}', E'${'\\'.repeat(n)}'`],
  ['tags that are all different', (n) => `select ${Array.from({ length: n }, (_, at) => `$t${at}$`).join(' ')}`],
  ['semicolons', (n) => ';'.repeat(n)],
  ['EXPLAIN options', (n) => `explain (${'analyze,'.repeat(n)}verbose) select 1`],
  ['tables to drop', (n) => `drop table ${'a,'.repeat(n)}b`],
  ['operators', (n) => `select 1${'+-'.repeat(n)}1`],
  ['numbers', (n) => `select ${'1e5,'.repeat(n)}1`],
  ['one long number', (n) => `select ${'1'.repeat(n)}.${'1'.repeat(n)}`],
]

/** Characters looked at and tokens looked at, together. */
function work(sql: string): number {
  let steps = 0
  vi.spyOn(String.prototype, 'charCodeAt').mockImplementation(function (this: string, at) {
    steps++
    return charCodeAt.call(this, at)
  })
  vi.spyOn(String.prototype, 'indexOf').mockImplementation(function (this: string, search: string, from = 0) {
    const found = indexOf.call(this, search, from)
    steps += 1 + (found < 0 ? this.length : found) - from
    return found
  })
  vi.spyOn(String.prototype, 'slice').mockImplementation(function (this: string, from, to) {
    const part = slice.call(this, from, to)
    steps += part.length
    return part
  })
  const tokens = scan(sql)
  const counted = <T extends object>(list: T): T =>
    new Proxy(list, { get: (target, key) => (steps++, Reflect.get(target, key) as unknown) })
  judge({ ...tokens, kinds: counted(tokens.kinds), texts: counted(tokens.texts) })
  vi.restoreAllMocks()
  return steps
}

// The methods themselves, out of reach of the counting ones.
const charCodeAt: (this: string, at: number) => number = Reflect.get(String.prototype, 'charCodeAt')
const indexOf: (this: string, search: string, from: number) => number = Reflect.get(String.prototype, 'indexOf')
const slice: (this: string, from?: number, to?: number) => string = Reflect.get(String.prototype, 'slice')

test.each(shapes)('%s: a small multiple of the text, and no more for twice of it', (_name, text) => {
  // Beyond the bounds on depth and statements, so that the bounds are not what is measured.
  const [small, large] = [3_000, 6_000].map((size) => work(text(size)) / text(size).length)
  expect(small).toBeGreaterThan(0)
  expect(small).toBeLessThan(40)
  expect(large! / small!).toBeLessThan(1.2)
})
