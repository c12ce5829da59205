import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/core/errors.ts'
import { formatToken, newerToken, parseToken, positionOf, satisfied } from '../../src/core/token.ts'
import type { WriteToken } from '../../src/core/token.ts'

const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const anyToken = fc.record({ timeline: fc.integer({ min: 1, max: 0xffff_ffff }), lsn: anyLsn })
/** Few enough to meet. */
const someToken = fc.record({ timeline: fc.integer({ min: 1, max: 3 }), lsn: fc.bigInt({ min: 0n, max: 5n }) })

const refusal = (text: unknown, path?: string): Error & { faults?: unknown } => {
  try {
    parseToken(text, path)
  } catch (error) {
    return error as Error
  }
  throw new Error(`it was taken: ${String(text)}`)
}

describe('the text of a token', () => {
  test('says timeline and position', () => {
    expect(formatToken({ timeline: 1, lsn: 0x16_b374_d848n })).toBe('1-16-B374D848')
    expect(parseToken('12-0-1F')).toEqual({ timeline: 12, lsn: 0x1fn })
    expect(formatToken({ timeline: 1, lsn: 0n })).toBe('1-0-0')
  })

  test('says the same to whoever reads it, in a cookie, a header or a URL', () => {
    fc.assert(
      fc.property(anyToken, (token) => {
        const text = formatToken(token)
        expect(parseToken(text)).toEqual(token)
        expect(text).toBe(encodeURIComponent(text))
        expect(text).toMatch(/^[\dA-F-]{5,28}$/)
      }),
    )
  })

  test('is written in one way only, so that equal texts are equal tokens', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[0-9A-F]{0,10}-[0-9A-F]{0,9}-[0-9A-F]{0,9}$/), (text) => {
        let token: WriteToken
        try {
          token = parseToken(text)
        } catch {
          return
        }
        expect(formatToken(token)).toBe(text)
      }),
    )
  })

  test.each([
    ...['', '-', '--', '1', '1-16', '1-16-', '-16-B3', '1--B3', '1-16-B3-1', '0-16-B3', '01-16-B3', '1-016-B3'],
    ...['1-16-00B3', '1-16-b3', '1-16-G', '1-16-123456789', '123456789AB-0-0', 'A-16-B3', '4294967296-0-0'],
    ...['1-16/B374D848', ' 1-16-B3', '1-16-B3 ', '1-16-B3\n', '+1-16-B3', '1.0-16-B3', '1e1-16-B3', '１-16-B3'],
  ])('is not %j', (text) => {
    const error = refusal(text)
    expect(isSmartPgError(error, 'SMARTPG_CONFIG')).toBe(true)
    expect(error).toMatchObject({ faults: [{ path: 'session(token)', received: `'${text}'` }] })
    expect(error.message).toContain('currentToken()')
  })

  test('is text, and nothing else is shown of what is not', () => {
    const given: [unknown, string][] = [[undefined, 'undefined'], [null, 'null'], [7, 'number'], [{ a: 'secret' }, 'object'], [['1-0-0'], 'object']] // prettier-ignore
    for (const [value, received] of given) expect(refusal(value)).toMatchObject({ faults: [{ received }] })
  })

  test('is short: a long one is refused unread and not repeated', () => {
    const long = '1-16-B3'.padEnd(1_000_000, 'F')
    expect(refusal(long)).toMatchObject({ faults: [{ received: 'text of 1000000 characters' }] })
    expect(refusal(long).message.length).toBeLessThan(300)
    expect(parseToken('4294967295-FFFFFFFF-FFFFFFFF')).toEqual({ timeline: 0xffff_ffff, lsn: 2n ** 64n - 1n })
  })

  test('is blamed on where it was handed in', () => {
    expect(refusal('x', 'cookie')).toMatchObject({ faults: [{ path: 'cookie' }] })
  })
})

describe('of two tokens', () => {
  test('the one of the newer timeline counts, although its number is lower', () => {
    expect(newerToken({ timeline: 1, lsn: 900n }, { timeline: 2, lsn: 500n })).toEqual({ timeline: 2, lsn: 500n })
    expect(newerToken({ timeline: 1, lsn: 900n }, { timeline: 1, lsn: 901n })).toEqual({ timeline: 1, lsn: 901n })
  })

  test('the same one counts in whatever order they come, one of many likewise', () => {
    fc.assert(
      fc.property(someToken, someToken, someToken, (a, b, c) => {
        expect(newerToken(a, b)).toEqual(newerToken(b, a))
        expect([a, b]).toContainEqual(newerToken(a, b))
        expect(newerToken(a, newerToken(b, c))).toEqual(newerToken(newerToken(a, b), c))
      }),
    )
  })
})

