// TLS against a server with a certificate of its own making: whom we trust, what is said when we do not, and that
// nothing leaves in the clear, cancel requests included.

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { hasOpenssl, makeCertificates, turnTlsOn } from './own-server.ts'
import type { Certificates } from './own-server.ts'
import { borrowed, busy, column, failure, open, opener, outside, road, run } from './sessions.ts'

const reason = hasOpenssl ? 'TEST_DATABASE_URL and TEST_PG are unset' : 'needs the program openssl'

describe.skipIf(borrowed || !hasOpenssl)(`a server with TLS (${reason})`, () => {
  let cluster: Cluster
  let made: Certificates

  beforeAll(async () => {
    made = makeCertificates()
    cluster = await startCluster()
  })
  afterAll(() => cluster.close())

  /** The certificate that new connections see is the one given last. */
  const serve = async (certificate: string, ca: string): Promise<void> => {
    await turnTlsOn(cluster, certificate, made.key)
    const greeted = (): Promise<boolean> =>
      opener(() => cluster.url, { ssl: { ca } })({ timeoutMs: 5_000 }).then(
        (session) => session.close(1_000).then(() => true),
        () => false,
      )
    await expect.poll(greeted).toBe(true)
  }

  test('is trusted with its CA, and the connection is encrypted', async () => {
    await serve(made.leaf, made.ca)
    const session = await open({ ssl: { ca: made.ca } }, cluster.url)
    expect(await column(session, 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')).toEqual([true])
  })

  test('is refused when its CA is another one', async () => {
    await serve(made.leaf, made.ca)
    const error = await failure(opener(() => cluster.url, { ssl: { ca: made.stranger } })({ timeoutMs: 5_000 }))
    expect(error.code).toBe('SMARTPG_CONNECT_FAILED')
    expect(error['hint']).toContain('ssl: { ca }')
  })

  test.each(['leaf', 'chain', 'selfSigned'] as const)(
    'with the certificate `%s` of an unknown CA is refused, and the error names the remedy',
    async (shown) => {
      await serve(made[shown], shown === 'selfSigned' ? made.selfSigned : made.ca)
      const error = await failure(opener(() => cluster.url, { ssl: true })({ timeoutMs: 5_000 }))
      expect(error.code).toBe('SMARTPG_CONNECT_FAILED')
      expect(error['hint']).toContain('ssl: { ca }')
    },
  )

  test('is refused when the certificate is for another host', async () => {
    await serve(made.leaf, made.ca)
    // The certificate speaks for 127.0.0.1 and localhost alone.
    const ssl = { ca: made.ca, host: 'db.example.com' }
    const error = await failure(opener(() => cluster.url, { ssl })({ timeoutMs: 5_000 }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } })
  })

  test('hears nothing in the clear, the cancel request neither', async () => {
    await serve(made.leaf, made.ca)
    const way = await road(cluster.url)
    const session = await open({ ssl: { ca: made.ca } }, way.url)
    const other = await outside(cluster.url)
    const sleeping = failure(run(session, 'select pg_sleep(60)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await session.cancel(5_000)
    expect((await sleeping)['code']).toBe('57014')
    // Both connections open with an SSLRequest: 8 bytes, of which the last four are its code.
    expect(way.connections.map(({ opening }) => [opening.length, opening.readInt32BE(4)])).toEqual([
      [8, 80_877_103],
      [8, 80_877_103],
    ])
  })
})
