// What is remembered of one server, and the score that sums it up.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Standing } from '../../src/core/standing.ts'

const fresh = (): Standing => new Standing({ zone: undefined, weight: 1, priority: 1, tags: [] })

interface Answers {
  readonly tookMs?: number
  readonly usualMs?: number
  readonly ok?: boolean
  readonly from?: number
  readonly everyMs?: number
}

function answers(standing: Standing, count: number, of: Answers = {}): void {
  const { tookMs = 1, usualMs = 1, ok = true, from = 0, everyMs = 1 } = of
  for (let i = 0; i < count; i++) standing.answered(ok, tookMs, from + i * everyMs, usualMs)
}

describe('the score', () => {
  test('is 100 of a server of which nothing is known', () => {
    expect(fresh().score(0)).toEqual({ value: 100, answered: 1, latency: 1, freshness: 1 })
  })

  test('counts the failures of the last minute, with five answers given as credit', () => {
    const standing = fresh()
    standing.answered(false, 1, 0)
    expect(standing.score(0).answered).toBeCloseTo(5 / 6)
    for (let i = 0; i < 4; i++) standing.answered(false, 1, 0)
    expect(standing.score(0).value).toBeCloseTo(50)
    for (let i = 0; i < 90; i++) standing.answered(true, 1, 0)
    expect(standing.score(0).answered).toBeCloseTo(0.95)
    expect(standing.score(59_000).answered).toBeCloseTo(0.95)
    expect(standing.score(60_000).answered).toBe(1)
  })

  test('falls with how much longer the statements take than they used to, and no single one moves it far', () => {
    const standing = fresh()
    answers(standing, 3_000, { tookMs: 10, usualMs: 10, everyMs: 100 })
    answers(standing, 1, { tookMs: 10_000, usualMs: 10, from: 300_000 })
    expect(standing.score(300_000).latency).toBeGreaterThan(0.9)
    answers(standing, 200, { tookMs: 32, usualMs: 10, from: 300_000, everyMs: 100 })
    // (32 + 1) / (10 + 1) is three times as slow; a little of it is what it is used to by now.
    expect(standing.score(320_000).latency).toBeGreaterThan(1 / 3)
    expect(standing.score(320_000).latency).toBeLessThan(0.5)
  })

  test('is not lowered by a server that has become faster, or by one that has always been far away', () => {
    const [faster, far] = [fresh(), fresh()]
    answers(faster, 3_000, { tookMs: 100, usualMs: 100, everyMs: 100 })
    answers(faster, 300, { tookMs: 10, usualMs: 100, from: 300_000, everyMs: 100 })
    answers(far, 3_000, { tookMs: 30, usualMs: 10, everyMs: 100 })
    expect(faster.score(330_000).latency).toBe(1)
    expect(far.score(300_000).latency).toBeGreaterThan(0.95)
  })

  test('comes back by itself when nothing is heard, or nobody would find out that the server has recovered', () => {
    const standing = fresh()
    answers(standing, 3_000, { tookMs: 10, usualMs: 10, everyMs: 100 })
    answers(standing, 200, { tookMs: 100, usualMs: 10, from: 300_000, everyMs: 100 })
    const at = (now: number): number => standing.score(now).latency
    expect(at(320_000)).toBeLessThan(0.3)
    expect(at(329_000)).toBe(at(320_000))
    expect(at(340_000)).toBeGreaterThan(at(331_000))
    expect(at(380_000)).toBeGreaterThan(0.95)
    // It goes on from there, and not from what it was before the silence.
    answers(standing, 1, { tookMs: 10, usualMs: 10, from: 380_000 })
    expect(at(380_000)).toBeGreaterThan(0.95)
  })

  test.each<[number | null, number, number]>([
    [0, 10_000, 1],
    [5_000, 10_000, 0.75],
    [10_000, 10_000, 0.5],
    [15_000, 10_000, 0.25],
    [20_000, 10_000, 0],
    [1e9, 10_000, 0],
    [Infinity, 10_000, 0],
    [null, 10_000, 0.5],
    [0, 0, 1],
    [1, 0, 0],
    [5_000, Infinity, 1],
  ])('of a server %s ms behind, where %s are allowed, has %s for freshness', (lagMs, maxLagMs, freshness) => {
    const standing = fresh()
    standing.observedLag(lagMs, maxLagMs)
    expect(standing.score(0)).toEqual({ value: 100 * freshness, answered: 1, latency: 1, freshness })
  })

  const aTime = fc.oneof(
    fc.constantFrom(0, Infinity, 1e300, Number.MIN_VALUE),
    fc.double({ min: 0, max: 1e6, noNaN: true }),
  )
  const aStep = fc.oneof(
    fc.record({ do: fc.constant('answered' as const), ok: fc.boolean(), tookMs: aTime, usualMs: aTime }),
    fc.record({ do: fc.constant('lag' as const), lagMs: fc.option(aTime), maxLagMs: aTime }),
    fc.record({ do: fc.constantFrom('returned' as const, 'eject' as const) }),
  )
  const aLife = fc.array(fc.tuple(fc.oneof(fc.nat(100), fc.constantFrom(0, 1e6, 1e12)), aStep), { maxLength: 60 })

  test('lies between 0 and 100, and nothing is ever not a number, whatever times come', () => {
    fc.assert(
      fc.property(aLife, (life) => {
        const standing = fresh()
        let now = 0
        for (const [pause, step] of life) {
          now += pause
          if (step.do === 'answered') standing.answered(step.ok, step.tookMs, now, step.usualMs)
          else if (step.do === 'lag') standing.observedLag(step.lagMs, step.maxLagMs)
          else if (step.do === 'eject') standing.eject(30_000, now)
          else standing.returned(now)
          for (const at of [now, now + 20_000, now + 1e15]) {
            const { value, ...factors } = standing.score(at)
            for (const factor of Object.values(factors)) expect(factor >= 0 && factor <= 1).toBe(true)
            expect(value).toBeCloseTo(100 * factors.answered * factors.latency * factors.freshness)
            expect(standing.pace.felt(at)).toBeGreaterThan(0)
            expect(standing.pace.felt(at)).toBeLessThanOrEqual(10)
            expect(standing.ramp(at) >= 0 && standing.ramp(at) <= 1).toBe(true)
            expect(standing.latencyMs(at)).toBeGreaterThanOrEqual(0)
            expect(standing.latencyMs(at)).toBeLessThan(Infinity)
          }
        }
      }),
    )
  })

  test('never rises with a failure, and never falls with less lag', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 50 }), aTime, aTime, aTime, (before, tookMs, one, other) => {
        const standing = fresh()
        before.forEach((ok, i) => standing.answered(ok, 1, i, 1))
        const score = standing.score(100).value
        standing.answered(false, tookMs, 100, 1)
        expect(standing.score(100).value).toBeLessThanOrEqual(score)
        const freshness = [Math.min(one, other), Math.max(one, other)].map((lagMs) => {
          standing.observedLag(lagMs, 1_000)
          return standing.score(100).freshness
        })
        expect(freshness[0]).toBeGreaterThanOrEqual(freshness[1]!)
      }),
    )
  })
})

