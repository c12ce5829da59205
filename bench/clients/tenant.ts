// Which tenant a caller works for, and the hook that tells it to the server before the first statement of a lease.
// Kysely's PostgresDialect and kysely-smart-pg have the same hook.

import { AsyncLocalStorage } from 'node:async_hooks'
import { CompiledQuery } from 'kysely'
import { tenantRole } from '../schema.ts'

export const tenantAtWork = new AsyncLocalStorage<number>()

interface Connection {
  executeQuery(query: CompiledQuery): Promise<unknown>
}

export async function tellTenant(connection: Connection): Promise<void> {
  const tenant = tenantAtWork.getStore()
  if (tenant === undefined) throw new Error('a lease without a tenant')
  await connection.executeQuery(CompiledQuery.raw("select set_config('app.tenant', $1, false)", [String(tenant)]))
}

/** The same database, under the role that row-level security binds. */
export function asTenant(url: string): string {
  const target = new URL(url)
  target.searchParams.set('options', `-c role=${tenantRole}`)
  return target.href
}
