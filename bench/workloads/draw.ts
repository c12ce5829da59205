// Random rows, and the check that the right one came.

import { itemCount } from '../schema.ts'
import type { Operations } from '../operations.ts'

export function randomId(): number {
  return 1 + Math.floor(Math.random() * itemCount)
}

export async function readItem(client: Operations, id: number): Promise<void> {
  const item = await client.byId(id)
  if (item?.id !== id || typeof item.value !== 'string') throw new Error(`asked for id ${id}, got ${item?.id}`)
}

export async function updateItem(client: Operations, id: number): Promise<void> {
  const updated = await client.update(id, text())
  if (updated !== id) throw new Error(`updated id ${id}, was told of ${updated}`)
}

/** 32 characters, as long as the values that are there. */
export function text(): string {
  return Math.random().toString(36).padEnd(32, '.').slice(0, 32)
}
