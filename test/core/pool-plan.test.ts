// When a pool opens, when it waits and when it closes, as properties of the plan: they hold for every state a
// pool can be in, the improbable ones included.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CONNECTS_AT_ONCE, connectBackoff, lifetimeEnd, planPool, planShrink } from '../../src/core/pool-plan.ts'
import type { PoolBounds, PoolState } from '../../src/core/pool-plan.ts'
import { seededChance } from '../support/chance.ts'

const bounds: PoolBounds = { min: 1, max: 10, minIdle: 1 }
const atRest: PoolState = { total: 2, idle: 2, connecting: 0, waiting: 0, workMs: 0, connectMs: 20, headWaitMs: 0 }

const anyBounds: fc.Arbitrary<PoolBounds> = fc
  .record({ max: fc.integer({ min: 1, max: 60 }), min: fc.nat(60), minIdle: fc.nat(60) })
  .map(({ max, min, minIdle }) => ({ max, min: Math.min(min, max), minIdle: Math.min(minIdle, max) }))

/** Also pools that are over their bounds: `max` was learned from the server after they were opened. */
const anyState: fc.Arbitrary<PoolState> = fc
  .record({
    idle: fc.nat(40),
    busy: fc.nat(40),
    connecting: fc.nat(20),
    waiting: fc.oneof(fc.constant(0), fc.nat(500)),
    workMs: fc.oneof(fc.constant(Infinity), fc.double({ min: 0, max: 100_000, noNaN: true })),
    connectMs: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 10_000, noNaN: true })),
    headWaitMs: fc.double({ min: 0, max: 20_000, noNaN: true }),
  })
  .map(({ busy, ...state }) => ({ ...state, total: state.idle + busy + state.connecting }))

const endsOfTwenty = (seed: number): number[] => {
  const chance = seededChance(seed)
  return Array.from({ length: 20 }, () => lifetimeEnd(0, 30 * 60_000, chance())).toSorted((a, b) => a - b)
}
/** The shortest time in which `count` of the pool end. */
const closest = (ends: number[], count: number): number =>
  Math.min(...ends.slice(count - 1).map((end, i) => end - ends[i]!))

describe('opening', () => {
  test('a caller who waits gets a connection opened', () => {
    const state = { ...atRest, total: 2, idle: 0, waiting: 1, headWaitMs: 30 }
    expect(planPool(state, bounds)).toEqual({ do: 'open', count: 1, because: 'caller-waiting' })
  })

  test('the first connection is opened without asking how long it will take', () => {
    const nothing = { total: 0, idle: 0, connecting: 0, waiting: 1, workMs: 1, connectMs: 1_000, headWaitMs: 0 }
    expect(planPool(nothing, bounds)).toMatchObject({ do: 'open', count: 1 })
  })

  test('one connection is opened for each caller who waits, and no more', () => {
    const crowd = { ...atRest, total: 1, idle: 0, waiting: 5, headWaitMs: 30 }
    expect(planPool(crowd, bounds)).toMatchObject({ do: 'open', count: 5 })
  })

  test('connections that are being opened already count as answers to those who wait', () => {
    const crowd = { ...atRest, total: 5, idle: 0, connecting: 4, waiting: 5, headWaitMs: 30 }
    expect(planPool(crowd, bounds)).toMatchObject({ do: 'open', count: 1 })
    expect(planPool({ ...crowd, waiting: 4 }, bounds)).toEqual({ do: 'wait', because: 'at-rest' })
  })

  test('a queue that will be empty before a connect ends is left to those who are here', () => {
    const state = { ...atRest, total: 4, idle: 0, waiting: 4, workMs: 20, connectMs: 20, headWaitMs: 1 }
    expect(planPool(state, bounds)).toEqual({ do: 'wait', because: 'queue-drains-first' })
  })

  test('as soon as someone has waited longer than a connect takes, the forecast was wrong and one is opened', () => {
    const state = { ...atRest, total: 4, idle: 0, waiting: 4, workMs: 20, connectMs: 20, headWaitMs: 21 }
    expect(planPool(state, bounds)).toMatchObject({ do: 'open', because: 'caller-waiting' })
  })

  test('a pool at its bound says so', () => {
    const state = { ...atRest, total: 10, idle: 0, waiting: 7, headWaitMs: 1_000 }
    expect(planPool(state, bounds)).toEqual({ do: 'wait', because: 'at-max' })
  })

  test('a pool below its minimum opens what is missing, without anybody waiting', () => {
    const state = { ...atRest, total: 1, idle: 1 }
    expect(planPool(state, { min: 4, max: 10, minIdle: 1 })).toEqual({ do: 'open', count: 3, because: 'below-min' })
  })

  test('a busy pool keeps spare connections idle', () => {
    const state = { ...atRest, total: 3, idle: 0 }
    expect(planPool(state, { min: 1, max: 10, minIdle: 2 })).toEqual({
      do: 'open',
      count: 2,
      because: 'below-min-idle',
    })
  })

  test('never above max, and never more than sixteen connects at once', () => {
    fc.assert(
      fc.property(anyState, anyBounds, (state, anyBound) => {
        const plan = planPool(state, anyBound)
        if (plan.do === 'wait') return
        expect(plan.count).toBeGreaterThan(0)
        expect(state.total + plan.count).toBeLessThanOrEqual(anyBound.max)
        expect(state.connecting + plan.count).toBeLessThanOrEqual(CONNECTS_AT_ONCE)
      }),
    )
  })

  test('never for a caller whose turn comes before the connect would end', () => {
    fc.assert(
      fc.property(anyState, anyBounds, (state, anyBound) => {
        const serving = state.total - state.connecting
        fc.pre(serving > 0 && state.connectMs > 0 && state.headWaitMs <= state.connectMs)
        fc.pre(state.workMs / serving < state.connectMs)
        expect(planPool(state, anyBound)).not.toMatchObject({ because: 'caller-waiting' })
      }),
    )
  })

  test('an empty pool opens for whoever waits, whatever it has measured', () => {
    fc.assert(
      fc.property(anyState, anyBounds, fc.integer({ min: 1, max: 500 }), (state, anyBound, waiting) => {
        const empty = { ...state, total: 0, idle: 0, connecting: 0, waiting }
        expect(planPool(empty, anyBound)).toMatchObject({ do: 'open', because: 'caller-waiting' })
      }),
    )
  })

  test('carrying out the plan again and again reaches the minimum and then rests', () => {
    fc.assert(
      fc.property(anyBounds, (anyBound) => {
        let state: PoolState = { ...atRest, total: 0, idle: 0 }
        for (let round = 0; round < 20; round++) {
          const plan = planPool(state, anyBound)
          if (plan.do === 'wait') break
          state = { ...state, total: state.total + plan.count, idle: state.idle + plan.count }
        }
        expect(planPool(state, anyBound)).toEqual({ do: 'wait', because: 'at-rest' })
        expect(state.total).toBe(Math.max(anyBound.min, anyBound.minIdle))
      }),
    )
  })
})

