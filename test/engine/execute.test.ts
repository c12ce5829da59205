// The spine: what happens to one statement when a server refuses it, dies under it, or answers for another role.
// The rule of rules: what may have been applied is never sent again.

import { describe, expect, test } from 'vitest'
import { NotExecutedError, OutcomeUnknownError, SmartPgError } from '../../src/core/errors.ts'
import { logged, rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import { serverError } from '../support/scripted-server.ts'
import type { ScriptedServer } from '../support/scripted-server.ts'

const lost = (): Error => new SmartPgError('SMARTPG_CONNECTION_LOST', 'The connection was lost.', { phase: 'execute' })
const shutdown = (): Error => serverError('57P01', 'terminating connection due to administrator command', 'FATAL')
const neverSent = (): Error => new SmartPgError('SMARTPG_CONNECTION_LOST', 'The socket was closed.', { phase: 'send' })
const conflict = (): Error => serverError('40001', 'canceling statement due to conflict with recovery')
const readOnly = (): Error => serverError('25006', 'cannot execute INSERT in a read-only transaction')

/** The connection is lost under the first `times` statements that match. */
function losesFirst(server: ScriptedServer, pattern: string, times = 1, error = lost): void {
  let left = times
  server.on(pattern, () => (left-- > 0 ? { drops: error() } : { rows: [{ n: 1 }] }))
}

describe('a read', () => {
  test('whose connection is lost is sent again, and its caller notices nothing', async () => {
    const { run, primary, clock, events } = await startedEngine()
    losesFirst(primary, 'select a')
    const read = watched(run('select a from t'))
    await clock.advance(100)
    expect(read.value.rows).toEqual([{ n: 1 }])
    expect(events.retry).toMatchObject([{ node: 'primary', attempt: 1, fault: 'connection-lost' }])
    expect(logged(primary).map(({ pid }) => pid)).toEqual([100, 101])
  })

  test('is tried as often as the option says and no more', async () => {
    const { run, primary, clock } = await startedEngine({ retry: { attempts: 4 } })
    losesFirst(primary, 'select a', 99)
    const read = watched(run('select a from t'))
    await clock.advance(seconds(10))
    expect(read.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    expect(sent(primary)).toHaveLength(4)
  })

  test('is not tried again with attempts 1', async () => {
    const { run, primary, clock } = await startedEngine({ retry: { attempts: 1 } })
    losesFirst(primary, 'select a')
    const read = watched(run('select a from t'))
    await clock.advance(seconds(1))
    expect(read.state).toBe('rejected')
    expect(sent(primary)).toHaveLength(1)
  })

  test('waits before it is tried again on the same node, holding no connection meanwhile', async () => {
    const { run, pool, primary, clock } = await startedEngine({ retry: { base: 200 } })
    losesFirst(primary, 'select a')
    const read = watched(run('select a from t'))
    await clock.advance(99)
    expect(sent(primary)).toHaveLength(1)
    expect(pool.counts()).toMatchObject({ active: 0 })
    await clock.advance(1)
    expect(read.state).toBe('resolved')
  })

  test('that fails for what it says is not tried again', async () => {
    const { run, primary } = await startedEngine()
    primary.on('select nonsense', { error: serverError('42703', 'column "nonsense" does not exist') })
    const error = await rejection(run('select nonsense from t'))
    expect(error).toMatchObject({ code: '42703', message: 'column "nonsense" does not exist' })
    expect(sent(primary)).toHaveLength(1)
  })

  test('is not tried again once the retry budget is spent: a broken server sees few second tries', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false, pool: { max: 50 }, retry: { attempts: 5 } })
    primary.on('select a', { drops: shutdown() })
    const reads = Array.from({ length: 300 }, () => watched(run('select a from t')))
    await clock.advance(seconds(30))
    expect(reads.every(({ state }) => state === 'rejected')).toBe(true)
    // 300 requests; a fifth of them and ten a second may be tried again, where all would have been 1,200 more.
    expect(sent(primary).length).toBeLessThanOrEqual(300 + 60 + 100 * 4)
  })
})

