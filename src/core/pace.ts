// How fast a server answers, compared with what the same texts usually take anywhere: 1 is as usual, 5 is five times as
// slow. Servers are compared by that and not by milliseconds, which tell more of the statements than of the server; and a
// server of which nothing is known yet is as fast as any, so that it attracts nobody and starves nobody.

import { Mean, Peak, towards } from './average.ts'

/** What counts as now (Finagle's decay time). */
const NOW_MS = 10_000
/** What the server is used to. */
const BASELINE_MS = 300_000
/** A server that is not heard of for longer is forgiven little by little, or nobody would find out that it has recovered. */
const SILENCE_MS = 10_000
/** Below a millisecond a difference tells of this process more than of the server. */
const UNHEARD_MS = 1
/** Whoever is ten times as slow is avoided; that he is a hundred times as slow would only take longer to forget. */
const SLOWEST = 10
/** As if so many answers had been as usual, or the first that happens to be slow would keep all others away. */
const CREDIT = 20

export class Pace {
  readonly #felt = new Peak(NOW_MS, 1)
  readonly #recent = new Mean(NOW_MS, 1, CREDIT)
  readonly #baseline = new Mean(BASELINE_MS, 1, CREDIT)
  #heardAt = Infinity

  /** A statement took `tookMs` where `usualMs` is usual; 0: nobody knows. A failure is no sign of speed. */
  observe(tookMs: number, usualMs: number, ok: boolean, now: number): void {
    if (!(usualMs > 0 && usualMs < Infinity && tookMs >= 0)) return
    const slowness = Math.min(SLOWEST, Math.max(1 / SLOWEST, (tookMs + UNHEARD_MS) / (usualMs + UNHEARD_MS)))
    if (!ok && slowness <= this.felt(now)) return
    this.#settle(now)
    this.#felt.observe(slowness, now)
    this.#recent.observe(slowness, now)
    this.#baseline.observe(slowness, now)
    this.#heardAt = now
  }

  /** What balancing goes by: rises soon, falls slowly. */
  felt(now: number): number {
    return towards(this.baseline(now), this.#felt.value, this.#silentMs(now) / NOW_MS)
  }

  /** The mean of the last ten seconds, which no single statement moves far: what health is reckoned by. */
  recent(now: number): number {
    return towards(this.baseline(now), this.#recent.value, this.#silentMs(now) / NOW_MS)
  }

  /** What this server is used to: more than 1 where the way to it is long. */
  baseline(now: number): number {
    return towards(1, this.#baseline.value, this.#silentMs(now) / BASELINE_MS)
  }

  /** It was away: what was before says little, but that it is the same server at the same place. */
  forget(now: number): void {
    this.#settle(now)
    this.#felt.value = this.#baseline.value
    this.#recent.value = this.#baseline.value
  }

  /** What the silence has made of them is where they go on from. */
  #settle(now: number): void {
    if (this.#silentMs(now) === 0) return
    const [felt, recent, baseline] = [this.felt(now), this.recent(now), this.baseline(now)]
    this.#felt.value = felt
    this.#recent.value = recent
    this.#baseline.value = baseline
    this.#heardAt = now
  }

  #silentMs(now: number): number {
    const silentMs = now - this.#heardAt - SILENCE_MS
    return silentMs > 0 ? silentMs : 0
  }
}
