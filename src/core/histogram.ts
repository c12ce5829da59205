// How long things take, remembered in a fixed number of counters. Each observation falls into one of 240 bins, eight
// to the octave, so that a percentile is never further off than an eighth (as HdrHistogram does with more digits).
// The same observation is also counted exactly against a ladder of round limits, because that is what Prometheus
// asks for and because a ladder cannot be derived from bins that straddle its rungs. Values are whole numbers:
// microseconds for durations, pieces for sizes.

/** Round upper limits, ascending, and for each bin the first rung that its smallest value may stand on. */
export interface Ladder {
  readonly limits: readonly number[]
  readonly rungOfBin: Uint8Array
  /** `limits` with an end that nothing exceeds, for the hot path. */
  readonly ceilings: Float64Array
}

/** What a histogram has counted up to one moment, or between two. */
export interface HistogramSnapshot {
  readonly ladder: Ladder
  readonly bins: Uint32Array
  /** Observations per rung, not cumulated; the last entry is what exceeds every limit. */
  readonly rungs: Float64Array
  readonly sum: number
}

const binCount = 240

/** 2³² − 1 µs are 71 minutes: what lasts longer stands in the last bin, and in full in the sum. */
const largest = 0xffff_ffff

/** Values below 8 have a bin each; from there on the three bits behind the leading one choose within the octave. */
function binOf(value: number): number {
  if (value < 8) return value
  const shift = 28 - Math.clz32(value)
  return ((shift + 1) << 3) | ((value >>> shift) & 7)
}

/** The smallest value of a bin; for `binCount` the first value beyond all bins. */
function firstOf(bin: number): number {
  if (bin < 8) return bin
  return (8 + (bin & 7)) * 2 ** ((bin >> 3) - 1)
}

/** Makes the lookup by which an observation finds its rung with one comparison. */
export function ladder(limits: readonly number[]): Ladder {
  const rungOfBin = new Uint8Array(binCount)
  for (let bin = 0; bin < binCount; bin++) {
    const rung = limits.filter((limit) => limit < firstOf(bin)).length
    rungOfBin[bin] = rung
    // One comparison can tell two rungs apart, not three.
    const next = limits[rung + 1]
    if (next !== undefined && next < firstOf(bin + 1) - 1) throw new RangeError(`Limits too close at ${next}`)
  }
  return { limits, rungOfBin, ceilings: Float64Array.of(...limits, Infinity) }
}

/** 0.0005 … 10 s in microseconds. */
export const durationLadder: Ladder = ladder([
  500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
  10_000_000,
])

/** Queries in a batch. */
export const sizeLadder: Ladder = ladder([1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000])

export class Histogram {
  readonly ladder: Ladder
  readonly #bins = new Uint32Array(binCount)
  readonly #rungs: Float64Array
  readonly #rungOfBin: Uint8Array
  readonly #ceilings: Float64Array
  #sum = 0

  constructor(rungs: Ladder = durationLadder) {
    this.ladder = rungs
    this.#rungs = new Float64Array(rungs.limits.length + 1)
    this.#rungOfBin = rungs.rungOfBin
    this.#ceilings = rungs.ceilings
  }

  /** Counts one whole number. A clock that went backwards counts as 0. */
  observe(value: number): void {
    const counted = value > 0 ? value : 0
    const bin = binOf(counted < largest ? counted >>> 0 : largest)
    let rung = this.#rungOfBin[bin]!
    if (counted > this.#ceilings[rung]!) rung++
    this.#bins[bin]!++
    this.#rungs[rung]!++
    this.#sum += counted
  }

  get count(): number {
    return total(this.#rungs)
  }

  get sum(): number {
    return this.#sum
  }

  /** A copy of the counters as they stand now. */
  snapshot(): HistogramSnapshot {
    return { ladder: this.ladder, bins: this.#bins.slice(), rungs: this.#rungs.slice(), sum: this.#sum }
  }
}

/** What was observed between two snapshots of one histogram. Right also when a bin has run over 2³² between them. */
export function difference(later: HistogramSnapshot, earlier: HistogramSnapshot): HistogramSnapshot {
  return combine(later, earlier, -1)
}

/** What several histograms have seen together: all nodes, all operations. */
export function merge(first: HistogramSnapshot, ...others: readonly HistogramSnapshot[]): HistogramSnapshot {
  return others.reduce((sum, other) => combine(sum, other, 1), first)
}

function combine(one: HistogramSnapshot, other: HistogramSnapshot, sign: 1 | -1): HistogramSnapshot {
  if (one.ladder !== other.ladder) throw new TypeError('Histograms with different ladders cannot be combined')
  return {
    ladder: one.ladder,
    bins: one.bins.map((count, bin) => count + sign * other.bins[bin]!),
    rungs: one.rungs.map((count, rung) => count + sign * other.rungs[rung]!),
    sum: one.sum + sign * other.sum,
  }
}

/** How many observations a snapshot holds. */
export function observations(snapshot: HistogramSnapshot): number {
  return total(snapshot.rungs)
}

/**
 * The value that a share `q` (0 … 1) of the observations does not exceed, at most an eighth off; null when there are
 * none. Take it from the difference of two snapshots: since the start it answers for the past, not for now.
 */
export function percentile(snapshot: HistogramSnapshot, q: number): number | null {
  const { bins } = snapshot
  // Counted from the bins, not from the rungs, so that the walk below always arrives.
  const counted = total(bins)
  if (counted === 0) return null
  const rank = Math.min(counted, Math.max(1, Math.ceil(q * counted)))
  let before = 0
  let bin = 0
  while (before + bins[bin]! < rank) before += bins[bin++]!
  const first = firstOf(bin)
  const last = firstOf(bin + 1) - 1
  return first + ((last - first) * (rank - before - 0.5)) / bins[bin]!
}

/** Observations up to and including each limit of the ladder, then all of them: Prometheus' classic buckets. */
export function cumulated(snapshot: HistogramSnapshot): number[] {
  let sum = 0
  return Array.from(snapshot.rungs, (counted) => (sum += counted))
}

function total(counters: Uint32Array | Float64Array): number {
  let sum = 0
  for (const counted of counters) sum += counted
  return sum
}
