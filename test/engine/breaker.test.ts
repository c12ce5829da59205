// The circuit of one server as queries meet it. How a circuit counts is core's business; here it is seen that the
// right things reach it, and that nobody is parked before an open one.

import { Kysely, sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { CircuitOpenError } from '../../src/core/errors.ts'
import { SmartPgDialect } from '../../src/dialect.ts'
import { rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

const diskFull = (): Error => serverError('53100', 'could not extend file: No space left on device')
const unique = (): Error => serverError('23505', 'duplicate key value violates unique constraint')

const breaker = { failureThreshold: 3, recoveryTimeout: { min: '1s', max: '8s' }, halfOpenMaxCalls: 2 } as const
const start = (options: TestEngineOptions = {}): Promise<TestEngine> =>
  startedEngine({ breaker, retry: { attempts: 1 }, pool: { max: 10 }, ...options })

/** Three statements that the server cannot run for lack of something of its own. */
async function failThrice({ run, primary }: TestEngine): Promise<void> {
  primary.on('big', { error: diskFull() })
  for (let i = 0; i < 3; i++) await rejection(run('insert into big values (1)'))
}

describe('the circuit opens', () => {
  test('after as many faults of the server in a row as the threshold says, and tells so', async () => {
    const engine = await start()
    await failThrice(engine)
    expect(engine.events.breaker).toMatchObject([{ node: 'primary', from: 'closed', to: 'open' }])
    expect(engine.events.breaker[0]!.because).toContain('3 failures in a row')
    expect(engine.engine.cluster.primary.cells.breakerTransitions.closed.open).toBe(1)
  })

  test('not when answers lie between them', async () => {
    const engine = await start()
    engine.primary.on('big', { error: diskFull() })
    for (let i = 0; i < 10; i++) {
      await rejection(engine.run('insert into big values (1)'))
      await engine.run('select a from t')
    }
    expect(engine.events.breaker).toEqual([])
  })

  test.each([
    ['a unique violation', unique()],
    ['a syntax error', serverError('42601', 'syntax error at or near "form"')],
    ['a deadlock', serverError('40P01', 'deadlock detected')],
    ['a serialization failure', serverError('40001', 'could not serialize access')],
    ['a lock that was not available', serverError('55P03', 'could not obtain lock on row')],
    ['a statement_timeout of the server', serverError('57014', 'canceling statement due to statement timeout')],
    ['a limit on idle sessions', serverError('57P05', 'terminating connection due to idle-session timeout', 'FATAL')],
  ])('never for %s, however often', async (_, error) => {
    const { run, primary, events } = await start()
    primary.on('insert', { error })
    for (let i = 0; i < 50; i++) await rejection(run('insert into t values (1)'))
    expect(events.breaker).toEqual([])
  })

  test('never for errors inside transactions that say nothing of the server', async () => {
    const { lease, primary, events } = await start()
    primary.on('insert', { error: unique() })
    for (let i = 0; i < 20; i++) {
      const transaction = lease()
      await transaction.begin()
      await rejection(transaction.run('insert into t values (1)'))
      await rejection(transaction.run('select a from t'))
      await transaction.run('rollback', { raw: true })
      transaction.release()
    }
    expect(events.breaker).toEqual([])
  })

  test('not for one dead connection that its holder goes on using', async () => {
    const { lease, primary, events } = await start()
    const holder = lease()
    await holder.begin()
    primary.killAll()
    for (let i = 0; i < 10; i++) await rejection(holder.run('insert into t values (1)'))
    expect(events.breaker).toEqual([])
  })

  test('for faults that a caller meets on a connection of his own, which asks for no permit', async () => {
    const { lease, primary, events } = await start()
    primary.on('big', { error: diskFull() })
    const holder = lease()
    await holder.run('select a from t')
    for (let i = 0; i < 3; i++) await rejection(holder.run('insert into big values (1)'))
    expect(events.breaker).toMatchObject([{ to: 'open' }])
  })
})

describe('an open circuit', () => {
  test('turns a caller away at once, with the cause, and sends nothing', async () => {
    const engine = await start()
    await failThrice(engine)
    const before = engine.primary.log.length
    const error = await rejection(engine.run('select a from t'))
    expect(error).toBeInstanceOf(CircuitOpenError)
    expect(error).toMatchObject({
      code: 'SMARTPG_CIRCUIT_OPEN',
      node: 'primary',
      retryable: true,
      cause: { code: '53100' },
    })
    expect((error as CircuitOpenError).retryAfterMs).toBe(1_000)
    expect(engine.primary.log).toHaveLength(before)
    expect(engine.engine.cluster.primary.cells.breakerRejections).toBe(1)
  })

  test('parks nobody: a hundred callers are turned away in one turn', async () => {
    const engine = await start()
    await failThrice(engine)
    const turnedAway = Array.from({ length: 100 }, () => watched(engine.run('select a from t')))
    await engine.clock.advance(0)
    expect(turnedAway.every(({ error }) => error instanceof CircuitOpenError)).toBe(true)
    expect(engine.pool.counts().waiting).toBe(0)
  })

  test('lets a transaction that holds its connection go on to its end', async () => {
    const engine = await start()
    const transaction = engine.lease()
    await transaction.begin()
    await failThrice(engine)
    await transaction.run('insert into t values (1)')
    await transaction.run('commit', { raw: true })
    transaction.release()
    expect(sent(engine.primary).slice(-2)).toEqual(['insert into t values (1)', 'commit'])
  })

  test('of the primary leaves reads to the replicas', async () => {
    const engine = await start({ replicas: 1 })
    await failThrice(engine)
    // Our own writes must be seen; the failed ones may have been applied.
    engine.wal.replay()
    await engine.clock.advance(1_100)
    engine.engine.cluster.primary.forceOpen('maintenance')
    await engine.run('select a from t')
    expect(sent(engine.replicas[0]!)).toEqual(['select a from t'])
  })

  test('of a replica leaves its reads to the others', async () => {
    const { engine, run, replicas } = await start({ replicas: 2 })
    engine.cluster.replicas[0]!.forceOpen('maintenance')
    for (let i = 0; i < 10; i++) await run('select a from t')
    expect(sent(replicas[0]!)).toEqual([])
    expect(sent(replicas[1]!)).toHaveLength(10)
  })
})

describe('a circuit whose time is over', () => {
  test('lets a few trials through and closes when the server has answered them', async () => {
    const engine = await start()
    await failThrice(engine)
    await engine.clock.advance(1_001)
    await engine.run('select a from t')
    await engine.run('select b from t')
    expect(engine.events.breaker.map(({ to }) => to)).toEqual(['open', 'half-open', 'closed'])
  })

  test('lets no more through than may be tried at once, and turns the rest away', async () => {
    const engine = await start()
    await failThrice(engine)
    engine.primary.on('trial', { delayMs: 100 })
    await engine.clock.advance(1_001)
    const calls = Array.from({ length: 10 }, () => watched(engine.run('select trial')))
    await engine.clock.advance(100)
    expect(calls.filter(({ state }) => state === 'resolved')).toHaveLength(2)
    expect(calls.filter(({ error }) => error instanceof CircuitOpenError)).toHaveLength(8)
  })

  test('opens again for twice as long when a trial fails', async () => {
    const engine = await start()
    await failThrice(engine)
    await engine.clock.advance(1_001)
    await rejection(engine.run('insert into big values (1)'))
    const error = await rejection(engine.run('select a from t'))
    expect((error as CircuitOpenError).retryAfterMs).toBe(2_000)
  })

  test('takes a unique violation for an answer: three of them are no outage', async () => {
    const engine = await start()
    await failThrice(engine)
    engine.primary.on('twice', { error: unique() })
    await engine.clock.advance(1_001)
    for (let i = 0; i < 5; i++) await rejection(engine.run('insert into twice values (1)'))
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'closed' })
  })

  test('gets its trial back from a caller who gave up while he waited', async () => {
    const engine = await start({ pool: { max: 1 } })
    await failThrice(engine)
    const holder = engine.pool.take()!
    await engine.clock.advance(1_001)
    const leave = new AbortController()
    for (let i = 0; i < 2; i++) watched(engine.run('select a from t', { signal: leave.signal }))
    await engine.clock.advance(0)
    leave.abort()
    await engine.clock.advance(0)
    engine.pool.release(holder)
    await engine.run('select b from t')
    await engine.run('select c from t')
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'closed' })
  })

  test('gets its trial back from a caller whose own hook failed before anything was sent', async () => {
    let broken = false
    const engine = await start({
      onReserveConnection: () => {
        if (broken) throw new Error('no tenant')
      },
    })
    await failThrice(engine)
    await engine.clock.advance(1_001)
    broken = true
    for (let i = 0; i < 5; i++)
      expect(await rejection(engine.run('select a from t'))).toMatchObject({ message: 'no tenant' })
    broken = false
    await engine.run('select a from t')
    await engine.run('select a from t')
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'closed' })
  })

  test('gets its trial back from a caller who gave up while his hook ran', async () => {
    let hanging: (() => void)[] | null = null
    const engine = await start({
      onReserveConnection: () =>
        new Promise<void>((resolve) => (hanging === null ? resolve() : void hanging.push(resolve))),
    })
    await failThrice(engine)
    await engine.clock.advance(1_001)
    hanging = []
    const leave = new AbortController()
    for (let i = 0; i < 2; i++) watched(engine.run('select a from t', { signal: leave.signal }))
    await engine.clock.advance(0)
    leave.abort()
    const resumed: (() => void)[] = hanging
    hanging = null
    for (const resume of resumed) resume()
    await engine.clock.advance(0)
    await engine.run('select b from t')
    await engine.run('select c from t')
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'closed' })
  })
})

