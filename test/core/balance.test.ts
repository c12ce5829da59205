// Which of the replicas that may take a read takes it: who comes into question, and what each strategy makes of them.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { nextInUse } from '../../src/core/adaptive.ts'
import type { PlainStrategy } from '../../src/core/adaptive.ts'
import { Balancer } from '../../src/core/balance.ts'
import type { BalanceRules, BalanceStrategy, Replica } from '../../src/core/balance.ts'
import { Standing } from '../../src/core/standing.ts'
import type { Traits } from '../../src/core/standing.ts'
import { seededChance } from '../support/chance.ts'

const strategies = ['performance', 'round-robin', 'least-connections', 'random', 'adaptive'] as const

interface TestReplica extends Replica {
  load: number
}

function replica(name: string, traits: Partial<Traits> = {}, load = 0): TestReplica {
  return { name, standing: new Standing({ zone: undefined, weight: 1, priority: 1, tags: [], ...traits }), load }
}

function balancer(strategy: BalanceStrategy, rules: Partial<BalanceRules> = {}, seed = 1): Balancer {
  return new Balancer({ strategy, zone: undefined, healthThreshold: 50, ...rules }, seededChance(seed))
}

/** How often each was chosen. */
function countsOf(by: Balancer, candidates: readonly Replica[], reads: number, now = 0): Record<string, number> {
  const counts: Record<string, number> = {}
  for (let i = 0; i < reads; i++) {
    const { name } = by.choose(candidates, candidates.length, now)!
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

const namesOf = (by: Balancer, candidates: readonly Replica[], now = 0): string[] =>
  Object.keys(countsOf(by, candidates, 300, now)).toSorted()

/** So many of a hundred calls fail. */
function fails(one: Replica, percent: number, now = 0): void {
  for (let i = 0; i < 100; i++) one.standing.answered(i >= percent, 1, now)
}

/** Its answers take so many times what is usual. */
function answersSlowly(one: Replica, times: number, now = 0): void {
  for (let i = 0; i < 200; i++) one.standing.answered(true, 100 * times, now + i, 100)
}

const aTime = fc.oneof(fc.constant(0), fc.constant(Infinity), fc.double({ min: 0, max: 1e15, noNaN: true }))
const aReplica = fc
  .record({
    zone: fc.constantFrom(undefined, 'a', 'b'),
    weight: fc.oneof(fc.constant(1), fc.double({ min: 1e-6, max: 1000, noNaN: true })),
    priority: fc.integer({ min: 1, max: 3 }),
    load: fc.nat(1000),
    answers: fc.array(fc.tuple(fc.boolean(), aTime, aTime), { maxLength: 12 }),
    lagMs: fc.option(aTime),
    returnedAt: fc.option(fc.nat(20_000)),
    ejectedFor: fc.option(fc.nat(60_000)),
  })
  .map(({ zone, weight, priority, load, answers, lagMs, returnedAt, ejectedFor }) => () => {
    const one = replica('', { zone, weight, priority }, load)
    if (returnedAt !== null) one.standing.returned(returnedAt)
    answers.forEach(([ok, tookMs, usualMs], i) => one.standing.answered(ok, tookMs, 1_000 * i, usualMs))
    one.standing.observedLag(lagMs, 10_000)
    if (ejectedFor !== null) one.standing.eject(ejectedFor, 12_000)
    return one
  })
const someReplicas = fc.array(aReplica, { minLength: 1, maxLength: 20 })
const aCase = fc.record({
  makers: someReplicas,
  strategy: fc.constantFrom(...strategies),
  zone: fc.constantFrom(undefined, 'a'),
  seed: fc.integer(),
  times: fc.array(fc.nat(100_000), { minLength: 1, maxLength: 20 }),
})

describe('a read', () => {
  test('is taken by nobody where there is nobody', () => {
    for (const strategy of strategies) expect(balancer(strategy).choose([], 0, 0)).toBeNull()
  })

  test('is always taken by one of the first `count` candidates, whatever they have been through', () => {
    fc.assert(
      fc.property(aCase, fc.nat(), ({ makers, strategy, zone, seed, times }, more) => {
        const candidates = makers.map((make) => make())
        const by = balancer(strategy, { zone }, seed)
        const count = 1 + (more % candidates.length)
        for (const now of times) expect(candidates.slice(0, count)).toContain(by.choose(candidates, count, now))
      }),
    )
  })

  test('goes the same way for the same chance', () => {
    fc.assert(
      fc.property(aCase, ({ makers, strategy, zone, seed, times }) => {
        const way = (): number[] => {
          const candidates = makers.map((make) => make())
          const by = balancer(strategy, { zone }, seed)
          return times.map((now) => candidates.indexOf(by.choose(candidates, candidates.length, now)!))
        }
        expect(way()).toEqual(way())
      }),
    )
  })
})

describe.each(strategies)('with %s, a read', (strategy) => {
  test('never goes to the second priority while one of the first will do', () => {
    const [first, second] = [replica('first', { priority: 1 }, 100), replica('second', { priority: 2 })]
    expect(namesOf(balancer(strategy), [second, first])).toEqual(['first'])
  })

  test('goes to the second priority when none of the first will do', () => {
    const [ejected, ill, second] = [replica('ejected'), replica('ill'), replica('second', { priority: 2 })]
    ejected.standing.eject(30_000, 0)
    fails(ill, 80)
    expect(namesOf(balancer(strategy), [ejected, ill, second])).toEqual(['second'])
  })

  test('stays in its own zone, within the priority', () => {
    const here = replica('here', { zone: 'a' }, 50)
    const there = replica('there', { zone: 'b' })
    const first = replica('first', { zone: 'b', priority: 1 })
    const second = replica('second', { zone: 'a', priority: 2 })
    expect(namesOf(balancer(strategy, { zone: 'a' }), [there, here, replica('anywhere')])).toEqual(['here'])
    expect(namesOf(balancer(strategy, { zone: 'a' }), [second, first])).toEqual(['first'])
  })

  test('goes to all zones where this process has none', () => {
    const candidates = [replica('a', { zone: 'a' }), replica('b', { zone: 'b' }), replica('c')]
    expect(namesOf(balancer(strategy), candidates)).toEqual(['a', 'b', 'c'])
  })

  test('goes to the replicas by their weights where they are alike', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 2, maxLength: 5 }),
        fc.integer(),
        (weights, seed) => {
          const candidates = weights.map((weight, i) => replica(`${i}`, { weight }))
          const counts = countsOf(balancer(strategy, {}, seed), candidates, 6_000)
          const sum = weights.reduce((a, b) => a + b, 0)
          // Six standard deviations.
          weights.forEach((weight, i) =>
            expect(Math.abs((counts[`${i}`] ?? 0) / 6_000 - weight / sum)).toBeLessThan(0.04),
          )
        },
      ),
      { numRuns: 20 },
    )
  })

  test('goes at first to a tenth as often to a replica that has just returned, and after ten seconds as to any other', () => {
    const shareAt = (now: number): number => {
      const [back, other] = [replica('back'), replica('other')]
      other.standing.returned(-60_000)
      back.standing.returned(0)
      return (countsOf(balancer(strategy), [back, other], 6_000, now)['back'] ?? 0) / 6_000
    }
    expect(shareAt(0)).toBeGreaterThan(0.02)
    expect(shareAt(0)).toBeLessThan(0.12)
    expect(shareAt(5_000)).toBeGreaterThan(0.2)
    expect(shareAt(5_000)).toBeLessThan(0.4)
    expect(shareAt(10_000)).toBeGreaterThan(0.46)
  })

  test('is shared between two that have returned one after the other, as if the first were all there', () => {
    const [first, second] = [replica('first'), replica('second')]
    first.standing.returned(0)
    second.standing.returned(5_000)
    const counts = countsOf(balancer(strategy), [first, second], 6_000, 5_000)
    // Half of 0.1 of 0.55.
    expect(Math.abs(counts['second']! / 6_000 - 0.09)).toBeLessThan(0.025)
  })

  test('is spread evenly where all have just returned, as when a process starts', () => {
    const candidates = ['a', 'b', 'c'].map((name) => replica(name))
    for (const { standing } of candidates) standing.returned(0)
    for (const count of Object.values(countsOf(balancer(strategy), candidates, 3_000)))
      expect(count).toBeGreaterThan(900)
  })

  test('goes to whoever has just returned when there is nobody else', () => {
    const back = replica('back')
    back.standing.returned(0)
    expect(namesOf(balancer(strategy), [back])).toEqual(['back'])
  })

  test('goes to the best, and who is nearly as good, when none is healthy', () => {
    const [bad, worse, worst] = [replica('bad'), replica('worse'), replica('worst')]
    fails(bad, 70)
    fails(worse, 75)
    fails(worst, 95)
    expect(namesOf(balancer(strategy), [worst, bad, worse])).toEqual(['bad', 'worse'])
  })

  test('goes to an ejected replica only when all are', () => {
    const [ejected, ill] = [replica('ejected'), replica('ill')]
    ejected.standing.eject(30_000, 0)
    fails(ill, 90)
    expect(namesOf(balancer(strategy), [ejected, ill])).toEqual(['ill'])
    ill.standing.eject(30_000, 0)
    expect(namesOf(balancer(strategy), [ejected, ill])).toEqual(['ejected', 'ill'])
    expect(namesOf(balancer(strategy), [ejected])).toEqual(['ejected'])
  })
})

