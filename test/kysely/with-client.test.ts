// dialect.withClient: pg's own client with all that it can do, in a slot of the pool for as long as it is held, and
// gone afterwards whatever happened to it.

import { Client, Query } from 'pg'
import type { Connection } from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'
import { SmartPgDialect, isSmartPgError } from '../../src/index.ts'
import type { LentClient } from '../../src/index.ts'
import { wire } from '../support/wire.ts'
import { backendsOf, failureOf, hasReplicas, inDatabase, pidOf, run, terminate, waitsForLock } from './support.ts'
import type { Opened } from './support.ts'

const place = inDatabase()

/** COPY … FROM STDIN as pg-copy-streams submits it: pg's Query, with data of our own when the server asks for it. */
class CopyIn extends Query {
  readonly done: Promise<number>
  readonly #data: string

  constructor(text: string, data: string) {
    let settle: (error: Error | null, result: { rowCount: number | null }) => void
    const done = new Promise<number>((resolve, reject) => {
      settle = (error, result) => (error === null ? resolve(result.rowCount ?? 0) : reject(error))
    })
    // Without @types/pg knowing it, the callback is the second argument.
    super(text, ((error: Error | null, result: { rowCount: number | null }) => settle(error, result)) as never)
    this.done = done
    this.#data = data
  }

