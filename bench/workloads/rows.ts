// Many rows of several types: what decoding costs.

import type { Wide } from '../operations.ts'
import { firstAt, itemCount, pageSize } from '../schema.ts'
import type { Workload } from './contract.ts'

export const rows: Workload = {
  name: 'rows',
  description: `${pageSize} rows × 6 columns (integer, bigint, text, numeric, timestamptz, boolean) by primary key`,
  groups: (callers) => [
    {
      name: 'selects',
      callers,
      once: async (client) => {
        const from = Math.floor(Math.random() * (itemCount - pageSize))
        const page = await client.page(from)
        const last = page.at(-1)
        if (page.length !== pageSize || last === undefined || !isRow(last, from + pageSize)) {
          throw new Error(`asked for ${pageSize} rows behind ${from}, got ${page.length} up to ${JSON.stringify(last)}`)
        }
      },
    },
  ],
  pgbench: [
    {
      text:
        `\\set from random(0, ${itemCount - pageSize})\n` +
        `select id, big, label, price, at, open from wide where id > :from order by id limit ${pageSize};\n`,
      weight: 1,
    },
  ],
}

function isRow({ id, big, label, price, at, open }: Wide, n: number): boolean {
  return (
    id === n &&
    String(big) === String(10_000_000_000 + n) &&
    label === `number ${n}` &&
    price === (n / 100).toFixed(2) &&
    at.getTime() === firstAt + n * 1000 &&
    open === (n % 2 === 0)
  )
}
