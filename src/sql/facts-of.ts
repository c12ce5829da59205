// Remembers the facts of SQL texts, because programs send the same few texts for ever. Each dialect has a cache
// of its own; nothing is shared between two of them.

import { LRUCache } from 'lru-cache'
import type { Facts } from '../core/types.ts'
import { factsOf } from './facts.ts'

/** Longer texts are bulk inserts with their values written out: none comes twice. */
const LONGEST_TEXT = 64 * 1024

/** All texts together, in characters, so that many long ones cannot fill the memory. */
const ALL_TEXTS = 16 * 1024 * 1024

/** Facts by SQL text; keeps the `max` texts used last (default 5,000). */
export class FactsCache {
  readonly #facts: LRUCache<string, Facts>

  constructor(max = 5_000) {
    this.#facts = new LRUCache({ max, maxSize: ALL_TEXTS, sizeCalculation: (_facts, sql) => sql.length + 1 })
  }

  /** The number of texts remembered. */
  get size(): number {
    return this.#facts.size
  }

  of(sql: string): Facts {
    if (sql.length > LONGEST_TEXT) return factsOf(sql)
    const known = this.#facts.get(sql)
    if (known !== undefined) return known
    const facts = factsOf(sql)
    this.#facts.set(sql, facts)
    return facts
  }
}
