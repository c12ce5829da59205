// What everybody has: Kysely's own dialect over pg-pool. Beside it the same scene with ours, so that a row of
// docs/reliability.md can be seen red on the one and green on the other.

import { randomBytes } from 'node:crypto'
import { Kysely, PostgresDialect } from 'kysely'
import { Pool } from 'pg'
import type { PoolConfig } from 'pg'
import { onTestFinished } from 'vitest'
import { ask } from '../support/postgres/server.ts'
import { backends, open } from './dialects.ts'

export interface Contender<DB> {
  readonly db: Kysely<DB>
  /** What pg_stat_activity calls its connections. */
  readonly applicationName: string
}

export interface Terms {
  readonly url: string
  readonly max: number
  /** Milliseconds for one statement; none by default. */
  readonly queryTimeout?: number
  /** Milliseconds for a connection; for ever by default, as with pg-pool. */
  readonly acquireTimeout?: number
}

/** Kysely's PostgresDialect over a Pool of pg's, as its documentation has it. */
export function openStock<DB>({
  url,
  max,
  queryTimeout,
  acquireTimeout,
}: Terms): Contender<DB> & { readonly pool: Pool } {
  const applicationName = `stock-${randomBytes(4).toString('hex')}`
  const config: PoolConfig = { connectionString: url, max, application_name: applicationName }
  if (queryTimeout !== undefined) config.query_timeout = queryTimeout
  if (acquireTimeout !== undefined) config.connectionTimeoutMillis = acquireTimeout
  const pool = new Pool(config)
  // A mercy: without these it ends the process that it runs in, which would be that of the tests.
  pool.on('error', () => undefined)
  pool.on('connect', (client) => client.on('error', () => undefined))
  onTestFinished(async () => {
    // It waits for ever for clients that were never given back.
    void pool.end().catch(() => undefined)
    await ask(url, 'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1', [
      applicationName,
    ]).catch(() => undefined)
  })
  return { db: new Kysely<DB>({ dialect: new PostgresDialect({ pool }) }), pool, applicationName }
}

export function openOurs<DB>({ url, max, queryTimeout, acquireTimeout }: Terms): Contender<DB> {
  return open<DB>({
    primary: url,
    pool: { min: 0, initial: 0, minIdle: 0, max, ...(acquireTimeout === undefined ? {} : { acquireTimeout }) },
    ...(queryTimeout === undefined ? {} : { queryTimeout }),
  })
}

/** Whose backends the server still has. */
export const standing = ({ applicationName }: Contender<never>, url: string): Promise<number> =>
  backends(url, applicationName)
