// Fast statements beside slow ones, through the same client: does a fast one wait behind a slow one?

import type { Workload } from './contract.ts'
import { randomId, readItem } from './draw.ts'

const fast = 32
const sleepers = 8

export const headOfLine: Workload = {
  name: 'head-of-line',
  description: 'one row by primary key, beside callers that run `select pg_sleep(0.1)` through the same client',
  crowd: `${fast} fast callers, ${sleepers} sleepers`,
  groups: () => [
    { name: 'fast', callers: fast, once: (client) => readItem(client, randomId()) },
    { name: 'sleeps', callers: sleepers, once: (client) => client.sleep(0.1) },
  ],
  extra: 'late',
}
