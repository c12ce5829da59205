// What most applications do most: reading by key, and now and then a change.

import { itemCount } from '../schema.ts'
import type { Workload } from './contract.ts'
import { randomId, readItem, updateItem } from './draw.ts'
import { pointScript } from './point.ts'

const updates = 0.1

export const mixed: Workload = {
  name: 'mixed',
  description: '90 % one row by primary key, 10 % an update of one by primary key, autocommit, random ids',
  refresh: ['vacuum bench', 'checkpoint'],
  groups: (callers) => [
    {
      name: 'operations',
      callers,
      once: (client) => (Math.random() < updates ? updateItem : readItem)(client, randomId()),
    },
  ],
  pgbench: [
    { text: pointScript, weight: 9 },
    {
      text: `\\set id random(1, ${itemCount})\nupdate bench set value = '${'.'.repeat(32)}' where id = :id returning id;\n`,
      weight: 1,
    },
  ],
}
