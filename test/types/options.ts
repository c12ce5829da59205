// Compiled, never run: what the types of the options accept and refuse. Each expected error fails the type check
// when it is none.

import { lookup } from 'node:dns'
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
  { primary: environment.DATABASE_URL, replicas: [environment.REPLICA_URL, { connect: () => primary, weight: 2 }] },
  { hosts: [environment.A, environment.B, () => primary, { name: 'eu-2', host: 'db', zone: 'eu-1b', tags: ['x'] }] },
  {
    primary,
    replicas: [{ connectionString: primary, zone: 'a', weight: 0.5, priority: 2, tags: ['reports'] as const }],
  },
  { primary, routing: { strategy: 'least-connections', readYourWrites: 'session', fallbackLimit: 10, zone: 'a' } },
  { primary, routing: { functions: { readOnly: ['price'], writing: ['app.audit'] }, healthThreshold: 30, lookup } },
  { primary, failover: { probeInterval: '500ms', timeout: '10s', attempts: 5 } },
  { primary, session: { init: (connection) => void connection, settings: { statement_timeout: '30s', jit: false } } },
]

declare const environment: { readonly [name: string]: string | undefined }

/** Without an address it compiles, because there are two ways to give one; the dialect refuses it at once. */
export const rightByWordOnly: SmartPgOptions[] = [{}, { primary: environment.A, hosts: [environment.B] }]

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
  // @ts-expect-error -- a list, even of one
  { hosts: primary },
  // @ts-expect-error -- misspelt
  { host: [primary] },
  // @ts-expect-error -- a misspelt trait
  { primary, replicas: [{ host: 'db', wieght: 2 }] },
  // @ts-expect-error -- a misspelt trait
  { hosts: [{ host: 'db', zones: 'a' }] },
  // @ts-expect-error -- a priority is a number
  { primary, replicas: [{ host: 'db', priority: 'first' }] },
  // @ts-expect-error -- tags are a list, even of one
  { primary, replicas: [{ host: 'db', tags: 'reports' }] },
  // @ts-expect-error -- the primary takes writes wherever it stands
  { primary: { host: 'db', zone: 'a' } },
  // @ts-expect-error -- no such strategy
  { primary, routing: { strategy: 'fastest' } },
  // @ts-expect-error -- no such mode
  { primary, routing: { readYourWrites: true } },
  // @ts-expect-error -- misspelt in a section of a section
  { primary, routing: { functions: { readonly: ['price'] } } },
  // @ts-expect-error -- names, not functions
  { primary, routing: { functions: { writing: [lookup] } } },
  // @ts-expect-error -- it is called as dns.lookup is
  { primary, routing: { lookup: 'dns' } },
  // @ts-expect-error -- misspelt
  { primary, failover: { attempt: 3 } },
  // @ts-expect-error -- a logger says four things
  { primary, logger: { info: () => undefined } },
]

type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false

/** The types of checked values follow from the table. */
export const followed: [
  Same<Checked<'queryTimeout'>, number>,
  Same<Checked<'pool.max'>, NodeValues>,
  Same<Checked<'routing.functions.readOnly'>, readonly string[]>,
  Same<Checked<'routing.readYourWrites'>, 'auto' | 'session' | 'always' | 'off'>,
  Same<Checked<'statements.prepare'>, 'auto' | 'never' | 'always'>,
  Same<Checked<'breaker'>, 'conservative' | 'balanced' | 'tolerant' | false>,
] = [true, true, true, true, true, true]
