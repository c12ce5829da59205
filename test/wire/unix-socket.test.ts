// A server on a Unix socket: every way to say where it is, that it is as good as an address, cancel requests included,
// and what is said when it is not there.

import { createServer } from 'node:net'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { ConnectionTarget } from '../../src/config/options.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { giveTo, serverAccount } from '../support/postgres/account.ts'
import { hba, superuserQueries } from './own-server.ts'
import { borrowed, busy, column, failure, open, opener, outside, run } from './sessions.ts'

const timeoutMs = 5_000

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'smartpg-socket-'))
  giveTo(serverAccount(), folder)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe.skipIf(borrowed)('a server on a Unix socket (TEST_DATABASE_URL and TEST_PG are unset)', () => {
  let cluster: Cluster
  let port: number

  beforeAll(async () => {
    cluster = await startCluster({ settings: { unix_socket_directories: folder } })
    port = cluster.primary.port
    await superuserQueries(cluster, "create role cleartext login password 'right'")
    await hba(cluster, 'local all cleartext password')
  })
  afterAll(() => cluster.close())

  const targets: [string, () => ConnectionTarget][] = [
    ['a URL with the folder as `host`', () => `postgres://postgres@/postgres?host=${folder}&port=${port}`],
    [
      'a URL with the folder in the place of the host',
      () => `postgres://postgres@${encodeURIComponent(folder)}:${port}/postgres`,
    ],
    ['a socket: URL', () => `socket://postgres:@${folder}?db=postgres&port=${port}`],
    ['coordinates', () => ({ host: folder, port, user: 'postgres', database: 'postgres' })],
  ]

  test.each(targets)('is found by %s', async (_, target) => {
    const told: string[] = []
    const addresses: [string, number][] = []
    const connect = opener(target, {
      onInsecure: (message) => told.push(message),
      onAddress: (host, at) => addresses.push([host, at]),
    })
    const session = await connect({ timeoutMs })
    expect(await column(session, 'select inet_client_addr()')).toEqual([null])
    expect(addresses).toEqual([[folder, port]])
    expect(told).toEqual([])
    await session.close(1_000)
  })

  test('is cancelled on the same way', async () => {
    const session = await opener(targets[3]![1])({ timeoutMs })
    const other = await outside(cluster.url)
    const sleeping = failure(run(session, 'select pg_sleep(60)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await session.cancel(timeoutMs)
    expect((await sleeping)['code']).toBe('57014')
    expect(await column(session, 'select 1')).toEqual([1])
    await session.close(1_000)
  })

  test.each(['ssl', 'sslmode', 'sslnegotiation'])(
    'needs no TLS and has none, so that %s asks for nothing there, as in libpq',
    async (said) => {
      const words = { ssl: '', sslmode: '&sslmode=verify-full', sslnegotiation: '&sslnegotiation=direct' }[said]!
      const url = `${targets[0]![1]() as string}${words}`
      const session = await open(said === 'ssl' ? { ssl: true } : {}, url)
      expect(await column(session, 'select 1')).toEqual([1])
      await session.cancel(timeoutMs)
    },
  )

  test('may ask for the password in the clear, for nobody can listen', async () => {
    const url = `postgres://cleartext:right@/postgres?host=${folder}&port=${port}`
    expect(await column(await open({}, url), 'select current_user')).toEqual(['cleartext'])
  })
})

describe('a Unix socket', () => {
  const refused = (host: string): Promise<Error & Record<string, unknown>> =>
    failure(opener(() => ({ host, port: 5432, user: 'app', database: 'app' }))({ timeoutMs }))

  test('that is not there is answered with what to check', async () => {
    const error = await refused(join(folder, 'nowhere'))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ENOENT' } })
    expect(error.message).toContain(join(folder, 'nowhere'))
    expect(error['hint']).toMatch(/no such socket.*directory and the port/)
  })

  test('whose folder is a file is answered with what to give instead', async () => {
    const file = join(folder, 'file')
    writeFileSync(file, '')
    expect(await refused(file)).toMatchObject({
      cause: { code: 'ENOTDIR' },
      hint: expect.stringContaining('directory'),
    })
  })

  test('on which nobody listens is answered with that', async () => {
    mkdirSync(join(folder, 'left-behind'))
    writeFileSync(join(folder, 'left-behind', '.s.PGSQL.5432'), '')
    const error = await refused(join(folder, 'left-behind'))
    expect(error).toMatchObject({ cause: { code: 'ECONNREFUSED' }, hint: expect.stringContaining('nobody listens') })
  })

  test('that this user may not use is answered with that', async () => {
    const closed = join(folder, 'closed')
    mkdirSync(closed)
    const server = createServer().listen(join(closed, '.s.PGSQL.5432'))
    onTestFinished(() => void server.close())
    chmodSync(closed, 0)
    // Root may use everything, so somebody else asks.
    const nobody = 65_534
    const root = process.getuid?.() === 0
    if (root) process.seteuid!(nobody)
    const error = await refused(closed).finally(() => root && process.seteuid!(0))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'EACCES' } })
    expect(error['hint']).toMatch(/may not use the socket.*unix_socket_permissions/)
  })
})
