// `routing.lookup`: where a name leads is asked anew at each connect, and whatever the function does ends as an error of
// the connect, never of the process.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { LookupFunction, Server } from 'node:net'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import type { Lookup } from '../../src/config/options.ts'
import { freePort } from '../support/postgres/free-port.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import type { Wire } from '../support/wire.ts'
import { hasOpenssl, makeCertificates, turnTlsOn } from './own-server.ts'
import type { Certificates } from './own-server.ts'
import { borrowed, column, failure, open, opener } from './sessions.ts'

type Given = (hostname: string, options: object, callback: (...answer: unknown[]) => void) => unknown

const lookup = (given: Given): Lookup => given as Lookup
const wires: Wire[] = ['native', 'pg']

/** Another address of this machine; which one there is depends on its operating system. */
const elsewhere = await firstOf(['127.0.0.2', '::1'])

async function firstOf(addresses: readonly string[]): Promise<string | undefined> {
  for (const address of addresses) {
    const server = createServer()
    const listens = await new Promise((tell) => {
      server.once('error', () => tell(false))
      server.listen(0, address, () => tell(true))
    })
    server.close()
    if (listens === true) return address
  }
  return undefined
}

const named = (url: string, port: number): string => {
  const target = new URL(url)
  target.hostname = 'db.test'
  target.port = String(port)
  return target.href
}

describe.skipIf(elsewhere === undefined || inject('replicaUrls').length === 0)(
  'one name for two servers, one after the other (needs a replica, and 127.0.0.2 or ::1)',
  () => {
    let port: number
    const doors: Server[] = []

    /** Leads from an address of this machine to a server. */
    const door = async (address: string, to: string): Promise<void> => {
      const { hostname, port: toPort } = new URL(to)
      const server = createServer((from) => {
        const on = connect(Number(toPort || 5432), hostname)
        for (const end of [from, on]) end.on('error', () => undefined)
        from.pipe(on).pipe(from)
      })
      server.listen(port, address)
      await once(server, 'listening')
      doors.push(server)
    }
    beforeAll(async () => {
      port = await freePort()
      await door('127.0.0.1', inject('primaryUrl'))
      await door(elsewhere!, inject('replicaUrls')[0]!)
    })
    afterAll(() => doors.forEach((server) => server.close()))

    test.each(wires)('leads where it leads when it is asked, which it is at each connect, over %s', async (over) => {
      const asked: string[] = []
      const answers = ['127.0.0.1', elsewhere!, '127.0.0.1']
      const given: LookupFunction = (hostname, { all }, callback) => {
        const address = answers[asked.push(hostname) - 1]!
        const family = address.includes(':') ? 6 : 4
        if (all) callback(null, [{ address, family }])
        else callback(null, address, family)
      }
      const found: unknown[] = []
      for (const _ of answers) {
        const session = await open({ lookup: given }, named(inject('primaryUrl'), port), over)
        found.push(...(await column(session, 'select pg_is_in_recovery()')))
      }
      expect(found).toEqual([false, true, false])
      expect(asked).toEqual(['db.test', 'db.test', 'db.test'])
    })

    test('is tried by each of its addresses, as long as one is left', async () => {
      const answers = [{ address: '127.0.0.3' }, { address: elsewhere }]
      const session = await open(
        { lookup: lookup((_, __, callback) => callback(null, answers)) },
        named(inject('primaryUrl'), port),
      )
      expect(await column(session, 'select pg_is_in_recovery()')).toEqual([true])
    })

    test('leads where it leads first, if it is answered twice', async () => {
      const given = lookup((_, __, callback) => [elsewhere, '127.0.0.1'].forEach((address) => callback(null, address)))
      const session = await open({ lookup: given }, named(inject('primaryUrl'), port))
      expect(await column(session, 'select pg_is_in_recovery()')).toEqual([true])
    })

    test.each<[string, unknown[]]>([
      ['an address alone', ['127.0.0.1', 4]],
      ['an address without its family', ['127.0.0.1']],
      ['addresses alone', [['127.0.0.1']]],
      ['what dns.promises gives', [{ address: '127.0.0.1', family: 4 }]],
      ['an address among what is none', [['db.test', '127.0.0.1', '', null, { address: 7 }]]],
    ])('is found by %s', async (_, answer) => {
      const given = lookup((_hostname, _options, callback) => callback(null, ...answer))
      const session = await open({ lookup: given }, named(inject('primaryUrl'), port))
      expect(await column(session, 'select pg_is_in_recovery()')).toEqual([false])
    })
  },
)

