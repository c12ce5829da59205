// Who stands out so much among its siblings that it is left alone for a while.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ejectionMs, reviewOutliers } from '../../src/core/ejection.ts'
import type { Sibling, Verdict } from '../../src/core/ejection.ts'
import { Standing } from '../../src/core/standing.ts'
import { seededChance } from '../support/chance.ts'

interface Seen {
  readonly calls?: number
  /** Of these the failed, spread evenly. */
  readonly failed?: number
  /** Times as long as usual. */
  readonly times?: number
  readonly zone?: string
}

const middle = (): number => 0.5
/** Everything is seen within twenty seconds. */
const now = 20_000

function sibling(name: string, { calls = 100, failed = 0, times = 1, zone }: Seen = {}): Sibling {
  const standing = new Standing({ zone, weight: 1, priority: 1, tags: [] })
  for (let i = 0; i < calls; i++) {
    const ok = Math.floor(((i + 1) * failed) / calls) === Math.floor((i * failed) / calls)
    standing.answered(ok, 100 * times, (i * now) / calls, 100)
  }
  return { name, standing }
}

function carryOut(verdicts: readonly Verdict<Sibling>[], at = now): void {
  for (const verdict of verdicts) {
    if (verdict.do === 'eject') verdict.sibling.standing.eject(verdict.forMs, at)
    else verdict.sibling.standing.returned(at)
  }
}

const ejected = (siblings: readonly Sibling[], at = now): string[] =>
  reviewOutliers(siblings, at, middle).flatMap((verdict) => (verdict.do === 'eject' ? [verdict.sibling.name] : []))

describe('a replica is ejected', () => {
  test('when it fails where its siblings answer, and it is said why', () => {
    expect(reviewOutliers([sibling('bad', { failed: 20 }), sibling('b'), sibling('c')], now, middle)).toEqual([
      {
        do: 'eject',
        sibling: expect.objectContaining({ name: 'bad' }) as Sibling,
        forMs: 33_000,
        because: "20 of its 100 statements failed, of its siblings' 0 %",
      },
    ])
  })

  test('when it is far slower than its siblings, and it is said why', () => {
    const [verdict] = reviewOutliers([sibling('bad', { times: 9 }), sibling('b')], now, middle)
    expect(verdict).toMatchObject({ do: 'eject', sibling: { name: 'bad' } })
    expect(verdict!.because).toMatch(/^it takes [5-9]\.\d times as long as its siblings$/)
  })

  test('for thirty seconds the first time, for longer each time, five minutes at most, and never exactly as long', () => {
    expect([1, 2, 9, 10, 50].map((times) => ejectionMs(times, 0))).toEqual([30_000, 60_000, 270_000, 300_000, 300_000])
    expect(ejectionMs(1, 1)).toBe(36_000)
    const siblings = [sibling('bad', { failed: 30 }), sibling('b')]
    carryOut(reviewOutliers(siblings, now, () => 0))
    const back = now + 30_000
    for (let i = 0; i < 40; i++) {
      siblings[0]!.standing.answered(i % 2 === 0, 1, back + 100 * i)
      siblings[1]!.standing.answered(true, 1, back + 100 * i)
    }
    const again = reviewOutliers(siblings, back + 4_000, () => 0).find((verdict) => verdict.do === 'eject')
    expect(again).toMatchObject({ forMs: 60_000 })
  })
})

