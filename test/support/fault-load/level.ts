// One fault run: a load that is well for a while, a fault, the heal, a tail; then the judge, and how many callers were
// answered.

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { startFaultProxy } from '../fault-proxy.ts'
import type { Cluster, Server } from '../postgres/cluster.ts'
import { createDatabase } from '../postgres/database.ts'
import { ask } from '../postgres/server.ts'
import { leader, running } from '../postgres/succession.ts'
import type { ClientName } from './clients.ts'
import { dirtySchema } from './dirty.ts'
import { blameless, findOut, judge } from './judge.ts'
import type { Verdict } from './judge.ts'
import { LoadHandle } from './load-handle.ts'
import { isRead } from './load.ts'
import type { Entry, Moment } from './load.ts'
import type { LoadReport } from './load-process.ts'
import { schema } from './operations.ts'
import type { Scenario } from './scenarios.ts'

export interface RunOptions {
  readonly scenario: Scenario
  readonly client: ClientName
  readonly seed: number
  /** Operations per second. */
  readonly rate: number
  /** Most connections of the client. */
  readonly max: number
  readonly leadInMs: number
  readonly faultMs: number
  readonly tailMs: number
}

export interface Level {
  readonly scenario: string
  readonly client: ClientName
  /** Operations due between the beginning of the fault and 2 s after its end, and how many of them were answered. */
  readonly due: number
  readonly answered: number
  /** Those of them that only read. */
  readonly readsDue: number
  readonly readsAnswered: number
  /** What the others of these were told. */
  readonly failures: Readonly<Record<string, number>>
  /** Of the whole run: those of whose write nobody knows. */
  readonly unknown: number
  /** Failed while nothing was wrong yet. */
  readonly failedBefore: number
  readonly answeredAfter: number
  readonly verdict: Verdict
  /** Exceptions that nobody caught: each would have ended the process. */
  readonly crashes: readonly string[]
  /** From the heal until the first answer. Null: there was none. */
  readonly firstAnswerMs: number | null
  /** The same of a write. */
  readonly firstWriteMs: number | null
  /** From the heal until the beginning of 100 ms in which 99 of 100 were answered, and half the usual number at least. */
  readonly recoveredMs: number | null
  readonly slowestMs: number
  /** Sessions that could be held at once afterwards. */
  readonly capacity: number
  /** On the server, after `destroy`. */
  readonly left: number
  /** Null: it did not settle. */
  readonly destroyMs: number | null
  readonly log: { readonly entries: readonly Entry[]; readonly history: LoadReport['history'] }
  readonly beganAt: Moment
  readonly healedAt: Moment
}

/** Without rights to anything but its own, so that the server keeps slots for others. */
const role = 'fault_app'
/** For so long after its end the fault still counts. */
const AFTERMATH_MS = 2_000
const ACQUIRE_TIMEOUT_MS = 10_000
const BACKOFFS_MS = 4_000
const DEFAULT_QUERY_TIMEOUT_MS = 30_000
const WINDOW_MS = 100

/** Wants a server that may be stopped, with few connections. */
export const serverSettings: Record<string, string> = { max_connections: '40' }

/** How long one operation may take: the longest wait for a connection, an attempt, the backoffs. */
export function budgetOf({ client, scenario }: Pick<RunOptions, 'client' | 'scenario'>): number {
  // Stock has no deadline at all; what has not come by then never will.
  const own = client.startsWith('stock') ? SHORT_MS : DEFAULT_QUERY_TIMEOUT_MS
  return ACQUIRE_TIMEOUT_MS + (scenario.queryTimeoutMs ?? own) + BACKOFFS_MS
}
const SHORT_MS = 1_000

export async function runLevel(cluster: Cluster, options: RunOptions): Promise<Level> {
  const { scenario, client, seed, rate, max } = options
  const database = await createDatabase(cluster)
  await prepare(database.url)
  const roleUrl = as(role, database.url)
  const proxy = await startFaultProxy(roleUrl)
  const applicationName = `levels-${randomBytes(4).toString('hex')}`
  const budgetMs = budgetOf(options)
  // Whoever takes turns among standbys cannot write.
  const { queryTimeoutMs, more = {}, readsOnly = client === 'stock-replicas' } = scenario
  const url = scenario.proxied ? proxy.url : roleUrl
  const replicaUrls = database.replicaUrls.map((one) => as(role, one))
  await cluster.caughtUp()
  const order = { client, url, replicaUrls, more, applicationName, max, seed, rate, readsOnly, queryTimeoutMs }
  const load = await LoadHandle.start({ ...order, budgetMs })
  try {
    await sleep(options.leadInMs)
    const beganAt = now()
    const scene = { cluster, url: database.url, roleUrl, proxy, load, applicationName }
    const healedAt = (await scenario.happens(scene, options.faultMs)) ?? now()
    await sleep(Math.max(options.tailMs, AFTERMATH_MS))
    const report = await load.finish()
    await proxy.close()
    const left = await backendsLeft(cluster, applicationName)
    // Where the primary is by now.
    const found = await findOut(onServer(await leader(cluster), database.url))
    if ('exitCode' in report) return gone(options, report.exitCode, { beganAt, healedAt, left })
    return { ...figures(report, options, beganAt, healedAt), verdict: judge(report.entries, found, budgetMs), left }
  } finally {
    load.close()
    await proxy.close()
    // A cluster with standbys is there for one run, and may have another primary now.
    if (cluster.replicas.length === 0) await database.drop()
  }
}

