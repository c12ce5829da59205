import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { PrimaryHistory, formatLsn, judgeReplica, lagOf, parseLsn, settleLsn } from '../../src/core/freshness.ts'
import type { ReplicaSample } from '../../src/core/freshness.ts'

const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })

describe('a position in the log', () => {
  test('is read as PostgreSQL writes it', () => {
    expect(parseLsn('16/B374D848')).toBe(0x16_b374_d848n)
    expect(parseLsn('0/0')).toBe(0n)
    expect(parseLsn('ffffffff/ffffffff')).toBe(2n ** 64n - 1n)
    // PostgreSQL 19 fills up with zeros.
    expect(parseLsn('16/0000D848')).toBe(0x16_0000_d848n)
  })

  test('is written as it was read', () => {
    expect(formatLsn(0x16_b374_d848n)).toBe('16/B374D848')
    fc.assert(
      fc.property(anyLsn, (lsn) => {
        expect(parseLsn(formatLsn(lsn))).toBe(lsn)
      }),
    )
  })

  test('is ordered as the log is', () => {
    expect(parseLsn('1/0') > parseLsn('0/FFFFFFFF')).toBe(true)
  })

  test.each(['', '/', '16', '16/', '/16', '16/G', '16/123456789', '1/2/3', ' 1/2', '0x1/2', '-1/2'])(
    "is not '%s'",
    (text) => expect(() => parseLsn(text)).toThrow(RangeError),
  )

  test('settles in front of a page header, which an idle replica never passes', () => {
    const segment = 16n * 1024n * 1024n
    expect(settleLsn(5n * segment + 40n)).toBe(5n * segment)
    expect(settleLsn(5n * segment + 8192n + 24n)).toBe(5n * segment + 8192n)
    expect(settleLsn(5n * segment + 8192n + 40n)).toBe(5n * segment + 8192n + 40n)
    expect(settleLsn(1024n * 1024n + 40n, 8192, 1024 * 1024)).toBe(1024n * 1024n)
  })

  test('settles at the beginning of a page or stays where it is', () => {
    fc.assert(
      fc.property(anyLsn, (lsn) => {
        const settled = settleLsn(lsn)
        expect(settled === lsn || (settled % 8192n === 0n && lsn - settled <= 40n)).toBe(true)
      }),
    )
  })
})

function historyOf(...samples: [lsn: bigint, at: number][]): PrimaryHistory {
  const history = new PrimaryHistory()
  for (const [lsn, at] of samples) history.add(lsn, at)
  return history
}

describe('the lag of a replica', () => {
  test('is nothing on an idle primary, however long ago the last write was', () => {
    const history = historyOf([100n, 0], [100n, 1000], [100n, 3_600_000])
    expect(lagOf(100n, history, 3_600_000)).toEqual({ bytes: 0, ms: 0 })
  })

  test('is as old as the first position that it has not replayed', () => {
    const history = historyOf([100n, 0], [200n, 1000], [300n, 2000], [300n, 3000])
    expect(lagOf(100n, history, 5000)).toEqual({ bytes: 200, ms: 4000 })
    expect(lagOf(200n, history, 5000)).toEqual({ bytes: 100, ms: 3000 })
    expect(lagOf(250n, history, 5000)).toEqual({ bytes: 50, ms: 3000 })
    expect(lagOf(300n, history, 5000)).toEqual({ bytes: 0, ms: 0 })
  })

  test('is unknown before the primary was asked', () => {
    expect(lagOf(100n, new PrimaryHistory(), 0)).toEqual({ bytes: null, ms: null })
    expect(lagOf(null, historyOf([1n, 0]), 0)).toEqual({ bytes: null, ms: null })
  })

  test('starts anew on a primary whose log is shorter', () => {
    const history = historyOf([100n, 0], [200n, 1000], [150n, 2000])
    expect(history.latest).toBe(150n)
    expect(lagOf(140n, history, 2500)).toEqual({ bytes: 10, ms: 500 })
  })

  test('is never less than it was for a full history, as far as the history reaches', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 50 }), fc.integer({ min: 1, max: 100 })), {
          minLength: 1,
          maxLength: 40,
          size: 'max',
        }),
        fc.nat({ max: 3000 }),
        (steps, replayed) => {
          const ring = new PrimaryHistory(8)
          const all: [bigint, number][] = []
          let [lsn, now] = [0, 0]
          for (const [bytes, ms] of steps) {
            lsn += bytes
            now += ms
            ring.add(BigInt(lsn), now)
            if (all.at(-1)?.[0] !== BigInt(lsn)) all.push([BigInt(lsn), now])
          }
          const kept = all.slice(-8)
          const first = kept.find(([at]) => at > BigInt(replayed))
          expect(lagOf(BigInt(replayed), ring, now).ms).toBe(first === undefined ? 0 : now - first[1])
        },
      ),
    )
  })
})

