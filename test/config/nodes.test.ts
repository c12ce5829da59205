// Servers: given by role or as hosts, what may be said of each, and those that come later.

import { inspect } from 'node:util'
import { describe, expect, test, vi } from 'vitest'
import { ConfigError } from '../../src/core/errors.ts'
import type { ConfigFault } from '../../src/core/errors.ts'
import { resolveConfig, resolveReplica } from '../../src/config/resolve.ts'
import type { Config } from '../../src/config/options.ts'
import { configWith, errorOf, faultsOf, faultsWith, primary } from './support.ts'

const url = 'postgres://app:pw@db:5432/orders'
const namesOf = (config: Config) => [config.primary, ...config.replicas].map((node) => node.name)

describe('hosts', () => {
  test('are servers of which nobody has said which is the primary; the first stands for it', () => {
    const config = resolveConfig({ hosts: [url, { host: 'b' }, () => url] })
    expect(namesOf(config)).toEqual(['host-1', 'host-2', 'host-3'])
    expect(config.primary.target()).toBe(url)
    expect(config.replicas[0]!.target()).toEqual({ host: 'b' })
    expect(config.rolesUnknown).toBe(true)
  })

  test('leave the roles to be known where `primary` is given', () => {
    expect(configWith({}).rolesUnknown).toBe(false)
    expect(configWith({ replicas: [url] }).rolesUnknown).toBe(false)
  })

  test('have the names they were given, or host-1, host-2 … by their place', () => {
    expect(namesOf(resolveConfig({ hosts: [url, { name: 'eu-2', host: 'b' }, url] }))).toEqual([
      'host-1',
      'eu-2',
      'host-3',
    ])
  })

  test('may be one', () => {
    const config = resolveConfig({ hosts: [url] })
    expect(namesOf(config)).toEqual(['host-1'])
    expect(config.routing.readWriteSplit).toBe(true)
  })

  test('are read from, when there is more than one', () => {
    expect(resolveConfig({ hosts: [url, url] }).routing.readWriteSplit).toBe(true)
    expect(resolveConfig({ hosts: [url, url], routing: { readWriteSplit: false } }).routing.readWriteSplit).toBe(false)
  })

  test('give the dialect its name by the database of the first', () => {
    expect(resolveConfig({ hosts: [url, 'postgres://db/other'] }).name).toBe('orders')
  })

  test('may stand beside a primary that is undefined', () => {
    expect(namesOf(resolveConfig({ primary: undefined, replicas: undefined, hosts: [url] }))).toEqual(['host-1'])
  })

  test.each([
    [{ primary: url }, '`primary`'],
    [{ replicas: [url] }, '`replicas`'],
    [{ primary: url, replicas: [] }, '`primary` and `replicas`'],
    [{ primary: 'nonsense', replicas: 'nonsense' }, '`primary` and `replicas`'],
  ])('beside %j are one fault that says which to drop', (options, others) => {
    const [fault, ...rest] = faultsOf({ ...options, hosts: [url], pool: { max: { 'host-1': 5, primary: 5 } } })
    expect(fault).toEqual({
      path: 'hosts',
      received: `a value beside ${others}`,
      expected: `\`hosts\` alone, with every server in it: drop ${others}; or drop \`hosts\` where roles are known`,
    })
    expect(rest).toEqual([])
    expect(faultsOf({ ...options, hosts: [] })).toEqual([fault])
  })

  test('and `primary` both missing are one fault that names both', () => {
    for (const options of [{}, { replicas: [url] }, { primary: undefined }, { hosts: undefined }]) {
      const faults = faultsOf(options)
      expect(faults.map((fault) => [fault.path, fault.received])).toEqual([['primary', 'nothing']])
      expect(faults[0]!.expected).toMatch(/^a postgres:\/\/ .* or `hosts` instead, an array of servers/)
    }
  })

  test.each([
    [[], 'an empty array'],
    [url, 'text'],
    [{ 0: url }, 'an object'],
    [null, 'null'],
    [() => [url], 'a function'],
  ])('must not be %j', (hosts, received) => {
    expect(faultsOf({ hosts, pool: { max: { 'host-1': 5 } } })).toEqual([
      { path: 'hosts', received, expected: 'an array of one server or more' },
    ])
  })

  test.each([
    ['a hole', Array(1), 'hosts[0]'],
    ['nothing', [url, undefined], 'hosts[1]'],
    ['an address that is none', [url, 'db-2'], 'hosts[1]'],
    ['an object without an address', [{ zone: 'a', tags: ['x'] }], 'hosts[0]'],
    ['a misspelt coordinate', [{ hots: 'db' }], 'hosts[0].hots'],
  ])('must not hold %s', (_, hosts, path) => {
    expect(faultsOf({ hosts }).map((fault) => fault.path)).toEqual([path])
  })

  test.each(['primary', 'default', 'host-1'])('must not be named %s, which means something else', (name) => {
    expect(faultsOf({ hosts: [url, { host: 'b', name }] })).toEqual([
      { path: 'hosts[1].name', received: `'${name}'`, expected: 'a name that no other node has' },
    ])
  })

  test('may all be at one address, which may be a balancer', () => {
    const config = resolveConfig({ hosts: [url, url, { connectionString: url }] })
    expect(namesOf(config)).toHaveLength(3)
    expect(resolveConfig({ primary: url, replicas: [url, url] }).replicas).toHaveLength(2)
  })

  test('have pools of their own by these names, and by no other', () => {
    const hosts = [url, { host: 'b', name: 'eu-2' }]
    const config = resolveConfig({ hosts, pool: { max: { default: 20, 'host-1': 5, 'eu-2': 7 } } })
    expect([config.primary, ...config.replicas].map((node) => node.pool.max)).toEqual([5, 7])
    expect(faultsOf({ hosts, pool: { max: { primary: 5 }, min: { 'host-3': 1 } } })).toMatchObject([
      { path: 'pool.max.primary', expected: "the name of a node (host-1, eu-2) or 'default'" },
      { path: "pool.min['host-3']", nearest: 'host-1' },
    ])
    expect(faultsOf({ hosts, pool: { min: 5, max: { 'eu-2': 3 } } }).map((fault) => fault.path)).toEqual(['pool.min'])
  })

  test('show no password in the Config', () => {
    const config = resolveConfig({ hosts: [url, { host: 'b', password: 'pw', zone: 'a' }] })
    expect(inspect(config, { depth: 10, showHidden: true, getters: true })).not.toMatch(/app:pw|'pw'/)
    expect(JSON.stringify(config)).not.toMatch(/app:pw|"pw"/)
  })
})

