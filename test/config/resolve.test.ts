// Options as a whole: all faults at once, presets and layers, values per node, secrets, and that nothing a user
// hands in can do more than be refused.

import { inspect } from 'node:util'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ConfigError, isSmartPgError } from '../../src/core/errors.ts'
import type { Preset } from '../../src/config/options.ts'
import { breakerPresets, presets } from '../../src/config/presets.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import { optionPaths } from '../../src/config/rules.ts'
import { at, configWith, errorOf, faultsOf, faultsWith, primary } from './support.ts'

describe('options that cannot be used', () => {
  test('are reported all at once, each with path, received, expected and the nearest name', () => {
    const error = errorOf({
      primari: primary,
      replicas: 'postgres://app@replica/orders',
      pool: { maxx: 5, min: -1, acquireTimeout: 'soon', minIdle: 51 },
      routing: { maxLag: { byts: 1 } },
      queryTimeout: NaN,
    })
    expect(error.faults.map((fault) => [fault.path, fault.received, fault.nearest])).toEqual([
      ['primari', 'text', 'primary'],
      ['pool.maxx', 'a number', 'pool.max'],
      ['routing.maxLag.byts', 'a number', 'routing.maxLag.bytes'],
      ['primary', 'nothing', undefined],
      ['replicas', 'text', undefined],
      ['pool.min', '-1', undefined],
      ['pool.acquireTimeout', "'soon'", undefined],
      ['queryTimeout', 'NaN', undefined],
      ['pool.minIdle', '51', undefined],
    ])
    for (const { path, expected } of error.faults) expect(error.message).toContain(`${path}: expected ${expected}`)
    expect(error.message).toContain('9 options cannot be used')
  })

  test('make one ConfigError that is not to be retried', () => {
    const error = errorOf({})
    expect(isSmartPgError(error, 'SMARTPG_CONFIG')).toBe(true)
    expect(error.retryable).toBe(false)
    expect(error.phase).toBe('config')
  })

  test.each([undefined, null, 5, true, [], ['postgres://db'], () => 'postgres://db'])(
    'are refused as %s',
    (options) => {
      const [fault, ...rest] = faultsOf(options)
      expect(fault).toMatchObject({ path: 'options', expected: 'an object of options or a connection string' })
      expect(rest).toEqual([])
    },
  )

  test.each([
    ['poool', {}, 'pool'],
    ['query_timeout', 1, 'queryTimeout'],
    ['aplicationName', 'x', 'applicationName'],
    ['max', 10, 'pool.max'],
    ['idleTimeout', '10s', 'pool.idleTimeout'],
    ['registry', {}, 'metrics.registry'],
    ['pool.max', 10, undefined],
    ['shard', {}, undefined],
    ['toString', 1, undefined],
  ])('%s is no option', (key, value, nearest) => {
    const [fault, ...rest] = faultsWith({ [key]: value })
    expect(fault).toMatchObject({ received: typeof value === 'object' ? 'an object' : expect.any(String) })
    expect(fault!.nearest).toBe(nearest)
    expect(rest).toEqual([])
  })

  test('are unknown even when their value is undefined: it was meant to be one', () => {
    expect(faultsWith({ pool: { maxx: undefined } })[0]).toMatchObject({ path: 'pool.maxx', received: 'nothing' })
  })

  test('are asked for each property once, and a getter that throws is a fault', () => {
    let asked = 0
    const options = {
      primary,
      get queryTimeout() {
        return asked++ === 0 ? '1s' : 'something else'
      },
    }
    expect(resolveConfig(options).queryTimeoutMs).toBe(1000)
    const broken = {
      primary,
      get name(): string {
        throw new Error('no')
      },
    }
    expect(faultsOf(broken)).toMatchObject([{ path: 'name', received: 'a property that cannot be read' }])
  })
})

