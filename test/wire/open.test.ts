// Opening one connection: what it takes, and what it says when it cannot. Servers that misbehave are played by a
// socket of the test; what they send is taken by a process of its own, because it may end one.

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import type { Timer } from '../../src/core/types.ts'
import { systemClock } from '../../src/engine/clock.ts'
import { freePort } from '../support/postgres/free-port.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { hba, superuserQueries } from './own-server.ts'
import { borrowed, column, failure, listener, message, open, opener, refusal, run, welcome, wire } from './sessions.ts'

const timeoutMs = 10_000

const withDatabase = (database: string): string => {
  const url = new URL(inject('primaryUrl'))
  url.pathname = `/${database}`
  return url.href
}

describe('a connection that stands', () => {
  test('tells where it went and who it is', async () => {
    const addresses: [string, number][] = []
    const session = await open({ onAddress: (host, port) => addresses.push([host, port]) })
    const url = new URL(inject('primaryUrl'))
    expect(addresses).toEqual([[url.hostname, Number(url.port || 5432)]])
    expect(await column(session, 'select pg_backend_pid()')).toEqual([session.pid])
    expect(await column(session, "select current_setting('application_name')")).toEqual(['kysely-smart-pg:wire'])
    expect(session.status).toBe('idle')
    expect(session.lost).toBeNull()
  })

  test('goes where the target says, which is asked at each connect', async () => {
    const targets = [withDatabase('postgres'), { connectionString: withDatabase('template1') }]
    const connect = opener(async () => targets.shift()!)
    const databases = []
    while (targets.length > 0) {
      const session = await connect({ timeoutMs })
      databases.push(...(await column(session, 'select current_database()')))
      await session.close(1_000)
    }
    expect(databases).toEqual(['postgres', 'template1'])
  })

  test('carries the settings of the session, which survive RESET ALL', async () => {
    const session = await open({ settings: { statement_timeout: '12345', search_path: 'app, public' } })
    const shown = async (): Promise<unknown[]> =>
      column(session, "select current_setting(name) from unnest(array['statement_timeout', 'search_path']) as name")
    const settings = ['12345ms', 'app, public']
    expect(await shown()).toEqual(settings)
    await run(session, "set statement_timeout = '1min'; set search_path = public; reset all")
    expect(await shown()).toEqual(settings)
    await run(session, 'discard all')
    expect(await shown()).toEqual(settings)
  })
})

const refusedBy = (url: string): Promise<Error & Record<string, unknown>> => failure(opener(() => url)({ timeoutMs }))

