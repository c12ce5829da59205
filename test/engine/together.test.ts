// Statements of one lease that leave together, as a batch sends them: in one write with the BEGIN before them, all of
// them or none, and never in a way that lets one of them, or what comes behind, run outside of their transaction.

import { CompiledQuery } from 'kysely'
import type { QueryResult } from 'kysely'
import { describe, expect, test, vi } from 'vitest'
import { NotExecutedError, SmartPgError } from '../../src/core/errors.ts'
import { Lease } from '../../src/kysely/lease.ts'
import { logged, rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine } from '../support/engine.ts'
import { serverError } from '../support/scripted-server.ts'
import type { ScriptedServer, ScriptedSession } from '../support/scripted-server.ts'

const raw = (...texts: string[]): CompiledQuery[] => texts.map((text) => CompiledQuery.raw(text))
const insert = (n: number): string => `insert into t values (${n})`
const lost = (): Error => new SmartPgError('SMARTPG_CONNECTION_LOST', 'The connection was lost.', { phase: 'execute' })

type Settled = PromiseSettledResult<QueryResult<unknown>>

const states = (settled: readonly Settled[]): string[] => settled.map(({ status }) => status)
const reasons = (settled: readonly Settled[]): unknown[] =>
  settled.map((one) => (one.status === 'rejected' ? one.reason : null))

/** A lease in a transaction that has begun as far as its caller can see. */
async function begun({ engine }: TestEngine): Promise<Lease> {
  const lease = new Lease(engine)
  await lease.begin({})
  return lease
}

/** What users sent, with what each met: `open insert …`. */
const met = (server: ScriptedServer): string[] => logged(server).map(({ status, sql }) => `${status} ${sql}`)

/** Every group that a session sends from now on. */
function groupsOf(session: ScriptedSession): string[][] {
  const groups: string[][] = []
  const send = session.sendTogether.bind(session)
  vi.spyOn(session, 'sendTogether').mockImplementation((statements) => {
    groups.push(statements.map(({ sql }) => sql))
    return send(statements)
  })
  return groups
}

/** The next group is refused before a byte of it is written, because of its last statement. */
function refusesNextGroup(session: ScriptedSession): Error {
  const refused = new SmartPgError('SMARTPG_INVALID_QUERY', 'Parameter $1 cannot be serialized.', { phase: 'send' })
  vi.spyOn(session, 'sendTogether').mockImplementationOnce((statements) =>
    statements.map((_, i) => {
      if (i === statements.length - 1) return Promise.reject(refused)
      return Promise.reject(new NotExecutedError('primary', 'Another cannot be sent.', 'send', refused))
    }),
  )
  return refused
}