describe('a number that must not exceed another', () => {
  test.each([
    [{ pool: { min: 6, max: 5 } }, 'pool.min', '6', 'at most pool.max (5)'],
    [{ pool: { initial: 6, max: 5 } }, 'pool.initial', '6', 'at most pool.max (5)'],
    [{ pool: { minIdle: 6, max: 5 } }, 'pool.minIdle', '6', 'at most pool.max (5)'],
    [{ pool: { min: 60 } }, 'pool.min', '60', 'at most pool.max (50)'],
    [{ pool: { min: 3 }, preset: 'serverless' }, 'pool.min', '3', 'at most pool.max (2)'],
    [{ retry: { base: '3s', max: '2s' } }, 'retry.base', '3s', 'at most retry.max (2s)'],
    [{ retry: { base: '3s' } }, 'retry.base', '3s', 'at most retry.max (2s)'],
    [
      { breaker: { recoveryTimeout: { min: '2min' } } },
      'breaker.recoveryTimeout.min',
      '2min',
      'at most breaker.recoveryTimeout.max (1min)',
    ],
  ])('is refused when it does: %j', (options, path, received, expected) => {
    expect(faultsWith(options)).toEqual([{ path, received, expected }])
  })

  test('may equal it', () => {
    expect(configWith({ pool: { min: 5, initial: 5, minIdle: 5, max: 5 } }).primary.pool).toMatchObject({
      min: 5,
      initial: 5,
      minIdle: 5,
      max: 5,
    })
  })

  test('is not compared with one that was refused itself', () => {
    expect(faultsWith({ pool: { min: 60, max: 'many' } }).map((fault) => fault.path)).toEqual(['pool.max'])
  })

  test('gives way when it is only a default', () => {
    expect(configWith({ pool: { max: 1 } }).primary.pool).toMatchObject({ min: 1, initial: 1, minIdle: 1, max: 1 })
    expect(configWith({ retry: { max: 10 } }).retry).toMatchObject({ baseMs: 10, maxMs: 10 })
    expect(configWith({ breaker: { recoveryTimeout: { max: 500 } } }).breaker).toMatchObject({
      recoveryMinMs: 500,
      recoveryMaxMs: 500,
    })
  })
})

describe("writes behind each other with `wire: 'pg'`", () => {
  test('are refused, because pg waits for each answer', () => {
    expect(faultsWith({ wire: 'pg', pool: { pipelineWrites: true } })).toEqual([
      { path: 'pool.pipelineWrites', received: 'true', expected: "false, or `wire: 'native'`" },
    ])
  })

  test('may be said to be off, and may be on with the other wire, named or not', () => {
    expect(configWith({ wire: 'pg', pool: { pipelineWrites: false } }).primary.pool.pipelineWrites).toBe(false)
    expect(configWith({ wire: 'native', pool: { pipelineWrites: true } }).primary.pool.pipelineWrites).toBe(true)
    expect(configWith({ pool: { pipelineWrites: true } }).primary.pool.pipelineWrites).toBe(true)
  })

  test('are no second fault when one of the two cannot be read itself', () => {
    expect(faultsWith({ wire: 'own', pool: { pipelineWrites: true } }).map((fault) => fault.path)).toEqual(['wire'])
    expect(faultsWith({ wire: 'pg', pool: { pipelineWrites: 'yes' } }).map((fault) => fault.path)).toEqual([
      'pool.pipelineWrites',
    ])
  })
})

describe('a function that is said to write and to read only', () => {
  test('is one fault, in the list that came second', () => {
    const functions = { readOnly: ['price', 'app.audit'], writing: ['log', 'app.audit'] }
    expect(faultsWith({ routing: { functions } })).toEqual([
      {
        path: 'routing.functions.writing[1]',
        received: "'app.audit'",
        expected: 'a name that does not stand in `readOnly`, too',
      },
    ])
  })

  test('is another one when the schema is another, or only one of the two has any', () => {
    const functions = { readOnly: ['audit', 'app.log'], writing: ['app.audit', 'ops.log'] }
    expect(configWith({ routing: { functions } }).routing.functions).toEqual(functions)
  })

  test('is no second fault when one list cannot be read itself', () => {
    const functions = { readOnly: ['price', ''], writing: ['price'] }
    expect(faultsWith({ routing: { functions } }).map((fault) => fault.path)).toEqual(['routing.functions.readOnly[1]'])
  })
})

