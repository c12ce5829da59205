// Which texts are said to have become slow by their plan, and above all which are not: a name taken away for
// nothing costs planning at every run, for good.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { PlanWatch } from '../../src/core/plan-watch.ts'
import type { PlanRegression } from '../../src/core/plan-watch.ts'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Chance, Facts } from '../../src/core/types.ts'
import { seededChance } from '../support/chance.ts'

const newText = (): Facts => ({ ...READ_FACTS, preparable: true })

/** A time in milliseconds for the how-manieth run of the name on its connection. */
type Times = (execution: number, run: number) => number

/** What runs one after the other on each connection in turn, until the verdict. */
function watched(watch: PlanWatch, facts: Facts, runs: number, times: Times, connections = 1): Ending {
  for (let run = 0; run < runs; run++) {
    const execution = 1 + Math.floor(run / connections)
    const regression = watch.observe(facts, execution, times(execution, run))
    if (regression !== null) return { regression, runs: run + 1 }
  }
  return { regression: null, runs }
}

interface Ending {
  regression: PlanRegression | null
  runs: number
}

/** 0.28 ms planned for its parameters, 16 ms with the plan for all: as it was measured. */
const skewed: Times = (execution) => (execution <= 5 ? 0.28 : 16)

/** The five first runs of one connection. */
const planned = (watch: PlanWatch, facts: Facts, ms: number): void => {
  for (let execution = 1; execution <= 5; execution++) watch.observe(facts, execution, ms)
}

/** As many runs with one plan for all. */
const generic = (watch: PlanWatch, facts: Facts, runs: number, ms: number): (PlanRegression | null)[] =>
  Array.from({ length: runs }, (_, run) => watch.observe(facts, 6 + run, ms))

/** Logarithm normal: `sigma` 1 is what servers do, 2 is a server in trouble. */
const lognormal = (chance: Chance, medianMs: number, sigma: number): number =>
  medianMs * Math.exp(sigma * Math.sqrt(-2 * Math.log(1 - chance())) * Math.cos(2 * Math.PI * chance()))

/** Every tenth is ten times slower, and so on without an end: it has no mean. */
const pareto = (chance: Chance, leastMs: number): number => leastMs / (1 - chance())

const either = (chance: Chance, share: number, slowMs: number, fastMs: number): number =>
  chance() < share ? slowMs : fastMs

describe('a text whose plan for all parameters is far worse', () => {
  test.each([
    [1, 69],
    [2, 74],
    [4, 84],
    [10, 114],
  ])('is found out on %i connections after 64 slow runs', (connections, runs) => {
    const ending = watched(new PlanWatch(), newText(), 1000, skewed, connections)
    expect(ending.runs).toBe(runs)
    expect(ending.regression!.baselineMs).toBeCloseTo(0.28)
    expect(ending.regression!.nowMs).toBe(16)
  })

  test('is found out although its times scatter, and some of its runs are for values that suit the plan', () => {
    const chance = seededChance(1)
    const endings = Array.from({ length: 200 }, () =>
      watched(
        new PlanWatch(),
        newText(),
        300,
        (execution) => (execution > 5 && chance() < 0.9 ? lognormal(chance, 16, 0.5) : lognormal(chance, 0.28, 0.5)),
        2,
      ),
    )
    expect(endings.filter(({ regression }) => regression === null)).toEqual([])
  })

  test('is found out on four connections although the first runs were for the slow value here and there', () => {
    const chance = seededChance(2)
    const endings = Array.from({ length: 200 }, () =>
      watched(new PlanWatch(), newText(), 300, (execution) => (execution > 5 ? 16 : either(chance, 0.1, 16, 0.28)), 4),
    )
    expect(endings.filter(({ regression }) => regression !== null).length).toBeGreaterThan(180)
  })

  test('is found out when it begins late, after an ANALYZE say', () => {
    const ending = watched(new PlanWatch(), newText(), 20_000, (_, run) => (run < 10_000 ? 0.28 : 16))
    expect(ending.runs).toBeGreaterThan(10_000)
    expect(ending.runs).toBeLessThanOrEqual(10_000 + 3 * 32)
  })

  test('is found out although the first run of each connection was slow, which had to fill its caches', () => {
    const cold: Times = (execution) => (execution === 1 ? 40 : skewed(execution, 0))
    expect(watched(new PlanWatch(), newText(), 200, cold).regression).toEqual({
      baselineMs: expect.closeTo(0.28) as number,
      nowMs: 16,
    })
  })

  test('is measured by the last connections: one is found out that an index had made fast meanwhile', () => {
    const [watch, text] = [new PlanWatch(), newText()]
    for (let connection = 0; connection < 10; connection++) planned(watch, text, 10)
    for (let connection = 0; connection < 4; connection++) planned(watch, text, 0.28)
    expect(generic(watch, text, 64, 16)).toContainEqual({ baselineMs: expect.closeTo(0.28) as number, nowMs: 16 })
  })

  test('is told of once, whatever comes behind it', () => {
    const watch = new PlanWatch()
    const text = newText()
    expect(watched(watch, text, 1000, skewed).regression).not.toBeNull()
    expect(watched(watch, text, 10_000, skewed).regression).toBeNull()
  })

  test('says nothing about another text, and another node says nothing about it', () => {
    const [here, elsewhere] = [new PlanWatch(), new PlanWatch()]
    const [slow, other] = [newText(), newText()]
    expect(watched(here, slow, 1000, skewed).regression).not.toBeNull()
    expect(watched(here, other, 1000, () => 16).regression).toBeNull()
    expect(generic(elsewhere, slow, 1000, 16)).not.toContainEqual(expect.anything())
  })
})

