// The circuit of one server as queries meet it. How a circuit counts is core's business; here it is seen that the
// right things reach it, and that nobody is parked before an open one.

import { Kysely, sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { CircuitOpenError, NotExecutedError } from '../../src/core/errors.ts'
import type { Rows } from '../../src/core/types.ts'
import { SmartPgDialect } from '../../src/dialect.ts'
import { rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions, Watched } from '../support/engine.ts'
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
      await transaction.run('rollback')
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
    await transaction.run('commit')
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

  test.each([
    ['that was ended by ourselves', { drops: Object.assign(new Error('aborted'), { code: 'ABORT_ERR' }) }],
    ['that was never run', { error: new NotExecutedError('primary', 'not sent', 'execute', undefined) }],
  ])('takes no statement %s for an answer, and gets its trial back', async (_, answer) => {
    const engine = await start()
    await failThrice(engine)
    engine.primary.on('void', answer)
    await engine.clock.advance(1_001)
    for (let i = 0; i < 5; i++) await rejection(engine.run('insert into void values (1)'))
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'half-open' })
    await engine.run('select a from t')
    await engine.run('select a from t')
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
    const { engine, run, pool, primary, clock, events } = await start({ pool: { initial: 1, max: 3 } })
    primary.goDown(networkError('ECONNREFUSED'))
    const holder = pool.take()!
    for (let i = 0; i < 3; i++) watched(run('select waiting'))
    await clock.advance(seconds(3))
    expect(events.breaker).toMatchObject([{ circuit: 'connect', to: 'open' }])
    expect(engine.cluster.primary.circuitStatus()).toMatchObject({ circuit: 'connect', state: 'open' })
    pool.release(holder)
    await clock.advance(0)
    await run('select a from t')
    expect(sent(primary)).toHaveLength(4)
  })

  test('cost each other no trial calls: who cannot have a connection has not tried a query', async () => {
    const engine = await start({ pool: { initial: 1, max: 3, acquireTimeout: 100 } })
    const { primary, clock, run } = engine
    const holder = engine.lease()
    await holder.run('select a from t')
    await holder.run('select a from t')
    primary.goDown(networkError('ECONNREFUSED'))
    const openFor = (): number => engine.engine.cluster.primary.circuitStatus().retry_after_ms ?? 0
    // Only connecting is open by now, for four seconds.
    for (let tries = 0; openFor() < 3_900 && tries < 1_000; tries++) {
      watched(run('select waiting', {}))
      watched(engine.pool.acquire())
      await clock.advance(10)
    }
    primary.on('big', { error: diskFull() })
    for (let i = 0; i < 3; i++) await rejection(holder.run('insert into big values (1)'))
    expect(engine.events.breaker.at(-1)).toMatchObject({ circuit: 'query', to: 'open' })
    primary.killAll()
    holder.release()
    await clock.advance(1_001)
    for (let i = 0; i < 20; i++) expect(await rejection(run('select a from t'))).toBeInstanceOf(CircuitOpenError)
    expect(engine.events.breaker.at(-1)).toMatchObject({ circuit: 'query', to: 'half-open' })
    primary.comeUp()
    // Trial calls that were lost would be given up after eight seconds.
    for (let tries = 0; engine.pool.counts().idle === 0 && tries < 300; tries++) {
      watched(run('select a from t'))
      await clock.advance(10)
    }
    await clock.advance(100)
    for (let i = 0; i < 3; i++) {
      await run('select a from t')
      await clock.advance(100)
    }
    expect(engine.events.breaker.at(-1)).toMatchObject({ circuit: 'query', to: 'closed' })
  })

  test('say which of them has changed', async () => {
    const engine = await start()
    await failThrice(engine)
    expect(engine.events.breaker).toMatchObject([{ circuit: 'query', to: 'open' }])
    expect(engine.engine.cluster.primary.circuitStatus()).toMatchObject({ circuit: 'query', state: 'open' })
  })
})

