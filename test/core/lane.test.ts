// Which statements may stand one behind the other, and behind which nobody may: the difference between a slow query
// that only its own caller notices and one that holds up a thousand.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Lane, LaneRules, STUCK_MS } from '../../src/core/lane.ts'
import { RoundTrip, Rounds } from '../../src/core/round-trip.ts'
import { mayShare } from '../../src/core/sharing.ts'
import { TextCost, TextCosts, closes } from '../../src/core/text-cost.ts'
import type { LaneView, Passage } from '../../src/core/lane.ts'
import type { Closes } from '../../src/core/text-cost.ts'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Facts } from '../../src/core/types.ts'

const WRITE_FACTS: Facts = { ...READ_FACTS, kind: 'write_simple', verb: 'update', lockWaiter: true, retrySafe: false }

/** A text that has been answered `samples` times, in `ms` each. */
function text(ms: number, { samples = 10, facts = READ_FACTS }: { samples?: number; facts?: Facts } = {}): TextCost {
  const cost = new TextCost({ ...facts })
  for (let i = 0; i < samples; i++) cost.observe(ms)
  return cost
}

const fast = text(0.1)
const slow = text(50)
const unknown = text(0, { samples: 0 })
const write = text(0.5, { facts: WRITE_FACTS })

/** What a connection says of itself. */
interface Line {
  bytesUnanswered: number
  unflushed: number
}

const line = (): Line => ({ bytesUnanswered: 0, unflushed: 0 })

function board(lane: Lane, cost: TextCost, now = 0, roundTripMs = 0): Passage {
  const passage = { cost, closes: closes(cost, now, false), costMs: cost.expectedMs, sentAt: now, serverMs: 0 }
  lane.board(passage, now, roundTripMs)
  return passage
}

/** A lane on which these stand, sent just now. */
function laneWith(...costs: TextCost[]): Lane {
  const lane = new Lane(line())
  for (const cost of costs) board(lane, cost)
  return lane
}

interface Scene {
  now?: number
  idle?: number
  pinned?: boolean
  roundTripMs?: number
  unreadMs?: number
}

function view(
  lanes: Lane[],
  { now = 0, idle = 0, pinned = false, roundTripMs = 0, unreadMs = 0 }: Scene = {},
): LaneView {
  return { lanes, count: lanes.length + idle, idle, pinned, now, roundTripMs, unreadMs }
}

const choose = (rules: LaneRules, cost: TextCost, scene: LaneView): Lane | 'idle' | 'wait' =>
  rules.choose(cost, closes(cost, scene.now, false), scene)

const some = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make)

/** Rules that have seen a fast read. */
function readsCome(now = 0): LaneRules {
  const rules = new LaneRules()
  choose(rules, fast, view([], { idle: 1, now }))
  return rules
}

describe('what a text costs', () => {
  test('a text is known after two answers', () => {
    expect(text(1, { samples: 1 }).known).toBe(false)
    expect(text(1, { samples: 2 }).known).toBe(true)
  })

  test('the first answers are averaged, later ones count for an eighth', () => {
    const cost = text(0, { samples: 0 })
    cost.observe(4)
    cost.observe(8)
    expect(cost.ms).toBe(6)
    const old = text(8, { samples: 100 })
    old.observe(16)
    expect(old.ms).toBe(9)
  })

  test('it stays between the shortest and the longest time that was measured', () => {
    const times = fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1 })
    fc.assert(
      fc.property(times, (all) => {
        const cost = text(0, { samples: 0 })
        for (const ms of all) cost.observe(ms)
        expect(cost.ms).toBeGreaterThanOrEqual(Math.min(...all) - 1e-6)
        expect(cost.ms).toBeLessThanOrEqual(Math.max(...all) + 1e-6)
      }),
    )
  })

  test('at least 32 fast statements fit into the three milliseconds that may stand before another', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, noNaN: true }), (ms) => {
        expect(text(ms).expectedMs * 32).toBeLessThanOrEqual(3)
        expect(text(ms).expectedMs).toBeLessThanOrEqual(text(ms).ms)
      }),
    )
    expect(text(1.5).expectedMs).toBe(1.5)
  })

  test('one text has one cost on a server, whoever asks', () => {
    const costs = new TextCosts()
    const facts = { ...READ_FACTS }
    expect(costs.of(facts)).toBe(costs.of(facts))
    expect(costs.of(facts)).not.toBe(costs.of({ ...READ_FACTS }))
  })
})