describe('closing', () => {
  test('idle connections that nobody needed for long are closed down to the minimum', () => {
    const state = { ...atRest, total: 5, idle: 5 }
    expect(planShrink(state, bounds, [900, 800, 700, 600, 500], 500)).toBe(4)
  })

  test('a connection that was used lately stays, however many there are', () => {
    const state = { ...atRest, total: 5, idle: 5 }
    expect(planShrink(state, bounds, [900, 800, 10, 5, 1], 500)).toBe(2)
  })

  test('never below min, never below minIdle, never one that is not overdue', () => {
    fc.assert(
      fc.property(anyState, anyBounds, fc.array(fc.nat(1_000), { maxLength: 40 }), (state, anyBound, ages) => {
        const idleFor = ages.slice(0, state.idle)
        const closed = planShrink(state, anyBound, idleFor, 500)
        expect(closed).toBeGreaterThanOrEqual(0)
        expect(closed).toBeLessThanOrEqual(idleFor.filter((ms) => ms >= 500).length)
        if (closed === 0) return
        expect(state.total - closed).toBeGreaterThanOrEqual(anyBound.min)
        expect(state.idle - closed).toBeGreaterThanOrEqual(anyBound.minIdle)
      }),
    )
  })

  test('what was closed is not opened again at once', () => {
    fc.assert(
      fc.property(anyState, anyBounds, (state, anyBound) => {
        fc.pre(state.waiting === 0)
        const ages = Array.from({ length: state.idle }, () => 1_000)
        const closed = planShrink(state, anyBound, ages, 500)
        fc.pre(closed > 0)
        const after = { ...state, total: state.total - closed, idle: state.idle - closed }
        expect(planPool(after, anyBound)).toEqual({ do: 'wait', because: 'at-rest' })
      }),
    )
  })
})

describe('the end of a lifetime', () => {
  test('lies within 15 % of the option', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (chance) => {
        const end = lifetimeEnd(5_000, 1_000, chance)
        expect(end).toBeGreaterThanOrEqual(5_850)
        expect(end).toBeLessThanOrEqual(6_150)
      }),
    )
  })

  test('no two of a pool of twenty opened in one moment end within 8 ms of each other', () => {
    expect(closest(endsOfTwenty(7), 2)).toBeGreaterThan(8)
  })

  test('a pool opened in one moment never ends in one moment, whatever chance says', () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        expect(closest(endsOfTwenty(seed), 4)).toBeGreaterThan(8)
        const ends = endsOfTwenty(seed)
        expect(ends.at(-1)! - ends[0]!).toBeGreaterThan(60_000)
      }),
    )
  })
})

describe('the pause after a failed connect', () => {
  test('is a random share of a time that doubles with each failure, up to a bound', () => {
    expect([1, 2, 3, 4, 5, 6].map((failures) => connectBackoff(failures, 0.5))).toEqual([50, 100, 200, 250, 250, 250])
  })

  test('is never longer than its bound and never negative, however often it failed', () => {
    fc.assert(
      fc.property(
        fc.nat(100_000),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (failures, chance) => {
          const ms = connectBackoff(failures, chance)
          expect(ms).toBeGreaterThanOrEqual(0)
          expect(ms).toBeLessThanOrEqual(500)
        },
      ),
    )
  })
})
