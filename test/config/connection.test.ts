// Where servers are: every form an address may take, what is refused, and how nodes get their names.

import { Client } from 'pg'
import { describe, expect, test, vi } from 'vitest'
import { ConfigError } from '../../src/core/errors.ts'
import { configWith, errorOf, faultsOf, faultsWith } from './support.ts'
import { resolveConfig } from '../../src/config/resolve.ts'

const url = 'postgres://app:pw@db:5432/orders'

describe('a primary', () => {
  test.each([
    'postgres://app:pw@db:5432/orders',
    'postgresql://db/orders',
    'POSTGRES://db/orders',
    'postgres://',
    'postgres:///orders',
    'postgres://app@/orders',
    'postgres://app:p%40ss@db/orders?sslmode=require&application_name=x',
    'postgres://app:100%@db/orders',
    'postgres://app:p w@db/orders',
    'postgres://[::1]:5432/orders',
    'postgres://app@%2Fvar%2Frun%2Fpostgresql/orders',
    'postgres:///orders?host=/var/run/postgresql&port=5433',
    'socket:/var/run/postgresql?db=orders',
    'socket://app:pw@/var/run/postgresql?db=orders',
    '/var/run/postgresql',
    '/var/run/postgresql orders',
  ])('may be %s, and is handed on as it is', (written) => {
    expect(resolveConfig(written).primary.target()).toBe(written)
    expect(resolveConfig({ primary: written }).primary.target()).toBe(written)
    expect(resolveConfig({ primary: { connectionString: written } }).primary.target()).toEqual({
      connectionString: written,
    })
    // What is accepted here must not fail at the first connect instead.
    expect(() => new Client(written)).not.toThrow()
  })

  test.each([
    { host: 'db', port: 1, user: 'app', password: '', database: 'orders', ssl: true, options: '-c geqo=off' },
    { host: '/var/run/postgresql', port: 65535 },
    { password: () => 'pw' },
    { host: 'db', ssl: { ca: '…' }, user: undefined },
    {},
  ])('may be an object: %j', (written) => {
    expect(resolveConfig({ primary: written }).primary.target()).toEqual(written)
  })

  test('may be an instance of a class, of which the own properties count', () => {
    class Address {
      host = 'db'
      get port() {
        return 'not asked'
      }
    }
    expect(resolveConfig({ primary: new Address() }).primary.target()).toEqual({ host: 'db' })
  })

  test('given as object is copied: what the caller changes later changes nothing', () => {
    const written = { host: 'db', ssl: { ca: 'one' } }
    const config = resolveConfig({ primary: written })
    written.host = 'elsewhere'
    written.ssl.ca = 'two'
    expect(config.primary.target()).toEqual({ host: 'db', ssl: { ca: 'one' } })
    expect(config.primary.target()).toBe(config.primary.target())
    expect(Object.isFrozen(config.primary.target())).toBe(true)
  })

  test('given as function is asked at each connect and not before', async () => {
    const ask = vi.fn(async () => ({ host: 'db', password: `token ${ask.mock.calls.length}` }))
    const { primary } = resolveConfig({ primary: ask })
    expect(ask).not.toHaveBeenCalled()
    expect(await primary.target()).toEqual({ host: 'db', password: 'token 1' })
    expect(await primary.target()).toEqual({ host: 'db', password: 'token 2' })
  })

  test('whose function returns nonsense fails that connect, and shows nothing of it', async () => {
    const { primary } = resolveConfig({ primary: () => ({ host: 'db', passwort: 'canary' }) })
    const error = await Promise.resolve(primary.target()).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(ConfigError)
    expect((error as ConfigError).faults).toEqual([
      {
        path: 'primary().passwort',
        received: 'text',
        expected: 'a known coordinate of a connection',
        nearest: 'primary().password',
      },
    ])
  })

  test('whose function throws fails with that very error', async () => {
    const reason = new Error('vault sealed')
    const { primary } = resolveConfig({
      primary: () => {
        throw reason
      },
    })
    await expect(primary.target()).rejects.toBe(reason)
  })

  test.each([
    [undefined, 'nothing'],
    [null, 'null'],
    ['', 'empty text'],
    [5432, 'a number'],
    [[], 'an empty array'],
    [[url], 'an array'],
    ['db/orders', 'text that is no URL'],
    ['app:canary@db/orders', 'text that is no URL'],
    [' postgres://db/orders', 'text that is no URL'],
    ['mysql://app:canary@db/orders', 'a URL of scheme mysql'],
    ['https://app:canary@db/orders', 'a URL of scheme https'],
    ['postgres:db', 'text that is no URL'],
    ['postgres://app:canary@db:0/orders', 'a URL that cannot be read'],
    ['postgres://app:canary@db:65536/orders', 'a URL that cannot be read'],
    ['postgres://app:canary@db/orders?port=70000', 'a URL that cannot be read'],
    ['postgres://app:can#ary@db/orders', 'a URL that cannot be read'],
    ['postgres://app:%ff@db/orders', 'a URL that cannot be read'],
    ['postgres://one:5432,two:5432/orders', 'a URL that cannot be read'],
    ['postgres://db/ord%00ers', 'a URL that cannot be read'],
    ['/var/run\0', 'a URL that cannot be read'],
  ])('must not be %j', (written, received) => {
    const error = errorOf({ primary: written })
    expect(error.faults).toEqual([{ path: 'primary', received, expected: expect.any(String) as string }])
    expect(error.message).not.toContain('canary')
  })

  test.each([
    ['host', ''],
    ['host', 5],
    ['port', 0],
    ['port', 65536],
    ['port', 1.5],
    ['port', '5432'],
    ['port', NaN],
    ['user', ''],
    ['user', null],
    ['password', 12345],
    ['password', null],
    ['database', ''],
    ['database', 'a\0b'],
    ['options', ''],
    ['ssl', 'require'],
    ['ssl', []],
    ['connectionString', 'mysql://db'],
    ['connectionString', () => url],
    ['connectionString', ''],
  ])('must not have %s %j', (key, value) => {
    const faults = faultsOf({ primary: { [key]: value } })
    expect(faults.map((fault) => fault.path)).toEqual([`primary.${key}`])
    expect(faultsWith({ replicas: [{ host: 'db', [key]: value }] })[0]!.path).toBe(`replicas[0].${key}`)
  })

  test('of which every environment variable is missing does not become what pg takes by default', async () => {
    const unset: string | undefined = process.env.THERE_IS_NO_SUCH_VARIABLE
    const received = 'an object of nothing but undefined'
    const server = { connectionString: unset, password: unset }
    expect(faultsOf({ primary: server })).toMatchObject([{ path: 'primary', received }])
    expect(faultsWith({ replicas: [{ name: 'a', ...server }] })).toMatchObject([{ path: 'replicas[0]', received }])
    const { primary } = resolveConfig({ primary: () => server })
    await expect(Promise.resolve(primary.target())).rejects.toMatchObject({ faults: [{ path: 'primary()', received }] })
    expect(faultsOf({ primary: { hots: unset } }).map((fault) => fault.path)).toEqual(['primary.hots'])
    expect(resolveConfig({ primary: { ...server, host: 'db' } }).primary.target()).toEqual({ host: 'db' })
  })

  test('with misspelt coordinates is answered with the right names, all at once', () => {
    const faults = faultsOf({ primary: { hots: 'db', username: 'app', databse: 'orders', colour: 'red' } })
    expect(faults.map((fault) => [fault.path, fault.nearest])).toEqual([
      ['primary.hots', 'primary.host'],
      ['primary.username', undefined],
      ['primary.databse', 'primary.database'],
      ['primary.colour', undefined],
    ])
  })
})

