// Timestamps read digit by digit are those that pg's own parser reads.

import * as fc from 'fast-check'
import { types } from 'pg'
import { expect, test } from 'vitest'
import { faster } from '../../src/wire/timestamps.ts'

const own = types.getTypeParser(types.builtins.TIMESTAMPTZ) as (value: string) => unknown
const fast = faster(own as never) as (value: string) => unknown

test('pg’s own parser is replaced, and nobody else’s', () => {
  expect(fast).not.toBe(own)
  const mine = (value: string): string => value
  expect(faster(mine as never)).toBe(mine)
})

const digits = (length: number) =>
  fc.integer({ min: 0, max: 10 ** length - 1 }).map((n) => `${n}`.padStart(length, '0'))
const fraction = fc.oneof(fc.constant(''), ...[1, 2, 3, 4, 5, 6].map((n) => digits(n).map((text) => `.${text}`)))
const sign = fc.constantFrom('+', '-')
const zone = fc.oneof(
  fc.constant(''),
  fc.constant('+00'),
  fc.constant('Z'),
  fc.tuple(sign, digits(2)).map((parts) => parts.join('')),
  fc.tuple(sign, digits(2), fc.constant(':'), digits(2)).map((parts) => parts.join('')),
  fc.tuple(sign, digits(2), fc.constant(':'), digits(2), fc.constant(':'), digits(2)).map((parts) => parts.join('')),
)
const stamp = fc
  .record({
    year: fc.oneof(digits(4), fc.constantFrom('0001', '0099', '10000', '294276')),
    month: digits(2),
    day: digits(2),
    hour: digits(2),
    minute: digits(2),
    second: digits(2),
    fraction,
    zone,
    era: fc.constantFrom('', '', '', ' BC'),
  })
  .map((s) => `${s.year}-${s.month}-${s.day} ${s.hour}:${s.minute}:${s.second}${s.fraction}${s.zone}${s.era}`)

test('every timestamp is the same, whoever reads it', () => {
  fc.assert(
    fc.property(stamp, (text) => {
      expect(fast(text)).toEqual(own(text))
    }),
    { numRuns: 2_000 },
  )
})

test('so is what is no timestamp in that form', () => {
  const odd = [
    'infinity',
    '-infinity',
    '2026-01-01',
    '',
    'nonsense',
    '2026-01-01 00:00',
    '2026-01-01 00:00:00.',
    'x'.repeat(19),
  ]
  for (const text of [
    ...odd,
    '2026-01-01T00:00:00',
    '2026-1-01 00:00:000',
    '2026-01-01 00:00:00+0x',
    '2026-01-01 00:00:00+00:0',
  ]) {
    expect(fast(text)).toEqual(own(text))
  }
  fc.assert(
    fc.property(fc.string(), (text) => {
      expect(fast(text)).toEqual(own(text))
    }),
  )
})

test('a broken timestamp is broken for both: one character changed at random', () => {
  fc.assert(
    fc.property(stamp, fc.nat(30), fc.string({ minLength: 1, maxLength: 1 }), (text, at, other) => {
      const broken = text.slice(0, at) + other + text.slice(at + 1)
      expect(fast(broken)).toEqual(own(broken))
    }),
    { numRuns: 2_000 },
  )
})
