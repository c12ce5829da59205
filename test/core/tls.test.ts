// What is said about TLS and what follows: the table of docs/tls.md, contradictions, and what is no network.

import { array, assert, constantFrom, property, tuple } from 'fast-check'
import type { Arbitrary } from 'fast-check'
import { Client } from 'pg'
import { describe, expect, test } from 'vitest'
import type { ConfigFault } from '../../src/core/errors.ts'
import { isLoopback, planTls, splitTlsWords } from '../../src/core/tls.ts'
import type { TlsPlan, TlsSaid } from '../../src/core/tls.ts'

function planned(query: string, said: Omit<TlsSaid, 'words'> = {}): TlsPlan {
  const faults: ConfigFault[] = []
  const plan = planTls({ words: splitTlsWords(`postgres://db/app?${query}`).words, ...said }, 'primary', faults)
  expect(faults).toEqual([])
  return plan
}

function faultsOf(query: string, said: Omit<TlsSaid, 'words'> = {}): ConfigFault[] {
  const faults: ConfigFault[] = []
  planTls({ words: splitTlsWords(`postgres://db/app?${query}`).words, ...said }, 'primary', faults)
  return faults
}

const outcome = (plan: TlsPlan): unknown => (plan.at === 'on' ? plan.trust : plan.at)

describe('the words of a URL', () => {
  test.each([
    ['postgres://db/app', 'postgres://db/app', {}],
    ['postgres://db/app?sslmode=require', 'postgres://db/app', { sslmode: 'require' }],
    ['postgres://db/app?a=1&sslmode=require&b=%20', 'postgres://db/app?a=1&b=%20', { sslmode: 'require' }],
    ['postgres://db/app?ssl%6Dode=require', 'postgres://db/app', { sslmode: 'require' }],
    ['postgres://db/app?sslmode=disable&sslmode=require', 'postgres://db/app', { sslmode: 'require' }],
    ['postgres://db/app?sslmode=require#x', 'postgres://db/app#x', { sslmode: 'require' }],
    ['postgres://db/app?sslrootcert=/a%20b.pem', 'postgres://db/app', { sslrootcert: '/a b.pem' }],
    ['postgres://u:p%3Fss@db/app?sslmode=no-verify', 'postgres://u:p%3Fss@db/app', { sslmode: 'no-verify' }],
    ['socket:/run?db=app&sslmode=disable', 'socket:/run?db=app', { sslmode: 'disable' }],
    ['postgres://db/app?sslaccept=strict', 'postgres://db/app?sslaccept=strict', {}],
    ['/run app', '/run app', {}],
  ])('of %s about TLS are taken out, and the rest is as it was', (url, rest, words) => {
    expect(splitTlsWords(url)).toEqual({ rest, words })
  })

  test.each([
    ['', 'unsaid'],
    ['sslmode=', 'unsaid'],
    ['sslmode=disable', 'off'],
    ['sslmode=allow', 'name'],
    ['sslmode=prefer', 'name'],
    ['sslmode=require', 'name'],
    ['sslmode=verify-ca', 'name'],
    ['sslmode=verify-full', 'name'],
    ['sslmode=no-verify', 'anybody'],
    ['ssl=true', 'name'],
    ['ssl=1', 'name'],
    ['ssl=false', 'off'],
    ['ssl=0', 'off'],
    ['ssl=no-verify', 'anybody'],
    ['ssl=true&sslmode=disable', 'off'],
    ['sslrootcert=/ca.pem', 'name'],
    ['sslnegotiation=direct', 'name'],
    ['uselibpqcompat=true', 'unsaid'],
    ['uselibpqcompat=false&sslmode=require', 'name'],
    ['uselibpqcompat=true&sslmode=disable', 'off'],
    ['uselibpqcompat=true&sslmode=allow', 'name'],
    ['uselibpqcompat=true&sslmode=prefer', 'anybody'],
    ['uselibpqcompat=true&sslmode=require', 'anybody'],
    ['uselibpqcompat=true&sslmode=require&sslrootcert=/ca.pem', 'authority'],
    ['uselibpqcompat=true&sslmode=verify-ca&sslrootcert=/ca.pem', 'authority'],
    ['uselibpqcompat=true&sslmode=verify-full', 'name'],
  ])('`%s` mean %s', (query, expected) => {
    expect(outcome(planned(query))).toBe(expected)
  })

  test('leave none behind that pg would act on, however they are written', () => {
    const letter = (one: string): Arbitrary<string> =>
      constantFrom(one, `${one}\n`, `%${one.codePointAt(0)!.toString(16)}`)
    const word = constantFrom('sslmode', 'ssl', 'uselibpqcompat', 'application_name').chain((name) =>
      tuple(...name.split('').map(letter)).map((letters) => letters.join('')),
    )
    const part = tuple(word, constantFrom('no-verify', 'true', 'disable', 'a b', '%', '')).map((pair) => pair.join('='))
    const leavesNone = property(array(part), (some) => {
      const { rest } = splitTlsWords(`postgres://app@db/app?${some.join('&')}`)
      const ssl = { ca: 'ours' }
      const client = new Client({ connectionString: rest, ssl }) as unknown as { ssl: unknown }
      expect(client.ssl).toBe(ssl)
    })
    assert(leavesNone)
  })

  test('may name files, a passphrase, a version, and how much the channel matters', () => {
    const files = 'sslrootcert=/ca&sslcert=/cert&sslkey=/key&sslcrl=/crl'
    const rest = 'sslpassword=secret&ssl_min_protocol_version=TLSv1.3&channel_binding=require&sslnegotiation=direct'
    expect(planned(`sslmode=verify-full&${files}&${rest}`)).toEqual({
      at: 'on',
      trust: 'name',
      options: {},
      files: { ca: '/ca', cert: '/cert', key: '/key', crl: '/crl' },
      passphrase: 'secret',
      minVersion: 'TLSv1.3',
      direct: true,
      binding: 'require',
    })
  })

  test.each([
    ['sslmode=verify', 'sslmode'],
    ['sslmode=canary', 'sslmode'],
    ['ssl=yes', 'ssl'],
    ['channel_binding=always&sslmode=require', 'channel_binding'],
    ['sslnegotiation=maybe', 'sslnegotiation'],
    ['ssl_min_protocol_version=1.2&sslmode=require', 'ssl_min_protocol_version'],
    ['sslmode=disable&sslnegotiation=direct', 'sslnegotiation'],
    ['sslmode=disable&channel_binding=require', 'channel_binding'],
    ['channel_binding=require', 'channel_binding'],
    ['uselibpqcompat=true&sslmode=verify-ca', 'sslmode'],
  ])('`%s` are refused, and not shown', (query, word) => {
    const faults = faultsOf(query)
    expect(faults.map(({ path }) => path)).toEqual([`primary?${word}`])
    expect(JSON.stringify(faults)).not.toContain('canary')
  })
})

