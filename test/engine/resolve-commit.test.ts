// `transactions.resolveCommit` on a clock that stands still: when the id of a transaction is asked for, of whom what has
// become of it is asked, in which order and for how long, and what its caller is told.

import { describe, expect, test } from 'vitest'
import { ConfigError, NotExecutedError, OutcomeUnknownError, SmartPgError } from '../../src/core/errors.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import { BEGIN_FACTS } from '../../src/core/statements.ts'
import type { Rows, Statement } from '../../src/core/types.ts'
import { execute } from '../../src/engine/execute.ts'
import type { Hold } from '../../src/engine/hold.ts'
import { stream } from '../../src/engine/stream.ts'
import { Together } from '../../src/engine/together.ts'
import { logged, rejection, seconds, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions, Watched } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'
import type { Answer, ScriptedSession } from '../support/scripted-server.ts'

const lost = (): Error => new SmartPgError('SMARTPG_CONNECTION_LOST', 'The connection was lost.', { phase: 'execute' })

interface Transaction {
  readonly hold: Hold
  readonly session: ScriptedSession
  run(sql: string): Promise<Rows>
  commit(): Promise<Rows>
  release(): void
}

interface Setting extends TestEngine {
  /** What the server calls the next transaction; null: it has no id. */
  xid: string | null
  /** What becomes of it, one answer after the other; the last one stays. */
  readonly says: (string | null)[]
  /** Who was asked what has become of it, by the number of his backend. */
  readonly asked: number[]
  begin(sql?: string): Promise<Transaction>
}

/** With as many idle connections beside the transaction's own as were asked for, all of which stood before. */
async function withIdle(count: number, options: TestEngineOptions = {}): Promise<Setting> {
  const one = await startedEngine({
    ...options,
    transactions: { resolveCommit: true, ...options.transactions },
    pool: { max: count + 3, keepalive: 0, validateAfterIdle: '1h', ...options.pool },
  })
  const setting: Setting = {
    ...one,
    xid: '7',
    says: ['committed'],
    asked: [],
    begin: (sql) => begun(one, sql),
  }
  one.primary.on('pg_current_xact_id_if_assigned', (_, { pid }) => ({
    rows: [{ xid: setting.xid, server: 'a', pid: `${pid}` }],
  }))
  one.primary.on('pg_xact_status', (statement, { pid }) => {
    setting.asked.push(pid)
    expect(statement.parameters).toEqual([setting.xid])
    const status = setting.says.length > 1 ? setting.says.shift()! : setting.says[0]!
    return { rows: [{ status, server: 'a', pid: `${pid}` }] }
  })
  one.primary.on(/^commit$/, { drops: lost() })
  // Kept open at the same time, then given back.
  const holders = await Promise.all(Array.from({ length: count + 1 }, () => begun(one, 'begin', false)))
  for (const holder of holders) holder.release()
  await one.clock.advance(1)
  return setting
}

async function begun(one: TestEngine, sql = 'begin', lazy = true): Promise<Transaction> {
  const lease = one.lease()
  const { hold } = lease
  const begin: Statement = { sql, parameters: [], facts: BEGIN_FACTS }
  hold.begins('read-write')
  if (lazy) hold.lazy = begin
  await execute(one.engine, hold, begin)
  return {
    hold,
    session: hold.pooled!.session as ScriptedSession,
    run: (text) => lease.run(text),
    commit: () => lease.run('commit'),
    release: () => lease.release(),
  }
}

/** A transaction that wrote and whose COMMIT is lost. */
async function losing(one: Setting): Promise<Watched<Rows>> {
  const transaction = await one.begin()
  await transaction.run('insert into t values (1)')
  await one.clock.advance(1)
  const committing = watched(transaction.commit().finally(() => transaction.release()))
  await one.clock.advance(0)
  return committing
}

const questions = (one: TestEngine): number =>
  one.primary.statements().filter((sql) => sql.includes('if_assigned')).length

