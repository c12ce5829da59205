// What a text usually takes, and the means behind it.

import { describe, expect, test } from 'vitest'
import { Mean, Peak } from '../../src/core/average.ts'
import { BEGIN_FACTS } from '../../src/core/statements.ts'
import { UsualTimes } from '../../src/core/usual-time.ts'

const text = (): typeof BEGIN_FACTS => ({ ...BEGIN_FACTS })

describe('the usual time of a text', () => {
  test('is unknown, 0, before the first answer, and told as it was before each', () => {
    const usual = new UsualTimes()
    const facts = text()
    expect(usual.of(facts)).toBe(0)
    expect([10, 20, 30].map((tookMs) => usual.learn(facts, tookMs, 0))).toEqual([0, 10, 15])
    expect(usual.of(facts)).toBe(20)
  })

  test('is its own', () => {
    const usual = new UsualTimes()
    const [fast, slow] = [text(), text()]
    usual.learn(fast, 1, 0)
    usual.learn(slow, 1_000, 0)
    expect([usual.of(fast), usual.of(slow)]).toEqual([1, 1_000])
  })

  test('learns nothing from a time that is none', () => {
    const usual = new UsualTimes()
    const facts = text()
    usual.learn(facts, 10, 0)
    for (const tookMs of [NaN, Infinity, -1]) expect(usual.learn(facts, tookMs, 0)).toBe(10)
    expect(usual.of(facts)).toBe(10)
    expect(usual.learn(text(), NaN, 0)).toBe(0)
  })

  test('does not become another within a minute, but within an hour', () => {
    const usual = new UsualTimes()
    const facts = text()
    for (let now = 0; now < 600_000; now += 100) usual.learn(facts, 10, now)
    for (let now = 600_000; now < 660_000; now += 100) usual.learn(facts, 100, now)
    expect(usual.of(facts)).toBeLessThan(30)
    for (let now = 660_000; now < 4_200_000; now += 100) usual.learn(facts, 100, now)
    expect(usual.of(facts)).toBeGreaterThan(99)
  })
})

test('a mean begins as what it is told to begin with, for so many observations', () => {
  const mean = new Mean(1_000, 1, 9)
  mean.observe(11, 0)
  expect(mean.value).toBe(2)
})

test('one observation weighs a twentieth at most, however long nothing was observed', () => {
  const mean = new Mean(1_000)
  for (let i = 0; i < 100; i++) mean.observe(0, i)
  mean.observe(20, 1e9)
  expect(mean.value).toBe(1)
})

test('a peak rises by a tenth of the way, falls by a 64th, or by the time that has passed', () => {
  const peak = new Peak(10_000, 0)
  peak.observe(10, 0)
  expect(peak.value).toBe(1)
  peak.observe(0, 0)
  expect(peak.value).toBeCloseTo(63 / 64)
  peak.observe(0, 10_000)
  expect(peak.value).toBeCloseTo(63 / 64 / Math.E)
})