describe('the round trip', () => {
  test('nothing is known at first, then the shortest counts until it is about a minute old', () => {
    const roundTrip = new RoundTrip()
    expect(roundTrip.ms).toBe(0)
    roundTrip.observe(7, 1_000)
    roundTrip.observe(5, 2_000)
    roundTrip.observe(9, 3_000)
    expect(roundTrip.ms).toBe(5)
    roundTrip.observe(9, 40_000)
    expect(roundTrip.ms).toBe(5)
    roundTrip.observe(9, 71_000)
    expect(roundTrip.ms).toBe(9)
  })

  test('from one half minute to the next it at most doubles: one slow text alone is not the network', () => {
    const roundTrip = new RoundTrip()
    roundTrip.observe(0.2, 0)
    const seen = Array.from({ length: 10 }, (_, n) => {
      roundTrip.observe(40, 31_000 * (n + 1))
      return roundTrip.ms
    })
    expect(seen[0]).toBe(0.2)
    for (const [n, ms] of seen.entries()) expect(ms).toBeLessThanOrEqual(2 * (seen[n - 1] ?? 0.2) + 0.05)
    expect(seen.at(-1)).toBe(40)
  })

  test('it is never longer than the shortest of the last half minute', () => {
    const steps = fc.array(fc.record({ ms: fc.nat(1_000), later: fc.nat(20_000) }), { minLength: 1, maxLength: 60 })
    fc.assert(
      fc.property(steps, (all) => {
        const roundTrip = new RoundTrip()
        const seen: { ms: number; at: number }[] = []
        let now = 0
        for (const { ms, later } of all) {
          now += later
          roundTrip.observe(ms, now)
          seen.push({ ms, at: now })
          const shortest = Math.min(...seen.filter(({ at }) => at > now - 30_000).map((one) => one.ms))
          expect(roundTrip.ms).toBeLessThanOrEqual(shortest)
        }
      }),
    )
  })
})

describe('who may share a connection', () => {
  test('reads and writes that leave nothing behind do', () => {
    expect(mayShare(READ_FACTS)).toBe(true)
    expect(mayShare(WRITE_FACTS)).toBe(true)
  })

  test.each<[string, Partial<Facts>]>([
    ['what leaves something behind in the session', { stateful: true }],
    ['several statements in one text', { multiple: true }],
    ['what begins or ends a transaction', { kind: 'transaction' }],
    ['what was not recognised', { kind: 'unknown' }],
    ['COPY', { verb: 'copy' }],
  ])('%s does not', (_, facts) => {
    expect(mayShare({ ...READ_FACTS, ...facts })).toBe(false)
  })
})

describe('behind whom nobody may ride', () => {
  test.each<[string, TextCost, Closes]>([
    ['a fast read lets others ride behind it', fast, 'no'],
    ['a read of 20 ms does', text(20), 'no'],
    ['one that takes longer does not', text(20.1), 'slow'],
    ['one of which nobody knows how long it takes does not', unknown, 'slow'],
    ['one that may wait for a lock does not, however fast it was', write, 'lock'],
  ])('%s', (_, cost, expected) => {
    expect(closes(cost, 0, false)).toBe(expected)
  })

  test('with a short lock timeout a plain write that has run eight times lets others ride behind it', () => {
    expect(closes(text(0.5, { samples: 8, facts: WRITE_FACTS }), 0, true)).toBe('no')
    expect(closes(text(0.5, { samples: 7, facts: WRITE_FACTS }), 0, true)).toBe('lock')
  })

  test('one whose commit waits for a disk for 2 ms does as well, one that takes 10 ms may have waited for a lock', () => {
    expect(closes(text(2, { facts: WRITE_FACTS }), 0, true)).toBe('no')
    expect(closes(text(10, { facts: WRITE_FACTS }), 0, true)).toBe('lock')
  })

  test('for a minute after it ran into the lock timeout it does not', () => {
    const cost = text(0.5, { facts: WRITE_FACTS })
    cost.lockTimeoutAt = 1_000
    expect(closes(cost, 61_000, true)).toBe('lock')
    expect(closes(cost, 61_001, true)).toBe('no')
  })

  test('a SELECT FOR UPDATE never does: only plain writes are sent again when their lock is not to be had', () => {
    expect(closes(text(0.1, { facts: { ...READ_FACTS, lockWaiter: true } }), 0, true)).toBe('lock')
  })
})

