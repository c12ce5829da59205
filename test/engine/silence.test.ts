// Connections on which a statement waits and nothing is heard, over a scripted server and a clock that stands still. The
// worst that could happen is that a statement loses its connection although the server works on it: most of what
// stands here is about who is left alone.

import { describe, expect, test } from 'vitest'
import { OutcomeUnknownError } from '../../src/core/errors.ts'
import { WHO_ANSWERS } from '../../src/core/statements.ts'
import { intercept, newTestEngine, pings, seconds, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions, Watched } from '../support/engine.ts'
import { ACTIVITY, networkError, serverError } from '../support/scripted-server.ts'
import type { ScriptedServer, ScriptedSession } from '../support/scripted-server.ts'

/** A server that says what its sessions do, and never answers what is called slow; nothing is too late. */
async function asked({ pool, ...options }: TestEngineOptions = {}): Promise<TestEngine> {
  const test = newTestEngine({
    asksAside: true,
    queryTimeout: 0,
    ...options,
    pool: { max: 3, validateAfterIdle: '1h', ...pool },
  })
  test.primary.showActivity().on('slow', 'never')
  test.engine.start()
  await test.clock.advance(0)
  return test
}

/** The questions, and when they came. */
function questions(server: ScriptedServer): { at: number; pid: number; pids: number[] }[] {
  return server.log
    .filter(({ sql }) => sql.includes(ACTIVITY))
    .map(({ at, pid, parameters: [pids] }) => ({ at, pid, pids: pids as number[] }))
}

interface Slow {
  readonly told: Watched<unknown>
  readonly session: ScriptedSession
}

/** A statement that is not answered, and the connection on which it waits. */
async function slow({ run, primary, clock }: TestEngine, sql = 'select slow from t'): Promise<Slow> {
  const told = watched(run(sql))
  await clock.advance(0)
  const session = primary.openSessions.find(({ pid }) => pid === primary.log.at(-1)!.pid)!
  return { told, session }
}

/** Whoever is silent is asked about for the first time before this, and for the second time before twice this. */
const FIRST_MS = 1_100
/** By then a connection that is lost has been given up. */
const FOUND_MS = 2_000

