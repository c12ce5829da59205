// What becomes of many reads: hundreds a second for a minute of virtual time, at replicas of which one is slow, stalls or
// fails. Which is faster is decided by the seed and not by this machine.

import { describe, expect, test } from 'vitest'
import type { BalanceStrategy } from '../../src/core/balance.ts'
import { runLoad, shareOf } from '../support/read-load.ts'
import type { Load, LoadReplica, LoadResult, LoadText } from '../support/read-load.ts'

const oneText: readonly LoadText[] = [{ share: 1, ms: 1, sigma: 0.4 }]
const mixed: readonly LoadText[] = [
  { share: 0.9, ms: 0.5, sigma: 0.5 },
  { share: 0.09, ms: 5, sigma: 0.8 },
  { share: 0.01, ms: 300, sigma: 0.8 },
]
const good: LoadReplica = {}

const run = (strategy: BalanceStrategy, replicas: readonly LoadReplica[], more: Partial<Load> = {}): LoadResult =>
  runLoad({ texts: oneText, replicas, perSecond: 200, seconds: 60, strategy, ...more })

const p = (share: number, { took }: LoadResult): number => took[Math.ceil(share * took.length) - 1]!

describe('with a replica that is five times as slow', () => {
  const replicas = [{ slowness: () => 5 }, good, good]

  test('the slowest reads of `performance` take less than half of what they take in turns', () => {
    const byTurns = run('round-robin', replicas)
    for (const strategy of ['performance', 'adaptive'] as const) {
      const bySpeed = run(strategy, replicas)
      expect(p(0.99, bySpeed)).toBeLessThan(p(0.99, byTurns) / 2)
      expect(shareOf(bySpeed, 0)).toBeLessThan(0.05)
    }
    expect(shareOf(byTurns, 0)).toBeCloseTo(1 / 3, 2)
  })

  test('`performance` still asks it now and then, and gives it its share back within half a minute of its recovery', () => {
    const recovers = [{ slowness: (now: number) => (now > 10_000 && now < 40_000 ? 5 : 1) }, good, good]
    const result = run('performance', recovers, { seconds: 120 })
    expect(shareOf(result, 0, 15_000, 40_000)).toBeLessThan(0.1)
    expect(shareOf(result, 0, 70_000, 120_000)).toBeGreaterThan(0.28)
  })

  test('where nobody says what a text usually takes, `performance` goes by what is under way, which is half as good', () => {
    const untold = run('performance', replicas, { perSecond: 2_000, timesUnknown: true })
    const told = run('performance', replicas, { perSecond: 2_000 })
    expect(shareOf(untold, 0)).toBeLessThan(0.2)
    expect(shareOf(told, 0)).toBeLessThan(shareOf(untold, 0) / 2)
  })
})

describe('with a replica that stalls for three seconds', () => {
  const replicas = [{ stalls: [20_000, 23_000] as const }, good, good]

  test.each(['performance', 'least-connections', 'adaptive'] as const)(
    '%s lets a handful of reads run into it',
    (strategy) => {
      const late = run(strategy, replicas).took.filter((ms) => ms > 500)
      expect(late.length).toBeGreaterThan(0)
      expect(late.length).toBeLessThan(10)
    },
  )

  test('turns lead a third of all reads into it', () => {
    expect(run('round-robin', replicas).took.filter((ms) => ms > 500).length).toBeGreaterThan(100)
  })
})

describe('with statements of very different length', () => {
  test.each(['performance', 'adaptive'] as const)(
    '%s punishes no replica for the reports that it happened to get',
    (strategy) => {
      const result = run(strategy, [good, good, good], { texts: mixed })
      for (const replica of [0, 1, 2]) expect(Math.abs(shareOf(result, replica) - 1 / 3)).toBeLessThan(0.05)
      expect(result.verdicts).toEqual([])
    },
  )

  test('short reads hardly wait behind long ones, which they do in turns', () => {
    const load = { texts: mixed, perSecond: 2_000 }
    const [bySpeed, byTurns] = (['performance', 'round-robin'] as const).map((strategy) =>
      run(strategy, [good, good, good], load),
    )
    expect(p(0.999, bySpeed!)).toBeLessThan(5)
    expect(p(0.999, byTurns!)).toBeGreaterThan(10 * p(0.999, bySpeed!))
  })
})

describe('with a replica that fails one statement in five', () => {
  test('it is ejected within seconds, and back with its full share after it has recovered', () => {
    const result = run('random', [{ failing: (now) => (now < 20_000 ? 0.2 : 0) }, good, good], { seconds: 120 })
    expect(result.verdicts).toHaveLength(2)
    expect(result.verdicts[0]).toMatch(
      /^replica 0 eject at [2-9]000: \d+ of its \d+ statements failed, of its siblings' 0 %$/,
    )
    expect(result.verdicts[1]).toMatch(/^replica 0 return at /)
    expect(shareOf(result, 0, 10_000, 30_000)).toBe(0)
    expect(shareOf(result, 0, 60_000, 120_000)).toBeGreaterThan(0.28)
  })

  test('all are kept when all do', () => {
    const failing = { failing: () => 0.2 }
    expect(run('performance', [failing, failing, failing]).verdicts).toEqual([])
  })
})

test('nobody is ejected, and nobody starves, where all are alike, however few the reads and whatever their times', () => {
  const heavyTails: readonly LoadText[] = [{ share: 1, ms: 10, sigma: 1.3 }]
  for (const texts of [oneText, mixed, heavyTails]) {
    for (const perSecond of [3, 100]) {
      for (const seed of [1, 2, 3]) {
        const result = run('performance', [good, good, good], { texts, perSecond, seed, seconds: 120 })
        expect(result.verdicts).toEqual([])
        for (const replica of [0, 1, 2]) expect(shareOf(result, replica)).toBeGreaterThan(0.15)
      }
    }
  }
})