describe('a connection that cannot be made', () => {
  test('because nothing listens there says node, reason and what to check', async () => {
    const error = await refusedBy(`postgres://app@127.0.0.1:${await freePort()}/app`)
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', node: 'primary', phase: 'connect', retryable: true })
    expect(error.message).toMatch(/'primary'.*ECONNREFUSED/)
    expect(error['hint']).toMatch(/host and port/)
    expect(error.cause).toMatchObject({ code: 'ECONNREFUSED' })
  })

  test('because the database is not there says so', async () => {
    const error = await refusedBy(withDatabase('no_such_database'))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: '3D000' } })
    expect(error.message).toMatch(/"no_such_database" does not exist/)
    expect(error['hint']).toMatch(/database/)
  })

  test('because the target cannot be told says why', async () => {
    const vault = new Error('the vault is sealed')
    const error = await failure(opener(() => Promise.reject(vault))({ timeoutMs }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: vault })
    expect(error.message).toContain('the vault is sealed')
  })

  test('because the server accepts and says nothing ends at the connect timeout, its socket closed', async () => {
    const silent = await listener(() => undefined)
    const error = await failure(opener(() => silent.url)({ timeoutMs: 50 }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ETIMEDOUT' } })
    expect(error.message).toContain('50 ms')
    expect(error['hint']).toContain('pool.connectTimeout')
    await expect.poll(() => silent.sockets.map((socket) => socket.destroyed)).toEqual([true])
  })

  test('because the target is never told ends at the connect timeout', async () => {
    const error = await failure(opener(() => new Promise(() => undefined))({ timeoutMs: 20 }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ETIMEDOUT' } })
  })

  test('because the server hangs up at once says so', async () => {
    const curt = await listener((socket) => socket.destroy())
    expect(await failure(opener(() => curt.url)({ timeoutMs }))).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
  })

  test('because it was aborted while connecting tells the reason, its socket closed', async () => {
    const abort = new AbortController()
    const reason = new Error('not needed any more')
    const silent = await listener((socket) => socket.once('data', () => abort.abort(reason)))
    const error = await failure(opener(() => silent.url)({ timeoutMs, signal: abort.signal }))
    expect([error, error.cause]).toContain(reason)
    await expect.poll(() => silent.sockets.map((socket) => socket.destroyed)).toEqual([true])
  })

  test('because it was aborted before asks nobody', async () => {
    const reason = new Error('not needed any more')
    const silent = await listener(() => undefined)
    const error = await failure(opener(() => silent.url)({ timeoutMs, signal: AbortSignal.abort(reason) }))
    expect([error, error.cause]).toContain(reason)
    expect(silent.sockets.filter((socket) => !socket.destroyed)).toEqual([])
  })

  test('because a pooler refuses a startup parameter names the option', async () => {
    const pooler = await listener((socket) =>
      socket.once('data', () => socket.end(refusal('08P01', 'unsupported startup parameter: statement_timeout'))),
    )
    const connect = opener(() => pooler.url, { settings: { statement_timeout: '30s' } })
    const error = await failure(connect({ timeoutMs }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', node: 'primary' })
    expect(error['faults']).toMatchObject([{ path: 'session.settings.statement_timeout' }])
    // Not session.init: a SET would stay on a server connection that the pooler hands to strangers.
    expect(error.message).toContain('ALTER ROLE')
  })

  test('because a pooler refuses what is no setting of ours does not blame session.settings', async () => {
    const pooler = await listener((socket) =>
      socket.once('data', () => socket.end(refusal('08P01', 'unsupported startup parameter: options'))),
    )
    const connect = opener(() => `${pooler.url}?options=-c%20jit%3Doff`, { settings: { timezone: 'UTC' } })
    const error = await failure(connect({ timeoutMs }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', faults: [{ path: "options of node 'primary'" }] })
    expect(error.message).not.toContain('session.settings')
  })

  test('because PostgreSQL knows no such setting names the setting', async () => {
    const connect = opener(() => inject('primaryUrl'), { settings: { statement_timout: '30s' } })
    expect((await failure(connect({ timeoutMs }))).message).toContain('statement_timout')
  })

  test('because TLS is asked of a server without it says what to change', async () => {
    const plain = await listener((socket) => socket.once('data', () => socket.write('N')))
    const error = await failure(opener(() => plain.url, { ssl: true })({ timeoutMs }))
    expect(error.code).toBe('SMARTPG_CONNECT_FAILED')
    expect(error.message).toContain('does not support SSL')
    expect(error['hint']).toContain('ssl: false')
  })
})

describe.skipIf(borrowed)('a server with passwords (TEST_DATABASE_URL and TEST_PG are unset)', () => {
  let cluster: Cluster
  const url = (password: string): string => `postgres://app:${password}@127.0.0.1:${cluster.primary.port}/postgres`

  beforeAll(async () => {
    cluster = await startCluster()
    await superuserQueries(cluster, "create role app login password 'right'")
    await hba(cluster, 'host all app 127.0.0.1/32 scram-sha-256')
  })
  afterAll(() => cluster.close())

  test('lets the right password in, as text and from a function', async () => {
    for (const password of ['right', () => 'right', async () => 'right']) {
      const target = { host: '127.0.0.1', port: cluster.primary.port, user: 'app', password, database: 'postgres' }
      const session = await opener(() => target)({ timeoutMs })
      expect(await column(session, 'select current_user')).toEqual(['app'])
      await session.close(1_000)
    }
  })

  test('refuses the wrong one with a clear error that does not show it', async () => {
    const error = await failure(opener(() => url('wr0ng-canary'))({ timeoutMs }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: '28P01' } })
    expect(error['hint']).toBe('Wrong user or password.')
    expect(`${error.message}${error.stack}${JSON.stringify(error)}`).not.toContain('wr0ng-canary')
  })

  test('takes the new password once it is rotated, without a restart of ours', async () => {
    let password = 'right'
    const connect = opener(async () => url(password))
    await (await connect({ timeoutMs })).close(1_000)
    await superuserQueries(cluster, "alter role app password 'rotated'")
    expect(await failure(connect({ timeoutMs }))).toMatchObject({ cause: { code: '28P01' } })
    password = 'rotated'
    await (await connect({ timeoutMs })).close(1_000)
    await superuserQueries(cluster, "alter role app password 'right'")
  })
})

describe('a server that speaks nonsense', () => {
  const cases: [what: string, hello: Buffer, answer?: Buffer][] = [
    ['a web server', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['a mail server', Buffer.from('220 mail.example.com ESMTP\r\n')],
    ['an authentication nobody knows', message('R', 99)],
    ['a message of length 0', Buffer.from([0x52, 0, 0, 0, 0])],
    ['a message of negative length', Buffer.from([0x52, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])],
    ['an error before any greeting', refusal('XX000', 'boom')],
    ['zeros', Buffer.alloc(64)],
    ['a row description that is cut off, later', welcome, message('T', Buffer.from([0, 5, 0x61]))],
    ['a row that nobody asked for, later', welcome, message('D', Buffer.from([0, 1, 0, 0, 0, 1, 0x61]))],
    ['a row with a length beyond its end, later', welcome, message('D', Buffer.from([0, 1, 0x7f, 0xff, 0xff, 0xff]))],
    ['a message of length 0, later', welcome, Buffer.from([0x54, 0, 0, 0, 0])],
    ['a type of message that nobody knows, later', welcome, message('y', 'what')],
    ['a ReadyForQuery of an unknown status, later', welcome, message('Z', Buffer.from('?'))],
    ['a command tag without its end, later', welcome, message('C', Buffer.from('SELECT'))],
    ['another authentication request, later', welcome, message('R', 99)],
    // Last, because a parser that looks for the end goes on for ever.
    ['an error without its end', message('E', Buffer.from('SFATAL'))],
  ]

  let reports: (string | undefined)[]
  beforeAll(async () => {
    const servers = await Promise.all(
      cases.map(([, hello, answer]) =>
        listener((socket) => {
          socket.once('data', () => {
            socket.write(hello)
            if (answer !== undefined) socket.once('data', () => socket.write(answer))
          })
        }),
      ),
    )
    const child = [join(import.meta.dirname, 'nonsense.ts'), wire, ...servers.map(({ url }) => url)]
    // Cut off when it does not come back: what it wrote until then tells with which server it went astray.
    const { stdout } = await promisify(execFile)(process.execPath, child).catch((cut: { stdout: string }) => cut)
    reports = stdout.split('\n')
    await Promise.all(servers.map((server) => server.close()))
  })

  test.each(cases.map(([what, , answer], i) => ({ what, connected: answer !== undefined, i })))(
    'is refused, and the process lives: $what',
    ({ connected, i }) => {
      const report = reports[i]
      expect(report, 'the process hung').toBeTruthy()
      expect(JSON.parse(report!)).toEqual({ connected, settled: true, uncaught: [] })
    },
  )
})

test('a connect that was given up leaves no timer behind', async () => {
  let timers = 0
  const clock = {
    ...systemClock,
    setTimeout: (...args: Parameters<typeof systemClock.setTimeout>) => (timers++, systemClock.setTimeout(...args)),
    clearTimeout: (timer: Timer) => (timers--, systemClock.clearTimeout(timer)),
  }
  await failure(opener(() => `postgres://app@127.0.0.1:1/app`, { clock })({ timeoutMs }))
  expect(timers).toBe(0)
})