describe('a replica below the health threshold', () => {
  test('gets no reads until it is ten above it', () => {
    const [ill, well] = [replica('ill'), replica('well')]
    const by = balancer('random', { healthThreshold: 50 })
    // 55 of 105: the credit of five counts.
    fails(ill, 55)
    expect(namesOf(by, [ill, well])).toEqual(['well'])
    // 59.8, then 60.2
    for (let i = 0; i < 19; i++) ill.standing.answered(true, 1, 0)
    expect(namesOf(by, [ill, well], 1_000)).toEqual(['well'])
    for (let i = 0; i < 14; i++) ill.standing.answered(true, 1, 0)
    expect(ill.standing.health(2_000)).toBeGreaterThan(60)
    expect(namesOf(by, [ill, well], 2_000)).toEqual(['ill', 'well'])
  })

  test('is not taken away by a threshold of 0', () => {
    const [ill, well] = [replica('ill'), replica('well')]
    fails(ill, 100)
    expect(namesOf(balancer('random', { healthThreshold: 0 }), [ill, well])).toEqual(['ill', 'well'])
  })
})

describe('performance', () => {
  test('takes the one of two with less under way', () => {
    expect(namesOf(balancer('performance'), [replica('busy', {}, 3), replica('idle')])).toEqual(['idle'])
  })

  test('takes the faster one of two, until that has so much more under way', () => {
    const [slow, fast] = [replica('slow', {}, 0), replica('fast', {}, 2)]
    for (let i = 0; i < 200; i++) slow.standing.answered(true, 180 + i / 10, i, 100)
    expect(namesOf(balancer('performance', { healthThreshold: 0 }), [slow, replica('idle')], 200)).toEqual(['idle'])
    expect(namesOf(balancer('performance', { healthThreshold: 0 }), [slow, fast], 200)).toEqual(['slow'])
  })

  test('leaves a small difference to chance', () => {
    const [slower, faster] = [replica('slower'), replica('faster')]
    for (let i = 0; i < 400; i++) slower.standing.answered(true, 115, i, 100)
    expect(slower.standing.pace.felt(400)).toBeGreaterThan(1.1)
    expect(namesOf(balancer('performance'), [slower, faster], 400)).toEqual(['faster', 'slower'])
  })

  test('never takes the worst of three or more', () => {
    const candidates = [1, 2, 3, 4].map((load) => replica(`${load}`, {}, load * load))
    expect(namesOf(balancer('performance'), candidates)).toEqual(['1', '2', '3'])
  })

  test('reckons with what is under way in proportion to the weights, whatever they are measured in', () => {
    for (const unit of [0.01, 1, 100]) {
      const [large, small] = [replica('large', { weight: 3 * unit }, 15), replica('small', { weight: unit }, 5)]
      expect(namesOf(balancer('performance'), [large, small])).toEqual(['large', 'small'])
      small.load = 10
      expect(namesOf(balancer('performance'), [large, small])).toEqual(['large'])
      large.load = 45
      expect(namesOf(balancer('performance'), [large, small])).toEqual(['small'])
    }
  })

  test('is drawn to no replica because nothing is known of it', () => {
    const [known, unknown] = [replica('known'), replica('unknown')]
    answersSlowly(known, 1)
    const counts = countsOf(balancer('performance'), [known, unknown], 3_000, 200)
    expect(Math.abs(counts['known']! - 1_500)).toBeLessThan(150)
  })
})