const QUESTION = 'whose'
/** What a session was sent, with the question for the id in one word; what was asked at its opening left out. */
function texts({ primary }: TestEngine, { pid }: ScriptedSession): string[] {
  return logged(primary)
    .map((entry) => (entry.sql.includes('if_assigned') ? { ...entry, sql: QUESTION } : entry))
    .filter((entry) => entry.pid === pid && (entry.sql !== QUESTION || entry.status !== 'idle'))
    .map(({ sql }) => sql)
}

describe('the id of a transaction is asked for', () => {
  test('behind the first write, in the same turn, and not again once it is known', async () => {
    const one = await withIdle(2)
    const transaction = await one.begin()
    await transaction.run('select a from t')
    const writing = transaction.run('insert into t values (1)')
    // Both have left: it costs no round trip.
    expect(transaction.session.unanswered).toBe(2)
    await writing
    expect(transaction.session.unanswered).toBe(0)
    await transaction.run('insert into t values (2)')
    await transaction.run('select a from t')
    expect(texts(one, transaction.session).slice(-5)).toEqual([
      'select a from t',
      'insert into t values (1)',
      QUESTION,
      'insert into t values (2)',
      'select a from t',
    ])
    transaction.release()
  })

  test('behind every write until there is one', async () => {
    const one = await withIdle(1)
    one.xid = null
    const transaction = await one.begin()
    await transaction.run('update t set a = 1')
    one.xid = '8'
    await transaction.run('update t set a = 2')
    await transaction.run('update t set a = 3')
    expect(texts(one, transaction.session).slice(-5)).toEqual([
      'update t set a = 1',
      QUESTION,
      'update t set a = 2',
      QUESTION,
      'update t set a = 3',
    ])
    transaction.release()
  })

  test.for(['insert into t values (1); insert into t values (2)', 'copy t from stdin'])(
    'ahead of COMMIT at the latest, where the server reads alone: %s',
    async (text) => {
      const one = await withIdle(1)
      const transaction = await one.begin()
      await transaction.run(text)
      expect(texts(one, transaction.session).at(-1)).toBe(text)
      await transaction.commit()
      expect(texts(one, transaction.session).slice(-3)).toEqual([text, QUESTION, 'commit'])
      transaction.release()
    },
  )

  test('anew, after a savepoint was rolled back to: it costs a question and cannot be wrong', async () => {
    const one = await withIdle(1)
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    await transaction.run('rollback to "a"')
    await transaction.commit()
    expect(texts(one, transaction.session).slice(-3)).toEqual(['rollback to "a"', QUESTION, 'commit'])
    transaction.release()
  })

  test('after COMMIT AND CHAIN: the next transaction has another', async () => {
    const one = await withIdle(1)
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    one.primary.on('commit and chain', () => ({ command: 'COMMIT' }))
    await transaction.run('commit and chain')
    transaction.session.status = 'open'
    one.xid = '8'
    await transaction.run('insert into t values (2)')
    expect(await transaction.commit()).toMatchObject({ command: 'COMMIT' })
    // Asked for by the second id: the setting checks.
    expect(one.asked).toHaveLength(1)
    transaction.release()
  })

  test.for([
    ['without the option', { transactions: { resolveCommit: false } }],
    ['behind reads', {}],
  ] as const)('never: %s', async ([what, options]) => {
    const one = await withIdle(1, options)
    const transaction = await one.begin()
    await transaction.run(what === 'behind reads' ? 'select a from t' : 'insert into t values (1)')
    await transaction.commit().catch(() => undefined)
    expect(texts(one, transaction.session)).not.toContain(QUESTION)
    transaction.release()
  })

  test('never outside of a transaction', async () => {
    const one = await withIdle(1)
    const before = questions(one)
    await one.run('insert into t values (1)')
    expect(questions(one)).toBe(before)
  })

  test('never of a server that cannot be asked, which would end the transaction: that is found out once, outside of any', async () => {
    const one = await startedEngine({ transactions: { resolveCommit: true }, pool: { max: 3 } })
    one.primary.on('pg_current_xact_id_if_assigned', { error: serverError('42883', 'function does not exist') })
    one.primary.on(/^commit$/, { drops: lost() })
    const [transaction, other] = [await begun(one), await begun(one)]
    await transaction.run('insert into t values (1)')
    expect(transaction.session.status).toBe('open')
    expect(await rejection(transaction.commit())).toBeInstanceOf(OutcomeUnknownError)
    expect(questions(one)).toBe(1)
    transaction.release()
    other.release()
  })

  test('and COMMIT waits for the answer, also behind a write that nobody waited for', async () => {
    const one = await withIdle(1)
    one.primary.on('insert', { delayMs: 50 })
    const transaction = await one.begin()
    await transaction.run('select a from t')
    const unawaited = watched(transaction.run('insert into t values (1)'))
    const committing = watched(transaction.commit())
    await one.clock.advance(49)
    expect(texts(one, transaction.session)).not.toContain('commit')
    await one.clock.advance(1)
    expect(texts(one, transaction.session).slice(-3)).toEqual(['insert into t values (1)', QUESTION, 'commit'])
    expect([unawaited.state, committing.state]).toEqual(['resolved', 'resolved'])
    transaction.release()
  })

  test('and the write is told when that is answered as well: nothing of it is under way then', async () => {
    const one = await withIdle(1)
    one.primary.on('pg_current_xact_id_if_assigned', { delayMs: 20 })
    const transaction = await one.begin()
    const writing = watched(transaction.run('insert into t values (1)'))
    await one.clock.advance(19)
    expect(writing.state).toBe('pending')
    await one.clock.advance(1)
    expect([writing.state, transaction.session.unanswered]).toEqual(['resolved', 0])
    transaction.release()
  })

  test('and what fails there fails for nobody: the write tells its own error, and rolls back without a cancel', async () => {
    const one = await withIdle(1)
    one.primary.on('insert', { error: serverError('23505', 'duplicate key') })
    const transaction = await one.begin()
    expect(await rejection(transaction.run('insert into t values (1)'))).toMatchObject({ code: '23505' })
    expect(transaction.session.unanswered).toBe(0)
    await transaction.run('rollback')
    transaction.release()
    expect(transaction.session.cancels).toBe(0)
    expect(one.events.query.map(({ summary }) => summary).filter((summary) => summary === 'SELECT')).toEqual([])
  })
})

