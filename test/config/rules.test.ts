// Every option by values: its default, the edges of what it accepts, and what it refuses.

import { lookup } from 'node:dns'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, test } from 'vitest'
import type { Config } from '../../src/config/options.ts'
import { optionPaths, ruleOf } from '../../src/config/rules.ts'
import type { OptionPath } from '../../src/config/rules.ts'
import { at, configWith, faultsWith } from './support.ts'

const pg = { getTypeParser: () => (text: string) => text }
const registry = { registerMetric: () => undefined, metrics: () => '' }
const say = () => undefined
const logger = { debug: say, info: say, warn: say, error: say }
const hook = () => undefined
const day = 86_400_000

interface Values {
  /** Where the value arrives. */
  read: (config: Config) => unknown
  default: unknown
  /** What may be written, and what it becomes. */
  accepted: readonly (readonly [written: unknown, resolved: unknown])[]
  refused: readonly unknown[]
}

const same = (...values: unknown[]) => values.map((value) => [value, value] as const)
const wrongTypes = [null, '', {}, [], () => 1, 1n, Symbol('s')]

function duration(read: Values['read'], initial: number, least: number): Values {
  const accepted = [...same(least, 1000, 20 * day), ['250ms', 250], ['2s', 2000], ['20d', 20 * day]] as const
  const tooLittle = least === 0 ? [-1, '-1s'] : [-1, least - 1, 0, '0s']
  return {
    read,
    default: initial,
    accepted,
    refused: [...tooLittle, NaN, Infinity, 20 * day + 1, '21d', '10', 'soon', true, ['1s'], ...wrongTypes],
  }
}

function integer(read: Values['read'], initial: number, least: number, most: number): Values {
  return {
    read,
    default: initial,
    accepted: same(least, most),
    refused: [
      least - 1,
      most + 1,
      1.5,
      NaN,
      Infinity,
      -Infinity,
      '10',
      true,
      ...wrongTypes.filter((v) => v !== null),
      null,
    ],
  }
}

/** Parts of one; of a budget more than one as well. */
function share(read: Values['read'], initial: number, least: number, most: number): Values {
  return {
    read,
    default: initial,
    accepted: same(least, initial, most),
    refused: [least - 0.001, most + 0.001, -1, NaN, Infinity, '0.5', '50%', true, ...wrongTypes],
  }
}

/** `{}` is right where a value per node name may stand; the other bounds are tried in resolve.test.ts. */
function perNode(values: Values): Values {
  return { ...values, refused: values.refused.filter((value) => !isDeepStrictEqual(value, {})) }
}

const boolean = (read: Values['read'], initial: boolean): Values => ({
  read,
  default: initial,
  accepted: same(true, false),
  refused: ['true', 0, 1, ...wrongTypes],
})

const label = (read: Values['read'], initial: string | undefined): Values => ({
  read,
  default: initial,
  accepted: same('x', 'Bestellungen ä', 'x'.repeat(63)),
  refused: ['  ', 'x'.repeat(64), 'ä'.repeat(32), 'a\0b', 'postgres://app@db/orders', 7, true, ...wrongTypes],
})

const functionNames = (read: Values['read']): Values => ({
  read,
  default: [],
  accepted: same([], ['price'], ['app.price', 'Price', 'preis_ä$1', 'x'.repeat(63)], [`${'x'.repeat(63)}.price`]),
  refused: [
    [''],
    ['price()'],
    ['"price"'],
    ['the price'],
    ['shop.app.price'],
    ['.price'],
    ['app.'],
    ['x'.repeat(64)],
    ['a\0b'],
    [1],
    [null],
    Array(1),
    [['price']],
    'price',
    new Set(['price']),
    ...wrongTypes.filter((value) => !Array.isArray(value)),
  ],
})

const hooks = (read: Values['read']): Values => ({
  read,
  default: undefined,
  accepted: same(hook),
  refused: ['SELECT 1', 1, true, null, {}, []],
})

const balanced = {
  failureThreshold: 5,
  errorRate: 0.5,
  windowMs: 10_000,
  minimumCalls: 20,
  slowCallMs: 0,
  slowCallRate: 0.8,
  recoveryMinMs: 1000,
  recoveryMaxMs: 60_000,
  halfOpenMaxCalls: 3,
  metricsOnly: false,
}

