// The few numbers that rounds are summed up with. Medians, because one round disturbed by a neighbour on the machine
// must not decide; ratios per round, because what disturbs a round disturbs both clients of it.

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** Of no values, all NaN. */
export function spreadOf(values: Iterable<number>): Spread {
  const sorted = [...values].toSorted((a, b) => a - b)
  if (sorted.length === 0) return { median: Number.NaN, min: Number.NaN, max: Number.NaN }
  const middle = (sorted.length - 1) / 2
  const median = (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2
  return { median, min: sorted[0]!, max: sorted.at(-1)! }
}

export function medianOf(values: Iterable<number>): number {
  return spreadOf(values).median
}

/** Nearest rank: the smallest value that a share `q` (0 … 1) of the values does not exceed. NaN when there are none. */
export function percentile(sorted: Float64Array, q: number): number {
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN
}

/** The share of the values above `limit`. NaN when there are none. */
export function shareAbove(sorted: Float64Array, limit: number): number {
  const first = sorted.findIndex((value) => value > limit)
  return first < 0 && sorted.length > 0 ? 0 : (sorted.length - first) / sorted.length
}
