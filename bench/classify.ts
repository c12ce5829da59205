// What it costs to tell from its text what a statement is: `node bench/classify.ts`. First three texts of the lengths
// that programs send, judged anew each time and out of the cache; then a megabyte of everything that makes careless
// scanners slow. Medians over the rounds with the smallest and the largest, in wall time and in CPU time of the process,
// which a neighbour on the machine disturbs less. It measures the sources, which need no build.

import { factsOf } from '../src/sql/facts.ts'
import { FactsCache } from '../src/sql/facts-of.ts'
import { spreadOf } from './statistics.ts'
import type { Spread } from './statistics.ts'

const rounds = 21
/** Of one round. Long enough for the clock, short enough to fall between two disturbances. */
const roundMs = 8
const megabyte = 1024 * 1024

const short = 'select * from person where id = $1 and name = $2;'
const middle =
  'select "o"."id", "o"."total", "c"."name", count("i"."id") as "items" from "orders" as "o" inner join "customers" as "c" ' +
  'on "c"."id" = "o"."customer_id" left join "order_items" as "i" on "i"."order_id" = "o"."id" where "o"."created_at" > ' +
  '$1 and "o"."status" in ($2, $3, $4) and lower("c"."email") like $5 and exists (select 1 from "payments" as "p" where ' +
  '"p"."order_id" = "o"."id") group by "o"."id", "c"."name" having count("i"."id") > $6 order by "o"."created_at" desc lim' +
  'it $7'
const long = `${middle} union all `.repeat(20) + middle

/** To a megabyte; what stands before and after makes it a statement. */
const filled = (unit: string, before = 'select ', after = ''): string =>
  before + unit.repeat(Math.floor((megabyte - before.length - after.length) / unit.length)) + after

const half = (unit: string): string => unit.repeat(megabyte / 2 / unit.length)

const worst: readonly [name: string, sql: string][] = [
  ['a,a,a,', filled('a,')],
  ['1,1,1,', filled('1,')],
  ['.....', filled('.')],
  [':::::', filled(':: ')],
  ['()()()', filled('()')],
  ['((((( )))))', half('(') + half(')')],
  ['[[[[[', filled('[')],
  ['[][][]', filled('[]')],
  [';;;;;', filled(';')],
  ['a;a;a;', filled('a;')],
  ['f(1),f(1),', filled('f(1),')],
  ['+-+-+-', filled('+-')],
  ['=-=-=-', filled('=-')],
  ['@ @ @', filled('@ ')],
  ["'' '' ''", filled("'' ")],
  ["''''''''", filled("''", "select '", "'")],
  ["unfinished '", filled("''", "select '")],
  ["E'\\'\\'\\'", filled("\\'", "select E'", "'")],
  ['backslashes', filled('\\', "select '", "'")],
  ['"" "" ""', filled('"" ')],
  ['unfinished "', filled('""', 'select "')],
  ['$a$ $a$ $a$', filled('$a$ $a$ ')],
  ['unfinished $a$', filled('$b$', 'select $a$')],
  ['/* /* /*', filled('/*', '')],
  ['/* */ */', half('/*') + half('*/')],
  ['-- -- --', filled('--\n')],
  ['one name', filled('a')],
  ['one NAME', filled('A')],
  ['é é é', filled('é ')],
  ['Éa Éa Éa', filled('Éa ')],
  ['one ÉAÉAÉA', filled('ÉA')],
  ['one number', filled('1')],
  ['blanks', filled(' ')],
  ['a in (1,1,1,', filled('1,', 'select a in (', '1)')],
  ['in (in (in (', filled('in (')],
  ['values (values (', filled('values (', '')],
  ['with a as (with a as (', filled('with a as (', '')],
  ['(select (select', filled('(select ')],
  ['from t, t, t,', filled('t,', 'select * from ')],
  ['rows of INSERT', filled("(1,'x',$1),", 'insert into t values ', '(1)')],
  ['union union', filled('select 1 union ', '')],
  ['explain explain', filled('explain ', '')],
  ['create table', filled('as (', 'create table t as ')],
  ['drop table', filled('a,', 'drop table ')],
]

interface Timing {
  readonly wall: Spread
  readonly cpu: Spread
}

/** Microseconds a call. */
function timed(call: () => unknown): Timing {
  let calls = 1
  for (;;) {
    const began = performance.now()
    for (let i = 0; i < calls; i++) call()
    const ms = performance.now() - began
    if (ms >= roundMs) break
    calls = Math.ceil(calls * Math.min(10, (1.2 * roundMs) / Math.max(ms, 0.01)))
  }
  const wall: number[] = []
  const cpu: number[] = []
  for (let round = 0; round < rounds; round++) {
    const used = process.cpuUsage()
    const began = performance.now()
    for (let i = 0; i < calls; i++) call()
    wall.push(((performance.now() - began) * 1_000) / calls)
    const { user, system } = process.cpuUsage(used)
    cpu.push((user + system) / calls)
  }
  return { wall: spreadOf(wall), cpu: spreadOf(cpu) }
}

function show(name: string, { wall, cpu }: Timing, unit: 'µs' | 'ms', limit?: number): void {
  const scale = unit === 'ms' ? 1_000 : 1
  const [median, min, max, used] = [wall.median, wall.min, wall.max, cpu.median].map((us) =>
    (us / scale).toFixed(unit === 'ms' ? 1 : 3),
  )
  const wanted = limit === undefined ? '' : `  at most ${limit} ${unit}`
  console.log(`${name.padEnd(24)} ${median!.padStart(9)} ${unit} (${min}–${max})  CPU ${used} ${unit}${wanted}`)
}

const cache = new FactsCache()
const texts: readonly [sql: string, limit: number][] = [
  [short, 1],
  [middle, 8],
  [long, 120],
]
// All of them first, so that none is measured by code made for it alone.
for (let at = 0; at < 3_000; at++) for (const [sql] of texts.slice(0, at % 10 === 0 ? 3 : 2)) factsOf(sql)

console.log(`judged anew, ${rounds} rounds`)
for (const [sql, limit] of texts)
  show(
    `${sql.length} characters`,
    timed(() => factsOf(sql)),
    'µs',
    limit,
  )
console.log('\nout of the cache')
for (const [sql] of texts)
  show(
    `${sql.length} characters`,
    timed(() => cache.of(sql)),
    'µs',
    0.3,
  )
console.log('\none megabyte')
for (const [name, sql] of worst)
  show(
    name,
    timed(() => factsOf(sql)),
    'ms',
    50,
  )
