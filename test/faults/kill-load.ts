// A process of its own for backend-kills.test.ts: a mixed load of uniquely numbered writes, transactions and reads
// of what was acknowledged, whose backends are killed from outside. It writes one line of JSON at the end.

import { Kysely, sql } from 'kysely'
import { SmartPgDialect, isSmartPgError } from '../../src/index.ts'
import { wire } from '../support/wire.ts'

export interface LoadOrder {
  readonly url: string
  readonly applicationName: string
  readonly queries: number
  readonly atOnce: number
  readonly max: number
}

export interface LoadReport {
  readonly queries: number
  readonly ms: number
  /** Codes of errors by operation. */
  readonly failures: Record<string, number>
  readonly wrong: string[]
  readonly uncaught: string[]
  /** Numbers of the inserts and of the transactions, by what the caller was told. */
  readonly inserts: Told
  readonly transactions: Told
  /** Backends of as many leases as the pool may have, all held at once after the load. */
  readonly heldAtOnce: number
}

export interface Told {
  readonly done: number[]
  readonly unknown: number[]
  readonly failed: number[]
}

interface Tables {
  written: { n: number; part: 'whole' | 'left' | 'right' }
}

const uncaught: string[] = []
process.on('uncaughtException', (error) => uncaught.push(String(error.stack)))
process.on('unhandledRejection', (error) => uncaught.push(String((error as Error).stack)))

const order = JSON.parse(process.argv[2]!) as LoadOrder
const dialect = new SmartPgDialect({
  wire,
  primary: order.url,
  applicationName: order.applicationName,
  pool: { max: order.max },
})
const db = new Kysely<Tables>({ dialect })
const inserts: Told = { done: [], unknown: [], failed: [] }
const transactions: Told = { done: [], unknown: [], failed: [] }
const failures: Record<string, number> = {}
const wrong: string[] = []
let queries = 0

function failed(operation: string, error: unknown): void {
  const key = `${operation} ${(error as { code?: string }).code ?? String(error)}`
  failures[key] = (failures[key] ?? 0) + 1
}

async function told(operation: string, into: Told, n: number, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
    into.done.push(n)
  } catch (error) {
    failed(operation, error)
    into[isSmartPgError(error, 'SMARTPG_OUTCOME_UNKNOWN') ? 'unknown' : 'failed'].push(n)
  }
}

function insert(n: number): Promise<void> {
  queries++
  return told('insert', inserts, n, () => db.insertInto('written').values({ n, part: 'whole' }).execute())
}

function transaction(n: number): Promise<void> {
  queries += 2
  return told('transaction', transactions, n, () =>
    db.transaction().execute(async (trx) => {
      await trx.insertInto('written').values({ n, part: 'left' }).execute()
      await trx.insertInto('written').values({ n, part: 'right' }).execute()
    }),
  )
}

async function read(): Promise<void> {
  const n = inserts.done[Math.floor(Math.random() * inserts.done.length)]
  if (n === undefined) return
  queries++
  try {
    const rows = await db.selectFrom('written').selectAll().where('n', '=', n).execute()
    if (rows.length !== 1 || rows[0]!.n !== n || rows[0]!.part !== 'whole') wrong.push(`${n}: ${JSON.stringify(rows)}`)
  } catch (error) {
    failed('read', error)
  }
}

let next = 0
async function caller(): Promise<void> {
  while (queries < order.queries) {
    const n = next++
    if (n % 10 === 0) await transaction(n)
    else if (n % 2 === 0) await insert(n)
    else await read()
  }
}

const startedAt = performance.now()
await Promise.all(Array.from({ length: order.atOnce }, caller))
const ms = Math.round(performance.now() - startedAt)

const pids = new Set<number>()
let arrived = 0
let everybodyIsHere!: () => void
const here = new Promise<void>((resolve) => (everybodyIsHere = resolve))
const lease = (): Promise<void> =>
  db.connection().execute(async (one) => {
    // The first statement may run anywhere, from the second on the session is this lease's.
    await sql`select 1`.execute(one)
    const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(one)
    pids.add(rows[0]!.pid)
    if (++arrived === order.max) everybodyIsHere()
    await here
  })
const leases = await Promise.allSettled(Array.from({ length: order.max }, lease))
for (const { status } of leases) if (status === 'rejected') wrong.push('a lease was refused after the load')
await db.destroy()

const report: LoadReport = { queries, ms, failures, wrong, uncaught, inserts, transactions, heldAtOnce: pids.size }
process.stdout.write(JSON.stringify(report))
