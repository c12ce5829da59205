// What the fault tests share: dialects that are gone when their test is, the server's own view of them, and their
// pool's own counts.

import { randomBytes } from 'node:crypto'
import { Kysely, sql } from 'kysely'
import { Registry } from 'prom-client'
import { onTestFinished } from 'vitest'
import { SmartPgDialect } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'

/** Tests that do things to servers start one of their own, which TEST_DATABASE_URL and TEST_PG forbid. */
export const borrowed = Boolean(process.env['TEST_DATABASE_URL'] ?? process.env['TEST_PG'])
export const ownOnly = '(TEST_DATABASE_URL and TEST_PG are unset)'

export interface Opened<DB> {
  readonly db: Kysely<DB>
  readonly dialect: SmartPgDialect
  /** What pg_stat_activity calls its connections. */
  readonly applicationName: string
}

/** A dialect over this run's wire, with a registry and an application name of its own. */
export function open<DB>(options: SmartPgOptions): Opened<DB> {
  const applicationName = `faults-${randomBytes(4).toString('hex')}`
  const dialect = new SmartPgDialect({ wire, applicationName, metrics: { registry: new Registry() }, ...options })
  const db = new Kysely<DB>({ dialect })
  onTestFinished(() => db.destroy())
  return { db, dialect, applicationName: options.applicationName ?? applicationName }
}

/** How many connections the server has of an application. */
export async function backends(url: string, applicationName: string): Promise<number> {
  const text = 'select count(*)::int as n from pg_stat_activity where application_name = $1'
  const [row] = await ask<{ n: number }>(url, text, [applicationName])
  return row!.n
}

/** A gauge or counter of a node, as a scrape sees it; the sum over other labels. */
export async function metric(dialect: SmartPgDialect, name: string, node = 'primary'): Promise<number> {
  const metrics = await dialect.registry.getMetricsAsJSON()
  const found = metrics.find((one) => one.name === `connection_pool_${name}`)
  if (found === undefined) throw new Error(`there is no metric ${name}`)
  return found.values.filter(({ labels }) => labels['node'] === node).reduce((sum, { value }) => sum + value, 0)
}

export const pidOf = async (db: Kysely<never>): Promise<number> => {
  const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db)
  return rows[0]!.pid
}

/** The backend of a caller's own session: his first statement may run anywhere, from the second on it is his. */
export async function ownPidOf(one: Kysely<never>): Promise<number> {
  await pidOf(one)
  return pidOf(one)
}

/** Backends of `count` leases that are all held at the same moment. */
export async function heldAtOnce(db: Kysely<never>, count: number): Promise<Set<number>> {
  const pids = new Set<number>()
  let arrived = 0
  let everybodyIsHere!: () => void
  const here = new Promise<void>((resolve) => (everybodyIsHere = resolve))
  const lease = (): Promise<void> =>
    db.connection().execute(async (one) => {
      pids.add(await ownPidOf(one))
      if (++arrived === count) everybodyIsHere()
      await here
    })
  try {
    await Promise.all(Array.from({ length: count }, lease))
  } finally {
    everybodyIsHere()
  }
  return pids
}

/** Runs `task` for 0 … count − 1, at most `atOnce` at a time. */
export async function spread(count: number, atOnce: number, task: (n: number) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) await task(next++)
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, worker))
}

/** What a promise was rejected with; a promise that is kept fails the test. */
export async function failure(work: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  const answer = await work.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  if ('value' in answer) throw new Error('expected a rejection')
  return answer.error as Error & Record<string, unknown>
}

/** How often each code occurred. */
export class Tally {
  readonly counts: Record<string, number> = {}

  add(of: unknown): void {
    const key = typeof of === 'object' && of !== null && 'code' in of ? String(of.code) : String(of)
    this.counts[key] = (this.counts[key] ?? 0) + 1
  }

  get total(): number {
    return Object.values(this.counts).reduce((sum, n) => sum + n, 0)
  }
}