describe('by hand', () => {
  test('forceOpen keeps every query away until forceClose, whatever time passes', async () => {
    const { engine, run, clock } = await start()
    const node = engine.cluster.primary
    node.forceOpen('maintenance of the disk')
    await clock.advance(seconds(3_600))
    const error = await rejection(run('select a from t'))
    expect(error).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN', retryAfterMs: null })
    expect(error.message).toContain('maintenance of the disk')
    expect(node.circuitStatus()).toMatchObject({ state: 'open', forced: true, retry_after_ms: null })
    node.forceClose('done')
    await run('select a from t')
    expect(node.circuitStatus()).toMatchObject({ state: 'closed', forced: false })
  })

  test('forceOpen opens no connection either', async () => {
    const { engine, pool, primary, clock } = await start()
    engine.cluster.primary.forceOpen('maintenance')
    watched(pool.acquire())
    await clock.advance(seconds(20))
    expect(primary.connects).toBe(0)
  })

  test('forceClose lets callers through at once, counting from zero', async () => {
    const engine = await start()
    await failThrice(engine)
    engine.engine.cluster.primary.forceClose('the disk was emptied')
    await engine.run('select a from t')
    await rejection(engine.run('insert into big values (1)'))
    await rejection(engine.run('insert into big values (1)'))
    expect(engine.engine.cluster.primary.circuitStatus()).toMatchObject({ state: 'closed', consecutive_failures: 2 })
  })

  test('through the dialect, before the first query and without any connection', async () => {
    // Nothing listens there, and nobody tries: a connect would be refused with ECONNREFUSED instead.
    const dialect = new SmartPgDialect({ primary: 'postgres://app@127.0.0.1:1/app', metrics: false })
    const db = new Kysely<Record<string, never>>({ dialect })
    dialect.breaker('primary').forceOpen('maintenance')
    const error = await rejection(sql`select 1`.execute(db))
    expect(error).toBeInstanceOf(CircuitOpenError)
    expect(error.message).toContain('maintenance')
    expect(dialect.breaker('primary').status()).toMatchObject({ state: 'open', forced: true })
    expect(() => dialect.breaker('primray')).toThrow(expect.objectContaining({ code: 'SMARTPG_CONFIG' }))
    await db.destroy()
  })

  test('the status tells the last transitions with their reasons', async () => {
    const engine = await start()
    await failThrice(engine)
    engine.engine.cluster.primary.forceClose('by hand')
    const { transitions } = engine.engine.cluster.primary.circuitStatus()
    expect(transitions.map(({ to }) => to).slice(-2)).toEqual(['open', 'closed'])
    expect(transitions.at(-1)!.because).toContain('by hand')
  })
})

describe('without a breaker', () => {
  test('nothing is ever turned away', async () => {
    const { run, primary, events } = await start({ breaker: false })
    primary.on('big', { error: diskFull() })
    for (let i = 0; i < 100; i++)
      expect(await rejection(run('insert into big values (1)'))).toMatchObject({ code: '53100' })
    expect(events.breaker).toEqual([])
  })
})

describe('connecting and querying', () => {
  test('have a circuit each: a server that lets nobody in still serves those who are in', async () => {
    const { run, pool, primary, clock, events } = await start({ pool: { initial: 1, max: 3 } })
    primary.goDown(networkError('ECONNREFUSED'))
    const holder = pool.take()!
    for (let i = 0; i < 3; i++) watched(run('select waiting'))
    await clock.advance(700)
    expect(events.breaker).toMatchObject([{ to: 'open' }])
    pool.release(holder)
    await clock.advance(0)
    await run('select a from t')
    expect(sent(primary)).toHaveLength(4)
  })
})
