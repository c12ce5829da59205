import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  OwnWrites,
  PrimaryHistory,
  formatLsn,
  judgeReplica,
  lagOf,
  parseLsn,
  settleLsn,
} from '../../src/core/freshness.ts'
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
    ['has replayed more than it has received', { receiveLsn: 999n }, 'received less than replayed'],
    ['is on the timeline of a dead primary', { replayLsn: 1001n, receiveLsn: 1001n }, 'ahead of the primary'],
    ['is too many bytes behind', { replayLsn: 499n }, 'too many bytes behind'],
  ])('that %s gets no reads', (_, sample, because) => {
    expect(judge(sample)).toBe(because)
  })

  test('that is too long behind gets no reads', () => {
    expect(judge({ replayLsn: 950n }, 1000n, 1000)).toBe(true)
    expect(judge({ replayLsn: 950n }, 1000n, 1001)).toBe('too long behind')
  })

  test('that is exactly at the limit in bytes is fresh', () => {
    expect(judge({ replayLsn: 900n }, 1400n, 0)).toBe(true)
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

describe('own writes', () => {
  test('a process that never wrote reads wherever it likes', () => {
    const own = new OwnWrites()
    expect(own.covers('replica-1')).toBe(true)
    expect(own.pending()).toBe(false)
  })

  test('a replica shows them once it has replayed what the primary had after the last of them', () => {
    const own = new OwnWrites()
    own.wrote()
    expect(own.covers('replica-1')).toBe(false)
    expect(own.pending()).toBe(true)
    own.sampled(100n, own.finished)
    expect(own.pending()).toBe(false)
    expect(own.covers('replica-1')).toBe(false)
    own.replayed('replica-1', 99n)
    expect(own.covers('replica-1')).toBe(false)
    own.replayed('replica-1', 100n)
    expect(own.covers('replica-1')).toBe(true)
    expect(own.covers('replica-2')).toBe(false)
    own.wrote()
    expect(own.covers('replica-1')).toBe(false)
  })

  test('a write that finished while the primary was being asked is not covered by the answer', () => {
    const own = new OwnWrites()
    own.wrote()
    const upTo = own.finished
    own.wrote()
    own.sampled(100n, upTo)
    own.replayed('replica-1', 100n)
    expect(own.covers('replica-1')).toBe(false)
    expect(own.pending()).toBe(true)
  })

  test('a later answer covers later writes, and an old answer that comes late spoils nothing', () => {
    const own = new OwnWrites()
    own.wrote()
    own.sampled(100n, 1)
    own.wrote()
    own.sampled(200n, 2)
    own.sampled(150n, 1)
    own.replayed('replica-1', 200n)
    expect(own.covers('replica-1')).toBe(true)
    own.replayed('replica-1', 199n)
    expect(own.covers('replica-1')).toBe(false)
  })

  test('a primary that writes for others does not move the goal away', () => {
    const own = new OwnWrites()
    own.wrote()
    own.sampled(100n, 1)
    own.sampled(900n, 1)
    own.replayed('replica-1', 100n)
    expect(own.covers('replica-1')).toBe(true)
  })

  test('a standby that was killed and comes back behind where it was no longer shows them', () => {
    const own = new OwnWrites()
    own.wrote()
    own.sampled(100n, 1)
    own.replayed('replica-1', 100n)
    own.replayed('replica-1', 80n)
    expect(own.covers('replica-1')).toBe(false)
  })

  test('a node that was dropped shows nothing until it is asked again', () => {
    const own = new OwnWrites()
    own.wrote()
    own.sampled(100n, 1)
    own.replayed('replica-1', 100n)
    own.drop('replica-1')
    expect(own.covers('replica-1')).toBe(false)
  })

  test('positions of an old timeline prove nothing', () => {
    const own = new OwnWrites()
    own.wrote()
    own.sampled(100n, 1)
    own.replayed('replica-1', 100n)
    own.newTimeline()
    expect(own.covers('replica-1')).toBe(false)
    expect(own.pending()).toBe(true)
    own.sampled(50n, own.finished)
    own.replayed('replica-1', 50n)
    expect(own.covers('replica-1')).toBe(true)
  })

  test('a replica is never read from before it has replayed each write that has finished', () => {
    type Step =
      | { do: 'write' | 'write of others' | 'ask' }
      | { do: 'answer' | 'report'; which: number }
      | { do: 'replay'; node: number; bytes: number }
      | { do: 'restart behind' | 'drop'; node: number }
    const node = fc.nat({ max: 1 })
    const which = fc.nat()
    const step: fc.Arbitrary<Step> = fc.oneof(
      fc.constantFrom<Step>({ do: 'write' }, { do: 'write of others' }, { do: 'ask' }),
      fc.record({ do: fc.constantFrom<'answer' | 'report'>('answer', 'report'), which }),
      fc.record({ do: fc.constant<'replay'>('replay'), node, bytes: fc.integer({ min: 1, max: 60 }) }),
      fc.record({ do: fc.constantFrom<'restart behind' | 'drop'>('restart behind', 'drop'), node }),
    )
    let covered = 0
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
        const own = new OwnWrites()
        let primary = 0n
        let lastWrite = 0n
        const replicas = [0n, 0n]
        const questions: { upTo: number; lsn: bigint }[] = []
        for (const now of steps) {
          if (now.do === 'write of others') primary += 10n
          if (now.do === 'write') {
            primary += 10n
            lastWrite = primary
            own.wrote()
          }
          // The answer is what the primary has when asked; it arrives later, and in any order.
          if (now.do === 'ask') questions.push({ upTo: own.finished, lsn: primary })
          if (now.do === 'answer' && questions.length > 0) {
            const [answer] = questions.splice(now.which % questions.length, 1)
            own.sampled(answer!.lsn, answer!.upTo)
          }
          if (now.do === 'replay') {
            const reached = replicas[now.node]! + BigInt(now.bytes)
            replicas[now.node] = reached < primary ? reached : primary
          }
          if (now.do === 'report') own.replayed(`r${now.which % 2}`, replicas[now.which % 2]!)
          if (now.do === 'restart behind') {
            replicas[now.node] = replicas[now.node]! / 2n
            own.drop(`r${now.node}`)
          }
          if (now.do === 'drop') own.drop(`r${now.node}`)
          for (const n of [0, 1]) {
            if (!own.covers(`r${n}`)) continue
            if (own.finished > 0) covered += 1
            expect(replicas[n]! >= lastWrite).toBe(true)
          }
        }
      }),
      { numRuns: 500 },
    )
    // Else the property would hold for one who always says no.
    expect(covered).toBeGreaterThan(0)
  })
})
