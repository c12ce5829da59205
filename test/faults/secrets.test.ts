// No password and no value of a query is shown by anything that is printed, logged, counted or thrown. The canary is
// a word that occurs nowhere else; whoever sings it has seen a secret.

import { inspect } from 'node:util'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { SmartPgDialect } from '../../src/index.ts'
import type { Logger, SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { freePort } from '../support/postgres/free-port.ts'
import { hasOpenssl, hba, makeCertificates, turnTlsOn } from '../wire/own-server.ts'
import { borrowed, failure, open, ownOnly } from './dialects.ts'

const PASSWORD = 'c4nary-password'
const KEY = 'c4nary-key'
const VALUE = 'c4nary-value'

interface Tables {
  notes: { id: string }
}

/** Everything that could be printed of a thing. */
function shown(thing: unknown): string {
  const parts = [inspect(thing, { depth: 10, showHidden: true, getters: true }), safeJson(thing), String(thing)]
  for (let error = thing; error instanceof Error; error = error.cause) {
    parts.push(error.message, error.stack ?? '', inspect(error, { depth: 10, showHidden: true }))
  }
  return parts.join('\n')
}

function safeJson(thing: unknown): string {
  try {
    return JSON.stringify(thing) ?? ''
  } catch (error) {
    // A circle. Its message names the path, so it is looked at, too.
    return String(error)
  }
}

const sings = (thing: unknown): boolean => /c4nary-(?:password|key)/.test(shown(thing))

/** Collects all that a dialect tells. */
function overheard(dialect: SmartPgDialect): unknown[] {
  const heard: unknown[] = []
  for (const name of ['query', 'breaker', 'leak', 'node', 'retry', 'error'] as const) {
    dialect.on(name, (event) => heard.push(event))
  }
  return heard
}

function listening(): { logger: Logger; lines: unknown[] } {
  const lines: unknown[] = []
  const line = (...what: unknown[]): void => void lines.push(what)
  return { lines, logger: { debug: line, info: line, warn: line, error: line } }
}

test('the canary is heard where it sings', () => {
  expect([{ a: { b: PASSWORD } }, new Error('x', { cause: new Error(PASSWORD) }), [KEY]].map(sings)).toEqual([
    true,
    true,
    true,
  ])
  expect(sings({ a: 1 })).toBe(false)
})

describe('options', () => {
  test.each<[string, unknown]>([
    ['a URL that cannot be read', `postgres://app:${PASSWORD}@h:99999999/app`],
    ['text that is no URL', `app:${PASSWORD}@h/app`],
    ['coordinates with an unknown key', { primary: { host: 'h', password: PASSWORD, pasword: PASSWORD } }],
    ['a password beside a URL', { primary: { connectionString: `postgres://a:${PASSWORD}@h/d`, password: PASSWORD } }],
    ['a key in the wrong place', { primary: 'postgres://h/d', ssl: KEY }],
    ['a URL whose sslmode is a secret', `postgres://app@h/d?sslmode=${KEY}`],
    [
      'a URL that contradicts its key',
      { primary: { connectionString: 'postgres://h/d?sslmode=disable', ssl: { key: KEY } } },
    ],
    ['a password where a number belongs', { primary: 'postgres://h/d', pool: { max: PASSWORD } }],
  ])('that are refused are not shown: %s', async (_, options) => {
    let error: unknown
    try {
      void new SmartPgDialect(options as SmartPgOptions)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toMatchObject({ code: 'SMARTPG_CONFIG' })
    // A password that was given as a number of connections was given away by its owner, and may be named.
    if (!shown(error).includes('pool.max')) expect(sings(error)).toBe(false)
  })
})

describe.skipIf(borrowed)(`a dialect with secrets ${ownOnly}`, () => {
  let cluster: Cluster
  const url = (password = PASSWORD, database = 'postgres'): string =>
    `postgres://app:${password}@127.0.0.1:${cluster.primary.port}/${database}`
  beforeAll(async () => {
    cluster = await startCluster()
    await cluster.primary.query(`create role app login password '${PASSWORD}'`)
    await cluster.primary.query('create table notes (id text primary key)')
    await cluster.primary.query('grant all on notes to app')
    await hba(cluster, 'host all app 127.0.0.1/32 scram-sha-256')
  })
  afterAll(() => cluster.close())

  const coordinates = (): Record<string, unknown> => {
    const { hostname, port, username, pathname } = new URL(url())
    return { host: hostname, port: Number(port), user: username, password: PASSWORD, database: pathname.slice(1) }
  }

  const sources: [string, () => Partial<SmartPgOptions>][] = [
    ['in a URL', () => ({ primary: url() })],
    ['in coordinates', () => ({ primary: coordinates() })],
    ['from a function', () => ({ primary: async () => url() })],
    ['from a password function', () => ({ primary: { ...coordinates(), password: async () => PASSWORD } })],
    ['of a replica', () => ({ primary: url(), replicas: [url(), { name: 'two', ...coordinates() }] })],
  ]

  test.each(sources)('shows none of them, idle and at work: %s', async (_, options) => {
    const { db, dialect } = open<Tables>({ ssl: false, ...options() })
    const heard = overheard(dialect)
    expect(sings(dialect)).toBe(false)
    await db.selectFrom('notes').selectAll().execute()
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('notes').values({ id: '1' }).execute()
      await trx.deleteFrom('notes').execute()
      expect([dialect, db, trx, db.getExecutor(), trx.getExecutor()].map(sings)).toEqual(Array(5).fill(false))
      await db.connection().execute(async (one) => {
        await one.selectFrom('notes').selectAll().execute()
        expect(sings(one)).toBe(false)
      })
    })
    expect(sings(dialect.breaker('primary').status())).toBe(false)
    expect(sings(await dialect.metricsText())).toBe(false)
    expect(heard.length).toBeGreaterThan(3)
    expect(heard.filter(sings)).toEqual([])
  })

  test('shows no TLS key', () => {
    const { db, dialect } = open<Tables>({ primary: { ...coordinates(), ssl: { key: KEY } }, ssl: { key: KEY } })
    expect([dialect, db].map(sings)).toEqual([false, false])
  })

  test.skipIf(!hasOpenssl)('shows no key of TLS at work, whoever looks (needs the program openssl)', async () => {
    const { ca, leaf, key: serverKey, client } = makeCertificates()
    await turnTlsOn(cluster, leaf, serverKey)
    const ssl = { ca, cert: client.certificate, key: client.key, passphrase: KEY }
    const { logger, lines } = listening()
    const options: Partial<SmartPgOptions> = { logger, queryTimeout: '200ms' }
    const encrypted = sql<{ ssl: boolean }>`select ssl from pg_stat_ssl where pid = pg_backend_pid()`
    const bodyOf = (pem: string): string => pem.split('\n')[1]!
    const tells = (thing: unknown): boolean =>
      sings(thing) || [ca, client.key].some((pem) => shown(thing).includes(bodyOf(pem)))
    expect(tells({ a: { ca } })).toBe(true)
    for (const primary of [{ ...coordinates(), ssl }, `${url()}?sslmode=verify-full&sslpassword=${KEY}`]) {
      const { db, dialect } = open<Tables>({ primary, ssl, ...options })
      const heard = overheard(dialect)
      await expect.poll(async () => (await encrypted.execute(db)).rows[0]!.ssl).toBe(true)
      const timeout = await failure(sql`select pg_sleep(60)`.execute(db))
      await db.connection().execute(async (one) => {
        await encrypted.execute(one)
        expect([dialect, db, one].filter(tells)).toEqual([])
      })
      expect([timeout, ...heard, ...lines, await dialect.metricsText()].filter(tells)).toEqual([])
    }
    for (const wrong of [{ key: KEY, cert: KEY }, { pfx: KEY, passphrase: KEY }, { ca: ca.replace(bodyOf(ca), KEY) }]) {
      const { db, dialect } = open<Tables>({ primary: url(), ssl: wrong, ...options, pool: { acquireTimeout: 200 } })
      const error = await failure(db.selectFrom('notes').selectAll().execute())
      expect([error, dialect, ...lines].filter(tells)).toEqual([])
    }
  })

  test.each<[string, () => Promise<string> | string]>([
    ['a wrong password', () => url('c4nary-password-wrong')],
    ['a database that is not there', () => url(PASSWORD, 'nowhere')],
    ['a port where nothing listens', async () => `postgres://app:${PASSWORD}@127.0.0.1:${await freePort()}/app`],
    ['a host name that cannot be', () => `postgres://app:${PASSWORD}@%20/app`],
  ])('shows none in the errors, events and logs of a connect that fails: %s', async (_, source) => {
    const { logger, lines } = listening()
    const primary = await source()
    const { db, dialect } = open<Tables>({ primary: () => primary, logger, pool: { acquireTimeout: 200 } })
    const heard = overheard(dialect)
    const errors = [
      await failure(dialect.ready({ timeout: 200 })),
      await failure(db.selectFrom('notes').selectAll().execute()),
      await failure(db.transaction().execute(async (trx) => trx.deleteFrom('notes').execute())),
      await failure(db.batch([db.deleteFrom('notes')])),
    ]
    expect(errors.filter(sings)).toEqual([])
    expect([...heard, ...lines, dialect, await dialect.metricsText()].filter(sings)).toEqual([])
  })

  test('shows no value of a query in events, logs and metrics, whatever goes wrong with it', async () => {
    const { logger, lines } = listening()
    const { db, dialect } = open<Tables>({ primary: url(), logger, pool: { max: 1 } })
    const heard = overheard(dialect)
    const insert = () => db.insertInto('notes').values({ id: VALUE }).execute()
    await insert()
    // PostgreSQL's own error quotes the value: for the caller, and for nobody else.
    expect(await failure(insert())).toMatchObject({ code: '23505' })
    await failure(sql`select ${VALUE}::int`.execute(db))
    await failure(sql`select ${{ toPostgres: () => { throw new Error(VALUE) } }}`.execute(db)) // prettier-ignore
    await failure(db.batch([db.insertInto('notes').values({ id: VALUE })]))
    await failure(db.transaction().execute((trx) => trx.insertInto('notes').values({ id: VALUE }).execute()))
    for await (const _ of db.selectFrom('notes').selectAll().where('id', '=', VALUE).stream()) continue
    // Left in the middle of a transaction, so that the pool has something to clean up.
    await db.connection().execute(async (one) => {
      await sql`begin`.execute(one)
      await failure(sql`select ${VALUE}::int`.execute(one))
    })
    await db.deleteFrom('notes').where('id', '=', VALUE).execute()
    expect(heard.length).toBeGreaterThan(8)
    const showing = [...heard, ...lines, await dialect.metricsText(), dialect].filter((thing) =>
      shown(thing).includes(VALUE),
    )
    expect(showing).toEqual([])
  })
})