describe('a lookup that', () => {
  const url = 'postgres://app@db.test:5432/app'
  const refused = (given: Given, timeoutMs = 10_000): Promise<Error & Record<string, unknown>> =>
    failure(opener(() => url, { lookup: lookup(given) })({ timeoutMs }))
  const broken = new Error('the resolver is broken')
  const late = (work: () => void): void => void setImmediate(work)

  test.each<[string, Given]>([
    ['throws', () => { throw broken }], // prettier-ignore
    ['rejects', () => Promise.reject(broken)],
    ['says an error at once', (_, __, callback) => callback(broken)],
    ['says an error later', (_, __, callback) => late(() => callback(broken))],
    ['says an error and then throws', (_, __, callback) => { callback(broken); throw new Error('once more') }], // prettier-ignore
    ['says an error and rejects', (_, __, callback) => { callback(broken); return Promise.reject(new Error('again')) }], // prettier-ignore
    ['says an error and then an address', (_, __, callback) => late(() => { callback(broken); callback(null, '127.0.0.1', 4) })], // prettier-ignore
  ])('%s fails the connect, with its reason as cause', async (_, given) => {
    const error = await refused(given)
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', node: 'primary', retryable: true })
    expect(error.message).toBe("Cannot connect to node 'primary': the resolver is broken")
    expect(error.cause).toBe(broken)
  })

  test.each<[string, unknown[]]>([
    ['nothing', []],
    ['null', [null]],
    ['no addresses', [[]]],
    ['another name', ['db.example.com', 4]],
    ['an address that is none', ['256.0.0.1', 4]],
    ['something else', [{ host: '127.0.0.1' }]],
    ['a list of nonsense', [[undefined, 7, {}]]],
  ])('answers %s fails the connect and is named', async (_, answer) => {
    const error = await refused((__, ___, callback) => callback(null, ...answer))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ENOTFOUND' } })
    expect(error.message).toContain("routing.lookup gave no address of 'db.test'")
  })

  test('throws what is no error fails the connect and says what it was', async () => {
    // oxlint-disable-next-line no-throw-literal -- somebody's function may
    expect((await refused(() => { throw 'no route' })).message).toContain('no route') // prettier-ignore
    expect((await refused(() => Promise.reject(undefined))).message).toContain('undefined')
  })

  test('keeps the code of its error, and so the advice that belongs to it', async () => {
    const unknown = Object.assign(new Error('queryA ENOTFOUND db.test'), { code: 'ENOTFOUND' })
    expect((await refused((_, __, callback) => callback(unknown)))['hint']).toMatch(/does not resolve/)
  })

  test('never answers ends at the connect timeout, and what it says afterwards is nothing', async () => {
    let answer: (...answer: unknown[]) => void = () => undefined
    const error = await refused((_, __, callback) => (answer = callback), 30)
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ETIMEDOUT' } })
    for (const said of [[null, '127.0.0.1', 4], [broken]]) answer(...said)
    await new Promise((resolve) => setImmediate(resolve))
  })

  test('is there is not asked for addresses', async () => {
    const never: Given = () => { throw broken } // prettier-ignore
    const session = await open({ lookup: lookup(never) })
    expect(session.lost).toBeNull()
  })
})

const reason = hasOpenssl ? 'TEST_DATABASE_URL and TEST_PG are unset' : 'needs the program openssl'

describe.skipIf(borrowed || !hasOpenssl)(`a server of a name that only the lookup knows (${reason})`, () => {
  let cluster: Cluster
  let made: Certificates
  const here = lookup((_, __, callback) => callback(null, '127.0.0.1', 4))
  const target = (host: string): (() => object) => {
    return () => ({ host, port: cluster.primary.port, user: 'postgres', database: 'postgres' })
  }

  beforeAll(async () => {
    made = makeCertificates()
    cluster = await startCluster({ settings: { unix_socket_directories: '.' } })
    await turnTlsOn(cluster, made.elsewhere.certificate, made.elsewhere.key)
  })
  afterAll(() => cluster.close())

  test.each(wires)('is asked for a certificate of that name, not of the address, over %s', async (over) => {
    const options = { lookup: here, ssl: { ca: made.ca } }
    const connected = (host: string): Promise<unknown> => opener(target(host), options, over)({ timeoutMs: 10_000 })
    let session
    // New connections see the certificate a moment after it was set.
    while (session === undefined) session = await connected('db.example.com').catch(tlsIsComing)
    expect(await column(session as never, 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')).toEqual([true])
    await (session as { close(graceMs: number): Promise<void> }).close(1_000)
    expect(await failure(connected('db.test'))).toMatchObject({ cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } })
  })

  test('is not looked up where it is the path of a Unix socket', async () => {
    const folder = `${cluster.folder!}/primary`
    const never = lookup(() => { throw new Error('asked') }) // prettier-ignore
    const session = await opener(target(folder), { lookup: never })({ timeoutMs: 10_000 })
    expect(await column(session, 'select inet_server_addr()')).toEqual([null])
    await session.close(1_000)
  })
})

function tlsIsComing(error: Error): undefined {
  if (!error.message.includes('does not support SSL')) throw error
  return undefined
}