describe('the verdict', () => {
  test('is that of means: five times and no less', () => {
    expect(watched(new PlanWatch(), newText(), 1000, (execution) => (execution <= 5 ? 2 : 9.99)).regression).toBeNull()
    expect(watched(new PlanWatch(), newText(), 1000, (execution) => (execution <= 5 ? 2 : 10)).regression).toEqual({
      baselineMs: 2,
      nowMs: 10,
    })
  })

  test('asks for a millisecond more at least, however many times that is', () => {
    const becomes = (ms: number) =>
      watched(new PlanWatch(), newText(), 1000, (execution) => (execution <= 5 ? 0 : ms)).regression
    expect(becomes(1.24)).toBeNull()
    expect(becomes(1.25)).toEqual({ baselineMs: 0, nowMs: 1.25 })
  })

  test('comes after 64 runs at the earliest, always of a text that is five times and a millisecond slower', () => {
    const time = fc.oneof(fc.double({ min: 0, max: 1e6, noNaN: true }), fc.constantFrom(0, 0.28, 16, 1000))
    let verdicts = 0
    fc.assert(
      fc.property(
        fc.array(time, { minLength: 4, maxLength: 40 }),
        fc.array(time, { maxLength: 20 }),
        (first, later) => {
          const [watch, text] = [new PlanWatch(), newText()]
          for (const ms of first) watch.observe(text, 2, ms)
          for (let run = 0; run < 300; run++) {
            const regression = watch.observe(text, 6, later[run % later.length] ?? 100)
            if (regression === null) continue
            verdicts++
            expect(run).toBeGreaterThanOrEqual(63)
            expect(regression.nowMs).toBeGreaterThanOrEqual(5 * regression.baselineMs)
            expect(regression.nowMs - regression.baselineMs).toBeGreaterThanOrEqual(1)
            break
          }
        },
      ),
    )
    expect(verdicts).toBeGreaterThan(0)
  })
})

