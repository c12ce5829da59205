// A session's connection in the hands of pg: whichever wire spoke on it before, encrypted or not, pg's Client finds
// it as if it had never been away.

import type { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { lendClient } from '../../src/wire/lend.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { hasOpenssl, makeCertificates, turnTlsOn } from './own-server.ts'
import type { Certificates } from './own-server.ts'
import { alive, borrowed, busy, column, failure, open, opener, outside, run } from './sessions.ts'

const wires = ['pg', 'native'] as const

describe.each(wires)('over wire: %s', (over) => {
  test('the client answers on the same backend, after many statements of the session', async () => {
    const session = await open({}, undefined, over)
    for (let n = 0; n < 20; n++) await run(session, 'select $1::int as n', [n], 's_many')
    await failure(run(session, 'select 1/0'))
    const { client } = lendClient(session) as { client: Client }
    const { rows } = await client.query('select pg_backend_pid() as pid, $1::text as text', ['ä'.repeat(100_000)])
    expect(rows).toEqual([{ pid: session.pid, text: 'ä'.repeat(100_000) }])
    expect(await failure(client.query('no sql'))).toMatchObject({ code: '42601' })
  })

  test('it is known whether the server does something for it', async () => {
    const other = await outside()
    const session = await open({}, undefined, over)
    const lent = lendClient(session)
    expect(lent.busy).toBe(false)
    const sleeping = failure((lent.client as Client).query('select pg_sleep(60)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    expect(lent.busy).toBe(true)
    await session.cancel(5_000)
    expect(await sleeping).toMatchObject({ code: '57014' })
    // The server says that it is ready after it has said what went wrong.
    await expect.poll(() => lent.busy).toBe(false)
  })

  test('the session still ends it, and still learns of its end', async () => {
    const other = await outside()
    const session = await open({}, undefined, over)
    const { client } = lendClient(session) as { client: Client }
    await client.query('select 1')
    await session.close(5_000)
    expect(session.lost).not.toBeNull()
    await expect.poll(() => alive(other, session.pid)).toBe(false)
    expect(await failure(client.query('select 1'))).toBeInstanceOf(Error)
  })

  test('nonsense of the server ends the connection and not the process, as before', async () => {
    const session = await open({}, undefined, over)
    const { client } = lendClient(session) as { client: Client }
    const answer = failure(client.query('select 1'))
    ;(client as unknown as { connection: { stream: NodeJS.EventEmitter } }).connection.stream.emit(
      'data',
      Buffer.from('!nonsense'),
    )
    await answer
    expect(session.lost).not.toBeNull()
  })
})

const reason = hasOpenssl ? 'TEST_DATABASE_URL and TEST_PG are unset' : 'needs the program openssl'

describe.skipIf(borrowed || !hasOpenssl)(`a server with TLS (${reason})`, () => {
  let cluster: Cluster
  let made: Certificates
  beforeAll(async () => {
    made = makeCertificates()
    cluster = await startCluster()
  })
  afterAll(() => cluster.close())

  test.each(wires)('is spoken to encrypted before and after, over wire: %s', async (over) => {
    await turnTlsOn(cluster, made.leaf, made.key)
    const ssl = { ca: made.ca }
    const greeted = (): Promise<boolean> =>
      opener(() => cluster.url, { ssl })({ timeoutMs: 5_000 }).then(
        (first) => first.close(1_000).then(() => true),
        () => false,
      )
    await expect.poll(greeted).toBe(true)
    const session = await open({ ssl }, cluster.url, over)
    const encrypted = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'
    expect(await column(session, encrypted)).toEqual([true])
    const { client } = lendClient(session) as { client: Client }
    expect((await client.query(encrypted)).rows).toEqual([{ ssl: true }])
  })
})
