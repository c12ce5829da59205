// dialect.listen: what is sent by NOTIFY arrives, in its order, at everybody who listens, over one connection that is
// none of the pool's; and when that is lost, it comes back and says so.

import { sql } from 'kysely'
import { describe, expect, onTestFinished, test } from 'vitest'
import { SmartPgDialect, isSmartPgError } from '../../src/index.ts'
import type { BackgroundErrorEvent, Gap, GapEvent } from '../../src/index.ts'
import { wire } from '../support/wire.ts'
import { backendsOf, failureOf, inDatabase, pidOf, terminate } from './support.ts'
import type { Opened } from './support.ts'

const place = inDatabase()

/** A dialect that opens nothing by itself; its listeners end with the test. */
function openIdle(): Opened {
  const opened = place.open({ pool: { min: 0, initial: 0, minIdle: 0 } })
  // Kysely closes what it has used; a dialect that only listened wants to be told.
  onTestFinished(() => opened.dialect.destroy())
  return opened
}

const notify = (channel: string, payload = ''): Promise<unknown> =>
  place.ask('select pg_notify($1, $2)', [channel, payload])

const silent = (): void => {}

describe('a listener', () => {
  test('hears every notification once, in the order in which they were sent', async () => {
    const { dialect } = openIdle()
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    const stranger = await place.stranger()
    const numbers = Array.from({ length: 200 }, (_, n) => String(n))
    for (const n of numbers) await stranger.query('select pg_notify($1, $2)', ['orders', n])
    await expect.poll(() => heard.length).toBe(200)
    expect(heard).toEqual(numbers)
  })

  test('is told the channel and the backend that sent it', async () => {
    const { dialect } = openIdle()
    const sources: unknown[] = []
    await dialect.listen('orders', (_, source) => sources.push(source))
    const stranger = await place.stranger()
    const { rows } = await stranger.query<{ pid: number }>('select pg_backend_pid() as pid')
    await stranger.query('notify orders')
    await expect.poll(() => sources).toEqual([{ channel: 'orders', processId: rows[0]!.pid }])
  })

  test('hears an empty payload, and one of eight thousand bytes', async () => {
    const { dialect } = openIdle()
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    const long = 'ü'.repeat(3_999)
    await notify('orders', '')
    await notify('orders', long)
    await expect.poll(() => heard).toEqual(['', long])
  })

  test('hears what this dialect sends itself: of a transaction, at COMMIT and never before', async () => {
    const { dialect, db } = openIdle()
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    const send = (payload: string) => sql`select pg_notify('orders', ${payload})`
    const rolledBack = db.transaction().execute(async (trx) => {
      await send('never').execute(trx)
      throw new Error('back')
    })
    await failureOf(rolledBack)
    await db.transaction().execute(async (trx) => {
      await send('later').execute(trx)
      await send('sooner').execute(db)
      await expect.poll(() => heard).toEqual(['sooner'])
    })
    await expect.poll(() => heard).toEqual(['sooner', 'later'])
  })

  test.each([
    ['upper case', 'Orders'],
    ['quotes', `it's a "channel"`],
    ['an end of the statement', '"; drop table pet; --'],
    ['no letters of ASCII', 'заказы 🐘'],
    ['a keyword', 'select'],
    ['63 bytes', 'c'.repeat(63)],
  ])('hears a channel whose name has %s, and no other', async (_, name) => {
    const { dialect } = openIdle()
    const heard: string[] = []
    await dialect.listen(name, (payload, { channel }) => heard.push(`${channel}: ${payload}`))
    await dialect.listen(name.toLowerCase().slice(0, 62), silent)
    await notify(name.toLowerCase() === name ? 'other' : name.toLowerCase(), 'not this')
    await notify(name, 'this')
    await expect.poll(() => heard).toEqual([`${name}: this`])
  })

  test('hears nothing any more once it is disposed, be it in the middle of a notification', async () => {
    const { dialect } = openIdle()
    const heard: string[] = []
    const listening = await dialect.listen('orders', (payload) => {
      heard.push(payload)
      listening[Symbol.dispose]()
    })
    const other: string[] = []
    await dialect.listen('orders', (payload) => other.push(payload))
    await notify('orders', 'first')
    await notify('orders', 'second')
    await expect.poll(() => other).toEqual(['first', 'second'])
    expect(heard).toEqual(['first'])
  })

  test('can be disposed twice', async () => {
    const { dialect } = openIdle()
    const heard: string[] = []
    const listen = () => dialect.listen('orders', (payload) => heard.push(payload))
    const listening = await listen()
    await listen()
    listening[Symbol.dispose]()
    listening[Symbol.dispose]()
    await listening[Symbol.asyncDispose]()
    await notify('orders', 'one is left')
    await expect.poll(() => heard).toEqual(['one is left'])
  })

  test('ends with its block by `await using`, and the server has no connection of it then', async () => {
    const { dialect, applicationName } = openIdle()
    {
      await using listening = await dialect.listen('orders', silent)
      expect(listening.channel).toBe('orders')
      expect(await backendsOf(place.url, applicationName)).toHaveLength(1)
    }
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })
})