describe('a URL beside separate coordinates', () => {
  test.each(['host', 'port', 'user', 'password', 'database'])('overrules %s in pg, so both are refused', (key) => {
    const value = key === 'port' ? 5433 : 'other'
    const both = { connectionString: 'postgres://app@db', [key]: value }
    expect(new Client(both)[key as 'host']).not.toBe(value)
    expect(faultsOf({ primary: both }).map((fault) => fault.path)).toEqual([`primary.${key}`])
  })

  test('leaves `ssl` and `options` to the object', () => {
    const both = { connectionString: 'postgres://app@db/orders', ssl: true, options: '-c geqo=off' }
    expect(resolveConfig({ primary: both }).primary.target()).toEqual(both)
  })
})

describe('what a URL says about TLS', () => {
  const canary = 'postgres://app@db/orders?sslmode=canary'

  test('is checked before anybody connects, wherever the URL stands, and not shown', () => {
    const written: [object, string][] = [
      [{ primary: canary }, 'primary?sslmode'],
      [{ primary: { connectionString: canary } }, 'primary.connectionString?sslmode'],
      [{ primary: url, replicas: [url, canary] }, 'replicas[1]?sslmode'],
      [{ primary: url, replicas: [{ connectionString: canary }] }, 'replicas[0].connectionString?sslmode'],
    ]
    for (const [options, path] of written) {
      const error = errorOf(options)
      expect(error.faults.map((fault) => fault.path)).toEqual([path])
      expect(error.faults[0]!.expected).toContain('verify-full')
      expect(error.message).not.toContain('canary')
    }
  })

  test('must fit with the `ssl` beside it, in whichever order they stand', () => {
    const connectionString = 'postgres://app@db/orders?sslmode=verify-full'
    const ssl = { rejectUnauthorized: false }
    for (const primary of [
      { connectionString, ssl },
      { ssl, connectionString },
    ]) {
      expect(faultsOf({ primary }).map((fault) => fault.path)).toEqual(['primary.connectionString?sslmode'])
    }
    expect(resolveConfig({ primary: { connectionString, ssl: { ca: '…' } } }).primary.target()).toBeDefined()
    // The option for all is no word about this node.
    expect(resolveConfig({ primary: connectionString, ssl }).primary.target()).toBe(connectionString)
  })

  test('is checked at the connect when a function gives the URL', async () => {
    const error = await Promise.resolve(resolveConfig({ primary: () => canary }).primary.target()).catch(
      (reason: unknown) => reason,
    )
    expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', faults: [{ path: 'primary()?sslmode' }] })
  })
})

