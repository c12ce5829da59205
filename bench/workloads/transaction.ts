// Three statements in a transaction by a single caller: how often does it wait for the network?

import { text } from './draw.ts'
import { insertScript } from './insert.ts'
import type { Workload } from './contract.ts'

const inserts = 3

export const transaction: Workload = {
  name: 'transaction',
  description: `${inserts} inserts in one transaction, each awaited before the next`,
  crowd: '1 caller',
  refresh: ['truncate journal', 'checkpoint'],
  groups: () => [
    {
      name: 'transactions',
      callers: 1,
      once: async (client) => {
        const ids = await client.insertTogether(Array.from({ length: inserts }, text))
        if (ids.length !== inserts || !ids.every(Number.isInteger)) {
          throw new Error(`inserted ${inserts} rows, was told of ids ${ids.join(', ')}`)
        }
      },
    },
  ],
  pgbench: [{ text: `begin;\n${insertScript.repeat(inserts)}commit;\n`, weight: 1 }],
  extra: 'round trips',
}
