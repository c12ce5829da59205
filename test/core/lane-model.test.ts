// What the rules of the lanes are worth: callers over the engine's own pool, against a server and a network that are
// only modelled, beside the two simplest ways to share connections and the one that does not share them. All of it in
// virtual time, so that every figure is the same in every run. `node bench/lanes.ts` prints them in full.

import { describe, expect, test } from 'vitest'
import { anyOf, read, runModel, sleeper, write } from '../support/lane-model.ts'
import type { Group, Model, Outcome, Step, Way } from '../support/lane-model.ts'

const readers = (callers: number, leastMs = 0.05, mostMs = 0.2): Group => ({
  name: 'readers',
  callers,
  next: anyOf([1, 2, 3, 4].map((n) => read(`select ${n}`, leastMs, mostMs))),
})

const writers = (callers: number, diskMs = 1): Group => ({
  name: 'writers',
  callers,
  next: anyOf([1, 2, 3, 4].map((n) => write(`update ${n}`, diskMs))),
})

/** All of them want the same row. */
const updaters = (callers: number): Group => {
  const update = write('update the row', 1, 'the row')
  return { name: 'updaters', callers, next: () => update }
}

const sleepers = (callers: number): Group => {
  const sleep = sleeper('select pg_sleep(0.1)', 100)
  return { name: 'sleepers', callers, next: () => sleep }
}

const run = (way: Way, groups: () => Group[], model: Partial<Model> = {}): Promise<Outcome> =>
  runModel({ way, groups: groups(), forMs: 500, warmMs: 300, ...model })

/** Everybody's statements per second. */
async function rate(way: Way, groups: () => Group[], model: Partial<Model> = {}): Promise<number> {
  const outcome = await run(way, groups, model)
  return groups().reduce((sum, { name }) => sum + outcome.of(name).perSecond, 0)
}

const distances = [0, 1, 5, 25]

test('the model answers the same in every run', async () => {
  const once = async (): Promise<readonly number[]> =>
    (await run('lanes', () => [readers(50), sleepers(4)], { jitterMs: 1 })).of('readers').latencies
  expect(await once()).toEqual(await once())
})

