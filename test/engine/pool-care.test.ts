// What the pool does for its connections between two callers: nothing dead, dirty, expired or forgotten is handed
// out, and what nobody needs is closed.

import { describe, expect, test } from 'vitest'
import { pings, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import { seededChance } from '../support/chance.ts'
import { serverError } from '../support/scripted-server.ts'

describe('a connection that has been idle for long', () => {
  test('is asked whether it lives before it is handed out', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, validateAfterIdle: 500 } })
    await clock.advance(501)
    expect(pool.take()).toBeNull()
    const pooled = await pool.acquire()
    expect(pings(primary)).toBe(1)
    expect(pooled.session).toBe(primary.sessions[0])
  })

  test('is handed out unasked as long as it has not', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, validateAfterIdle: 500 } })
    await clock.advance(499)
    expect(pool.take()).not.toBeNull()
    expect(pings(primary)).toBe(0)
  })

  test('and that no longer answers is never handed out: the caller gets a new one within the time of a ping', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1 } })
    primary.on('select 1', 'never')
    await clock.advance(5_000)
    const waiting = watched(pool.acquire())
    await clock.advance(301)
    expect(waiting.state).toBe('resolved')
    expect(waiting.value.session).toBe(primary.sessions[1])
    expect(primary.sessions[0]!.lost).not.toBeNull()
    expect(pool.counts()).toMatchObject({ total: 1, active: 1 })
  })

  test('and was closed by the server meanwhile is gone at once, and no query meets it', async () => {
    const { run, pool, primary, clock, events } = await startedEngine({ pool: { initial: 2 } })
    primary.killAll()
    expect(pool.counts()).toMatchObject({ total: 0 })
    await clock.advance(0)
    await run('insert into t values (1)')
    expect(events.query).toMatchObject([{ ok: true, attempts: 1 }])
    expect(events.error).toMatchObject([{ during: 'idle connection' }, { during: 'idle connection' }])
  })

  test('is asked alone: one caller does not set every idle connection to work', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 5, max: 5 } })
    await clock.advance(1_000)
    pool.release(await pool.acquire())
    expect(pings(primary)).toBe(1)
  })

  test('is asked without another being opened beside it', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, max: 5 } })
    await clock.advance(1_000)
    pool.release(await pool.acquire())
    expect(primary.connects).toBe(1)
  })

  test('is not taken for dead because the process was blocked while it was asked', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, minIdle: 0 } })
    await clock.advance(1_000)
    primary.on('select 1', { delayMs: 2_000 })
    const waiting = watched(pool.acquire())
    await clock.advance(0)
    // Its answer has been in the socket for long when the event loop comes round again.
    clock.block(2_000)
    await clock.advance(5)
    expect(waiting.state).toBe('resolved')
    expect(primary.connects).toBe(1)
  })

  test('is asked before its next use when another of the same host fell silent', async () => {
    const { pool, primary } = await startedEngine({ pool: { initial: 1 } })
    pool.suspect()
    expect(pool.take()).toBeNull()
    await pool.acquire()
    expect(pings(primary)).toBe(1)
  })

  test('is not closed because another of the same host fell silent', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 4, max: 4, idleTimeout: '5min' } })
    pool.take()
    pool.suspect()
    await clock.advance(seconds(10))
    expect(primary.openSessions).toHaveLength(4)
  })
})

describe('keepalive', () => {
  test('asks idle connections once per interval, so that nothing in between forgets them', async () => {
    const { pool, primary, clock } = await startedEngine({
      pool: { initial: 2, min: 2, keepalive: '30s', maxLifetime: '1h' },
    })
    await clock.advance(seconds(29))
    expect(pings(primary)).toBe(0)
    await clock.advance(seconds(2))
    expect(pings(primary)).toBe(2)
    await clock.advance(seconds(60))
    expect(pings(primary)).toBe(6)
    expect(pool.counts()).toMatchObject({ total: 2, idle: 2 })
  })

  test('finds the dead before anybody meets them', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, min: 1, keepalive: '30s' } })
    primary.on('select 1', (_, session) => (session.pid === 100 ? 'never' : {}))
    await clock.advance(seconds(32))
    expect(primary.sessions[0]!.lost).not.toBeNull()
    expect(pool.counts()).toMatchObject({ total: 1, idle: 1 })
  })

  test('keeps nobody waiting: who comes while it asks is served when it has answered', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, max: 1, keepalive: '30s' } })
    primary.on('select 1', { delayMs: 100 })
    await clock.advance(seconds(30))
    const waiting = watched(pool.acquire())
    await clock.advance(100)
    expect(waiting.state).toBe('resolved')
  })

  test('is no use: a connection that is only pinged is closed when it has been idle for long enough', async () => {
    const { primary, clock } = await startedEngine({
      pool: { initial: 3, max: 3, keepalive: '10s', idleTimeout: '60s' },
    })
    await clock.advance(seconds(62))
    expect(primary.openSessions).toHaveLength(0)
  })

  test('does not bring back a connection that was retired while it was asked', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 1, keepalive: '30s' } })
    primary.on('select 1', { delayMs: 100 })
    await clock.advance(seconds(30))
    pool.retireAll()
    await clock.advance(200)
    expect((await pool.acquire()).session.pid).not.toBe(primary.sessions[0]!.pid)
  })
})