const values: Record<Exclude<OptionPath, 'primary' | 'replicas' | 'hosts'>, Values> = {
  name: label((config) => config.name, 'orders'),
  preset: {
    read: (config) => config.preset,
    default: 'production',
    accepted: same('development', 'staging', 'production', 'serverless'),
    refused: ['Production', 'prod', 'constructor', '__proto__', 1, true, ...wrongTypes],
  },
  wire: {
    read: (config) => config.wire,
    default: 'native',
    accepted: same('native', 'pg'),
    refused: ['Native', 'own', true, ...wrongTypes],
  },
  ssl: {
    read: (config) => config.ssl,
    default: undefined,
    accepted: same(true, false, {}, { rejectUnauthorized: true, ca: ['…'] }),
    refused: ['require', 1, null, [], () => true],
  },
  allowInsecureAuth: boolean((config) => config.allowInsecureAuth, false),
  types: {
    read: (config) => config.types,
    default: undefined,
    accepted: same(pg, Object.create(pg)),
    refused: [{ getTypeParser: 1 }, 1, 'x', true, null, {}, []],
  },
  applicationName: label((config) => config.applicationName, 'kysely-smart-pg:orders'),
  'pool.min': perNode(integer((config) => config.primary.pool.min, 1, 0, 50)),
  'pool.initial': perNode(integer((config) => config.primary.pool.initial, 2, 0, 50)),
  'pool.max': perNode(integer((config) => config.primary.pool.max, 50, 1, 262_143)),
  'pool.minIdle': perNode(integer((config) => config.primary.pool.minIdle, 1, 0, 50)),
  'pool.acquireTimeout': duration((config) => config.primary.pool.acquireTimeoutMs, 10_000, 1),
  'pool.connectTimeout': duration((config) => config.primary.pool.connectTimeoutMs, 10_000, 1),
  'pool.idleTimeout': duration((config) => config.primary.pool.idleTimeoutMs, 300_000, 1),
  'pool.maxLifetime': duration((config) => config.primary.pool.maxLifetimeMs, 1_800_000, 1),
  'pool.maxWaiting': integer((config) => config.primary.pool.maxWaiting, 10_000, 0, 1_000_000),
  'pool.validateAfterIdle': duration((config) => config.primary.pool.validateAfterIdleMs, 500, 0),
  'pool.keepalive': duration((config) => config.primary.pool.keepaliveMs, 30_000, 0),
  'pool.leakDetection': duration((config) => config.primary.pool.leakDetectionMs, 0, 0),
  'pool.lanes': boolean((config) => config.primary.pool.lanes, true),
  'pool.pipelineWrites': boolean((config) => config.primary.pool.pipelineWrites, false),
  'session.init': {
    read: (config) => config.session.init,
    default: undefined,
    accepted: same("SET lock_timeout = '1s'", hook),
    refused: ['', '  ', 'SELECT 1\0', 1, true, null, {}, ['SELECT 1']],
  },
  'session.settings': {
    read: (config) => config.session.settings,
    default: {},
    accepted: [
      [{}, {}],
      [
        { statement_timeout: '30s', Work_Mem: 4096, jit: false, 'app.tenant': '', _x: true, skipped: undefined },
        { statement_timeout: '30s', Work_Mem: '4096', jit: 'off', 'app.tenant': '', _x: 'on' },
      ],
    ],
    refused: [
      { 'search path': 'app' },
      { '1st': 'x' },
      { '': 'x' },
      { 'a-b': 'x' },
      { search_path: null },
      { search_path: ['app'] },
      { work_mem: NaN },
      { work_mem: Infinity },
      { search_path: 'a\0b' },
      { jit: 'on', JIT: 'off' },
      { user: 'postgres' },
      { Database: 'other' },
      { replication: true },
      { options: '-c x=1' },
      { client_encoding: 'LATIN1' },
      { application_name: 'x' },
      { constructor: 'x' },
      JSON.parse('{"__proto__":"x"}'),
      [],
      'search_path=app',
      null,
      1,
    ],
  },
  'statements.prepare': {
    read: (config) => config.statements.prepare,
    default: 'auto',
    accepted: same('auto', 'never', 'always'),
    refused: [true, false, 'sometimes', ...wrongTypes],
  },
  'statements.cacheSize': integer((config) => config.statements.cacheSize, 1000, 1, 100_000),
  'statements.never': {
    read: (config) => config.statements.never,
    default: [],
    accepted: same([], ['select 1'], [/^select \d/i], ['select 1', /a/, 'select 1', /b/dmsu]),
    refused: [
      [''],
      ['  '],
      ['select 1\0'],
      [1],
      [null],
      Array(1),
      [['select 1']],
      'select 1',
      /a/,
      [/a/g],
      [/a/y],
    ].concat(wrongTypes.filter((value) => !Array.isArray(value)) as never),
  },
  'transactions.lazyBegin': boolean((config) => config.transactions.lazyBegin, true),
  'transactions.resolveCommit': boolean((config) => config.transactions.resolveCommit, false),
  onCreateConnection: hooks((config) => config.onCreateConnection),
  onReserveConnection: hooks((config) => config.onReserveConnection),
  'routing.readWriteSplit': boolean((config) => config.routing.readWriteSplit, true),
  'routing.strategy': {
    read: (config) => config.routing.strategy,
    default: 'performance',
    accepted: same('performance', 'round-robin', 'least-connections', 'random', 'adaptive'),
    refused: ['Performance', 'roundRobin', 'fastest', true, ...wrongTypes],
  },
  'routing.maxLag.ms': duration((config) => config.routing.maxLagMs, 10_000, 0),
  'routing.maxLag.bytes': integer((config) => config.routing.maxLagBytes, 16 * 1024 * 1024, 0, Number.MAX_SAFE_INTEGER),
  'routing.readYourWrites': {
    read: (config) => config.routing.readYourWrites,
    default: 'auto',
    accepted: same('auto', 'session', 'always', 'off'),
    refused: ['never', true, false, ...wrongTypes],
  },
  'routing.fallbackToPrimary': boolean((config) => config.routing.fallbackToPrimary, true),
  'routing.fallbackLimit': integer((config) => config.routing.fallbackLimit, 50, 1, 1_000_000),
  'routing.readOnlyTransactions': boolean((config) => config.routing.readOnlyTransactions, true),
  'routing.functions.readOnly': functionNames((config) => config.routing.functions.readOnly),
  'routing.functions.writing': functionNames((config) => config.routing.functions.writing),
  'routing.zone': label((config) => config.routing.zone, undefined),
  'routing.healthThreshold': integer((config) => config.routing.healthThreshold, 50, 0, 100),
  'routing.lookup': { ...hooks((config) => config.routing.lookup), accepted: same(lookup, hook) },
  'failover.probeInterval': duration((config) => config.failover.probeIntervalMs, 1000, 10),
  'failover.timeout': duration((config) => config.failover.timeoutMs, 5000, 0),
  'failover.attempts': integer((config) => config.failover.attempts, 3, 1, 100),
  breaker: {
    read: (config) => config.breaker,
    default: balanced,
    accepted: [
      [false, null],
      [{}, balanced],
      ['conservative', { ...balanced, failureThreshold: 3, errorRate: 0.1, recoveryMaxMs: 120_000 }],
      ['balanced', balanced],
      ['tolerant', { ...balanced, failureThreshold: 10, errorRate: 0.7, recoveryMaxMs: 30_000 }],
    ],
    refused: [true, 'off', 'constructor', 5, null, '', []],
  },
  'breaker.failureThreshold': integer((config) => config.breaker?.failureThreshold, 5, 1, 10_000),
  'breaker.errorRate': share((config) => config.breaker?.errorRate, 0.5, 0.01, 1),
  'breaker.window': duration((config) => config.breaker?.windowMs, 10_000, 100),
  'breaker.minimumCalls': integer((config) => config.breaker?.minimumCalls, 20, 1, 1_000_000),
  'breaker.slowCall': duration((config) => config.breaker?.slowCallMs, 0, 0),
  'breaker.slowCallRate': share((config) => config.breaker?.slowCallRate, 0.8, 0.01, 1),
  'breaker.recoveryTimeout.min': {
    ...duration((config) => config.breaker?.recoveryMinMs, 1000, 1),
    accepted: [...same(1, 60_000), ['250ms', 250], ['1min', 60_000]],
  },
  'breaker.recoveryTimeout.max': duration((config) => config.breaker?.recoveryMaxMs, 60_000, 1),
  'breaker.halfOpenMaxCalls': integer((config) => config.breaker?.halfOpenMaxCalls, 3, 1, 10_000),
  'breaker.metricsOnly': boolean((config) => config.breaker?.metricsOnly, false),
  'retry.attempts': integer((config) => config.retry.attempts, 3, 1, 100),
  'retry.base': {
    ...duration((config) => config.retry.baseMs, 50, 0),
    accepted: [...same(0, 2000), ['100ms', 100]],
  },
  'retry.max': duration((config) => config.retry.maxMs, 2000, 0),
  'retry.budget': share((config) => config.retry.budget, 0.2, 0, 100),
  queryTimeout: duration((config) => config.queryTimeoutMs, 30_000, 0),
  metrics: {
    read: (config) => config.metrics,
    default: { registry: undefined },
    accepted: [
      [false, null],
      [{}, { registry: undefined }],
    ],
    refused: [true, 'off', 0, null, []],
  },
  'metrics.registry': {
    read: (config) => config.metrics?.registry,
    default: undefined,
    accepted: same(registry),
    refused: [{ registerMetric: () => 1 }, 'x', true, null, {}, []],
  },
  logger: {
    read: (config) => config.logger,
    default: undefined,
    accepted: same(logger, console, Object.create(logger)),
    refused: [{ ...logger, warn: undefined }, 'console', true, null, {}, []],
  },
}