describe.each(distances)('%i ms from the server', (roundTripMs) => {
  test('hardly a fast read notices eight that sleep for 100 ms', async () => {
    const groups = (): Group[] => [readers(100), sleepers(8)]
    const lanes = await run('lanes', groups, { roundTripMs, warmMs: 600 })
    const blind = await run('least-in-flight', groups, { roundTripMs, warmMs: 600 })
    expect(lanes.of('readers').later(20 + roundTripMs)).toBeLessThanOrEqual(0.005)
    expect(blind.of('readers').later(20 + roundTripMs)).toBeGreaterThan(0.04)
    expect(lanes.of('readers').perSecond).toBeGreaterThan(blind.of('readers').perSecond)
  })

  test.each([
    [100, 'the server is the bottleneck', 0.05, 0.2, {}],
    [1000, 'the server is the bottleneck', 0.05, 0.2, {}],
    [100, 'the client is the bottleneck', 0.02, 0.08, { askMs: 0.03, answerMs: 0.02 }],
    [1000, 'the client is the bottleneck', 0.02, 0.08, { askMs: 0.03, answerMs: 0.02 }],
    [100, 'the network trembles', 0.05, 0.2, { jitterMs: 3 }],
    [1000, 'the network trembles', 0.05, 0.2, { jitterMs: 3 }],
  ])('%i callers of fast reads lose next to nothing against the least in flight where %s', async (...cell) => {
    const [callers, , least, most, machines] = cell
    const groups = (): Group[] => [readers(callers, least, most)]
    const lanes = await rate('lanes', groups, { roundTripMs, ...machines })
    const blind = await rate('least-in-flight', groups, { roundTripMs, ...machines })
    expect(lanes / blind).toBeGreaterThanOrEqual(0.92)
  })

  test('fifty who wait for one row leave the reads of fifty others what they have', async () => {
    const alone = await run('lanes', () => [readers(50)], { roundTripMs })
    const beside = await run('lanes', () => [readers(50), updaters(50)], { roundTripMs })
    expect(beside.of('readers').perSecond / alone.of('readers').perSecond).toBeGreaterThanOrEqual(0.8)
    expect(beside.of('updaters').perSecond).toBeGreaterThan(250)
  })

  test('a load of nothing but writes is as fast as without lanes', async () => {
    const groups = (): Group[] => [writers(100)]
    const apart = await rate('one-each', groups, { roundTripMs })
    expect((await rate('lanes', groups, { roundTripMs })) / apart).toBeGreaterThanOrEqual(0.98)
  })

  test('one write in ten statements leaves it faster than without lanes', async () => {
    const mixed = (): Group[] => {
      const [reading, writing] = [readers(0).next, writers(0).next]
      return [{ name: 'mixed', callers: 100, next: (chance) => (chance() < 0.1 ? writing : reading)(chance) }]
    }
    const apart = await rate('one-each', mixed, { roundTripMs })
    expect((await rate('lanes', mixed, { roundTripMs })) / apart).toBeGreaterThanOrEqual(roundTripMs === 0 ? 1.1 : 3)
  })

  test('reads without end do not keep writes, slow reads or transactions from being answered', async () => {
    const step = read('select in transaction', 0.05, 0.2)
    const transactions: Group = { name: 'transactions', callers: 2, next: () => [step, step] }
    const groups = (): Group[] => [readers(900), writers(90), sleepers(4), transactions]
    const outcome = await run('lanes', groups, { roundTripMs, forMs: 1_500 })
    for (const { name, callers } of groups()) {
      expect(outcome.of(name).latencies.length, name).toBeGreaterThanOrEqual(callers)
      expect(outcome.of(name).quantile(1), name).toBeLessThan(1_000)
    }
  })

  test('a transaction that waits for a read of its own caller does not hang behind those who wait for its lock', async () => {
    const held = write('update in transaction', 0, 'the row')
    const transaction = (): Group => {
      // The second has been seen before when it is asked, the first has not.
      const [seen, unseen] = [read('select 1 of its own', 0.05, 0.2), (n: number) => read(`select ${n}`, 0.05, 0.2)]
      let count = 0
      const next = (): Step[] => [held, { apart: unseen(++count) }, { apart: seen }]
      return { name: 'transactions', callers: 1, next }
    }
    const groups = (): Group[] => [updaters(40), transaction(), readers(20)]
    const apart = await run('one-each', groups, { roundTripMs })
    expect(apart.of('transactions').latencies).toHaveLength(0)
    const lanes = await run('lanes', groups, { roundTripMs, forMs: 1_000 })
    expect(lanes.of('transactions').latencies.length).toBeGreaterThan(3)
    expect(lanes.of('readers').quantile(0.99)).toBeLessThan(20 + roundTripMs)
  })
})

test('plain writes behind a network gain the most from being pipelined', async () => {
  const groups = (): Group[] => [writers(100, 2)]
  const apart = await rate('one-each', groups, { roundTripMs: 5 })
  const pipelined = await rate('lanes', groups, { roundTripMs: 5, pipelineWrites: true })
  expect(pipelined / apart).toBeGreaterThan(3)
})

test('a client that has too much to do sends nothing twice', async () => {
  const groups = (): Group[] => [readers(1_000, 0.02, 0.08)]
  for (const roundTripMs of distances) {
    const outcome = await run('lanes', groups, { roundTripMs, askMs: 0.03, answerMs: 0.02 })
    expect(outcome.clientBusy).toBeGreaterThan(0.9)
    expect(outcome.resent / outcome.of('readers').latencies.length).toBeLessThan(0.01)
  }
})

test('blind rotation is what these rules are there against', async () => {
  const groups = (): Group[] => [readers(100), sleepers(4)]
  const lanes = await run('lanes', groups)
  const rotation = await run('rotation', groups)
  expect(lanes.of('readers').perSecond / rotation.of('readers').perSecond).toBeGreaterThan(5)
})