/** As a replica and as a host: the same is right of both. */
const asked: [string, (server: object) => { node: () => unknown; faults: () => readonly ConfigFault[]; at: string }][] =
  [
    [
      'replica',
      (server) => ({
        node: () => configWith({ replicas: [server] }).replicas[0]!.traits,
        faults: () => faultsWith({ replicas: [server] }),
        at: 'replicas[0]',
      }),
    ],
    [
      'host',
      (server) => ({
        node: () => resolveConfig({ hosts: [server] }).primary.traits,
        faults: () => faultsOf({ hosts: [server] }),
        at: 'hosts[0]',
      }),
    ],
    [
      'replica that is added',
      (server) => ({
        node: () => resolveReplica(server, [], configWith({})).traits,
        faults: () => faultsOfAdded(server),
        at: 'addReplica(replica)',
      }),
    ],
  ]

function faultsOfAdded(given: unknown, taken: readonly string[] = ['primary'], config = configWith({})) {
  try {
    resolveReplica(given, taken, config)
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
  throw new Error('this server was accepted')
}

const unsaid = { zone: undefined, weight: 1, priority: 1, tags: [] }

describe.each(asked)('of a %s', (_, ask) => {
  const said = (traits: object) => ask({ host: 'db', ...traits })

  test('nothing need be said', () => {
    expect(said({}).node()).toEqual(unsaid)
    expect(said({ zone: undefined, weight: undefined, priority: undefined, tags: undefined }).node()).toEqual(unsaid)
  })

  test.each([
    { zone: 'eu-west-1b' },
    { zone: 'Z' },
    { zone: 'ä'.repeat(31) },
    { weight: 0.001 },
    { weight: 1000 },
    { weight: 2.5 },
    { priority: 1 },
    { priority: 100 },
    { tags: [] },
    { tags: ['reports', 'role=batch', 'x'.repeat(63)] },
    { tags: Array.from({ length: 32 }, (_item, index) => `tag-${index}`) },
    { zone: 'a', weight: 2, priority: 2, tags: ['x'] },
  ])('%j may be said', (traits) => {
    expect(said(traits).node()).toEqual({ ...unsaid, ...traits })
  })

  test.each<[string, unknown, string?]>([
    ['zone', ''],
    ['zone', ' '],
    ['zone', 'x'.repeat(64)],
    ['zone', 'ä'.repeat(32)],
    ['zone', 'postgres://db'],
    ['zone', 1],
    ['zone', null],
    ['zone', ['a']],
    ['weight', 0],
    ['weight', -1],
    ['weight', 1000.1],
    ['weight', Infinity],
    ['weight', NaN],
    ['weight', '2'],
    ['weight', null],
    ['weight', true],
    ['priority', 0],
    ['priority', 101],
    ['priority', 1.5],
    ['priority', NaN],
    ['priority', '1'],
    ['priority', null],
    ['tags', 'reports'],
    ['tags', null],
    ['tags', { reports: true }],
    ['tags', new Set(['reports'])],
    ['tags', Array.from({ length: 33 }, (_item, index) => `tag-${index}`)],
    ['tags', ['a', 'b', 'a'], '[2]'],
    ['tags', ['a', ''], '[1]'],
    ['tags', ['a', 7], '[1]'],
    ['tags', [null], '[0]'],
    ['tags', Array(1), '[0]'],
    ['tags', ['x'.repeat(64)], '[0]'],
  ])('%s %j must not be said', (trait, value, place = '') => {
    const asking = said({ [trait]: value })
    expect(asking.faults().map((fault) => fault.path)).toEqual([`${asking.at}.${trait}${place}`])
  })

  test('all that is wrong is told at once, with what was received', () => {
    const asking = said({ zone: 'a\0', weight: -2, priority: 0, tags: 'x', port: 0, name: 'default' })
    expect(asking.faults().map((fault) => [fault.path.slice(asking.at.length), fault.received])).toEqual([
      ['.name', "'default'"],
      ['.zone', 'text of 2 characters'],
      ['.weight', '-2'],
      ['.priority', '0'],
      ['.tags', 'text'],
      ['.port', '0'],
    ])
  })

  test.each([
    ['zon', 'zone'],
    ['wieght', 'weight'],
    ['Priority', 'priority'],
    ['tag', 'tags'],
    ['nmae', 'name'],
    ['conect', 'connect'],
    ['databse', 'database'],
  ])('%s is answered with %s', (misspelt, nearest) => {
    const asking = said({ [misspelt]: 1 })
    expect(asking.faults()).toMatchObject([
      { path: `${asking.at}.${misspelt}`, nearest: `${asking.at}.${nearest}`, received: 'a number' },
    ])
  })
})

describe('what is said of a server beside its address', () => {
  const traits = { zone: 'a', weight: 2, priority: 3, tags: ['x'] }

  test('never reaches pg', async () => {
    const connect = vi.fn(() => ({ host: 'db' }))
    const servers = [
      { name: 'one', host: 'db', ...traits },
      { name: 'two', connect, ...traits },
    ]
    for (const { replicas } of [configWith({ replicas: servers }), resolveConfig({ hosts: [url, ...servers] })]) {
      expect(replicas.map((node) => node.traits)).toEqual([traits, traits])
      for (const node of replicas) expect(await node.target()).toEqual({ host: 'db' })
    }
    for (const server of servers) {
      expect(await resolveReplica(server, [], configWith({})).target()).toEqual({ host: 'db' })
    }
  })

  test('is no word for the primary, which takes writes wherever it stands', () => {
    expect(configWith({}).primary.traits).toEqual(unsaid)
    expect(faultsOf({ primary: { host: 'db', zone: 'a' } }).map((fault) => fault.path)).toEqual(['primary.zone'])
  })

  test('is frozen, and what the caller does to his own afterwards changes nothing', () => {
    const tags = ['x']
    const { traits: kept } = configWith({ replicas: [{ host: 'db', tags }] }).replicas[0]!
    tags.push('y')
    expect(kept.tags).toEqual(['x'])
    expect([kept, kept.tags, configWith({}).primary.traits].every(Object.isFrozen)).toBe(true)
  })

  test('is no word for what a function returns: it may change at each connect', async () => {
    const { target } = configWith({ replicas: [() => ({ host: 'db', weight: 2 })] }).replicas[0]!
    await expect(Promise.resolve(target())).rejects.toMatchObject({ faults: [{ path: 'replicas[0]().weight' }] })
  })
})

describe('a server that is added', () => {
  const pool = { max: { default: 20, 'replica-1': 7 }, min: 3, acquireTimeout: '3s' } as const
  const config = configWith({ replicas: [url], pool })

  test('may be a URL, an object or a function, as those there are', async () => {
    expect(resolveReplica(url, ['primary'], config).target()).toBe(url)
    expect(resolveReplica({ host: 'b' }, ['primary'], config).target()).toEqual({ host: 'b' })
    expect(await resolveReplica(async () => url, ['primary'], config).target()).toBe(url)
    expect(await resolveReplica({ connect: async () => url }, ['primary'], config).target()).toBe(url)
  })

  test('has the name it was given, or the first number that nobody has', () => {
    const nameOf = (given: unknown, ...taken: string[]) => resolveReplica(given, ['primary', ...taken], config).name
    expect(nameOf({ host: 'b', name: 'eu-2' }, 'replica-1')).toBe('eu-2')
    expect(nameOf(url)).toBe('replica-1')
    expect(nameOf(url, 'replica-1', 'replica-3')).toBe('replica-2')
    expect(nameOf({ host: 'b' }, 'replica-2', 'replica-1')).toBe('replica-3')
  })

  test('is a host among hosts', () => {
    const hosts = resolveConfig({ hosts: [url, url] })
    expect(resolveReplica(url, ['host-1', 'host-2'], hosts).name).toBe('host-3')
  })

  test.each(['primary', 'default', 'eu-1', ''])('must not be named %j', (name) => {
    expect(faultsOfAdded({ host: 'b', name }, ['eu-1']).map((fault) => fault.path)).toEqual([
      'addReplica(replica).name',
    ])
  })

  test('has the pool of its name, when it has one, and else that of all who are not named', () => {
    expect(resolveReplica({ host: 'b', name: 'replica-1' }, [], config).pool).toBe(config.replicas[0]!.pool)
    expect(resolveReplica({ host: 'b', name: 'eu-2' }, [], config).pool).toMatchObject({
      min: 3,
      max: 20,
      acquireTimeoutMs: 3000,
    })
    const staging = configWith({ preset: 'staging', pool: { max: { primary: 5 } } })
    expect(resolveReplica(url, [], staging).pool.max).toBe(20)
  })

  test.each([
    [undefined, '', 'nothing'],
    [null, '', 'null'],
    ['mysql://app:canary@db', '', 'a URL of scheme mysql'],
    [['canary'], '', 'an array'],
    [{}, '', 'an object without an address'],
    [{ host: 'db', password: ['canary'] }, '.password', 'an array'],
    [{ host: 'db', connect: () => url }, '.connect', 'a function beside coordinates'],
    ['postgres://app@db/orders?sslmode=canary', '?sslmode', expect.any(String)],
  ])('must not be %j, and nothing of it is shown', (given, place, received) => {
    const faults = faultsOfAdded(given)
    expect(faults).toMatchObject([{ path: `addReplica(replica)${place}`, received }])
    expect(JSON.stringify(faults)).not.toContain('canary')
  })

  test('whose function returns nonsense fails that connect', async () => {
    const { target } = resolveReplica(() => ({ hots: 'db' }), [], config)
    await expect(Promise.resolve(target())).rejects.toMatchObject({
      faults: [{ path: 'addReplica(replica)().hots', nearest: 'addReplica(replica)().host' }],
    })
  })

  test('is frozen and shows no password', () => {
    const node = resolveReplica(url, [], config)
    expect([node, node.target, node.pool, node.traits].every(Object.isFrozen)).toBe(true)
    expect(inspect(node, { depth: 10, showHidden: true })).not.toContain('app:pw')
    expect(errorOf({ primary, replicas: [{ host: 'b', zone: url }] }).message).not.toContain('app:pw')
  })
})