describe('round-robin', () => {
  test('asks all in turns', () => {
    const candidates = ['a', 'b', 'c'].map((name) => replica(name))
    const by = balancer('round-robin')
    for (let i = 0; i < 10; i++) expect(Object.keys(countsOf(by, candidates, 3))).toHaveLength(3)
  })

  test('asks by weight, exactly, and never the heaviest as often in a row as it weighs', () => {
    const candidates = [replica('a', { weight: 5 }), replica('b'), replica('c')]
    const by = balancer('round-robin')
    const order = Array.from({ length: 70 }, () => by.choose(candidates, 3, 0)!.name).join('')
    expect(order.replaceAll('a', '')).toHaveLength(20)
    expect(order.replaceAll(/[^b]/g, '')).toHaveLength(10)
    expect(order).not.toContain('aaaaa')
  })

  test('begins anywhere, or all processes would begin with the same one', () => {
    const first = (seed: number): string => {
      const candidates = ['a', 'b', 'c'].map((name) => replica(name))
      return balancer('round-robin', {}, seed).choose(candidates, 3, 0)!.name
    }
    expect(new Set(Array.from({ length: 40 }, (_, seed) => first(seed)))).toEqual(new Set(['a', 'b', 'c']))
  })
})

describe('least-connections', () => {
  test('takes the one with the least under way for its weight', () => {
    const candidates = [replica('large', { weight: 10 }, 9), replica('small', {}, 1), replica('busy', {}, 2)]
    expect(namesOf(balancer('least-connections'), candidates)).toEqual(['large'])
  })
})

