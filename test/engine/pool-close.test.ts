// The end of a pool: it always comes, within its deadline, and leaves nothing on the server.

import { describe, expect, test } from 'vitest'
import { newTestEngine, seconds, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, Watched } from '../support/engine.ts'
import { serverError } from '../support/scripted-server.ts'

const closes = ({ pool }: TestEngine, deadlineMs = 10_000): Watched<void> => watched(pool.close(deadlineMs))

function expectNothingLeft({ primary, clock, pool }: TestEngine): void {
  expect(primary.openSessions).toHaveLength(0)
  expect(pool.counts()).toMatchObject({ total: 0, waiting: 0 })
  expect(clock.pendingTimers).toBe(0)
}

describe('closing', () => {
  test('closes idle connections and settles', async () => {
    const engine = await startedEngine({ pool: { initial: 3, max: 3 } })
    const closed = closes(engine)
    await engine.clock.advance(0)
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
    expect(engine.engine.cluster.primary.cells.connectionsClosed.drain).toBe(3)
  })

  test('rejects whoever waits, at once and with the reason', async () => {
    const engine = await startedEngine({ pool: { max: 1 } })
    const holder = await engine.pool.acquire()
    const waiting = [watched(engine.pool.acquire()), watched(engine.pool.acquire())]
    const closed = closes(engine)
    await engine.clock.advance(0)
    for (const { error } of waiting) expect(error).toMatchObject({ code: 'SMARTPG_CLOSED', phase: 'acquire' })
    expect(closed.state).toBe('pending')
    engine.pool.release(holder)
    await engine.clock.advance(0)
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
  })

  test('lets those who hold a connection finish', async () => {
    const engine = await startedEngine({ pool: { max: 1 } })
    const { lease, primary, clock } = engine
    primary.on('slow', { delayMs: 3_000, rows: [{ n: 1 }] })
    const transaction = lease()
    await transaction.begin()
    const closed = closes(engine)
    const slow = watched(transaction.run('select slow'))
    await clock.advance(3_000)
    expect(slow.value.rows).toEqual([{ n: 1 }])
    await transaction.run('commit')
    transaction.release()
    await clock.advance(0)
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
  })

  test('ends at its deadline for those who do not, and they are told', async () => {
    const engine = await startedEngine({ queryTimeout: 0, pool: { max: 2 } })
    const { lease, primary, clock } = engine
    primary.on('hangs', 'never')
    const hanging = watched(lease().run('select hangs'))
    const idleInLease = lease()
    await idleInLease.run('select a from t')
    const closed = closes(engine, 5_000)
    await clock.advance(4_999)
    expect(closed.state).toBe('pending')
    expect(hanging.state).toBe('pending')
    await clock.advance(10)
    expect(closed.state).toBe('resolved')
    expect(hanging.state).toBe('rejected')
    // It comes back too late, which harms nobody.
    idleInLease.release()
    await clock.advance(seconds(10))
    expectNothingLeft(engine)
  })

  test('gives up connects that are under way', async () => {
    const engine = await startedEngine({ pool: { max: 2 } })
    engine.primary.connectDelayMs = 60_000
    const waiting = watched(engine.pool.acquire())
    await engine.clock.advance(10)
    const closed = closes(engine)
    await engine.clock.advance(0)
    expect(waiting.error).toMatchObject({ code: 'SMARTPG_CLOSED' })
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
  })

  test('does not wait for a server that refuses', async () => {
    const engine = await startedEngine({ breaker: false, pool: { max: 2 } })
    engine.primary.goDown(serverError('57P03', 'the database system is starting up', 'FATAL'))
    const waiting = watched(engine.pool.acquire())
    await engine.clock.advance(500)
    const closed = closes(engine)
    await engine.clock.advance(0)
    expect(waiting.error).toMatchObject({ code: 'SMARTPG_CLOSED' })
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
  })

  test('closes a connection whose hook ends only after all is over', async () => {
    let end: (() => void) | undefined
    const engine = await startedEngine({ onCreateConnection: () => new Promise<void>((resolve) => (end = resolve)) })
    watched(engine.pool.acquire())
    await engine.clock.advance(0)
    const closed = closes(engine, 1_000)
    await engine.clock.advance(1_010)
    expect(closed.state).toBe('resolved')
    end!()
    await engine.clock.advance(seconds(5))
    expectNothingLeft(engine)
  })

  test('ends while an idle connection is being asked, and while a used one is being cleaned', async () => {
    const engine = await startedEngine({ pool: { initial: 1, max: 2 } })
    const { clock, lease, pool, primary } = engine
    primary.on('select 1', { delayMs: 200 }).on('rollback', { delayMs: 200 })
    const forgetful = lease()
    await forgetful.begin()
    await clock.advance(1_000)
    watched(pool.acquire())
    await clock.advance(1_000)
    forgetful.release()
    const closed = closes(engine)
    await clock.advance(400)
    expect(closed.state).toBe('pending')
    await clock.advance(seconds(10))
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
  })

  test('ends even if the server answers no goodbye', async () => {
    const engine = await startedEngine({ pool: { initial: 2 } })
    for (const session of engine.primary.sessions) {
      const close = session.close.bind(session)
      // As the real one: asked to end, the socket is destroyed when its grace is over.
      session.close = (graceMs) =>
        new Promise((resolve) => {
          engine.clock.setTimeout(() => resolve(close(0)), graceMs)
        })
    }
    const closed = closes(engine)
    await engine.clock.advance(seconds(3))
    expect(closed.state).toBe('resolved')
    expectNothingLeft(engine)
  })

  test('twice at the same time ends both, as soon as the last holder has finished', async () => {
    const engine = await startedEngine({ pool: { max: 1 } })
    const holder = await engine.pool.acquire()
    const both = [closes(engine, 60_000), closes(engine, 60_000)]
    await engine.clock.advance(100)
    engine.pool.release(holder)
    await engine.clock.advance(0)
    expect(both.map(({ state }) => state)).toEqual(['resolved', 'resolved'])
    expectNothingLeft(engine)
  })

  test('twice in a row is no fault', async () => {
    const engine = await startedEngine({ pool: { initial: 1 } })
    await engine.pool.close(1_000)
    await engine.pool.close(1_000)
    expectNothingLeft(engine)
  })

  test('what was never started is no fault', async () => {
    const engine = newTestEngine()
    await engine.pool.close(1_000)
    expectNothingLeft(engine)
  })
})

describe('a closed pool', () => {
  test('refuses at once, on both paths', async () => {
    const engine = await startedEngine({ pool: { initial: 1 } })
    await engine.pool.close(1_000)
    expect(engine.pool.take()).toBeNull()
    await expect(engine.pool.acquire()).rejects.toMatchObject({ code: 'SMARTPG_CLOSED' })
  })

  test('opens nothing any more, whatever comes back to it', async () => {
    const engine = await startedEngine({ pool: { min: 2, max: 4 } })
    const holder = await engine.pool.acquire()
    await engine.clock.advance(0)
    const closed = closes(engine, 100)
    await engine.clock.advance(200)
    expect(closed.state).toBe('resolved')
    const { connects } = engine.primary
    engine.pool.release(holder)
    await engine.clock.advance(seconds(60))
    expect(engine.primary.connects).toBe(connects)
    expectNothingLeft(engine)
  })
})
