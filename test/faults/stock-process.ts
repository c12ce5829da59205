// A process of its own for stock.test.ts, because some of what happens to Kysely's own dialect over pg-pool ends the
// process. What it writes is what its caller saw; that it writes nothing says the rest.

import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { Kysely, PostgresDialect, sql } from 'kysely'
import { Client, Pool } from 'pg'
import { SmartPgDialect } from '../../src/index.ts'

const [who, scene, url] = process.argv.slice(2) as [string, string, string]

const connect = (primary: string): Kysely<never> => {
  const pool = { min: 0, initial: 0, minIdle: 0, max: 1 }
  if (who === 'ours') return new Kysely({ dialect: new SmartPgDialect({ primary, pool, metrics: false }) })
  const stock = new Pool({ connectionString: primary, max: 1 })
  // As its documentation says: that is for idle connections.
  stock.on('error', () => undefined)
  return new Kysely({ dialect: new PostgresDialect({ pool: stock }) })
}

async function death(): Promise<void> {
  const db = connect(url)
  const outside = new Client({ connectionString: url })
  await outside.connect()
  await db
    .transaction()
    .execute(async (trx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx)
      await outside.query('select pg_terminate_backend($1, 5000)', [rows[0]!.pid])
      // Its caller does something else for a moment.
      await outside.query('select pg_sleep(0.05)')
    })
    .catch(() => undefined)
  await outside.end()
  await db.destroy()
  process.stdout.write('alive')
}

/** A server that lets everybody in and answers the first question with a message of length 0. */
async function nonsense(): Promise<void> {
  const welcome = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 0, 0x5a, 0, 0, 0, 5, 0x49])
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => {
      socket.write(welcome)
      socket.once('data', () => socket.write(Buffer.from([0x54, 0, 0, 0, 0])))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const db = connect(`postgres://nobody@127.0.0.1:${port}/none`)
  server.unref()
  const told = sql`select 1`.execute(db).then(
    () => 'answered',
    () => 'told',
  )
  const late = new Promise<string>((resolve) => setTimeout(resolve, 15_000, 'pending').unref())
  process.stdout.write(`${await Promise.race([told, late])}: alive`)
  process.exit(0)
}

await (scene === 'death' ? death() : nonsense())
