// Who is put under a fault load, by name: ours, and what most applications with Kysely run today. Each runs
// in a process of its own (load-process.ts).

import { Kysely, PostgresDialect } from 'kysely'
import { Pool } from 'pg'
import { SmartPgDialect, isSmartPgError } from '../../../src/index.ts'
import type { SmartPgOptions } from '../../../src/index.ts'
import { wire } from '../wire.ts'
import type { Told } from './load.ts'
import type { Abilities, Tables } from './operations.ts'

export const clientNames = ['stock', 'smart', 'smart-no-breaker'] as const
export type ClientName = (typeof clientNames)[number]

export interface ClientOrder {
  readonly client: ClientName
  readonly url: string
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
  return order.client === 'stock' ? stock(order) : smart(order, tell)
}

/** Its users have a listener for errors of idle clients, as its documentation says, or they would not be there for long. */
function stock({ url, applicationName, max, queryTimeoutMs }: ClientOrder): UnderLoad {
  const pool = new Pool({
    connectionString: url,
    application_name: applicationName,
    max,
    ...(queryTimeoutMs === undefined ? {} : { query_timeout: queryTimeoutMs }),
  })
  pool.on('error', () => undefined)
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

function smart({ client, url, applicationName, max, queryTimeoutMs }: ClientOrder, tell: Tell): UnderLoad {
  const options: SmartPgOptions = { wire, primary: url, applicationName, pool: { max } }
  if (queryTimeoutMs !== undefined) options.queryTimeout = queryTimeoutMs
  if (client === 'smart-no-breaker') options.breaker = false
  const dialect = new SmartPgDialect(options)
  dialect.on('breaker', ({ from, to, because }) => tell(`breaker ${from} → ${to}: ${because}`))
  dialect.on('error', ({ during, error }) => tell(`${during}: ${codeOf(error)}`))
  dialect.on('retry', ({ because, fault }) => tell(`retry after ${fault}: ${because}`))
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

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message
}
