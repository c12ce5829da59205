// Which replica takes a read. The order of the candidates must not matter, except to chance.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { chooseReplica } from '../../src/core/balance.ts'
import type { Candidate } from '../../src/core/balance.ts'
import { seededChance } from '../support/chance.ts'

interface Named extends Candidate {
  readonly name: string
}

const good = (name: string, load = 0): Named => ({ name, reachable: true, fresh: true, showsOwnWrites: true, load })
const nameOf = (candidates: Named[], chance = (): number => 0.5): string | null =>
  chooseReplica(candidates, chance).chosen?.name ?? null

const anyCandidates: fc.Arbitrary<Named[]> = fc
  .array(fc.record({ reachable: fc.boolean(), fresh: fc.boolean(), showsOwnWrites: fc.boolean(), load: fc.nat(5) }), {
    maxLength: 8,
  })
  .map((some) => some.map((candidate, i) => ({ ...candidate, name: `replica-${i}` })))

const suits = ({ reachable, fresh, showsOwnWrites }: Candidate): boolean => reachable && fresh && showsOwnWrites

describe('the chosen one', () => {
  test('has the least work under way', () => {
    expect(nameOf([good('a', 3), good('b', 1), good('c', 2)])).toBe('b')
  })

  test('answers, is fresh and shows our own writes, and nobody who does has less work', () => {
    fc.assert(
      fc.property(anyCandidates, fc.integer(), (candidates, seed) => {
        const { chosen } = chooseReplica(candidates, seededChance(seed))
        const suitable = candidates.filter(suits)
        if (suitable.length === 0) {
          expect(chosen).toBeNull()
        } else {
          expect(suits(chosen!)).toBe(true)
          expect(chosen!.load).toBe(Math.min(...suitable.map(({ load }) => load)))
        }
      }),
    )
  })

  test('is any of the equals, each as often as the others', () => {
    const chance = seededChance(42)
    const candidates = [good('a'), good('b', 1), good('c'), good('d'), good('e', 9), good('f')]
    const counts: Record<string, number> = {}
    const draws = 20_000
    for (let i = 0; i < draws; i++) {
      const name = nameOf(candidates, chance)!
      counts[name] = (counts[name] ?? 0) + 1
    }
    expect(Object.keys(counts).toSorted()).toEqual(['a', 'c', 'd', 'f'])
    // 5,000 each; 300 are five standard deviations.
    for (const count of Object.values(counts)) expect(Math.abs(count - draws / 4)).toBeLessThan(300)
  })
})

describe('when none will do, the reason', () => {
  test.each<[string, Named[], string]>([
    ['is a fallback when there is none at all', [], 'fallback'],
    ['is a fallback when none answers', [{ ...good('a'), reachable: false }], 'fallback'],
    ['is staleness when those who answer lag behind', [{ ...good('a'), fresh: false }], 'stale-replicas'],
    [
      'is our own write when the fresh ones have not replayed it',
      [{ ...good('a'), showsOwnWrites: false }],
      'own-write',
    ],
    [
      'is our own write even if others are stale: waiting for it will help',
      [
        { ...good('a'), fresh: false },
        { ...good('b'), showsOwnWrites: false },
        { ...good('c'), fresh: false },
      ],
      'own-write',
    ],
    [
      'does not speak of one who cannot be reached',
      [
        { ...good('a'), reachable: false, showsOwnWrites: false },
        { ...good('b'), fresh: false },
      ],
      'stale-replicas',
    ],
  ])('%s', (_, candidates, because) => {
    expect(chooseReplica(candidates, () => 0)).toEqual({ chosen: null, because })
  })
})
