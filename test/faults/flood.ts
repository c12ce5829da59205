// A process of its own for overload.test.ts: very many queries in one turn of the event loop, over this dialect or over
// Kysely's own with pg's pool. It writes one line of JSON: who was told what, when, and what it cost.

import { Kysely, PostgresDialect, sql } from 'kysely'
import { Pool } from 'pg'
import { SmartPgDialect } from '../../src/index.ts'
import type { PoolOptions } from '../../src/index.ts'
import { wire } from '../support/wire.ts'

export interface FloodOrder {
  readonly url: string
  readonly applicationName: string
  readonly what: 'reads' | 'writes' | 'transactions'
  readonly over: 'smart' | 'stock'
  readonly queries: number
  /** So many of them in each turn of the event loop. */
  readonly perTurn: number
  readonly pool: PoolOptions
}

export interface FloodReport {
  /** How many were told what. */
  readonly told: Record<string, number>
  /** Those refused after the first answer had come. */
  readonly refusedLate: number
  /** From the last call to the last refusal, and to the last answer. */
  readonly refusedWithinMs: number
  readonly answeredWithinMs: number
  /** Most of what the process took beyond what it had before. */
  readonly grownMb: number
  readonly heapMb: number
  readonly uncaught: string[]
  /** Answered once everything was over. */
  readonly afterwards: boolean
}

interface Tables {
  written: { n: number }
}

const uncaught: string[] = []
process.on('uncaughtException', (error) => uncaught.push(String(error.stack)))
process.on('unhandledRejection', (error) => uncaught.push(String((error as Error).stack)))

const order = JSON.parse(process.argv[2]!) as FloodOrder
const { url, applicationName, what, queries } = order

const dialect =
  order.over === 'stock'
    ? new PostgresDialect({ pool: new Pool({ connectionString: url, max: order.pool.max as number }) })
    : new SmartPgDialect({ wire, primary: url, applicationName, pool: order.pool, queryTimeout: 0 })
const db = new Kysely<Tables>({ dialect })

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

async function one(n: number): Promise<unknown> {
  if (what === 'reads') return db.selectFrom('written').selectAll().where('n', '=', n).execute()
  if (what === 'writes') return db.insertInto('written').values({ n }).execute()
  return db.transaction().execute((trx) => trx.insertInto('written').values({ n }).execute())
}

const told: Record<string, number> = {}
const floodOver: { settle?: () => void } = {}
let left = queries
let answers = 0
let refusedLate = 0
let lastRefusal = 0

function hear(code: string): void {
  told[code] = (told[code] ?? 0) + 1
  if (code === 'SMARTPG_QUEUE_FULL') {
    lastRefusal = performance.now()
    if (answers > 0) refusedLate++
  } else answers++
  if (--left === 0) floodOver.settle!()
}

// As a process that has been running for a while.
for (let i = 0; i < 200; i++) await db.selectFrom('written').selectAll().where('n', '=', -1).execute()
globalThis.gc?.()
const { rss, heapUsed } = process.memoryUsage()
let heapMost = heapUsed
const sampler = setInterval(() => (heapMost = Math.max(heapMost, process.memoryUsage().heapUsed)), 20)

let asked = 0
const over = new Promise<void>((resolve) => (floodOver.settle = resolve))
for (let n = 0; n < queries; n++) {
  one(n).then(
    () => hear('answered'),
    (error: unknown) => hear((error as { code?: string }).code ?? String(error)),
  )
  if (n === queries - 1) asked = performance.now()
  else if (n % order.perTurn === order.perTurn - 1) await nextTurn()
}
heapMost = Math.max(heapMost, process.memoryUsage().heapUsed)
await over
const answered = performance.now()
clearInterval(sampler)
const afterwards = await db
  .selectNoFrom(sql<number>`1`.as('n'))
  .execute()
  .then(
    ([row]) => row!.n === 1,
    () => false,
  )
await db.destroy()

const mb = (bytes: number): number => Math.round(bytes / 1024 / 1024)
const report: FloodReport = {
  told,
  refusedLate,
  refusedWithinMs: Math.round(lastRefusal - asked),
  answeredWithinMs: Math.round(answered - asked),
  grownMb: mb(process.resourceUsage().maxRSS * 1024 - rss),
  heapMb: mb(heapMost - heapUsed),
  uncaught,
  afterwards,
}
process.stdout.write(JSON.stringify(report))