describe('a statement that waits, on a connection on which nothing is heard', () => {
  test.each([['idle'], ['idle in transaction'], ['idle in transaction (aborted)'], ['gone']])(
    'is sent again elsewhere if it is a read, when the server has called its backend %s twice',
    async (state) => {
      const engine = await asked()
      const { told, session } = await slow(engine)
      engine.primary.says.set(session.pid, state)
      engine.primary.on('slow', { rows: [{ n: 1 }] })
      await engine.clock.advance(FOUND_MS)
      expect(told).toMatchObject({ state: 'resolved', value: { rows: [{ n: 1 }] } })
      expect(session.lost).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST', node: 'primary', phase: 'execute' })
      expect(questions(engine.primary)).toHaveLength(2)
    },
  )

  test('is told that nobody knows if it is a write, and is not sent again', async () => {
    const engine = await asked()
    const { told, session } = await slow(engine, 'insert into slow values (1)')
    engine.primary.says.set(session.pid, 'idle')
    await engine.clock.advance(FOUND_MS)
    expect(told.error).toBeInstanceOf(OutcomeUnknownError)
    expect(engine.primary.statements().filter((sql) => sql.startsWith('insert'))).toHaveLength(1)
  })

  test.each([
    ['active'],
    ['fastpath function call'],
    // track_activities is off.
    ['disabled'],
    // It is another role's.
    [null],
    // A word that is not known yet.
    ['starting'],
  ])('is left alone while the server calls its backend %s', async (state) => {
    const engine = await asked()
    const { told, session } = await slow(engine)
    engine.primary.says.set(session.pid, state)
    await engine.clock.advance(seconds(120))
    expect(questions(engine.primary).length).toBeGreaterThan(2)
    expect(told.state).toBe('pending')
    expect(session.lost).toBeNull()
  })

  test('is asked about less and less often while the server works on it', async () => {
    const engine = await asked()
    const { clock, primary } = engine
    const since = clock.now()
    await slow(engine)
    await clock.advance(seconds(3_600))
    const at = questions(primary).map((one) => one.at - since)
    expect(at.length).toBeLessThan(10)
    const gaps = at.slice(1).map((ms, i) => ms - at[i]!)
    for (const [i, gap] of gaps.slice(1).entries()) expect(gap).toBeGreaterThanOrEqual(2 * gaps[i]!)
  })

  test('is left alone when only the first answer called its backend idle, and the count begins anew', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const { told, session } = await slow(engine)
    const states = ['idle', 'active', 'idle', 'active', 'idle', 'active']
    primary.on(ACTIVITY, (statement, asking) => {
      primary.says.set(session.pid, states.shift() ?? 'active')
      return { rows: primary.activity(statement, asking) }
    })
    await clock.advance(seconds(600))
    expect(states).toEqual([])
    expect(told.state).toBe('pending')
    expect(session.lost).toBeNull()
  })

  test('is not asked about as long as something comes, be it a row in many seconds', async () => {
    const engine = await asked()
    const { session } = await slow(engine)
    engine.primary.says.set(session.pid, 'idle')
    for (let i = 0; i < 100; i++) {
      await engine.clock.advance(450)
      session.bytesRead++
    }
    expect(questions(engine.primary)).toEqual([])
    expect(session.lost).toBeNull()
  })

  test.each([
    ['before the first question is answered', 1],
    ['before the second is', 2],
  ])('is left alone when something comes %s', async (_when, which) => {
    const engine = await asked()
    const { primary, clock } = engine
    const { session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    primary.on(ACTIVITY, (statement, asking) => {
      if (questions(primary).length === which) session.bytesRead++
      return { rows: primary.activity(statement, asking), delayMs: 10 }
    })
    await clock.advance(FOUND_MS)
    expect(session.lost).toBeNull()
    // Silent from then on it is lost.
    await clock.advance(FOUND_MS)
    expect(session.lost).not.toBeNull()
  })

  test('is left alone when something comes between the two', async () => {
    const engine = await asked()
    const { session } = await slow(engine)
    engine.primary.says.set(session.pid, 'idle')
    await engine.clock.advance(FIRST_MS)
    expect(questions(engine.primary)).toHaveLength(1)
    session.bytesRead++
    await engine.clock.advance(800)
    expect(session.lost).toBeNull()
  })

  test('is not judged by what was said of the statement before it', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const lease = engine.lease()
    lease.hold.transaction = 'read-write'
    // The server is asked while the answer to the first is on its way, and its own comes when the second runs. Asked again
    // it has not got the second yet.
    primary.on('first', { delayMs: 1_050 }).on('second', { delayMs: 1_300 })
    const states = ['idle', 'idle']
    const delays = [600, 0]
    primary.on(ACTIVITY, (statement, asking) => {
      primary.says.set(asking.pid - 1, states.shift() ?? 'active')
      return { rows: primary.activity(statement, asking), delayMs: delays.shift() ?? 0 }
    })
    const answers = watched(lease.run('select first').then(() => lease.run('select second')))
    await clock.advance(seconds(5))
    expect(states).toEqual([])
    expect(answers.state).toBe('resolved')
    lease.release()
  })

  test('is asked about once everything has been read that lies in the sockets of a process that was busy', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    // So that the question needs no connect, which takes its turns.
    const first = await slow(engine, 'insert into slow values (1)')
    await clock.advance(FIRST_MS)
    first.session.kill()
    // A process that is busy again and again is given no grace the second time.
    clock.block(600)
    await clock.advance(700)
    const { session } = await slow(engine)
    await clock.advance(600)
    const before = questions(primary).length
    // The answer is there before the timers run, and is read after them.
    clock.block(seconds(2))
    clock.nextTurn(() => session.bytesRead++)
    await clock.advance(100)
    expect(questions(primary)).toHaveLength(before)
  })

  test('is judged when all has been read that came with the answer', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const { session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    primary.on(ACTIVITY, (statement, asking) => {
      if (questions(primary).length === 2) clock.nextTurn(() => session.bytesRead++)
      return { rows: primary.activity(statement, asking) }
    })
    await clock.advance(FOUND_MS)
    expect(questions(primary).length).toBeGreaterThan(1)
    expect(session.lost).toBeNull()
  })

  test('is given the time that a long message takes on a slow line: until it has been read its backend is idle', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const { session } = await slow(engine, "insert into slow values ('a megabyte')")
    session.bytesUnanswered = 1 << 20
    primary.says.set(session.pid, 'idle')
    await clock.advance(seconds(30))
    expect(session.lost).toBeNull()
    // Not for ever: nothing is as slow as that.
    await clock.advance(seconds(120))
    expect(session.lost).not.toBeNull()
  })
})

