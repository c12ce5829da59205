// The pool as a caller meets it: how many connections there are, who is served next, and what he is told when
// nothing came free.

import { getEventListeners } from 'node:events'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AcquireTimeoutError, QueueFullError } from '../../src/core/errors.ts'
import type { PooledSession } from '../../src/engine/pooled-session.ts'
import { newTestEngine, rejection, startedEngine, watched } from '../support/engine.ts'
import { networkError } from '../support/scripted-server.ts'

const pid = ({ session }: PooledSession): number => session.pid

describe('at the start', () => {
  test('nothing is opened before the engine is started', async () => {
    const { primary, clock } = newTestEngine({ pool: { min: 3, initial: 5, max: 10 } })
    await clock.advance(60_000)
    expect(primary.connects).toBe(0)
    expect(clock.pendingTimers).toBe(0)
  })

  test('initial connections are opened, and kept as long as they are not surplus', async () => {
    const { pool, primary } = await startedEngine({ pool: { initial: 4, max: 10 } })
    expect(primary.openSessions).toHaveLength(4)
    expect(pool.counts()).toEqual({ total: 4, active: 0, idle: 4, connecting: 0, waiting: 0, max: 10 })
  })

  test('min connections are opened without any query', async () => {
    const { primary } = await startedEngine({ pool: { min: 3, initial: 0, max: 10 } })
    expect(primary.openSessions).toHaveLength(3)
  })

  test('no more than sixteen connects are under way at once, because more of them are slower in sum', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 0, max: 60 } })
    primary.connectDelayMs = 50
    for (let i = 0; i < 60; i++) watched(pool.acquire())
    await clock.advance(0)
    expect(pool.counts()).toMatchObject({ connecting: 16, waiting: 60 })
    await clock.advance(50 * 4)
    expect(pool.counts()).toMatchObject({ total: 60, waiting: 0 })
  })

  test('no more than sixteen connects are under way at once, not even for a large initial', async () => {
    const { engine, pool, primary, clock } = newTestEngine({ pool: { initial: 40, max: 60 } })
    primary.connectDelayMs = 50
    engine.start()
    await clock.advance(0)
    expect(pool.counts().connecting).toBeLessThanOrEqual(16)
    await clock.advance(500)
    expect(pool.counts().total).toBe(40)
  })

  test('ready settles when the initial connections stand', async () => {
    const { engine, clock, primary } = newTestEngine({ pool: { initial: 3, max: 5 } })
    primary.connectDelayMs = 20
    engine.start()
    const ready = watched(engine.ready(1_000))
    await clock.advance(19)
    expect(ready.state).toBe('pending')
    await clock.advance(1)
    expect(ready.state).toBe('resolved')
    expect(primary.openSessions).toHaveLength(3)
  })

  test('ready says why it is not, within its time', async () => {
    const { engine, clock, primary } = newTestEngine({ pool: { initial: 1 } })
    primary.goDown(networkError('ECONNREFUSED', 'connect ECONNREFUSED 127.0.0.1:5432'))
    engine.start()
    const ready = watched(engine.ready(1_000))
    await clock.advance(1_000)
    expect(ready.error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    expect((ready.error as Error).message).toContain('ECONNREFUSED 127.0.0.1:5432')
  })

  test('ready names the time it was given when a connect hangs for longer', async () => {
    const { engine, clock, primary } = newTestEngine({ pool: { initial: 1 } })
    primary.connectDelayMs = 60_000
    engine.start()
    const ready = watched(engine.ready(300))
    await clock.advance(301)
    expect(ready.state).toBe('rejected')
    expect((ready.error as Error).message).toContain('within 300 ms')
  })
})

