// The process of one client under load. What would have ended it is written down instead, so that the rest of its run
// can still be judged. It says when it is ready, does what it is told, and at the end hands over its log.

import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import type { ClientOrder } from './clients.ts'
import { openClient } from './clients.ts'
import { leaveMesses } from './dirty.ts'
import { Load } from './load.ts'
import type { Entry, Moment } from './load.ts'
import type { Tables } from './operations.ts'

export interface LoadOrder extends ClientOrder {
  readonly seed: number
  readonly rate: number
  readonly readsOnly: boolean
  /** How long operations may take. */
  readonly budgetMs: number
}

export type Command =
  | { readonly do: 'herd'; readonly callers: number }
  /** The event loop stands still. */
  | { readonly do: 'block'; readonly ms: number }
  | { readonly do: 'dirty'; readonly ms: number }
  | { readonly do: 'stop' }

export interface LoadReport {
  readonly entries: readonly Entry[]
  /** Each would have ended the process. */
  readonly uncaught: readonly string[]
  /** Sessions that could be held at the same moment when all was over. */
  readonly capacity: number
  /** Null: it did not settle. */
  readonly destroyMs: number | null
  /** What the client did by itself, and when. */
  readonly history: readonly (readonly [at: Moment, what: string])[]
}

export type Message = { readonly is: 'ready' } | ({ readonly is: 'report' } & LoadReport)

/** For a lease after the load, and for `destroy`. */
const PATIENCE_MS = 15_000
/** Lines of history that are kept. */
const HISTORY = 5_000

const uncaught: string[] = []
process.on('uncaughtException', (error) => uncaught.push(String(error.stack)))
process.on('unhandledRejection', (error) => uncaught.push(String((error as Error).stack)))

const order = JSON.parse(process.argv[2]!) as LoadOrder
const history: [Moment, string][] = []
const tell = (what: string): void => {
  if (history.length < HISTORY) history.push([performance.timeOrigin + performance.now(), what])
}
const { db, abilities, told } = openClient(order, tell)
const { seed, rate, readsOnly } = order
const load = new Load(db, { seed, rate, readsOnly, abilities, told })

process.on('message', (command: Command) => {
  switch (command.do) {
    case 'herd':
      load.herd(command.callers)
      break
    case 'block':
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, command.ms)
      break
    case 'dirty':
      void leaveMesses(db, command.ms)
      break
    case 'stop':
      void finish()
      break
    default:
      command satisfies never
  }
})
// Whoever asked is gone.
process.on('disconnect', () => process.exit(1))

load.start()
send({ is: 'ready' })

async function finish(): Promise<void> {
  await load.stop(order.budgetMs + 1_000)
  const capacity = await sessionsHeld(db, order.max)
  const since = performance.now()
  const destroyed = await Promise.race([db.destroy().then(() => true, () => true), sleep(PATIENCE_MS, false)]) // prettier-ignore
  const destroyMs = destroyed ? performance.now() - since : null
  // Whatever comes out only now is counted as well.
  await sleep(50)
  send({ is: 'report', entries: load.entries, uncaught, capacity, destroyMs, history })
}

function send(message: Message): void {
  process.send!(message)
}

/** How many of `count` leases come to hold a session of their own at the same moment; the others have failed or wait. */
async function sessionsHeld(one: Kysely<Tables>, count: number): Promise<number> {
  const pids = new Set<number>()
  let undecided = count
  let release!: () => void
  const released = new Promise<void>((resolve) => (release = resolve))
  const decided = (): void => {
    if (--undecided === 0) release()
  }
  const lease = (): Promise<void> =>
    one.connection().execute(async (session) => {
      // The first statement may run anywhere, from the second on the session is this lease's.
      await sql`select 1`.execute(session)
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(session)
      pids.add(rows[0]!.pid)
      decided()
      await released
    })
  const leases = Promise.all(Array.from({ length: count }, () => lease().catch(decided)))
  await Promise.race([released, sleep(PATIENCE_MS)])
  release()
  await Promise.race([leases, sleep(1_000)])
  return pids.size
}