describe('the server that is asked', () => {
  test('is told to end the backend of a connection that is lost, which would keep its locks', async () => {
    const engine = await asked()
    const { session } = await slow(engine)
    engine.primary.says.set(session.pid, 'idle in transaction')
    await engine.clock.advance(FOUND_MS)
    expect(session.lost).not.toBeNull()
    expect(engine.primary.ended).toEqual([session.pid])
  })

  test('may be another one behind the same address, whose backends are not ours whatever their numbers', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const { told, session } = await slow(engine)
    const elsewhere = await slow(engine)
    primary.startedAt = '1800000000.000001'
    primary.says.set(session.pid, 'idle').set(elsewhere.session.pid, 'gone')
    await clock.advance(seconds(60))
    expect(questions(primary).length).toBeGreaterThan(1)
    expect([session.lost, elsewhere.session.lost]).toEqual([null, null])
    expect(primary.ended).toEqual([])
    expect(told.state).toBe('pending')
  })

  test('is not asked about connections of which nobody knows with which server they are', async () => {
    const engine = await startedEngine({ asksAside: true, queryTimeout: 0 })
    engine.primary
      .on('pg_postmaster_start_time', { error: serverError('42501', 'permission denied') })
      .on('slow', 'never')
    const { session } = await slow(engine)
    engine.primary.showActivity().on('slow', 'never')
    engine.primary.says.set(session.pid, 'idle')
    await engine.clock.advance(seconds(60))
    expect(session.lost).toBeNull()
  })

  test('is not believed when it does not even show the one that asks', async () => {
    const engine = await asked()
    const { session } = await slow(engine)
    const { startedAt: server } = engine.primary
    engine.primary.on(ACTIVITY, { rows: [{ pid: `${session.pid}`, state: 'idle', server }] })
    await engine.clock.advance(seconds(60))
    expect(questions(engine.primary).length).toBeGreaterThan(2)
    expect(session.lost).toBeNull()
  })

  test('is asked nothing behind a pooler, which gives backends numbers of its own', async () => {
    const engine = await startedEngine({ asksAside: true, queryTimeout: 0 })
    engine.primary.on(WHO_ANSWERS.sql, { rows: [{ pid: '4711' }] })
    engine.primary.showActivity().on('slow', 'never')
    const { session } = await slow(engine)
    engine.primary.says.set(session.pid, 'idle')
    await engine.clock.advance(seconds(60))
    expect(questions(engine.primary)).toEqual([])
    expect(engine.primary.connects).toBe(1)
    expect(session.lost).toBeNull()
  })

  test('is asked nothing while answers come in time, nor about a transaction whose caller takes his', async () => {
    const engine = await asked()
    const lease = engine.lease()
    engine.primary.on('quick', { delayMs: 400 })
    await lease.begin()
    await lease.run('select 1')
    for (let i = 0; i < 10; i++) {
      const quick = watched(engine.run('select quick'))
      await engine.clock.advance(450)
      expect(quick.state).toBe('resolved')
    }
    expect(questions(engine.primary)).toEqual([])
    expect(engine.primary.connects).toBe(2)
    lease.release()
  })

  test('is asked about all of them in one question, and never a second time before the first is answered', async () => {
    const engine = await asked({ pool: { max: 5 } })
    const { primary, clock } = engine
    for (let i = 0; i < 4; i++) await slow(engine)
    let atOnce = 0
    let most = 0
    primary.on(ACTIVITY, (statement, asking) => {
      most = Math.max(most, ++atOnce)
      clock.setTimeout(() => atOnce--, 250)
      return { rows: primary.activity(statement, asking), delayMs: 250 }
    })
    await clock.advance(seconds(10))
    expect(questions(primary)[0]!.pids).toEqual([100, 101, 102, 103])
    expect(most).toBe(1)
    expect(primary.connects).toBe(5)
  })

  test('is asked on a connection that is no part of the pool, and is closed when it was not needed for half a minute', async () => {
    const engine = await asked({ pool: { max: 1 } })
    const { primary, clock, pool } = engine
    const { told, session } = await slow(engine, 'insert into slow values (1)')
    await clock.advance(FIRST_MS)
    expect(primary.openSessions).toHaveLength(2)
    expect(pool.counts()).toMatchObject({ total: 1, active: 1, max: 1 })
    session.kill()
    await clock.advance(seconds(25))
    expect(told.state).toBe('rejected')
    const [, aside] = primary.sessions
    expect(aside!.lost).toBeNull()
    await clock.advance(seconds(6))
    expect(aside!.lost).not.toBeNull()
  })

  test('is asked on the same connection for as long as that is needed', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    for (let i = 0; i < 4; i++) {
      const { session } = await slow(engine, 'insert into slow values (1)')
      await clock.advance(seconds(20))
      session.kill()
    }
    expect(new Set(questions(primary).map(({ pid }) => pid)).size).toBe(1)
  })

  test.each([
    ['refuses', networkError('ECONNREFUSED')],
    ['has no place left', serverError('53300', 'sorry, too many clients already', 'FATAL')],
  ])('and %s is asked less and less often, and nobody suffers by it', async (_what, refusal) => {
    const engine = await asked()
    const { primary, clock, pool } = engine
    const { told, session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    primary.goDown(refusal)
    const before = primary.connects
    await clock.advance(seconds(600))
    expect(told.state).toBe('pending')
    expect(session.lost).toBeNull()
    expect(primary.connects - before).toBeLessThan(10)
    expect(pool.counts().max).toBe(3)
    // Asked again it says what it knows.
    primary.comeUp()
    await clock.advance(seconds(1_500))
    expect(session.lost).not.toBeNull()
  })

  test('and does not answer is given up within a second, and asked on a new connection the next time', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const { session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    primary.on(ACTIVITY, 'never')
    await clock.advance(FIRST_MS + 1_000)
    const [first] = questions(primary)
    expect(primary.sessions.find(({ pid }) => pid === first!.pid)!.lost).not.toBeNull()
    expect(session.lost).toBeNull()
    primary.showActivity()
    await clock.advance(seconds(5))
    expect(session.lost).not.toBeNull()
    expect(questions(primary).at(-1)!.pid).not.toBe(first!.pid)
  })
})