describe('a text is left alone', () => {
  test('while nobody has seen it planned for its parameters', () => {
    const [watch, text] = [new PlanWatch(), newText()]
    expect(generic(watch, text, 1000, 16)).not.toContainEqual(expect.anything())
    for (let connection = 0; connection < 100; connection++) watch.observe(text, 1, 0.28)
    expect(generic(watch, text, 1000, 16)).not.toContainEqual(expect.anything())
  })

  test('when one run, or every fourth, hangs, for however long', () => {
    const hangs = fc.double({ min: 1, max: 1e9, noNaN: true })
    fc.assert(
      fc.property(hangs, fc.integer({ min: 4, max: 100 }), (ms, every) => {
        const [watch, text] = [new PlanWatch(), newText()]
        planned(watch, text, 0.28)
        for (let run = 0; run < 500; run++) {
          expect(watch.observe(text, 6 + run, run % every === 0 ? ms : 0.28)).toBeNull()
        }
      }),
    )
  })

  test('when it has been slow for a moment: 32 runs in a row are none, and what was before is forgotten', () => {
    const [watch, text] = [new PlanWatch(), newText()]
    planned(watch, text, 0.28)
    for (let again = 0; again < 50; again++) {
      expect(generic(watch, text, 32, 16)).not.toContainEqual(expect.anything())
      expect(generic(watch, text, 32, 0.28)).not.toContainEqual(expect.anything())
    }
  })

  test('until four runs with a plan for their parameters are known, beside the first', () => {
    const [watch, text] = [new PlanWatch(), newText()]
    for (let execution = 1; execution <= 4; execution++) watch.observe(text, execution, 0.28)
    expect(generic(watch, text, 1000, 16)).not.toContainEqual(expect.anything())
    watch.observe(text, 5, 0.28)
    expect(generic(watch, text, 64, 16)).toContainEqual(expect.anything())
  })

  test('when it waits for locks, or may: then no plan is to blame', () => {
    const text: Facts = { ...newText(), lockWaiter: true }
    expect(watched(new PlanWatch(), text, 1000, skewed).regression).toBeNull()
  })

  test('when the time of a run is not known', () => {
    const ending = watched(new PlanWatch(), newText(), 1000, (execution) => (execution <= 5 ? 0.28 : NaN))
    expect(ending.regression).toBeNull()
    expect(watched(new PlanWatch(), newText(), 1000, (execution) => (execution <= 5 ? NaN : 16)).regression).toBeNull()
  })

  test('by runs of unknown time, which spoil nothing either', () => {
    const ending = watched(
      new PlanWatch(),
      newText(),
      500,
      (execution, run) => (run % 3 === 0 ? NaN : skewed(execution, run)),
      4,
    )
    expect(ending.regression).not.toBeNull()
  })

  test.each<[string, (chance: Chance) => number]>([
    ['around 3 ms', (chance) => lognormal(chance, 3, 1)],
    ['around 3 ms, widely', (chance) => lognormal(chance, 3, 2)],
    ['around 3 ms, very widely', (chance) => lognormal(chance, 3, 3)],
    ['without a mean', (chance) => pareto(chance, 1)],
    ['of two values, one in ten 57 times slower', (chance) => either(chance, 0.1, 16, 0.28)],
    ['of two values, three in ten 57 times slower', (chance) => either(chance, 0.3, 16, 0.28)],
    ['that are mostly nothing', (chance) => either(chance, 0.2, 50, 0)],
  ])('when its times are as they were: %s', (_, timeOf) => {
    // Seeds of our own: this is about how often, and a number must not differ from run to run.
    for (let seed = 0; seed < 150; seed++) {
      const chance = seededChance(seed)
      const ending = watched(new PlanWatch(), newText(), 2000, () => timeOf(chance), 1 + (seed % 4))
      expect(ending.regression, `seed ${seed}`).toBeNull()
    }
  })

  test('nearly always even when its times come in two kinds and most are of the slow one', () => {
    let condemned = 0
    for (let seed = 0; seed < 400; seed++) {
      const chance = seededChance(seed)
      const ending = watched(new PlanWatch(), newText(), 2000, () => either(chance, 0.65, 16, 0.28))
      if (ending.regression !== null) condemned++
    }
    expect(condemned).toBeLessThan(8)
  })
})

describe('when the whole server has become slow', () => {
  /** Texts that run in turn; each is planned in its first five runs. */
  function beside(texts: readonly Facts[], rounds: number, timeOf: (text: number, round: number) => number): number[] {
    const watch = new PlanWatch()
    const condemned: number[] = []
    for (let round = 0; round < rounds; round++) {
      for (const [index, facts] of texts.entries()) {
        if (watch.observe(facts, 1 + round, timeOf(index, round)) !== null) condemned.push(index)
      }
    }
    return condemned
  }

  const texts = (count: number): Facts[] => Array.from({ length: count }, newText)

  test('no text loses its name for it', () => {
    expect(beside(texts(12), 2000, (_, round) => (round < 500 ? 1 : 20))).toEqual([])
  })

  test('no text loses its name for it, however fast they all were before', () => {
    expect(beside(texts(12), 2000, (_, round) => (round < 500 ? 0 : 20))).toEqual([])
  })

  test('those count that run now, not those that ran before', () => {
    const watch = new PlanWatch()
    const all = texts(12)
    const condemned: number[] = []
    for (let round = 0; round < 1000; round++) {
      for (const [index, facts] of all.entries()) {
        if (round >= 100 && index >= 6) continue
        if (watch.observe(facts, 1 + round, round < 100 ? 1 : 20) !== null) condemned.push(index)
      }
    }
    expect(condemned).toEqual([])
  })

  test('a text that is far slower than the others still does', () => {
    const condemned = beside(texts(12), 2000, (text, round) => (round < 500 ? 1 : text === 3 ? 200 : 10))
    expect(condemned).toEqual([3])
  })

  test('a text among others that are as ever does at once', () => {
    expect(beside(texts(12), 70, (text, round) => (text === 3 && round >= 5 ? 16 : 0.28))).toEqual([3])
  })

  test('another with a bad plan of its own does not hide it, and two others are too few to ask', () => {
    const slow = (text: number): boolean => text === 0 || text === 1
    expect(beside(texts(5), 200, (text, round) => (slow(text) && round >= 5 ? 16 : 0.28))).toEqual([0, 1])
    expect(beside(texts(3), 200, (_, round) => (round >= 5 ? 16 : 0.28))).toEqual([0, 1, 2])
  })
})
