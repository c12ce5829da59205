// The engine as a whole: it starts with its first user, stops with its last, may start again, and leaves nothing.

import { describe, expect, test } from 'vitest'
import { CompiledQuery } from 'kysely'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { EngineHandle } from '../../src/engine/engine-handle.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { Lease } from '../../src/kysely/lease.ts'
import { newTestEngine, rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

/** An engine several users share; every engine that was made, and whether its metrics are registered. */
function shared(options: TestEngineOptions = {}) {
  const made: TestEngine[] = []
  const registered = new Set<Engine>()
  const handle = new EngineHandle(
    () => {
      const engine = newTestEngine({ pool: { initial: 1 }, ...options })
      made.push(engine)
      return engine.engine
    },
    (engine) => {
      registered.add(engine)
      return () => registered.delete(engine)
    },
  )
  return { handle, made, registered }
}

describe('users of one engine', () => {
  test('the first starts it, the last stops it', async () => {
    const { handle, made, registered } = shared()
    const [a, b] = [{}, {}]
    const engine = await handle.start(a)
    expect(await handle.start(b)).toBe(engine)
    expect(registered.has(engine)).toBe(true)
    const [one] = made
    await one!.clock.advance(0)
    await handle.stop(a)
    expect(one!.primary.openSessions).toHaveLength(1)
    expect(handle.running).toBe(engine)
    await handle.stop(b)
    expect(one!.primary.openSessions).toHaveLength(0)
    expect(registered.size).toBe(0)
    expect(made).toHaveLength(1)
  })

  test('looking at it starts nothing', async () => {
    const { handle, made, registered } = shared()
    expect(handle.engine.cluster.primary.name).toBe('primary')
    await made[0]!.clock.advance(seconds(60))
    expect(made[0]!.primary.connects).toBe(0)
    expect(registered.size).toBe(0)
  })

  test('queries before the start and after the end are told so', async () => {
    const { handle } = shared()
    expect(() => handle.running).toThrow(expect.objectContaining({ code: 'SMARTPG_CLOSED' }))
    const user = {}
    await handle.start(user)
    await handle.stop(user)
    expect(() => handle.running).toThrow(expect.objectContaining({ code: 'SMARTPG_CLOSED' }))
  })

  test('a later one gets a new engine, once the old one has ended', async () => {
    const { handle, made } = shared()
    const [a, b] = [{}, {}]
    const first = await handle.start(a)
    await made[0]!.clock.advance(0)
    const holder = await made[0]!.pool.acquire()
    const stopping = watched(handle.stop(a))
    const restarted = watched(handle.start(b))
    await made[0]!.clock.advance(10)
    expect([stopping.state, restarted.state]).toEqual(['pending', 'pending'])
    made[0]!.pool.release(holder)
    await made[0]!.clock.advance(0)
    expect(stopping.state).toBe('resolved')
    expect(restarted.state).toBe('resolved')
    expect(restarted.value).not.toBe(first)
    expect(made[1]!.primary.connects).toBe(1)
  })

  test('who stops twice, or never started, stops nobody else', async () => {
    const { handle } = shared()
    const [a, b] = [{}, {}]
    await handle.start(a)
    await handle.start(b)
    await handle.stop(a)
    await handle.stop(a)
    await handle.stop({})
    expect(handle.running).toBeDefined()
  })

  test('one who starts twice counts once', async () => {
    const { handle } = shared()
    const user = {}
    await handle.start(user)
    await handle.start(user)
    await handle.stop(user)
    expect(() => handle.running).toThrow(expect.objectContaining({ code: 'SMARTPG_CLOSED' }))
  })
})

describe('ready', () => {
  test('settles when every node has its connections and every replica was looked at', async () => {
    const { engine, clock, primary, replicas, run, events } = newTestEngine({ replicas: 2, pool: { initial: 2 } })
    for (const server of [primary, ...replicas]) server.connectDelayMs = 30
    engine.start()
    const ready = watched(engine.ready(1_000))
    await clock.advance(29)
    expect(ready.state).toBe('pending')
    await clock.advance(90)
    expect(ready.state).toBe('resolved')
    await run('select a from t')
    expect(events.query[0]!.role).toBe('replica')
  })

  test('names every fault of every node at once', async () => {
    const { engine, clock, primary, replicas } = newTestEngine({ replicas: 2, pool: { initial: 1 } })
    primary.goDown(networkError('ECONNREFUSED', 'connect ECONNREFUSED 10.0.0.1:5432'))
    replicas[1]!.goDown(serverError('28P01', 'password authentication failed', 'FATAL'))
    engine.start()
    const ready = watched(engine.ready(1_000))
    await clock.advance(1_010)
    expect(ready.error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', phase: 'connect' })
    expect((ready.error as Error).message).toContain('ECONNREFUSED 10.0.0.1:5432')
    expect((ready.error as Error).message).toContain('password authentication failed')
    expect(((ready.error as Error).cause as AggregateError).errors).toHaveLength(2)
  })

  test('leaves no timer behind', async () => {
    const { engine, clock } = newTestEngine({ pool: { initial: 1 } })
    engine.start()
    const ready = watched(engine.ready(60_000))
    await clock.advance(0)
    expect(ready.state).toBe('resolved')
    await engine.stop()
    expect(clock.pendingTimers).toBe(0)
  })
})

describe('stop', () => {
  test('leaves no session on any server and no timer, probes included', async () => {
    const { engine, clock, primary, replicas, run } = await startedEngine({ replicas: 2, pool: { initial: 3, max: 5 } })
    for (let i = 0; i < 10; i++) await run('select a from t')
    const stopped = watched(engine.stop())
    await clock.advance(0)
    expect(stopped.state).toBe('resolved')
    for (const server of [primary, ...replicas]) expect(server.openSessions).toHaveLength(0)
    await clock.advance(seconds(60))
    expect(clock.pendingTimers).toBe(0)
    for (const server of [primary, ...replicas]) expect(server.openSessions).toHaveLength(0)
  })

  test('settles by its deadline whatever hangs', async () => {
    const { engine, clock, primary, replicas, run, pool } = await startedEngine({
      replicas: 1,
      queryTimeout: '5s',
      pool: { max: 3 },
    })
    for (const server of [primary, ...replicas]) {
      server.on('hangs', 'never').on(NODE_SQL, 'never')
      for (const session of server.sessions) session.cancel = async () => undefined
    }
    const hanging = watched(run('select hangs from t'))
    await pool.acquire()
    await clock.advance(100)
    const stopped = watched(engine.stop())
    await clock.advance(seconds(10))
    expect(stopped.state).toBe('resolved')
    expect(hanging.state).toBe('rejected')
    for (const server of [primary, ...replicas]) expect(server.openSessions).toHaveLength(0)
  })

  test('settles while a probe is still connecting, and that connection does not stay', async () => {
    const { engine, clock, primary, replicas } = newTestEngine({ replicas: 1 })
    for (const server of [primary, ...replicas]) server.connectDelayMs = 500
    engine.start()
    await clock.advance(10)
    const stopped = watched(engine.stop())
    await clock.advance(seconds(5))
    expect(stopped.state).toBe('resolved')
    for (const server of [primary, ...replicas]) expect(server.openSessions).toHaveLength(0)
  })

  test('settles while ready is looking, and no connection of it stays', async () => {
    const { engine, clock, primary, replicas } = newTestEngine({ replicas: 1 })
    engine.start()
    await clock.advance(seconds(30))
    for (const server of [primary, ...replicas]) {
      server.killAll()
      server.connectDelayMs = 500
    }
    watched(engine.ready(5_000))
    await clock.advance(10)
    const stopped = watched(engine.stop())
    await clock.advance(seconds(5))
    expect(stopped.state).toBe('resolved')
    for (const server of [primary, ...replicas]) expect(server.openSessions).toHaveLength(0)
  })

  test('tells whoever comes later', async () => {
    const { engine, run } = await startedEngine()
    await engine.stop()
    expect(await rejection(run('select a from t'))).toMatchObject({ code: 'SMARTPG_CLOSED' })
  })
})

describe('cancelling', () => {
  test('asks the server to cancel what the lease runs, and nothing when it runs nothing', async () => {
    const { engine, lease, primary, clock } = await startedEngine()
    primary.on('slow', 'never')
    const connection = lease()
    await engine.cancel(connection.hold)
    await connection.run('select a from t')
    await engine.cancel(connection.hold)
    expect(primary.sessions[0]!.cancels).toBe(0)
    const slow = watched(connection.run('select slow'))
    await clock.advance(0)
    await engine.cancel(connection.hold)
    await clock.advance(0)
    expect(slow.error).toMatchObject({ code: '57014' })
  })

  test('never hits the next caller, even if its request is slow and the lease was given back', async () => {
    const { engine, lease, run, primary, clock } = await startedEngine({ pool: { max: 1 } })
    primary.on('slow', { delayMs: 50 }).on('innocent', { delayMs: 500 })
    const connection = lease()
    const slow = watched(connection.run('select slow'))
    await clock.advance(0)
    const [session] = primary.sessions
    const cancel = session!.cancel.bind(session)
    session!.cancel = () =>
      new Promise((resolve) => {
        clock.setTimeout(() => resolve(cancel()), 300)
      })
    watched(engine.cancel(connection.hold))
    await clock.advance(60)
    expect(slow.state).toBe('resolved')
    connection.release()
    const innocent = watched(run('select innocent'))
    await clock.advance(seconds(2))
    expect(innocent.error).toBeUndefined()
    expect(innocent.state).toBe('resolved')
  })

  test('kill closes the connection, and the pool goes on with another', async () => {
    const { engine, lease, run, primary, clock } = await startedEngine({ pool: { max: 1 } })
    primary.on('slow', 'never')
    const connection = lease()
    const slow = watched(connection.run('select slow'))
    await clock.advance(0)
    const killed = watched(engine.kill(connection.hold))
    await clock.advance(seconds(3))
    expect(killed.state).toBe('resolved')
    expect(slow.state).toBe('rejected')
    connection.release()
    await run('select a from t')
    expect(primary.log.at(-1)!.pid).toBe(101)
  })
})

describe('several statements at once on one connection', () => {
  test('share one connection, and none is lost by it', async () => {
    const { engine, pool, primary, clock } = await startedEngine({ pool: { max: 3 } })
    const lease = new Lease(engine)
    const answers = ['select a from t', 'select b from t', 'select c from t'].map((sql) =>
      watched(lease.executeQuery(CompiledQuery.raw(sql))),
    )
    await clock.advance(10)
    expect(answers.map(({ state }) => state)).toEqual(['resolved', 'resolved', 'resolved'])
    lease.release()
    await clock.advance(10)
    expect(pool.counts()).toMatchObject({ active: 0 })
    expect(new Set(primary.log.map(({ pid }) => pid)).size).toBe(1)
  })

  test('share one connection of the primary after a read on a replica', async () => {
    const { engine, pool, primary, replicas, clock } = await startedEngine({ replicas: 1, pool: { max: 3 } })
    const reads = ['select a from t', 'select b from t', 'select c from t', 'select d from t']
    const lease = new Lease(engine)
    const answers = reads.map((sql) =>
      watched(lease.executeQuery({ ...CompiledQuery.raw(sql), query: { kind: 'SelectQueryNode' } as never })),
    )
    await clock.advance(10)
    expect(answers.map(({ state }) => state)).toEqual(reads.map(() => 'resolved'))
    lease.release()
    await clock.advance(10)
    expect(pool.counts()).toMatchObject({ active: 0 })
    expect(engine.cluster.replicas[0]!.pool.counts()).toMatchObject({ active: 0 })
    expect([...sent(replicas[0]!), ...sent(primary)].toSorted()).toEqual(reads)
  })
})