describe('idleTimeout', () => {
  test('closes what is surplus and keeps min', async () => {
    const { primary, clock } = await startedEngine({ pool: { initial: 8, min: 2, max: 8, idleTimeout: '60s' } })
    await clock.advance(seconds(59))
    expect(primary.openSessions).toHaveLength(8)
    await clock.advance(seconds(2))
    expect(primary.openSessions).toHaveLength(2)
    await clock.advance(seconds(600))
    expect(primary.openSessions).toHaveLength(2)
  })

  test('keeps minIdle beside those in use', async () => {
    const { pool, primary, clock } = await startedEngine({
      pool: { initial: 8, minIdle: 2, max: 8, idleTimeout: '60s' },
    })
    for (let i = 0; i < 3; i++) pool.take()
    await clock.advance(seconds(62))
    expect(primary.openSessions).toHaveLength(5)
  })

  test('spares what is in use now and then, and closes what is not', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 5, max: 5, idleTimeout: '60s' } })
    // One query a second never needs more than one connection.
    for (let second = 0; second < 90; second++) {
      pool.release(await pool.acquire())
      await clock.advance(seconds(1))
    }
    expect(primary.openSessions).toHaveLength(1)
  })

  test('is counted as what it is', async () => {
    const { engine, clock } = await startedEngine({ pool: { initial: 3, max: 3, idleTimeout: '60s' } })
    await clock.advance(seconds(62))
    expect(engine.cluster.primary.cells.connectionsClosed).toMatchObject({ idle: 3, error: 0, lifetime: 0 })
  })
})

describe('maxLifetime', () => {
  test('replaces an idle connection, and min stands all the time after', async () => {
    const { primary, pool, clock } = await startedEngine({
      pool: { initial: 2, min: 2, maxLifetime: '60s', idleTimeout: '1h' },
    })
    await clock.advance(seconds(62))
    expect(primary.connects).toBe(4)
    expect(pool.counts()).toMatchObject({ total: 2, idle: 2 })
  })

  test('waits for a caller who holds the connection', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 1, maxLifetime: '60s' } })
    const pooled = await pool.acquire()
    await clock.advance(seconds(120))
    expect(pooled.session.lost).toBeNull()
    pool.release(pooled)
    await clock.advance(0)
    expect(primary.openSessions).toHaveLength(0)
  })

  test('hands out nothing that has outlived it', async () => {
    const { pool, clock, primary } = await startedEngine({
      pool: { initial: 1, maxLifetime: 100, validateAfterIdle: '1h' },
    })
    clock.block(200)
    expect(pool.take()).toBeNull()
    const pooled = await pool.acquire()
    expect(pooled.session).toBe(primary.sessions[1])
  })

  test('does not end a pool of twenty in one moment', async () => {
    const { primary, clock } = await startedEngine({
      chance: seededChance(11),
      pool: { initial: 16, min: 16, max: 20, maxLifetime: '30min', idleTimeout: '1h' },
    })
    const opened = primary.openSessions
    const ends: number[] = []
    for (const session of opened) session.onLost(() => ends.push(clock.now()))
    for (let minute = 0; minute < 36; minute++) await clock.advance(seconds(60))
    expect(ends).toHaveLength(16)
    const sorted = ends.toSorted((a, b) => a - b)
    // The pool looks twice a second, so that two may go together, but never the pool.
    const inOneMoment = sorted.filter((end, i) => i > 0 && end - sorted[i - 1]! <= 8).length
    expect(inOneMoment).toBeLessThanOrEqual(2)
    expect(sorted.at(-1)! - sorted[0]!).toBeGreaterThan(seconds(120))
  })
})