describe('when the answer to COMMIT is lost', () => {
  test('it resolves as if it had come, where the server says committed, and is told as a success', async () => {
    const one = await withIdle(2)
    const committing = await losing(one)
    expect(committing.value).toEqual({ rows: [], command: 'COMMIT', count: null })
    expect(one.asked).toHaveLength(1)
    expect(one.events.query.at(-1)).toMatchObject({ summary: 'COMMIT', ok: true })
    expect(one.events.query.filter(({ ok }) => !ok)).toEqual([])
  })

  test('it is certainly not executed, where the server says aborted', async () => {
    const one = await withIdle(2)
    one.says[0] = 'aborted'
    const committing = await losing(one)
    expect(committing.error).toBeInstanceOf(NotExecutedError)
    expect(committing.error).toMatchObject({ phase: 'commit', retryable: true, cause: { message: lost().message } })
    expect(one.events.query.at(-1)).toMatchObject({ summary: 'COMMIT', ok: false, code: 'SMARTPG_CONNECTION_LOST' })
  })

  test('it asks again while the transaction is in progress', async () => {
    const one = await withIdle(1)
    one.says.splice(0, 1, 'in progress', 'in progress', 'in progress', 'committed')
    const committing = await losing(one)
    expect(committing.state).toBe('pending')
    await one.clock.advance(100)
    expect(committing.value).toMatchObject({ command: 'COMMIT' })
    expect(one.asked).toHaveLength(4)
  })

  test('it is unknown when it is still in progress after five seconds', async () => {
    const one = await withIdle(1)
    one.says[0] = 'in progress'
    const committing = await losing(one)
    await one.clock.advance(seconds(4))
    expect(committing.state).toBe('pending')
    await one.clock.advance(seconds(2))
    expect(committing.error).toBeInstanceOf(OutcomeUnknownError)
    // Ever more seldom.
    expect(one.asked.length).toBeLessThan(40)
  })

  test('and half a second after a queryTimeout that was used up', async () => {
    const one = await withIdle(1, { queryTimeout: '2s' })
    one.says[0] = 'in progress'
    one.primary.on(/^commit$/, { drops: lost(), delayMs: 1_900 })
    const committing = await losing(one)
    await one.clock.advance(1_900)
    await one.clock.advance(499)
    expect(committing.state).toBe('pending')
    await one.clock.advance(252)
    expect(committing.error).toBeInstanceOf(OutcomeUnknownError)
  })

  const unbelieved: [string, (pid: number) => Answer][] = [
    ['the server has forgotten', (pid) => ({ rows: [{ status: null, server: 'a', pid: `${pid}` }] })],
    ['another server answers', (pid) => ({ rows: [{ status: 'committed', server: 'b', pid: `${pid}` }] })],
    ['another backend answers', () => ({ rows: [{ status: 'committed', server: 'a', pid: '1' }] })],
    ['a type parser of the user has made something of it', (pid) => ({ rows: [{ status: {}, server: 'a', pid }] })],
    ['the server says that there is no such transaction', () => ({ error: serverError('22023', 'in the future') })],
  ]
  test.for(unbelieved)('it is unknown when %s', async ([, answer]) => {
    const one = await withIdle(2)
    one.primary.on('pg_xact_status', (_, { pid }) => answer(pid))
    const committing = await losing(one)
    await one.clock.advance(10)
    expect(committing.error).toBeInstanceOf(OutcomeUnknownError)
  })

  test('a connection that was opened afterwards is not asked', async () => {
    const one = await withIdle(0)
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    one.primary.on(/^commit$/, { drops: lost(), delayMs: 100 })
    await one.clock.advance(1)
    const committing = watched(transaction.commit())
    await one.clock.advance(1)
    await one.run('select a from t')
    expect(one.pool.counts()).toMatchObject({ idle: 1 })
    await one.clock.advance(100)
    expect(committing.error).toBeInstanceOf(OutcomeUnknownError)
    expect(one.asked).toEqual([])
    transaction.release()
  })

  test.for([
    ['that was opened in the same moment', 0],
    ['that was being opened when COMMIT was sent', 50],
  ] as const)('one %s is not asked either', async ([, connectDelayMs]) => {
    const one = await withIdle(0)
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    one.primary.on(/^commit$/, { drops: lost(), delayMs: 100 })
    one.primary.connectDelayMs = connectDelayMs
    await one.clock.advance(1)
    const reading = one.run('select a from t')
    if (connectDelayMs > 0) await one.clock.advance(1)
    const committing = watched(transaction.commit())
    await one.clock.advance(60)
    await reading
    expect(one.pool.counts()).toMatchObject({ idle: 1 })
    await one.clock.advance(60)
    expect(committing.error).toBeInstanceOf(OutcomeUnknownError)
    expect(one.asked).toEqual([])
    transaction.release()
  })

  test('one that does not answer is left, and another asked', async () => {
    const one = await withIdle(3)
    let silent = 0
    one.primary.on('pg_xact_status', (_, { pid }) => {
      one.asked.push(pid)
      if (one.asked.length === 1) silent = pid
      return pid === silent ? 'never' : { rows: [{ status: 'committed', server: 'a', pid: `${pid}` }] }
    })
    const committing = await losing(one)
    expect(committing.state).toBe('pending')
    await one.clock.advance(302)
    expect(committing.value).toMatchObject({ command: 'COMMIT' })
    expect(new Set(one.asked).size).toBe(2)
  })

  test('one whose answer was cancelled in the place of a neighbour is asked again', async () => {
    const one = await withIdle(1)
    let cancelled = 0
    one.primary.on('pg_xact_status', (_, { pid }) =>
      cancelled++ === 0
        ? { error: serverError('57014', 'canceling statement due to user request') }
        : { rows: [{ status: 'aborted', server: 'a', pid: `${pid}` }] },
    )
    const committing = await losing(one)
    await one.clock.advance(10)
    expect(committing.error).toBeInstanceOf(NotExecutedError)
  })

  test('those that others hold are not disturbed: whoever is given back in time is asked', async () => {
    const one = await withIdle(2)
    const other = await one.begin()
    const third = await one.begin()
    const { pid } = other.session
    const committing = await losing(one)
    await one.clock.advance(seconds(1))
    expect([committing.state, one.asked]).toEqual(['pending', []])
    other.release()
    await one.clock.advance(300)
    expect(committing.value).toMatchObject({ command: 'COMMIT' })
    expect(one.asked).toEqual([pid])
    third.release()
  })

  test('one that goes from hand to hand and is never idle is asked in between', async () => {
    const one = await withIdle(1, { pool: { max: 2 } })
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    const other = await one.begin()
    await other.run('insert into t values (2)')
    const next = watched(one.begin())
    await one.clock.advance(1)
    expect(one.pool.counts()).toMatchObject({ total: 2, idle: 0, waiting: 1 })
    // Nor can another one be had instead of the one that is lost.
    one.primary.goDown(networkError('ECONNREFUSED'))
    const committing = watched(transaction.commit())
    await one.clock.advance(100)
    expect([committing.state, one.asked]).toEqual(['pending', []])
    await other.run('rollback')
    other.release()
    await one.clock.advance(0)
    expect([committing.state, next.state]).toEqual(['resolved', 'resolved'])
    expect(one.asked).toEqual([other.session.pid])
    expect(next.value.session).toBe(other.session)
    transaction.release()
    next.value.release()
  })

  test('one that callers share is asked, behind what they have asked', async () => {
    const one = await withIdle(1)
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    one.primary.on('select slowly', { rows: [{ a: 1 }], delayMs: 100 })
    const reading = watched(one.run('select slowly from t'))
    await one.clock.advance(1)
    expect(one.pool.counts()).toMatchObject({ idle: 0 })
    const committing = watched(transaction.commit())
    await one.clock.advance(50)
    expect(committing.state).toBe('pending')
    await one.clock.advance(50)
    expect([reading.state, committing.state]).toEqual(['resolved', 'resolved'])
    transaction.release()
    await one.clock.advance(0)
    expect(one.pool.counts()).toMatchObject({ active: 0, idle: 1 })
  })

  test('nobody is asked behind a pooler', async () => {
    const one = await withIdle(2)
    one.engine.cluster.primary.behindPooler = true
    const committing = await losing(one)
    expect(committing.error).toBeInstanceOf(OutcomeUnknownError)
    expect(one.asked).toEqual([])
  })

  test('nobody is asked where the id is not known: what answered was another backend', async () => {
    const one = await withIdle(2)
    one.primary.on('pg_current_xact_id_if_assigned', { rows: [{ xid: '7', server: 'a', pid: '1' }] })
    expect((await losing(one)).error).toBeInstanceOf(OutcomeUnknownError)
    expect(one.asked).toEqual([])
  })

  test('nobody is asked where nothing had an id: a notification has none, and is lost all the same', async () => {
    const one = await withIdle(2)
    one.xid = null
    expect((await losing(one)).error).toBeInstanceOf(OutcomeUnknownError)
    expect(one.asked).toEqual([])
  })

  test('nobody is asked about a transaction of nothing but reads, which has nothing to lose', async () => {
    const one = await withIdle(1)
    const transaction = await one.begin()
    await transaction.run('select a from t')
    expect(await transaction.commit()).toMatchObject({ command: 'COMMIT' })
    expect(one.asked).toEqual([])
    transaction.release()
  })

  test('a write that nobody waited for, sent while COMMIT waits, makes it no transaction of reads', async () => {
    const one = await withIdle(1)
    const transaction = await one.begin()
    await transaction.run('select a from t')
    const committing = watched(transaction.commit())
    const unawaited = watched(transaction.run('insert into t values (1)'))
    await one.clock.advance(10)
    expect([unawaited.state, committing.state]).toEqual(['resolved', 'resolved'])
    expect(one.asked).toHaveLength(1)
    transaction.release()
  })

  test('nobody is asked about one that had failed before: it is certainly not executed', async () => {
    const one = await withIdle(1)
    one.primary.on('select 1 / 0', { error: serverError('22012', 'division by zero') })
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    await rejection(transaction.run('select 1 / 0'))
    expect(await rejection(transaction.commit())).toBeInstanceOf(NotExecutedError)
    expect(one.asked).toEqual([])
    transaction.release()
  })

  test.for(['insert into t values (1)', 'select a from t'])(
    'and stood in one write with what came before it, nobody is asked, and it is unknown: %s',
    async (text) => {
      const one = await withIdle(2)
      const transaction = await one.begin()
      const { hold } = transaction
      const together = new Together('primary', hold.pooled!.session, 2, hold.begin)
      const opening = hold.opens(hold.begin!)
      hold.together = together
      const [, commit] = await Promise.allSettled([transaction.run(text), transaction.commit()])
      opening.ended(...(await together.refusal()))
      expect(commit).toMatchObject({ status: 'rejected', reason: { code: 'SMARTPG_OUTCOME_UNKNOWN' } })
      expect(texts(one, transaction.session)).not.toContain(QUESTION)
      expect(one.asked).toEqual([])
      transaction.release()
    },
  )

  test.for(['commit and chain', "prepare transaction 'a'"])(
    'and it was no plain one, it is unknown: %s',
    async (text) => {
      const one = await withIdle(2)
      one.primary.on(text, { drops: lost() })
      const transaction = await one.begin()
      await transaction.run('insert into t values (1)')
      expect(await rejection(transaction.run(text))).toBeInstanceOf(OutcomeUnknownError)
      expect(one.asked).toEqual([])
      transaction.release()
    },
  )

  test('of a stream of its own, its rows are all there is to say', async () => {
    const one = await withIdle(2)
    one.primary.on('insert', { rows: [{ id: 1 }] })
    const { hold, release } = one.lease() as { hold: Hold; release: (this: void) => void }
    const statement = one.engine.statement('insert into t values (1) returning id', [])
    const rows: unknown[] = []
    await one.clock.advance(1)
    const limits = { chunkSize: 10, signal: undefined, timeoutMs: undefined }
    for await (const chunk of stream(one.engine, hold, statement, limits)) rows.push(...chunk)
    expect(rows).toEqual([{ id: 1 }])
    expect(one.asked).toHaveLength(1)
    release()
  })

  test('and it was never sent, the error says so as ever, and nobody is asked', async () => {
    const one = await withIdle(2)
    const transaction = await one.begin()
    await transaction.run('insert into t values (1)')
    transaction.session.kill()
    expect(await rejection(transaction.commit())).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
    expect(one.asked).toEqual([])
    transaction.release()
  })

  test('the reads of this process wait for what it turned out to have written', async () => {
    const one = await withIdle(2, { replicas: 1 })
    await one.clock.advance(seconds(1))
    one.says[0] = 'in progress'
    const committing = await losing(one)
    // Meanwhile the replica shows all there is.
    for (let i = 0; i < 3; i++) {
      await one.run('select a from t')
      await one.clock.advance(seconds(1))
    }
    await one.run('select before from t')
    expect(one.events.query.at(-1)).toMatchObject({ node: 'replica-1' })
    // It becomes visible only now, long after the loss was known.
    one.wal.write()
    one.says[0] = 'committed'
    await one.clock.advance(seconds(1))
    expect(committing.value).toMatchObject({ command: 'COMMIT' })
    await one.run('select after from t')
    expect(one.events.query.at(-1)).toMatchObject({ node: 'primary' })
  })
})

describe('the option', () => {
  test("is refused with `wire: 'pg'`, which could not ask without another round trip", () => {
    const options = { primary: 'postgres://app@primary/app', wire: 'pg', transactions: { resolveCommit: true } }
    expect(() => resolveConfig(options)).toThrow(ConfigError)
    expect(() => resolveConfig(options)).toThrow(
      "Option transactions.resolveCommit: expected false, or `wire: 'native'`, received true.",
    )
    expect(resolveConfig({ ...options, wire: 'native' }).transactions.resolveCommit).toBe(true)
  })
})
