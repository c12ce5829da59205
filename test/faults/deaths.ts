// A process of its own for backend-deaths.test.ts: backends die at every moment of a statement's life. Each scene
// writes what its caller was told; what would have ended the process is in `uncaught`.

import { setTimeout as sleep } from 'node:timers/promises'
import { Kysely, sql } from 'kysely'
import { Client } from 'pg'
import { SmartPgDialect } from '../../src/index.ts'
import { wire } from '../support/wire.ts'

interface Tables {
  notes: { n: number }
  checked: { n: number }
}

const uncaught: string[] = []
process.on('uncaughtException', (error) => uncaught.push(String(error.stack)))
process.on('unhandledRejection', (error) => uncaught.push(String((error as Error).stack)))

const url = process.argv[2]!
const applicationName = 'deaths'
const outside = new Client({ connectionString: url })
await outside.connect()
await outside.query(`create table notes (n int);
  create table checked (n int);
  create function check_slowly() returns trigger language plpgsql as
    $$ begin perform pg_sleep(60); return null; end $$;
  create constraint trigger slowly after insert on checked deferrable initially deferred
    for each row execute function check_slowly();`)

const dialect = new SmartPgDialect({ wire, primary: url, applicationName, pool: { min: 0, initial: 1, max: 2 } })
const db = new Kysely<Tables>({ dialect })

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('it did not come to that')
    await sleep(5)
  }
}

/** Waits until a backend of ours runs something like `text` and kills it. */
async function killWho(text: string): Promise<void> {
  const running = `select pid from pg_stat_activity
    where application_name = $1 and state = 'active' and query ilike $2 and pid <> pg_backend_pid()`
  let pid: number | undefined
  await until(async () => {
    const { rows } = await outside.query<{ pid: number }>(running, [applicationName, `%${text}%`])
    pid = rows[0]?.pid
    return pid !== undefined
  })
  await kill(pid!)
}

async function kill(pid: number): Promise<void> {
  await outside.query('select pg_terminate_backend($1)', [pid])
  await until(async () => (await outside.query('select from pg_stat_activity where pid = $1', [pid])).rowCount === 0)
}

const pidOf = async (one: Kysely<Tables>): Promise<number> =>
  (await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(one)).rows[0]!.pid

/** A caller's first statement may run anywhere, from the second on the session is his. */
async function ownPidOf(one: Kysely<Tables>): Promise<number> {
  await pidOf(one)
  return pidOf(one)
}

const toldBy = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'answered',
    (error: unknown) => (error as { code?: string }).code ?? String(error),
  )

const notes = async (n: number): Promise<number> =>
  (await outside.query('select from notes where n = $1', [n])).rowCount ?? 0

/** Two leases held at the same time are all this pool may have. */
async function whole(): Promise<boolean> {
  const pids = await db.connection().execute(async (a) => {
    const one = await ownPidOf(a)
    return [one, await db.connection().execute(ownPidOf)]
  })
  return new Set(pids).size === 2
}

const scenes: Record<string, () => Promise<Record<string, unknown>>> = {
  async idle() {
    await kill(await pidOf(db))
    // The server may be a moment ahead of the socket, and then a read is sent twice.
    return { next: await toldBy(db.selectFrom('notes').select('n').execute()) }
  },
  async write() {
    const write = toldBy(sql`insert into notes select 1 from pg_sleep(60)`.execute(db))
    await killWho('insert into notes')
    return { write: await write, rows: await notes(1) }
  },
  async read() {
    const locker = new Client({ connectionString: url })
    await locker.connect()
    await locker.query('begin; lock table notes in access exclusive mode')
    const read = toldBy(db.selectFrom('notes').selectAll().execute())
    await killWho('select * from "notes"')
    await locker.end()
    return { read: await read }
  },
  async transaction() {
    let second = ''
    const all = toldBy(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ n: 2 }).execute()
        await kill(await pidOf(trx))
        const next = trx.insertInto('notes').values({ n: 2 }).execute()
        second = await toldBy(next)
        await next
      }),
    )
    const told = await all
    return { toldTheSame: told === second, answered: told === 'answered', rows: await notes(2) }
  },
  async transactionWhoseCallerDoesNotLook() {
    const all = toldBy(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ n: 3 }).execute()
        await kill(await pidOf(trx))
      }),
    )
    const told = await all
    return { answered: told === 'answered', rows: await notes(3) }
  },
  async stream() {
    let rows = 0
    const read = async (): Promise<void> => {
      await outside.query('insert into notes select 4 from generate_series(1, 5000)')
      for await (const _ of db.selectFrom('notes').selectAll().where('n', '=', 4).stream(10)) {
        if (++rows !== 10) continue
        const { rows: found } = await outside.query<{ pid: number }>(
          "select pid from pg_stat_activity where application_name = $1 and state = 'idle in transaction'",
          [applicationName],
        )
        await kill(found[0]!.pid)
      }
    }
    const told = await toldBy(read())
    return { answered: told === 'answered', short: rows < 5000 }
  },
  async commit() {
    const all = toldBy(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('checked').values({ n: 1 }).execute()
      }),
    )
    await killWho('commit')
    return { told: await all, rows: (await outside.query('select from checked')).rowCount }
  },
  async batch() {
    const all = toldBy(db.batch([db.insertInto('notes').values({ n: 5 }), sql`select pg_sleep(60)`]))
    await killWho('pg_sleep')
    return { answered: (await all) === 'answered', rows: await notes(5) }
  },
  async everyone() {
    const killers = `select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1`
    const work = Array.from({ length: 50 }, (_, n) =>
      toldBy(db.selectFrom('notes').select('n').where('n', '=', n).execute()),
    )
    await outside.query(killers, [applicationName])
    return { told: [...new Set(await Promise.all(work))] }
  },
}

const report: Record<string, Record<string, unknown>> = {}
for (const [name, scene] of Object.entries(scenes)) {
  report[name] = await scene().catch((error: unknown) => ({ failed: String(error) }))
  report[name]['whole'] = await whole().catch(String)
}
const destroyed = await toldBy(db.destroy())
const left = await outside.query('select from pg_stat_activity where application_name = $1', [applicationName])
await outside.end()
process.stdout.write(JSON.stringify({ report, uncaught, destroyed, left: left.rowCount }))