describe('a replica is not ejected', () => {
  test.each<[string, Sibling[]]>([
    ['without siblings', [sibling('a', { failed: 90, times: 9 })]],
    ['for a few calls', [sibling('a', { calls: 19, failed: 15, times: 9 }), sibling('b')]],
    ['when too little is known of its siblings', [sibling('a', { failed: 50, times: 9 }), sibling('b', { calls: 19 })]],
    ['when its siblings fail as well', [sibling('a', { failed: 30 }), sibling('b', { failed: 25 })]],
    ['when it fails a little more often', [sibling('a', { failed: 9 }), sibling('b')]],
    ['when its siblings are as slow', [sibling('a', { times: 9 }), sibling('b', { times: 8 })]],
    ['when it is three times as slow, and still of use', [sibling('a', { times: 3 }), sibling('b')]],
    ['because it is far away', [sibling('a', { times: 9, zone: 'far' }), sibling('b', { zone: 'here' }), sibling('c')]],
  ])('%s', (_, siblings) => {
    expect(ejected(siblings)).toEqual([])
  })

  test('when chance makes of its siblings’ failures as many', () => {
    expect(ejected([sibling('a', { calls: 20, failed: 8 }), sibling('b', { calls: 1_000, failed: 200 })])).toEqual([])
    expect(ejected([sibling('a', { calls: 200, failed: 80 }), sibling('b', { calls: 1_000, failed: 200 })])).toEqual([
      'a',
    ])
  })

  test('for one event that tore many statements, such as a restart', () => {
    const restarted = sibling('a')
    for (let i = 0; i < 50; i++) restarted.standing.answered(false, 1, now + i)
    expect(ejected([restarted, sibling('b')], now + 50)).toEqual([])
    restarted.standing.answered(false, 1, now + 1_000)
    expect(ejected([restarted, sibling('b')], now + 1_000)).toEqual([])
    restarted.standing.answered(false, 1, now + 2_000)
    expect(ejected([restarted, sibling('b')], now + 2_000)).toEqual(['a'])
  })

  test('for being slow while it has just come back with cold caches', () => {
    const cold = sibling('a', { calls: 0 })
    cold.standing.returned(now)
    for (let i = 0; i < 100; i++) cold.standing.answered(true, 900, now + 10 * i, 100)
    expect(ejected([cold, sibling('b')], now + 1_000)).toEqual([])
    for (let i = 0; i < 100; i++) cold.standing.answered(true, 900, now + 9_000 + 10 * i, 100)
    expect(ejected([cold, sibling('b')], now + 10_000)).toEqual(['a'])
  })
})

describe('of several', () => {
  test('a third at most is away, one at least; the worst go first', () => {
    const bad = [60, 90, 70, 80].map((failed) => sibling(`${failed}`, { failed }))
    const good = ['a', 'b', 'c', 'd', 'e'].map((name) => sibling(name))
    expect(ejected([...bad, ...good])).toEqual(['90', '80', '70'])
    expect(ejected([...bad.slice(0, 2), ...good.slice(0, 3)])).toEqual(['90'])
    expect(ejected([bad[0]!, good[0]!])).toEqual(['60'])
  })

  test('none goes while another is away, if no more may', () => {
    const siblings = [
      sibling('a', { failed: 60 }),
      sibling('b', { failed: 50 }),
      sibling('c'),
      sibling('d'),
      sibling('e'),
    ]
    carryOut(reviewOutliers(siblings, now, middle))
    expect(ejected(siblings, now + 1_000)).toEqual([])
  })

  test('who fails goes before who is slow', () => {
    expect(
      ejected([sibling('slow', { times: 9 }), sibling('failing', { failed: 30 }), sibling('c'), sibling('d')]),
    ).toEqual(['failing'])
  })

  test('the limit holds and one is always left, however the reviews go', () => {
    const aSeen = fc.record({ calls: fc.constantFrom(0, 19, 60), failed: fc.nat(60), times: fc.constantFrom(1, 3, 9) })
    fc.assert(
      fc.property(fc.array(aSeen, { minLength: 1, maxLength: 9 }), fc.integer(), (seen, seed) => {
        const chance = seededChance(seed)
        const siblings = seen.map((of, i) => sibling(`${i}`, { ...of, failed: Math.min(of.failed, of.calls) }))
        for (let at = now; at < now + 120_000; at += 1_000) {
          const verdicts = reviewOutliers(siblings, at, chance)
          carryOut(verdicts, at)
          const away = siblings.filter(({ standing }) => standing.isEjected(at)).length
          expect(away).toBeLessThanOrEqual(siblings.length < 2 ? 0 : Math.max(1, Math.floor(siblings.length / 3)))
          for (const { forMs } of verdicts.filter((verdict) => verdict.do === 'eject')) {
            expect(forMs >= 30_000 && forMs <= 360_000).toBe(true)
          }
        }
      }),
    )
  })
})

test('who was ejected is told to be back once, when its time is over', () => {
  const siblings = [sibling('bad', { failed: 50 }), sibling('b')]
  carryOut(reviewOutliers(siblings, now, () => 0))
  expect(reviewOutliers(siblings, now + 29_999, middle)).toEqual([])
  const verdicts = reviewOutliers(siblings, now + 30_000, middle)
  expect(verdicts).toMatchObject([{ do: 'return', sibling: { name: 'bad' }, because: 'its time is over' }])
  carryOut(verdicts, now + 30_000)
  expect(reviewOutliers(siblings, now + 31_000, middle)).toEqual([])
})

test('a review changes nothing by itself', () => {
  const siblings = [sibling('bad', { failed: 50 }), sibling('b')]
  expect(ejected(siblings)).toEqual(['bad'])
  expect(ejected(siblings)).toEqual(['bad'])
})