/** One read every `everyMs` for `ms`. */
async function reads({ run, clock }: TestEngine, ms: number, everyMs = 10): Promise<Watched<Rows>[]> {
  const calls: Watched<Rows>[] = []
  for (let passed = 0; passed < ms; passed += everyMs) {
    calls.push(watched(run('select a from t')))
    await clock.advance(everyMs)
  }
  return calls
}

const codesOf = (calls: readonly Watched<unknown>[]): unknown[] => [
  ...new Set(calls.map(({ state, error }) => (state === 'rejected' ? (error as { code?: string }).code : state))),
]

describe('a server that refuses connections, with default options', () => {
  const before = async (options: TestEngineOptions = {}): Promise<TestEngine> => {
    const engine = await startedEngine({ pool: { min: 1, initial: 1, minIdle: 1, max: 50 }, ...options })
    await engine.run('select a from t')
    return engine
  }
  const refuse = ({ primary }: TestEngine): void => primary.goDown(networkError('ECONNREFUSED'), 'sessions')

  test('for three seconds turns nobody away: all wait and are answered', async () => {
    const engine = await before()
    refuse(engine)
    const calls = await reads(engine, seconds(3))
    expect(codesOf(calls)).toEqual(['pending'])
    engine.primary.comeUp()
    await engine.clock.advance(500)
    expect(codesOf(calls)).toEqual(['resolved'])
    expect(engine.events.breaker).toEqual([])
  })

  test('for ten seconds lets callers fail at once, and is back soon after it is mended', async () => {
    const engine = await before({ pool: { min: 1, initial: 1, max: 50, acquireTimeout: '30s' } })
    refuse(engine)
    const early = await reads(engine, seconds(3.9))
    expect(codesOf(early)).toEqual(['pending'])
    await reads(engine, seconds(1))
    expect(engine.events.breaker[0]).toMatchObject({
      circuit: 'connect',
      from: 'closed',
      to: 'open',
      because: '5 failures in a row, the last ECONNREFUSED',
    })
    // Nobody is parked while it is open.
    await engine.clock.advance(engine.engine.cluster.primary.circuitStatus().retry_after_ms ?? 0)
    await reads(engine, 100)
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'open' })
    const refusedNow = await reads(engine, seconds(1))
    expect(codesOf(refusedNow)).toEqual(['SMARTPG_CIRCUIT_OPEN'])
    await reads(engine, seconds(3))
    engine.primary.comeUp()
    const later = await reads(engine, seconds(1.5))
    expect(later.at(-1)!.state).toBe('resolved')
    expect(codesOf(early)).toEqual(['resolved'])
    expect(engine.events.breaker.slice(-2)).toMatchObject([
      { circuit: 'connect', from: 'open', to: 'half-open', because: 'a probe was answered' },
      { circuit: 'connect', from: 'half-open', to: 'closed' },
    ])
    expect(codesOf(await reads(engine, seconds(10)))).toEqual(['resolved'])
  })

  test('turns nobody away either when it restarts once more ten minutes after an outage', async () => {
    const engine = await before()
    refuse(engine)
    await reads(engine, seconds(10))
    engine.primary.comeUp()
    await reads(engine, seconds(600), 1000)
    expect(engine.engine.cluster.primary.circuitStatus().state).toBe('closed')
    refuse(engine)
    const calls = await reads(engine, seconds(3))
    engine.primary.comeUp()
    await engine.clock.advance(500)
    expect(codesOf(calls)).toEqual(['resolved'])
  })

  test('gives fifty transactions that waited their connections as soon as it is back, and tells no other errors', async () => {
    const engine = await before()
    engine.primary.connectDelayMs = 5
    engine.primary.on('slow', { delayMs: 2000 })
    refuse(engine)
    const transaction = async (): Promise<void> => {
      const lease = engine.lease()
      await lease.begin()
      await lease.run('select slow')
      lease.release()
    }
    const all = Array.from({ length: 50 }, () => watched(transaction()))
    await engine.clock.advance(seconds(9))
    engine.primary.comeUp()
    await engine.clock.advance(seconds(1))
    const told = engine.events.error.length
    await engine.clock.advance(seconds(1))
    // All at the same time.
    expect(engine.pool.counts()).toMatchObject({ active: 50, waiting: 0 })
    await engine.clock.advance(seconds(3))
    expect(codesOf(all)).toEqual(['resolved'])
    expect(engine.events.error).toHaveLength(told)
  })

  test('costs one connect for ten thousand callers, who are turned away in one turn', async () => {
    const engine = await before()
    refuse(engine)
    // Until nobody waits any more.
    await reads(engine, seconds(6))
    await engine.clock.advance(seconds(11))
    const { primary, clock, events, pool } = engine
    const node = engine.engine.cluster.primary
    const openFor = (): number => node.circuitStatus().retry_after_ms ?? 0
    for (let tries = 0; openFor() < 3000 && tries < 1000; tries++) await reads(engine, 10)
    // A probe is due, the trials are not.
    await clock.advance(openFor() - 1000)
    const status = node.circuitStatus()
    expect(status.state).toBe('open')
    const [connects, timers, told] = [primary.connects, clock.pendingTimers, events.query.length]
    const { waiting } = pool.counts()
    const calls = Array.from({ length: 10_000 }, () => watched(engine.run('select a from t')))
    expect(pool.counts()).toMatchObject({ connecting: 1, waiting })
    await clock.advance(0)
    expect(codesOf(calls)).toEqual(['SMARTPG_CIRCUIT_OPEN'])
    expect(primary.connects - connects).toBe(1)
    // The rest after the connect that failed.
    expect(clock.pendingTimers - timers).toBeLessThanOrEqual(1)
    expect(events.query.length - told).toBe(10_000)
    expect(node.circuitStatus()).toEqual({ ...status, rejections: status.rejections + 10_000 })
  })

  test('is asked by nobody when nobody comes', async () => {
    const engine = await before()
    refuse(engine)
    await reads(engine, seconds(6))
    await engine.clock.advance(seconds(30))
    const { connects } = engine.primary
    await engine.clock.advance(seconds(3600))
    expect(engine.primary.connects).toBe(connects)
    expect(engine.engine.cluster.primary.circuitStatus().state).toBe('open')
  })

  test('is found by those who wait as well, without anybody new', async () => {
    const engine = await before({ pool: { min: 1, initial: 1, max: 5, acquireTimeout: '60s' } })
    refuse(engine)
    const waiting = await reads(engine, 100)
    await engine.clock.advance(seconds(20))
    expect(codesOf(waiting)).toEqual(['pending'])
    engine.primary.comeUp()
    await engine.clock.advance(seconds(5))
    expect(codesOf(waiting)).toEqual(['resolved'])
  })

  test('that has never been reached is told after as many connects as the threshold says', async () => {
    const engine = await startedEngine({})
    engine.primary.goDown(networkError('ENOTFOUND'))
    const call = watched(engine.run('select a from t'))
    for (let passed = 0; passed < 2000 && call.state === 'pending'; passed += 10) await engine.clock.advance(10)
    expect(call.error).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN', cause: { code: 'ENOTFOUND' } })
    expect(engine.primary.connects).toBe(5)
  })

  test('leaves reads to the replicas, for as long as they are known to be fresh enough', async () => {
    const engine = await before({ replicas: 2, routing: { readWriteSplit: true, maxLag: { ms: '60s' } } })
    refuse(engine)
    const calls = await reads(engine, seconds(8))
    expect(codesOf(calls)).toEqual(['resolved'])
    const write = watched(engine.run('insert into t values (1)'))
    for (let i = 0; i < 10; i++) {
      watched(engine.run('insert into t values (1)'))
      await engine.clock.advance(seconds(1))
    }
    expect(engine.engine.cluster.primary.circuitStatus()).toMatchObject({ circuit: 'connect', state: 'open' })
    expect(write.state).not.toBe('resolved')
    expect(codesOf(await reads(engine, seconds(5)))).toEqual(['resolved'])
    expect(sent(engine.primary)).toEqual([])
  })
})