describe('retireAll', () => {
  test('closes what is idle, and what is in use when it comes back', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { initial: 3, max: 3 } })
    const held = pool.take()!
    pool.retireAll()
    await clock.advance(0)
    expect(primary.openSessions).toEqual([held.session])
    pool.release(held)
    await clock.advance(0)
    expect(primary.openSessions).toEqual([])
    expect((await pool.acquire()).session).toBe(primary.sessions[3])
  })

  test('a connect that began before is not handed out either', async () => {
    const { pool, primary, clock } = await startedEngine({ pool: { max: 1 } })
    primary.connectDelayMs = 50
    const waiting = watched(pool.acquire())
    await clock.advance(10)
    pool.retireAll()
    await clock.advance(200)
    expect(waiting.state).toBe('resolved')
    expect(waiting.value.session.pid).toBe(primary.sessions[1]!.pid)
  })
})

describe('a connection that is given back', () => {
  test('in a transaction is rolled back before anybody else gets it', async () => {
    const { lease, run, primary } = await startedEngine({ pool: { max: 1 } })
    const forgetful = lease()
    await forgetful.run('begin')
    await forgetful.run('insert into t values (1)')
    forgetful.release()
    await run('insert into t values (2)')
    expect(sent(primary)).toEqual(['begin', 'insert into t values (1)', 'rollback', 'insert into t values (2)'])
    expect(primary.log.at(-1)).toMatchObject({ pid: 100, status: 'idle' })
  })

  test('in a failed transaction is rolled back, too', async () => {
    const { lease, run, primary } = await startedEngine({ pool: { max: 1 } })
    primary.on('twice', { error: serverError('23505', 'duplicate key value violates unique constraint') })
    const forgetful = lease()
    await forgetful.begin()
    await forgetful.run('insert into twice values (1)').catch(() => undefined)
    forgetful.release()
    await run('select a from t')
    expect(sent(primary)).toEqual(['begin', 'insert into twice values (1)', 'rollback', 'select a from t'])
  })

  test('in a transaction that does not answer is closed, and the next caller gets another', async () => {
    const { lease, run, primary, clock } = await startedEngine({ pool: { max: 1, acquireTimeout: '30s' } })
    primary.on('rollback', 'never')
    const forgetful = lease()
    await forgetful.begin()
    forgetful.release()
    const next = watched(run('select a from t'))
    await clock.advance(seconds(6))
    expect(next.state).toBe('resolved')
    expect(primary.sessions[0]!.lost).not.toBeNull()
  })

  test('while a statement still runs is not handed out until that has ended', async () => {
    const { lease, run, primary, clock } = await startedEngine({ pool: { max: 1 } })
    primary.on('slow', { delayMs: 1_000 })
    const impatient = lease()
    await impatient.run('select a from t')
    watched(impatient.run('select slow'))
    impatient.release()
    const next = watched(run('select b from t'))
    await clock.advance(999)
    expect(next.state).toBe('pending')
    await clock.advance(1)
    expect(next.state).toBe('resolved')
  })

  test('with a changed session is reset and set up again before anybody else gets it', async () => {
    const { run, primary } = await startedEngine({ pool: { max: 1 }, session: { init: "set timezone to 'UTC'" } })
    await run("set timezone to 'Asia/Tokyo'")
    await run('select now()')
    expect(sent(primary)).toEqual([
      "set timezone to 'UTC'",
      "set timezone to 'Asia/Tokyo'",
      'discard all',
      "set timezone to 'UTC'",
      'select now()',
    ])
    // DISCARD ALL has taken the server's prepared statements with it.
    expect(primary.sessions[0]!.forgotten).toBe(1)
  })

  test('with a changed session in a transaction is rolled back and then reset', async () => {
    const { lease, run, primary } = await startedEngine({ pool: { max: 1 } })
    const forgetful = lease()
    await forgetful.begin()
    await forgetful.run('set role other')
    forgetful.release()
    await run('select a from t')
    expect(sent(primary)).toEqual(['begin', 'set role other', 'rollback', 'discard all', 'select a from t'])
  })

  test('with a changed session is closed where onCreateConnection had set it up by code of the user', async () => {
    let created = 0
    const { run, primary, clock } = await startedEngine({
      pool: { max: 1 },
      onCreateConnection: async (connection) => {
        created++
        await connection.executeQuery({ sql: 'set app.tenant to 7', parameters: [] })
      },
    })
    await run("set timezone to 'Asia/Tokyo'")
    await clock.advance(0)
    await run('select a from t')
    expect(created).toBe(2)
    expect(primary.log.at(-1)).toMatchObject({ pid: 101, sql: 'select a from t' })
    expect(sent(primary)).not.toContain('discard all')
  })

  test('and cannot be set up again is closed, and that is told', async () => {
    let calls = 0
    const { run, primary, clock, events } = await startedEngine({
      pool: { max: 1 },
      session: {
        init: () => {
          if (++calls === 2) throw new Error('the tenant service is down')
        },
      },
    })
    await run('set role other')
    await clock.advance(0)
    expect(primary.sessions[0]!.lost).not.toBeNull()
    expect(events.error).toMatchObject([{ error: { message: 'the tenant service is down' } }])
    await run('select a from t')
  })

  test('after a plain query is given on as it is, without a round trip', async () => {
    const { run, primary } = await startedEngine({ pool: { max: 1 } })
    await run('insert into t values (1)')
    await run('select a from t')
    expect(sent(primary)).toEqual(['insert into t values (1)', 'select a from t'])
  })

  test('dead leaves room for another', async () => {
    const { pool, primary } = await startedEngine({ pool: { max: 1 } })
    const pooled = await pool.acquire()
    primary.killAll()
    expect(pool.counts()).toMatchObject({ total: 1, active: 1 })
    pool.release(pooled)
    expect(pool.counts()).toMatchObject({ total: 0 })
    await pool.acquire()
    expect(pool.counts()).toMatchObject({ total: 1, active: 1 })
  })
})