describe('replicas', () => {
  test('have the names they were given, or replica-1, replica-2 … by their place', () => {
    const { replicas } = configWith({ replicas: [url, { name: 'eu-2', host: 'db' }, () => url, { host: 'db' }] })
    expect(replicas.map((replica) => replica.name)).toEqual(['replica-1', 'eu-2', 'replica-3', 'replica-4'])
  })

  test('hand on their coordinates without what is ours', async () => {
    const connect = vi.fn(() => url)
    const { replicas } = configWith({
      replicas: [
        { name: 'a', host: 'db', port: 5433 },
        { name: 'b', connect },
      ],
    })
    expect(replicas[0]!.target()).toEqual({ host: 'db', port: 5433 })
    expect(await replicas[1]!.target()).toBe(url)
    expect(connect).toHaveBeenCalledTimes(1)
  })

  test('may be none', () => {
    expect(configWith({ replicas: [] }).replicas).toEqual([])
    // One that is added while the dialect runs is read from.
    expect(configWith({ replicas: [] }).routing.readWriteSplit).toBe(true)
  })

  test('are read from unless the option says no', () => {
    expect(configWith({ replicas: [url] }).routing.readWriteSplit).toBe(true)
    expect(configWith({ replicas: [url], routing: { readWriteSplit: false } }).routing.readWriteSplit).toBe(false)
  })

  test.each([url, { 0: url }, null, 5, () => [url]])('must be an array, not %s', (replicas) => {
    expect(faultsWith({ replicas }).map((fault) => [fault.path, fault.expected])).toEqual([['replicas', 'an array']])
  })

  test.each([
    ['a hole', Array(1), 'replicas[0]'],
    ['nothing', [url, undefined], 'replicas[1]'],
    ['an empty object', [{}], 'replicas[0]'],
    ['a name alone', [{ name: 'eu-2' }], 'replicas[0]'],
    ['two addresses', [{ host: 'db', connect: () => url }], 'replicas[0].connect'],
    ['connect that is no function', [{ connect: url }], 'replicas[0].connect'],
    ['an array', [[url]], 'replicas[0]'],
    ['an option of another place', [{ host: 'db', pool: { max: 2 } }], 'replicas[0].pool'],
    ['a misspelt name', [{ host: 'db', nmae: 'x' }], 'replicas[0].nmae'],
  ])('must not hold %s', (_, replicas, path) => {
    expect(faultsWith({ replicas }).map((fault) => fault.path)).toEqual([path])
  })

  test('with a misspelt `name` or `connect` are answered with the right one', () => {
    expect(faultsWith({ replicas: [{ host: 'db', nmae: 'x' }] })[0]!.nearest).toBe('replicas[0].name')
    expect(faultsWith({ replicas: [{ host: 'db', conect: 'x' }] })[0]!.nearest).toBe('replicas[0].connect')
  })

  test.each(['', ' ', 'eu 2', '-a', '_a', '__proto__', 'ä', 'x'.repeat(64), 7, null, {}])(
    'must not be named %j',
    (name) => {
      expect(faultsWith({ replicas: [{ host: 'db', name }] }).map((fault) => fault.path)).toEqual(['replicas[0].name'])
    },
  )

  test.each(['primary', 'default'])('must not be named %s, which means something else', (name) => {
    expect(faultsWith({ replicas: [{ host: 'db', name }] })[0]).toMatchObject({ path: 'replicas[0].name' })
  })

  test('must not share a name', () => {
    const twice = faultsWith({
      replicas: [
        { host: 'a', name: 'eu' },
        { host: 'b', name: 'eu' },
      ],
    })
    expect(twice).toEqual([{ path: 'replicas[1].name', received: "'eu'", expected: 'a name that no other node has' }])
    expect(faultsWith({ replicas: [{ host: 'a', name: 'replica-2' }, url] })[0]).toMatchObject({ path: 'replicas[1]' })
  })
})

