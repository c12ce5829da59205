import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CallWindow } from '../../src/core/call-window.ts'

const counts = ({ calls, failed, slow }: CallWindow): readonly number[] => [calls, failed, slow]

describe('a window of ten seconds', () => {
  test('counts calls, and of them those that failed and those that were slow', () => {
    const window = new CallWindow(10_000)
    window.count(0, false, false)
    window.count(1, true, false)
    window.count(2, false, true)
    window.count(3, true, true)
    expect(counts(window)).toEqual([4, 2, 2])
  })

  test('begins empty, at whatever time', () => {
    const window = new CallWindow(10_000)
    window.turnTo(1.7e12)
    expect(counts(window)).toEqual([0, 0, 0])
    window.count(1.7e12, true, true)
    expect(counts(window)).toEqual([1, 1, 1])
  })

  test('forgets second by second what lies ten seconds back', () => {
    const window = new CallWindow(10_000)
    for (let second = 0; second < 10; second++) window.count(second * 1000, second % 2 === 0, second < 3)
    const seen = [9999, 10_000, 11_000, 12_000, 13_000, 18_999, 19_000].map((now) => {
      window.turnTo(now)
      return counts(window)
    })
    expect(seen).toEqual([
      [10, 5, 3],
      [9, 4, 2],
      [8, 4, 1],
      [7, 3, 0],
      [6, 3, 0],
      [1, 0, 0],
      [0, 0, 0],
    ])
  })

  test('forgets everything after a long silence, and nothing more than that', () => {
    const window = new CallWindow(10_000)
    for (let i = 0; i < 100; i++) window.count(i * 100, true, true)
    window.count(1e9, false, false)
    expect(counts(window)).toEqual([1, 0, 0])
  })

  test('turns by itself when it counts, so that nobody has to turn it', () => {
    const window = new CallWindow(10_000)
    window.count(0, true, true)
    window.count(10_000, false, false)
    expect(counts(window)).toEqual([1, 0, 0])
  })

  test('is not turned back by a time that has been', () => {
    const window = new CallWindow(10_000)
    window.count(15_000, true, false)
    window.turnTo(3_000)
    window.count(4_000, false, true)
    expect(counts(window)).toEqual([2, 1, 1])
    window.turnTo(24_999)
    expect(counts(window)).toEqual([2, 1, 1])
    window.turnTo(25_000)
    expect(counts(window)).toEqual([0, 0, 0])
  })

  test('is empty when it is cleared, and what was cleared is not taken away once more later', () => {
    const window = new CallWindow(10_000)
    window.count(500, true, true)
    window.clear()
    expect(counts(window)).toEqual([0, 0, 0])
    window.count(600, true, false)
    window.turnTo(9_999)
    expect(counts(window)).toEqual([1, 1, 0])
    window.turnTo(10_000)
    expect(counts(window)).toEqual([0, 0, 0])
  })
})

describe('whatever is counted when', () => {
  const call = fc.record({ after: fc.nat({ max: 400 }), failed: fc.boolean(), slow: fc.boolean() })
  const length = fc.constantFrom(100, 1000, 2500, 10_000)

  test('a call is counted for nine tenths of the window at least, and never longer than the whole', () => {
    fc.assert(
      fc.property(fc.array(call, { maxLength: 80, size: 'max' }), length, fc.nat(), (calls, windowMs, begin) => {
        const window = new CallWindow(windowMs)
        const counted: { at: number; failed: boolean; slow: boolean }[] = []
        let now = begin
        for (const { after, failed, slow } of calls) {
          now += after
          window.count(now, failed, slow)
          counted.push({ at: now, failed, slow })
          const among = (age: number, which: (one: (typeof counted)[number]) => boolean): number =>
            counted.filter((one) => now - one.at < age && which(one)).length
          for (const [name, which] of Object.entries({
            calls: () => true,
            failed: (one: { failed: boolean }) => one.failed,
            slow: (one: { slow: boolean }) => one.slow,
          })) {
            const seen = window[name as 'calls' | 'failed' | 'slow']
            expect(seen).toBeGreaterThanOrEqual(among(windowMs * 0.9, which))
            expect(seen).toBeLessThanOrEqual(among(windowMs, which))
          }
        }
      }),
    )
  })

  test('it holds nothing when a window has passed without a call', () => {
    fc.assert(
      fc.property(fc.array(call, { maxLength: 50 }), length, (calls, windowMs) => {
        const window = new CallWindow(windowMs)
        let now = 0
        for (const { after, failed, slow } of calls) window.count((now += after), failed, slow)
        window.turnTo(now + windowMs)
        expect(counts(window)).toEqual([0, 0, 0])
      }),
    )
  })
})