  handleCopyInResponse(connection: Connection & { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void }): void {
    for (const line of this.#data.split(/(?<=\n)/)) connection.sendCopyFromChunk(Buffer.from(line))
    connection.endCopyFrom()
  }
}

describe('the client', () => {
  test('is pg’s own, and answers as it always does', async () => {
    const { dialect } = place.open()
    const answer = await dialect.withClient(async (client: Client) => {
      expect(client).toBeInstanceOf(Client)
      expect(Object.keys(client)).not.toContain('query')
      const { rows, rowCount, fields } = await client.query('select id, name from person where age > $1', [30])
      expect(fields.map(({ name }) => name)).toEqual(['id', 'name'])
      expect(rowCount).toBe(1)
      const [first, second] = await Promise.all([client.query('select 1 as n'), client.query('select 2 as n')])
      expect([first.rows, second.rows]).toEqual([[{ n: 1 }], [{ n: 2 }]])
      return rows as unknown
    })
    expect(answer).toEqual([{ id: 1, name: 'ada' }])
  })

  test('needs no types of pg', async () => {
    const { dialect } = place.open()
    const names = await dialect.withClient(async (client) => {
      const { rows } = await client.query<{ name: string }>('select name from person order by id')
      return rows.map(({ name }) => name)
    })
    expect(names).toEqual(['ada', 'bob', 'cleo'])
  })

  test('copies from its side to the server', async () => {
    const { dialect, db } = place.open()
    const lines = Array.from({ length: 1_000 }, (_, n) => `person ${n}\t${n}\n`)
    const count = await dialect.withClient(async (client: Client) => {
      const copied = await client.query(new CopyIn('copy person (name, age) from stdin', lines.join(''))).done
      const { rows } = await client.query('select count(*)::int as n from person')
      expect(rows).toEqual([{ n: 1_003 }])
      return copied
    })
    expect(count).toBe(1_000)
    expect(await db.selectFrom('person').select('age').where('name', '=', 'person 999').execute()).toEqual([
      { age: 999 },
    ])
  })

  test('copies from the server to its side', async () => {
    const { dialect } = place.open()
    const copied = await dialect.withClient(async (client: Client) => {
      const lines: string[] = []
      const { connection } = client as unknown as { connection: NodeJS.EventEmitter }
      connection.on('copyData', ({ chunk }: { chunk: Buffer }) => lines.push(String(chunk)))
      await client.query('copy (select name from person order by id) to stdout')
      return lines
    })
    expect(copied).toEqual(['ada\n', 'bob\n', 'cleo\n'])
  })

  test('holds a cursor and a large object in one transaction', async () => {
    const { dialect } = place.open()
    const read = await dialect.withClient(async (client) => {
      await client.query('begin')
      await client.query('declare people cursor for select name from person order by id')
      const { rows: first } = await client.query('fetch 2 from people')
      const { rows: rest } = await client.query('fetch all from people')
      const { rows: made } = await client.query<{ id: number }>("select lo_from_bytea(0, 'large') as id")
      const { rows: large } = await client.query('select lo_get($1) as bytes', [made[0]!.id])
      await client.query('rollback')
      return { first, rest, large }
    })
    expect(read).toEqual({
      first: [{ name: 'ada' }, { name: 'bob' }],
      rest: [{ name: 'cleo' }],
      large: [{ bytes: Buffer.from('large') }],
    })
  })

  test('hears NOTIFY', async () => {
    const { dialect } = place.open()
    const heard = await dialect.withClient(async (client: Client) => {
      const came = new Promise((resolve) => client.once('notification', resolve))
      await client.query('listen here')
      await place.ask("select pg_notify('here', 'hello')")
      return came
    })
    expect(heard).toMatchObject({ channel: 'here', payload: 'hello' })
  })

  test('takes a named statement, also of a text that the pool has prepared on this connection', async () => {
    const { dialect, db } = place.openOne()
    const query = db.selectFrom('person').select('name').where('id', '=', 1)
    for (let n = 0; n < 4; n++) await query.execute()
    const { sql, parameters } = query.compile()
    await dialect.withClient(async (client) => {
      for (let n = 0; n < 3; n++) {
        const { rows } = await client.query({ name: 'mine', text: sql, values: parameters })
        expect(rows).toEqual([{ name: 'ada' }])
      }
    })
  })

  test('is answered nothing that the pool has asked for itself', async ({ skip }) => {
    skip(wire === 'pg', 'only connections that callers share are asked for anything ahead')
    const { dialect, db } = place.openOne({ pool: { pipelineWrites: true } })
    const timeouts: unknown[] = []
    for (let n = 0; n < 3; n++) {
      await db
        .insertInto('person')
        .values({ name: `short ${n}` })
        .execute()
      const { rows } = await dialect.withClient((client) => client.query('show lock_timeout'))
      timeouts.push(...rows)
    }
    expect(timeouts).toEqual(Array.from({ length: 3 }, () => ({ lock_timeout: '0' })))
  })

  test('has the parsers, settings and hooks of every connection of this dialect', async () => {
    const created: number[] = []
    const reserved: number[] = []
    const { dialect, applicationName } = place.openOne({
      types: { getTypeParser: () => (value: string) => `parsed ${value}` },
      session: { settings: { statement_timeout: '77s' }, init: "set lock_timeout to '55s'" },
      onCreateConnection: async (connection) => {
        await connection.executeQuery({ sql: "set my.created to 'yes'", parameters: [] })
        created.push(1)
      },
      onReserveConnection: async (connection) => {
        await connection.executeQuery({ sql: "set my.tenant to 'seven'", parameters: [] })
        reserved.push(1)
      },
    })
    const shown = await dialect.withClient(async (client) => {
      const names = ['application_name', 'statement_timeout', 'lock_timeout', 'my.created', 'my.tenant']
      const columns = names.map((name, i) => `current_setting('${name}') as c${i}`).join(', ')
      const { rows } = await client.query<Record<string, string>>(`select ${columns}`)
      return Object.values(rows[0]!)
    })
    expect(shown).toEqual([applicationName, '77s', '55s', 'yes', 'seven'].map((value) => `parsed ${value}`))
    expect(created).toHaveLength(1)
    expect(reserved).toHaveLength(1)
  })

  test('is on the primary, or on the node that is named', async () => {
    const { dialect } = await (hasReplicas ? place.openWithReplicas() : Promise.resolve(place.open()))
    const standby = (options?: { node: string }): Promise<boolean> =>
      dialect.withClient(async (client) => {
        const { rows } = await client.query<{ standby: boolean }>('select pg_is_in_recovery() as standby')
        return rows[0]!.standby
      }, options)
    expect(await standby()).toBe(false)
    expect(await standby({ node: 'primary' })).toBe(false)
    if (hasReplicas) expect(await standby({ node: 'replica-1' })).toBe(true)
    const failure = await failureOf(standby({ node: 'replica-99' }))
    expect(isSmartPgError(failure, 'SMARTPG_CONFIG')).toBe(true)
    expect(failure.message).toContain("'replica-99'")
  })

  test('can be had before the first query', async () => {
    const dialect = new SmartPgDialect({ wire, primary: place.url, metrics: false })
    onTestFinished(() => dialect.destroy())
    expect(await dialect.withClient(async (client) => (await client.query('select 1 as n')).rows)).toEqual([{ n: 1 }])
  })
})

/** How many clients can be held at the same moment: settles when `count` are. */
async function atOnce(dialect: SmartPgDialect, count: number): Promise<number> {
  const pids = new Set<number>()
  let everybodyIsHere!: () => void
  const here = new Promise<void>((resolve) => (everybodyIsHere = resolve))
  const one = (): Promise<void> =>
    dialect.withClient(({ processID }) => {
      pids.add(processID)
      if (pids.size === count) everybodyIsHere()
      return here
    })
  await Promise.all(Array.from({ length: count }, one))
  return pids.size
}

describe('the pool', () => {
  const heldBy = async ({ dialect }: Opened): Promise<{ pid: number; end: () => void; done: Promise<void> }> => {
    let end!: () => void
    const ended = new Promise<void>((resolve) => (end = resolve))
    let done!: Promise<void>
    const pid = await new Promise<number>((resolve) => {
      done = dialect.withClient(async ({ processID }) => {
        resolve(processID)
        await ended
      })
    })
    return { pid, end, done }
  }

  test('counts the client: with one connection a query waits until it is given back', async () => {
    const opened = place.openOne()
    const { pid, end, done } = await heldBy(opened)
    let answered = false
    const query = pidOf(opened.db).finally(() => (answered = true))
    // It would have been answered long before this has found it idle.
    await expect
      .poll(async () => (await backendsOf(place.url, opened.applicationName)).map((backend) => backend.pid))
      .toEqual([pid])
    expect(answered).toBe(false)
    end()
    await done
    expect(await query).not.toBe(pid)
    const after = await backendsOf(place.url, opened.applicationName)
    expect(after.map((backend) => backend.pid)).toEqual([await query])
  })

  test('lets nobody wait for the client longer than for a query', async () => {
    const opened = place.openOne({ pool: { acquireTimeout: 200 } })
    const { end, done } = await heldBy(opened)
    const failure = await failureOf(opened.dialect.withClient(() => 'never'))
    expect(isSmartPgError(failure, 'SMARTPG_ACQUIRE_TIMEOUT')).toBe(true)
    expect(failure).toMatchObject({ holders: [{ summary: 'withClient' }] })
    end()
    await done
  })

  test('lets whoever waits leave by a signal, and calls nothing then', async () => {
    const opened = place.openOne()
    const { end, done } = await heldBy(opened)
    const gone = new AbortController()
    let called = false
    const waiting = failureOf(
      opened.dialect.withClient(
        () => {
          called = true
        },
        { signal: gone.signal },
      ),
    )
    gone.abort(new Error('no more'))
    expect((await waiting).message).toBe('no more')
    end()
    await done
    expect(await pidOf(opened.db)).toBeGreaterThan(0)
    expect(called).toBe(false)
  })

  test('never gets the connection back: what was done on it is gone with it', async () => {
    const { dialect, db } = place.openOne()
    const before = await pidOf(db)
    await dialect.withClient(async (client) => {
      expect(client.processID).toBe(before)
      await client.query("set search_path to 'nowhere'")
      await client.query('begin')
      await client.query("insert into public.person (name) values ('dora')")
    })
    expect(await pidOf(db)).not.toBe(before)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('is as large as before after fifty clients, whatever became of them', async () => {
    const { dialect, db, applicationName } = place.open({ pool: { min: 0, initial: 0, minIdle: 0, max: 3 } })
    const once = (n: number): Promise<unknown> =>
      dialect
        .withClient(async (client: Client) => {
          if (n % 4 === 0) await client.query('select pg_terminate_backend(pg_backend_pid())')
          else if (n % 4 === 1) await client.query('no sql')
          else if (n % 4 === 2) await client.end()
          else await client.query('select 1')
        })
        .catch(() => undefined)
    await Promise.all(Array.from({ length: 50 }, (_, n) => once(n)))
    expect(await atOnce(dialect, 3)).toBe(3)
    await db.destroy()
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })
})

describe('what the callback throws', () => {
  test('passes unchanged, and the connection is gone', async () => {
    const { dialect, applicationName } = place.openOne()
    const mine = new Error('mine')
    expect(
      await failureOf(
        dialect.withClient(() => {
          throw mine
        }),
      ),
    ).toBe(mine)
    expect(await backendsOf(place.url, applicationName)).toEqual([])
  })

  test('passes unchanged when it is PostgreSQL’s error', async () => {
    const { dialect, db } = place.openOne()
    const failure = await failureOf(
      dialect.withClient((client) => client.query("insert into person (name) values ('ada')")),
    )
    expect(failure).toMatchObject({ code: '23505', constraint: 'person_name_key' })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('passes unchanged when its backend was killed, and the next caller is served', async () => {
    const { dialect, db } = place.openOne()
    const failure = await failureOf(
      dialect.withClient(async (client) => {
        await terminate(place.url, client.processID)
        return client.query('select 1')
      }),
    )
    expect(isSmartPgError(failure)).toBe(false)
    expect(failure.message).toMatch(/terminat|not queryable|ended/i)
    expect(await pidOf(db)).toBeGreaterThan(0)
  })

  test('is nothing when the backend dies while the callback does something else: its value counts', async () => {
    const { dialect, db } = place.openOne()
    const value = await dialect.withClient(async (client: Client) => {
      const ended = new Promise((resolve) => client.once('end', resolve))
      await terminate(place.url, (client as unknown as LentClient).processID)
      await ended
      return 'done'
    })
    expect(value).toBe('done')
    expect(await pidOf(db)).toBeGreaterThan(0)
  })

  test('leaves nothing running: a query that nobody awaits is cancelled on the server', async () => {
    const { dialect, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin')
    await holder.query('lock table person')
    const left: Promise<unknown>[] = []
    const failure = await failureOf(
      dialect.withClient(async (client) => {
        left.push(failureOf(client.query('select from person')))
        await waitsForLock(place.url, applicationName, 'select from person')
        throw new Error('mine')
      }),
    )
    expect(failure.message).toBe('mine')
    expect(await Promise.all(left)).toHaveLength(1)
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })
})

describe('destroy()', () => {
  test('waits for the callback', async () => {
    const { dialect } = place.open()
    const order: string[] = []
    let destroyed: Promise<unknown> | undefined
    await dialect.withClient(async (client) => {
      destroyed = dialect.destroy().then(() => order.push('destroyed'))
      for (let n = 0; n < 20; n++) await client.query('select 1')
      order.push('done')
    })
    await destroyed
    expect(order).toEqual(['done', 'destroyed'])
  })

  test('closes the client when it waits no longer, and settles', async () => {
    const { dialect, db, applicationName } = place.open({ queryTimeout: 300 })
    await run(db, 'select 1')
    const working = dialect.withClient((client) => client.query('select pg_sleep(3600)'))
    const failed = failureOf(working)
    await expect
      .poll(async () => (await backendsOf(place.url, applicationName)).map(({ query }) => query))
      .toContain('select pg_sleep(3600)')
    await db.destroy()
    expect((await failed).message).toMatch(/terminat/i)
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })
})

test('reads that follow on replicas show what the client has written', async ({ skip }) => {
  skip(!hasReplicas, 'there is no replica')
  const { dialect, db } = await place.openWithReplicas()
  for (let n = 0; n < 20; n++) {
    await dialect.withClient((client) => client.query('insert into person (name) values ($1)', [`copy ${n}`]))
    const names = await db.selectFrom('person').select('name').where('name', '=', `copy ${n}`).execute()
    expect(names).toHaveLength(1)
  }
})
