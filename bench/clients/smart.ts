// kysely-smart-pg as a user gets it: only the number of connections is set, and the wire.

import { Kysely } from 'kysely'
import { SmartPgDialect } from 'kysely-smart-pg'
import type { SmartPgOptions } from 'kysely-smart-pg'
import type { OpenClient, OpenOptions } from './contract.ts'
import { operationsOf } from './kysely.ts'
import type { Database } from './kysely.ts'
import { asTenant, tellTenant } from './tenant.ts'

export function openSmart(options: OpenOptions): OpenClient {
  return open(options, 'native')
}

export function openSmartOverPg(options: OpenOptions): OpenClient {
  return open(options, 'pg')
}

export function openSmartPipeliningWrites(options: OpenOptions): OpenClient {
  return open(options, 'native', { pipelineWrites: true })
}

function open(
  { url, connections, tenants }: OpenOptions,
  wire: 'pg' | 'native',
  own: SmartPgOptions['pool'] = {},
): OpenClient {
  const options: SmartPgOptions = { wire, primary: url, pool: { max: connections, ...own } }
  if (tenants) {
    options.primary = asTenant(url)
    options.onReserveConnection = tellTenant as SmartPgOptions['onReserveConnection']
    // The last of 10,000 callers behind a slow network has waited for longer than the default 10 s.
    options.pool = { ...options.pool, acquireTimeout: '5min' }
  }
  const db = new Kysely<Database>({ dialect: new SmartPgDialect(options) })
  return { ...operationsOf(db), close: () => db.destroy() }
}
