// Everybody wants to change the same row: do those who want something else wait with them?

import { itemCount } from '../schema.ts'
import type { Workload } from './contract.ts'
import { readItem, updateItem } from './draw.ts'

const hot = 1

export const hotRow: Workload = {
  name: 'hot-row',
  description: 'other rows by primary key, beside callers that all update the same row, autocommit',
  crowd: '50 readers, 50 writers',
  refresh: ['vacuum bench', 'checkpoint'],
  groups: () => [
    { name: 'reads', callers: 50, once: (client) => readItem(client, randomOther()) },
    { name: 'updates', callers: 50, once: (client) => updateItem(client, hot) },
  ],
}

function randomOther(): number {
  return hot + 1 + Math.floor(Math.random() * (itemCount - hot))
}
