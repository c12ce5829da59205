// Each promotion begins a new timeline: of two servers that take writes, the one with the lower number is outdated.

import type { Server } from './server.ts'

/** 0: it is a standby. */
export async function timeline(server: Server): Promise<number> {
  const [row] = await server.query<{ timeline: string }>(
    `select case when pg_is_in_recovery() then '0'
       else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end as timeline`,
  )
  return Number.parseInt(row!.timeline, 16)
}
