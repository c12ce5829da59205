// Every text that the virtual server understands: those of the callers, whose first parameter is their stamp, and those
// of the house itself. What a caller's text answers with repeats its stamp, so that an answer knows whose it is.

import { IDENTITY } from '../../src/core/identity.ts'
import { LOCK_TIMEOUT, PING, WHO_ANSWERS } from '../../src/core/statements.ts'
import type { Backend } from './backend.ts'
import type { Refusal } from './messages.ts'
import { operationOf } from './stamps.ts'

type Values = readonly (string | null)[]

export interface Result {
  readonly rows: readonly Values[]
  readonly tag: string
}

export interface Text {
  /** Empty: it gives no rows. */
  readonly columns: readonly string[]
  /** On the server, milliseconds. */
  readonly workMs: readonly [least: number, most: number]
  /** Its first parameter is a stamp. */
  readonly stamped: boolean
  /** The row that it must have locked before. */
  readonly row?: (values: Values) => string
  readonly run: (backend: Backend, values: Values) => Result | Refusal
}

const FAST: readonly [number, number] = [0.05, 1]
const SLOW: readonly [number, number] = [5, 150]

const done = (tag: string): Result => ({ rows: [], tag })
const row = (...values: Values): Result => ({ rows: [values], tag: 'SELECT 1' })

function stamped(columns: readonly string[], run: Text['run'], more: Partial<Text> = {}): Text {
  return { columns, workMs: FAST, stamped: true, run, ...more }
}

function ofTheHouse(run: Text['run'], columns: readonly string[] = []): Text {
  return { columns, workMs: [0.02, 0.2], stamped: false, run }
}

export const LOOKS = [0, 1, 2, 3, 4].map((n) => `select $1::text as "stamp", ${n} as "text"`)
export const SLOW_LOOK = `select $1::text as "stamp", 'slow' as "text"`
export const INSERT = `insert into "marks" ("stamp") values ($1)`
export const INSERT_RETURNING = `${INSERT} returning "stamp"`
export const TOUCH = `update "accounts" set "by" = $1 where "id" = $2::int`
export const ADD = `update "accounts" set "by" = $1, "balance" = "balance" + $3::int where "id" = $2::int`
export const TENANT = `select $1::text as "stamp", current_setting('app.tenant', true) as "tenant"`
export const NUMBERS = `select $1::text as "stamp", "n" from "numbers" order by "n"`
export const BROKEN = `select $1::text as "stamp", 1 / 0 as "never"`
export const ADVISORY_LOCK = `select $1::text as "stamp", pg_try_advisory_lock(1) as "locked"`
export const HOW_MANY_NUMBERS = 25

const insert: Text['run'] = (backend, [stamp]) => {
  backend.writes({ stamp: stamp! })
  return { rows: [[stamp!]], tag: 'INSERT 0 1' }
}

const accountRow: Text['row'] = ([, account]) => `account ${account}`

const numbers: Text['run'] = (_, [stamp]) => ({
  rows: Array.from({ length: HOW_MANY_NUMBERS }, (__, n) => [stamp!, `${n}`]),
  tag: `SELECT ${HOW_MANY_NUMBERS}`,
})

const begin = ofTheHouse((backend) => backend.begin())

