import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { OwnWrites } from '../../src/core/own-writes.ts'

describe('own writes', () => {
  test('a process that never wrote reads wherever it likes', () => {
    const own = new OwnWrites()
    expect(own.covers('replica-1', null)).toBe(true)
    expect(own.pending()).toBe(false)
  })

  test('a replica shows them once it has replayed what the primary had after the last of them', () => {
    const own = new OwnWrites()
    own.wrote(null)
    expect(own.covers('replica-1', null)).toBe(false)
    expect(own.pending()).toBe(true)
    own.sampled(100n, own.finished)
    expect(own.pending()).toBe(false)
    expect(own.covers('replica-1', null)).toBe(false)
    own.replayed('replica-1', 99n)
    expect(own.covers('replica-1', null)).toBe(false)
    own.replayed('replica-1', 100n)
    expect(own.covers('replica-1', null)).toBe(true)
    expect(own.covers('replica-2', null)).toBe(false)
    own.wrote(null)
    expect(own.covers('replica-1', null)).toBe(false)
  })

  test('a write that finished while the primary was being asked is not covered by the answer', () => {
    const own = new OwnWrites()
    own.wrote(null)
    const upTo = own.finished
    own.wrote(null)
    own.sampled(100n, upTo)
    own.replayed('replica-1', 100n)
    expect(own.covers('replica-1', null)).toBe(false)
    expect(own.pending()).toBe(true)
  })

  test('a later answer covers later writes, and an old answer that comes late spoils nothing', () => {
    const own = new OwnWrites()
    own.wrote(null)
    own.sampled(100n, 1)
    own.wrote(null)
    own.sampled(200n, 2)
    own.sampled(150n, 1)
    own.replayed('replica-1', 200n)
    expect(own.covers('replica-1', null)).toBe(true)
    own.replayed('replica-1', 199n)
    expect(own.covers('replica-1', null)).toBe(false)
  })

  test('a primary that writes for others does not move the goal away', () => {
    const own = new OwnWrites()
    own.wrote(null)
    own.sampled(100n, 1)
    own.sampled(900n, 1)
    own.replayed('replica-1', 100n)
    expect(own.covers('replica-1', null)).toBe(true)
  })

  test('a standby that was killed and comes back behind where it was no longer shows them', () => {
    const own = new OwnWrites()
    own.wrote(null)
    own.sampled(100n, 1)
    own.replayed('replica-1', 100n)
    own.replayed('replica-1', 80n)
    expect(own.covers('replica-1', null)).toBe(false)
  })

  test('a node that was dropped shows nothing until it is asked again', () => {
    const own = new OwnWrites()
    own.wrote(null)
    own.sampled(100n, 1)
    own.replayed('replica-1', 100n)
    own.drop('replica-1')
    expect(own.covers('replica-1', null)).toBe(false)
  })

  test('positions of an old timeline prove nothing', () => {
    const own = new OwnWrites()
    own.wrote(null)
    own.sampled(100n, 1)
    own.replayed('replica-1', 100n)
    own.newTimeline()
    expect(own.covers('replica-1', null)).toBe(false)
    expect(own.pending()).toBe(true)
    own.sampled(50n, own.finished)
    own.replayed('replica-1', 50n)
    expect(own.covers('replica-1', null)).toBe(true)
  })

  test('a write to one table leaves reads of others free', () => {
    const own = new OwnWrites()
    own.wrote(['orders'])
    expect(own.covers('replica-1', ['orders'])).toBe(false)
    expect(own.covers('replica-1', ['products', 'orders'])).toBe(false)
    expect(own.covers('replica-1', ['products'])).toBe(true)
    // Nobody knows what this one reads.
    expect(own.covers('replica-1', null)).toBe(false)
  })

  test('a write to whatever tables holds back the reads of all', () => {
    const own = new OwnWrites()
    own.wrote(null)
    expect(own.covers('replica-1', ['products'])).toBe(false)
    own.sampled(100n, own.finished)
    own.replayed('replica-1', 100n)
    own.wrote(['orders'])
    expect(own.covers('replica-1', ['products'])).toBe(true)
    expect(own.covers('replica-1', ['orders'])).toBe(false)
  })

  test('a replica that is always a little behind shows the writes it has reached', () => {
    const own = new OwnWrites()
    for (let n = 1; n <= 1_000; n++) {
      own.wrote([n === 1 ? 'first' : 'other'])
      own.sampled(BigInt(n * 10), own.finished)
      own.replayed('replica-1', BigInt(n * 10 - 25))
    }
    expect(own.covers('replica-1', ['first'])).toBe(true)
    expect(own.covers('replica-1', ['other'])).toBe(false)
    own.replayed('replica-1', 10_000n)
    expect(own.covers('replica-1', ['other'])).toBe(true)
  })

  test('a replica is never read from before it has replayed each write that has finished', () => {
    type Step =
      | { do: 'write of others' | 'ask' }
      | { do: 'write'; tables: string[] | null }
      | { do: 'answer' | 'report'; which: number }
      | { do: 'replay'; node: number; bytes: number }
      | { do: 'restart behind' | 'drop'; node: number }
    const node = fc.nat({ max: 1 })
    const which = fc.nat()
    const step: fc.Arbitrary<Step> = fc.oneof(
      fc.constantFrom<Step>({ do: 'write of others' }, { do: 'ask' }),
      fc.record({ do: fc.constant<'write'>('write'), tables: fc.option(fc.subarray(['a', 'b'], { minLength: 1 })) }),
      fc.record({ do: fc.constantFrom<'answer' | 'report'>('answer', 'report'), which }),
      fc.record({ do: fc.constant<'replay'>('replay'), node, bytes: fc.integer({ min: 1, max: 60 }) }),
      fc.record({ do: fc.constantFrom<'restart behind' | 'drop'>('restart behind', 'drop'), node }),
    )
    const names = ['a', 'b']
    let covered = 0
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
        const own = new OwnWrites()
        let primary = 0n
        const lastWrite: Record<string, bigint> = { a: 0n, b: 0n }
        const replicas = [0n, 0n]
        const questions: { upTo: number; lsn: bigint }[] = []
        for (const now of steps) {
          if (now.do === 'write of others') primary += 10n
          if (now.do === 'write') {
            primary += 10n
            for (const table of now.tables ?? names) lastWrite[table] = primary
            own.wrote(now.tables)
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
            for (const tables of [['a'], ['b'], ['a', 'b'], null]) {
              if (!own.covers(`r${n}`, tables)) continue
              if (own.finished > 0) covered += 1
              for (const table of tables ?? names) expect(replicas[n]! >= lastWrite[table]!).toBe(true)
            }
          }
        }
      }),
      { numRuns: 500 },
    )
    // Else the property would hold for one who always says no.
    expect(covered).toBeGreaterThan(0)
  })
})
