// Which transactions are run again from their beginning, how often, and after how long.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { nextTry } from '../../src/core/transaction-retry.ts'
import type { FailedTransaction } from '../../src/core/transaction-retry.ts'

const failed = (one: Partial<FailedTransaction>): FailedTransaction => ({
  codes: [],
  lostUncommitted: false,
  demoted: false,
  partlyKept: false,
  attempt: 1,
  attempts: 3,
  baseMs: 50,
  maxMs: 2_000,
  budgetLeft: true,
  ...one,
})
const middle = (): number => 0.5

describe('a transaction', () => {
  test.each<[string, Partial<FailedTransaction>]>([
    ['after a serialization failure', { codes: ['40001'] }],
    ['after a deadlock', { codes: ['40P01'] }],
    ['whose server is a standby by now', { codes: ['25006'], demoted: true }],
    ['after either that something else wraps', { codes: ['SMARTPG_BATCH', '40001'] }],
    ['that was certainly not executed', { codes: ['SMARTPG_NOT_EXECUTED', 'ECONNRESET'] }],
    ['whose connection was lost before COMMIT', { codes: ['SMARTPG_CONNECTION_LOST'], lostUncommitted: true }],
  ])('is run again: %s', (_, one) => {
    expect(nextTry(failed(one), middle)).toMatchObject({ do: 'again', after: 25 })
  })

  test.each<[string, Partial<FailedTransaction>]>([
    ['for an error of its own', { codes: ['23505'] }],
    ['for an error without a code', {}],
    ['for a lost connection alone, which may be another one', { codes: ['ECONNRESET'] }],
    ['when no connection came free', { codes: ['SMARTPG_ACQUIRE_TIMEOUT'] }],
    ['while the circuit is open', { codes: ['SMARTPG_CIRCUIT_OPEN'] }],
    ['when nobody knows whether it was applied', { codes: ['SMARTPG_OUTCOME_UNKNOWN', '40001'] }],
    ['when the server said so', { codes: ['08007'], lostUncommitted: true }],
    ['when part of it was committed by hand', { codes: ['40001'], partlyKept: true }],
    ['when the retry budget is exhausted', { codes: ['40001'], budgetLeft: false }],
    ['at its last attempt', { codes: ['40001'], attempt: 3 }],
  ])('is not run again: %s', (_, one) => {
    expect(nextTry(failed(one), middle)).toMatchObject({ do: 'fail' })
  })

  test('says why it is not run again', () => {
    const why = (one: Partial<FailedTransaction>): string =>
      nextTry(failed({ codes: ['40001'], ...one }), middle).because
    expect(why({ attempt: 3 })).toBe('3 of 3 attempts made')
    expect(why({ budgetLeft: false })).toBe('the retry budget is exhausted')
    expect(why({ partlyKept: true })).toBe('it has committed by hand what another run would do twice')
    expect(why({ codes: ['40003'] })).toBe('something of it may have been kept')
    expect(why({ codes: [] })).toBe('another run would fail as well')
  })

  test('waits anything from nothing to twice as long as before at most, and never longer than max', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (n, chance) => {
          const next = nextTry(failed({ codes: ['40001'], attempt: n, attempts: 100 }), () => chance)
          if (next.do !== 'again') throw new Error('it was to be run again')
          expect(next.after).toBeGreaterThanOrEqual(0)
          expect(next.after).toBeLessThanOrEqual(Math.min(2_000, 50 * 2 ** (n - 1)))
        },
      ),
    )
  })

  test('with anything unknown in it is never run again, whatever else is true of it', () => {
    const codes = fc.array(fc.constantFrom('40001', '40P01', 'SMARTPG_NOT_EXECUTED', 'ECONNRESET'))
    fc.assert(
      fc.property(codes, codes, fc.boolean(), (before, after, lostUncommitted) => {
        const one = failed({ codes: [...before, 'SMARTPG_OUTCOME_UNKNOWN', ...after], lostUncommitted })
        expect(nextTry(one, middle).do).toBe('fail')
      }),
    )
  })
})