describe('several statements together', () => {
  test('leave with BEGIN as one group, each with its own answer', async () => {
    const one = await startedEngine()
    one.primary.on('select a', { rows: [{ a: 1 }] })
    const lease = await begun(one)
    const groups = groupsOf(one.primary.openSessions[0]!)
    const settled = await lease.together(raw(insert(1), 'select a from t', 'commit'))
    expect(groups).toEqual([['begin', insert(1), 'select a from t', 'commit']])
    expect(states(settled)).toEqual(['fulfilled', 'fulfilled', 'fulfilled'])
    expect(settled[1]).toMatchObject({ value: { rows: [{ a: 1 }] } })
    lease.committed()
    lease.release()
    expect(one.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('in a transaction that has begun leave without another BEGIN', async () => {
    const one = await startedEngine()
    const lease = await begun(one)
    await lease.executeQuery(CompiledQuery.raw(insert(1)))
    const groups = groupsOf(one.primary.openSessions[0]!)
    await lease.together(raw(insert(2), insert(3)))
    expect(groups).toEqual([[insert(2), insert(3)]])
    await lease.commit()
    lease.release()
  })

  test('behind one that fails are not executed and say so, and the one that failed says why', async () => {
    const one = await startedEngine()
    const duplicate = serverError('23505', 'duplicate key')
    one.primary.on(insert(2), { error: duplicate })
    const lease = await begun(one)
    const settled = await lease.together(raw(insert(1), insert(2), insert(3), 'commit'))
    expect(states(settled)).toEqual(['fulfilled', 'rejected', 'rejected', 'rejected'])
    const [, failed, ...behind] = reasons(settled)
    expect(failed).toBe(duplicate)
    for (const reason of behind) expect(reason).toBeInstanceOf(NotExecutedError)
    await lease.rollback()
    lease.release()
    expect(met(one.primary)).toEqual(['idle begin', `open ${insert(1)}`, `open ${insert(2)}`, 'failed rollback'])
  })

  test('are each counted and told as a query', async () => {
    const one = await startedEngine()
    one.primary.on(insert(2), { error: serverError('23505', 'duplicate key') })
    const lease = await begun(one)
    await lease.together(raw(insert(1), insert(2), insert(3)))
    await lease.rollback()
    lease.release()
    expect(one.events.query.map(({ summary, ok }) => [summary, ok])).toEqual([
      ['INSERT t', true],
      ['INSERT t', false],
      ['INSERT t', false],
      ['ROLLBACK', true],
    ])
  })

  test('say nothing bad of the server when one fails for what it says', async () => {
    const one = await startedEngine({ breaker: { failureThreshold: 1 } })
    one.primary.on(insert(1), { error: serverError('23505', 'duplicate key') })
    const lease = await begun(one)
    await lease.together(raw(insert(1), insert(2), 'commit'))
    await lease.rollback()
    lease.release()
    expect(one.engine.cluster.primary.circuitStatus()).toMatchObject({ state: 'closed', consecutive_failures: 0 })
  })

  test('wait for a cancel request that is still on its way', async () => {
    const one = await startedEngine()
    const lease = await begun(one)
    const pooled = lease.hold.pooled!
    let arrived!: () => void
    pooled.cancelling = new Promise<void>((resolve) => (arrived = resolve)).finally(() => (pooled.cancelling = null))
    const together = watched(lease.together(raw(insert(1), insert(2))))
    await one.clock.advance(0)
    expect(sent(one.primary)).toEqual([])
    arrived()
    await one.clock.advance(0)
    expect(states(together.value)).toEqual(['fulfilled', 'fulfilled'])
    expect(met(one.primary)).toEqual(['idle begin', `open ${insert(1)}`, `open ${insert(2)}`])
    await lease.rollback()
    lease.release()
  })
})

describe('a BEGIN that fails before them', () => {
  test('lets none of them run, nor anything that comes behind them, and there is nothing to commit', async () => {
    const one = await startedEngine()
    one.primary.on('begin', { error: serverError('57014', 'canceling statement due to user request') })
    const lease = await begun(one)
    const settled = await lease.together(raw(insert(1), insert(2)))
    expect(states(settled)).toEqual(['rejected', 'rejected'])
    await rejection(lease.executeQuery(CompiledQuery.raw(insert(3))))
    const again = await lease.together(raw(insert(4), insert(5)))
    expect(states(again)).toEqual(['rejected', 'rejected'])
    await expect(lease.commit()).rejects.toMatchObject({ name: 'AbortedTransactionError' })
    lease.release()
    expect(sent(one.primary)).toEqual(['begin'])
  })
})

describe('what was refused before a byte was written', () => {
  test('leaves the transaction to be begun by the next', async () => {
    const one = await startedEngine()
    const lease = await begun(one)
    const refused = refusesNextGroup(one.primary.openSessions[0]!)
    const settled = await lease.together(raw(insert(1), insert(2)))
    expect(reasons(settled)[1]).toBe(refused)
    await lease.executeQuery(CompiledQuery.raw(insert(3)))
    await lease.commit()
    lease.release()
    expect(met(one.primary)).toEqual(['idle begin', `open ${insert(3)}`, 'open commit'])
  })

  test('leaves nothing to roll back', async () => {
    const one = await startedEngine()
    const lease = await begun(one)
    refusesNextGroup(one.primary.openSessions[0]!)
    await lease.together(raw(insert(1), insert(2)))
    await lease.rollback()
    lease.release()
    expect(sent(one.primary)).toEqual([])
    expect(one.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('of one that is refused for what it asks: nothing is sent, all settle, and the lease serves on', async () => {
    const one = await startedEngine()
    const lease = new Lease(one.engine)
    // Over a connection of others, so that what is remembered of sequences there is not this lease's own.
    await lease.executeQuery(CompiledQuery.raw('select a from t'))
    await lease.executeQuery(CompiledQuery.raw('begin'))
    const together = watched(lease.together(raw('select lastval()', insert(1))))
    await one.clock.advance(seconds(1))
    expect(together.state).toBe('resolved')
    expect(reasons(together.value)).toMatchObject([{ code: 'SMARTPG_INVALID_QUERY' }, { code: 'SMARTPG_NOT_EXECUTED' }])
    await lease.executeQuery(CompiledQuery.raw(insert(2)))
    await lease.executeQuery(CompiledQuery.raw('commit'))
    lease.release()
    expect(met(one.primary)).toEqual(['idle select a from t', 'idle begin', `open ${insert(2)}`, 'open commit'])
  })
})

describe('what comes while they are under way', () => {
  test('a COMMIT that did not wait for them is sent behind them and keeps them', async () => {
    const one = await startedEngine()
    one.primary.on('insert', { delayMs: 10 })
    const lease = await begun(one)
    const together = watched(lease.together(raw(insert(1), insert(2))))
    const committing = watched(lease.commit())
    await one.clock.advance(seconds(1))
    expect([together.state, committing.state, committing.error]).toEqual(['resolved', 'resolved', undefined])
    expect(states(together.value)).toEqual(['fulfilled', 'fulfilled'])
    lease.release()
    expect(met(one.primary)).toEqual(['idle begin', `open ${insert(1)}`, `open ${insert(2)}`, 'open commit'])
  })

  test('a statement is answered with its own answer, inside the same transaction', async () => {
    const one = await startedEngine()
    one.primary.on('insert', { delayMs: 10 }).on('select a', { rows: [{ a: 1 }] })
    const lease = await begun(one)
    const together = watched(lease.together(raw(insert(1), insert(2))))
    const read = watched(lease.executeQuery(CompiledQuery.raw('select a from t')))
    await one.clock.advance(seconds(1))
    expect(together.state).toBe('resolved')
    expect(read.value).toMatchObject({ rows: [{ a: 1 }] })
    await lease.commit()
    lease.release()
    expect(met(one.primary).at(-2)).toBe('open select a from t')
  })

  test('two such groups at once stand one behind the other in one transaction', async () => {
    const one = await startedEngine()
    one.primary.on('insert', { delayMs: 10 })
    const lease = await begun(one)
    const groups = groupsOf(one.primary.openSessions[0]!)
    const first = watched(lease.together(raw(insert(1), insert(2))))
    const second = watched(lease.together(raw(insert(3), insert(4))))
    await one.clock.advance(seconds(1))
    expect([first.state, second.state]).toEqual(['resolved', 'resolved'])
    expect([...states(first.value), ...states(second.value)]).toEqual(Array(4).fill('fulfilled'))
    expect(groups).toEqual([
      ['begin', insert(1), insert(2)],
      [insert(3), insert(4)],
    ])
    await lease.commit()
    lease.release()
  })

  test('a single statement at the same time leaves one BEGIN and nothing outside', async () => {
    const one = await startedEngine()
    one.primary.on('insert', { delayMs: 10 })
    const lease = await begun(one)
    const first = watched(lease.executeQuery(CompiledQuery.raw(insert(1))))
    const second = watched(lease.together(raw(insert(2), insert(3))))
    await one.clock.advance(seconds(1))
    expect([first.state, second.state]).toEqual(['resolved', 'resolved'])
    await lease.commit()
    lease.release()
    expect(met(one.primary)).toEqual(['idle begin', ...[1, 2, 3].map((n) => `open ${insert(n)}`), 'open commit'])
  })
})

describe('when the connection is lost', () => {
  test('before they were written: all say so, and nothing of the transaction is run elsewhere', async () => {
    const one = await startedEngine()
    const lease = await begun(one)
    const gone = new SmartPgError('SMARTPG_CONNECTION_LOST', 'The connection is gone; nothing was sent.', {
      phase: 'send',
    })
    one.primary.killAll(gone)
    const together = watched(lease.together(raw(insert(1), 'select a from t')))
    await one.clock.advance(seconds(10))
    expect(together.state).toBe('resolved')
    expect(reasons(together.value)).toMatchObject([{ phase: 'send' }, { phase: 'send' }])
    expect(sent(one.primary)).toEqual([])
    await lease.rollback()
    lease.release()
    expect(one.pool.counts()).toMatchObject({ active: 0 })
  })

  test('under them: none is sent again, the COMMIT among them is unknown, and what follows runs nowhere', async () => {
    const one = await startedEngine()
    one.primary.on(insert(2), { drops: lost() })
    const lease = await begun(one)
    const together = watched(lease.together(raw('select a from t', insert(2), 'commit')))
    await one.clock.advance(seconds(10))
    expect(reasons(together.value).slice(1)).toMatchObject([
      { code: 'SMARTPG_CONNECTION_LOST' },
      { code: 'SMARTPG_OUTCOME_UNKNOWN', phase: 'commit' },
    ])
    const next = watched(lease.executeQuery(CompiledQuery.raw(insert(3))))
    await one.clock.advance(seconds(10))
    expect(next.state).toBe('rejected')
    await lease.rollback()
    lease.release()
    expect(sent(one.primary)).toEqual(['begin', 'select a from t', insert(2)])
  })
})

describe('a transaction that could not begin anew', () => {
  test('leaves no BEGIN behind for what its connection is used for next', async () => {
    const one = await startedEngine({ breaker: false, pool: { acquireTimeout: '1s' } })
    const lease = await begun(one)
    let times = 0
    one.primary.on('select a', () => {
      if (times++ > 0) return { rows: [] }
      one.primary.goDown(serverError('57P03', 'the database system is starting up', 'FATAL'))
      return { drops: lost() }
    })
    const read = watched(lease.executeQuery(CompiledQuery.raw('select a from t')))
    await one.clock.advance(seconds(5))
    expect(read.state).toBe('rejected')
    await lease.rollback()
    one.primary.comeUp()
    // The caller of db.connection() goes on with what he still has.
    const write = watched(lease.executeQuery(CompiledQuery.raw(insert(1))))
    await one.clock.advance(seconds(5))
    expect(write.state).toBe('resolved')
    lease.release()
    await one.clock.advance(0)
    expect(met(one.primary).slice(2)).toEqual([`idle ${insert(1)}`])
  })

  test('because its caller gave up leaves none either', async () => {
    const one = await startedEngine({ breaker: false, retry: { base: '10s', max: '10s' } })
    const lease = await begun(one)
    let times = 0
    one.primary.on('select a', () => (times++ > 0 ? { rows: [] } : { drops: lost() }))
    const abort = new AbortController()
    const options = { signal: abort.signal }
    const read = watched(lease.executeQuery(CompiledQuery.raw('select a from t'), options))
    await one.clock.advance(10)
    abort.abort(new Error('mine'))
    await one.clock.advance(0)
    expect(read.state).toBe('rejected')
    await lease.rollback()
    await lease.executeQuery(CompiledQuery.raw(insert(1)))
    lease.release()
    await one.clock.advance(0)
    expect(met(one.primary).slice(2)).toEqual([`idle ${insert(1)}`])
  })
})

describe('a deadline', () => {
  test('that ends one of them is told as such by that one, whoever was answered before', async () => {
    const one = await startedEngine({ queryTimeout: 500 })
    one.primary.on(insert(2), 'never')
    const lease = await begun(one)
    const together = watched(lease.together(raw(insert(1), insert(2), insert(3))))
    await one.clock.advance(seconds(5))
    expect(together.state).toBe('resolved')
    expect(reasons(together.value)).toMatchObject([
      null,
      { code: 'SMARTPG_QUERY_TIMEOUT', cause: { code: '57014' } },
      { code: 'SMARTPG_NOT_EXECUTED' },
    ])
    await lease.rollback()
    lease.release()
  })
})
