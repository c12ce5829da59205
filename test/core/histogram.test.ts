// What a histogram promises to whoever reads it: percentiles within an eighth, round limits to the last observation.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  cumulated,
  difference,
  durationLadder,
  Histogram,
  ladder,
  merge,
  observations,
  percentile,
  sizeLadder,
} from '../../src/core/histogram.ts'
import type { HistogramSnapshot } from '../../src/core/histogram.ts'

const microseconds = fc.oneof(
  fc.integer({ min: 0, max: 100 }),
  fc.integer({ min: 0, max: 20_000_000 }),
  fc.integer({ min: 0, max: 0xffff_ffff }),
  // Where mistakes by one would show: the limits of the ladder and the edges of the bins.
  fc.constantFrom(...durationLadder.limits).chain((limit) => fc.integer({ min: limit - 1, max: limit + 1 })),
  fc.nat(31).chain((power) => fc.integer({ min: Math.max(0, 2 ** power - 1), max: 2 ** power + 1 })),
)
const observed = fc.array(microseconds, { minLength: 1, maxLength: 300 })

function of(values: readonly number[]): Histogram {
  const histogram = new Histogram()
  for (const value of values) histogram.observe(value)
  return histogram
}

/** The definition, without any bins: the smallest value that a share `q` does not exceed. */
function exactPercentile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]!
}

function plain(snapshot: HistogramSnapshot): unknown {
  return { bins: [...snapshot.bins], rungs: [...snapshot.rungs], sum: snapshot.sum }
}

describe('percentiles', () => {
  test('every percentile lies within an eighth of the true one', () => {
    fc.assert(
      fc.property(observed, fc.double({ min: 0, max: 1, noNaN: true }), (values, q) => {
        const truth = exactPercentile(values, q)
        expect(Math.abs(percentile(of(values).snapshot(), q)! - truth)).toBeLessThanOrEqual(truth / 8)
      }),
    )
  })

  test('a p95 of 163 ms reads as 163 ms and not as the next rung of the ladder', () => {
    const histogram = of([...Array.from({ length: 94 }, () => 20_000), ...Array.from({ length: 6 }, () => 163_000)])
    const p95 = percentile(histogram.snapshot(), 0.95)!
    expect(p95).toBeGreaterThan(163_000 * 0.875)
    expect(p95).toBeLessThan(163_000 * 1.125)
  })

  test('values below 16 are exact', () => {
    for (let value = 0; value < 16; value++) expect(percentile(of([value]).snapshot(), 0.5)).toBe(value)
  })

  test('a higher share never has a lower percentile', () => {
    const share = fc.double({ min: 0, max: 1, noNaN: true })
    fc.assert(
      fc.property(observed, share, share, (values, one, other) => {
        const snapshot = of(values).snapshot()
        expect(percentile(snapshot, Math.min(one, other))!).toBeLessThanOrEqual(
          percentile(snapshot, Math.max(one, other))!,
        )
      }),
    )
  })

  test('nothing observed has no percentile', () => {
    expect(percentile(new Histogram().snapshot(), 0.95)).toBeNull()
  })

  test('what lasts longer than 71 minutes stands in the last bin and in full in the sum', () => {
    const twoHours = 7_200_000_000
    const histogram = of([twoHours])
    expect(histogram.sum).toBe(twoHours)
    expect(percentile(histogram.snapshot(), 0.5)).toBeGreaterThan(0xffff_ffff * 0.875)
    expect(cumulated(histogram.snapshot()).slice(-2)).toEqual([0, 1])
  })

  test('a clock that went backwards, or no number at all, counts as 0', () => {
    const histogram = of([-5, NaN])
    expect(histogram.count).toBe(2)
    expect(histogram.sum).toBe(0)
    expect(percentile(histogram.snapshot(), 1)).toBe(0)
  })
})

describe('the classic ladder', () => {
  test('counts exactly the observations up to and including each limit', () => {
    fc.assert(
      fc.property(observed, (values) => {
        const expected = [...durationLadder.limits, Infinity].map(
          (limit) => values.filter((value) => value <= limit).length,
        )
        expect(cumulated(of(values).snapshot())).toEqual(expected)
      }),
    )
  })

  test('a value on a limit belongs to it, one more belongs to the next', () => {
    durationLadder.limits.forEach((limit, rung) => {
      expect(cumulated(of([limit]).snapshot())[rung]).toBe(1)
      expect(cumulated(of([limit + 1]).snapshot())[rung]).toBe(0)
    })
  })

  test('reaches from 0.5 ms to 10 s', () => {
    expect(durationLadder.limits[0]).toBe(500)
    expect(durationLadder.limits.at(-1)).toBe(10_000_000)
  })

  test('sizes of batches are counted exactly too', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 20_000 })), (sizes) => {
        const histogram = new Histogram(sizeLadder)
        for (const size of sizes) histogram.observe(size)
        const expected = [...sizeLadder.limits, Infinity].map((limit) => sizes.filter((size) => size <= limit).length)
        expect(cumulated(histogram.snapshot())).toEqual(expected)
      }),
    )
  })

  test('limits that one comparison could not tell apart are refused', () => {
    expect(() => ladder([1_000_000, 1_000_001, 1_000_002])).toThrow('too close')
  })
})

describe('snapshots', () => {
  test('count and sum are those of the values', () => {
    fc.assert(
      fc.property(observed, (values) => {
        const histogram = of(values)
        expect(histogram.count).toBe(values.length)
        expect(observations(histogram.snapshot())).toBe(values.length)
        expect(histogram.sum).toBe(values.reduce((sum, value) => sum + value, 0))
      }),
    )
  })

  test('a snapshot does not change with later observations', () => {
    const histogram = of([10])
    const before = histogram.snapshot()
    histogram.observe(1_000)
    expect(plain(before)).toEqual(plain(of([10]).snapshot()))
  })

  test('a difference holds what was observed in between and nothing else', () => {
    fc.assert(
      fc.property(observed, observed, (first, second) => {
        const histogram = of(first)
        const earlier = histogram.snapshot()
        for (const value of second) histogram.observe(value)
        expect(plain(difference(histogram.snapshot(), earlier))).toEqual(plain(of(second).snapshot()))
      }),
    )
  })

  test('a merge holds what all of them have observed', () => {
    fc.assert(
      fc.property(observed, observed, observed, (one, two, three) => {
        const merged = merge(of(one).snapshot(), of(two).snapshot(), of(three).snapshot())
        expect(plain(merged)).toEqual(plain(of([...one, ...two, ...three]).snapshot()))
      }),
    )
  })

  test('a bin that ran over 2³² between two snapshots still gives the right difference', () => {
    const histogram = of([5])
    const earlier = histogram.snapshot()
    const nearlyFull = { ...earlier, bins: earlier.bins.map((counted) => (counted > 0 ? 0xffff_ffff : 0)) }
    const runOver = { ...earlier, bins: earlier.bins.map((counted) => (counted > 0 ? 2 : 0)) }
    expect(difference(runOver, nearlyFull).bins[5]).toBe(3)
  })

  test('histograms of durations and of sizes do not mix', () => {
    const durations = new Histogram().snapshot()
    const sizes = new Histogram(sizeLadder).snapshot()
    expect(() => merge(durations, sizes)).toThrow('different ladders')
    expect(() => difference(durations, sizes)).toThrow('different ladders')
  })
})
