// pool.pipelineWrites: writes that never waited for a lock share connections like reads. Shared connections give up
// waiting for a lock after 20 ms; what was given up is sent once more, alone, under the lock timeout the user has set.

import { describe, expect, test } from 'vitest'
import type { PoolOptions } from '../../src/config/options.ts'
import { LOCK_TIMEOUT, WHO_ANSWERS } from '../../src/core/statements.ts'
import { logged, newTestEngine, rejection, seconds, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions } from '../support/engine.ts'
import { serverError } from '../support/scripted-server.ts'
import type { Answer, ScriptedSession } from '../support/scripted-server.ts'

const FAST = 'select a from fast'
const INSERT = 'insert into t values (1)'
const UPDATE = 'update t set a = 1 where id = 2'
const SHORT = "set lock_timeout = '20ms'"
const OWN = "set lock_timeout = '5s'"

interface Server {
  /** Something in between answers for another session than the one that was opened. */
  readonly pooled?: boolean
}

/** Connections to a server whose user has set a lock_timeout of five seconds. */
async function writing(pool: PoolOptions = {}, options: TestEngineOptions = {}, { pooled = false }: Server = {}) {
  const engine = newTestEngine({
    ...options,
    pool: { max: 2, validateAfterIdle: '1h', pipelineWrites: true, ...pool },
  })
  engine.primary.on(WHO_ANSWERS.sql, (_, { pid }) => ({ rows: [{ pid: String(pooled ? pid + 1_000 : pid) }] }))
  engine.primary.on(LOCK_TIMEOUT.sql, { rows: [{ lock_timeout: '5s' }] })
  engine.engine.start()
  await engine.clock.advance(0)
  for (const text of [FAST, INSERT, UPDATE]) await learn(engine, text)
  return engine
}

/** Long enough for a text to count as one that never waits. */
async function learn({ run }: TestEngine, text: string): Promise<void> {
  for (let times = 0; times < 8; times++) await run(text)
}

/** What users sent, without our question for their lock_timeout. */
const texts = ({ primary }: TestEngine, pid?: number): string[] =>
  logged(primary)
    .filter((entry) => entry.sql !== LOCK_TIMEOUT.sql && (pid === undefined || entry.pid === pid))
    .map(({ sql }) => sql)

const settings = (engine: TestEngine, pid?: number): string[] =>
  texts(engine, pid).filter((sql) => sql.startsWith('set lock_timeout'))

/** What the server says when it gave up waiting after lock_timeout. */
function gaveUp(): Error {
  return Object.assign(serverError('55P03', 'canceling statement due to lock timeout'), {
    routine: 'ProcessInterrupts',
  })
}

/** Somebody else holds the row: whoever may not wait for long is turned away, others wait and get it. */
function lockedFor({ primary }: TestEngine, waitMs: number): (statement: unknown, session: ScriptedSession) => Answer {
  return (_, { pid }) => {
    const setting = primary.log.findLast((entry) => entry.pid === pid && entry.sql.startsWith('set lock_timeout'))
    return setting?.sql === SHORT ? { error: gaveUp(), delayMs: 20 } : { delayMs: waitMs }
  }
}

/** Where each of these texts ran, of those since `from`. */
const pidsSince = ({ primary }: TestEngine, from: number): number[] =>
  logged(primary)
    .slice(from)
    .filter(({ sql }) => !sql.startsWith('set lock_timeout') && sql !== LOCK_TIMEOUT.sql)
    .map(({ pid }) => pid)

