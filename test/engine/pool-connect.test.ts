// When connecting fails: what is tried again, what is not, how long anybody waits, and what is remembered of it.

import { describe, expect, test } from 'vitest'
import { CircuitOpenError } from '../../src/core/errors.ts'
import type { PooledSession } from '../../src/engine/pooled-session.ts'
import { intercept, newTestEngine, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { Watched } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

const refused = (): Error => networkError('ECONNREFUSED', 'connect ECONNREFUSED 10.0.0.7:5432')
const noSlots = (): Error => serverError('53300', 'sorry, too many clients already', 'FATAL')
const wrongPassword = (): Error => serverError('28P01', 'password authentication failed for user "app"', 'FATAL')

describe('a server that refuses for a moment', () => {
  test('is tried again until it answers, and the caller notices nothing', async () => {
    const { run, primary, clock } = await startedEngine()
    primary.failConnects(refused(), refused(), refused())
    const waiting = watched(run('insert into t values (1)'))
    await clock.advance(500)
    expect(waiting.state).toBe('resolved')
    expect(primary.connects).toBe(4)
  })

  test('is left alone for a while after each failure, and longer each time', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false })
    primary.goDown(refused())
    watched(run('select a from t'))
    const at: number[] = []
    let seen = 0
    for (let ms = 0; ms < 1_000; ms++) {
      if (primary.connects > seen) at.push(ms)
      seen = primary.connects
      await clock.advance(1)
    }
    // Half of 100, 200, 400, 500 and no more: chance is always the middle here.
    const pauses = at.slice(1).map((ms, i) => ms - at[i]!)
    expect(pauses.slice(0, 5)).toEqual([50, 100, 200, 250, 250])
  })

  test('is asked by one connect at a time while it fails, however many wait', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false, pool: { max: 20 } })
    primary.goDown(refused())
    for (let i = 0; i < 200; i++) watched(run('select a from t'))
    await clock.advance(seconds(5))
    // About four a second once the pauses have grown.
    expect(primary.connects).toBeLessThan(16 * 12)
  })

  test('and does not come back makes callers wait for acquireTimeout and no longer', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false, pool: { acquireTimeout: '2s' } })
    primary.goDown(refused())
    const waiting = watched(run('select a from t'))
    await clock.advance(1_999)
    expect(waiting.state).toBe('pending')
    await clock.advance(10)
    expect(waiting.error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT' })
  })

  test('is asked again when the next caller comes, although nobody waited meanwhile', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false, pool: { acquireTimeout: '1s' } })
    primary.goDown(refused())
    watched(run('select a from t'))
    await clock.advance(seconds(60))
    const { connects } = primary
    await clock.advance(seconds(60))
    expect(primary.connects - connects).toBeLessThanOrEqual(1)
    primary.comeUp()
    const waiting = watched(run('select a from t'))
    await clock.advance(seconds(2))
    expect(waiting.state).toBe('resolved')
  })

  test('and has callers only now and then keeps no timer running', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false, pool: { acquireTimeout: '1s' } })
    primary.goDown(refused())
    watched(run('select a from t'))
    await clock.advance(seconds(60))
    expect(clock.pendingTimers).toBe(0)
  })

  test('opens the circuit, and then callers are told at once and why', async () => {
    const { run, primary, clock, events } = await startedEngine({
      breaker: { failureThreshold: 5 },
      pool: { acquireTimeout: '10s' },
    })
    primary.goDown(refused())
    const first = watched(run('select a from t'))
    await clock.advance(1_300)
    expect(events.breaker).toMatchObject([{ node: 'primary', from: 'closed', to: 'open' }])
    // The circuit tells: a server that has never answered is no better for waiting.
    expect(first.error).toBeInstanceOf(CircuitOpenError)
    const { connects } = primary
    const second = watched(run('select a from t'))
    await clock.advance(0)
    expect(second.error).toBeInstanceOf(CircuitOpenError)
    expect(second.error).toMatchObject({
      code: 'SMARTPG_CIRCUIT_OPEN',
      node: 'primary',
      cause: { code: 'ECONNREFUSED' },
    })
    expect((second.error as CircuitOpenError).retryAfterMs).toBeGreaterThan(0)
    expect(primary.connects).toBe(connects)
  })

  test('and had answered before turns nobody away until its circuit opens, and then parks nobody', async () => {
    const { run, primary, clock, events } = await startedEngine({ pool: { initial: 1, acquireTimeout: '10s' } })
    primary.goDown(refused(), 'sessions')
    const early = watched(run('select a from t'))
    // Within a second failed connects are one event, whoever learns of it.
    await clock.advance(seconds(3.9))
    expect(events.breaker).toEqual([])
    await clock.advance(seconds(1.1))
    expect(events.breaker).toMatchObject([{ to: 'open' }])
    expect(early.state).toBe('pending')
    const late = watched(run('select b from t'))
    await clock.advance(0)
    expect(late.error).toBeInstanceOf(CircuitOpenError)
    // It may restart: who came before the circuit opened has his whole time.
    primary.comeUp()
    await clock.advance(seconds(3))
    expect(early.state).toBe('resolved')
  })

  test('is back in use as soon as its circuit lets a trial through', async () => {
    const { run, primary, clock, engine } = await startedEngine({ breaker: { recoveryTimeout: { min: '1s' } } })
    primary.goDown(refused())
    watched(run('select a from t'))
    await clock.advance(seconds(2))
    primary.comeUp()
    await clock.advance(seconds(5))
    const waiting = watched(run('select a from t'))
    await clock.advance(seconds(2))
    expect(waiting.state).toBe('resolved')
    for (let i = 0; i < 3; i++) await run('select a from t')
    expect(engine.cluster.primary.admits(clock.now())).toBe(true)
  })

  test('never closes the way to connections that stand', async () => {
    const { lease, run, primary, clock } = await startedEngine({ pool: { initial: 1, max: 3 } })
    const holder = lease()
    await holder.run('select a from t')
    primary.goDown(refused())
    for (let i = 0; i < 5; i++) watched(run('select b from t'))
    await clock.advance(seconds(3))
    await holder.run('select c from t')
    holder.release()
    await clock.advance(0)
    expect(sent(primary).filter((sql) => sql === 'select b from t')).toHaveLength(5)
  })
})