describe('growing', () => {
  test('a caller gets a connection opened for him when none is idle', async () => {
    const { pool, primary } = await startedEngine()
    expect(pool.take()).toBeNull()
    const pooled = await pool.acquire()
    expect(pooled.session.pid).toBe(primary.openSessions[0]!.pid)
    expect(pool.counts()).toMatchObject({ total: 1, active: 1 })
  })

  test('never above max, however many ask', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 3 } })
    for (let i = 0; i < 50; i++) watched(pool.acquire())
    await clock.advance(100)
    expect(primary.connects).toBe(3)
    expect(pool.counts()).toEqual({ total: 3, active: 3, idle: 0, connecting: 0, waiting: 47, max: 3 })
  })

  test('no connection is opened for a caller whose turn comes before it would be there', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 10 } })
    primary.connectDelayMs = 40
    const first = watched(pool.acquire())
    await clock.advance(40)
    // It has been held for 2 ms at a time: four callers are served within 8 ms, a connect takes 40.
    await clock.advance(2)
    pool.release(first.value)
    const holder = pool.take()!
    const waiters = Array.from({ length: 4 }, () => watched(pool.acquire()))
    expect(pool.counts()).toMatchObject({ connecting: 0, waiting: 4 })
    await clock.advance(2)
    pool.release(holder)
    await clock.advance(0)
    expect(waiters[0]!.state).toBe('resolved')
    expect(primary.connects).toBe(1)
  })

  test('a caller who has waited for longer than a connect takes gets one opened after all', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 10 } })
    primary.connectDelayMs = 40
    const first = watched(pool.acquire())
    await clock.advance(42)
    pool.release(first.value)
    pool.take()
    const waiter = watched(pool.acquire())
    await clock.advance(1_000)
    expect(waiter.state).toBe('resolved')
  })

  test('minIdle connections stand ready beside the busy ones', async () => {
    const { pool, clock } = await startedEngine({ pool: { initial: 1, minIdle: 2, max: 10 } })
    for (let i = 0; i < 3; i++) await pool.acquire()
    await clock.advance(1_000)
    expect(pool.counts()).toMatchObject({ active: 3, idle: 2 })
  })

  test('a pool that lost its connections comes back to min by itself', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { min: 3, max: 5 } })
    primary.killAll()
    await clock.advance(1_000)
    expect(pool.counts()).toMatchObject({ total: 3, idle: 3 })
  })
})

