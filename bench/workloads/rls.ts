// Row-level security by a setting of the session, which a hook sets before the first statement of every lease. A row of
// the other tenant means that a connection was handed on, or shared, with the setting of somebody else.

import { tenants } from '../schema.ts'
import type { Workload } from './contract.ts'

let turn = 0

export const rls: Workload = {
  name: 'rls',
  description: 'ten rows of a table with row-level security, two tenants in turns, `app.tenant` set for every lease',
  crowd: '10,000 callers',
  clients: ['smart', 'smart-pg', 'kysely-pg', 'kysely-pg again'],
  tenants: true,
  groups: () => [
    {
      name: 'selects',
      callers: 10_000,
      once: async (client, tally) => {
        const tenant = tenants[turn++ % tenants.length]!
        const entries = await client.entriesOf!(tenant)
        const foreign = entries.filter((entry) => entry.tenant !== tenant).length
        tally('foreign rows', foreign)
        if (entries.length !== 10 || foreign > 0) {
          throw new Error(`${entries.length} rows for tenant ${tenant}, ${foreign} of them of another`)
        }
      },
    },
  ],
  extra: 'foreign rows',
}