describe('the reads that may fall back to the primary at once', () => {
  test('are as many as it has connections', () => {
    expect(configWith({ preset: 'serverless' }).routing.fallbackLimit).toBe(2)
    expect(configWith({ pool: { max: { primary: 7, default: 3 } } }).routing.fallbackLimit).toBe(7)
    expect(resolveConfig({ hosts: [primary, primary], pool: { max: { 'host-1': 9 } } }).routing.fallbackLimit).toBe(9)
  })

  test('are what the option says, which may be more', () => {
    expect(configWith({ pool: { max: 5 }, routing: { fallbackLimit: 80 } }).routing.fallbackLimit).toBe(80)
  })
})

describe('a value per node', () => {
  const replicas = [primary, { host: 'db', name: 'eu-2' }]

  test('goes to the node of that name, and `default` to the rest', () => {
    const config = configWith({ replicas, pool: { max: { default: 20, primary: 50, 'eu-2': 10 } } })
    expect([config.primary, ...config.replicas].map((node) => [node.name, node.pool.max])).toEqual([
      ['primary', 50],
      ['replica-1', 20],
      ['eu-2', 10],
    ])
  })

  test('leaves the others at the preset when there is no `default`', () => {
    const config = configWith({ replicas, preset: 'staging', pool: { max: { 'eu-2': 10 } } })
    expect([config.primary, ...config.replicas].map((node) => node.pool.max)).toEqual([20, 20, 10])
  })

  test('for a node that does not exist is refused with the nearest name', () => {
    expect(faultsWith({ replicas, pool: { max: { 'eu-3': 10, primry: 1, defualt: 2 } } })).toMatchObject([
      {
        path: "pool.max['eu-3']",
        nearest: 'eu-2',
        expected: "the name of a node (primary, replica-1, eu-2) or 'default'",
      },
      { path: 'pool.max.primry', nearest: 'primary' },
      { path: 'pool.max.defualt', nearest: 'default' },
    ])
  })

  test('is checked as the option is', () => {
    expect(faultsWith({ pool: { max: { primary: 0, default: '5' } } }).map((fault) => fault.path)).toEqual([
      'pool.max.primary',
      'pool.max.default',
    ])
  })

  test('is compared with the bound of the same node', () => {
    expect(faultsWith({ replicas, pool: { min: 5, max: { default: 20, 'eu-2': 3 } } })).toEqual([
      { path: 'pool.min', received: '5', expected: 'at most pool.max (3)' },
    ])
    expect(faultsWith({ replicas, pool: { min: { 'eu-2': 5 }, max: { default: 20, 'eu-2': 3 } } })).toEqual([
      { path: "pool.min['eu-2']", received: '5', expected: 'at most pool.max (3)' },
    ])
    const { replicas: nodes } = configWith({ replicas, pool: { min: { 'eu-2': 15 }, max: { default: 3, 'eu-2': 20 } } })
    expect(nodes.map((node) => node.pool.min)).toEqual([1, 15])
  })

  test('that is one mistake on several nodes is one fault', () => {
    expect(faultsWith({ replicas, pool: { min: 5, max: { default: 3 } } }).map((fault) => fault.path)).toEqual([
      'pool.min',
    ])
  })

  test('is no second fault when the replicas themselves cannot be read', () => {
    expect(faultsWith({ replicas: 'x', pool: { max: { 'eu-2': 10 } } }).map((fault) => fault.path)).toEqual([
      'replicas',
    ])
  })

  test('is right for pool sizes alone', () => {
    expect(faultsWith({ pool: { maxWaiting: { default: 5 } } })).toMatchObject([{ path: 'pool.maxWaiting' }])
  })
})

const poolOf = (preset: Preset) => configWith({ preset }).primary.pool