describe('who is served', () => {
  test('first come, first served', async () => {
    const { pool, clock } = await startedEngine({ pool: { max: 1 } })
    const holder = await pool.acquire()
    const order: number[] = []
    const waits = [1, 2, 3, 4].map(async (n) => {
      const pooled = await pool.acquire()
      order.push(n)
      pool.release(pooled)
    })
    pool.release(holder)
    await clock.advance(0)
    await Promise.all(waits)
    expect(order).toEqual([1, 2, 3, 4])
  })

  test('nobody overtakes those who wait by the fast path', async () => {
    const { pool, primary } = await startedEngine({ pool: { initial: 1, max: 1, validateAfterIdle: 0 } })
    primary.on('select 1', 'never')
    const waiting = watched(pool.acquire())
    expect(pool.take()).toBeNull()
    expect(waiting.state).toBe('pending')
  })

  test('by any connection that comes free, not by the one that is being opened for him', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 2 } })
    const first = await pool.acquire()
    primary.connectDelayMs = 1_000
    const waiter = watched(pool.acquire())
    await clock.advance(10)
    expect(pool.counts()).toMatchObject({ connecting: 1, waiting: 1 })
    pool.release(first)
    await clock.advance(0)
    expect(waiter.state).toBe('resolved')
    expect(pid(waiter.value)).toBe(pid(first))
    await clock.advance(1_000)
    expect(pool.counts()).toMatchObject({ total: 2, idle: 1, waiting: 0 })
  })

  test('by the connection used last, so that those in surplus age', async () => {
    const { pool } = await startedEngine({ pool: { initial: 3, max: 3 } })
    const [a, b, c] = [pool.take()!, pool.take()!, pool.take()!]
    for (const pooled of [b, a, c]) pool.release(pooled)
    expect([pid(pool.take()!), pid(pool.take()!), pid(pool.take()!)]).toEqual([pid(c), pid(a), pid(b)])
  })

  test('without a promise when a connection is idle', async () => {
    const { pool } = await startedEngine({ pool: { initial: 1 } })
    const taken = pool.take()
    expect(taken).not.toBeInstanceOf(Promise)
    expect(taken?.session.status).toBe('idle')
    expect(pool.counts()).toMatchObject({ active: 1, idle: 0 })
  })

  test('releasing twice gives nobody a connection that another holds', async () => {
    const { pool } = await startedEngine({ pool: { max: 1 } })
    const first = await pool.acquire()
    pool.release(first)
    const second = pool.take()!
    pool.release(second)
    pool.release(second)
    expect(pool.take()).toBe(second)
    expect(pool.take()).toBeNull()
  })

  test('whatever callers do, no connection is ever in two hands and none is lost', async () => {
    const step = fc.constantFrom('acquire', 'acquire', 'take', 'release', 'release', 'abort', 'kill', 'time')
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(step, fc.nat(1_000)), { maxLength: 60 }), async (steps) => {
        const { engine, pool, primary, clock } = await startedEngine({ breaker: false, pool: { max: 4 } })
        primary.connectDelayMs = 5
        const held = new Set<PooledSession>()
        const leaving = new Set<AbortController>()
        const hold = (pooled: PooledSession): void => {
          expect(held.has(pooled)).toBe(false)
          held.add(pooled)
        }
        for (const [what, n] of steps) {
          if (what === 'acquire') {
            const leave = new AbortController()
            leaving.add(leave)
            pool.acquire({ signal: leave.signal }).then(hold, () => undefined)
          } else if (what === 'take') {
            const pooled = pool.take()
            if (pooled !== null) hold(pooled)
          } else if (what === 'release') {
            const pooled = [...held][n % Math.max(1, held.size)]
            if (pooled !== undefined && held.delete(pooled)) pool.release(pooled)
          } else if (what === 'abort') {
            const leave = [...leaving][n % Math.max(1, leaving.size)]
            leave?.abort()
          } else if (what === 'kill') {
            primary.openSessions[n % Math.max(1, primary.openSessions.length)]?.kill()
          } else {
            await clock.advance(n % 20)
          }
          // What is lost in somebody's hands leaves room for another.
          const dead = [...held].filter(({ session }) => session.lost !== null).length
          expect(pool.counts().total - dead).toBeLessThanOrEqual(4)
          expect(held.size).toBeLessThanOrEqual(pool.counts().active)
        }
        await clock.advance(100)
        for (const pooled of held) pool.release(pooled)
        for (let round = 0; round < 50; round++) {
          held.clear()
          await clock.advance(20)
          for (const pooled of held) pool.release(pooled)
        }
        expect(pool.counts()).toMatchObject({ active: 0, waiting: 0 })
        expect(pool.counts().total).toBe(primary.openSessions.length)
        const stopped = watched(engine.stop())
        await clock.advance(5_000)
        expect(stopped.state).toBe('resolved')
        expect(primary.openSessions).toHaveLength(0)
      }),
      { numRuns: 40 },
    )
  })
})

