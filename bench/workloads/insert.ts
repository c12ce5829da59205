// One row more, with an id that the server gives.

import { text } from './draw.ts'
import type { Workload } from './contract.ts'

export const insertScript = `insert into journal (value) values ('${'.'.repeat(32)}') returning id;\n`

export const insert: Workload = {
  name: 'insert',
  description: 'one row with an id from a sequence, autocommit',
  refresh: ['truncate journal', 'checkpoint'],
  groups: (callers) => [
    {
      name: 'inserts',
      callers,
      once: async (client) => {
        const id = await client.insert(text())
        if (id === undefined || !Number.isInteger(id)) throw new Error(`inserted a row, was told of id ${id}`)
      },
    },
  ],
  pgbench: [{ text: insertScript, weight: 1 }],
}
