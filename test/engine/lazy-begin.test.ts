// A BEGIN that rides along with the first statement of its transaction: what is asked before, what is sent when, and
// that whatever goes wrong with the two of them, nothing runs outside of the transaction it was meant for.

import { describe, expect, test, vi } from 'vitest'
import { CircuitOpenError, NotExecutedError, SmartPgError } from '../../src/core/errors.ts'
import { BEGIN_FACTS } from '../../src/core/statements.ts'
import type { Row, Rows, Statement } from '../../src/core/types.ts'
import { execute } from '../../src/engine/execute.ts'
import type { Hold } from '../../src/engine/hold.ts'
import { stream } from '../../src/engine/stream.ts'
import { logged, rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { Asked } from '../../src/engine/execute.ts'
import type { TestEngine, TestLease } from '../support/engine.ts'
import { serverError } from '../support/scripted-server.ts'
import type { ScriptedServer } from '../support/scripted-server.ts'

const lost = (): Error => new SmartPgError('SMARTPG_CONNECTION_LOST', 'The connection was lost.', { phase: 'execute' })
const neverSent = (): Error => new SmartPgError('SMARTPG_CONNECTION_LOST', 'The socket was closed.', { phase: 'send' })
const noSuchLevel = (): Error => serverError('42601', 'syntax error at or near "snapshot"')
const changedType = (): Error =>
  Object.assign(serverError('0A000', 'cached plan must not change result type'), { routine: 'RevalidateCachedQuery' })
const gone = (): Error => serverError('26000', 'prepared statement "s_x" does not exist')

interface LazyTransaction {
  readonly hold: Hold
  run(sql: string, options?: Asked): Promise<Rows>
  commit(): Promise<Rows>
  rollback(): Promise<Rows>
  release(): void
}

/** A transaction that has begun as far as its caller can see. */
async function begun(
  one: TestEngine,
  { mode = 'read-write', sql = 'begin' }: { mode?: 'read-write' | 'read-only'; sql?: string } = {},
): Promise<LazyTransaction> {
  const lease = one.lease()
  expect(await beginOn(one, lease, mode, sql)).toEqual({ rows: [], command: 'BEGIN', count: null })
  return {
    hold: lease.hold,
    run: (text, options) => lease.run(text, options),
    release: () => lease.release(),
    commit: () => lease.run('commit'),
    rollback: () => lease.run('rollback'),
  }
}

/** BEGIN as Kysely sends it, which is not sent before there is something to begin. */
function beginOn(
  { engine }: TestEngine,
  { hold }: TestLease,
  mode: 'read-write' | 'read-only' = 'read-write',
  sql = 'begin',
  signal?: AbortSignal,
): Promise<Rows> {
  const begin: Statement = { sql, parameters: [], facts: BEGIN_FACTS }
  hold.transaction = mode
  hold.lazy = begin
  return execute(engine, hold, begin, { signal })
}

/** The connection is lost under the first `times` statements that match. */
function losesFirst(server: ScriptedServer, pattern: string, times = 1, error = lost): void {
  let left = times
  server.on(pattern, () => (left-- > 0 ? { drops: error() } : { rows: [{ n: 1 }] }))
}

/** What users sent, with what each met: `open insert …`. */
const met = (server: ScriptedServer): string[] => logged(server).map(({ status, sql }) => `${status} ${sql}`)

/** Nothing that the transaction was given was run outside of one. */
function expectNothingOutside(server: ScriptedServer): void {
  const outside = logged(server).filter(({ status, sql }) => status === 'idle' && !/^(begin|start|rollback)/.test(sql))
  expect(outside.map(({ sql }) => sql)).toEqual([])
}

describe('a transaction that begins', () => {
  test('has its connection and the consent of the circuit, and has sent nothing', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    expect(one.pool.counts()).toMatchObject({ active: 1 })
    expect(one.primary.connects).toBe(1)
    expect(sent(one.primary)).toEqual([])
    transaction.release()
  })

  test('is refused at once while the circuit is open', async () => {
    const one = await startedEngine()
    one.engine.cluster.primary.forceOpen('a test')
    await expect(begun(one)).rejects.toBeInstanceOf(CircuitOpenError)
    expect(one.primary.connects).toBe(0)
  })

  test('is refused when no connection can be had', async () => {
    const one = await startedEngine({ pool: { acquireTimeout: '1s' } })
    one.primary.goDown(serverError('57P03', 'the database system is starting up', 'FATAL'))
    const beginning = watched(begun(one))
    await one.clock.advance(seconds(2))
    expect(beginning.error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT' })
  })

  test('leaves the queue when its caller gives up', async () => {
    const one = await startedEngine({ pool: { max: 1 } })
    const first = await begun(one)
    const abort = new AbortController()
    const waiting = watched(beginOn(one, one.lease(), 'read-write', 'begin', abort.signal))
    await one.clock.advance(0)
    expect(one.pool.counts()).toMatchObject({ waiting: 1 })
    const reason = new Error('mine')
    abort.abort(reason)
    await one.clock.advance(0)
    expect(waiting.error).toBe(reason)
    expect(one.pool.counts()).toMatchObject({ waiting: 0 })
    first.release()
    await one.clock.advance(0)
    expect(one.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test.for(['commit', 'rollback'] as const)('and only ends, by %s, has asked the server nothing', async (how) => {
    const one = await startedEngine()
    const transaction = await begun(one)
    expect(await transaction[how]()).toEqual({ rows: [], command: how.toUpperCase(), count: null })
    transaction.release()
    expect(sent(one.primary)).toEqual([])
    expect(one.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('and is abandoned leaves a clean connection behind', async () => {
    const one = await startedEngine({ pool: { max: 1 } })
    const transaction = await begun(one)
    transaction.release()
    expect(sent(one.primary)).toEqual([])
    await one.run('select a from t')
    expect(met(one.primary)).toEqual(['idle select a from t'])
  })

  test('and is abandoned or only ends gives the trial of a half-open circuit back, so that others may try', async () => {
    const one = await startedEngine({
      breaker: { failureThreshold: 1, halfOpenMaxCalls: 1, recoveryTimeout: { min: '1s', max: '1s' } },
      retry: { attempts: 1 },
    })
    losesFirst(one.primary, 'select a')
    await rejection(one.run('select a from t'))
    await one.clock.advance(seconds(5))
    for (const ends of [true, false, true]) {
      const transaction = await begun(one)
      if (ends) await transaction.commit()
      transaction.release()
    }
    await one.run('select a from t')
    expect(one.engine.cluster.primary.circuitStatus()).toMatchObject({ state: 'closed' })
  })

  test('and ends and begins again on the same connection begins twice', async () => {
    const one = await startedEngine()
    const first = await begun(one)
    await first.run('insert into t values (1)')
    await first.commit()
    first.release()
    const second = await begun(one)
    await second.run('insert into t values (2)')
    await second.rollback()
    second.release()
    expect(met(one.primary)).toEqual([
      'idle begin',
      'open insert into t values (1)',
      'open commit',
      'idle begin',
      'open insert into t values (2)',
      'open rollback',
    ])
  })

  test('waits for onReserveConnection first', async () => {
    const order: string[] = []
    const one = await startedEngine({ onReserveConnection: () => void order.push('reserved') })
    const transaction = await begun(one)
    order.push('begun')
    await transaction.run('insert into t values (1)')
    expect(order).toEqual(['reserved', 'begun'])
    await transaction.rollback()
    transaction.release()
  })
})

describe('the first statement of a transaction', () => {
  test('takes BEGIN along in the same write, and what follows is sent as ever', async () => {
    const one = await startedEngine()
    const transaction = await begun(one, { sql: 'start transaction isolation level serializable' })
    const [session] = one.primary.openSessions
    const together = vi.spyOn(session!, 'sendTogether')
    await transaction.run('insert into t values (1)')
    await transaction.run('insert into t values (2)')
    await transaction.commit()
    transaction.release()
    expect(together.mock.calls.map(([statements]) => statements.map(({ sql }) => sql))).toEqual([
      ['start transaction isolation level serializable', 'insert into t values (1)'],
    ])
    expect(met(one.primary)).toEqual([
      'idle start transaction isolation level serializable',
      'open insert into t values (1)',
      'open insert into t values (2)',
      'open commit',
    ])
  })

  test.for(['insert into t values (1); insert into t values (2)', 'copy t to stdout', 'copy t from stdin'])(
    'has BEGIN sent ahead, alone, when it is one that only the simple protocol takes: %s',
    async (text) => {
      const one = await startedEngine()
      const transaction = await begun(one)
      const [session] = one.primary.openSessions
      const together = vi.spyOn(session!, 'sendTogether')
      await transaction.run(text)
      await transaction.rollback()
      transaction.release()
      expect(together).not.toHaveBeenCalled()
      expect(met(one.primary)).toEqual(['idle begin', `open ${text}`, 'open rollback'])
    },
  )

  test('may be a savepoint', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    await transaction.run('savepoint "a"')
    await transaction.run('rollback to "a"')
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle begin', 'open savepoint "a"', 'open rollback to "a"', 'open commit'])
  })

  test('may be a stream: BEGIN is sent before it', async () => {
    const one = await startedEngine()
    one.primary.on('select a', { rows: [{ a: 1 }, { a: 2 }] })
    const transaction = await begun(one)
    const rows: Row[] = []
    const statement = one.engine.statement('select a from t', [])
    for await (const chunk of stream(one.engine, transaction.hold, statement, {
      chunkSize: 10,
      signal: undefined,
      timeoutMs: undefined,
    }))
      rows.push(...chunk)
    expect(rows).toEqual([{ a: 1 }, { a: 2 }])
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle begin', 'open select a from t', 'open commit'])
  })

  test('a statement that fails fails its transaction: COMMIT is answered with ROLLBACK', async () => {
    const one = await startedEngine()
    one.primary.on('insert', { error: serverError('23505', 'duplicate key') })
    const transaction = await begun(one)
    expect(await rejection(transaction.run('insert into t values (1)'))).toMatchObject({ code: '23505' })
    expect(await transaction.commit()).toMatchObject({ command: 'ROLLBACK' })
    transaction.release()
  })

  test('is told to the listeners as one query, and BEGIN is none', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    expect(one.events.query).toEqual([])
    await transaction.run('insert into t values (1)')
    await transaction.commit()
    transaction.release()
    expect(one.events.query.map(({ summary, ok }) => [summary, ok])).toEqual([
      ['INSERT t', true],
      ['COMMIT', true],
    ])
  })
})

describe('five statements at once in a transaction that has only just begun', () => {
  const texts = [1, 2, 3, 4, 5].map((n) => `insert into t values (${n})`)

  test('begin once and all run inside', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    await Promise.all(texts.map((text) => transaction.run(text)))
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle begin', ...texts.map((text) => `open ${text}`), 'open commit'])
  })

  test('none of them is run when BEGIN fails', async () => {
    const one = await startedEngine()
    one.primary.on('start transaction', { error: noSuchLevel() })
    const transaction = await begun(one, { sql: 'start transaction isolation level snapshot' })
    const settled = await Promise.allSettled(texts.map((text) => transaction.run(text)))
    expect(settled.map(({ status }) => status)).toEqual(texts.map(() => 'rejected'))
    await transaction.rollback()
    transaction.release()
    expectNothingOutside(one.primary)
  })

  test('when the connection is lost under them none is run outside of the transaction, nor is the transaction split', async () => {
    const one = await startedEngine()
    const reads = [1, 2, 3, 4, 5].map((n) => `select ${n} from t`)
    losesFirst(one.primary, 'select 1')
    const transaction = await begun(one)
    const all = watched(Promise.allSettled(reads.map((text) => transaction.run(text))))
    await one.clock.advance(seconds(10))
    expect(all.state).toBe('resolved')
    const wrote = watched(transaction.run('insert into t values (1)'))
    await one.clock.advance(seconds(10))
    const ended = watched(transaction.commit())
    await one.clock.advance(seconds(10))
    transaction.release()
    expectNothingOutside(one.primary)
    const kept = ended.state === 'resolved' && ended.value.command === 'COMMIT'
    const failures = all.value.filter(({ status }) => status === 'rejected')
    expect({ kept, failures: failures.length, wrote: wrote.state }).toEqual(
      kept ? { kept, failures: 0, wrote: 'resolved' } : { kept, failures: failures.length, wrote: wrote.state },
    )
    // All that was not in vain ran on one connection.
    const last = logged(one.primary).at(-1)!.pid
    if (kept) expect(sent(one.primary, last)).toEqual(['begin', ...reads, 'insert into t values (1)', 'commit'])
  })

  test('of which the first fails for a stale name: none is run outside, and a failure that one was told fails all', async () => {
    const one = await startedEngine({ statements: { prepare: 'always' } })
    let times = 0
    one.primary.on('select 1', () => (times++ === 0 ? { error: changedType() } : { rows: [{ n: 1 }] }))
    const transaction = await begun(one)
    const settled = await Promise.allSettled(['select 1 from t', ...texts].map((text) => transaction.run(text)))
    const committed = await transaction.commit()
    transaction.release()
    expectNothingOutside(one.primary)
    const failures = settled.filter(({ status }) => status === 'rejected')
    expect(committed.command).toBe(failures.length > 0 ? 'ROLLBACK' : 'COMMIT')
  })

  test('a statement that comes while the first is being healed waits for its transaction', async () => {
    const one = await startedEngine({ statements: { prepare: 'always' } })
    let times = 0
    one.primary.on('select 1', () => (times++ === 0 ? { error: changedType() } : { rows: [{ n: 1 }] }))
    one.primary.on('rollback', { delayMs: 10 })
    const transaction = await begun(one)
    const first = watched(transaction.run('select 1 from t'))
    await one.clock.advance(5)
    const second = watched(transaction.run('insert into t values (1)'))
    await one.clock.advance(100)
    expect([first.state, second.state]).toEqual(['resolved', 'resolved'])
    await transaction.commit()
    transaction.release()
    expectNothingOutside(one.primary)
  })
})

describe('a BEGIN that fails', () => {
  const level = { sql: 'start transaction isolation level snapshot' }

  test('rejects the first statement with what the server said of it, and that is not run', async () => {
    const one = await startedEngine()
    one.primary.on('start transaction', { error: noSuchLevel() })
    const transaction = await begun(one, level)
    const error = await rejection(transaction.run('insert into t values (1)'))
    expect(error).toMatchObject({ code: '42601', message: 'syntax error at or near "snapshot"' })
    expect(sent(one.primary)).toEqual([level.sql])
    await transaction.rollback()
    transaction.release()
    expect(one.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test.for(['insert into t values (1)', 'insert into t values (1); select 1'])(
    'lets nothing else run outside of the transaction either, however often it is tried: %s',
    async (text) => {
      const one = await startedEngine()
      one.primary.on('start transaction', { error: noSuchLevel() })
      const transaction = await begun(one, level)
      for (let round = 0; round < 3; round++) {
        expect(await rejection(transaction.run(text))).toMatchObject({ code: '42601' })
      }
      expectNothingOutside(one.primary)
      await transaction.rollback()
      transaction.release()
    },
  )

  test('and was swallowed is no transaction that could be committed', async () => {
    const one = await startedEngine()
    one.primary.on('start transaction', { error: noSuchLevel() })
    const transaction = await begun(one, level)
    await rejection(transaction.run('insert into t values (1)'))
    const ended = await transaction.commit().then(
      ({ command }) => command,
      (error: unknown) => error,
    )
    expect(ended).not.toBe('COMMIT')
    transaction.release()
  })

  test('before a stream rejects the stream, and nothing is run outside', async () => {
    const one = await startedEngine()
    one.primary.on('start transaction', { error: noSuchLevel() })
    const transaction = await begun(one, level)
    for (let round = 0; round < 2; round++) {
      const rows = stream(one.engine, transaction.hold, one.engine.statement('select a from t', []), {
        chunkSize: 10,
        signal: undefined,
        timeoutMs: undefined,
      })
      expect(await rejection(rows.next())).toMatchObject({ code: '42601' })
    }
    expectNothingOutside(one.primary)
    await transaction.rollback()
    transaction.release()
  })
})

describe('a first statement that was never sent', () => {
  test('because a value cannot be serialized leaves the transaction to be begun by the next', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    const [session] = one.primary.openSessions
    const refused = new SmartPgError('SMARTPG_INVALID_QUERY', 'Parameter $1 cannot be serialized.', { phase: 'send' })
    vi.spyOn(session!, 'sendTogether').mockImplementationOnce(() => [
      Promise.reject(new NotExecutedError('primary', 'Another cannot be sent.', 'send', refused)),
      Promise.reject(refused),
    ])
    expect(await rejection(transaction.run('insert into t values (1)'))).toBe(refused)
    await transaction.run('insert into t values (2)')
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle begin', 'open insert into t values (2)', 'open commit'])
  })

  test('because its signal had aborted leaves it to be begun by the next, or to end unheard', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    const reason = new Error('mine')
    const aborted = AbortSignal.abort(reason)
    expect(await rejection(transaction.run('insert into t values (1)', { signal: aborted }))).toBe(reason)
    expect(sent(one.primary)).toEqual([])
    await transaction.run('insert into t values (2)')
    await transaction.rollback()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle begin', 'open insert into t values (2)', 'open rollback'])
  })
})

describe('a first statement whose name the server does not take', () => {
  const stale = [
    ['0A000', changedType],
    ['26000', gone],
  ] as const

  test.for(stale)('(%s) is rolled back, begun and sent again, and nobody notices', async ([, error]) => {
    const one = await startedEngine({ statements: { prepare: 'always' } })
    let times = 0
    one.primary.on('insert', () => (times++ === 0 ? { error: error() } : { count: 1 }))
    const transaction = await begun(one, { sql: 'start transaction read write' })
    expect(await transaction.run('insert into t values (1)')).toMatchObject({ command: 'INSERT', count: 1 })
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual([
      'idle start transaction read write',
      'open insert into t values (1)',
      'failed rollback',
      'idle start transaction read write',
      'open insert into t values (1)',
      'open commit',
    ])
    expect(one.events.query.map(({ ok }) => ok)).toEqual([true, true])
  })

  test.for(stale)('(%s) again and again is tried once more and no more often', async ([, error]) => {
    for (const text of ['insert into t values (1)', 'select a from t']) {
      const one = await startedEngine({ statements: { prepare: 'always' } })
      one.primary.on(text, { error: error() })
      const transaction = await begun(one)
      const told = watched(transaction.run(text))
      await one.clock.advance(seconds(5))
      expect(told.error).toMatchObject({ code: error().message === gone().message ? '26000' : '0A000' })
      expect(sent(one.primary).filter((sql) => sql === text)).toHaveLength(2)
      await transaction.rollback()
      transaction.release()
    }
  })

  test.for(stale)('(%s) as a later statement fails the transaction, once', async ([, error]) => {
    const one = await startedEngine({ statements: { prepare: 'always' } })
    one.primary.on('update', { error: error() })
    const transaction = await begun(one)
    await transaction.run('insert into t values (1)')
    await rejection(transaction.run('update t set n = 1'))
    expect(await transaction.commit()).toMatchObject({ command: 'ROLLBACK' })
    transaction.release()
    expect(met(one.primary)).toEqual([
      'idle begin',
      'open insert into t values (1)',
      'open update t set n = 1',
      'failed commit',
    ])
  })

  test('is not run again when the name was the user’s own: it may have ended the transaction before', async () => {
    const one = await startedEngine()
    one.primary.on('execute mine', { error: gone() })
    const transaction = await begun(one)
    const text = 'insert into t values (1); commit; execute mine'
    expect(await rejection(transaction.run(text))).toMatchObject({ code: '26000' })
    expect(sent(one.primary).filter((sql) => sql === text)).toHaveLength(1)
    await transaction.rollback()
    transaction.release()
  })
})

describe('when the connection is lost under the first statement', () => {
  test('a read begins again on another, and its caller notices nothing', async () => {
    const one = await startedEngine()
    losesFirst(one.primary, 'select a')
    const transaction = await begun(one, { sql: 'start transaction isolation level serializable' })
    const read = watched(transaction.run('select a from t'))
    await one.clock.advance(seconds(1))
    expect(read.value.rows).toEqual([{ n: 1 }])
    await transaction.run('insert into t values (1)')
    await transaction.commit()
    transaction.release()
    expect(logged(one.primary).map(({ pid, sql }) => `${pid} ${sql}`)).toEqual([
      '100 start transaction isolation level serializable',
      '100 select a from t',
      '101 start transaction isolation level serializable',
      '101 select a from t',
      '101 insert into t values (1)',
      '101 commit',
    ])
  })

  test('a write that may have run is not run again, and nothing can be committed', async () => {
    const one = await startedEngine()
    losesFirst(one.primary, 'insert')
    const transaction = await begun(one)
    const write = watched(transaction.run('insert into t values (1)'))
    await one.clock.advance(seconds(30))
    expect(write.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    expect(sent(one.primary)).toEqual(['begin', 'insert into t values (1)'])
    expect(await rejection(transaction.commit())).toBeInstanceOf(Error)
    transaction.release()
    expect(sent(one.primary)).toEqual(['begin', 'insert into t values (1)'])
  })

  test('a write that never left this process begins again on another', async () => {
    const one = await startedEngine()
    losesFirst(one.primary, 'begin', 1, neverSent)
    const transaction = await begun(one)
    const write = watched(transaction.run('insert into t values (1)'))
    await one.clock.advance(seconds(1))
    expect(write.state).toBe('resolved')
    await transaction.commit()
    transaction.release()
    expect(sent(one.primary, 101)).toEqual(['begin', 'insert into t values (1)', 'commit'])
  })

  test.for(['insert into t values (1)', 'insert into t values (1); insert into t values (2)'])(
    'before it was sent, while the callback was busy: it begins on another: %s',
    async (text) => {
      const one = await startedEngine()
      const transaction = await begun(one)
      one.primary.killAll()
      const write = watched(transaction.run(text))
      await one.clock.advance(seconds(1))
      expect(write.state).toBe('resolved')
      await transaction.commit()
      transaction.release()
      expect(met(one.primary)).toEqual(['idle begin', `open ${text}`, 'open commit'])
    },
  )

  test('so does a stream whose connection was gone before', async () => {
    const one = await startedEngine()
    one.primary.on('select a', { rows: [{ a: 1 }] })
    const transaction = await begun(one)
    one.primary.killAll()
    const rows = stream(one.engine, transaction.hold, one.engine.statement('select a from t', []), {
      chunkSize: 10,
      signal: undefined,
      timeoutMs: undefined,
    })
    const first = watched(rows.next())
    await one.clock.advance(seconds(1))
    expect(first.value).toEqual({ value: [{ a: 1 }], done: false })
    await rows.return(undefined)
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle begin', 'open select a from t', 'open commit'])
  })

  test('and nothing was ever sent, the transaction can end all the same', async () => {
    const one = await startedEngine()
    const transaction = await begun(one)
    one.primary.killAll()
    expect(await transaction.commit()).toMatchObject({ command: 'COMMIT' })
    transaction.release()
    expect(one.pool.counts()).toMatchObject({ total: 0 })
  })

  test('a second statement is not sent elsewhere: what the first one read belongs to the transaction that is gone', async () => {
    const one = await startedEngine()
    losesFirst(one.primary, 'select b')
    const transaction = await begun(one)
    await transaction.run('select a from t')
    const read = watched(transaction.run('select b from t'))
    await one.clock.advance(seconds(5))
    expect(read.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    expect(sent(one.primary)).toEqual(['begin', 'select a from t', 'select b from t'])
    transaction.release()
  })

  test.for(['insert into t values (1)', 'select a from t where n = next_number()'])(
    'and that was swallowed, what comes next in the transaction is run nowhere else, and there is nothing to commit: %s',
    async (text) => {
      const one = await startedEngine()
      losesFirst(one.primary, text)
      const transaction = await begun(one)
      const first = watched(transaction.run(text))
      await one.clock.advance(seconds(5))
      expect(first.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
      const second = watched(transaction.run('insert into t values (2)'))
      await one.clock.advance(seconds(5))
      expect(second.state).toBe('rejected')
      const ended = watched(transaction.commit())
      await one.clock.advance(seconds(5))
      expect(ended.state === 'rejected' || ended.value.command === 'ROLLBACK').toBe(true)
      transaction.release()
      expect(sent(one.primary)).toEqual(['begin', text])
    },
  )

  test('again and again, as often as may be, what comes next is run nowhere else', async () => {
    const one = await startedEngine({ breaker: false, retry: { attempts: 2 } })
    losesFirst(one.primary, 'select a', 2)
    const transaction = await begun(one)
    const first = watched(transaction.run('select a from t'))
    await one.clock.advance(seconds(5))
    expect(first.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    const second = watched(transaction.run('insert into t values (2)'))
    await one.clock.advance(seconds(5))
    expect(second.state).toBe('rejected')
    transaction.release()
    expect(sent(one.primary)).not.toContain('insert into t values (2)')
  })

  test('on a connection that its caller was promised it is lost to him, whatever it was', async () => {
    const one = await startedEngine()
    const lease = one.lease()
    await lease.run('select 1 as first')
    await lease.run('select 1 as second')
    await beginOn(one, lease)
    one.primary.killAll()
    const read = watched(lease.run('select a from t'))
    await one.clock.advance(seconds(5))
    expect(read.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    expect(sent(one.primary)).not.toContain('select a from t')
    lease.release()
  })
})

describe('a read only transaction', () => {
  test('begins on a replica, where all of it runs', async () => {
    const one = await startedEngine({ replicas: 1 })
    const transaction = await begun(one, { mode: 'read-only', sql: 'start transaction read only' })
    await transaction.run('select a from t')
    await transaction.run('select b from t')
    await transaction.commit()
    transaction.release()
    expect(sent(one.primary)).toEqual([])
    expect(met(one.replicas[0]!)).toEqual([
      'idle start transaction read only',
      'open select a from t',
      'open select b from t',
      'open commit',
    ])
  })

  test('whose replica dies under its first read begins again on another node', async () => {
    const one = await startedEngine({ replicas: 1 })
    losesFirst(one.replicas[0]!, 'select a')
    const transaction = await begun(one, { mode: 'read-only', sql: 'start transaction read only' })
    const read = watched(transaction.run('select a from t'))
    await one.clock.advance(seconds(1))
    expect(read.state).toBe('resolved')
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle start transaction read only', 'open select a from t', 'open commit'])
  })

  test('whose replica cancels its first read for recovery begins again elsewhere, and the replica’s connection is clean', async () => {
    const one = await startedEngine({ replicas: 1 })
    one.replicas[0]!.on('select a', {
      error: serverError('40001', 'canceling statement due to conflict with recovery'),
    })
    const transaction = await begun(one, { mode: 'read-only', sql: 'start transaction read only' })
    const read = watched(transaction.run('select a from t'))
    await one.clock.advance(seconds(1))
    expect(read.state).toBe('resolved')
    await transaction.commit()
    transaction.release()
    expect(met(one.primary)).toEqual(['idle start transaction read only', 'open select a from t', 'open commit'])
    expect(met(one.replicas[0]!).at(-1)).toBe('failed rollback')
    expect(one.engine.cluster.replicas[0]!.pool.counts()).toMatchObject({ total: 1, idle: 1 })
  })
})