describe('a read that a replica cannot answer', () => {
  test('goes to another replica', async () => {
    const routing = { strategy: 'round-robin' } as const
    const { run, replicas, events } = await startedEngine({ replicas: 2, routing })
    losesFirst(replicas[0]!, 'select a')
    losesFirst(replicas[1]!, 'select a', 0)
    await run('select a from t')
    expect(events.retry).toMatchObject([{ node: 'replica-1' }])
    expect(sent(replicas[1]!)).toEqual(['select a from t'])
  })

  test('goes to the primary when a second replica cannot either, without another round', async () => {
    const { run, primary, replicas, events } = await startedEngine({ replicas: 3 })
    for (const replica of replicas) losesFirst(replica, 'select a', 9)
    await run('select a from t')
    expect(sent(primary)).toEqual(['select a from t'])
    expect(events.retry).toHaveLength(2)
  })

  test('because of a conflict with recovery goes elsewhere, and the replica keeps its connection', async () => {
    const { run, primary, replicas, engine } = await startedEngine({ replicas: 1 })
    replicas[0]!.on('select a', { error: conflict() })
    await run('select a from t')
    expect(sent(primary)).toEqual(['select a from t'])
    expect(engine.cluster.replicas[0]!.pool.counts()).toMatchObject({ idle: 1 })
    expect(engine.cluster.replicas[0]!.circuitStatus()).toMatchObject({ consecutive_failures: 0 })
  })

  test('because it cannot be connected to goes elsewhere within the time of one connect', async () => {
    const { run, primary, replicas, clock, engine } = await startedEngine({ replicas: 1 })
    replicas[0]!.goDown(serverError('57P03', 'the database system is starting up', 'FATAL'))
    const read = watched(run('select a from t'))
    await clock.advance(0)
    expect(read.state).toBe('resolved')
    expect(sent(primary)).toEqual(['select a from t'])
    expect(engine.cluster.replicas[0]!.pool.counts().waiting).toBe(0)
  })

  test('because it is a write in disguise runs on the primary, once, and is counted as a re-run', async () => {
    const { run, primary, replicas, engine, events } = await startedEngine({ replicas: 1 })
    replicas[0]!.on('select next_number', { error: readOnly() })
    // A view over nextval: nothing in the text tells.
    await run('select next_number from numbers')
    expect(sent(replicas[0]!)).toHaveLength(1)
    expect(sent(primary)).toEqual(['select next_number from numbers'])
    expect(engine.cluster.replicas[0]!.cells.reruns).toBe(1)
    expect(events.query.at(-1)).toMatchObject({ node: 'primary', role: 'primary', ok: true, attempts: 2 })
  })

  test('and is refused as read-only by the primary as well is told what the primary said', async () => {
    const { run, primary } = await startedEngine()
    primary.on('insert', { error: readOnly() })
    expect(await rejection(run('insert into t values (1)'))).toMatchObject({ code: '25006' })
    expect(sent(primary)).toHaveLength(1)
  })
})

describe('a write', () => {
  test('whose connection is lost after it was sent may have been applied: it is never sent again', async () => {
    const { run, primary, clock } = await startedEngine()
    losesFirst(primary, 'insert')
    const write = watched(run('insert into t values (1)'))
    await clock.advance(seconds(30))
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    expect(write.error).toMatchObject({
      code: 'SMARTPG_OUTCOME_UNKNOWN',
      sqlState: '08007',
      retryable: false,
      node: 'primary',
      cause: { code: 'SMARTPG_CONNECTION_LOST' },
    })
    expect(sent(primary)).toHaveLength(1)
  })

  test('is never sent again when the server died with FATAL in the middle of it', async () => {
    const { run, primary, clock } = await startedEngine()
    losesFirst(primary, 'insert', 1, shutdown)
    const write = watched(run('insert into t values (1)'))
    await clock.advance(seconds(30))
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    expect(sent(primary)).toHaveLength(1)
  })

  test('that never left this process is sent again', async () => {
    const { run, primary, clock } = await startedEngine()
    losesFirst(primary, 'insert', 1, neverSent)
    const write = watched(run('insert into t values (1)'))
    await clock.advance(100)
    expect(write.state).toBe('resolved')
  })

  test('that never left this process, however often it was tried, certainly was not executed', async () => {
    const { run, primary, clock } = await startedEngine({ breaker: false })
    losesFirst(primary, 'insert', 99, neverSent)
    const write = watched(run('insert into t values (1)'))
    await clock.advance(seconds(30))
    expect(write.error).toBeInstanceOf(NotExecutedError)
    expect(write.error).toMatchObject({ code: 'SMARTPG_NOT_EXECUTED', retryable: true, attempts: 3 })
  })

  test('whose connection had died before it could be sent is sent on another', async () => {
    let hooks = 0
    const { run, primary, clock } = await startedEngine({
      onReserveConnection: () => {
        // The server closes the connection while the user's hook still looks something up.
        if (++hooks === 1) primary.killAll()
      },
    })
    const write = watched(run('insert into t values (1)'))
    await clock.advance(100)
    expect(write.state).toBe('resolved')
    expect(sent(primary)).toHaveLength(1)
  })

  test('that the server rolled back for certain is sent again', async () => {
    const { run, primary, clock } = await startedEngine()
    let times = 0
    primary.on('update', () => (times++ === 0 ? { error: serverError('40P01', 'deadlock detected') } : { rows: [] }))
    const write = watched(run('update t set n = 1'))
    await clock.advance(100)
    expect(write.state).toBe('resolved')
    expect(sent(primary)).toHaveLength(2)
  })

  test('that broke a rule is told what the server said, untouched', async () => {
    const { run, primary } = await startedEngine()
    const violation = serverError('23505', 'duplicate key value violates unique constraint "t_pkey"')
    primary.on('insert', { error: violation })
    expect(await rejection(run('insert into t values (1)'))).toBe(violation)
  })
})

