// Inserts that are read at once while the replicas stand still and go on at random: whoever looks at a replica too
// early misses his row.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Kysely } from 'kysely'
import type { Chance } from '../../../src/core/types.ts'
import type { Cluster } from '../postgres/cluster.ts'

/** Of each caller one of his own: what others write would keep him from the replicas for ever. */
export interface Pairs {
  [table: `pairs_${number}`]: { id: number }
}

export const pairsTables = (callers: number): string =>
  Array.from({ length: callers }, (_, i) => `create table pairs_${i} (id int primary key)`).join(';')

/** So long at most between a write and its read: some replicas have replayed it by then, and some have not. */
const PAUSE_MS = 250

/**
 * Each caller inserts a row and selects it, at once or a moment later, again and again, `count` times in all; answers
 * the rows that were not found.
 */
export async function missedOwnWrites(
  db: Kysely<Pairs>,
  { count, callers, chance }: { count: number; callers: number; chance: Chance },
): Promise<number[]> {
  const missed: number[] = []
  let next = 0
  const call = async (caller: number): Promise<void> => {
    const table = `pairs_${caller}` as const
    while (next < count) {
      const id = next++
      await db.insertInto(table).values({ id }).execute()
      if (chance() < 0.5) await sleep(chance() * PAUSE_MS)
      const rows = await db.selectFrom(table).select('id').where('id', '=', id).execute()
      if (rows.length !== 1) missed.push(id)
    }
  }
  await Promise.all(Array.from({ length: callers }, (_, caller) => call(caller)))
  return missed
}

/** Until it is stopped each replica stands still for up to 200 ms and goes on for up to 100 ms, and so on. */
export function disturbReplay(cluster: Cluster, chance: Chance): { stop(): Promise<void> } {
  const stopped = new AbortController()
  const pause = (upToMs: number): Promise<unknown> =>
    sleep(chance() * upToMs, undefined, { signal: stopped.signal }).catch(() => undefined)
  const disturb = async (i: number): Promise<void> => {
    while (!stopped.signal.aborted) {
      await cluster.pauseReplay(i)
      await pause(200)
      await cluster.resumeReplay(i)
      await pause(100)
    }
  }
  const disturbing = Promise.all(cluster.replicas.map((_, i) => disturb(i)))
  return {
    stop: async () => {
      stopped.abort()
      await disturbing
    },
  }
}
