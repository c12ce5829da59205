// TLS against a server with a certificate of its own making: whom we trust, what is said when we do not, that nothing
// leaves in the clear, cancel requests included, and that nobody on the way can pass the password on.

import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { SslOptions } from '../../src/config/options.ts'
import type { Session } from '../../src/core/types.ts'
import { noPgBouncer, pgBouncerNeeded, startPgBouncer } from '../support/pgbouncer.ts'
import { giveTo, serverAccount } from '../support/postgres/account.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { intrude, withoutBinding } from './man-in-the-middle.ts'
import type { Intruder } from './man-in-the-middle.ts'
import { hasOpenssl, hba, makeCertificates, mapUsers, superuserQueries, turnTlsOn } from './own-server.ts'
import type { Certificates, Identity } from './own-server.ts'
import { borrowed, busy, clientOf, column, failure, message, open, opener, outside, road, run } from './sessions.ts'

const reason = hasOpenssl ? 'TEST_DATABASE_URL and TEST_PG are unset' : 'needs the program openssl'

describe.skipIf(borrowed || !hasOpenssl)(`a server with TLS (${reason})`, () => {
  let cluster: Cluster
  let made: Certificates
  let folder: string

  beforeAll(async () => {
    made = makeCertificates()
    folder = mkdtempSync(join(tmpdir(), 'smartpg-tls-'))
    cluster = await startCluster()
    await superuserQueries(cluster, "create role app login password 'right'")
    await hba(cluster, 'hostssl all app 127.0.0.1/32 scram-sha-256')
  })
  afterAll(async () => {
    await cluster.close()
    rmSync(folder, { recursive: true, force: true })
  })

  /** The certificate that new connections see is the one given last. */
  const serve = async (certificate: string, ca: string, key = made.key, clientsCa?: string): Promise<void> => {
    await turnTlsOn(cluster, certificate, key, clientsCa)
    // Whatever its name and its age: the other tests ask for those.
    const checkServerIdentity = (_: string, { raw }: { raw: Buffer }): Error | undefined =>
      raw.equals(new X509Certificate(certificate).raw) ? undefined : new Error('the one of before')
    const rejectUnauthorized = certificate !== made.expired.certificate
    const greeted = (): Promise<boolean> =>
      opener(() => cluster.url, { ssl: { ca, checkServerIdentity, rejectUnauthorized } })({ timeoutMs: 5_000 }).then(
        (session) => session.close(1_000).then(() => true),
        () => false,
      )
    while (!(await greeted())) await sleep(5)
  }

  const serveAs = ({ certificate, key }: Identity): Promise<void> => serve(certificate, made.ca, key)

  const file = (name: string, content: string): string => {
    const path = join(folder, name)
    writeFileSync(path, content)
    return path
  }

  /** The server's URL with these words behind it. */
  const saying = (words: Record<string, string>, url = cluster.url): string =>
    `${url}?${new URLSearchParams(words).toString()}`

  /** The server's URL for the role that has a password. */
  const asApp = (url = cluster.url): string => url.replace('postgres@', 'app:right@')

  const refused = (url: string, ssl?: SslOptions): Promise<Error & Record<string, unknown>> =>
    failure(opener(() => url, { ssl })({ timeoutMs: 5_000 }))

  const encrypted = (session: Session): Promise<unknown[]> =>
    column(session, 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')

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

  describe('that a URL speaks of', () => {
    beforeAll(() => serve(made.leaf, made.ca))

    test.each(['require', 'verify-full', 'prefer', 'allow', 'verify-ca'])(
      'is checked with sslmode=%s: its CA by sslrootcert is enough, without it the error names the remedy',
      async (sslmode) => {
        const sslrootcert = file('ca.pem', made.ca)
        expect(await encrypted(await open({}, saying({ sslmode, sslrootcert })))).toEqual([true])
        const error = await refused(saying({ sslmode }))
        expect(error).toMatchObject({
          code: 'SMARTPG_CONNECT_FAILED',
          cause: { code: expect.stringMatching(/UNABLE/) },
        })
        expect(error['hint']).toMatch(/ssl: \{ ca \}.*sslrootcert.*RDS/)
      },
    )

    test('is checked whatever NODE_TLS_REJECT_UNAUTHORIZED says, with which pg checks nothing', async () => {
      process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0'
      onTestFinished(() => void delete process.env['NODE_TLS_REJECT_UNAUTHORIZED'])
      const stock = new Client({ connectionString: cluster.url, ssl: true })
      await stock.connect()
      await stock.end()
      expect(await refused(cluster.url, true)).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
      expect(await refused(saying({ sslmode: 'require' }))).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
      expect(await refused(cluster.url, {})).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    })

    test('is not checked with sslmode=no-verify, and whoever is told of it is not told on this machine', async () => {
      const told: string[] = []
      const session = await open({ onInsecure: (message) => told.push(message) }, saying({ sslmode: 'no-verify' }))
      expect(await encrypted(session)).toEqual([true])
      expect(told).toEqual([])
    })

    test('has the CA of the option `ssl` beside the URL, which pg drops', async () => {
      const stock = new Client({ connectionString: saying({ sslmode: 'require' }), ssl: { ca: made.ca } })
      expect(await failure(stock.connect())).toMatchObject({ code: expect.stringMatching(/UNABLE/) })
      expect(await encrypted(await open({ ssl: { ca: made.ca } }, saying({ sslmode: 'require' })))).toEqual([true])
    })

    test('is spoken to in the clear with sslmode=disable, whatever `ssl` says for all', async () => {
      expect(await encrypted(await open({ ssl: { ca: made.ca } }, saying({ sslmode: 'disable' })))).toEqual([false])
    })

    test('has its CA file read again at each connect, so that it may be exchanged', async () => {
      const sslrootcert = file('exchanged.pem', made.stranger)
      const url = saying({ sslmode: 'verify-full', sslrootcert })
      expect(await refused(url)).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
      file('exchanged.pem', made.ca)
      expect(await encrypted(await open({}, url))).toEqual([true])
    })

    test('and of a file that is not there, is answered with the word that names it', async () => {
      const error = await refused(saying({ sslmode: 'verify-full', sslrootcert: join(folder, 'nothing.pem') }))
      expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', node: 'primary', cause: { code: 'ENOENT' } })
      expect(error.message).toMatch(/primary\?sslrootcert.*ENOENT/)
    })

    test('in words that contradict each other, is not asked at all', async () => {
      const ssl = { rejectUnauthorized: false }
      const target = { connectionString: saying({ sslmode: 'verify-full' }), ssl }
      const error = await failure(opener(() => target)({ timeoutMs: 5_000 }))
      expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', faults: [{ path: 'primary?sslmode' }] })
    })

    test('in PGSSLMODE alone, is checked as well', async () => {
      process.env['PGSSLMODE'] = 'require'
      onTestFinished(() => void delete process.env['PGSSLMODE'])
      expect(await refused(cluster.url)).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
      expect(await encrypted(await open({ ssl: { ca: made.ca } }, cluster.url))).toEqual([true])
    })
  })

  test('whose certificate is for another name is refused, unless uselibpqcompat asks for its CA alone', async () => {
    await serveAs(made.elsewhere)
    const sslrootcert = file('ca.pem', made.ca)
    const error = await refused(saying({ sslmode: 'verify-ca', sslrootcert }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } })
    expect(error['hint']).toContain('the name it was made for')
    const asLibpq = { uselibpqcompat: 'true', sslmode: 'verify-ca', sslrootcert }
    expect(await encrypted(await open({}, saying(asLibpq)))).toEqual([true])
    const stranger = file('stranger.pem', made.stranger)
    expect(await refused(saying({ ...asLibpq, sslrootcert: stranger }))).toMatchObject({
      code: 'SMARTPG_CONNECT_FAILED',
    })
    // The name may also be said, because what is connected to may be an address, or the near end of a tunnel.
    for (const host of ['127.0.0.1', 'localhost']) {
      for (const named of ['servername', 'host']) {
        const ssl = { ca: made.ca, [named]: 'db.example.com' }
        const session = await open({ ssl }, cluster.url.replace('127.0.0.1', host))
        expect(await encrypted(session)).toEqual([true])
        await session.cancel(5_000)
      }
    }
  })

  test('whose certificate has expired is refused, and the error says so', async () => {
    await serveAs(made.expired)
    const error = await refused(cluster.url, { ca: made.ca })
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'CERT_HAS_EXPIRED' } })
    expect(error['hint']).toContain('expired')
  })

  test('that exchanges its certificate is trusted with the new one, without a restart of ours', async () => {
    await serve(made.leaf, made.ca)
    const connect = opener(() => cluster.url, { ssl: { ca: [made.ca, made.stranger] } })
    const before = await connect({ timeoutMs: 5_000 })
    await serveAs(made.other)
    const after = await connect({ timeoutMs: 5_000 })
    expect([await encrypted(before), await encrypted(after)]).toEqual([[true], [true]])
    await Promise.all([before.close(1_000), after.close(1_000)])
  })

  test('that asks for a certificate of ours gets it: from options, and from files that a URL names', async () => {
    await serve(made.leaf, made.ca, made.key, made.ca)
    await superuserQueries(cluster, 'create role certified login')
    await hba(cluster, 'hostssl all certified 127.0.0.1/32 cert map=by_certificate')
    await mapUsers(cluster, 'by_certificate app certified')
    const url = cluster.url.replace('postgres@', 'certified@')
    const { certificate: cert, key } = made.client
    expect(await column(await open({ ssl: { ca: made.ca, cert, key } }, url), 'select current_user')).toEqual([
      'certified',
    ])
    const words = { sslrootcert: file('ca.pem', made.ca), sslcert: file('app.crt', cert), sslkey: file('app.key', key) }
    const session = await open({}, saying({ sslmode: 'verify-full', ...words }, url))
    expect(await column(session, 'select current_user')).toEqual(['certified'])
    expect(await refused(url, { ca: made.ca })).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
  })

  test('that speaks TLS from the first byte is met so, cancel requests included', async (context) => {
    const [version] = await cluster.primary.query<{ n: number }>(
      "select current_setting('server_version_num')::int as n",
    )
    context.skip(version!.n < 170_000, 'sslnegotiation=direct begins with PostgreSQL 17')
    await serve(made.leaf, made.ca)
    const way = await road(cluster.url)
    const session = await open({ ssl: { ca: made.ca } }, saying({ sslnegotiation: 'direct' }, way.url))
    const other = await outside(cluster.url)
    const sleeping = failure(run(session, 'select pg_sleep(60)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await session.cancel(5_000)
    expect((await sleeping)['code']).toBe('57014')
    const handshake = 22
    expect(way.connections.map(({ opening }) => opening[0])).toEqual([handshake, handshake])
  })

  describe('and somebody on the way whom our CA trusts', () => {
    let between: Intruder
    beforeAll(() => serve(made.leaf, made.ca))

    test('reads all that pg says and hears, and pg does not notice', async () => {
      between = await intrude(asApp(), made.other)
      const stock = new Client({ connectionString: between.url, ssl: { ca: made.ca } })
      await stock.connect()
      await stock.query("select 'overheard'")
      await stock.end()
      expect(between.heard()).toContain('overheard')
    })

    test('is found out by the server, because the password is bound to the channel', async () => {
      between = await intrude(asApp(), made.other)
      const error = await refused(between.url, { ca: made.ca })
      expect(between.heard()).toContain('SCRAM-SHA-256-PLUS')
      expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: '28000' } })
      expect(error.message).toContain('channel binding')
      expect(error['hint']).toContain('Somebody in between')
    })

    test('is found out as well when he hides that the server can bind it', async () => {
      between = await intrude(asApp(), made.other, withoutBinding)
      const error = await refused(between.url, { ca: made.ca })
      expect(between.heard()).not.toContain('SCRAM-SHA-256-PLUS')
      expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: '28000' } })
      expect(error['hint']).toContain('Somebody in between')
    })

    test('hears no password where binding is required, whatever he asks for', async () => {
      const url = (to: Intruder): string => saying({ sslmode: 'verify-full', channel_binding: 'require' }, to.url)
      between = await intrude(asApp(), made.other, withoutBinding)
      const error = await refused(url(between), { ca: made.ca })
      expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', faults: [{ path: 'primary?channel_binding' }] })
      expect(between.heard()).not.toContain('n=*,r=')
      between = await intrude(asApp(), made.other, (word) => (word[0] === 0x52 ? message('R', 3) : word))
      expect(await refused(url(between), { ca: made.ca })).toMatchObject({ code: 'SMARTPG_CONFIG' })
      expect(between.heard()).not.toContain('right')
    })

    test('may do so where he is a proxy of ours, and channel_binding=disable says it', async () => {
      between = await intrude(asApp(), made.other)
      const session = await open({ ssl: { ca: made.ca } }, saying({ channel_binding: 'disable' }, between.url))
      expect(await column(session, 'select current_user')).toEqual(['app'])
    })

    test('is not there: the server itself is let in, with the binding that is required', async () => {
      const url = saying({ sslmode: 'verify-full', channel_binding: 'require' }, asApp())
      expect(await column(await open({ ssl: { ca: made.ca } }, url), 'select current_user')).toEqual(['app'])
      // A key of the other kind, of whose signature another digest is taken.
      await serveAs(made.other)
      expect(await column(await open({ ssl: { ca: made.ca } }, url), 'select current_user')).toEqual(['app'])
    })
  })

  test.skipIf(noPgBouncer)(
    `behind a pooler that ends TLS and knows no binding is reached ${pgBouncerNeeded}`,
    async () => {
      // The pooler runs as the servers do.
      const files = {
        client_tls_cert_file: file('bouncer.crt', made.leaf),
        client_tls_key_file: file('bouncer.key', made.key),
      }
      giveTo(serverAccount(), folder)
      const settings = { ...files, client_tls_sslmode: 'allow', auth_type: 'scram-sha-256', pool_mode: 'session' }
      await using bouncer = await startPgBouncer(asApp(), settings)
      const session = await open({ ssl: { ca: made.ca } }, bouncer.url)
      expect(await column(session, 'select current_user')).toEqual(['app'])
      expect(clientOf(session).connection.stream.encrypted).toBe(true)
      const required = saying({ sslmode: 'verify-full', channel_binding: 'require' }, bouncer.url)
      expect(await refused(required, { ca: made.ca })).toMatchObject({ faults: [{ path: 'primary?channel_binding' }] })
      session.destroy(new Error('the test is over'))
    },
  )
})
