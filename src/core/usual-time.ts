// What each SQL text usually takes, on whichever server: the measure by which a server is called slow. A replica that
// happened to get the report of ten seconds has not become slower for that.

import { Mean } from './average.ts'
import type { Facts } from './types.ts'

/** Long enough that a minute in which all is slow does not become the usual at once. */
const REMEMBERED_MS = 300_000

/** Of all texts, over all servers; kept as long as the texts' facts are. */
export class UsualTimes {
  readonly #times = new WeakMap<Facts, Mean>()

  /** Takes in that an answer took so long, and says what was usual before, in milliseconds; 0: it is the first. */
  learn(facts: Facts, tookMs: number, now: number): number {
    if (!(tookMs >= 0 && tookMs < Infinity)) return this.of(facts)
    const time = this.#times.get(facts)
    const usualMs = time?.value ?? 0
    if (time === undefined) this.#begin(facts).observe(tookMs, now)
    else time.observe(tookMs, now)
    return usualMs
  }

  /** Without learning: what failed says nothing of how long it takes. Milliseconds; 0: unknown. */
  of(facts: Facts): number {
    return this.#times.get(facts)?.value ?? 0
  }

  #begin(facts: Facts): Mean {
    const time = new Mean(REMEMBERED_MS)
    this.#times.set(facts, time)
    return time
  }
}