describe('how long an answer may have lain unread', () => {
  test('since the round began, and for the length of the round before', () => {
    const rounds = new Rounds()
    expect(rounds.begin(100)).toBe(true)
    expect(rounds.begin(101)).toBe(false)
    expect(rounds.unreadMs(104)).toBe(4)
    rounds.end(110)
    expect(rounds.begin(110)).toBe(true)
    expect(rounds.unreadMs(112)).toBe(12)
  })

  test('an event loop that has slept does not count as busy', () => {
    const rounds = new Rounds()
    rounds.begin(0)
    rounds.end(1)
    rounds.begin(500)
    expect(rounds.unreadMs(500)).toBe(1)
  })
})

describe('the work on a lane', () => {
  test('an empty one has none, and is neither late nor closed', () => {
    const lane = new Lane(line())
    expect(lane.dry).toBe(true)
    expect(lane.closed).toBe('no')
    expect(lane.backlogMs(5, 0)).toBe(0)
    expect(lane.lateMs(5, 0)).toBe(0)
    expect(lane.isOpen(5, 0, 0)).toBe(true)
  })

  test('what bounds is the work that stands before a statement when it arrives, not what is on the wire', () => {
    const lane = new Lane(line())
    for (let i = 0; i < 10; i++) board(lane, text(2), 0, 25)
    expect(lane.backlogMs(0, 25)).toBeCloseTo(20)
    expect(lane.backlogMs(15, 25)).toBeCloseTo(5)
  })

  test('a statement that finds the server idle is not expected earlier than a round trip later', () => {
    const lane = new Lane(line())
    board(lane, text(2), 0, 5)
    board(lane, text(2), 100, 5)
    expect(lane.backlogMs(100, 5)).toBeCloseTo(2)
  })

  test('a place that was given up leaves nothing of itself', () => {
    const lane = laneWith(text(2))
    const before = lane.backlogMs(0, 0)
    lane.unboard(board(lane, text(7)))
    expect(lane.backlogMs(0, 0)).toBeCloseTo(before)
    expect(lane.passages).toHaveLength(1)
  })

  test('an answer that took longer than expected is later for all that stand behind it', () => {
    const lane = new Lane(line())
    const first = board(lane, text(1.5))
    board(lane, text(1.5))
    lane.answer(first)
    lane.reckon(2.5, 0, 0)
    expect(lane.backlogMs(2.5, 0)).toBeCloseTo(1.5)
  })

  test('the answers of one read share up to three milliseconds, the first bears what is beyond', () => {
    const lane = new Lane(line())
    const costs = some(3, () => text(0, { samples: 0 }))
    const passages = costs.map((cost) => board(lane, cost))
    for (const passage of passages) lane.answer(passage)
    expect(lane.firstAnswered).toBe(passages[0])
    lane.reckon(30, 0, 0)
    expect(costs.map(({ ms }) => ms)).toEqual([28, 1, 1])
    expect(lane.firstAnswered).toBeNull()
  })

  test('the network is not the server', () => {
    const lane = new Lane(line())
    const cost = text(0, { samples: 0 })
    lane.answer(board(lane, cost, 0, 25))
    lane.reckon(26, 25, 0)
    expect(cost.ms).toBe(1)
  })

  test('nor is this process, when it was too busy to read', () => {
    const lane = new Lane(line())
    const cost = text(0, { samples: 0 })
    lane.answer(board(lane, cost))
    lane.reckon(40, 0, 40)
    expect(cost.ms).toBe(3)
  })

  test('however busy the client, what the texts are charged is never more than the time that has passed', () => {
    const answers = fc.record({ later: fc.nat(100), count: fc.integer({ min: 1, max: 20 }), unreadMs: fc.nat(100) })
    fc.assert(
      fc.property(fc.array(answers, { minLength: 1 }), fc.nat(30), (reads, roundTripMs) => {
        const lane = new Lane(line())
        let now = 0
        for (const { later, count, unreadMs } of reads) {
          const costs = some(count, () => text(0, { samples: 0 }))
          const passages = costs.map((cost) => board(lane, cost, now, roundTripMs))
          const before = now
          now += later
          for (const passage of passages) lane.answer(passage)
          lane.reckon(now, roundTripMs, unreadMs)
          const charged = costs.reduce((sum, { ms }) => sum + ms, 0)
          expect(charged).toBeLessThanOrEqual(Math.max(0, now - before - roundTripMs) + 1e-9)
          for (const { ms } of costs) expect(ms).toBeGreaterThanOrEqual(0)
        }
      }),
    )
  })

  test('a read without an answer changes nothing', () => {
    const lane = laneWith(fast)
    lane.reckon(50, 0, 0)
    expect(lane.lateMs(50, 0)).toBe(50)
  })
})

