// Compiled, never run: what the types of the options accept and refuse. Each expected error fails the type check
// when it is none.

import type { SmartPgOptions } from '../../src/config/options.ts'
import type { Checked, NodeValues } from '../../src/config/rules.ts'

const primary = 'postgres://app@db/orders'

export const right: SmartPgOptions[] = [
  { primary },
  { primary: { host: 'db', password: async () => 'pw', ssl: { ca: '…' } } },
  { primary: async () => ({ connectionString: primary }) },
  { primary, replicas: [primary, () => primary, { name: 'eu-2', host: 'db' }, { connect: async () => primary }] },
  { primary, pool: { max: { default: 20, 'eu-2': 10 }, acquireTimeout: '5s', idleTimeout: 60_000 } },
  { primary, breaker: false, metrics: false },
  { primary, breaker: 'tolerant', logger: console },
  { primary, breaker: { errorRate: 0.3, window: '20s', minimumCalls: 50, slowCall: '2s', slowCallRate: 0.9 } },
  { primary, breaker: { metricsOnly: true }, retry: { attempts: 5, budget: 0.1 } },
  { primary, breaker: { recoveryTimeout: { max: '2min' } }, routing: { maxLag: { ms: '5s' } } },
  { primary, session: { init: (connection) => void connection, settings: { statement_timeout: '30s', jit: false } } },
]

// @ts-expect-error -- a primary is needed
export const nowhere: SmartPgOptions = {}

export const wrong: SmartPgOptions[] = [
  // @ts-expect-error -- misspelt
  { primary, querytimeout: '1s' },
  // @ts-expect-error -- misspelt in a section
  { primary, pool: { maxx: 5 } },
  // @ts-expect-error -- misspelt in a section of a section
  { primary, routing: { maxLag: { byte: 5 } } },
  // @ts-expect-error -- no such word
  { primary, preset: 'prod' },
  // @ts-expect-error -- no such breaker preset
  { primary, breaker: 'brave' },
  // @ts-expect-error -- a breaker is on by default; true says nothing
  { primary, breaker: true },
  // @ts-expect-error -- rates are parts of one
  { primary, breaker: { errorRate: '50%' } },
  // @ts-expect-error -- misspelt
  { primary, breaker: { slowCalls: '2s' } },
  // @ts-expect-error -- a budget is a share of the requests
  { primary, retry: { budget: '20%' } },
  // @ts-expect-error -- no such policy
  { primary, statements: { prepare: 'sometimes' } },
  // @ts-expect-error -- sizes are numbers
  { primary, pool: { max: '50' } },
  // @ts-expect-error -- a misspelt coordinate
  { primary: { host: 'db', username: 'app' } },
  // @ts-expect-error -- a list, even of one
  { primary, replicas: primary },
  // @ts-expect-error -- a logger says four things
  { primary, logger: { info: () => undefined } },
]

type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false

/** The types of checked values follow from the table. */
export const followed: [
  Same<Checked<'queryTimeout'>, number>,
  Same<Checked<'pool.max'>, NodeValues>,
  Same<Checked<'statements.prepare'>, 'auto' | 'never' | 'always'>,
  Same<Checked<'breaker'>, 'conservative' | 'balanced' | 'tolerant' | false>,
] = [true, true, true, true]
