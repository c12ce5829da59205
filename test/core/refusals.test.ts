import { describe, expect, test } from 'vitest'
import { Refusals } from '../../src/core/refusals.ts'

const MINUTE = 60_000

describe('a text that a standby has refused', () => {
  test('is remembered with the reason, and no other text is', () => {
    const refusals = new Refusals()
    refusals.add('select a from v', 'cannot execute nextval() during recovery', 0)
    expect(refusals.of('select a from v', 1)).toBe('cannot execute nextval() during recovery')
    expect(refusals.of('select a from V', 1)).toBe(null)
    expect(refusals.of('select a from v ', 1)).toBe(null)
  })

  test('is remembered for ten minutes, since others may have changed the catalog unseen', () => {
    const refusals = new Refusals()
    refusals.add('select a from v', 'recovery', 1_000)
    expect(refusals.of('select a from v', 1_000 + 10 * MINUTE - 1)).toBe('recovery')
    expect(refusals.of('select a from v', 1_000 + 10 * MINUTE)).toBe(null)
  })

  test('that is refused again later is remembered from then on', () => {
    const refusals = new Refusals()
    refusals.add('select a from v', 'the first time', 0)
    refusals.add('select a from v', 'the second time', 9 * MINUTE)
    expect(refusals.of('select a from v', 15 * MINUTE)).toBe('the second time')
  })

  test('is forgotten with all others when definitions change', () => {
    const refusals = new Refusals()
    refusals.add('select a from v', 'recovery', 0)
    refusals.add('select b from w', 'recovery', 0)
    refusals.forget()
    expect(refusals.of('select a from v', 1)).toBe(null)
    expect(refusals.of('select b from w', 1)).toBe(null)
    expect(refusals.size).toBe(0)
  })

  test('is not remembered when it is a program of its own: with its values in it it does not come again', () => {
    const refusals = new Refusals()
    const long = `select ${'1,'.repeat(40_000)} 1`
    refusals.add(long, 'recovery', 0)
    expect(refusals.of(long, 1)).toBe(null)
    expect(refusals.size).toBe(0)
  })
})

describe('of very many texts', () => {
  test('the thousand that came last are remembered: those that are asked for stay', () => {
    const refusals = new Refusals()
    refusals.add('select the_first', 'recovery', 0)
    for (let i = 0; i < 5_000; i++) {
      refusals.add(`select ${i}`, 'recovery', 0)
      expect(refusals.of('select the_first', 1)).toBe('recovery')
    }
    expect(refusals.size).toBe(1_000)
    expect(refusals.of('select 4999', 1)).toBe('recovery')
    expect(refusals.of('select 3000', 1)).toBe(null)
  })
})
