// When replicas die, their reads come to the primary: so many at once and no more, so that it does not die of them.

import { describe, expect, test } from 'vitest'
import { NotExecutedError } from '../../src/core/errors.ts'
import { Gate } from '../../src/engine/gate.ts'
import { seconds, sent, watched } from '../support/engine.ts'
import type { TestEngineOptions, Watched } from '../support/engine.ts'
import { FakeClock } from '../support/fake-clock.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

const SLOW = 'select slow from t'

/** Replicas are gone, and a slow read takes 100 ms on the primary. */
async function alone(options: TestEngineOptions = {}): Promise<TestCluster> {
  const cluster = await startedCluster({
    replicas: 1,
    ...options,
    pool: { max: 10, lanes: false, ...options.pool },
    routing: { fallbackLimit: 2, readYourWrites: 'off', ...options.routing },
  })
  cluster.primary.on(SLOW, { delayMs: 100 })
  cluster.kill('replica-1')
  await cluster.clock.advance(10)
  return cluster
}

const states = (reads: readonly Watched<unknown>[]): string[] => reads.map(({ state }) => state)
const reads = ({ run }: TestCluster, count: number): Watched<unknown>[] =>
  Array.from({ length: count }, () => watched(run(SLOW)))
/** Reads that the primary has been sent. */
const arrived = ({ primary }: TestCluster): number => sent(primary).filter((sql) => sql === SLOW).length

describe('reads that come to the primary because replicas are gone', () => {
  test('run there so many at once as routing.fallbackLimit says; the others wait their turn, first come first served', async () => {
    const cluster = await alone()
    const five = reads(cluster, 5)
    await cluster.clock.advance(50)
    expect(arrived(cluster)).toBe(2)
    await cluster.clock.advance(60)
    expect(states(five)).toEqual(['resolved', 'resolved', 'pending', 'pending', 'pending'])
    expect(arrived(cluster)).toBe(4)
    await cluster.clock.advance(100)
    expect(states(five)).toEqual(['resolved', 'resolved', 'resolved', 'resolved', 'pending'])
    await cluster.clock.advance(100)
    expect(states(five)).toEqual(Array(5).fill('resolved'))
    expect(cluster.engine.fallbacks).toMatchObject({ inside: 0, waiting: 0 })
  })

  test('because they are stale count like those that are gone', async () => {
    const cluster = await alone()
    cluster.comeBack('replica-1')
    cluster.member('replica-1').receiving = false
    cluster.write()
    await cluster.clock.advance(seconds(1))
    const three = reads(cluster, 3)
    await cluster.clock.advance(50)
    expect(arrived(cluster)).toBe(2)
    await cluster.clock.advance(200)
    expect(states(three)).toEqual(Array(3).fill('resolved'))
  })

  test('wait no longer than pool.acquireTimeout, and were not executed then: told, and counted as failed', async () => {
    const cluster = await alone({ pool: { acquireTimeout: '1s' } })
    cluster.primary.on(SLOW, { delayMs: 5_000 })
    const three = reads(cluster, 3)
    await cluster.clock.advance(1_100)
    expect(three[2]!.error).toBeInstanceOf(NotExecutedError)
    expect((three[2]!.error as Error).message).toContain('routing.fallbackLimit')
    expect(arrived(cluster)).toBe(2)
    expect(cluster.events.query).toEqual([expect.objectContaining({ ok: false, node: 'primary' })])
  })

  test('are given up by their caller at any time, and take no place with them', async () => {
    const cluster = await alone()
    const controller = new AbortController()
    const [first, second] = reads(cluster, 2)
    const given = watched(cluster.run(SLOW, { signal: controller.signal }))
    const last = watched(cluster.run(SLOW))
    await cluster.clock.advance(50)
    controller.abort(new Error('no longer wanted'))
    await cluster.clock.advance(0)
    expect(given.error).toMatchObject({ message: 'no longer wanted' })
    await cluster.clock.advance(60)
    expect(arrived(cluster)).toBe(3)
    await cluster.clock.advance(100)
    expect(states([first!, second!, last])).toEqual(Array(3).fill('resolved'))
    expect(cluster.engine.fallbacks.inside).toBe(0)
  })

  test('that are given up while they run leave their place', async () => {
    const cluster = await alone()
    const controller = new AbortController()
    const two = [1, 2].map(() => watched(cluster.run(SLOW, { signal: controller.signal, timeoutMs: 20 })))
    await cluster.clock.advance(seconds(5))
    expect(states(two)).toEqual(['rejected', 'rejected'])
    expect(cluster.engine.fallbacks.inside).toBe(0)
  })

  test('that fail leave their place, whatever with, and so do those that are tried again', async () => {
    const cluster = await alone({ retry: { attempts: 3 } })
    cluster.primary.on('select fails', { error: serverError('22012', 'division by zero') })
    cluster.primary.on('select drops', { drops: networkError('ECONNRESET') })
    for (let i = 0; i < 5; i++) {
      const failing = ['select fails from t', 'select drops from t'].map((sql) => watched(cluster.run(sql)))
      await cluster.clock.advance(seconds(5))
      expect(states(failing)).toEqual(['rejected', 'rejected'])
      expect(cluster.engine.fallbacks).toMatchObject({ inside: 0, waiting: 0 })
    }
    expect(cluster.events.retry.length).toBeGreaterThan(0)
  })

  test('that never got a connection leave their place', async () => {
    const cluster = await alone({ pool: { acquireTimeout: '500ms', max: 1 }, routing: { fallbackLimit: 5 } })
    const lease = cluster.lease()
    await lease.run('insert into t values (1)')
    const five = reads(cluster, 5)
    await cluster.clock.advance(seconds(1))
    expect(states(five)).toEqual(Array(5).fill('rejected'))
    expect(cluster.engine.fallbacks.inside).toBe(0)
    lease.release()
  })

  test('that waited find a replica that has come back meanwhile', async () => {
    const cluster = await alone()
    cluster.primary.on(SLOW, { delayMs: 3_000 })
    reads(cluster, 2)
    const third = watched(cluster.run(SLOW))
    await cluster.clock.advance(10)
    cluster.comeBack('replica-1')
    await cluster.clock.advance(seconds(4))
    expect(third.state).toBe('resolved')
    expect(cluster.events.query.map(({ node }) => node)).toContain('replica-1')
    expect(cluster.engine.fallbacks.inside).toBe(0)
  })

  test('and wait while destroy() comes are told that', async () => {
    const cluster = await alone()
    const four = reads(cluster, 4)
    await cluster.clock.advance(50)
    const stopped = watched(cluster.engine.stop())
    await cluster.clock.advance(0)
    expect(states(four)).toEqual(['pending', 'pending', 'rejected', 'rejected'])
    expect(four[2]!.error).toMatchObject({ code: 'SMARTPG_CLOSED' })
    await cluster.clock.advance(seconds(3))
    expect(stopped.state).toBe('resolved')
    expect(cluster.clock.pendingTimers).toBe(0)
  })
})