describe('a caller for whom nothing came free', () => {
  test('is told after acquireTimeout, with the numbers that explain it', async () => {
    const { run, pool, primary, clock } = await startedEngine({ pool: { max: 2, acquireTimeout: 500 } })
    primary.on('pg_sleep', 'never').on('update', 'never')
    watched(run('select pg_sleep(60)'))
    await clock.advance(200)
    watched(run('update stock set n = 1'))
    await clock.advance(100)
    const first = watched(pool.acquire())
    const second = watched(pool.acquire())
    await clock.advance(499)
    expect(first.state).toBe('pending')
    await clock.advance(5)
    expect(first.error).toBeInstanceOf(AcquireTimeoutError)
    expect(second.error).toBeInstanceOf(AcquireTimeoutError)
    const error = first.error as AcquireTimeoutError
    expect(error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT', node: 'primary', phase: 'acquire', retryable: true })
    expect(error.pool).toMatchObject({ total: 2, active: 2, idle: 0, connecting: 0, max: 2 })
    // Who waited until then counts: it is what the number is looked at for.
    expect(error.pool.waiting).toBe(2)
    expect(error.holders.map(({ summary }) => summary)).toEqual(['SELECT', 'UPDATE stock'])
    expect(error.holders[0]!.heldMs).toBeGreaterThan(error.holders[1]!.heldMs)
    expect(error.message).toMatch(/total 2 of 2, active 2, idle 0, connecting 0, waiting 2/)
    expect(error.message).toContain('UPDATE stock for')
  })

  test('is told why the last connect failed, when none ever succeeded', async () => {
    const { pool, primary, clock } = await startedEngine({ breaker: false, pool: { acquireTimeout: 500 } })
    primary.goDown(networkError('ECONNREFUSED', 'connect ECONNREFUSED 10.0.0.7:5432'))
    const waiting = watched(pool.acquire())
    await clock.advance(510)
    expect(waiting.error).toBeInstanceOf(AcquireTimeoutError)
    expect((waiting.error as Error).message).toContain('Last connect error: connect ECONNREFUSED 10.0.0.7:5432')
    expect((waiting.error as Error).cause).toMatchObject({ code: 'ECONNREFUSED' })
  })

  test('has left the queue: what comes free later is for others', async () => {
    const { pool, clock } = await startedEngine({ pool: { max: 1, acquireTimeout: 100 } })
    const holder = await pool.acquire()
    const late = watched(pool.acquire())
    await clock.advance(110)
    expect(late.state).toBe('rejected')
    pool.release(holder)
    expect(pool.take()).toBe(holder)
  })

  test('is told at once when as many wait already as may', async () => {
    const { pool, engine } = await startedEngine({ pool: { max: 1, maxWaiting: 2 } })
    await pool.acquire()
    const waiting = [watched(pool.acquire()), watched(pool.acquire())]
    const error = await rejection(pool.acquire())
    expect(error).toBeInstanceOf(QueueFullError)
    expect(error).toMatchObject({ code: 'SMARTPG_QUEUE_FULL', retryable: true, pool: { waiting: 2, max: 1 } })
    expect(waiting.map(({ state }) => state)).toEqual(['pending', 'pending'])
    expect(engine.cluster.primary.cells.acquires).toMatchObject({ rejected: 1 })
  })

  test('is not told so after a blocked event loop, when the connection is there already', async () => {
    const { pool, clock } = await startedEngine({ pool: { max: 1, acquireTimeout: 1_000 } })
    const holder = await pool.acquire()
    const waiting = watched(pool.acquire())
    await clock.advance(900)
    // The process was blocked until after the deadline; the answer that frees the connection is in the socket.
    clock.block(5_000)
    clock.setTimeout(() => pool.release(holder), 0)
    await clock.advance(10)
    expect(waiting.state).toBe('resolved')
  })

  test('ten thousand are told within moments, at the price of one timer', async () => {
    const { pool, clock, events, engine } = await startedEngine({ pool: { max: 1, acquireTimeout: 1_000 } })
    await pool.acquire()
    const timers = clock.pendingTimers
    const waiting = Array.from({ length: 10_000 }, () => watched(pool.acquire()))
    expect(clock.pendingTimers).toBeLessThanOrEqual(timers + 1)
    // Not all in one turn: the process has others to serve.
    await clock.advance(1_500)
    expect(waiting.every(({ error }) => error instanceof AcquireTimeoutError)).toBe(true)
    expect(pool.counts().waiting).toBe(0)
    // Each caller has his own error; nobody else is told ten thousand times.
    expect(events.error).toEqual([])
    expect(engine.cluster.primary.cells.acquires.timeout).toBe(10_000)
  })
})

describe('a crowd for whom nothing came free', () => {
  test('is told in portions, so that the process can serve others in between', async () => {
    const { pool, clock } = await startedEngine({ pool: { max: 1, acquireTimeout: 1_000 } })
    await pool.acquire()
    const waiting = Array.from({ length: 5_000 }, () => watched(pool.acquire()))
    const told = (): number => waiting.filter(({ state }) => state === 'rejected').length
    await clock.advance(999)
    const portions: number[] = []
    for (let before = 0; before < 5_000 && portions.length < 200; before = told()) {
      await clock.advance(1)
      portions.push(told() - before)
    }
    expect(told()).toBe(5_000)
    expect(Math.max(...portions)).toBeLessThanOrEqual(1_000)
  })

  test('keeps nobody behind it from his turn', async () => {
    const { pool, clock } = await startedEngine({ pool: { max: 1, acquireTimeout: 1_000 } })
    const holder = await pool.acquire()
    for (let i = 0; i < 5_000; i++) watched(pool.acquire().then((pooled) => pool.release(pooled)))
    await clock.advance(900)
    const next = watched(pool.acquire())
    await clock.advance(102)
    pool.release(holder)
    await clock.advance(100)
    expect(next.state).toBe('resolved')
  })
})

describe('a caller who gives up', () => {
  test('before he asked gets his own reason, and nothing is opened', async () => {
    const { pool, primary } = await startedEngine()
    const reason = new Error('the request is gone')
    expect(await rejection(pool.acquire({ signal: AbortSignal.abort(reason) }))).toBe(reason)
    expect(primary.connects).toBe(0)
    expect(pool.counts().waiting).toBe(0)
  })

  test('while he waits leaves the queue at once, from its middle', async () => {
    const { pool, clock } = await startedEngine({ pool: { max: 1 } })
    const holder = await pool.acquire()
    const leave = new AbortController()
    const waits = [watched(pool.acquire()), watched(pool.acquire({ signal: leave.signal })), watched(pool.acquire())]
    const reason = new Error('the request is gone')
    leave.abort(reason)
    await clock.advance(0)
    expect(waits.map(({ state }) => state)).toEqual(['pending', 'rejected', 'pending'])
    expect(waits[1]!.error).toBe(reason)
    expect(pool.counts().waiting).toBe(2)
    pool.release(holder)
    await clock.advance(0)
    pool.release(waits[0]!.value)
    await clock.advance(0)
    expect(waits[2]!.state).toBe('resolved')
  })

  test('after he was served changes nothing', async () => {
    const { pool } = await startedEngine({ pool: { max: 1 } })
    const leave = new AbortController()
    const pooled = await pool.acquire({ signal: leave.signal })
    leave.abort()
    expect(pool.counts()).toMatchObject({ active: 1 })
    pool.release(pooled)
    expect(pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('leaves no listener behind on his signal', async () => {
    const { pool } = await startedEngine({ pool: { max: 1 } })
    const { signal } = new AbortController()
    for (let i = 0; i < 20; i++) pool.release(await pool.acquire({ signal }))
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })
})

describe('what is counted', () => {
  test('each acquire once, by how it ended', async () => {
    const { pool, engine, clock } = await startedEngine({ pool: { max: 1, acquireTimeout: 100 } })
    const { cells } = engine.cluster.primary
    const first = await pool.acquire()
    pool.release(first)
    pool.take()
    const leave = new AbortController()
    watched(pool.acquire({ signal: leave.signal }))
    watched(pool.acquire())
    leave.abort()
    await clock.advance(110)
    expect(cells.acquires).toEqual({ ok: 2, timeout: 1, aborted: 1, rejected: 0 })
    expect(cells.acquireDuration.count).toBe(2)
    expect(cells.connectionsOpened).toBe(1)
  })
})
