// Callers who share connections: which statements do, who stands behind whom, who waits and for how long, and what
// becomes of a neighbour when a statement hangs, is aborted, or loses its connection.

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { PoolOptions } from '../../src/config/options.ts'
import { OutcomeUnknownError, SmartPgError } from '../../src/core/errors.ts'
import type { Rows } from '../../src/core/types.ts'
import { execute } from '../../src/engine/execute.ts'
import { Hold } from '../../src/engine/hold.ts'
import { stream } from '../../src/engine/stream.ts'
import { seededChance } from '../support/chance.ts'
import { logged, rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions, Watched } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'
import type { ScriptedServer, ScriptedSession } from '../support/scripted-server.ts'

const FAST = 'select a from fast'
const HANGS = 'select a from hanging'
const INSERT = 'insert into t values (1)'

/** `size` connections from the start, all of them known to live. */
const pooling = (size: number, more: PoolOptions = {}): PoolOptions => ({
  initial: size,
  max: size,
  validateAfterIdle: '1h',
  ...more,
})

/** So many connections, and texts that have been answered at once so often that they count as fast. */
async function sharing(size: number, options: TestEngineOptions = {}, texts = [FAST, HANGS]): Promise<TestEngine> {
  const stage = await startedEngine({ ...options, pool: pooling(size, options.pool) })
  await learn(stage, ...texts)
  return stage
}

async function learn({ run }: TestEngine, ...texts: string[]): Promise<void> {
  for (const text of texts) for (let times = 0; times < 3; times++) await run(text)
}

/** Where a text ran last. */
function pidOf(server: ScriptedServer, text: string): number | undefined {
  return logged(server).findLast(({ sql }) => sql === text)?.pid
}

function sessionOf(server: ScriptedServer, text: string): ScriptedSession {
  return server.sessions.find(({ pid }) => pid === pidOf(server, text))!
}

const timesSent = (server: ScriptedServer, text: string): number => sent(server).filter((sql) => sql === text).length

/** In small steps, because a load that never ends sets many timers. */
async function pass({ clock }: TestEngine, ms: number): Promise<void> {
  for (let gone = 0; gone < ms; gone += 20) await clock.advance(20)
}

/** Callers who ask again as soon as they are answered, until told to stop. */
function loadOf({ run }: TestEngine, text: string, callers: number): Load {
  const load: Load = { answers: 0, failures: [], ended: false, ends: async () => undefined }
  const caller = async (): Promise<void> => {
    while (!load.ended) {
      await run(text).then(
        () => load.answers++,
        (error: unknown) => load.failures.push(error),
      )
    }
  }
  const all = Promise.all(Array.from({ length: callers }, caller))
  load.ends = async () => {
    load.ended = true
    await all
  }
  return load
}

interface Load {
  answers: number
  readonly failures: unknown[]
  ended: boolean
  ends: () => Promise<unknown>
}

/** A server that does not hear cancel requests. */
function deafen(session: ScriptedSession): void {
  session.cancel = async () => {
    session.cancels++
  }
}

/** A cancel request that has done its work, and whose socket closes when the test says so. */
function slowToCancel(session: ScriptedSession): () => void {
  const cancel = session.cancel.bind(session)
  let close = (): void => undefined
  const closed = new Promise<void>((resolve) => (close = resolve))
  session.cancel = async () => {
    // It travels to the server first.
    await Promise.resolve()
    await cancel()
    await closed
  }
  return close
}