describe('several listeners', () => {
  test('on ten channels share one connection, and each hears its own', async () => {
    const { dialect, applicationName } = openIdle()
    const heard: string[] = []
    const names = Array.from({ length: 10 }, (_, n) => `channel ${n}`)
    await Promise.all(
      names.map((name) => dialect.listen(name, (payload, { channel }) => heard.push(`${channel} ${payload}`))),
    )
    expect(await backendsOf(place.url, applicationName)).toHaveLength(1)
    for (const name of names) await notify(name, name)
    await expect.poll(() => heard).toEqual(names.map((name) => `${name} ${name}`))
  })

  test('on one channel share one LISTEN, and it lasts until the last of them has gone', async () => {
    const { dialect, applicationName } = openIdle()
    const heard: number[] = []
    const all = await Promise.all(Array.from({ length: 10 }, (_, n) => dialect.listen('orders', () => heard.push(n))))
    // Keeps the connection.
    await dialect.listen('other', silent)
    await notify('orders')
    await expect.poll(() => heard.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    for (const listening of all.slice(1)) await listening[Symbol.asyncDispose]()
    await notify('orders')
    await expect.poll(() => heard.slice(10)).toEqual([0])
    await all[0]![Symbol.asyncDispose]()
    const [backend] = await backendsOf(place.url, applicationName)
    expect(backend!.query.toLowerCase()).toBe('unlisten "orders"')
  })

  test('do not suffer from one that throws or rejects; that becomes an event', async () => {
    const { dialect } = openIdle()
    const errors: BackgroundErrorEvent[] = []
    using _ = dialect.on('error', (event) => errors.push(event))
    const heard: string[] = []
    const [thrown, rejected] = [new Error('thrown'), new Error('rejected')]
    await dialect.listen('orders', () => {
      throw thrown
    })
    await dialect.listen('orders', () => Promise.reject(rejected))
    await dialect.listen('orders', (payload) => heard.push(payload))
    await notify('orders', 'first')
    await notify('orders', 'second')
    await expect.poll(() => heard).toEqual(['first', 'second'])
    const during = "listener of channel 'orders'"
    await expect.poll(() => errors.length).toBe(4)
    for (const error of [thrown, rejected]) {
      expect(errors.filter((event) => event.error === error)).toEqual(
        Array.from({ length: 2 }, () => ({ node: 'primary', during, error })),
      )
    }
  })
})

describe('the connection that listens', () => {
  test('is there before the first query, and is none of the pool’s', async () => {
    const { dialect, db, applicationName } = openIdle()
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    const [listening, ...others] = await backendsOf(place.url, applicationName)
    expect(others).toEqual([])
    expect(await pidOf(db)).not.toBe(listening!.pid)
    await notify('orders', 'still')
    await expect.poll(() => heard).toEqual(['still'])
  })

  test('takes no place of the pool', async () => {
    const { dialect, db } = place.openOne()
    await dialect.listen('orders', silent)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('passes no type parser of the user', async () => {
    const types = {
      getTypeParser: () => () => {
        throw new Error('not mine')
      },
    }
    const { dialect } = place.open({ types, pool: { initial: 0, min: 0, minIdle: 0, keepalive: 50 } })
    onTestFinished(() => dialect.destroy())
    const errors: unknown[] = []
    using _ = dialect.on('error', ({ error }) => errors.push(error))
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    // After it has been asked whether it lives.
    await expect
      .poll(async () => {
        const asked = await place.ask(
          "select from pg_stat_activity where query like '%pg_listening_channels%' and pid <> pg_backend_pid()",
        )
        return asked.length
      })
      .toBe(1)
    await notify('orders', 'heard')
    await expect.poll(() => heard).toEqual(['heard'])
    expect(errors).toEqual([])
  })

  test('comes back after its backend was terminated: listeners learn of the gap, and miss nothing afterwards', async () => {
    const { dialect, applicationName } = openIdle()
    const told: string[] = []
    const gaps: Gap[] = []
    const events: GapEvent[] = []
    using _ = dialect.on('gap', (event) => events.push(event))
    for (const name of ['orders', 'stock']) {
      await dialect.listen(name, (payload) => told.push(`${name} ${payload}`), { onGap: (gap) => gaps.push(gap) })
    }
    await notify('orders', 'before')
    await expect.poll(() => told).toEqual(['orders before'])
    const [before] = await backendsOf(place.url, applicationName)
    const terminatedAt = performance.timeOrigin + performance.now()
    await terminate(place.url, before!.pid)
    await expect.poll(() => gaps.length).toBe(2)
    const backAt = performance.timeOrigin + performance.now()
    for (const name of ['orders', 'stock']) {
      for (let n = 0; n < 50; n++) await notify(name, String(n))
    }
    const numbers = Array.from({ length: 50 }, (_, n) => String(n))
    await expect.poll(() => told.length).toBe(101)
    expect(told.slice(1)).toEqual([...numbers.map((n) => `orders ${n}`), ...numbers.map((n) => `stock ${n}`)])
    expect(gaps.map(({ channel }) => channel)).toEqual(['orders', 'stock'])
    for (const { since, until } of gaps) {
      expect(since).toBeLessThanOrEqual(terminatedAt)
      expect(until).toBeGreaterThanOrEqual(terminatedAt)
      expect(until).toBeLessThanOrEqual(backAt)
    }
    expect(events).toEqual(gaps.map((gap) => ({ node: 'primary', ...gap })))
    const after = await backendsOf(place.url, applicationName)
    expect(after).toHaveLength(1)
  })
})

describe('listen()', () => {
  test.each([
    ['is too long', 'n'.repeat(64)],
    ['is empty', ''],
    ['has a zero character', 'a\0b'],
  ])('refuses a name that %s, and connects for none', async (_, name) => {
    const { dialect, applicationName } = openIdle()
    const failure = await failureOf(dialect.listen(name, silent))
    expect(isSmartPgError(failure, 'SMARTPG_CONFIG')).toBe(true)
    expect(failure.message).toContain('listen(channel)')
    expect(failure.message).toContain(JSON.stringify(name))
    expect(await backendsOf(place.url, applicationName)).toEqual([])
  })

  test('says at once that the database is not there', async () => {
    const missing = new URL(place.url)
    missing.pathname = '/no_such_database'
    const dialect = new SmartPgDialect({ wire, primary: missing.href, metrics: false })
    const failure = await failureOf(dialect.listen('orders', silent))
    expect(isSmartPgError(failure, 'SMARTPG_CONNECT_FAILED')).toBe(true)
    expect(failure.cause).toMatchObject({ code: '3D000' })
    await dialect.destroy()
  })

  test('speaks to the primary, wherever reads go', async () => {
    const dialect = new SmartPgDialect({ wire, primary: place.url, replicas: place.replicaUrls, metrics: false })
    onTestFinished(() => dialect.destroy())
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    await notify('orders', 'from the primary')
    await expect.poll(() => heard).toEqual(['from the primary'])
  })
})

describe('destroy()', () => {
  test('of Kysely ends every listener, and no connection is left', async () => {
    const { dialect, db, applicationName } = place.open()
    const heard: string[] = []
    const listening = await dialect.listen('orders', (payload) => heard.push(payload))
    await pidOf(db)
    await db.destroy()
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
    await notify('orders', 'nobody here')
    // Too late, and no fault.
    await listening[Symbol.asyncDispose]()
    expect(heard).toEqual([])
  })

  test('of the dialect ends what was listened to before any query', async () => {
    const { dialect, applicationName } = openIdle()
    await dialect.listen('orders', silent)
    await dialect.destroy()
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })

  test('while it connects rejects whoever waits, and leaves no connection', async () => {
    const { dialect, applicationName } = openIdle()
    const failures = Promise.all(['orders', 'stock'].map((name) => failureOf(dialect.listen(name, silent))))
    await dialect.destroy()
    for (const failure of await failures) expect(isSmartPgError(failure, 'SMARTPG_CLOSED')).toBe(true)
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })

  test('is not for ever: who listens afterwards is heard', async () => {
    const { dialect } = openIdle()
    await dialect.listen('orders', silent)
    await dialect.destroy()
    const heard: string[] = []
    await dialect.listen('orders', (payload) => heard.push(payload))
    await notify('orders', 'again')
    await expect.poll(() => heard).toEqual(['again'])
  })
})
