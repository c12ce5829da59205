// queryTimeout: the server is asked to cancel, then the connection is destroyed; nobody else is harmed by it, and
// nobody is told of a timeout whose answer was there in time.

import { describe, expect, test } from 'vitest'
import { OutcomeUnknownError } from '../../src/core/errors.ts'
import { pings, seconds, startedEngine, watched } from '../support/engine.ts'
import type { ScriptedSession } from '../support/scripted-server.ts'

/** A server that does not even hear the cancel request. */
function deafen(session: ScriptedSession): void {
  session.cancel = async () => {
    session.cancels++
  }
}

describe('a statement over its time', () => {
  test('is cancelled, and the caller is told what and where', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s' })
    primary.on('slow', 'never')
    const slow = watched(run('select slow from orders'))
    await clock.advance(999)
    expect(slow.state).toBe('pending')
    await clock.advance(300)
    expect(slow.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT', node: 'primary', phase: 'execute' })
    expect((slow.error as Error).message).toContain('SELECT orders')
    expect((slow.error as Error).cause).toMatchObject({ code: '57014' })
  })

  test('that heard the cancel keeps its connection, clean for the next caller', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s', pool: { max: 1 } })
    primary.on('slow', 'never')
    watched(run('select slow'))
    await clock.advance(seconds(2))
    await run('select a from t')
    expect(primary.connects).toBe(1)
    expect(primary.sessions[0]!.cancels).toBe(1)
  })

  test('that does not hear it loses its connection within the grace, and the next caller gets another', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s', pool: { max: 1 } })
    primary.on('slow', 'never')
    const slow = watched(run('select slow'))
    await clock.advance(0)
    deafen(primary.sessions[0]!)
    await clock.advance(seconds(3))
    expect(slow.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(primary.sessions[0]!.lost).not.toBeNull()
    await run('select a from t')
    expect(primary.log.at(-1)!.pid).toBe(101)
  })

  test('that wrote and lost its connection may have been applied, and is not sent again', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s' })
    primary.on('insert', 'never')
    const write = watched(run('insert into t values (1)'))
    await clock.advance(0)
    deafen(primary.sessions[0]!)
    await clock.advance(seconds(5))
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    expect(primary.statements().filter((sql) => sql.startsWith('insert'))).toHaveLength(1)
  })

  test('that wrote and was cancelled was certainly not applied: the timeout is all there is to tell', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s' })
    primary.on('insert', 'never')
    const write = watched(run('insert into t values (1)'))
    await clock.advance(seconds(2))
    expect(write.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test('makes the other idle connections of its host suspect when the server was silent', async () => {
    const { run, primary, clock } = await startedEngine({
      queryTimeout: '1s',
      pool: { initial: 3, max: 3, validateAfterIdle: '1h' },
    })
    primary.on('slow', 'never')
    watched(run('select slow'))
    await clock.advance(0)
    deafen(primary.sessions[2]!)
    await clock.advance(seconds(3))
    expect(pings(primary)).toBe(2)
  })

  test('suspects nobody when the server answered the cancel', async () => {
    const { run, pool, primary, clock } = await startedEngine({
      queryTimeout: '1s',
      pool: { initial: 3, max: 3, validateAfterIdle: '1h' },
    })
    primary.on('slow', 'never')
    watched(run('select slow'))
    await clock.advance(seconds(3))
    expect(pool.take()).not.toBeNull()
  })

  test('does not count against the server: it may be the statement that is slow', async () => {
    const { run, primary, clock, events } = await startedEngine({
      queryTimeout: '1s',
      breaker: { failureThreshold: 2 },
    })
    primary.on('slow', 'never')
    for (let i = 0; i < 5; i++) watched(run('select slow'))
    await clock.advance(seconds(10))
    expect(events.breaker).toEqual([])
  })

  test('is counted from when it was sent, not from when its caller came', async () => {
    const { pool, run, primary, clock } = await startedEngine({ queryTimeout: '1s', pool: { max: 1 } })
    primary.on('quick', { delayMs: 500 })
    const holder = await pool.acquire()
    const waiting = watched(run('select quick'))
    await clock.advance(seconds(5))
    pool.release(holder)
    await clock.advance(500)
    expect(waiting.state).toBe('resolved')
  })

  test('behind another of the same transaction has its own time, and it is limited, too', async () => {
    const { lease, primary, clock } = await startedEngine({ queryTimeout: '2s' })
    primary.on('first', { delayMs: 1_500 }).on('second', 'never')
    const transaction = lease()
    await transaction.begin()
    const first = watched(transaction.run('select first'))
    const second = watched(transaction.run('select second'))
    await clock.advance(1_500)
    expect(first.state).toBe('resolved')
    await clock.advance(1_900)
    expect(second.state).toBe('pending')
    await clock.advance(1_600)
    expect(second.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test('in a transaction leaves a transaction that can be rolled back', async () => {
    const { lease, primary, clock } = await startedEngine({ queryTimeout: '1s' })
    primary.on('slow', 'never')
    const transaction = lease()
    await transaction.begin()
    const slow = watched(transaction.run('select slow'))
    await clock.advance(seconds(2))
    expect(slow.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(transaction.hold.pooled!.session.status).toBe('failed')
    await transaction.run('rollback')
    transaction.release()
  })
})

describe('no timeout', () => {
  test('for an answer that was there before the process could look at the clock', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s' })
    primary.on('slow', { delayMs: 4_000, rows: [{ n: 1 }] })
    const slow = watched(run('select slow'))
    await clock.advance(0)
    // Blocked for longer than the deadline; the answer came meanwhile and is read in this turn.
    clock.block(4_000)
    await clock.advance(0)
    expect(slow.state).toBe('resolved')
    expect(slow.value.rows).toEqual([{ n: 1 }])
    expect(primary.sessions[0]!.cancels).toBe(0)
  })

  test('for DDL, which takes as long as it takes', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s' })
    primary.on('create index', { delayMs: 60_000 })
    const index = watched(run('create index on orders (id)'))
    await clock.advance(seconds(60))
    expect(index.state).toBe('resolved')
  })

  test('with queryTimeout 0', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: 0 })
    primary.on('slow', { delayMs: 3_600_000 })
    const slow = watched(run('select slow'))
    await clock.advance(seconds(3_600))
    expect(slow.state).toBe('resolved')
  })

  test('for a connection that is only held', async () => {
    const { lease, clock, primary } = await startedEngine({ queryTimeout: '1s' })
    const holder = lease()
    await holder.run('select a from t')
    await clock.advance(seconds(60))
    expect(primary.sessions[0]!.cancels).toBe(0)
    await holder.run('select b from t')
  })
})

describe('a cancel request that is late', () => {
  test('never hits the next caller of that connection', async () => {
    const { run, primary, clock } = await startedEngine({ queryTimeout: '1s', pool: { max: 1 } })
    primary.on('slow', { delayMs: 1_200 }).on('innocent', { delayMs: 400 })
    const slow = watched(run('select slow'))
    await clock.advance(0)
    const [session] = primary.sessions
    const cancel = session!.cancel.bind(session)
    // On its way through the network the request is overtaken by the statement's own end.
    session!.cancel = () =>
      new Promise((resolve) => {
        clock.setTimeout(() => resolve(cancel()), 300)
      })
    await clock.advance(1_000)
    const innocent = watched(run('select innocent'))
    await clock.advance(seconds(2))
    expect(slow.state).toBe('resolved')
    expect(innocent.error).toBeUndefined()
    expect(innocent.state).toBe('resolved')
  })
})
