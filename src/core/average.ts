// Two ways to remember a number that is observed at irregular times without keeping what was observed: a mean that
// forgets what was long ago, and one that is quick to rise and slow to fall.

/** However long ago the observation before was, one alone weighs no more than this. */
const WEIGHT_OF_ONE = 0.05

/** The plain mean at first, and from `overMs` on an exponentially weighted one: what was longer ago fades. */
export class Mean {
  value: number
  readonly #overMs: number
  #samples: number
  #at = 0

  /** As if `begin` had been observed `samples` times. */
  constructor(overMs: number, begin = 0, samples = 0) {
    this.#overMs = overMs
    this.value = begin
    this.#samples = samples
  }

  observe(value: number, now: number): void {
    const share = Math.min(WEIGHT_OF_ONE, Math.max(0, now - this.#at) / this.#overMs)
    this.#samples += 1
    this.#at = now
    this.value += (value - this.value) * Math.max(1 / this.#samples, share)
  }
}

/** A tenth of the way up with each observation above it: one statement in a hundred that takes long is no peak yet. */
const RISE = 0.1
/** Down with each observation as little as this, however quickly they come. */
const FALL = 1 / 64

/**
 * Finagle's peak EWMA, damped: the original jumps to the highest observation, and where times vary as they do for SQL
 * that is chance more than the server. In a simulation of times with long tails it gave 13 % of the reads to one of three
 * replicas that was five times as slow; a tenth of the way up gave it 5 %.
 */
export class Peak {
  value: number
  readonly #overMs: number
  #at = 0

  constructor(overMs: number, begin: number) {
    this.#overMs = overMs
    this.value = begin
  }

  observe(value: number, now: number): void {
    const fall = Math.max(FALL, 1 - Math.exp(-Math.max(0, now - this.#at) / this.#overMs))
    this.value += (value - this.value) * (value > this.value ? RISE : fall)
    this.#at = now
  }
}

/** From `value` towards `end`, so many time constants later. */
export function towards(end: number, value: number, times: number): number {
  return times > 0 ? end + (value - end) * Math.exp(-times) : value
}