describe('a replica', () => {
  const limits = { maxLagMs: 1000, maxLagBytes: 500 }
  const caughtUp: ReplicaSample = { inRecovery: true, walReceiver: true, receiveLsn: 1000n, replayLsn: 1000n, at: 0 }
  const judge = (sample: Partial<ReplicaSample>, primary: bigint | null = 1000n, now = 100): unknown => {
    const verdict = judgeReplica({ ...caughtUp, ...sample }, primary, limits, historyOf([900n, -5000], [1000n, 0]), now)
    return verdict.fresh || verdict.because
  }

  test('that has replayed what the primary has is fresh', () => {
    expect(judge({})).toBe(true)
  })

  test.each<[string, Partial<ReplicaSample>, string]>([
    ['was promoted', { inRecovery: false }, 'not in recovery'],
    ['is cut off and has replayed all it has received', { walReceiver: false }, 'no WAL receiver'],
    ['has received nothing', { receiveLsn: null }, 'position unknown'],
    ['has replayed nothing', { replayLsn: null }, 'position unknown'],
    ['has replayed more than it has received', { replayLsn: 900n, receiveLsn: 899n }, 'received less than replayed'],
    ['is on the timeline of a dead primary', { replayLsn: 1001n, receiveLsn: 1001n }, 'ahead of the primary'],
    ['is too many bytes behind', { replayLsn: 499n }, 'too many bytes behind'],
  ])('that %s gets no reads', (_, sample, because) => {
    expect(judge(sample)).toBe(because)
  })

  test('that was restarted while the primary is idle gets reads: it has all there is, and is told so late', () => {
    expect(judge({ replayLsn: 1000n, receiveLsn: 0n })).toBe(true)
  })

  test('that is too long behind gets no reads', () => {
    expect(judge({ replayLsn: 950n }, 1000n, 1000)).toBe(true)
    expect(judge({ replayLsn: 950n }, 1000n, 1001)).toBe('too long behind')
  })

  test('that is exactly at the limit in bytes is fresh', () => {
    expect(judge({ replayLsn: 900n }, 1400n, 0)).toBe(true)
  })

  test('that follows another timeline than the primary is on gets no reads, wherever both of them are known', () => {
    const verdict = (receivedTimeline: number | null | undefined, timeline?: number | null): unknown => {
      const sample = { ...caughtUp, receivedTimeline }
      const answer = judgeReplica(sample, 1000n, limits, historyOf([1000n, 0]), 100, timeline)
      return answer.fresh || answer.because
    }
    // Ahead or behind: its positions mean something else.
    expect([verdict(1, 2), verdict(3, 2)]).toEqual(['another timeline', 'another timeline'])
    expect([verdict(2, 2), verdict(2, null), verdict(2), verdict(null, 2), verdict(undefined, 2)]).toEqual([true, true, true, true, true]) // prettier-ignore
    // Whoever is cut off has no timeline that he follows.
    expect(judge({ walReceiver: false, receivedTimeline: 1 })).toBe('no WAL receiver')
    // A primary that does not answer was on a timeline all the same.
    const late = judgeReplica({ ...caughtUp, receivedTimeline: 1 }, null, limits, historyOf([1000n, 0]), 100, 2)
    expect(late).toMatchObject({ fresh: false, because: 'another timeline' })
  })

  test('goes on serving for maxLag after the primary has answered last, and no longer', () => {
    const history = historyOf([1000n, 0])
    const fresh = (now: number, sample = caughtUp): boolean => judgeReplica(sample, null, limits, history, now).fresh
    expect(fresh(limits.maxLagMs)).toBe(true)
    expect(fresh(limits.maxLagMs + 1)).toBe(false)
    // Its WAL receiver ended with the primary, and what came last may have been replayed after the last look.
    expect(fresh(100, { ...caughtUp, walReceiver: false, receiveLsn: 1100n, replayLsn: 1100n })).toBe(true)
    expect(fresh(100, { ...caughtUp, inRecovery: false })).toBe(false)
  })

  test('is not judged fresh when the primary has never answered, but its lag is told', () => {
    expect(judgeReplica(caughtUp, null, limits, historyOf(), 0)).toMatchObject({ because: 'primary position unknown' })
    const history = historyOf([1000n, 0])
    expect(judgeReplica(caughtUp, null, limits, history, 100).lag).toEqual({ bytes: 0, ms: 0 })
  })
})
