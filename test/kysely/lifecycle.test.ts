// From `new Kysely` to `destroy()`: nothing happens before the first query, nothing is left after the last
// instance has gone, and in between the user's hooks run when they were promised to.

import { CompiledQuery, Kysely } from 'kysely'
import { Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { SmartPgDialect, isSmartPgError } from '../../src/index.ts'
import type { HookConnection } from '../../src/index.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import type { Tables } from './support.ts'
import {
  backendsOf,
  failureOf,
  hasReplicas,
  inDatabase,
  ownPidOf,
  pidOf,
  rowOf,
  run,
  terminate,
  waitsForLock,
} from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }

/** Settles when the server holds no connection of that name any more. */
async function nobodyLeft(applicationName: string, url = place.url): Promise<void> {
  await expect.poll(() => backendsOf(url, applicationName)).toEqual([])
}

describe('before the first query', () => {
  test('nothing connects, and destroying what was never used is no work', async () => {
    let asked = 0
    const { db } = place.open({
      primary: () => {
        asked++
        return place.url
      },
    })
    db.selectFrom('person').selectAll().compile()
    await db.destroy()
    expect(asked).toBe(0)
  })

  test('ready() opens what `initial` says on every node', async () => {
    const { dialect, applicationName } = place.open({ pool: { min: 0, initial: 3 } })
    await dialect.ready()
    expect(await backendsOf(place.url, applicationName)).toHaveLength(3)
  })
})

describe('a first connection that fails', () => {
  test('fails the query that needed it, and the next one works', async () => {
    let url = 'postgres://postgres@127.0.0.1:1/nowhere?user=nobody'
    const { db } = place.openOne({
      primary: () => url,
      pool: { acquireTimeout: 1 },
    })
    const failure = await failureOf(db.selectFrom('person').selectAll().execute())
    expect(isSmartPgError(failure)).toBe(true)
    url = place.url
    await expect
      .poll(() =>
        db
          .selectFrom('person')
          .select('id')
          .execute()
          .catch(() => []),
      )
      .toHaveLength(3)
  })

  test('for a reason that waiting cannot mend says so at once, and works when the reason is gone', async () => {
    let database = 'does_not_exist'
    const { db } = place.openOne({
      primary: () => {
        const url = new URL(place.url)
        if (database !== '') url.pathname = `/${database}`
        return url.href
      },
    })
    const failure = await failureOf(db.selectFrom('person').selectAll().execute())
    expect(failure).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', phase: 'connect' })
    expect(failure.message).toContain('does_not_exist')
    database = ''
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('an init that throws once leaves nothing behind that keeps the next one from working', async () => {
    class BrokenOnce extends Registry {
      broken = true
      override registerMetric(metric: Parameters<Registry['registerMetric']>[0]): void {
        if (this.broken) throw new Error('no metrics today')
        super.registerMetric(metric)
      }
    }
    const registry = new BrokenOnce()
    const { db, applicationName } = place.open({ metrics: { registry } })
    expect((await failureOf(db.selectFrom('person').selectAll().execute())).message).toBe('no metrics today')
    expect(await backendsOf(place.url, applicationName)).toEqual([])
    registry.broken = false
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    await db.destroy()
    await nobodyLeft(applicationName)
  })

  test('TLS that the server does not speak is refused with the remedy, and soon', async () => {
    const { db } = place.openOne({ ssl: true })
    const failure = await failureOf(db.selectFrom('person').selectAll().execute())
    expect(failure).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', phase: 'connect' })
    expect(failure.message).toContain('does not support SSL')
    expect(failure.hint).toContain('ssl: false')
  })
})

describe('destroy()', () => {
  test('closes every backend', async () => {
    const { db, applicationName } = place.open()
    await Promise.all(Array.from({ length: 10 }, () => run(db, 'select pg_sleep(0.01)')))
    expect((await backendsOf(place.url, applicationName)).length).toBeGreaterThan(1)
    await db.destroy()
    await nobodyLeft(applicationName)
  })

  test.skipIf(!hasReplicas)('closes those on the replicas, and those that ask the nodes how they are', async () => {
    const { db, applicationName } = await place.openWithReplicas()
    await Promise.all(Array.from({ length: 5 }, () => db.selectFrom('person').select('id').execute()))
    await db.destroy()
    for (const url of [place.url, ...place.replicaUrls]) await nobodyLeft(applicationName, url)
  })

  test('lets running queries finish and answers them', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    const insert = db.insertInto('person').values(dora).returning('name').execute()
    await waitsForLock(place.url, applicationName)
    const destroyed = db.destroy()
    await holder.query('rollback')
    expect(await insert).toEqual([{ name: 'dora' }])
    await destroyed
    await nobodyLeft(applicationName)
  })

  test('lets a running transaction come to its COMMIT', async () => {
    const { db } = place.openOne()
    let destroyed: Promise<void> | undefined
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('person').values(dora).execute()
      destroyed = db.destroy()
      await trx.insertInto('person').values({ name: 'emil', age: 1 }).execute()
    })
    await destroyed
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora', 'emil'])
  })

  test('lets a stream be read to its end', async () => {
    const { db, applicationName } = place.openOne()
    let destroyed: Promise<void> | undefined
    const seen: string[] = []
    for await (const { name } of db.selectFrom('person').select('name').orderBy('id').stream(1)) {
      destroyed ??= db.destroy()
      seen.push(name)
    }
    expect(seen).toEqual(['ada', 'bob', 'cleo'])
    await destroyed
    await nobodyLeft(applicationName)
  })

  test('rejects who waits for a connection instead of leaving him waiting', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    const running = db.insertInto('person').values(dora).execute()
    await waitsForLock(place.url, applicationName)
    const waiting = [1, 2, 3].map(() => failureOf(db.insertInto('pet').values({ name: 'rex', owner_id: 1 }).execute()))
    await expect.poll(async () => (await backendsOf(place.url, applicationName)).length).toBe(1)
    const destroyed = db.destroy()
    // While the running query still runs: they did not wait for it.
    for (const failure of await Promise.all(waiting)) expect(isSmartPgError(failure, 'SMARTPG_CLOSED')).toBe(true)
    await holder.query('rollback')
    await Promise.all([running, destroyed])
    expect(await place.ask('select * from pet')).toEqual([])
  })

  test('may be called twice, also at once', async () => {
    const { db, applicationName } = place.open()
    await pidOf(db)
    await Promise.all([db.destroy(), db.destroy()])
    await db.destroy()
    await nobodyLeft(applicationName)
  })

  test('refuses queries afterwards', async () => {
    const { db } = place.open()
    await pidOf(db)
    await db.destroy()
    await expect(db.insertInto('person').values(dora).execute()).rejects.toThrow(/destroyed/)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('happens by itself at the end of a block with `await using`', async () => {
    const applicationName = 'using it'
    {
      const dialect = new SmartPgDialect({ wire, primary: place.url, applicationName, metrics: false })
      // Kysely declares the symbol a second time, so that TypeScript does not find the method by itself.
      await using db = new Kysely<Tables>({ dialect }) as Kysely<Tables> & AsyncDisposable
      expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    }
    await nobodyLeft(applicationName)
  })

  test('settles although a connection died meanwhile', async () => {
    const { db, applicationName } = place.openOne()
    await terminate(place.url, await pidOf(db))
    await db.destroy()
    await nobodyLeft(applicationName)
  })
})