describe('presets', () => {
  test('change what they say and nothing else; production changes nothing', () => {
    const { pool: production } = configWith({}).primary
    expect(poolOf('production')).toEqual(production)
    expect(poolOf('staging')).toEqual({ ...production, max: 20 })
    expect(poolOf('development')).toEqual({
      ...production,
      min: 0,
      initial: 1,
      max: 5,
      minIdle: 0,
      acquireTimeoutMs: 5000,
      connectTimeoutMs: 5000,
      leakDetectionMs: 60_000,
    })
    expect(poolOf('serverless')).toEqual({
      ...production,
      min: 0,
      initial: 0,
      max: 2,
      minIdle: 0,
      idleTimeoutMs: 30_000,
      keepaliveMs: 0,
    })
  })

  test('shorten the query timeout in development only', () => {
    const timeouts = (Object.keys(presets) as Preset[]).map((preset) => configWith({ preset }).queryTimeoutMs)
    expect(timeouts).toEqual([10_000, 30_000, 30_000, 30_000])
  })

  test.each(Object.entries(presets))('%s is what a user could have written', (_, patch) => {
    expect(() => configWith(patch)).not.toThrow()
  })

  test('are overridden by own options, and by them alone', () => {
    const { pool } = configWith({ preset: 'development', pool: { max: 9 } }).primary
    expect(pool).toMatchObject({ max: 9, acquireTimeoutMs: 5000 })
  })

  test('of the breaker are those of its options', () => {
    for (const [name, options] of Object.entries(breakerPresets)) {
      expect(configWith({ breaker: name }).breaker).toEqual(configWith({ breaker: options }).breaker)
    }
  })
})

describe('a secret', () => {
  const canary = 'hunter2-canary'
  const secretive = {
    primary: `postgres://${canary}-user:${canary}@db/orders?password=${canary}`,
    replicas: [
      { host: 'db', password: canary, ssl: { key: canary } },
      { connectionString: `postgres://app:${canary}@db/orders` },
      { name: 'asked', connect: () => canary },
      `/var/run/${canary}`,
    ],
    ssl: { key: canary, passphrase: canary, ca: [canary] },
  }

  test('cannot be seen in the Config by inspection or JSON', () => {
    const config = resolveConfig(secretive)
    expect(inspect(config, { depth: 10, showHidden: true })).not.toContain(canary)
    expect(inspect(config, { depth: 10, showHidden: true, getters: true })).not.toContain(canary)
    expect(inspect({ ...config }, { depth: 10, showHidden: true })).not.toContain(canary)
    expect(JSON.stringify(config)).not.toContain(canary)
  })

  test('is there for whoever connects', () => {
    const config = resolveConfig(secretive)
    expect(config.primary.target()).toBe(secretive.primary)
    expect(config.replicas[0]!.target()).toEqual(secretive.replicas[0])
    expect({ ...(config.ssl as object) }).toEqual(secretive.ssl)
  })

  test.each([
    ['a URL of another database', { primary: `mysql://app:${canary}@db/orders` }],
    ['a URL that cannot be read', { primary: `postgres://app:${canary}#@db/orders` }],
    ['a URL in an array', { primary: [`postgres://app:${canary}@db/orders`] }],
    ['a URL as options', [`postgres://app:${canary}@db/orders`]],
    ['a bare string that is no URL', `app:${canary}@db/orders`],
    ['a URL as name', { primary, name: `postgres://app:${canary}@db` }],
    ['a URL as replicas', { primary, replicas: `postgres://app:${canary}@db/orders` }],
    ['a URL as section', { primary, pool: `postgres://app:${canary}@db/orders` }],
    ['a URL as preset', { primary, preset: `postgres://app:${canary}@db/orders` }],
    ['a URL as key', { primary, [`postgres://app:${canary}@db/orders`]: 1 }],
    ['a URL as node name', { primary, pool: { max: { [`postgres://app:${canary}@db`]: 1 } } }],
    ['a URL as setting', { primary, session: { settings: { [`postgres://app:${canary}@db`]: 1 } } }],
    ['an unknown option', { primary, password: canary }],
    ['an unknown coordinate', { primary: { passwd: canary } }],
    ['a password of the wrong type', { primary: { password: [canary] } }],
    ['a key as ssl', { primary, ssl: canary }],
    ['a host beside a port', { primary: { host: '', user: canary, password: canary, port: 0 } }],
    ['SQL that cannot be sent', { primary, session: { init: `SELECT '${canary}'\0` } }],
    ['a text never to be named that is none', { primary, statements: { never: [`SELECT '${canary}'\0`] } }],
    ['a RegExp with state', { primary, statements: { never: [new RegExp(canary, 'g')] } }],
    ['a setting that cannot be sent', { primary, session: { settings: { 'app.key': [canary] } } }],
    ['a URL as zone', { primary, routing: { zone: `postgres://app:${canary}@db` } }],
    ['a URL as a function name', { primary, routing: { functions: { writing: [`postgres://app:${canary}@db`] } } }],
    ['a URL as strategy', { primary, routing: { strategy: `postgres://app:${canary}@db` } }],
    ['a URL as zone of a replica', { primary, replicas: [{ host: 'db', zone: `postgres://app:${canary}@db` }] }],
    ['a URL as tag', { primary, replicas: [{ host: 'db', tags: [`postgres://app:${canary}@db`] }] }],
    ['a URL as tags', { primary, replicas: [{ host: 'db', tags: `postgres://app:${canary}@db` }] }],
    ['a URL as hosts', { hosts: `postgres://app:${canary}@db/orders` }],
    ['a URL as a host that cannot be read', { hosts: [`postgres://app:${canary}#@db/orders`] }],
    ['URLs as hosts beside others', { primary: `postgres://app:${canary}@db`, hosts: [`postgres://x:${canary}@db`] }],
    ['a key in PEM as name', { primary, name: `-----BEGIN PRIVATE KEY-----\n${canary}\n${'x'.repeat(60)}` }],
  ])('stays out of the error for %s', (_, options) => {
    const error = errorOf(options)
    expect(inspect(error, { depth: 10, showHidden: true })).not.toContain(canary)
    expect(JSON.stringify([error.message, error.faults])).not.toContain(canary)
  })

  test('that is a number stays out as well', () => {
    expect(errorOf({ primary: { password: 271828 } }).message).not.toContain('271828')
    expect(errorOf({ primary, passwort: 271828 }).message).not.toContain('271828')
  })
})