const known = new Map<string, Text>([
  ...LOOKS.map((sql, n): [string, Text] => [sql, stamped(['stamp', 'text'], (_, [stamp]) => row(stamp!, `${n}`))]),
  [SLOW_LOOK, stamped(['stamp', 'text'], (_, [stamp]) => row(stamp!, 'slow'), { workMs: SLOW })],
  [INSERT, stamped([], insert)],
  [INSERT_RETURNING, stamped(['stamp'], insert)],
  [
    TOUCH,
    stamped([], (backend, [stamp]) => (backend.writes({ stamp: stamp! }), done('UPDATE 1')), { row: accountRow }),
  ],
  [
    ADD,
    stamped(
      [],
      (backend, [stamp, account, amount]) => {
        backend.writes({ stamp: stamp!, account: Number(account), amount: Number(amount) })
        return done('UPDATE 1')
      },
      { row: accountRow },
    ),
  ],
  [TENANT, stamped(['stamp', 'tenant'], (backend, [stamp]) => row(stamp!, backend.traces.get('a setting') ?? ''))],
  [NUMBERS, stamped(['stamp', 'n'], numbers)],
  [BROKEN, stamped(['stamp', 'never'], () => ({ code: '22012', message: 'division by zero' }))],
  [
    ADVISORY_LOCK,
    stamped(['stamp', 'locked'], (backend, [stamp]) => {
      backend.traces.set('an advisory lock', operationOf(stamp!))
      return row(stamp!, 't')
    }),
  ],
  [PING.sql, ofTheHouse(() => done('SELECT 0'), ['?column?'])],
  [WHO_ANSWERS.sql, ofTheHouse((backend) => row(`${backend.pid}`), ['pid'])],
  [
    IDENTITY.sql,
    ofTheHouse(
      (backend) => row(backend.serverStartedAt, 'false', '7310284000000000001', '00000001'),
      ['server', 'recovering', 'system', 'timeline'],
    ),
  ],
  [LOCK_TIMEOUT.sql, ofTheHouse(() => row('0'), ['lock_timeout'])],
  ['begin', begin],
  ['start transaction', begin],
  ['begin read only', begin],
  ['commit', ofTheHouse((backend) => backend.commits())],
  ['rollback', ofTheHouse((backend) => backend.rollback())],
  ['savepoint "here"', ofTheHouse((backend) => backend.savepoint())],
  ['rollback to "here"', ofTheHouse((backend) => backend.rollbackToSavepoint())],
  ['discard all', ofTheHouse((backend) => backend.discardAll())],
])

/** What the house asks about transactions and other backends. */
const questions: readonly (readonly [pattern: RegExp, text: Text])[] = [
  [
    /pg_current_xact_id_if_assigned/,
    ofTheHouse((backend) => row(backend.xid, backend.serverStartedAt, `${backend.pid}`), ['xid', 'server', 'pid']),
  ],
  [
    /pg_xact_status/,
    ofTheHouse(
      (backend, [xid]) => row(backend.fateOf(xid!), backend.serverStartedAt, `${backend.pid}`),
      ['status', 'server', 'pid'],
    ),
  ],
  [
    /from pg_catalog\.pg_stat_activity/,
    ofTheHouse(
      (backend, [pids]) => {
        const asked = new Set([...pids!.slice(1, -1).replaceAll('"', '').split(',').map(Number), backend.pid])
        const rows = backend.activity().filter(({ pid }) => asked.has(pid))
        return { rows: rows.map(({ pid, state }) => [`${pid}`, state, backend.serverStartedAt]), tag: `SELECT ${rows.length}` } // prettier-ignore
      },
      ['pid', 'state', 'server'],
    ),
  ],
]

type Trace = 'a setting' | 'a temporary table' | 'LISTEN' | 'a role'

/** What a caller leaves behind in his session, with his name in the text. */
const leaving: readonly (readonly [pattern: RegExp, trace: Trace, tag: string])[] = [
  [/^set app\.tenant = '(.+)'$/, 'a setting', 'SET'],
  [/^create temp table "(.+)" \(n int\)$/, 'a temporary table', 'CREATE TABLE'],
  [/^listen "(.+)"$/, 'LISTEN', 'LISTEN'],
  [/^set role "(.+)"$/, 'a role', 'SET'],
]

export function leavings(operation: string): string[] {
  return [
    `set app.tenant = '${operation}'`,
    `create temp table "${operation}" (n int)`,
    `listen "${operation}"`,
    `set role "${operation}"`,
  ]
}

/** Throws at a text that nobody has taught the server. */
export function textOf(sql: string): Text {
  const text = known.get(sql)
  if (text !== undefined) return text
  for (const [pattern, trace, tag] of leaving) {
    const [, operation] = pattern.exec(sql) ?? []
    if (operation !== undefined) {
      return ofTheHouse((backend) => (backend.traces.set(trace, operation), done(tag)))
    }
  }
  for (const [pattern, question] of questions) if (pattern.test(sql)) return question
  const [, timeout] = /^set lock_timeout = '(\d+)(?:ms)?'$/.exec(sql) ?? []
  if (timeout === undefined) throw new Error(`the virtual server does not understand: ${sql}`)
  return ofTheHouse((backend) => ((backend.lockTimeoutMs = Number(timeout)), done('SET')))
}