describe('a plain write', () => {
  test('lets others ride behind it once it has run often, fast, and without waiting for a lock', async () => {
    const engine = await writing()
    const from = logged(engine.primary).length
    await Promise.all([INSERT, INSERT, FAST, UPDATE, INSERT].map((text) => engine.run(text)))
    expect(new Set(pidsSince(engine, from)).size).toBe(1)
  })

  test('lets nobody ride behind it before', async () => {
    const engine = await writing()
    const another = 'insert into u values (1)'
    for (let times = 0; times < 7; times++) await engine.run(another)
    engine.primary.on('into u', { delayMs: 5 })
    const both = [another, FAST].map((text) => watched(engine.run(text)))
    await engine.clock.advance(1)
    expect(both.map(({ state }) => state)).toEqual(['pending', 'resolved'])
  })

  test.each([
    'insert into t select a from u',
    'with x as (delete from t returning a) insert into u select a from x',
    'select a from t for update',
    'alter table t add column b int',
  ])('is not %s', async (text) => {
    const engine = await writing({ initial: 2 })
    await learn(engine, text)
    await learn(engine, text)
    engine.primary.on(text, { delayMs: 5 })
    const both = [text, FAST].map((each) => watched(engine.run(each)))
    await engine.clock.advance(1)
    expect(both.map(({ state }) => state)).toEqual(['pending', 'resolved'])
  })

  test('is nothing special without the option, and nobody is asked for his lock_timeout', async () => {
    const engine = await writing({ pipelineWrites: false, initial: 2 })
    engine.primary.on('insert', { delayMs: 5 })
    const both = [INSERT, FAST].map((text) => watched(engine.run(text)))
    await engine.clock.advance(1)
    expect(both.map(({ state }) => state)).toEqual(['pending', 'resolved'])
    expect(engine.primary.statements().join()).not.toContain('lock_timeout')
  })

  test('is nothing special behind a pooler, where nobody knows on which connection a setting would stay', async () => {
    const engine = await writing({ initial: 2 }, {}, { pooled: true })
    engine.primary.on('insert', { delayMs: 5 })
    const both = [INSERT, FAST].map((text) => watched(engine.run(text)))
    await engine.clock.advance(1)
    expect(both.map(({ state }) => state)).toEqual(['pending', 'resolved'])
    expect(settings(engine)).toEqual([])
  })
})

describe('the lock timeout', () => {
  test('is short on a shared connection, set once and ahead of the first statement', async () => {
    const engine = await writing({ max: 1 })
    expect(settings(engine)).toEqual([SHORT])
    expect(texts(engine)[0]).toBe(SHORT)
    for (let i = 0; i < 3; i++) await engine.run(FAST)
    expect(settings(engine)).toEqual([SHORT])
  })

  test("is the user's on a connection that somebody has for himself, before anything of his is sent", async () => {
    const engine = await writing({ max: 1 })
    const transaction = engine.lease()
    await transaction.begin()
    await transaction.run('select b from t')
    await transaction.run('commit')
    transaction.release()
    const connection = engine.lease()
    await connection.run('select first from t')
    await connection.run('select second from t')
    connection.release()
    await engine.run(FAST)
    const since = texts(engine).slice(texts(engine).indexOf(OWN))
    expect(since).toEqual([
      ...[OWN, 'begin', 'select b from t', 'commit'],
      ...[SHORT, 'select first from t', OWN, 'select second from t'],
      ...[SHORT, FAST],
    ])
  })

  test("is the user's after a reset, and short again for those who share", async () => {
    const engine = await writing({ max: 1 })
    await engine.run("set timezone = 'UTC'")
    await engine.clock.advance(10)
    await engine.run(FAST)
    const since = texts(engine).slice(texts(engine).indexOf(OWN))
    expect(since).toEqual([OWN, "set timezone = 'UTC'", 'discard all', SHORT, FAST])
  })

  test('that cannot be read leaves everything as it is without the option', async () => {
    const engine = await startedEngine({ pool: { max: 2, validateAfterIdle: '1h', pipelineWrites: true } })
    engine.primary.on(WHO_ANSWERS.sql, (_, { pid }) => ({ rows: [{ pid: String(pid) }] }))
    engine.primary.on(LOCK_TIMEOUT.sql, { rows: [{ lock_timeout: new Date(0) }] })
    await learn(engine, INSERT)
    expect(settings(engine)).toEqual([])
  })
})

