// The smallest question: what a client adds to it is all that is measured.

import { itemCount } from '../schema.ts'
import { randomId, readItem } from './draw.ts'
import type { Workload } from './contract.ts'

export const pointScript = `\\set id random(1, ${itemCount})\nselect id, value from bench where id = :id;\n`

export const point: Workload = {
  name: 'point',
  description: `one row of ${itemCount.toLocaleString('en-US')} by primary key, random ids`,
  groups: (callers) => [{ name: 'selects', callers, once: (client) => readItem(client, randomId()) }],
  pgbench: [{ text: pointScript, weight: 1 }],
}