const unhandled: unknown[] = []
const onUnhandled = (error: unknown): void => void unhandled.push(error)
beforeEach(() => {
  unhandled.length = 0
  process.on('unhandledRejection', onUnhandled)
})
afterEach(() => {
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

/** Sends a fast read and, within the same turn, another statement; whether that went over the same connection. */
async function ridesWith(stage: TestEngine, text: string): Promise<boolean> {
  const both = [watched(stage.run(FAST)), watched(stage.run(text))]
  await stage.clock.advance(0)
  await pass(stage, 100)
  expect(both.map(({ state }) => state)).toEqual(['resolved', 'resolved'])
  return pidOf(stage.primary, FAST) === pidOf(stage.primary, text)
}

describe('a statement shares a connection', () => {
  test.each([
    'select a from t',
    'select count(*) from t join u using (id)',
    'select pg_sleep(1)',
    'select a from t for update',
    "select nextval('s')",
    INSERT,
    'insert into t select a from u returning a',
    'update t set a = 1 where id = 2',
    'delete from t',
    'with x as (insert into t values (1) returning a) select a from x',
    'alter table t add column b int',
    'create table u (a int)',
  ])('that leaves nothing behind: %s', async (text) => {
    expect(await ridesWith(await sharing(2), text)).toBe(true)
  })

  test('also when the user wrote it by hand', async () => {
    expect(await ridesWith(await sharing(2), 'select b from t')).toBe(true)
  })
})

describe('a statement has a connection for itself', () => {
  test.each([
    "set timezone = 'UTC'",
    'select pg_advisory_lock(1)',
    "select set_config('app.tenant', 'a', false)",
    'select function_of_the_user(1)',
    'create temp table mine (a int)',
    'listen news',
    'prepare plan as select 1',
    'declare c cursor with hold for select 1',
    'lock table t',
    'call procedure_of_the_user()',
    'do $$ begin end $$',
    'select 1; select 2',
    'begin',
    'commit',
    'copy t to stdout',
    'copy t from stdin',
    'show timezone',
    'select pg_backend_pid()',
    "select current_setting('timezone')",
    'something that nobody knows',
  ])('that may leave something behind, or asks about it: %s', async (text) => {
    expect(await ridesWith(await sharing(2), text)).toBe(false)
    expect(await ridesWith(await sharing(2), text)).toBe(false)
  })

  test('in a transaction', async () => {
    const stage = await sharing(2)
    const transaction = stage.lease()
    await transaction.begin()
    const read = watched(stage.run(FAST))
    await transaction.run('select b from t')
    await transaction.run('commit')
    transaction.release()
    await stage.clock.advance(0)
    expect(read.state).toBe('resolved')
    const inside = logged(stage.primary).filter(({ status }) => status === 'open')
    expect(inside.map(({ sql }) => sql)).toEqual(['select b from t', 'commit'])
  })

  test('in a transaction that took it in this very turn, when it was shared a moment ago', async () => {
    const stage = await sharing(2)
    const reads: Watched<Rows>[] = []
    const leases = [stage.lease(), stage.lease()]
    for (const lease of leases) {
      await lease.begin()
      const statement = watched(lease.run('select b from t'))
      reads.push(watched(stage.run(FAST)), watched(stage.run(INSERT)))
      await stage.clock.advance(0)
      expect(statement.state).toBe('resolved')
    }
    for (const lease of leases) {
      await lease.run('commit')
      lease.release()
    }
    await stage.clock.advance(10)
    expect(reads.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    const inside = logged(stage.primary).filter(({ status }) => status === 'open')
    expect(inside.map(({ sql }) => sql)).toEqual(['select b from t', 'select b from t', 'commit', 'commit'])
  })

  test('when it is the second of its lease, and keeps it', async () => {
    const stage = await sharing(2)
    const lease = stage.lease()
    const load = loadOf(stage, FAST, 3)
    await lease.run('select first from t')
    const texts = ['select second from t', 'select third from t', INSERT]
    for (const text of texts) await lease.run(text)
    const own = pidOf(stage.primary, INSERT)
    expect(texts.map((text) => pidOf(stage.primary, text))).toEqual([own, own, own])
    const second = logged(stage.primary).findIndex(({ sql }) => sql === 'select second from t')
    const since = logged(stage.primary).slice(second)
    expect(since.filter(({ pid }) => pid === own).map(({ sql }) => sql)).toEqual(texts)
    lease.release()
    await load.ends()
  })

  test('when it is the second of its lease, and the first has failed', async () => {
    const stage = await sharing(2)
    const lease = stage.lease()
    stage.primary.on('broken', { error: serverError('42601', 'syntax error') })
    await rejection(lease.run('select broken from t'))
    stage.primary.on('fast', { delayMs: 5 })
    const read = watched(stage.run(FAST))
    await Promise.all([lease.run('select second from t'), stage.clock.advance(10)])
    expect(read.state).toBe('resolved')
    expect(pidOf(stage.primary, 'select second from t')).not.toBe(pidOf(stage.primary, FAST))
    lease.release()
  })

  test('when it is streamed', async () => {
    const stage = await sharing(2)
    stage.primary.on('streamed', { rows: [{ n: 1 }, { n: 2 }] })
    const load = loadOf(stage, FAST, 3)
    const rows = stream(stage.engine, new Hold(), stage.engine.statement('select streamed from t', []), {
      chunkSize: 10,
      signal: undefined,
      timeoutMs: undefined,
    })
    for await (const chunk of rows) expect(chunk).toHaveLength(2)
    await load.ends()
    const own = pidOf(stage.primary, 'select streamed from t')
    const texts = sent(stage.primary, own)
    const begun = texts.indexOf('begin read only')
    expect(texts.slice(begun, begun + 3)).toEqual(['begin read only', 'select streamed from t', 'commit'])
  })

  test.each<[string, TestEngineOptions]>([
    ['pool.lanes: false', { pool: { lanes: false } }],
    ["wire: 'pg'", { wire: 'pg' }],
    ['onReserveConnection', { onReserveConnection: async () => undefined }],
  ])('always, with %s', async (_, options) => {
    const stage = await sharing(2, options)
    stage.primary.on('fast', { delayMs: 5 })
    expect(await ridesWith(stage, 'select b from t')).toBe(false)
  })

  test('that onReserveConnection was awaited on, every time and before its first statement', async () => {
    const prepared: string[] = []
    const stage = await startedEngine({
      pool: pooling(2),
      onReserveConnection: async (connection) => {
        await connection.executeQuery({ sql: 'select prepare_tenant()', parameters: [] })
        prepared.push('prepared')
      },
    })
    await Promise.all([stage.run(FAST), stage.run(FAST), stage.run(FAST)])
    expect(prepared).toHaveLength(3)
    for (const { pid } of logged(stage.primary)) {
      const texts = sent(stage.primary, pid).filter((sql) => sql !== 'discard all')
      texts.forEach((sql, i) => expect(sql).toBe(i % 2 === 0 ? 'select prepare_tenant()' : FAST))
    }
  })
})

test('a caller whose first read went over a shared connection to a replica goes on at the primary', async () => {
  const stage = await startedEngine({ replicas: 1, pool: pooling(2) })
  const lease = stage.lease()
  await lease.run('select a from t')
  expect(sent(stage.replicas[0]!)).toEqual(['select a from t'])
  await lease.run('select b from t')
  await lease.run('select c from t')
  expect(sent(stage.primary)).toEqual(['select b from t', 'select c from t'])
  expect(new Set(logged(stage.primary).map(({ pid }) => pid)).size).toBe(1)
  lease.release()
})

describe('what stands behind what', () => {
  test('fast reads of one turn leave over one connection', async () => {
    const stage = await sharing(3)
    await Promise.all(Array.from({ length: 30 }, () => stage.run(FAST)))
    expect(
      new Set(
        logged(stage.primary)
          .slice(-30)
          .map(({ pid }) => pid),
      ).size,
    ).toBe(1)
  })

  test.each([
    ['a write', INSERT],
    ['a read that locks', 'select a from t for update'],
    ['a text that nobody has seen yet', 'select newcomer from t'],
    ['a text that takes long', 'select report from t'],
  ])('nothing behind %s', async (_, text) => {
    const stage = await sharing(2)
    if (!text.includes('newcomer')) {
      stage.primary.on('report', { delayMs: 30 })
      for (let i = 0; i < 3; i++) await Promise.all([stage.run(text), stage.clock.advance(50)])
    }
    stage.primary.on(text, { delayMs: 50 })
    const first = watched(stage.run(text))
    const read = watched(stage.run(FAST))
    await stage.clock.advance(1)
    expect(read.state).toBe('resolved')
    expect(first.state).toBe('pending')
    expect(pidOf(stage.primary, FAST)).not.toBe(pidOf(stage.primary, text))
    await stage.clock.advance(60)
    expect(first.state).toBe('resolved')
  })

  test('nobody boards a connection whose answer is late', async () => {
    const stage = await sharing(2)
    stage.primary.on('hanging', 'never')
    const hanging = watched(stage.run(HANGS))
    await stage.clock.advance(10)
    await Promise.all(Array.from({ length: 10 }, () => stage.run(FAST)))
    const where = new Set(
      logged(stage.primary)
        .slice(-10)
        .map(({ pid }) => pid),
    )
    expect([...where]).not.toContain(pidOf(stage.primary, HANGS))
    expect(hanging.state).toBe('pending')
  })

  test.each([3, 10])(
    'of %i connections one is always left for reads, however many writes wait for locks',
    async (size) => {
      const stage = await sharing(size, {}, [FAST, INSERT])
      const holder = stage.lease()
      await holder.begin()
      await holder.run('update t set a = 1')
      stage.primary.on('insert', 'never')
      const blocked = Array.from({ length: size - 1 }, () => watched(stage.run(INSERT)))
      await pass(stage, 40)
      for (let i = 0; i < 20; i++) await stage.run(FAST)
      expect(blocked.every(({ state }) => state === 'pending')).toBe(true)
      await holder.run('commit')
      holder.release()
    },
  )
})

describe('whoever waits for a place', () => {
  test('is served in the order of coming', async () => {
    const stage = await sharing(1)
    stage.primary.on('report', { delayMs: 10 })
    const report = watched(stage.run('select report from t'))
    const texts = ['select one from t', 'select two from t', 'select three from t']
    const waiting = texts.map((text) => watched(stage.run(text)))
    await stage.clock.advance(5)
    expect(stage.pool.counts()).toMatchObject({ active: 1, waiting: 3 })
    await stage.clock.advance(20)
    expect([report, ...waiting].map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(sent(stage.primary).slice(-3)).toEqual(texts)
  })

  test('to read overtakes who waits to write, and reads keep their order', async () => {
    const stage = await sharing(1, {}, [FAST, INSERT, 'select b from fast'])
    stage.primary.on('report', { delayMs: 10 })
    const texts = [INSERT, FAST, 'select b from fast']
    const all = ['select report from t', ...texts].map((text) => watched(stage.run(text)))
    await stage.clock.advance(20)
    expect(all.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(sent(stage.primary).slice(-3)).toEqual([FAST, 'select b from fast', INSERT])
  })

  test('to write is not overtaken for ever by reads that never cease', async () => {
    const stage = await sharing(1, {}, [FAST, INSERT])
    stage.primary.on('fast', { delayMs: 1 })
    const load = loadOf(stage, FAST, 200)
    await pass(stage, 100)
    const writes: Watched<Rows>[] = []
    for (let i = 0; i < 5; i++) {
      writes.push(watched(stage.run(INSERT)))
      await pass(stage, seconds(2))
    }
    expect(writes.map(({ state }) => state)).toEqual(Array(5).fill('resolved'))
    const ended = load.ends()
    await pass(stage, seconds(1))
    await ended
    expect(load.failures).toEqual([])
  })

  test('is told after acquireTimeout, with what holds the connections', async () => {
    const stage = await sharing(1, { pool: { acquireTimeout: '1s' } }, [FAST, INSERT])
    stage.primary.on('report', 'never')
    watched(stage.run('select report from t'))
    const waiting = [watched(stage.run(FAST)), watched(stage.run(INSERT))]
    await stage.clock.advance(990)
    expect(waiting.map(({ state }) => state)).toEqual(['pending', 'pending'])
    await stage.clock.advance(20)
    for (const { error } of waiting) {
      expect(error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT', phase: 'acquire', pool: { active: 1, max: 1 } })
      expect((error as Error).message).toContain('SELECT t')
    }
    expect(stage.pool.counts().waiting).toBe(0)
    expect(sent(stage.primary)).not.toContain('select report from t'.replace('report', 'never'))
    expect(timesSent(stage.primary, INSERT)).toBe(3)
  })

  test('and goes leaves nothing behind: nothing is sent, and those behind him move up', async () => {
    const stage = await sharing(1, {}, [FAST, INSERT])
    stage.primary.on('report', { delayMs: 10 })
    watched(stage.run('select report from t'))
    const abort = new AbortController()
    const reason = new Error('the user went away')
    const leaver = watched(stage.run('select leaver from t', { signal: abort.signal }))
    const writer = watched(stage.run('insert into leaver values (1)', { signal: abort.signal }))
    const stays = watched(stage.run(FAST))
    abort.abort(reason)
    await stage.clock.advance(0)
    expect([leaver.error, writer.error]).toEqual([reason, reason])
    expect(stage.pool.counts().waiting).toBe(1)
    await stage.clock.advance(20)
    expect(stays.state).toBe('resolved')
    expect(sent(stage.primary).join()).not.toContain('leaver')
    expect(stage.pool.cells.acquires.aborted).toBe(2)
    expect(stage.pool.counts()).toMatchObject({ active: 0, idle: 1, waiting: 0 })
  })

  test('and goes in the very moment he is served gives his place back unused', async () => {
    const stage = await sharing(1)
    const abort = new AbortController()
    stage.primary.on('report', { delayMs: 10 })
    watched(stage.run('select report from t'))
    const leaver = watched(stage.run('select leaver from t', { signal: abort.signal }))
    const stays = watched(stage.run('select stays from t'))
    await stage.clock.advance(5)
    // Called after the pool has served who waits, and before they know.
    stage.primary.sessions[0]!.onRead(() => abort.abort(new Error('gone')))
    await stage.clock.advance(20)
    expect(leaver.state).toBe('rejected')
    expect(stays.state).toBe('resolved')
    expect(sent(stage.primary).join()).not.toContain('leaver')
    expect(stage.pool.counts()).toMatchObject({ active: 0, idle: 1, waiting: 0 })
  })

  test('and goes gives his permit back: the circuit lets the next one try', async () => {
    const stage = await sharing(1, {
      breaker: { failureThreshold: 1, halfOpenMaxCalls: 1, recoveryTimeout: { min: '1s', max: '1s' } },
      retry: { attempts: 1 },
    })
    stage.primary.on('boom', { error: serverError('53200', 'out of memory') })
    await rejection(stage.run('select boom from t'))
    expect(await rejection(stage.run(FAST))).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN' })
    await stage.clock.advance(1_500)
    // Somebody who holds the only connection, so that the trial has to wait.
    const holder = await stage.pool.acquire()
    const abort = new AbortController()
    const trial = watched(stage.run(FAST, { signal: abort.signal }))
    await stage.clock.advance(0)
    expect(await rejection(stage.run(FAST))).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN' })
    abort.abort(new Error('gone'))
    await stage.clock.advance(0)
    expect(trial.state).toBe('rejected')
    stage.pool.release(holder)
    await stage.run(FAST)
  })

  test('is refused when maxWaiting wait already', async () => {
    const stage = await sharing(1, { pool: { maxWaiting: 3 } })
    stage.primary.on('report', { delayMs: 10 })
    watched(stage.run('select report from t'))
    const waiting = [FAST, INSERT, FAST].map((text) => watched(stage.run(text)))
    expect(await rejection(stage.run(FAST))).toMatchObject({ code: 'SMARTPG_QUEUE_FULL', pool: { waiting: 3 } })
    expect(await rejection(stage.run(INSERT))).toMatchObject({ code: 'SMARTPG_QUEUE_FULL' })
    await stage.clock.advance(20)
    expect(waiting.map(({ state }) => state)).toEqual(Array(3).fill('resolved'))
  })

  test('is refused when maxWaiting wait already, although connections are kept free for reads', async () => {
    const stage = await sharing(3, { pool: { maxWaiting: 3 } })
    stage.primary.on('report', { delayMs: 10 })
    const reports = Array.from({ length: 20 }, (_, i) => watched(stage.run(`select report from t${i}`)))
    await stage.clock.advance(0)
    expect(stage.pool.counts().idle).toBeGreaterThan(0)
    expect(stage.pool.counts().waiting).toBe(3)
    expect(reports.filter(({ state }) => state === 'rejected')).toHaveLength(16)
    await pass(stage, seconds(3))
    expect(reports.filter(({ state }) => state === 'resolved')).toHaveLength(4)
  })

  test('for a slow statement gets a connection that was kept free for reads once these have ceased', async () => {
    const stage = await sharing(3)
    stage.primary.on('report', { delayMs: 60_000 })
    const reports = ['a', 'b', 'c'].map((of) => watched(stage.run(`select report from ${of}`)))
    await pass(stage, seconds(2))
    expect(sent(stage.primary).filter((sql) => sql.includes('report'))).toHaveLength(3)
    expect(reports.map(({ state }) => state)).toEqual(Array(3).fill('pending'))
  })
})

describe('destroying', () => {
  test('rejects who waits for a place, lets who has one finish, and leaves nothing', async () => {
    const stage = await sharing(1)
    stage.primary.on('report', { delayMs: 1_000, rows: [{ n: 1 }] })
    const riding = watched(stage.run('select report from t'))
    const waiting = [FAST, INSERT].map((text) => watched(stage.run(text)))
    const stopped = watched(stage.engine.stop())
    await stage.clock.advance(0)
    for (const { error } of waiting) expect(error).toMatchObject({ code: 'SMARTPG_CLOSED' })
    expect([riding.state, stopped.state]).toEqual(['pending', 'pending'])
    await stage.clock.advance(1_000)
    expect(riding.value.rows).toEqual([{ n: 1 }])
    expect(stopped.state).toBe('resolved')
    expect(stage.primary.openSessions).toEqual([])
    expect(stage.clock.pendingTimers).toBe(0)
  })

  test('lets whoever has just got a place send and be answered', async () => {
    const stage = await sharing(1)
    stage.primary.on('report', { delayMs: 10 })
    watched(stage.run('select report from t'))
    const served = watched(stage.run(FAST))
    await stage.clock.advance(5)
    const stopped: Watched<void>[] = []
    stage.primary.sessions[0]!.onRead(() => {
      if (stopped.length === 0) stopped.push(watched(stage.engine.stop()))
    })
    await stage.clock.advance(seconds(1))
    expect(served.state).toBe('resolved')
    expect(stopped[0]!.state).toBe('resolved')
    expect(stage.primary.openSessions).toEqual([])
  })

  test('ends although statements never do, and their callers are told', async () => {
    const stage = await sharing(1, { queryTimeout: '1s' })
    stage.primary.on('hanging', 'never')
    deafen(stage.primary.sessions[0]!)
    const riding = [HANGS, FAST, INSERT].map((text) => watched(stage.run(text)))
    const stopped = watched(stage.engine.stop())
    await stage.clock.advance(seconds(3))
    expect(riding.map(({ state }) => state)).toEqual(Array(3).fill('rejected'))
    expect(stopped.state).toBe('resolved')
    expect(stage.primary.openSessions).toEqual([])
    expect(stage.clock.pendingTimers).toBe(0)
  })

  test('leaves no timer, although statements stood behind each other a moment ago', async () => {
    const stage = await sharing(2)
    await Promise.all([stage.run(FAST), stage.run(FAST), stage.run(FAST)])
    await stage.engine.stop()
    // This turn of the event loop ends.
    await stage.clock.advance(0)
    expect(stage.clock.pendingTimers).toBe(0)
  })

  test('waits for a connection on which something is still being cancelled', async () => {
    const stage = await sharing(1)
    stage.primary.on('hanging', 'never')
    const lease = stage.lease()
    const hanging = watched(lease.run(HANGS))
    await stage.clock.advance(0)
    const closed = slowToCancel(stage.primary.sessions[0]!)
    void stage.engine.cancel(lease.hold)
    await stage.clock.advance(0)
    expect(hanging.state).toBe('rejected')
    const stopped = watched(stage.engine.stop())
    await stage.clock.advance(10)
    expect(stopped.state).toBe('pending')
    closed()
    await stage.clock.advance(10)
    expect(stopped.state).toBe('resolved')
    expect(stage.primary.openSessions).toEqual([])
  })
})

describe('a caller who needs a connection of his own', () => {
  test.each([1, 2])('gets one of %i although reads keep them busy for ever', async (size) => {
    const stage = await sharing(size)
    stage.primary.on('fast', { delayMs: 1 })
    const load = loadOf(stage, FAST, 100)
    await pass(stage, 100)
    const transaction = stage.lease()
    const begun = watched(transaction.begin())
    await pass(stage, seconds(1))
    expect(begun.state).toBe('resolved')
    if (size > 1) {
      const before = load.answers
      await pass(stage, 200)
      expect(load.answers).toBeGreaterThan(before)
    }
    await Promise.all([transaction.run('commit'), stage.clock.advance(1)])
    transaction.release()
    const before = load.answers
    await pass(stage, 200)
    expect(load.answers).toBeGreaterThan(before)
    const ended = load.ends()
    await pass(stage, seconds(1))
    await ended
    expect(load.failures).toEqual([])
  })

  test('does not wait for the connection that hangs', async () => {
    const stage = await sharing(2)
    stage.primary.on('hanging', 'never')
    stage.primary.on('fast', { delayMs: 1 })
    const hanging = watched(stage.run(HANGS))
    await pass(stage, 200)
    const load = loadOf(stage, FAST, 4)
    await pass(stage, 100)
    const transaction = stage.lease()
    const begun = watched(transaction.begin())
    await pass(stage, seconds(1))
    expect(begun.state).toBe('resolved')
    expect(hanging.state).toBe('pending')
    transaction.release()
    const ended = load.ends()
    await pass(stage, 100)
    await ended
  })

  test('does not wait for a connection that begins to hang after it was chosen for him', async () => {
    const stage = await sharing(2)
    stage.primary.on('hanging', 'never')
    stage.primary.on('fast', { delayMs: 1 })
    const load = loadOf(stage, FAST, 4)
    await pass(stage, 100)
    // On each of the two connections something begins that takes a while; one of them never ends.
    const hanging = watched(stage.run(HANGS))
    const transaction = stage.lease()
    const begun = watched(transaction.begin())
    await pass(stage, seconds(2))
    expect(begun.state).toBe('resolved')
    expect(hanging.state).toBe('pending')
    transaction.release()
    const ended = load.ends()
    await pass(stage, 100)
    await ended
  })

  test('and goes before he got it leaves nothing reserved', async () => {
    const stage = await sharing(1)
    stage.primary.on('fast', { delayMs: 5 })
    const abort = new AbortController()
    const load = loadOf(stage, FAST, 5)
    await stage.clock.advance(2)
    const leaver = watched(stage.run("set timezone = 'UTC'", { signal: abort.signal }))
    await stage.clock.advance(1)
    abort.abort(new Error('gone'))
    await stage.clock.advance(0)
    expect(leaver.state).toBe('rejected')
    const before = load.answers
    await pass(stage, 500)
    expect(load.answers).toBeGreaterThan(before + 20)
    expect(stage.primary.statements()).not.toContain("set timezone = 'UTC'")
    const ended = load.ends()
    await pass(stage, 100)
    await ended
  })

  test('and goes lets others ride where they could before', async () => {
    const stage = await sharing(1)
    stage.primary.on('hanging', { delayMs: 50 })
    const first = watched(stage.run(HANGS))
    const abort = new AbortController()
    const leaver = watched(stage.run("set timezone = 'UTC'", { signal: abort.signal }))
    expect(stage.pool.counts().waiting).toBe(1)
    abort.abort(new Error('gone'))
    const rides = watched(stage.run(FAST))
    await stage.clock.advance(0)
    expect(leaver.state).toBe('rejected')
    expect(stage.pool.lanes.riding).toBe(2)
    await stage.clock.advance(60)
    expect([first.state, rides.state]).toEqual(['resolved', 'resolved'])
  })

  test('and waits in vain leaves nothing reserved', async () => {
    const stage = await sharing(1, { pool: { acquireTimeout: '1s' } })
    stage.primary.on('report', { delayMs: 3_000 })
    const report = watched(stage.run('select report from t'))
    const begun = watched(stage.lease().begin())
    await pass(stage, 1_100)
    expect(begun.error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT' })
    await pass(stage, seconds(2))
    expect(report.state).toBe('resolved')
    await Promise.all([stage.run(FAST), stage.run(FAST)])
    expect(stage.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('gets another one when the one reserved for him is lost', async () => {
    const stage = await sharing(2)
    stage.primary.on('fast', { delayMs: 2 })
    const load = loadOf(stage, FAST, 80)
    await pass(stage, 100)
    const transaction = stage.lease()
    const begun = watched(transaction.begin())
    const reserved = [...stage.pool.lanes.lanes].find((lane) => lane.reserved)!
    ;(reserved.pooled.session as ScriptedSession).kill()
    await pass(stage, seconds(1))
    expect(begun.state).toBe('resolved')
    transaction.release()
    const ended = load.ends()
    await pass(stage, seconds(1))
    await ended
    expect(load.failures).toEqual([])
  })
})

describe('a connection is replaced under a load that never ends', () => {
  test('when its lifetime is over', async () => {
    const stage = await sharing(1, { pool: { maxLifetime: '1s' } })
    stage.primary.on('fast', { delayMs: 1 })
    const load = loadOf(stage, FAST, 50)
    await pass(stage, seconds(5))
    const ended = load.ends()
    await pass(stage, 200)
    await ended
    expect(load.failures).toEqual([])
    expect(stage.primary.sessions.length).toBeGreaterThanOrEqual(3)
    expect(stage.primary.openSessions.length).toBeLessThanOrEqual(1)
    expect(stage.engine.cluster.primary.cells.connectionsClosed.error).toBe(0)
  })

  test('when all that were opened before are to go', async () => {
    const stage = await sharing(2)
    stage.primary.on('fast', { delayMs: 1 })
    const load = loadOf(stage, FAST, 80)
    await pass(stage, 100)
    const old = [...stage.primary.openSessions]
    stage.pool.retireAll()
    await pass(stage, 500)
    expect(old.every(({ lost }) => lost !== null)).toBe(true)
    const ended = load.ends()
    await pass(stage, 200)
    await ended
    expect(load.failures).toEqual([])
  })
})

describe('when a shared connection is lost', () => {
  test('reads are tried again and answered', async () => {
    const stage = await sharing(2)
    stage.primary.on('fast', { delayMs: 5, rows: [{ n: 1 }] })
    const reads = Array.from({ length: 10 }, () => watched(stage.run(FAST)))
    await stage.clock.advance(1)
    sessionOf(stage.primary, FAST).kill()
    await pass(stage, seconds(1))
    for (const { value } of reads) expect(value.rows).toEqual([{ n: 1 }])
    expect(stage.pool.counts()).toMatchObject({ active: 0, waiting: 0 })
  })

  test('a write may have been applied: its caller is told so, and it is never sent again', async () => {
    const stage = await sharing(2)
    stage.primary.on('hanging', 'never')
    const read = watched(stage.run(HANGS))
    const write = watched(stage.run(INSERT))
    await stage.clock.advance(1)
    stage.primary.on('hanging', {})
    sessionOf(stage.primary, HANGS).kill()
    await pass(stage, seconds(1))
    expect(read.state).toBe('resolved')
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    expect(timesSent(stage.primary, INSERT)).toBe(0)
  })

  test('what was never written to it is sent again, writes as well', async () => {
    const stage = await sharing(1)
    const [session] = stage.primary.sessions
    session!.ask = (_, asker) => {
      session!.kill()
      asker.reject(new SmartPgError('SMARTPG_CONNECTION_LOST', 'nothing was sent', { phase: 'send' }))
    }
    const write = watched(stage.run(INSERT))
    await pass(stage, seconds(1))
    expect(write.state).toBe('resolved')
    expect(timesSent(stage.primary, INSERT)).toBe(1)
  })

  test('those who wait for a place get it elsewhere', async () => {
    const stage = await sharing(1, {}, [FAST, INSERT])
    stage.primary.on('report', 'never')
    const report = watched(stage.run('select report from t'))
    const waiting = [FAST, INSERT].map((text) => watched(stage.run(text)))
    await stage.clock.advance(1)
    stage.primary.on('report', {})
    stage.primary.sessions[0]!.kill()
    await pass(stage, seconds(1))
    expect([report, ...waiting].map(({ state }) => state)).toEqual(Array(3).fill('resolved'))
    expect(timesSent(stage.primary, INSERT)).toBe(4)
  })

  test('nobody hangs when it cannot be replaced', async () => {
    const stage = await sharing(1, { pool: { acquireTimeout: '1s' } }, [FAST, INSERT])
    stage.primary.on('report', 'never')
    const all = ['select report from t', FAST, INSERT].map((text) => watched(stage.run(text)))
    await stage.clock.advance(1)
    stage.primary.goDown(networkError('ECONNREFUSED'), 'sessions')
    await pass(stage, seconds(10))
    expect(all.map(({ state }) => state)).toEqual(Array(3).fill('rejected'))
    expect(stage.pool.counts()).toMatchObject({ active: 0, waiting: 0 })
  })
})

describe('queryTimeout on a shared connection', () => {
  const timed = { queryTimeout: '1s' } as const

  test('cancels a statement that is alone there, and the connection goes on', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', 'never')
    const hanging = watched(stage.run(HANGS))
    await pass(stage, 980)
    expect(hanging.state).toBe('pending')
    await pass(stage, 400)
    expect(hanging.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT', node: 'primary', phase: 'execute' })
    expect(stage.primary.sessions[0]!.cancels).toBe(1)
    await stage.run(FAST)
    expect(stage.primary.connects).toBe(1)
  })

  test('tells those who stand behind one that hangs: of a read the timeout, of a write that nobody knows', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', 'never')
    const [hanging, read, write] = [HANGS, FAST, INSERT].map((text) => watched(stage.run(text)))
    await stage.clock.advance(0)
    expect(stage.pool.lanes.riding).toBe(3)
    await pass(stage, 1_200)
    expect(hanging!.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(read!.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(write!.error).toBeInstanceOf(OutcomeUnknownError)
  })

  test('cancels what hangs once nobody behind it is waited for, and the connection is as good as before', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', 'never')
    const all = [HANGS, FAST, INSERT].map((text) => watched(stage.run(text)))
    await pass(stage, 1_500)
    expect(all.map(({ state }) => state)).toEqual(Array(3).fill('rejected'))
    expect(stage.primary.sessions[0]!.cancels).toBe(1)
    // The server went on with what stood behind; nobody was told anything else.
    expect(timesSent(stage.primary, INSERT)).toBe(1)
    expect(stage.pool.counts()).toMatchObject({ total: 1, active: 0, idle: 1 })
    await stage.run(FAST)
    expect(stage.primary.connects).toBe(1)
  })

  test('destroys the connection when the server does not hear the cancel, and the next caller gets another', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', 'never')
    deafen(stage.primary.sessions[0]!)
    const all = [HANGS, FAST, INSERT].map((text) => watched(stage.run(text)))
    await pass(stage, 2_200)
    expect(all.map(({ state }) => state)).toEqual(Array(3).fill('rejected'))
    expect(all[2]!.error).toBeInstanceOf(OutcomeUnknownError)
    expect(stage.primary.sessions[0]!.lost).not.toBeNull()
    await stage.run(FAST)
    expect(stage.primary.connects).toBe(2)
    expect(timesSent(stage.primary, INSERT)).toBe(0)
  })

  test('harms nobody who stands behind one that was merely slow', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', { delayMs: 900 })
    const all = [HANGS, FAST, INSERT].map((text) => watched(stage.run(text)))
    await pass(stage, seconds(3))
    expect(all.map(({ state }) => state)).toEqual(Array(3).fill('resolved'))
    expect(stage.primary.sessions[0]!.cancels).toBe(0)
  })

  test('does not hit what stands behind: the cancel waits until that has been told as well', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', 'never')
    watched(stage.run(HANGS))
    await stage.clock.advance(2)
    // Two milliseconds later, so that its time is over two milliseconds later.
    const late = watched(stage.run(FAST))
    await stage.clock.advance(0)
    expect(stage.pool.lanes.riding).toBe(2)
    const [session] = stage.primary.sessions
    const cancel = session!.cancel.bind(session)
    let waitedFor = -1
    session!.cancel = () => {
      waitedFor = [...stage.pool.lanes.lanes].flatMap(({ passages }) =>
        passages.filter(({ dropped }) => !dropped),
      ).length
      return cancel()
    }
    await pass(stage, 1_500)
    expect(waitedFor).toBe(0)
    expect(late.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test('opens no circuit: it may be the statement that is slow', async () => {
    const stage = await sharing(4, { ...timed, breaker: { failureThreshold: 2 } }, [FAST, HANGS, INSERT])
    stage.primary.on('hanging', 'never')
    const all = [HANGS, INSERT].map((text) => watched(stage.run(text)))
    await stage.clock.advance(10)
    all.push(...[HANGS, INSERT].map((text) => watched(stage.run(text))))
    await pass(stage, seconds(3))
    expect(all.map(({ state }) => state)).toEqual(Array(4).fill('rejected'))
    expect(stage.events.breaker).toEqual([])
  })

  test('tells nobody of a timeout whose answer was there in time, unread by a blocked process', async () => {
    const stage = await sharing(1, timed)
    stage.primary.on('hanging', { delayMs: 500 })
    const all = [HANGS, FAST].map((text) => watched(stage.run(text)))
    await stage.clock.advance(10)
    stage.clock.block(5_000)
    await pass(stage, 100)
    expect(all.map(({ state }) => state)).toEqual(['resolved', 'resolved'])
    expect(stage.primary.sessions[0]!.cancels).toBe(0)
  })
})

describe('a read behind one that hangs', () => {
  /** One connection on which a fast read stands behind one that hangs, and another one. */
  async function stuck(
    options: TestEngineOptions = {},
  ): Promise<TestEngine & { read: Watched<Rows>; hanging: Watched<Rows> }> {
    const stage = await sharing(2, options)
    stage.primary.on('hanging', 'never')
    stage.primary.on('fast', (_, { pid }) => ({ rows: [{ pid }] }))
    const hanging = watched(stage.run(HANGS))
    const read = watched(stage.run(FAST))
    await stage.clock.advance(0)
    expect([...stage.pool.lanes.lanes].map(({ passages }) => passages.length)).toEqual([2])
    return { ...stage, read, hanging }
  }

  test('is sent once more on another connection, also after a quiet time, and answered there', async () => {
    const stage = await stuck()
    const { primary, clock, read, hanging, pool } = stage
    await clock.advance(20)
    expect(read.state).toBe('resolved')
    expect(read.value.rows).toEqual([{ pid: pidOf(primary, FAST) }])
    expect(pidOf(primary, FAST)).not.toBe(pidOf(primary, HANGS))
    expect(pool.cells.resent).toBe(1)
    expect(hanging.state).toBe('pending')
  })

  test('hears nothing of the answer that comes late, and the connection is as good as before', async () => {
    const { primary, clock, read, hanging, pool, run } = await stuck()
    await clock.advance(20)
    const { rows } = read.value
    await sessionOf(primary, HANGS).cancel()
    await clock.advance(20)
    expect(hanging.state).toBe('rejected')
    expect(read.value.rows).toBe(rows)
    expect(timesSent(primary, FAST)).toBe(5)
    expect(pool.counts()).toMatchObject({ active: 0, idle: 2 })
    await run(FAST)
  })

  test('is sent once more and no more, although the other connection hangs as well', async () => {
    const { primary, clock, read, pool } = await stuck()
    primary.on('fast', 'never')
    await clock.advance(200)
    expect(read.state).toBe('pending')
    expect(pool.cells.resent).toBe(1)
  })

  test('is answered by its first connection when that wakes up before the other', async () => {
    const { primary, clock, read, pool } = await stuck()
    const first = sessionOf(primary, HANGS)
    primary.on('fast', (_, { pid }) => ({ rows: [{ pid }], delayMs: pid === first.pid ? 0 : 100 }))
    await clock.advance(20)
    await first.cancel()
    await clock.advance(10)
    expect(read.value.rows).toEqual([{ pid: first.pid }])
    await clock.advance(200)
    expect(pool.counts()).toMatchObject({ active: 0, idle: 2 })
  })

  test('is answered by its first connection when the other one refuses', async () => {
    const { primary, clock, read } = await stuck()
    const first = sessionOf(primary, HANGS)
    primary.on('fast', (_, { pid }) =>
      pid === first.pid ? { rows: [{ pid }] } : { error: serverError('53200', 'out of memory') },
    )
    await clock.advance(50)
    expect(read.state).toBe('pending')
    await first.cancel()
    await clock.advance(10)
    expect(read.value.rows).toEqual([{ pid: first.pid }])
  })

  test('is answered by the other connection when its first one is lost meanwhile, without another try', async () => {
    const { primary, clock, read, pool, events } = await stuck()
    const first = sessionOf(primary, HANGS)
    primary.on('fast', (_, { pid }) => ({ rows: [{ pid }], delayMs: 50 }))
    await clock.advance(20)
    first.kill()
    await clock.advance(0)
    expect(read.state).toBe('pending')
    await clock.advance(50)
    expect(read.value.rows[0]!['pid']).not.toBe(first.pid)
    expect(events.query.at(-1)).toMatchObject({ ok: true, attempts: 1 })
    expect(pool.cells.resent).toBe(1)
  })

  test('fails when both have failed, with the last error', async () => {
    const { primary, clock, read } = await stuck({ retry: { attempts: 1 } })
    const first = sessionOf(primary, HANGS)
    primary.on('fast', (_, { pid }) => ({ error: serverError('42703', pid === first.pid ? 'first' : 'second') }))
    await clock.advance(20)
    expect(read.state).toBe('pending')
    await first.cancel()
    await clock.advance(10)
    expect(read.error).toMatchObject({ code: '42703', message: 'first' })
  })

  test('of which both connections are lost is tried again as any other', async () => {
    const { primary, clock, read } = await stuck()
    primary.on('fast', { delayMs: 50 })
    await clock.advance(20)
    primary.killAll()
    primary.on('hanging', {})
    primary.on('fast', { rows: [{ n: 1 }] })
    await clock.advance(seconds(1))
    expect(read.value.rows).toEqual([{ n: 1 }])
  })

  test('is told of its timeout when neither answers, whatever became of the first connection', async () => {
    const { primary, clock, read } = await stuck({ queryTimeout: '1s' })
    primary.on('fast', 'never')
    await clock.advance(20)
    sessionOf(primary, HANGS).kill()
    primary.on('hanging', {})
    await clock.advance(1_500)
    expect(read.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test('is sent once more on a connection that is opened for it, when there may be another and connecting takes its time', async () => {
    const stage = await sharing(1, { pool: { initial: 0, max: 2 } }, [])
    stage.primary.connectDelayMs = 5
    await Promise.all([learn(stage, FAST, HANGS), stage.clock.advance(10)])
    stage.primary.on('hanging', 'never')
    const hanging = watched(stage.run(HANGS))
    const read = watched(stage.run(FAST))
    await stage.clock.advance(0)
    expect(stage.pool.lanes.riding).toBe(2)
    await stage.clock.advance(seconds(1))
    expect(read.state).toBe('resolved')
    expect(hanging.state).toBe('pending')
    expect(stage.primary.connects).toBe(2)
  })

  test('counts as one query and one acquire', async () => {
    const stage = await sharing(2)
    const { cells } = stage.pool
    stage.primary.on('hanging', 'never')
    const before = { queries: cells.queries, acquires: cells.acquires.ok }
    const all = [HANGS, FAST].map((text) => watched(stage.run(text)))
    await stage.clock.advance(20)
    await sessionOf(stage.primary, HANGS).cancel()
    await stage.clock.advance(20)
    expect(all.map(({ state }) => state)).toEqual(['rejected', 'resolved'])
    expect(cells.resent).toBe(1)
    expect({ queries: cells.queries, acquires: cells.acquires.ok }).toEqual({
      queries: before.queries + 2,
      acquires: before.acquires + 2,
    })
  })

  test.each([
    ['a write', INSERT],
    ['a read with a side effect', "select nextval('s')"],
    ['a read that locks', 'select a from t for update'],
  ])('is sent again only if it is one: %s is not', async (_, text) => {
    const stage = await sharing(4, {}, [FAST, HANGS, text])
    stage.primary.on('hanging', 'never')
    const all = [HANGS, text].map((each) => watched(stage.run(each)))
    await stage.clock.advance(100)
    expect(all.map(({ state }) => state)).toEqual(['pending', 'pending'])
    expect(stage.pool.cells.resent).toBe(0)
    await sessionOf(stage.primary, HANGS).cancel()
    await stage.clock.advance(10)
    expect(all[1]!.state).toBe('resolved')
    expect(timesSent(stage.primary, text)).toBe(4)
  })
})

describe('cancelling an aborted statement', () => {
  test('is done when it is alone on its connection', async () => {
    const stage = await sharing(1)
    stage.primary.on('hanging', 'never')
    const lease = stage.lease()
    const hanging = watched(lease.run(HANGS))
    await stage.clock.advance(0)
    await stage.engine.cancel(lease.hold)
    await stage.clock.advance(0)
    expect(hanging.error).toMatchObject({ code: '57014' })
    expect(stage.primary.sessions[0]!.cancels).toBe(1)
    expect(stage.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test.each(['before', 'behind'])('is not done when somebody stands %s it', async (where) => {
    const stage = await sharing(1)
    stage.primary.on('hanging', 'never')
    const lease = stage.lease()
    if (where === 'before') watched(stage.run(HANGS))
    const aborted = watched(lease.run(HANGS))
    if (where === 'behind') watched(stage.run(FAST))
    await stage.clock.advance(0)
    expect(stage.pool.lanes.riding).toBe(2)
    await stage.engine.cancel(lease.hold)
    expect(stage.primary.sessions[0]!.cancels).toBe(0)
    expect(aborted.state).toBe('pending')
  })

  test('does nothing when it has been answered', async () => {
    const stage = await sharing(1)
    const lease = stage.lease()
    await lease.run(FAST)
    await stage.engine.cancel(lease.hold)
    await stage.engine.kill(lease.hold)
    expect(stage.primary.sessions[0]).toMatchObject({ cancels: 0, lost: null })
  })

  test('lets nobody board meanwhile, and opens no connection more than there may be', async () => {
    const stage = await sharing(1)
    stage.primary.on('hanging', 'never')
    const lease = stage.lease()
    const hanging = watched(lease.run(HANGS))
    await stage.clock.advance(0)
    const closed = slowToCancel(stage.primary.sessions[0]!)
    void stage.engine.cancel(lease.hold)
    const next = watched(stage.run(FAST))
    const write = watched(stage.run(INSERT))
    await stage.clock.advance(100)
    expect(hanging.state).toBe('rejected')
    expect([next.state, write.state]).toEqual(['pending', 'pending'])
    expect(stage.pool.counts().total).toBe(1)
    expect(stage.primary.connects).toBe(1)
    closed()
    await stage.clock.advance(10)
    expect([next.state, write.state]).toEqual(['resolved', 'resolved'])
    expect(stage.primary.connects).toBe(1)
  })
})

describe('killing the session of an aborted statement', () => {
  test('destroys it when the statement is alone there', async () => {
    const stage = await sharing(1)
    stage.primary.on('hanging', 'never')
    const lease = stage.lease()
    const hanging = watched(lease.run(HANGS))
    await stage.clock.advance(0)
    await stage.engine.kill(lease.hold)
    await stage.clock.advance(0)
    expect(hanging.state).toBe('rejected')
    expect(stage.primary.sessions[0]!.lost).not.toBeNull()
    await stage.run(FAST)
    expect(stage.pool.counts()).toMatchObject({ total: 1, idle: 1 })
  })

  test('leaves it alone when others stand there', async () => {
    const stage = await sharing(1)
    stage.primary.on('hanging', { delayMs: 50 })
    const lease = stage.lease()
    const all = [watched(lease.run(HANGS)), watched(stage.run(FAST))]
    await stage.clock.advance(0)
    await stage.engine.kill(lease.hold)
    await stage.clock.advance(100)
    expect(all.map(({ state }) => state)).toEqual(['resolved', 'resolved'])
    expect(stage.primary.sessions[0]).toMatchObject({ cancels: 0, lost: null })
  })
})

test('a statement that cannot be written fails alone, and its place is free again', async () => {
  const stage = await sharing(1)
  const [session] = stage.primary.sessions
  const ask = session!.ask.bind(session)
  session!.ask = (statement, asker) => {
    if (!statement.sql.includes('bad')) ask(statement, asker)
    else asker.reject(new SmartPgError('SMARTPG_INVALID_QUERY', 'a parameter that cannot be sent', { phase: 'send' }))
  }
  const all = ['select bad from t', FAST, 'select bad from t'].map((text) => watched(stage.run(text)))
  await stage.clock.advance(10)
  expect(all.map(({ state }) => state)).toEqual(['rejected', 'resolved', 'rejected'])
  expect(all[0]!.error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
  expect(stage.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  await stage.engine.stop()
  expect(stage.primary.openSessions).toEqual([])
})

describe('counts', () => {
  test('every statement is one query and one acquire, whether it waited or not', async () => {
    const stage = await startedEngine({ pool: pooling(1) })
    const { cells } = stage.pool
    stage.primary.on('report', { delayMs: 10 })
    const all = ['select report from t', FAST, INSERT, FAST].map((text) => watched(stage.run(text)))
    await stage.clock.advance(5)
    expect(stage.pool.counts()).toEqual({ total: 1, active: 1, idle: 0, connecting: 0, waiting: 3, max: 1 })
    await stage.clock.advance(20)
    expect(all.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(stage.pool.counts()).toEqual({ total: 1, active: 0, idle: 1, connecting: 0, waiting: 0, max: 1 })
    expect(cells).toMatchObject({ queries: 4, queryErrors: 0, waitedAcquires: 3, resent: 0 })
    expect(cells.acquires).toMatchObject({ ok: 4, timeout: 0, aborted: 0, rejected: 0 })
    expect(cells.operations.read_simple.queries).toBe(3)
    expect(cells.operations.write_simple.queries).toBe(1)
  })

  test('a connection on which many stand is one that is in use, and each of them is load', async () => {
    const stage = await sharing(2)
    stage.primary.on('fast', { delayMs: 5 })
    const all = Array.from({ length: 7 }, () => watched(stage.run(FAST)))
    expect(stage.pool.counts()).toMatchObject({ active: 1, idle: 1, waiting: 0 })
    expect(stage.pool.running).toBe(7)
    expect(stage.pool.load).toBe(7)
    await pass(stage, 100)
    expect(all.every(({ state }) => state === 'resolved')).toBe(true)
    expect(stage.pool.load).toBe(0)
  })
})

describe('another connection is opened', () => {
  const growing: PoolOptions = { initial: 1, max: 4 }

  test('not for any number of fast reads', async () => {
    const stage = await sharing(1, { pool: growing })
    stage.primary.connectDelayMs = 5
    stage.primary.on('fast', { delayMs: 1 })
    const load = loadOf(stage, FAST, 25)
    await pass(stage, seconds(1))
    const ended = load.ends()
    await pass(stage, 100)
    await ended
    expect(stage.primary.connects).toBe(1)
  })

  test.each([
    ['writes', INSERT],
    ['slow statements', 'select report from t'],
  ])('for %s that wait', async (_, text) => {
    const stage = await sharing(1, { pool: growing }, [FAST, INSERT])
    stage.primary.connectDelayMs = 5
    stage.primary.on(text, { delayMs: 100 })
    const all = Array.from({ length: 4 }, () => watched(stage.run(text)))
    await pass(stage, 400)
    expect(all.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(stage.primary.connects).toBeGreaterThan(1)
  })

  test('for texts that nobody has seen yet', async () => {
    const stage = await sharing(1, { pool: growing })
    stage.primary.connectDelayMs = 5
    stage.primary.on('newcomer', { delayMs: 50 })
    const all = Array.from({ length: 4 }, (_, i) => watched(stage.run(`select newcomer from t${i}`)))
    await pass(stage, 400)
    expect(all.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(stage.primary.connects).toBeGreaterThan(1)
  })

  test('for transactions', async () => {
    const stage = await sharing(1, { pool: growing })
    stage.primary.connectDelayMs = 5
    const leases = Array.from({ length: 4 }, () => stage.lease())
    const begun = leases.map((lease) => watched(lease.begin()))
    await pass(stage, 200)
    expect(begun.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(stage.primary.connects).toBe(4)
    for (const lease of leases) lease.release()
  })

  test('although some are idle, when these are kept free for reads that never cease', async () => {
    const stage = await sharing(2, { pool: { max: 10 } })
    stage.primary.on('report', { delayMs: 60_000 })
    stage.primary.on('fast', { delayMs: 10 })
    const load = loadOf(stage, FAST, 1)
    const reports = ['a', 'b', 'c', 'd'].map((of) => watched(stage.run(`select report from ${of}`)))
    await pass(stage, seconds(8))
    expect(sent(stage.primary).filter((sql) => sql.includes('report'))).toHaveLength(4)
    expect(reports.map(({ state }) => state)).toEqual(Array(4).fill('pending'))
    const ended = load.ends()
    await pass(stage, 100)
    await ended
  })
})

// Many callers with everything that can happen to them, at random and yet the same for every seed.
describe('whatever happens, at random', () => {
  const READS = ['select r1 from t where n = $1', 'select r2 from t where n = $1', 'select long from t where n = $1']
  const WRITE = 'insert into t values ($1)'

  test.each(Array.from({ length: 40 }, (_, seed) => seed + 1))(
    'everyone gets an answer of his own (seed %i)',
    async (seed) => {
      const chance = seededChance(seed)
      const size = 1 + Math.floor(chance() * 4)
      const stage = await startedEngine({
        chance,
        queryTimeout: '500ms',
        breaker: false,
        pool: { ...pooling(size), acquireTimeout: '2s', maxLifetime: '3s' },
      })
      const { primary, clock, engine, pool } = stage
      const delayOf = (text: string): number => (text.includes('long') ? 20 + 200 * chance() : Math.floor(3 * chance()))
      primary.on('$1', ({ sql, parameters }) => {
        if (chance() < 0.01) return 'never'
        return { rows: [{ sql, n: parameters[0] }], delayMs: delayOf(sql) }
      })
      const done: number[] = []
      const wrong: unknown[] = []
      const ask = async (hold: Hold, sql: string, n: number, signal?: AbortSignal): Promise<void> => {
        const { rows } = await execute(engine, hold, engine.statement(sql, [n]), { signal })
        if (rows[0]?.['sql'] !== sql || rows[0]?.['n'] !== n) wrong.push({ sql, n, rows })
      }
      const single = async (n: number): Promise<void> => {
        const write = chance() < 0.3
        const sql = write ? WRITE : READS[Math.floor(chance() * READS.length)]!
        const abort = chance() < 0.1 ? new AbortController() : null
        const hold = new Hold()
        // As Kysely does it: whoever goes away may have his statement cancelled, or his session killed.
        const goes = (): void => {
          const how = chance()
          abort!.abort(new Error('aborted'))
          if (how < 0.6) void (how < 0.3 ? engine.cancel(hold) : engine.kill(hold))
        }
        if (abort !== null) clock.setTimeout(goes, 10 * chance())
        try {
          await ask(hold, sql, n, abort?.signal)
          if (write) done.push(n)
        } catch (error) {
          if ((error as { code?: string }).code === '57014' && !abort?.signal.aborted) wrong.push({ n, error })
          throw error
        } finally {
          hold.end()
        }
      }
      const transaction = async (n: number): Promise<void> => {
        const lease = stage.lease()
        try {
          await lease.begin()
          await ask(lease.hold, WRITE, n)
          await ask(lease.hold, READS[0]!, n)
          await lease.run('commit')
          done.push(n)
        } finally {
          lease.release()
        }
      }
      let next = 0
      const caller = async (): Promise<void> => {
        for (let i = 0; i < 15; i++) {
          const n = next++
          await (chance() < 0.15 ? transaction(n) : single(n)).catch(() => undefined)
        }
      }
      const callers = watched(Promise.all(Array.from({ length: 20 }, caller)))
      for (let step = 0; step < 3_000 && callers.state === 'pending'; step++) {
        await clock.advance(20)
        const { openSessions } = primary
        if (chance() < 0.02 && openSessions.length > 0) openSessions[Math.floor(chance() * openSessions.length)]!.kill()
        expect(openSessions.length).toBeLessThanOrEqual(size)
      }
      expect(callers.state).toBe('resolved')
      expect(wrong).toEqual([])

      const writes = logged(primary).filter(({ sql }) => sql === WRITE)
      const numbers = writes.map(({ parameters }) => parameters[0] as number)
      expect(numbers.length, 'no write is sent twice').toBe(new Set(numbers).size)
      expect(
        done.filter((n) => !numbers.includes(n)),
        'what was acknowledged was sent',
      ).toEqual([])
      for (const { pid } of primary.sessions) expectOneCallerPerTransaction(primary, pid)

      await pass(stage, seconds(2))
      expect(pool.counts()).toMatchObject({ active: 0, waiting: 0 })
      const stopped = watched(engine.stop())
      await clock.advance(seconds(2))
      expect(stopped.state).toBe('resolved')
      expect(primary.openSessions).toEqual([])
      expect(clock.pendingTimers).toBe(0)
    },
  )

  /** Between BEGIN and its end stands nothing but what its own caller sent. */
  function expectOneCallerPerTransaction(server: ScriptedServer, pid: number): void {
    const inside = logged(server).filter(
      (entry) => entry.pid === pid && entry.status === 'open' && entry.parameters.length > 0,
    )
    let before: unknown
    for (const { sql, parameters } of inside) {
      // Each transaction writes its number first and reads it then.
      if (sql === READS[0]) expect(parameters[0]).toBe(before)
      else expect(sql).toBe(WRITE)
      before = parameters[0]
    }
  }
})