/** The same database there. */
export function onServer({ port }: Server, url: string): string {
  const target = new URL(url)
  target.port = String(port)
  return target.href
}

async function prepare(url: string): Promise<void> {
  for (const statement of schema) await ask(url, statement)
  await ask(url, `do $$ begin if not exists (select from pg_roles where rolname = '${role}') then create role ${role} login; end if; end $$`) // prettier-ignore
  await ask(url, `grant all on all tables in schema public to ${role}`)
  for (const statement of dirtySchema(role)) await ask(url, statement)
}

function as(user: string, url: string): string {
  const target = new URL(url)
  target.username = user
  return target.href
}

/** On all servers; they learn of closed sockets a moment later. */
async function backendsLeft(cluster: Cluster, applicationName: string): Promise<number> {
  const text = 'select count(*)::int as n from pg_stat_activity where application_name = $1'
  const until = performance.now() + 5_000
  for (;;) {
    const counts = await Promise.all(
      running(cluster).map(({ url }) => ask<{ n: number }>(url, text, [applicationName])),
    )
    const left = counts.flat().reduce((sum, { n }) => sum + n, 0)
    if (left === 0 || performance.now() > until) return left
    await sleep(20)
  }
}

function figures(
  report: LoadReport,
  options: RunOptions,
  beganAt: Moment,
  healedAt: Moment,
): Omit<Level, 'verdict' | 'left'> {
  const { entries, uncaught, capacity, destroyMs, history } = report
  const touched = entries.filter(({ due }) => due >= beganAt && due < healedAt + AFTERMATH_MS)
  const reads = touched.filter(({ kind }) => isRead(kind))
  const answers = entries.filter(isAnswered)
  const after = answers.filter(({ settled }) => settled! >= healedAt)
  return {
    scenario: options.scenario.name,
    client: options.client,
    due: touched.length,
    answered: touched.filter(isAnswered).length,
    readsDue: reads.length,
    readsAnswered: reads.filter(isAnswered).length,
    failures: tally(touched.filter((one) => !isAnswered(one))),
    unknown: entries.filter(({ told, wrote }) => told !== 'ok' && wrote === 'maybe').length,
    failedBefore: entries.filter((one) => one.due < beganAt && !isAnswered(one) && (one.settled ?? Infinity) < beganAt)
      .length,
    answeredAfter: answers.filter(({ due }) => due >= healedAt).length,
    crashes: uncaught,
    firstAnswerMs: firstMs(after, healedAt),
    firstWriteMs: firstMs(
      after.filter(({ wrote }) => wrote === 'yes'),
      healedAt,
    ),
    recoveredMs: recovered(entries, healedAt, options.rate),
    slowestMs: Math.max(0, ...answers.map(({ due, settled }) => settled! - due)),
    capacity,
    destroyMs,
    log: { entries, history },
    beganAt,
    healedAt,
  }
}

function firstMs(answers: readonly Entry[], since: Moment): number | null {
  return answers.length === 0 ? null : Math.min(...answers.map(({ settled }) => settled!)) - since
}

/** A process that is gone has told nothing. */
function gone(options: RunOptions, exitCode: number | null, at: Pick<Level, 'beganAt' | 'healedAt' | 'left'>): Level {
  return {
    scenario: options.scenario.name,
    client: options.client,
    due: 0,
    answered: 0,
    readsDue: 0,
    readsAnswered: 0,
    failures: {},
    unknown: 0,
    failedBefore: 0,
    answeredAfter: 0,
    verdict: blameless,
    crashes: [`the process ended with ${exitCode}`],
    firstAnswerMs: null,
    firstWriteMs: null,
    recoveredMs: null,
    slowestMs: NaN,
    capacity: 0,
    destroyMs: null,
    log: { entries: [], history: [] },
    ...at,
  }
}

export function isAnswered({ told, wrong }: Entry): boolean {
  return told === 'ok' && wrong === null
}

function tally(entries: readonly Entry[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { told, wrong } of entries) {
    const what = wrong === null ? told : 'wrong'
    counts[what] = (counts[what] ?? 0) + 1
  }
  return counts
}

function recovered(entries: readonly Entry[], healedAt: Moment, rate: number): number | null {
  const after = entries.filter(({ settled }) => settled !== null && settled >= healedAt)
  const last = Math.max(...after.map(({ settled }) => settled!))
  for (let from = healedAt; from + WINDOW_MS <= last; from += WINDOW_MS / 10) {
    const within = after.filter(({ settled }) => settled! >= from && settled! < from + WINDOW_MS)
    const enough = within.length >= (rate * WINDOW_MS) / 1_000 / 2
    if (enough && within.filter(isAnswered).length >= 0.99 * within.length) return from - healedAt
  }
  return null
}

export const now = (): Moment => performance.timeOrigin + performance.now()