describe('adaptive', () => {
  const reads = (by: Balancer, candidates: readonly Replica[], from: number, until: number): void => {
    for (let now = from; now < until; now += 10) by.choose(candidates, candidates.length, now)
  }

  test('goes by speed at first, by turns when the replicas turn out to be alike and idle, and says why', () => {
    const by = balancer('adaptive')
    expect(by.using).toEqual({ strategy: 'performance', because: 'nothing is known of the replicas yet' })
    reads(by, [replica('a'), replica('b')], 0, 1_500)
    expect(by.using).toEqual({
      strategy: 'round-robin',
      because: 'the replicas are alike, with 0.0 statements under way',
    })
  })

  test('counts what is under way when they are alike and busy', () => {
    const by = balancer('adaptive')
    reads(by, [replica('a', {}, 3), replica('b', {}, 3)], 0, 3_000)
    expect(by.using.strategy).toBe('least-connections')
  })

  test('goes by speed within a second when one becomes slow, and for ten seconds at least', () => {
    const by = balancer('adaptive', { healthThreshold: 0 })
    const candidates = [replica('a'), replica('b')]
    reads(by, candidates, 0, 2_000)
    answersSlowly(candidates[0]!, 3, 2_000)
    reads(by, candidates, 2_200, 3_300)
    expect(by.using.strategy).toBe('performance')
    expect(by.using.because).toMatch(/^the slowest replica takes [23]\.\d times as long as the fastest$/)
    for (let i = 0; i < 1_000; i++) candidates[0]!.standing.answered(true, 1, 3_300, 1)
    reads(by, candidates, 3_300, 12_000)
    expect(by.using.strategy).toBe('performance')
    reads(by, candidates, 12_000, 14_000)
    expect(by.using.strategy).toBe('round-robin')
  })

  test('stops going by turns at once when something holds a replica up', () => {
    const by = balancer('adaptive')
    const candidates = [replica('a'), replica('b')]
    reads(by, candidates, 0, 2_000)
    candidates[0]!.load = 4
    countsOf(by, candidates, 2, 2_000)
    expect(by.using).toEqual({
      strategy: 'least-connections',
      because: 'by turns a replica had 4 statements under way',
    })
  })
})

test.each<[PlainStrategy, number, number, PlainStrategy | null]>([
  ['round-robin', 1.5, 0, 'performance'],
  ['performance', 1.49, 0, null],
  ['performance', 1.21, 5, null],
  ['performance', 1.2, 0, 'round-robin'],
  ['performance', 1.2, 0.7, 'least-connections'],
  ['performance', 1, 1, 'least-connections'],
  ['round-robin', 1.4, 0.5, 'round-robin'],
  ['round-robin', 1, 0.7, null],
  ['round-robin', 1, 1, 'least-connections'],
  ['least-connections', 1, 0.7, null],
  ['least-connections', 1, 0.5, 'round-robin'],
])('from %s, where the slowest takes %s times as long, with %s under way: %s', (current, spread, load, next) => {
  expect(nextInUse(current, spread, load)?.strategy ?? null).toBe(next)
})

test('what is configured is what is used', () => {
  for (const strategy of strategies.slice(0, 4)) {
    expect(balancer(strategy).using).toEqual({ strategy, because: 'it is configured' })
  }
})
