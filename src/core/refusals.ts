// Texts that a standby has refused, though they looked like reads: a view over nextval, an operator that writes. The
// next one goes to the primary at once. They are forgotten when definitions change, since that may be what mends them.

import { LRUCache } from 'lru-cache'

/** More would mean that nearly nothing of a program can run on a standby. */
const MOST_TEXTS = 1_000
/** A longer one is a text with its values written out, and does not come again. */
const LONGEST_TEXT = 64 * 1024
/** The catalog may be changed by others as well, unseen. */
const REMEMBERED_MS = 10 * 60_000

interface Refusal {
  readonly because: string
  readonly until: number
}

export class Refusals {
  readonly #texts = new LRUCache<string, Refusal>({ max: MOST_TEXTS })

  add(sql: string, because: string, now: number): void {
    if (sql.length <= LONGEST_TEXT) this.#texts.set(sql, { because, until: now + REMEMBERED_MS })
  }

  /** Why a standby has refused this text; null when none has, as far as is remembered. */
  of(sql: string, now: number): string | null {
    if (this.#texts.size === 0) return null
    const refusal = this.#texts.get(sql)
    return refusal === undefined || refusal.until <= now ? null : refusal.because
  }

  forget(): void {
    this.#texts.clear()
  }

  get size(): number {
    return this.#texts.size
  }
}