describe('a server that will never let us in', () => {
  test('is not asked again for this caller: a wrong password fails at once', async () => {
    const { run, primary, clock } = await startedEngine({ pool: { acquireTimeout: '10s' } })
    primary.goDown(wrongPassword())
    const waiting = watched(run('select a from t'))
    await clock.advance(0)
    expect(waiting.error).toMatchObject({ code: '28P01' })
    expect(primary.connects).toBe(1)
  })

  test('fails all who wait, at once and with the reason', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 3 } })
    primary.connectDelayMs = 20
    primary.goDown(serverError('3D000', 'database "orders" does not exist', 'FATAL'))
    const waiting = Array.from({ length: 10 }, () => watched(pool.acquire()))
    await clock.advance(21)
    expect(waiting.map(({ error }) => (error as { code?: string })?.code)).toEqual(Array(10).fill('3D000'))
  })

  test('never trips the circuit: the server is well', async () => {
    const { run, primary, clock, events } = await startedEngine()
    primary.goDown(wrongPassword())
    for (let i = 0; i < 10; i++) {
      watched(run('select a from t'))
      await clock.advance(seconds(2))
    }
    expect(events.breaker).toEqual([])
  })

  test('does not take away the connections that stand', async () => {
    const { lease, run, primary, clock } = await startedEngine({ pool: { initial: 1, max: 2 } })
    const holder = lease()
    await holder.begin()
    primary.goDown(wrongPassword())
    const waiting = watched(run('select b from t'))
    await clock.advance(100)
    expect(waiting.state).toBe('pending')
    holder.release()
    await clock.advance(0)
    expect(waiting.state).toBe('resolved')
  })
})

/** Refuses every connect while `slots` sessions are open. */
async function crowded(slots: number, max: number) {
  const crowd = await startedEngine({ pool: { max, acquireTimeout: '10s' } })
  const { primary } = crowd
  intercept(primary, async (how) => {
    if (primary.openSessions.length < slots) return primary.open(how)
    primary.connects++
    throw noSlots()
  })
  return crowd
}