describe('the option `ssl`', () => {
  test.each<[boolean | object, unknown]>([
    [false, 'off'],
    [true, 'name'],
    // As it is written: an empty object verifies, and `rejectUnauthorized: false` is what somebody wrote by hand.
    [{}, null],
    [{ rejectUnauthorized: false }, null],
  ])('%j means the same for one node as for all', (ssl, expected) => {
    expect(outcome(planned('', { own: ssl }))).toBe(expected)
    expect(outcome(planned('', { shared: ssl }))).toBe(expected)
  })

  test('of the node goes before that of all', () => {
    expect(outcome(planned('', { own: false, shared: true }))).toBe('off')
    expect(planned('', { own: { ca: 'own' }, shared: { ca: 'shared' } })).toMatchObject({ options: { ca: 'own' } })
  })

  test('adds its CA to what the URL asks for, where pg lets the URL drop it', () => {
    for (const said of [{ own: { ca: 'x' } }, { shared: { ca: 'x' } }]) {
      expect(planned('sslmode=require', said)).toMatchObject({ trust: 'name', options: { ca: 'x' } })
    }
  })

  test('of all nodes gives way to the URL of one', () => {
    expect(outcome(planned('sslmode=disable', { shared: true }))).toBe('off')
    expect(outcome(planned('sslmode=require', { shared: false }))).toBe('name')
    expect(outcome(planned('sslmode=require', { shared: { rejectUnauthorized: false } }))).toBe('name')
  })

  test.each<[string, boolean | object]>([
    ['sslmode=disable', true],
    ['sslmode=disable', { ca: 'x' }],
    ['sslmode=require', false],
    ['sslrootcert=/ca', false],
    ['sslmode=require', { rejectUnauthorized: false }],
    ['sslmode=verify-full', { rejectUnauthorized: false }],
  ])('beside `%s` must not say %j', (query, own) => {
    expect(faultsOf(query, { own }).map(({ path }) => path)).toEqual(['primary?sslmode'])
  })

  test('beside a word that asks for no check may say the same', () => {
    expect(outcome(planned('sslmode=no-verify', { own: { rejectUnauthorized: false } }))).toBe('anybody')
    expect(outcome(planned('sslmode=disable', { own: false }))).toBe('off')
  })
})

describe('PGSSLMODE', () => {
  test('counts where neither a URL nor an option says anything, with the same meaning', () => {
    expect(outcome(planned('', { environment: 'require' }))).toBe('name')
    expect(outcome(planned('', { environment: 'no-verify' }))).toBe('anybody')
    expect(outcome(planned('', { environment: 'disable' }))).toBe('off')
    expect(outcome(planned('', { environment: '' }))).toBe('unsaid')
    expect(outcome(planned('sslmode=require', { environment: 'disable' }))).toBe('name')
    expect(outcome(planned('', { own: false, environment: 'require' }))).toBe('off')
  })

  test('that means nothing is refused', () => {
    expect(faultsOf('', { environment: 'yes' })).toMatchObject([{ path: 'PGSSLMODE' }])
    expect(faultsOf('sslmode=require', { environment: 'yes' })).toEqual([])
  })
})

test.each([
  ['127.0.0.1', true],
  ['127.8.9.10', true],
  ['::1', true],
  ['::ffff:127.0.0.1', true],
  ['localhost', true],
  ['LOCALHOST', true],
  ['/var/run/postgresql', true],
  ['', true],
  ['10.0.0.1', false],
  ['192.168.127.1', false],
  ['::ffff:10.0.0.1', false],
  ['::2', false],
  ['fe80::1', false],
  ['localhost.example.com', false],
  ['db', false],
  ['127.example.com', false],
  ['127.0.0.1.example.com', false],
])('what is sent to %s stays on this machine: %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected)
})