describe('leak detection', () => {
  test('reports who holds a connection for too long, once, with the stack that took it', async () => {
    const { lease, primary, clock, events, engine } = await startedEngine({
      pool: { lanes: false, leakDetection: '1s' },
    })
    primary.on('select', { delayMs: 5 })
    const leaking = lease()
    const first = watched(takesAndForgets(() => leaking.run('select a from orders')))
    await clock.advance(seconds(10))
    expect(first.state).toBe('resolved')
    expect(events.leak).toHaveLength(1)
    expect(events.leak[0]).toMatchObject({ node: 'primary', summary: 'SELECT orders' })
    expect(events.leak[0]!.heldMs).toBeGreaterThanOrEqual(1_000)
    expect(events.leak[0]!.stack).toContain('takesAndForgets')
    expect(engine.cluster.primary.cells.leaksDetected).toBe(1)
  })

  test('knows the stack of a connection that was idle when it was taken, too', async () => {
    const { lease, clock, events } = await startedEngine({ pool: { lanes: false, initial: 1, leakDetection: '1s' } })
    const leaking = lease()
    await takesAndForgets(() => leaking.run('select a from orders'))
    await clock.advance(seconds(2))
    expect(events.leak).toHaveLength(1)
    expect(events.leak[0]!.stack).toContain('takesAndForgets')
  })

  test('reports each lease anew', async () => {
    const { pool, clock, events } = await startedEngine({ pool: { max: 1, leakDetection: '1s' } })
    for (let i = 0; i < 3; i++) {
      const pooled = await pool.acquire()
      await clock.advance(seconds(2))
      pool.release(pooled)
    }
    expect(events.leak).toHaveLength(3)
  })

  test('takes nothing away from who holds it, and says nothing of those who are quick', async () => {
    const { pool, clock, events } = await startedEngine({ pool: { max: 2, leakDetection: '1s' } })
    const slow = await pool.acquire()
    for (let i = 0; i < 20; i++) {
      const quick = await pool.acquire()
      await clock.advance(100)
      pool.release(quick)
    }
    expect(events.leak).toHaveLength(1)
    expect(slow.session.lost).toBeNull()
  })

  test('says nothing of connections that the pool itself is asking or cleaning', async () => {
    const { lease, primary, clock, events } = await startedEngine({ pool: { max: 1, leakDetection: '1s' } })
    primary.on('rollback', { delayMs: 3_000 })
    const forgetful = lease()
    await forgetful.begin()
    forgetful.release()
    await clock.advance(seconds(4))
    expect(events.leak).toEqual([])
  })
})

/** A name to find in the stack. */
async function takesAndForgets<T>(take: () => Promise<T>): Promise<T> {
  return take()
}
