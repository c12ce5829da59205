// Who is put under a fault load, by name: ours, and what most applications with Kysely run today. Each runs
// in a process of its own (load-process.ts).

import { Kysely, PostgresDialect } from 'kysely'
import { Pool } from 'pg'
import { SmartPgDialect, isSmartPgError } from '../../../src/index.ts'
import type { SmartPgOptions } from '../../../src/index.ts'
import { wire } from '../wire.ts'
import type { Told } from './load.ts'
import type { Abilities, Tables } from './operations.ts'

export const clientNames = ['stock', 'stock-replicas', 'smart', 'smart-hosts', 'smart-no-breaker'] as const
export type ClientName = (typeof clientNames)[number]

export interface ClientOrder {
  readonly client: ClientName
  readonly url: string
  /** Of the standbys. */
  readonly replicaUrls: readonly string[]
  /** Of ours alone, over its defaults. */
  readonly more: Partial<SmartPgOptions>
  readonly applicationName: string
  /** Most connections. */
  readonly max: number
  /** Undefined: what the client does by itself. */
  readonly queryTimeoutMs: number | undefined
}

export interface UnderLoad {
  readonly db: Kysely<Tables>
  readonly abilities: Abilities
  readonly told: (error: unknown) => Told
}

/** What a client did by itself, for whoever wants to know why its callers were told what they were told. */
export type Tell = (what: string) => void

export function openClient(order: ClientOrder, tell: Tell): UnderLoad {
  switch (order.client) {
    case 'stock':
      return stock(order, [order.url])
    case 'stock-replicas':
      return stock(order, order.replicaUrls)
    default:
      return smart(order, tell)
  }
}

/**
 * Its users have a listener for errors of idle clients, as its documentation says, or they would not be there for long.
 * Of several servers, each with a pool of its own, they take one after the other: what only reads may do that.
 */
function stock({ applicationName, max, queryTimeoutMs }: ClientOrder, urls: readonly string[]): UnderLoad {
  const pools = urls.map((url) => {
    const pool = new Pool({
      connectionString: url,
      application_name: applicationName,
      max,
      ...(queryTimeoutMs === undefined ? {} : { query_timeout: queryTimeoutMs }),
    })
    pool.on('error', () => undefined)
    return pool
  })
  let turn = 0
  const pool = {
    connect: () => pools[turn++ % pools.length]!.connect(),
    end: async () => void (await Promise.all(pools.map((one) => one.end()))),
    options: {},
  }
  return {
    db: new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) }),
    abilities: {
      together: (db, parts) =>
        db.transaction().execute(async (trx) => {
          for (const part of parts) await trx.insertInto('written').values(part).execute()
        }),
      // For which it would want another package.
      streams: false,
    },
    told: (error) => ({ code: codeOf(error), wrote: 'maybe' }),
  }
}

function smart(order: ClientOrder, tell: Tell): UnderLoad {
  const { client, applicationName, max, queryTimeoutMs, more } = order
  const options: SmartPgOptions = { ...more, ...serversOf(order), wire, applicationName, pool: { max, ...more.pool } }
  if (queryTimeoutMs !== undefined) options.queryTimeout = queryTimeoutMs
  if (client === 'smart-no-breaker') options.breaker = false
  const dialect = new SmartPgDialect(options)
  dialect.on('breaker', ({ node, from, to, because }) => tell(`breaker of ${node} ${from} → ${to}: ${because}`))
  dialect.on('error', ({ node, during, error }) => tell(`${node}, ${during}: ${codeOf(error)}`))
  dialect.on('retry', ({ node, because, fault }) => tell(`retry after ${fault} on ${node}: ${because}`))
  dialect.on('node', ({ node, up, because }) => tell(`${node} ${up ? 'up' : 'down'}: ${because}`))
  dialect.on('failover', ({ from, to, because }) => tell(`failover ${from} → ${to}: ${because}`))
  return {
    db: new Kysely<Tables>({ dialect }),
    abilities: {
      together: (db, parts) => db.batch(parts.map((part) => db.insertInto('written').values(part))),
      streams: true,
    },
    // What is not unknown did not happen: that is the promise which the judge holds it to.
    told: (error) => {
      const cause = isSmartPgError(error, 'SMARTPG_BATCH') ? error.cause : error
      return { code: codeOf(cause), wrote: isSmartPgError(cause, 'SMARTPG_OUTCOME_UNKNOWN') ? 'maybe' : 'no' }
    },
  }
}

/** The order of hosts shall not matter: the primary comes last. */
function serversOf({ client, url, replicaUrls }: ClientOrder): Partial<SmartPgOptions> {
  if (client === 'smart-hosts') return { hosts: [...replicaUrls, url] }
  return { primary: url, ...(replicaUrls.length === 0 ? {} : { replicas: replicaUrls }) }
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message
}