describe('the Config', () => {
  const foreign = new Set([
    'types',
    'logger',
    'registry',
    'init',
    'lookup',
    'onCreateConnection',
    'onReserveConnection',
    'ssl',
  ])

  function unfrozen(value: unknown, path: string): string[] {
    if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return []
    const inner = Object.entries(value)
      .filter(([key]) => !foreign.has(key))
      .flatMap(([key, held]) => unfrozen(held, `${path}.${key}`))
    return Object.isFrozen(value) ? inner : [path, ...inner]
  }

  test('is frozen to its last object', () => {
    const config = configWith({
      replicas: [primary, () => primary, { host: 'db', tags: ['a'] }],
      routing: { functions: { readOnly: ['price'] } },
      session: { settings: { search_path: 'app' } },
      statements: { never: ['select 1', /a/] },
      breaker: 'tolerant',
      metrics: {},
    })
    expect(unfrozen(config, 'config')).toEqual([])
  })

  test('leaves what belongs to the user unfrozen and as it was', () => {
    const logger = { debug() {}, info() {}, warn() {}, error() {} }
    const types = { getTypeParser: () => String }
    const config = configWith({ logger, types })
    expect(config.logger).toBe(logger)
    expect(config.types).toBe(types)
    expect(Object.isFrozen(logger) || Object.isFrozen(types)).toBe(false)
  })

  test('gives TLS options out as copies, because pg writes into them', () => {
    const config = configWith({ ssl: { ca: 'one' } })
    Object.assign(config.ssl as object, { ca: 'two' })
    expect(config.ssl).toEqual({ ca: 'one' })
  })

  test('has nothing undefined about a pool', () => {
    const { lanes, pipelineWrites, ...numbers } = configWith({}).primary.pool
    expect([lanes, pipelineWrites]).toEqual([true, false])
    expect(Object.keys(numbers)).toHaveLength(12)
    for (const [name, value] of Object.entries(numbers)) expect(value, name).toBeTypeOf('number')
  })

  test('keeps texts and RegExps of its own, so that nobody can change them afterwards', () => {
    const never: (string | RegExp)[] = ['select 1', /a/]
    const { statements } = configWith({ statements: { never } })
    never.push(/b/)
    ;(never[1] as RegExp).compile('c')
    expect(statements.never).toEqual(['select 1', /a/])
    expect((statements.never[1] as RegExp).test('select a')).toBe(true)
  })

  test('of a bare connection string is that of `primary` alone', () => {
    expect(JSON.stringify(resolveConfig(primary))).toBe(JSON.stringify(resolveConfig({ primary })))
  })
})