describe('the rates', () => {
  const rates = { failureThreshold: 1000, minimumCalls: 10 } as const

  test('a server that fails every other statement opens it', async () => {
    const { run, primary, events } = await start({ breaker: rates })
    primary.on('big', { error: diskFull() })
    for (let i = 0; i < 20 && events.breaker.length === 0; i++) {
      await run('select a from t')
      await rejection(run('insert into big values (1)'))
    }
    expect(events.breaker).toMatchObject([
      { circuit: 'query', because: '5 of 10 calls within 10 s failed, the last 53100' },
    ])
  })

  test('statements that run into queryTimeout are slow calls, and nine in a row are no failures', async () => {
    const { engine, run, primary, clock, events } = await start({ breaker: rates, queryTimeout: 100 })
    primary.on('hangs', 'never')
    const timesOut = async (): Promise<void> => {
      const call = watched(run('select hangs'))
      await clock.advance(seconds(5))
      expect(call.error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    }
    for (let i = 0; i < 2; i++) await timesOut()
    expect(engine.cluster.primary.circuitStatus()).toMatchObject({
      state: 'closed',
      consecutive_failures: 0,
      error_rate: 0,
      slow_rate: 1,
    })
    const calls = Array.from({ length: 10 }, () => watched(run('select hangs')))
    await clock.advance(seconds(5))
    expect(codesOf(calls)).toEqual(['SMARTPG_QUERY_TIMEOUT'])
    expect(events.breaker[0]).toMatchObject({ circuit: 'query', to: 'open' })
    expect(events.breaker[0]!.because).toMatch(/^1\d of 1\d calls within 10 s were slow/)
  })

  test('answers that take as long as `slowCall` open it', async () => {
    const { run, primary, clock, events } = await start({ breaker: { ...rates, slowCall: 50, slowCallRate: 0.5 } })
    primary.on('slow', { delayMs: 50 })
    primary.on('quick', { delayMs: 49 })
    const call = async (sql: string): Promise<void> => {
      const answer = watched(run(sql))
      await clock.advance(60)
      expect(answer.state).toBe('resolved')
    }
    for (let i = 0; i < 6; i++) await call('select quick')
    for (let i = 0; i < 5; i++) await call('select slow')
    expect(events.breaker).toEqual([])
    await call('select slow')
    expect(events.breaker).toMatchObject([{ circuit: 'query', because: '6 of 12 calls within 10 s were slow' }])
  })

  test('counts answers as slow without a queryTimeout as well', async () => {
    const { engine, run, primary, clock } = await start({ breaker: { ...rates, slowCall: 50 }, queryTimeout: 0 })
    primary.on('slow', { delayMs: 50 })
    watched(run('select slow'))
    await clock.advance(60)
    expect(engine.cluster.primary.circuitStatus()).toMatchObject({ slow_rate: 1 })
  })

  test.each([
    ['succeed', {}],
    ['fail', { error: serverError('42P07', 'relation already exists') }],
  ])('statements that may take as long as they like are never slow, whether they %s', async (_, answer) => {
    const { engine, run, primary, clock } = await start({ breaker: { ...rates, slowCall: 50 } })
    primary.on('create', { ...answer, delayMs: 2000 })
    for (let i = 0; i < 20; i++) {
      watched(run('create index i on t (a)'))
      await clock.advance(2000)
    }
    expect(engine.cluster.primary.circuitStatus()).toMatchObject({ state: 'closed', slow_rate: 0 })
  })

  test('all connections lost at once are one failure, whatever stood on them', async () => {
    const { engine, run, primary, clock } = await start({ breaker: { failureThreshold: 2 } })
    primary.on('slow', { delayMs: 500 })
    for (let i = 0; i < 100; i++) watched(run('insert into t values (slow)'))
    await clock.advance(10)
    expect(primary.openSessions.length).toBeGreaterThan(1)
    primary.killAll()
    await clock.advance(0)
    expect(engine.cluster.primary.circuitStatus()).toMatchObject({ state: 'closed', consecutive_failures: 1 })
  })
})

describe('after the trials', () => {
  const closedAgain = async (options: TestEngineOptions = {}): Promise<TestEngine> => {
    const engine = await start(options)
    await failThrice(engine)
    await engine.clock.advance(1_001)
    await engine.run('select a from t')
    await engine.run('select a from t')
    expect(engine.events.breaker.at(-1)).toMatchObject({ to: 'closed' })
    return engine
  }

  test('a tenth of many callers gets through at first, then more, and all after five seconds', async () => {
    const engine = await closedAgain()
    const shares: number[] = []
    for (let second = 0; second < 6; second++) {
      let answered = 0
      for (let i = 0; i < 100; i++) {
        const calls = Array.from({ length: 20 }, () => watched(engine.run('select a from t')))
        await engine.clock.advance(10)
        answered += calls.filter(({ state }) => state === 'resolved').length
      }
      shares.push(answered / 2000)
    }
    expect(shares[0]).toBeLessThan(0.25)
    expect(shares.toSorted((a, b) => a - b)).toEqual(shares)
    expect(shares[5]).toBe(1)
  })

  test('whoever is turned away meanwhile is told that it recovers', async () => {
    const engine = await closedAgain()
    const calls = Array.from({ length: 100 }, () => watched(engine.run('select a from t')))
    await engine.clock.advance(0)
    const error = calls.find(({ state }) => state === 'rejected')!.error as CircuitOpenError
    expect(error).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN', retryable: true })
    expect(error.message).toContain('a share of the calls')
    expect(error.retryAfterMs).toBeGreaterThan(0)
    expect(engine.engine.cluster.primary.circuitStatus()).toMatchObject({ circuit: 'query', state: 'closed' })
    expect(engine.engine.cluster.primary.circuitStatus().admitting).toBeLessThan(1)
  })

  test('little traffic notices nothing', async () => {
    const engine = await closedAgain()
    expect(codesOf(await reads(engine, seconds(6), 60))).toEqual(['resolved'])
  })

  test('nobody is turned away where it was closed by hand', async () => {
    const engine = await start()
    await failThrice(engine)
    engine.engine.cluster.primary.forceClose('mended')
    const calls = Array.from({ length: 1000 }, () => watched(engine.run('select a from t')))
    await engine.clock.advance(0)
    expect(codesOf(calls)).toEqual(['resolved'])
  })
})

describe('for metrics only', () => {
  const metricsOnly = { metricsOnly: true, failureThreshold: 3 } as const

  test('it opens and closes as ever, and nobody is turned away', async () => {
    const engine = await start({ breaker: metricsOnly })
    await failThrice(engine)
    expect(engine.events.breaker).toMatchObject([{ circuit: 'query', to: 'open' }])
    expect(codesOf(await reads(engine, seconds(10), 100))).toEqual(['resolved'])
    expect(engine.events.breaker.map(({ to }) => to)).toEqual(['open', 'half-open', 'closed'])
    expect(engine.engine.cluster.primary.cells.breakerRejections).toBe(0)
  })

  test('callers wait for a server that takes no connections as if there were no breaker', async () => {
    const engine = await start({ breaker: metricsOnly, pool: { initial: 1, max: 10, acquireTimeout: '60s' } })
    engine.primary.goDown(networkError('ECONNREFUSED'), 'sessions')
    const calls = await reads(engine, seconds(20), 500)
    expect(codesOf(calls)).toEqual(['pending'])
    expect(engine.engine.cluster.primary.circuitStatus()).toMatchObject({ circuit: 'connect', state: 'open' })
    engine.primary.comeUp()
    await engine.clock.advance(seconds(2))
    expect(codesOf(calls)).toEqual(['resolved'])
    await reads(engine, seconds(60), 1000)
    expect(engine.engine.cluster.primary.circuitStatus().state).toBe('closed')
  })

  test('by hand it refuses all the same', async () => {
    const engine = await start({ breaker: metricsOnly })
    const end = engine.engine.cluster.primary.isolate('drill')
    expect(await rejection(engine.run('select a from t'))).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN' })
    end()
    await engine.run('select a from t')
  })
})

describe('isolate', () => {
  test('keeps everybody away until the last isolation has ended', async () => {
    const engine = await start({ pool: { initial: 1, max: 10 } })
    const node = engine.engine.cluster.primary
    const [first, second] = [node.isolate('disk check'), node.isolate('memory check')]
    const error = await rejection(engine.run('select a from t'))
    expect(error).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN', retryAfterMs: null })
    expect(error.message).toContain('isolated: disk check')
    first()
    expect(await rejection(engine.run('select a from t'))).toBeInstanceOf(CircuitOpenError)
    second()
    await engine.run('select a from t')
    second()
    expect(node.circuitStatus()).toMatchObject({ state: 'closed', forced: false })
  })

  test('opens no connection either, and no probe', async () => {
    const { engine, pool, primary, run, clock } = await start()
    engine.cluster.primary.isolate('drill')
    watched(pool.acquire())
    for (let i = 0; i < 20; i++) {
      watched(run('select a from t'))
      await clock.advance(seconds(1))
    }
    expect(primary.connects).toBe(0)
  })

  test('through the dialect as a disposable, for the length of a block', async () => {
    const dialect = new SmartPgDialect({ primary: 'postgres://app:canary@127.0.0.1:1/app', metrics: false })
    const db = new Kysely<Record<string, never>>({ dialect })
    const breaker = dialect.breaker('primary')
    {
      using outer = breaker.isolate('drill')
      {
        using inner = breaker.isolate('drill within the drill')
        expect([outer, inner]).toHaveLength(2)
      }
      expect(breaker.status()).toMatchObject({ state: 'open', forced: true })
    }
    expect(breaker.status()).toMatchObject({ state: 'closed', forced: false })
    {
      using outer = breaker.isolate('drill')
      expect(outer).toBeDefined()
      expect(await rejection(sql`select 1`.execute(db))).toBeInstanceOf(CircuitOpenError)
      breaker.forceClose('over')
      expect(breaker.status()).toMatchObject({ state: 'closed', forced: false })
    }
    expect(breaker.status()).toMatchObject({ state: 'closed', forced: false })
    await db.destroy()
  })

  test('the breaker can be logged as it is, and holds no secret', async () => {
    const dialect = new SmartPgDialect({ primary: 'postgres://app:canary@127.0.0.1:1/app', metrics: false })
    dialect.breaker('primary').forceOpen('drill')
    const logged = JSON.stringify(dialect.breaker('primary'))
    expect(logged).not.toContain('canary')
    expect(JSON.parse(logged)).toEqual(dialect.breaker('primary').status())
    expect(Object.keys(JSON.parse(logged) as object).toSorted()).toEqual([
      'admitting',
      'circuit',
      'consecutive_failures',
      'error_rate',
      'forced',
      'rejections',
      'retry_after_ms',
      'since',
      'slow_rate',
      'state',
      'transitions',
    ])
    await dialect.destroy()
  })

  test('a listener that takes it out of service the moment it is tried is obeyed', async () => {
    const engine = await start()
    const node = engine.engine.cluster.primary
    await failThrice(engine)
    engine.engine.listeners.on('breaker', ({ to }) => to === 'half-open' && node.forceOpen('not before I have looked'))
    await engine.clock.advance(1_001)
    expect(await rejection(engine.run('select a from t'))).toBeInstanceOf(CircuitOpenError)
    expect(node.circuitStatus()).toMatchObject({ state: 'open', forced: true })
  })
})

describe('retry.budget', () => {
  /** Reads whose connections break, five in each of twenty seconds; how many of them were tried again. */
  async function retried(budget: number): Promise<number> {
    const { run, primary, clock, events } = await start({ breaker: false, retry: { attempts: 2, base: 0, budget } })
    primary.on('broken', { drops: networkError('ECONNRESET') })
    for (let i = 0; i < 300; i++) watched(run('select broken'))
    await clock.advance(seconds(5))
    return events.retry.length
  }

  test('bounds the retries by a share of the requests, above ten a second', async () => {
    expect(await retried(0)).toBe(100)
    expect(await retried(1)).toBe(300)
  })
})