describe('inside a transaction', () => {
  test('nothing is ever sent again, not even a read', async () => {
    const { lease, primary, clock } = await startedEngine()
    losesFirst(primary, 'select a')
    const transaction = lease()
    await transaction.begin()
    const read = watched(transaction.run('select a from t'))
    await clock.advance(seconds(30))
    expect(read.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    expect(sent(primary)).toEqual(['begin', 'select a from t'])
  })

  test('a deadlock is the caller’s: only he can run the whole again', async () => {
    const { lease, primary, clock } = await startedEngine()
    primary.on('update', { error: serverError('40P01', 'deadlock detected') })
    const transaction = lease()
    await transaction.begin()
    const write = watched(transaction.run('update t set n = 1'))
    await clock.advance(seconds(30))
    expect(write.error).toMatchObject({ code: '40P01' })
    expect(sent(primary).filter((sql) => sql.startsWith('update'))).toHaveLength(1)
  })

  test('BEGIN that was lost with its connection is sent again on another: nothing hung on it yet', async () => {
    const { lease, primary, clock } = await startedEngine()
    losesFirst(primary, 'begin')
    const transaction = lease()
    const begun = watched(transaction.begin())
    await clock.advance(100)
    expect(begun.state).toBe('resolved')
    await transaction.run('insert into t values (1)')
    expect(logged(primary).map(({ pid, sql }) => `${pid} ${sql}`)).toEqual([
      '100 begin',
      '101 begin',
      '101 insert into t values (1)',
    ])
  })

  test('a lost COMMIT is an unknown outcome', async () => {
    const { lease, primary, clock } = await startedEngine()
    losesFirst(primary, 'commit')
    const transaction = lease()
    await transaction.begin()
    await transaction.run('insert into t values (1)')
    const commit = watched(transaction.run('commit'))
    await clock.advance(seconds(30))
    expect(commit.error).toBeInstanceOf(OutcomeUnknownError)
    expect(commit.error).toMatchObject({ phase: 'commit' })
    expect(sent(primary).filter((sql) => sql === 'commit')).toHaveLength(1)
  })

  test('everything goes to one connection of the primary, reads too', async () => {
    const { lease, primary, replicas } = await startedEngine({ replicas: 2 })
    const transaction = lease()
    await transaction.begin()
    await transaction.run('select a from t')
    await transaction.run('insert into t values (1)')
    await transaction.run('commit')
    transaction.release()
    expect(sent(primary, primary.log.at(-1)!.pid)).toEqual([
      'begin',
      'select a from t',
      'insert into t values (1)',
      'commit',
    ])
    expect(replicas.flatMap((replica) => sent(replica))).toEqual([])
  })

  test('a read only one runs on one replica from BEGIN to COMMIT', async () => {
    const { lease, primary, replicas } = await startedEngine({ replicas: 1 })
    const transaction = lease()
    await transaction.begin('read-only')
    await transaction.run('select a from t')
    await transaction.run('select b from t')
    await transaction.run('commit')
    transaction.release()
    expect(sent(primary)).toEqual([])
    expect(sent(replicas[0]!)).toEqual(['begin', 'select a from t', 'select b from t', 'commit'])
  })
})

describe('on a connection of one’s own', () => {
  test('the second statement is not sent again either: the session it meant may be gone', async () => {
    const { lease, primary, clock } = await startedEngine()
    losesFirst(primary, 'select b')
    const connection = lease()
    await connection.run('select a from t')
    const second = watched(connection.run('select b from t'))
    await clock.advance(seconds(30))
    expect(second.error).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
  })

  test('what follows a read on a replica goes to the primary, and stays there', async () => {
    const { lease, primary, replicas } = await startedEngine({ replicas: 1 })
    const connection = lease()
    await connection.run('select a from t')
    await connection.run('insert into t values (1)')
    await connection.run('select b from t')
    connection.release()
    expect(sent(replicas[0]!)).toEqual(['select a from t'])
    expect(sent(primary)).toEqual(['insert into t values (1)', 'select b from t'])
  })
})

describe('an aborted caller', () => {
  test('who had given up before sends nothing and asks for nothing', async () => {
    const { run, primary } = await startedEngine()
    const reason = new Error('the request is gone')
    expect(await rejection(run('insert into t values (1)', { signal: AbortSignal.abort(reason) }))).toBe(reason)
    expect(primary.connects).toBe(0)
  })

  test('who gives up while he waits for a connection sends nothing', async () => {
    const { run, pool, primary, clock } = await startedEngine({ pool: { max: 1 } })
    const holder = await pool.acquire()
    const leave = new AbortController()
    const write = watched(run('insert into t values (1)', { signal: leave.signal }))
    await clock.advance(10)
    const reason = new Error('the request is gone')
    leave.abort(reason)
    await clock.advance(0)
    expect(write.error).toBe(reason)
    pool.release(holder)
    await clock.advance(seconds(1))
    expect(sent(primary)).toEqual([])
  })

  test('who gives up in the very turn in which he is served sends nothing, and his connection is given back', async () => {
    const { run, pool, primary, clock } = await startedEngine({ pool: { max: 1 } })
    const holder = await pool.acquire()
    const leave = new AbortController()
    const write = watched(run('insert into t values (1)', { signal: leave.signal }))
    await clock.advance(10)
    pool.release(holder)
    leave.abort()
    await clock.advance(0)
    expect(write.state).toBe('rejected')
    expect(sent(primary)).toEqual([])
    expect(pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('who gives up during the backoff is not tried again', async () => {
    const { run, primary, clock } = await startedEngine({ retry: { base: '2s' } })
    losesFirst(primary, 'select a')
    const leave = new AbortController()
    const read = watched(run('select a from t', { signal: leave.signal }))
    await clock.advance(500)
    const reason = new Error('the request is gone')
    leave.abort(reason)
    await clock.advance(seconds(5))
    expect(read.error).toBe(reason)
    expect(sent(primary)).toHaveLength(1)
  })

  test('on a replica that cannot be connected to is not sent on to the primary', async () => {
    const { run, primary, replicas, clock } = await startedEngine({ replicas: 1 })
    replicas[0]!.connectDelayMs = 1_000
    const leave = new AbortController()
    const read = watched(run('select a from t', { signal: leave.signal }))
    await clock.advance(10)
    leave.abort()
    await clock.advance(seconds(3))
    expect(read.state).toBe('rejected')
    expect(sent(primary)).toEqual([])
  })
})

describe('onReserveConnection', () => {
  test('is awaited before the first statement of every lease, on the lease’s own connection', async () => {
    const { run, primary } = await startedEngine({
      pool: { max: 1 },
      onReserveConnection: async (connection) => {
        await connection.executeQuery({ sql: 'select set_tenant()', parameters: [] })
      },
    })
    await run('select a from t')
    await run('select b from t')
    expect(sent(primary).filter((sql) => !sql.startsWith('discard'))).toEqual([
      'select set_tenant()',
      'select a from t',
      'select set_tenant()',
      'select b from t',
    ])
  })

  test('runs once for a lease of several statements', async () => {
    let calls = 0
    const { lease } = await startedEngine({ onReserveConnection: () => void calls++ })
    const transaction = lease()
    await transaction.begin()
    await transaction.run('select a from t')
    await transaction.run('commit')
    transaction.release()
    expect(calls).toBe(1)
  })

  test('that fails sends nothing of the caller, and no slot is lost', async () => {
    const { run, pool, primary } = await startedEngine({
      pool: { max: 1 },
      onReserveConnection: () => {
        throw new Error('no tenant')
      },
    })
    for (let i = 0; i < 5; i++)
      expect(await rejection(run('insert into t values (1)'))).toMatchObject({ message: 'no tenant' })
    expect(sent(primary)).toEqual([])
    expect(pool.counts()).toMatchObject({ active: 0, waiting: 0 })
  })
})

describe('the query event', () => {
  test('tells where, why and how often a statement ran, and nothing of its parameters', async () => {
    const { run, events } = await startedEngine({ replicas: 1 })
    await run('select a from orders')
    await run('insert into orders values ($1)')
    await run('select a from orders', { wish: { target: 'primary' } })
    expect(events.query).toMatchObject([
      {
        node: 'replica-1',
        role: 'replica',
        reason: 'read',
        kind: 'read_simple',
        summary: 'SELECT orders',
        attempts: 1,
        ok: true,
      },
      { node: 'primary', role: 'primary', reason: 'write', kind: 'write_simple', summary: 'INSERT orders', ok: true },
      { node: 'primary', reason: 'hint', ok: true },
    ])
    for (const event of events.query) expect(event).not.toHaveProperty('parameters')
  })

  test('counts the waiting into its milliseconds', async () => {
    const { run, pool, primary, clock, events } = await startedEngine({ pool: { max: 1 } })
    primary.on('select a', { delayMs: 20 })
    const holder = await pool.acquire()
    const read = watched(run('select a from t'))
    await clock.advance(100)
    pool.release(holder)
    await clock.advance(20)
    expect(read.state).toBe('resolved')
    expect(events.query).toMatchObject([{ ms: 120 }])
  })

  test('is told once for a statement that was tried twice, with both tries counted', async () => {
    const { run, primary, clock, events } = await startedEngine()
    losesFirst(primary, 'select a')
    watched(run('select a from t'))
    await clock.advance(100)
    expect(events.query).toMatchObject([{ ok: true, attempts: 2, node: 'primary' }])
  })

  test('carries the code of what failed', async () => {
    const { run, primary, events } = await startedEngine()
    primary.on('insert', { error: serverError('23505', 'duplicate key') })
    await rejection(run('insert into t values (1)'))
    expect(events.query).toMatchObject([{ ok: false, code: '23505' }])
  })

  test('says pinned for what follows on the same lease', async () => {
    const { lease, events } = await startedEngine()
    const connection = lease()
    await connection.run('select a from t')
    await connection.run('select b from t')
    expect(events.query.map(({ reason }) => reason)).toEqual(['no-replica', 'pinned'])
  })
})

describe('names of prepared statements', () => {
  test('are used from the second sighting of a text, on whatever connection', async () => {
    const { run, primary } = await startedEngine()
    for (let i = 0; i < 3; i++) await run('select a from t where id = $1')
    const names = logged(primary).map(({ name }) => name)
    expect(names[0]).toBeUndefined()
    expect(names[1]).toMatch(/^s_/)
    expect(names[2]).toBe(names[1])
  })

  test('are used in a transaction, too, once the process that connected is known to answer; that is asked once', async () => {
    const { run, lease, primary } = await startedEngine()
    primary.on('pg_backend_pid', (_, { pid }) => ({ rows: [{ pid }] }))
    for (let i = 0; i < 2; i++) await run('select a from t where id = $1')
    for (let i = 0; i < 2; i++) {
      const transaction = lease()
      await transaction.begin()
      await transaction.run('select a from t where id = $1')
      await transaction.run('commit')
      transaction.release()
    }
    const used = primary.log.filter(({ sql, status }) => sql.startsWith('select a') && status === 'open')
    expect(used.map(({ name }) => name)).toEqual([expect.stringMatching(/^s_/), expect.stringMatching(/^s_/)])
    expect(primary.statements().filter((sql) => sql.includes('pg_backend_pid'))).toHaveLength(1)
  })

  test('are not used in a transaction behind a pooler: what it has lost would end the transaction', async () => {
    const { run, lease, primary } = await startedEngine()
    primary.on('pg_backend_pid', { rows: [{ pid: 4711 }] })
    for (let i = 0; i < 2; i++) await run('select a from t where id = $1')
    const transaction = lease()
    await transaction.begin()
    await transaction.run('select a from t where id = $1')
    await transaction.run('commit')
    transaction.release()
    await run('select a from t where id = $1')
    const [, outside, within, after] = primary.log.filter(({ sql }) => sql.startsWith('select a'))
    expect([outside!.name, within!.name, after!.name]).toEqual([expect.stringMatching(/^s_/), undefined, outside!.name])
  })
})

describe('capacity', () => {
  test('is whole again after every kind of failure', async () => {
    const { run, lease, pool, primary, clock } = await startedEngine({ breaker: false, pool: { max: 4 } })
    losesFirst(primary, 'select lost', 99)
    losesFirst(primary, 'insert', 99)
    primary.on('select wrong', { error: serverError('42703', 'no such column') })
    for (let i = 0; i < 20; i++) {
      const work = [
        watched(run('select lost from t')),
        watched(run('insert into t values (1)')),
        watched(run('select wrong from t')),
      ]
      const forgetful = lease()
      await forgetful.begin()
      forgetful.release()
      await clock.advance(seconds(10))
      expect(work.every(({ state }) => state === 'rejected')).toBe(true)
    }
    expect(pool.counts()).toMatchObject({ active: 0, waiting: 0 })
    const all = await Promise.all([1, 2, 3, 4].map(() => pool.acquire()))
    expect(new Set(all).size).toBe(4)
  })
})