describe('a replica shows a write', () => {
  const current = { timeline: 2, beganAt: 500n }

  test('of the current timeline when it has replayed as far as the write', () => {
    expect(satisfied({ timeline: 2, lsn: 600n }, 600n, current)).toBe(true)
    expect(satisfied({ timeline: 2, lsn: 600n }, 599n, current)).toBe(false)
  })

  test('of an older timeline when it has replayed as far as the current one was first seen, whatever the number', () => {
    for (const lsn of [1n, 499n, 9_000n]) {
      expect(satisfied({ timeline: 1, lsn }, 500n, current)).toBe(true)
      expect(satisfied({ timeline: 1, lsn }, 499n, current)).toBe(false)
      // Where that is not known nobody can know.
      expect(satisfied({ timeline: 1, lsn }, 9_999n, { timeline: 2, beganAt: null })).toBe(false)
    }
  })

  test('of a newer timeline never: somebody has seen a failover that was not seen here', () => {
    expect(satisfied({ timeline: 3, lsn: 1n }, 9_999n, current)).toBe(false)
    expect(satisfied({ timeline: 1, lsn: 1n }, 9_999n, { timeline: 0, beganAt: 1n })).toBe(false)
  })

  test('never as long as it has not said how far it is', () => {
    for (const timeline of [1, 2]) expect(satisfied({ timeline, lsn: 0n }, null, current)).toBe(false)
  })

  test('once it does it goes on doing so, and shows every write before it, too', () => {
    const anyCurrent = fc.record({ timeline: fc.integer({ min: 0, max: 3 }), beganAt: fc.bigInt({ min: 0n, max: 5n }) })
    const replayed = fc.bigInt({ min: 0n, max: 5n })
    fc.assert(
      fc.property(someToken, someToken, replayed, replayed, anyCurrent, (one, other, less, more, now) => {
        // Nothing of the current timeline lies before its beginning.
        fc.pre([one, other].every(({ timeline, lsn }) => timeline !== now.timeline || lsn >= now.beganAt))
        if (less <= more && satisfied(one, less, now)) expect(satisfied(one, more, now)).toBe(true)
        const newer = newerToken(one, other)
        if (satisfied(newer, more, now)) expect([one, other].map((token) => satisfied(token, more, now))).toEqual([true, true]) // prettier-ignore
      }),
      { numRuns: 1_000 },
    )
  })
})

describe('the position behind a write', () => {
  const row = { lsn: '0/5000', timeline: '0000001F', block: '8192', segment: '16777216' }

  test('is read as the server says it: the timeline as in the name of a WAL file', () => {
    expect(positionOf(row)).toEqual({ timeline: 31, lsn: 0x5000n })
  })

  test('stands before a page header that no idle replica ever reaches', () => {
    expect(positionOf({ ...row, lsn: '0/6018' })).toEqual({ timeline: 31, lsn: 0x6000n })
    expect(positionOf({ ...row, lsn: '3/28' })).toEqual({ timeline: 31, lsn: 3n << 32n })
    // Pages and segments of other sizes.
    expect(positionOf({ ...row, lsn: '0/6018', block: '32768' })).toEqual({ timeline: 31, lsn: 0x6018n })
    expect(positionOf({ ...row, lsn: '0/100028', segment: '1048576' })).toEqual({ timeline: 31, lsn: 0x10_0000n })
  })

  test.each<[string, object]>([
    ['is a standby', { lsn: null, timeline: null }],
    ['does not tell its timeline', { timeline: null }],
    ['does not tell its position', { lsn: null }],
    ['answers nothing', { lsn: undefined, timeline: undefined }],
    ['answers by parsers of the user', { lsn: 7, timeline: new Date(0) }],
    ['answers nonsense', { lsn: 'x/y', timeline: '00000001' }],
    ['is on timeline 0, which there is not', { timeline: '00000000' }],
  ])('is none where the server %s', (_, said) => {
    expect(positionOf({ ...row, ...said })).toBeNull()
  })

  test('is taken by usual sizes where the server does not tell them', () => {
    for (const size of [null, '', 'x', '0', '-1', '1.5', 8192]) {
      expect(positionOf({ ...row, lsn: '0/6018', block: size, segment: size })).toEqual({ timeline: 31, lsn: 0x6000n })
    }
  })
})