describe('a write that has to wait for a lock', () => {
  test('is given up and sent once more, alone, under the lock timeout of the user', async () => {
    const engine = await writing()
    engine.primary.on('update', lockedFor(engine, 300))
    const from = logged(engine.primary).length
    const update = watched(engine.run(UPDATE))
    await engine.clock.advance(19)
    expect(update.state).toBe('pending')
    await engine.clock.advance(400)
    expect(update.state).toBe('resolved')
    const updates = logged(engine.primary)
      .slice(from)
      .filter(({ sql }) => sql === UPDATE)
    expect(updates).toHaveLength(2)
    const alone = texts(engine, updates[1]!.pid)
    expect(settings(engine, updates[1]!.pid).at(-1)).toBe(OWN)
    expect(alone.indexOf(OWN)).toBeLessThan(alone.lastIndexOf(UPDATE))
    expect(engine.events.query.at(-1)).toMatchObject({ ok: true, summary: 'UPDATE t' })
    expect(engine.pool.counts()).toMatchObject({ active: 0, waiting: 0 })
  })

  test('does not keep those behind it waiting: they are answered when it is given up', async () => {
    const engine = await writing({ max: 3 })
    engine.primary.on('update', lockedFor(engine, 300))
    const [update, insert, read] = [UPDATE, INSERT, FAST].map((text) => watched(engine.run(text)))
    await engine.clock.advance(25)
    expect(update!.state).toBe('pending')
    expect([insert!.state, read!.state]).toEqual(['resolved', 'resolved'])
    await engine.clock.advance(400)
    expect(update!.state).toBe('resolved')
    expect(texts(engine).filter((sql) => sql === INSERT)).toHaveLength(9)
  })

  test('lets nobody ride behind it for a minute, and does so again when it has not waited since', async () => {
    const engine = await writing({ initial: 2 })
    engine.primary.on('update', lockedFor(engine, 30))
    const update = watched(engine.run(UPDATE))
    await engine.clock.advance(100)
    expect(update.state).toBe('resolved')
    engine.primary.on('update', {})
    // What it has just cost is forgotten.
    for (let i = 0; i < 60; i++) await engine.run(UPDATE)
    const ridesAlong = async (): Promise<boolean> => {
      const from = logged(engine.primary).length
      await Promise.all([engine.run(UPDATE), engine.run(FAST)])
      return new Set(pidsSince(engine, from)).size === 1
    }
    expect(await ridesAlong()).toBe(false)
    await engine.clock.advance(seconds(61))
    for (let i = 0; i < 10; i++) await engine.run(UPDATE)
    expect(await ridesAlong()).toBe(true)
  })

  test("for longer than the user would has the user's error, and is not sent a third time", async () => {
    const engine = await writing()
    engine.primary.on('update', { error: gaveUp(), delayMs: 5 })
    const update = watched(engine.run(UPDATE))
    await engine.clock.advance(seconds(1))
    expect(update.error).toMatchObject({ code: '55P03', message: 'canceling statement due to lock timeout' })
    expect(texts(engine).filter((sql) => sql === UPDATE)).toHaveLength(10)
  })

  test('and said NOWAIT has its error at once', async () => {
    const engine = await writing()
    const text = 'select a from t for update nowait'
    engine.primary.on('nowait', {
      error: Object.assign(serverError('55P03', 'could not obtain lock on row'), { routine: 'heap_lock_tuple' }),
    })
    expect(await rejection(engine.run(text))).toMatchObject({ code: '55P03' })
    expect(texts(engine).filter((sql) => sql === text)).toHaveLength(1)
  })

  test('and whose caller goes meanwhile is not sent again', async () => {
    const engine = await writing({ max: 1 })
    engine.primary.on('update', lockedFor(engine, 300))
    const abort = new AbortController()
    const update = watched(engine.run(UPDATE, { signal: abort.signal }))
    await engine.clock.advance(10)
    abort.abort(new Error('gone'))
    await engine.clock.advance(seconds(1))
    expect(update.state).toBe('rejected')
    expect(texts(engine).filter((sql) => sql === UPDATE)).toHaveLength(9)
    expect(engine.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('counts as one query, which opens no circuit', async () => {
    const engine = await writing({}, { breaker: { failureThreshold: 1 } })
    const { cells } = engine.pool
    const before = cells.queries
    engine.primary.on('update', lockedFor(engine, 30))
    const update = watched(engine.run(UPDATE))
    await engine.clock.advance(100)
    expect(update.state).toBe('resolved')
    expect(cells.queries).toBe(before + 1)
    expect(cells.queryErrors).toBe(0)
    expect(engine.events.breaker).toEqual([])
  })

  test('does not wait for a connection that is not there: it is one of those who wait', async () => {
    const engine = await writing({ max: 1, acquireTimeout: '1s' })
    engine.primary.on('update', lockedFor(engine, 30))
    engine.primary.on('report', { delayMs: seconds(5) })
    const update = watched(engine.run(UPDATE))
    const report = watched(engine.run('select report from t'))
    await engine.clock.advance(seconds(3))
    expect(update.error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT' })
    await engine.clock.advance(seconds(5))
    expect(report.state).toBe('resolved')
  })
})

// What gives up after 20 ms may have done something that stays.
test.each([
  'create index concurrently i on t (a)',
  'drop index concurrently i',
  'reindex table concurrently t',
  'refresh materialized view concurrently v',
  'alter table p detach partition q concurrently',
  'vacuum t',
])('a statement that does its work in several transactions waits as long as the user says: %s', async (text) => {
  const engine = await writing({ max: 1 })
  await engine.run(text)
  expect(settings(engine).at(-1)).toBe(OWN)
})