describe('the default name', () => {
  test.each([
    ['postgres://app@db/orders', 'orders'],
    ['postgres://app@db/best%20ellungen%C3%A4', 'best ellungenä'],
    ['postgres://app@db/orders?sslmode=require', 'orders'],
    ['postgres://app@db/', 'app'],
    ['postgres://a%40b@db', 'a@b'],
    ['postgres://db', 'postgres'],
    ['postgres://db?user=app', 'app'],
    ['socket:/var/run/postgresql?db=orders', 'orders'],
    ['/var/run/postgresql orders', 'orders'],
    ['/var/run/postgresql', 'postgres'],
    [{ database: 'orders', user: 'app' }, 'orders'],
    [{ user: 'app' }, 'app'],
    [{ connectionString: 'postgres://app@db/orders' }, 'orders'],
    [{ connectionString: 'postgres://app@db' }, 'app'],
    [{}, 'postgres'],
    [() => 'postgres://app@db/orders', 'postgres'],
  ])('of %s is %s', (primary, name) => {
    const config = resolveConfig({ primary })
    expect(config.name).toBe(name)
    expect(config.applicationName).toBe(`kysely-smart-pg:${name}`)
    const known = typeof primary !== 'function' && name !== 'postgres'
    if (known) expect(new Client(primary).database, 'the database that pg asks for').toBe(name)
  })

  test('is cut at 63 bytes, between characters, in application_name as well', () => {
    const config = resolveConfig(`postgres://db/${'ä'.repeat(40)}`)
    expect(config.name).toBe('ä'.repeat(31))
    expect(config.applicationName).toBe(`kysely-smart-pg:${'ä'.repeat(23)}`)
    expect(Buffer.byteLength(config.applicationName)).toBe(62)
  })

  test('gives way to a name of your own, and application_name follows', () => {
    expect(configWith({ name: 'shop' })).toMatchObject({ name: 'shop', applicationName: 'kysely-smart-pg:shop' })
    expect(configWith({ name: 'shop', applicationName: 'web' })).toMatchObject({ name: 'shop', applicationName: 'web' })
  })
})