describe('when a lane is open', () => {
  test('until its head is late by more than three milliseconds of the server', () => {
    const lane = new Lane(line())
    board(lane, fast, 0, 25)
    expect(lane.isOpen(28, 25, 0)).toBe(true)
    expect(lane.isOpen(28.1, 25, 0)).toBe(false)
  })

  test('an answer that may lie here unread is not late', () => {
    const lane = laneWith(fast)
    expect(lane.isOpen(50, 0, 48)).toBe(true)
    expect(lane.isOpen(50, 0, 46)).toBe(false)
    expect(lane.isOverdue(50, 0, 46, STUCK_MS)).toBe(false)
  })

  test('each answer gives the next one its time', () => {
    const lane = new Lane(line())
    const first = board(lane, text(0.1))
    board(lane, text(0.1))
    lane.answer(first)
    lane.reckon(50, 0, 0)
    expect(lane.isOpen(53, 0, 0)).toBe(true)
    expect(lane.isOpen(53.1, 0, 0)).toBe(false)
  })

  test.each<[string, (lane: Lane, connection: Line) => void]>([
    ['behind what closes it', (lane) => board(lane, write)],
    ['while it is kept for somebody', (lane) => (lane.reserved = true)],
    ['while it ends', (lane) => (lane.ending = true)],
    ['with more than a megabyte unanswered', (_, connection) => (connection.bytesUnanswered = 1024 * 1024 + 1)],
  ])('not %s', (_, happens) => {
    const connection = line()
    const lane = new Lane(connection)
    board(lane, fast)
    expect(lane.isOpen(0, 0, 0)).toBe(true)
    happens(lane, connection)
    expect(lane.isOpen(0, 0, 0)).toBe(false)
  })
})