describe('the pace', () => {
  test('is that of any other as long as nothing is known', () => {
    const standing = fresh()
    answers(standing, 100, { tookMs: 500, usualMs: 0 })
    expect(standing.pace.felt(100)).toBe(1)
  })

  test('is not that of the first answer, which may happen to be a slow one', () => {
    const { pace } = fresh()
    pace.observe(1_000, 10, true, 0)
    expect(pace.baseline(0)).toBeLessThan(1.5)
    expect(pace.recent(0)).toBeLessThan(1.5)
  })

  test('rises with each slow answer, and falls with good ones or with time', () => {
    const { pace } = fresh()
    for (let i = 0; i < 500; i++) pace.observe(9, 9, true, 0)
    pace.observe(99, 9, true, 0)
    expect(pace.felt(0)).toBeCloseTo(1.9)
    for (let i = 0; i < 30; i++) pace.observe(99, 9, true, 0)
    const risen = pace.felt(0)
    expect(risen).toBeGreaterThan(9)
    expect(pace.felt(9_999)).toBe(risen)
    expect(pace.felt(30_000)).toBeLessThan(risen / 1.5)
    for (let i = 0; i < 500; i++) pace.observe(9, 9, true, 10)
    expect(pace.felt(10)).toBeLessThan(1.1)
  })

  test('of a report that always takes long is no slow one', () => {
    const { pace } = fresh()
    for (let i = 0; i < 100; i++) pace.observe(10_000, 10_000, true, i)
    expect(pace.felt(100)).toBeCloseTo(1)
  })

  test('hardly hears of what is below a millisecond', () => {
    const { pace } = fresh()
    for (let i = 0; i < 100; i++) pace.observe(0.4, 0.2, true, i)
    expect(pace.felt(100)).toBeLessThan(1.2)
  })

  test('is not quickened by failures, however soon they come, but slowed by those that took long', () => {
    const { pace } = fresh()
    for (let i = 0; i < 50; i++) pace.observe(60, 20, true, i)
    const before = pace.felt(50)
    for (let i = 0; i < 50; i++) pace.observe(0.1, 20, false, 50)
    expect(pace.felt(50)).toBe(before)
    for (let i = 0; i < 50; i++) pace.observe(Infinity, 20, false, 50)
    expect(pace.felt(50)).toBeGreaterThan(before)
  })

  test('of a server that is not heard of falls back to what it is used to, and in the end to that of any other', () => {
    const { pace } = fresh()
    for (let i = 0; i < 1_000; i++) pace.observe(29, 9, true, i)
    for (let i = 0; i < 50; i++) pace.observe(99, 9, true, 1_000)
    expect(pace.felt(1_050)).toBeGreaterThan(8)
    expect(pace.felt(80_000)).toBeGreaterThan(2)
    expect(pace.felt(80_000)).toBeLessThan(3.2)
    expect(pace.felt(3_600_000)).toBeCloseTo(1)
    // What it goes on from is what the silence has made of it.
    pace.observe(9, 9, true, 3_600_000)
    expect(pace.felt(3_600_000)).toBeLessThan(1.1)
  })
})

