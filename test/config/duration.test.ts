// Durations: what a user may write, and that nothing else passes for one.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { durationMs, durationText } from '../../src/config/duration.ts'

describe('a duration', () => {
  test.each([
    [0, 0],
    [1500, 1500],
    [0.5, 0.5],
    ['500ms', 500],
    ['30s', 30_000],
    ['30 s', 30_000],
    ['1.5s', 1500],
    ['1.1s', 1100],
    ['0.001s', 1],
    ['5min', 300_000],
    ['5m', 300_000],
    ['1h', 3_600_000],
    ['1d', 86_400_000],
    ['0s', 0],
  ])('%j is %d ms', (written, ms) => {
    expect(durationMs(written)).toBe(ms)
  })

  test.each(['', ' ', '30', 's', '30S', '5M', '-1s', '+1s', '1e3ms', '1,5s', '.5s', '1.s', '1.0005s', '30 seconds'])(
    'text %j is none',
    (written) => {
      expect(durationMs(written)).toBeNull()
    },
  )

  test.each([[NaN], [Infinity], [-Infinity], [null], [undefined], [true], [5n], [['5s']], [{}]])(
    '%s is none',
    (value) => {
      expect(durationMs(value)).toBeNull()
    },
  )

  test('any number of whole milliseconds survives being written as text', () => {
    fc.assert(fc.property(fc.nat(20 * 86_400_000), (ms) => durationMs(durationText(ms)) === ms))
  })

  test('text is written in the largest unit that fits', () => {
    expect([0, 250, 1500, 60_000, 3_600_000, 86_400_000].map(durationText)).toEqual([
      '0ms',
      '250ms',
      '1500ms',
      '1min',
      '1h',
      '1d',
    ])
  })
})