describe('a key that would reach a prototype', () => {
  test.each(['{"__proto__":{"polluted":1}}', '{"constructor":{"prototype":{"polluted":1}}}', '{"prototype":1}'])(
    'is an unknown option: %s',
    (json) => {
      const hostile = JSON.parse(json) as Record<string, unknown>
      const [key] = Object.keys(hostile)
      expect(faultsOf({ ...(JSON.parse(`{"primary":"${primary}"}`) as object), pool: hostile })).toMatchObject([
        { path: `pool.${key}`, expected: 'a known option' },
      ])
      const top = JSON.parse(`{"primary":"${primary}",${json.slice(1)}`) as object
      expect(faultsOf(top)).toMatchObject([{ path: key, expected: 'a known option' }])
      for (const path of ['pool.max', 'session.settings', 'ssl', 'primary', 'breaker', 'routing.maxLag']) {
        expect(faultsWith(at(path, hostile))).toMatchObject([{ path: `${path}.${key}` }])
      }
      expect(({} as Record<string, unknown>).polluted).toBeUndefined()
    },
  )

  test('is not read through the prototype of the options', () => {
    expect(configWith(Object.create({ queryTimeout: 1 }) as object).queryTimeoutMs).toBe(30_000)
  })
})

function outcome(options: unknown): 'resolved' | 'refused' {
  const before = Reflect.ownKeys(Object.prototype)
  try {
    resolveConfig(options)
    return 'resolved'
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    expect((error as ConfigError).faults.length).toBeGreaterThan(0)
    return 'refused'
  } finally {
    expect(Reflect.ownKeys(Object.prototype)).toEqual(before)
  }
}

function merged(into: object, from: object): object {
  const result: Record<string, unknown> = { ...into }
  for (const [key, value] of Object.entries(from)) {
    const held = result[key]
    const both = [held, value].every((side) => typeof side === 'object' && side !== null && !Array.isArray(side))
    result[key] = both ? merged(held as object, value as object) : value
  }
  return result
}

describe('whatever is handed in', () => {
  const json = fc.jsonValue({ maxDepth: 4 })
  const leaf = fc.oneof(
    json,
    fc.constantFrom(primary, '1s', 'default', 'primary', 0, 1, 5, NaN, undefined, () => primary, {}, []),
    fc.dictionary(fc.constantFrom('default', 'primary', 'replica-1', '__proto__', 'constructor', 'x'), json),
  )
  /** Options with right names and any values, which reach further than any JSON. */
  const nearlyRight = fc
    .array(fc.tuple(fc.constantFrom(...optionPaths), leaf), { maxLength: 6 })
    .map((pairs) => pairs.reduce((options, [path, value]) => merged(options, at(path, value)), { primary } as object))

  test('resolves or is refused by a ConfigError, and no prototype is touched', () => {
    fc.assert(
      fc.property(
        fc.oneof(json, fc.anything({ withBigInt: true, withMap: true, withNullPrototype: true })),
        (value) => void outcome(value),
      ),
    )
  })

  test('under the names of options resolves or is refused, and either does happen', () => {
    const seen = new Set<string>()
    fc.assert(
      fc.property(nearlyRight, (options) => void seen.add(outcome(options))),
      { numRuns: 500 },
    )
    expect([...seen].toSorted()).toEqual(['refused', 'resolved'])
  })

  test('resolves to bounds in order, whatever sizes a user chooses', () => {
    const size = fc.option(fc.integer({ min: 0, max: 60 }), { nil: undefined })
    const sizes = fc.record({ min: size, initial: size, max: size, minIdle: size })
    fc.assert(
      fc.property(
        sizes,
        fc.constantFrom<Preset>('development', 'staging', 'production', 'serverless'),
        (pool, preset) => {
          if (outcome({ primary, preset, pool }) === 'refused') return
          const resolved = configWith({ preset, pool }).primary.pool
          expect(Math.max(resolved.min, resolved.initial, resolved.minIdle)).toBeLessThanOrEqual(resolved.max)
          expect(resolved.max).toBeGreaterThanOrEqual(1)
          for (const [name, own] of Object.entries(pool)) {
            if (own !== undefined) expect(resolved[name as keyof typeof pool]).toBe(own)
          }
        },
      ),
    )
  })
})