describe('where a statement goes', () => {
  test('to what this turn writes anyway, as long as at most a millisecond stands there', () => {
    const rules = new LaneRules()
    const connection = { bytesUnanswered: 0, unflushed: 1 }
    const lane = new Lane(connection)
    rules.began(lane)
    for (let i = 0; i < 10; i++) board(lane, fast)
    expect(choose(rules, fast, view([lane], { idle: 1 }))).toBe(lane)
    board(lane, fast)
    expect(choose(rules, fast, view([lane], { idle: 1 }))).toBe('idle')
  })

  test('behind a long network, too: one write instead of ten is the client that is spared', () => {
    const rules = new LaneRules()
    const lane = new Lane({ bytesUnanswered: 0, unflushed: 1 })
    rules.began(lane)
    board(lane, fast, 0, 25)
    expect(choose(rules, fast, view([lane], { idle: 1, roundTripMs: 25 }))).toBe(lane)
  })

  test('when that is written, to a connection with nothing on it', () => {
    const rules = new LaneRules()
    const lane = laneWith(fast)
    rules.began(lane)
    expect(choose(rules, fast, view([lane], { idle: 1 }))).toBe('idle')
  })

  test('not to one that has run dry, whatever leaves on it now: it may be somebody’s own', () => {
    const rules = new LaneRules()
    const lane = new Lane({ bytesUnanswered: 0, unflushed: 1 })
    rules.began(lane)
    lane.unboard(board(lane, fast))
    expect(choose(rules, fast, view([], { idle: 1 }))).toBe('idle')
  })

  test('without one, to where the least work stands before it, and of equals to where fewer stand', () => {
    const busy = laneWith(text(2))
    const less = laneWith(text(1.5))
    expect(choose(new LaneRules(), fast, view([busy, less]))).toBe(less)
    const one = laneWith(text(2))
    const two = laneWith(text(1), text(1))
    // A text of 1 ms counts as a fast one.
    expect(choose(new LaneRules(), fast, view([one, two]))).toBe(two)
    expect(choose(new LaneRules(), fast, view([laneWith(text(0), text(0)), one, laneWith(text(0))]))).not.toBe(one)
  })

  test('never behind more than three milliseconds of work', () => {
    expect(choose(new LaneRules(), fast, view([laneWith(text(3.1))]))).toBe('wait')
    expect(choose(new LaneRules(), fast, view([laneWith(text(2.9))]))).not.toBe('wait')
  })

  test('what waits goes to the lane that has just answered, up to three milliseconds', () => {
    const rules = new LaneRules()
    const refills = (lane: Lane, cost: TextCost): boolean => {
      const scene = view([lane, laneWith(fast), laneWith(fast)])
      return rules.refills(lane, cost, closes(cost, 0, false), scene)
    }
    expect(refills(laneWith(text(2.9)), fast)).toBe(true)
    expect(refills(laneWith(text(3.1)), fast)).toBe(false)
    expect(refills(laneWith(write), fast)).toBe(false)
  })

  test('a write may ride last behind more than that, or reads that always come would keep it out for ever', () => {
    const rules = new LaneRules()
    const lane = laneWith(text(5))
    const scene = view([lane, laneWith(fast), laneWith(fast)])
    expect(rules.refills(lane, fast, 'no', scene)).toBe(false)
    expect(rules.refills(lane, write, 'lock', scene)).toBe(true)
    expect(rules.refills(laneWith(text(6.1)), write, 'lock', scene)).toBe(false)
  })
})