describe('the connection on which the server is asked', () => {
  test('keeps no process alive', async () => {
    const engine = await asked()
    const unreferenced: number[] = []
    intercept(engine.primary, async (how) => {
      const session = await engine.primary.open(how)
      session.unref = () => unreferenced.push(session.pid)
      return session
    })
    await slow(engine)
    await engine.clock.advance(FIRST_MS)
    expect(unreferenced).toContain(questions(engine.primary)[0]!.pid)
  })

  test('may have been lost together with those that it is asked about: another one is opened at once', async () => {
    const engine = await asked()
    const { primary, clock } = engine
    const first = await slow(engine, 'insert into slow values (1)')
    await clock.advance(FIRST_MS)
    first.session.kill()
    const { pid: aside } = questions(primary)[0]!
    primary.on(ACTIVITY, (statement, asking) =>
      asking.pid === aside ? 'never' : { rows: primary.activity(statement, asking) },
    )
    const { session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    await clock.advance(FOUND_MS)
    expect(session.lost).not.toBeNull()
    expect(primary.sessions.find(({ pid }) => pid === aside)!.lost).not.toBeNull()
  })
})

describe('when one was lost without a word', () => {
  test('the idle ones of its host are asked whether they live before anybody gets them', async () => {
    const engine = await asked({ pool: { initial: 3 } })
    const { primary, clock, run } = engine
    const { session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    primary.on('slow', {})
    expect(pings(primary)).toBe(0)
    await clock.advance(FOUND_MS)
    expect(session.lost).not.toBeNull()
    expect(pings(primary)).toBeGreaterThan(0)
    await run('select a from t')
  })

  test('and the idle ones are lost as well, who comes next waits for one ping and not for one after the other', async () => {
    const engine = await asked({ pool: { initial: 10, max: 10 } })
    const { primary, clock, run } = engine
    const { session } = await slow(engine)
    primary.says.set(session.pid, 'idle')
    const old = new Set(primary.openSessions.map(({ pid }) => pid))
    primary.on('select', ({ sql }, { pid }) => (old.has(pid) && !sql.includes('pg_') ? 'never' : {})).on('slow', {})
    primary.showActivity()
    await clock.advance(FIRST_MS + 250)
    expect(session.lost).not.toBeNull()
    const next = watched(run('select a from t'))
    await clock.advance(400)
    expect(next.state).toBe('resolved')
  })

  test('with all that there are, whoever waits is served by new ones', async () => {
    const engine = await asked({ pool: { max: 2 } })
    const { primary, clock, run } = engine
    const lost = [await slow(engine), await slow(engine)]
    for (const { session } of lost) primary.says.set(session.pid, 'idle')
    primary.on('slow', {})
    const waiting = Array.from({ length: 10 }, () => watched(run('insert into t values (1)')))
    await clock.advance(FOUND_MS)
    expect(waiting.map(({ state }) => state)).toEqual(waiting.map(() => 'resolved'))
    expect(lost.map(({ told }) => told.state)).toEqual(['resolved', 'resolved'])
  })

  test('the circuit stays closed, because the server answers', async () => {
    const engine = await asked({ pool: { max: 20 } })
    const { primary, clock } = engine
    const lost: Slow[] = []
    for (let i = 0; i < 20; i++) lost.push(await slow(engine, `insert into slow values (${i})`))
    for (const { session } of lost) primary.says.set(session.pid, 'idle')
    await clock.advance(FOUND_MS)
    expect(new Set(lost.map(({ told }) => (told.error as { code: string }).code))).toEqual(new Set(['SMARTPG_OUTCOME_UNKNOWN'])) // prettier-ignore
    expect(engine.events.breaker).toEqual([])
  })
})

describe('destroy()', () => {
  const stopped = async ({ engine, clock, primary }: TestEngine, withinMs: number): Promise<void> => {
    const stop = watched(engine.stop())
    await clock.advance(withinMs)
    expect(stop.state).toBe('resolved')
    expect(primary.openSessions).toEqual([])
    expect(clock.pendingTimers).toBe(0)
  }

  test('does not wait for a statement whose connection is lost', async () => {
    const engine = await asked({ queryTimeout: '30s' })
    const { session, told } = await slow(engine)
    engine.primary.says.set(session.pid, 'idle')
    await stopped(engine, FOUND_MS)
    expect(told.state).toBe('rejected')
  })

  test.each([
    ['leaves none behind', true],
    ['leaves none behind, although it cannot be stopped', false],
  ])('while the connection for asking is being opened %s', async (_what, stops) => {
    const engine = await asked()
    const { clock, primary } = engine
    const { session } = await slow(engine, 'insert into slow values (1)')
    primary.connectDelayMs = 900
    intercept(primary, ({ timeoutMs, signal }) => primary.open(stops ? { timeoutMs, signal } : { timeoutMs }))
    await clock.advance(FIRST_MS)
    expect(primary.connects).toBe(2)
    session.kill()
    await stopped(engine, stops ? 0 : 900)
    expect(primary.sessions).toHaveLength(stops ? 1 : 2)
  })

  test('while a question is under way leaves nothing behind', async () => {
    const engine = await asked({ queryTimeout: '1s' })
    await slow(engine)
    engine.primary.on(ACTIVITY, 'never')
    await stopped(engine, seconds(3))
  })

  test.each([
    ['between two questions', 1],
    ['while the second question is under way', 2],
  ])('%s leaves nothing behind', async (_when, which) => {
    const engine = await asked()
    const { clock, primary } = engine
    const { session } = await slow(engine, 'insert into slow values (1)')
    primary.says.set(session.pid, 'idle')
    await clock.advance(FIRST_MS)
    if (which === 2) {
      primary.on(ACTIVITY, 'never')
      await clock.advance(200)
    }
    expect(questions(primary)).toHaveLength(which)
    session.kill()
    await stopped(engine, 0)
  })
})
