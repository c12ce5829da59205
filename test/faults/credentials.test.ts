// Credentials that change while a dialect works, and connections that cannot be made safely, as the users of a dialect
// see them: who waits is served as soon as it is possible, and told at once where it never will be.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import type { Logger, SmartPgOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { hasOpenssl, hba, makeCertificates, ownAddress, turnTlsOn } from '../wire/own-server.ts'
import type { Certificates } from '../wire/own-server.ts'
import { backends, borrowed, failure, heldAtOnce, open, ownOnly } from './dialects.ts'

const network = ownAddress ?? '127.0.0.1'
const needed = ownAddress === undefined ? '(needs an address beside 127.0.0.1)' : ''

describe.skipIf(borrowed)(`a server whose passwords change ${ownOnly}`, () => {
  let cluster: Cluster
  let port: number
  beforeAll(async () => {
    cluster = await startCluster({ settings: { listen_addresses: '0.0.0.0', log_min_messages: 'fatal' } })
    port = cluster.primary.port
    await cluster.primary.query('create role app login')
    await cluster.primary.query("set password_encryption = md5; create role old login password 'right'")
    for (const host of [network, '127.0.0.1']) {
      await hba(cluster, `host all app ${host}/32 scram-sha-256`)
      await hba(cluster, `host all old ${host}/32 md5`)
    }
  })
  afterAll(() => cluster.close())

  let made = 0
  /** What the role is let in with from now on. */
  const rotate = async (): Promise<string> => {
    const password = `password-${++made}`
    await cluster.primary.query(`alter role app password '${password}'`)
    return password
  }
  const endAll = (applicationName: string): Promise<unknown> =>
    cluster.primary.query('select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1', [
      applicationName,
    ])
  const coordinates = (password: () => string | Promise<string>): SmartPgOptions['primary'] => ({
    host: '127.0.0.1',
    port,
    user: 'app',
    database: 'postgres',
    password,
  })
  const url = (password: string): string => `postgres://app:${password}@127.0.0.1:${port}/postgres`

  /** Reads without end by many at once. */
  function load(db: Kysely<never>): { answered: () => number; stop: () => Promise<unknown[]> } {
    const failures: unknown[] = []
    let answered = 0
    const over = new AbortController()
    const caller = async (): Promise<void> => {
      while (!over.signal.aborted) {
        try {
          await sql`select 1 as n from (values (1)) as one`.execute(db)
          answered++
        } catch (error) {
          failures.push(error)
        }
      }
    }
    const callers = Promise.all(Array.from({ length: 16 }, caller))
    const stop = async (): Promise<unknown[]> => {
      over.abort()
      await callers
      return failures
    }
    return { answered: () => answered, stop }
  }

  const sources: [string, (current: () => string) => SmartPgOptions['primary']][] = [
    ['an async function gives the password', (current) => coordinates(async () => current())],
    ['a function gives the password', (current) => coordinates(current)],
    ['an async function gives the whole URL', (current) => async () => url(current())],
  ]
  test.each(sources)('loses no query when %s, and every connection ends at once under load', async (_, source) => {
    let current = await rotate()
    const { db, applicationName } = open<never>({ primary: source(() => current), pool: { max: 4 } })
    const running = load(db)
    for (let turn = 0; turn < 3; turn++) {
      const before = running.answered()
      await expect.poll(running.answered).toBeGreaterThan(before + 200)
      current = await rotate()
      await endAll(applicationName)
    }
    const before = running.answered()
    await expect.poll(running.answered).toBeGreaterThan(before + 200)
    expect(await running.stop()).toEqual([])
    expect((await heldAtOnce(db, 4)).size).toBe(4)
    await db.destroy()
    expect(await backends(cluster.url, applicationName)).toBe(0)
  })

  test('asks once more when the password was the one of before, and nobody who waited sees it', async () => {
    const old = await rotate()
    const current = await rotate()
    const answers = [old]
    const password = vi.fn(async () => answers.shift() ?? current)
    const { db } = open<never>({
      primary: coordinates(password),
      pool: { min: 0, minIdle: 0, initial: 1, max: 1 },
    })
    const ten = Array.from({ length: 10 }, (_, n) => sql<{ n: number }>`select ${n}::int as n`.execute(db))
    expect((await Promise.all(ten)).map(({ rows }) => rows[0]!.n)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(password.mock.calls.length).toBeGreaterThan(1)
    expect((await heldAtOnce(db, 1)).size).toBe(1)
  })

  test('tells the caller when it stays the wrong one, long before the end of the acquire timeout', async () => {
    await rotate()
    const { db } = open<never>({ primary: coordinates(() => 'canary'), pool: { acquireTimeout: '5min' } })
    const error = await failure(sql`select 1`.execute(db))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: '28P01' } })
    expect(error['hint']).toBe('Wrong user or password.')
  })

  // Not yet: while the connector rests after several failures, ready() waits for its whole timeout.
  test('and is told so by ready() as well, however often it was wrong before', async () => {
    await rotate()
    const { db, dialect } = open<never>({ primary: coordinates(() => 'canary') })
    for (let turn = 0; turn < 3; turn++) await failure(sql`select 1`.execute(db))
    let told: unknown
    failure(dialect.ready({ timeout: '5min' })).then(
      (error) => (told = error),
      () => undefined,
    )
    await expect.poll(() => told, { timeout: 5_000 }).toMatchObject({ cause: { cause: { code: '28P01' } } })
  })

  test('and a function that fails once is asked again', async () => {
    const current = await rotate()
    const vault = new Error('the vault is sealed')
    const answers = [Promise.reject(vault)]
    answers[0]!.catch(() => undefined)
    const { db } = open<never>({ primary: coordinates(async () => answers.shift() ?? current), pool: { max: 1 } })
    const first = await sql`select 1`.execute(db).catch((error: unknown) => error)
    if (first instanceof Error) expect(first.cause ?? first).toBe(vault)
    expect((await sql<{ n: number }>`select 1 as n`.execute(db)).rows).toEqual([{ n: 1 }])
  })

  test.skipIf(ownAddress === undefined)(
    `tells every caller at once that the password was not sent, when it is asked for without TLS ${needed}`,
    async () => {
      const primary = `postgres://old:right@${network}:${port}/postgres`
      const pool = { acquireTimeout: '5min' }
      const { db, dialect } = open<never>({ primary, pool })
      const errors = [
        await failure(dialect.ready()),
        await failure(sql`select 1`.execute(db)),
        await failure(db.transaction().execute((trx) => sql`select 1`.execute(trx))),
      ]
      for (const error of errors) expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', hint: expect.any(String) })
      const allowed = open<never>({ primary, allowInsecureAuth: true })
      expect((await sql<{ n: number }>`select 1 as n`.execute(allowed.db)).rows).toEqual([{ n: 1 }])
    },
  )

  test.skipIf(ownAddress === undefined)(
    `warns once for each node that is reached over the network without TLS ${needed}`,
    async () => {
      const current = await rotate()
      const far = url(current).replace('127.0.0.1', network)
      const lines: [object, string][] = []
      const quiet = (): void => undefined
      const warn: Logger['warn'] = (details, message) => void lines.push([details, message])
      const logger = { debug: quiet, info: quiet, error: quiet, warn }
      const replicas = [far, url(current), `${far}?sslmode=disable`]
      const { db, dialect } = open<never>({ primary: far, replicas, logger, pool: { initial: 2 } })
      await dialect.ready()
      await db.destroy()
      const told = lines.filter(([details]) => 'code' in details && details.code === 'SMARTPG_INSECURE')
      expect(told.map(([details]) => (details as { node: string }).node).toSorted()).toEqual(['primary', 'replica-1'])
      expect(JSON.stringify(lines)).not.toContain(current)

      const warnings: Error[] = []
      const listener = (warning: Error): void => void warnings.push(warning)
      process.on('warning', listener)
      onTestFinished(() => void process.off('warning', listener))
      const silent = open<never>({ primary: far })
      await silent.dialect.ready()
      await expect.poll(() => warnings).toMatchObject([{ name: 'SmartPgWarning', code: 'SMARTPG_INSECURE' }])
    },
  )

  describe.skipIf(!hasOpenssl)('and whose TLS may fail (needs the program openssl)', () => {
    let certificates: Certificates
    beforeAll(async () => {
      certificates = makeCertificates()
      await turnTlsOn(cluster, certificates.leaf, certificates.key)
    })

    test('serves who waits through a handshake that stalls, and holds no slot for it', async () => {
      const proxy = await startFaultProxy(cluster.url)
      onTestFinished(() => proxy.close())
      const ssl = { ca: certificates.ca }
      const pool = { min: 0, minIdle: 0, initial: 1, max: 1, connectTimeout: '300ms' } as const
      const { db, applicationName } = open<never>({ primary: proxy.url, ssl, pool })
      proxy.silence()
      const waiting = sql<{ ssl: boolean }>`select ssl from pg_stat_ssl where pid = pg_backend_pid()`.execute(db)
      await expect.poll(() => proxy.connections.length).toBeGreaterThan(1)
      await proxy.heal()
      expect((await waiting).rows).toEqual([{ ssl: true }])
      expect((await heldAtOnce(db, 1)).size).toBe(1)
      await db.destroy()
      await expect.poll(() => proxy.open).toEqual([])
      expect(await backends(cluster.url, applicationName)).toBe(0)
    })

    test('tells every caller at once when its CA is not known', async () => {
      const { db } = open<never>({ primary: cluster.url, ssl: true, pool: { acquireTimeout: '5min' } })
      const error = await failure(sql`select 1`.execute(db))
      expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', hint: expect.stringContaining('ssl: { ca }') })
    })

    test('cancels what takes too long over the same TLS', async () => {
      const proxy = await startFaultProxy(cluster.url)
      onTestFinished(() => proxy.close())
      const { db } = open<never>({
        primary: `${proxy.url}?sslmode=verify-full`,
        ssl: { ca: certificates.ca },
        queryTimeout: '200ms',
      })
      expect(await failure(sql`select pg_sleep(60)`.execute(db))).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
      const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
      expect(proxy.connections.length).toBeGreaterThan(1)
      for (const { opening } of proxy.connections) expect(opening.subarray(0, 8)).toEqual(sslRequest)
    })
  })
})