describe('the latency that people read', () => {
  test('is 0 before the first answer, then in milliseconds, quick to rise and slow to fall', () => {
    const standing = fresh()
    expect(standing.latencyMs(0)).toBe(0)
    standing.answered(true, 4, 0)
    expect(standing.latencyMs(0)).toBe(4)
    standing.answered(true, 104, 1)
    expect(standing.latencyMs(1)).toBeCloseTo(14)
    standing.answered(true, 4, 2)
    expect(standing.latencyMs(2)).toBeGreaterThan(13.5)
  })

  test('is not that of a failure that came soon', () => {
    const standing = fresh()
    standing.answered(true, 40, 0)
    standing.answered(false, 0, 0)
    expect(standing.latencyMs(0)).toBe(40)
  })
})

describe('a server that has returned', () => {
  test('begins with a tenth of its share, and has all of it after ten seconds', () => {
    const standing = fresh()
    expect(standing.ramp(0)).toBe(1)
    standing.returned(1_000)
    expect([1_000, 6_000, 11_000, 1e9].map((now) => standing.ramp(now))).toEqual([0.1, 0.55, 1, 1])
  })

  test('is not judged by what happened before it went', () => {
    const standing = fresh()
    answers(standing, 100, { ok: false })
    expect(standing.isHealthy(50, 100)).toBe(false)
    standing.returned(101)
    expect(standing.score(101).value).toBe(100)
    expect(standing.isHealthy(50, 101)).toBe(true)
  })
})

describe('an ejected server', () => {
  test('is away for so long, and then begins with a tenth of its share', () => {
    const standing = fresh()
    standing.eject(30_000, 1_000)
    expect([1_000, 30_999, 31_000].map((now) => standing.isEjected(now))).toEqual([true, true, false])
    expect(standing.ramp(31_000)).toBe(0.1)
    expect([30_999, 31_000].map((now) => standing.isDueBack(now))).toEqual([false, true])
    standing.returned(31_500)
    expect(standing.isDueBack(32_000)).toBe(false)
    expect(standing.ramp(31_500)).toBe(0.1)
  })

  test('stays so when it is found to be fresh again meanwhile', () => {
    const standing = fresh()
    standing.eject(30_000, 0)
    standing.returned(10_000)
    expect(standing.isEjected(20_000)).toBe(true)
    expect(standing.ramp(30_000)).toBe(0.1)
    expect(standing.isDueBack(30_000)).toBe(true)
  })

  test('is forgiven one time for each minute in which it is not', () => {
    const standing = fresh()
    for (const now of [0, 31_000, 62_000]) standing.eject(30_000, now)
    expect([92_000, 151_999, 152_000, 212_000, 272_000, 1e9].map((now) => standing.timesEjected(now))).toEqual([
      3, 3, 2, 1, 0, 0,
    ])
  })
})