describe('several Kysely instances over one dialect', () => {
  test('share its connections; the last one to go closes them, and a later one starts anew', async () => {
    const { db: first, dialect, applicationName } = place.openOne()
    const second = new Kysely<Tables>({ dialect })
    const pid = await pidOf(first)
    expect(await pidOf(second)).toBe(pid)
    await first.destroy()
    expect(await pidOf(second)).toBe(pid)
    await second.destroy()
    await nobodyLeft(applicationName)
    const third = new Kysely<Tables>({ dialect })
    expect(await third.selectFrom('person').select('id').execute()).toHaveLength(3)
    await third.destroy()
    await nobodyLeft(applicationName)
  })

  test('one that was never used takes nothing from the others when it is destroyed', async () => {
    const { db, dialect } = place.openOne()
    const pid = await pidOf(db)
    await new Kysely<Tables>({ dialect }).destroy()
    expect(await pidOf(db)).toBe(pid)
  })

  test('one that starts while the last one stops works', async () => {
    const { db, dialect } = place.openOne()
    await pidOf(db)
    const stopping = db.destroy()
    const next = new Kysely<Tables>({ dialect })
    expect(await next.selectFrom('person').select('id').execute()).toHaveLength(3)
    await stopping
    expect(await next.selectFrom('person').select('id').execute()).toHaveLength(3)
    await next.destroy()
  })

  test('two dialects in one process share nothing', async () => {
    const one = place.openOne()
    const other = place.openOne()
    expect(await pidOf(one.db)).not.toBe(await pidOf(other.db))
    await one.db.destroy()
    expect(await backendsOf(place.url, other.applicationName)).toHaveLength(1)
  })
})

describe('an idle connection that dies', () => {
  test('does not end the process, and the next query does not meet it', async () => {
    const { db } = place.openOne()
    for (let round = 0; round < 3; round++) {
      await terminate(place.url, await pidOf(db))
      await db
        .insertInto('person')
        .values({ name: `guest ${round}`, age: 1 })
        .execute()
    }
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'guest 0', 'guest 1', 'guest 2'])
  })

  test('while a callback holds it does not end the process either', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      await terminate(place.url, await ownPidOf(one))
      await one
        .insertInto('person')
        .values(dora)
        .execute()
        .catch(() => undefined)
    })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })
})