describe('how many lanes may be closed', () => {
  test.each([
    [10, 9],
    [4, 3],
    [2, 1],
    [1, 1],
  ])('of %i lanes at most %i by writes while reads come', (count, most) => {
    const closed = (n: number): LaneView =>
      view(
        some(n, () => laneWith(write)),
        { idle: count - n },
      )
    expect(choose(readsCome(), write, closed(most - 1))).toBe('idle')
    expect(choose(readsCome(), write, closed(most))).toBe('wait')
  })

  test.each([
    [10, 8],
    [4, 2],
    [3, 1],
    [2, 1],
    [1, 1],
  ])('of %i lanes at most %i by slow reads', (count, most) => {
    const closed = (n: number): LaneView =>
      view(
        some(n, () => laneWith(slow)),
        { idle: count - n },
      )
    expect(choose(readsCome(), slow, closed(most - 1))).toBe('idle')
    expect(choose(readsCome(), unknown, closed(most))).toBe('wait')
  })

  test('all of them while nobody reads: a load of writes loses nothing', () => {
    const scene = view(
      some(9, () => laneWith(write)),
      { idle: 1, now: 5_000 },
    )
    expect(choose(new LaneRules(), write, scene)).toBe('idle')
    expect(choose(readsCome(3_999), write, scene)).toBe('idle')
    expect(choose(readsCome(4_000), write, scene)).toBe('wait')
  })

  test('beside a transaction two lanes are kept from writes even while nobody reads: it may be about to', () => {
    const closed = (n: number): LaneView =>
      view(
        some(n, () => laneWith(write)),
        { idle: 9 - n, pinned: true },
      )
    expect(choose(new LaneRules(), write, closed(6))).toBe('idle')
    expect(choose(new LaneRules(), write, closed(7))).toBe('wait')
    expect(choose(new LaneRules(), unknown, closed(7))).toBe('idle')
  })

  test('a slow or unknown read takes the last lane when writes have closed all others: they may wait for ever', () => {
    const scene = view(
      some(9, () => laneWith(write)),
      { idle: 1 },
    )
    expect(choose(readsCome(), unknown, scene)).toBe('idle')
  })

  test('it does not when other slow reads are among those: they end', () => {
    const lanes = [...some(8, () => laneWith(write)), laneWith(slow)]
    expect(choose(readsCome(), unknown, view(lanes, { idle: 1 }))).toBe('wait')
  })

  test('where reads find no room, two lanes are kept from writes', () => {
    const rules = new LaneRules()
    expect(choose(rules, fast, view([laneWith(text(10))]))).toBe('wait')
    const closed = (n: number): LaneView =>
      view(
        some(n, () => laneWith(write)),
        { idle: 10 - n },
      )
    expect(choose(rules, write, closed(7))).toBe('idle')
    expect(choose(rules, write, closed(8))).toBe('wait')
  })

  test('and half of them from a single text that seems to wait for locks', () => {
    const rules = new LaneRules()
    choose(rules, fast, view([laneWith(text(10))]))
    const hot = text(10, { facts: WRITE_FACTS })
    const closed = view(
      some(5, () => laneWith(hot)),
      { idle: 5 },
    )
    expect(choose(rules, hot, closed)).toBe('wait')
    expect(choose(rules, text(10, { facts: WRITE_FACTS }), closed)).toBe('idle')
  })

  interface Step {
    which: number
    later: number
    answers: number
    pinned: boolean
  }

  interface Played {
    choice: Lane | 'idle' | 'wait'
    kind: Closes
    scene: LaneView
    readsCome: boolean
  }

  const step: fc.Arbitrary<Step> = fc.record({
    which: fc.nat(5),
    later: fc.nat(20),
    answers: fc.nat(3),
    pinned: fc.boolean(),
  })
  const steps = fc.array(step, { maxLength: 200 })

  /** A pool of `count` connections that sends what may be sent and drops the rest; `look` sees every choice. */
  function play(all: readonly Step[], count: number, look: (played: Played) => void): void {
    const contended = text(10, { facts: WRITE_FACTS })
    const texts = [text(0.1), text(50), text(0, { samples: 0 }), text(0.5, { facts: WRITE_FACTS }), text(10), contended]
    const rules = new LaneRules()
    const lanes = new Set<Lane>()
    let now = 0
    let readAt = -Infinity
    for (const { which, later, answers, pinned } of all) {
      const cost = texts[which]!
      now += later
      for (const lane of [...lanes].slice(0, answers)) {
        lane.answer(lane.passages[0]!)
        lane.reckon(now, 0, 0)
        if (lane.dry) lanes.delete(lane)
      }
      const scene = view([...lanes], { now, idle: count - lanes.size, pinned })
      const choice = choose(rules, cost, scene)
      const kind = closes(cost, now, false)
      if (kind === 'no') readAt = now
      look({ choice, kind, scene, readsCome: now - readAt <= 1_000 })
      if (choice === 'wait') continue
      const lane = choice === 'idle' ? new Lane(line()) : choice
      if (choice === 'idle') rules.began(lane)
      lanes.add(lane)
      board(lane, cost, now)
    }
  }

  test('nothing ever rides behind a statement that closes its lane', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 1, max: 10 }), (all, count) =>
        play(all, count, ({ choice }) => {
          if (typeof choice === 'object') expect(choice.passages.every((one) => one.closes === 'no')).toBe(true)
        }),
      ),
    )
  })

  test('a connection with nothing on it is only taken when there is one, and no fast read waits beside one', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 1, max: 10 }), (all, count) =>
        play(all, count, ({ choice, kind, scene }) => {
          if (choice === 'idle') expect(scene.idle).toBeGreaterThan(0)
          if (choice === 'wait' && kind === 'no') expect(scene.idle).toBe(0)
        }),
      ),
    )
  })

  test('of two lanes or more, writes leave one open while reads come', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 2, max: 10 }), (all, count) =>
        play(all, count, ({ choice, kind, scene, readsCome: come }) => {
          if (!come || kind === 'no' || choice === 'wait') return
          const writes = [...scene.lanes].filter((lane) => lane.passages.at(-1)!.cost.facts.lockWaiter).length
          expect(writes).toBeLessThan(count)
        }),
      ),
    )
  })
})