describe('a server that has fewer slots than max', () => {
  const serveAll = async (
    waiting: Watched<PooledSession>[],
    crowd: Awaited<ReturnType<typeof crowded>>,
  ): Promise<void> => {
    const done = new Set<Watched<PooledSession>>()
    for (let round = 0; round < 400 && done.size < waiting.length; round++) {
      await crowd.clock.advance(5)
      for (const one of waiting) {
        if (one.state !== 'resolved' || done.has(one)) continue
        done.add(one)
        crowd.pool.release(one.value)
      }
    }
  }

  test('serves everybody with those it has: nobody is told of 53300', async () => {
    const crowd = await crowded(5, 50)
    const waiting = Array.from({ length: 200 }, () => watched(crowd.pool.acquire()))
    await serveAll(waiting, crowd)
    expect(waiting.filter(({ state }) => state === 'resolved')).toHaveLength(200)
    expect(crowd.events.breaker).toEqual([])
  })

  test('is not asked for more once it has said so, for half a minute', async () => {
    const crowd = await crowded(5, 50)
    const waiting = Array.from({ length: 20 }, () => watched(crowd.pool.acquire()))
    await crowd.clock.advance(seconds(2))
    expect(waiting.filter(({ state }) => state === 'resolved')).toHaveLength(5)
    expect(crowd.pool.counts()).toMatchObject({ total: 5, max: 5 })
    const { connects } = crowd.primary
    await crowd.clock.advance(seconds(5))
    expect(crowd.primary.connects).toBe(connects)
  })

  test('is asked for one more after a while, in case others have left', async () => {
    const crowd = await crowded(5, 50)
    for (let i = 0; i < 6; i++) watched(crowd.pool.acquire())
    await crowd.clock.advance(seconds(2))
    const { connects } = crowd.primary
    for (let i = 0; i < 6; i++) {
      watched(crowd.pool.acquire())
      await crowd.clock.advance(seconds(6))
    }
    expect(crowd.primary.connects).toBeGreaterThan(connects)
    expect(crowd.primary.connects).toBeLessThanOrEqual(connects + 3)
  })

  test('is not underrated because its refusals come before its welcomes', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 50 } })
    primary.connectDelayMs = 30
    let connects = 0
    // Ten at once: two are refused in a moment, eight are let in a little later.
    intercept(primary, async (how) => {
      if (++connects <= 2) throw noSlots()
      return primary.open(how)
    })
    for (let i = 0; i < 10; i++) watched(pool.acquire())
    await clock.advance(40)
    expect(pool.counts().total).toBe(8)
    expect(pool.counts().max).toBe(8)
  })

  test('and none for us at all keeps callers waiting for one, not failing', async () => {
    const { run, primary, clock } = await startedEngine({ pool: { acquireTimeout: '10s' } })
    primary.failConnects(noSlots(), noSlots(), noSlots())
    const waiting = watched(run('select a from t'))
    await clock.advance(seconds(3))
    expect(waiting.state).toBe('resolved')
  })
})

describe('the hooks of a new connection', () => {
  test('run before anybody gets it, session.init first', async () => {
    const seen: string[] = []
    const { run, primary } = await startedEngine({
      session: { init: 'set search_path to app' },
      onCreateConnection: async (connection) => {
        seen.push('created')
        await connection.executeQuery({ sql: 'load extension', parameters: [] })
      },
    })
    await run('select a from t')
    expect(sent(primary)).toEqual(['set search_path to app', 'load extension', 'select a from t'])
    expect(seen).toEqual(['created'])
  })

  test('that fail close the connection, and whoever waits is told in the end', async () => {
    const { run, primary, clock } = await startedEngine({
      breaker: false,
      pool: { acquireTimeout: '1s' },
      onCreateConnection: () => {
        throw new Error('no such extension')
      },
    })
    const waiting = watched(run('select a from t'))
    await clock.advance(seconds(2))
    expect(waiting.error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT', cause: { message: 'no such extension' } })
    expect(primary.openSessions).toHaveLength(0)
  })

  test('that hang are given up after connectTimeout', async () => {
    const { run, primary, clock } = await startedEngine({
      pool: { connectTimeout: '1s', acquireTimeout: '10s' },
      session: { init: 'select hangs' },
    })
    primary.on('hangs', (_, session) => (session.pid === 100 ? 'never' : {}))
    const waiting = watched(run('select a from t'))
    await clock.advance(seconds(2))
    expect(waiting.state).toBe('resolved')
    expect(primary.sessions[0]!.lost).not.toBeNull()
  })

  test('meet a connection that dies meanwhile: the caller gets another', async () => {
    const { run, primary, clock } = await startedEngine({
      onCreateConnection: async () => {
        if (primary.sessions.length === 1) primary.killAll()
      },
    })
    const waiting = watched(run('select a from t'))
    await clock.advance(seconds(1))
    expect(waiting.state).toBe('resolved')
    expect(primary.log.at(-1)!.pid).toBe(101)
  })
})

test('a connect that hangs is given up after connectTimeout and tried again', async () => {
  const { run, primary, clock } = await startedEngine({ pool: { connectTimeout: '1s', acquireTimeout: '10s' } })
  primary.connectDelayMs = 60_000
  const waiting = watched(run('select a from t'))
  await clock.advance(900)
  primary.connectDelayMs = 0
  await clock.advance(1_000)
  expect(waiting.state).toBe('resolved')
  expect(primary.connects).toBe(2)
})

test('failures are counted by what they were', async () => {
  const { engine, clock, primary } = newTestEngine({ pool: { min: 1 } })
  primary.failConnects(refused(), wrongPassword())
  engine.start()
  await clock.advance(seconds(2))
  expect(engine.cluster.primary.cells.connectErrors).toMatchObject({ connection_refused: 1, authentication_failed: 1 })
})