describe('onCreateConnection', () => {
  test('runs once for each physical connection, before its first statement', async () => {
    const created: number[] = []
    const { db } = place.open({
      pool: { min: 0, initial: 0, minIdle: 0, max: 3 },
      onCreateConnection: async (connection) => {
        const { rows } = await connection.executeQuery(CompiledQuery.raw('select pg_backend_pid() as pid'))
        created.push(rows[0]!['pid'] as number)
        await connection.executeQuery(CompiledQuery.raw("set app.tenant to 'made'"))
      },
    })
    const seen = await Promise.all(
      Array.from({ length: 30 }, () =>
        rowOf<{ pid: number; tenant: string }>(
          db,
          "select pg_backend_pid() as pid, current_setting('app.tenant') as tenant, pg_sleep(0.005)::text",
        ),
      ),
    )
    expect(new Set(seen.map(({ tenant }) => tenant))).toEqual(new Set(['made']))
    expect(new Set(created).size).toBe(created.length)
    expect(created).toEqual(expect.arrayContaining([...new Set(seen.map(({ pid }) => pid))]))
  })

  test('has its settings on every connection, also after a caller has changed them', async () => {
    const { db } = place.openOne({
      onCreateConnection: async (connection) => {
        await connection.executeQuery(CompiledQuery.raw("set app.tenant to 'made'"))
      },
    })
    await db.connection().execute((one) => run(one, "set app.tenant to 'changed'"))
    expect(await rowOf(db, "select current_setting('app.tenant') as tenant")).toEqual({ tenant: 'made' })
  })

  test('that throws fails the query with what it threw, and leaks no connection', async () => {
    const thrown = new Error('not this one')
    let fail = true
    const { db, applicationName } = place.openOne({
      pool: { acquireTimeout: 300 },
      onCreateConnection: () => {
        if (fail) throw thrown
      },
    })
    const failure = await failureOf(pidOf(db))
    expect([failure, failure.cause]).toContain(thrown)
    fail = false
    await expect.poll(() => pidOf(db).catch(() => 0)).toBeGreaterThan(0)
    await expect.poll(() => backendsOf(place.url, applicationName)).toHaveLength(1)
  })
})

describe('onReserveConnection', () => {
  test('runs at every acquire and has ended before the caller’s first statement', async () => {
    let reserved = 0
    const { db } = place.openOne({
      onReserveConnection: async (connection: HookConnection) => {
        reserved++
        await connection.executeQuery(CompiledQuery.raw("select set_config('app.turn', $1, false)", [String(reserved)]))
      },
    })
    const turn = (on: Kysely<Tables>) => rowOf(on, "select current_setting('app.turn') as turn")
    expect(await turn(db)).toEqual({ turn: '1' })
    expect(await turn(db)).toEqual({ turn: '2' })
    await db.transaction().execute(async (trx) => {
      expect(await turn(trx)).toEqual({ turn: '3' })
      expect(await turn(trx)).toEqual({ turn: '3' })
    })
    for await (const { id } of db.selectFrom('person').select('id').stream(1)) expect(id).toBeGreaterThan(0)
    expect(await turn(db)).toEqual({ turn: '5' })
    expect(reserved).toBe(5)
  })

  test('that throws fails the query with what it threw; nothing is sent and no connection is lost', async () => {
    const thrown = new Error('nobody is logged in')
    let fail = true
    const { db } = place.openOne({
      onReserveConnection: () => {
        if (fail) throw thrown
      },
    })
    for (let round = 0; round < 3; round++)
      expect(await failureOf(db.insertInto('person').values(dora).execute())).toBe(thrown)
    expect(await failureOf(db.transaction().execute(async () => 'never'))).toBe(thrown)
    fail = false
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('keeps two tenants apart under row-level security: of 500 queries at once none sees a foreign row', async () => {
    const { AsyncLocalStorage } = await import('node:async_hooks')
    const tenants = new AsyncLocalStorage<string>()
    const role = `tenant_${new URL(place.url).pathname.slice(1)}`
    await place.ask(`create role ${role} login password 'tenant'`)
    try {
      await place.ask(`
        create table note (id int generated by default as identity, tenant text not null default current_setting('app.tenant'));
        insert into note (tenant) select tenant from (values ('red'), ('blue')) t(tenant), generate_series(1, 20);
        alter table note enable row level security;
        create policy own on note using (tenant = current_setting('app.tenant'));
        grant select, insert on note to ${role}`)
      const url = new URL(place.url)
      url.username = role
      url.password = 'tenant'
      const { db } = place.open({
        primary: url.href,
        pool: { max: 8 },
        onReserveConnection: async (connection) => {
          await connection.executeQuery(
            CompiledQuery.raw("select set_config('app.tenant', $1, false)", [tenants.getStore()]),
          )
        },
      })
      const notes = (db as unknown as Kysely<{ note: { tenant: string } }>).selectFrom('note').select('tenant')
      const answers = await Promise.all(
        Array.from({ length: 500 }, (_, n) => {
          const tenant = n % 2 === 0 ? 'red' : 'blue'
          return tenants.run(tenant, async () => ({ tenant, rows: await notes.execute() }))
        }),
      )
      const foreign = answers.filter(({ tenant, rows }) => rows.some((row) => row.tenant !== tenant))
      expect(foreign).toEqual([])
      expect(answers.every(({ rows }) => rows.length === 20)).toBe(true)
      await db.destroy()
    } finally {
      await place.ask(`drop owned by ${role} cascade; drop role ${role}`)
      await ask(place.url, 'drop table if exists note')
    }
  })
})