describe.each(Object.entries(values))('%s', (path, { read, default: initial, accepted, refused }) => {
  test('has its default when nothing is said, or undefined', () => {
    expect(read(configWith({}))).toEqual(initial)
    expect(read(configWith(at(path, undefined)))).toEqual(initial)
  })

  test.each(accepted.map((pair) => [pair]))('accepts %j', ([written, resolved]) => {
    expect(read(configWith(at(path, written)))).toEqual(resolved)
  })

  test.each(refused.map((value) => [value]))('refuses %s', (value) => {
    const faults = faultsWith(at(path, value))
    expect(faults).toHaveLength(1)
    expect(faults[0]!.path.startsWith(path)).toBe(true)
  })
})

test('every option has a sentence, a default or a word about it, and a range if it is a number', () => {
  for (const path of optionPaths) {
    const rule = ruleOf(path)
    expect(rule.doc, path).toMatch(/^\p{Lu}?.+\.$/u)
    expect(rule.default !== null || rule.derived !== undefined, path).toBe(true)
    const isNumber = ['integer', 'bytes', 'duration', 'share'].includes(rule.kind)
    expect(rule.min !== undefined && rule.max !== undefined, path).toBe(isNumber)
  }
})

describe('a fault', () => {
  test('of a duration names the range and the forms', () => {
    expect(faultsWith({ queryTimeout: '30 sec' })).toEqual([
      {
        path: 'queryTimeout',
        received: "'30 sec'",
        expected:
          "a duration from 0ms to 20d: milliseconds as a number, or text such as '500ms', '1.5s', '5min', '5m', '1h', '1d'",
      },
    ])
  })

  test('of a share names the range', () => {
    expect(faultsWith({ breaker: { errorRate: '50%' } })).toEqual([
      { path: 'breaker.errorRate', received: "'50%'", expected: 'a number from 0.01 to 1' },
    ])
  })

  test('of a word names all right words', () => {
    const [fault] = faultsWith({ breaker: 'brave' })
    expect(fault!.expected).toBe("'conservative', 'balanced', 'tolerant', false or an object")
  })

  test('of a logger names the methods it lacks', () => {
    const [fault] = faultsWith({ logger: { debug: say, info: say } })
    expect(fault!.received).toBe('an object without warn, error')
  })

  test('of a text that is none says at which place, and nothing of the others', () => {
    expect(faultsWith({ statements: { never: ['select 1', 7, '', /a/] } })).toEqual([
      { path: 'statements.never[1]', received: 'a number', expected: 'SQL or a RegExp' },
      { path: 'statements.never[2]', received: 'empty text', expected: 'SQL or a RegExp' },
    ])
  })

  test.each([
    [/a/g, 'g'],
    [/a/gi, 'g'],
    [/a/iy, 'y'],
  ])('of %s tells which flag makes it answer differently each time', (stateful, flag) => {
    expect(faultsWith({ statements: { never: [stateful] } })).toEqual([
      {
        path: 'statements.never[0]',
        received: `a RegExp with the flag ${flag}`,
        expected: 'a RegExp without the flags g and y, with which it answers differently each time it is asked',
      },
    ])
  })

  test('of a function name shows the name, its place and the form', () => {
    expect(faultsWith({ routing: { functions: { readOnly: ['price', 'price(int)', '  '] } } })).toEqual([
      {
        path: 'routing.functions.readOnly[1]',
        received: 'text of 10 characters',
        expected: "names as the catalog has them, with or without schema, such as 'app.price'",
      },
      expect.objectContaining({ path: 'routing.functions.readOnly[2]', received: "'  '" }),
    ])
  })

  test('of a section that is no object says so', () => {
    expect(faultsWith({ pool: 5 })).toEqual([{ path: 'pool', received: 'a number', expected: 'an object' }])
    expect(faultsWith({ routing: { maxLag: [1] } })[0]).toMatchObject({ path: 'routing.maxLag', received: 'an array' })
  })
})