describe('not bounded by routing.fallbackLimit', () => {
  test.each([
    ['are writes', 'insert into slow values (1)', undefined],
    ['are reads that belong on the primary', 'select slow from t for update', undefined],
    ['are reads that ask for the primary', SLOW, { target: 'primary' } as const],
  ])('%s', async (_, sql, wish) => {
    const cluster = await alone()
    cluster.primary.on(sql, { delayMs: 100 })
    const before = sent(cluster.primary).length
    for (let i = 0; i < 6; i++) watched(cluster.run(sql, { wish }))
    await cluster.clock.advance(50)
    expect(sent(cluster.primary).length - before).toBe(6)
  })

  test('are reads that must see own writes', async () => {
    const cluster = await startedCluster({
      replicas: 1,
      pool: { max: 10, lanes: false },
      routing: { fallbackLimit: 2 },
    })
    cluster.primary.on(SLOW, { delayMs: 100 })
    await cluster.run('insert into t values (1)')
    reads(cluster, 6)
    await cluster.clock.advance(50)
    expect(arrived(cluster)).toBe(6)
  })

  test('is anything where there is no replica at all', async () => {
    const cluster = await startedCluster({ pool: { max: 10, lanes: false }, routing: { fallbackLimit: 2 } })
    cluster.primary.on(SLOW, { delayMs: 100 })
    reads(cluster, 6)
    await cluster.clock.advance(50)
    expect(arrived(cluster)).toBe(6)
  })
})

describe('the gate itself', () => {
  const waitFor = (gate: Gate, ms = 1_000, signal?: AbortSignal): Watched<void> =>
    watched(gate.enter('primary', ms, signal) ?? Promise.reject(new Error('it was let in at once')))

  test('takes ten thousand who wait and no more: the next is told at once', async () => {
    const clock = new FakeClock()
    const gate = new Gate(1, clock)
    expect(gate.enter('primary', 1_000, undefined)).toBe(null)
    const waiting = Array.from({ length: 10_000 }, () => waitFor(gate))
    const turnedAway = waitFor(gate)
    await clock.advance(0)
    expect(turnedAway.error).toBeInstanceOf(NotExecutedError)
    expect(waiting.every(({ state }) => state === 'pending')).toBe(true)
    gate.close(new Error('closed'))
    await clock.advance(0)
    expect(waiting.every(({ state }) => state === 'rejected')).toBe(true)
    gate.leave()
    expect(gate).toMatchObject({ inside: 0, waiting: 0 })
    expect(clock.pendingTimers).toBe(0)
  })

  test('gives a place that comes free to whoever has waited longest and is still there', async () => {
    const clock = new FakeClock()
    const gate = new Gate(1, clock)
    expect(gate.enter('primary', 1_000, undefined)).toBe(null)
    const controller = new AbortController()
    const first = waitFor(gate, 1_000, controller.signal)
    const second = waitFor(gate, 20)
    const third = waitFor(gate)
    controller.abort(new Error('no longer wanted'))
    await clock.advance(50)
    gate.leave()
    await clock.advance(0)
    expect(states([first, second, third])).toEqual(['rejected', 'rejected', 'resolved'])
    expect(gate).toMatchObject({ inside: 1, waiting: 0 })
    gate.leave()
    expect(gate.inside).toBe(0)
    expect(clock.pendingTimers).toBe(0)
  })

  test('who waits and gives up in the same moment in which his turn comes takes the place, or leaves it to the next', async () => {
    const clock = new FakeClock()
    const gate = new Gate(1, clock)
    expect(gate.enter('primary', 1_000, undefined)).toBe(null)
    const controller = new AbortController()
    const first = waitFor(gate, 1_000, controller.signal)
    gate.leave()
    controller.abort(new Error('no longer wanted'))
    await clock.advance(0)
    expect(first.state).toBe('resolved')
    expect(gate.inside).toBe(1)
  })
})
