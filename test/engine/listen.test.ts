// LISTEN over a scripted server: how long a silent connection goes unnoticed, how often a server that is down is
// asked, and what listeners are told of the time in between.

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { WHO_ANSWERS } from '../../src/core/statements.ts'
import { isSmartPgError } from '../../src/core/errors.ts'
import type { Gap } from '../../src/engine/channel.ts'
import { newTestEngine, rejection, seconds, watched } from '../support/engine.ts'
import type { TestEngine } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

const HEARD = 'pg_listening_channels'

/** Answers the question after the channels that a session listens to, as a server does that forgets none. */
function remembering(engine: TestEngine): TestEngine {
  const channels = new Map<number, Set<string>>()
  const of = (pid: number): Set<string> => channels.get(pid) ?? channels.set(pid, new Set()).get(pid)!
  engine.primary
    .on(/^listen /, ({ sql }, { pid }) => {
      of(pid).add(sql.slice('listen '.length))
      return {}
    })
    .on(/^unlisten /, ({ sql }, { pid }) => {
      of(pid).delete(sql.slice('unlisten '.length))
      return {}
    })
    .on(HEARD, (_, { pid }) => ({ rows: [{ n: String(of(pid).size) }] }))
  return engine
}

const silent = (): void => {}

describe('the connection that listens', () => {
  test('is opened for the first listener, shared by all, and closed after the last', async () => {
    const { engine, primary } = remembering(newTestEngine())
    const { notifications } = engine
    const all = await Promise.all(['a', 'b', 'a'].map((name) => notifications.listen(name, silent)))
    expect(primary.connects).toBe(1)
    expect(primary.statements().filter((sql) => sql.startsWith('listen'))).toEqual(['listen "a"', 'listen "b"'])
    await all[0]![Symbol.asyncDispose]()
    expect(primary.statements().filter((sql) => sql.startsWith('unlisten'))).toEqual([])
    await all[1]![Symbol.asyncDispose]()
    expect(primary.statements().filter((sql) => sql.startsWith('unlisten'))).toEqual(['unlisten "b"'])
    expect(primary.openSessions).toHaveLength(1)
    await all[2]![Symbol.asyncDispose]()
    expect(primary.openSessions).toHaveLength(0)
  })

  test('is another one when somebody listens again', async () => {
    const { engine, primary, events } = remembering(newTestEngine())
    const first = await engine.notifications.listen('a', silent)
    first[Symbol.dispose]()
    const heard: string[] = []
    await engine.notifications.listen('a', (payload) => heard.push(payload))
    primary.notify('a', 'here')
    expect(heard).toEqual(['here'])
    expect(primary.openSessions).toHaveLength(1)
    expect(events.error).toEqual([])
    expect(events.gap).toEqual([])
  })

  test('is none of the pool’s', async () => {
    const { engine, pool } = remembering(newTestEngine())
    await engine.notifications.listen('a', silent)
    expect(pool.counts().total).toBe(0)
  })

  test('is found silent within `pool.keepalive` and five seconds, and its listeners learn since when', async () => {
    const { engine, primary, clock, events } = remembering(newTestEngine({ pool: { keepalive: '30s' } }))
    const gaps: Gap[] = []
    await engine.notifications.listen('a', silent, { onGap: (gap) => gaps.push(gap) })
    await clock.advance(seconds(31))
    expect(primary.statements().filter((sql) => sql.includes(HEARD))).toHaveLength(1)
    const lastAnswer = clock.now() - seconds(1)
    primary.on(HEARD, 'never')
    await clock.advance(seconds(29 + 5) + 500)
    expect(primary.connects).toBe(2)
    expect(gaps).toEqual([{ channel: 'a', since: lastAnswer, until: expect.any(Number) as number }])
    expect(gaps[0]!.until).toBeGreaterThanOrEqual(lastAnswer + seconds(35))
    expect(events.gap).toEqual([{ node: 'primary', ...gaps[0] }])
    expect(events.error).toMatchObject([{ during: 'listen' }])
  })

  test('is not asked whether it lives while notifications come', async () => {
    const { engine, primary, clock } = remembering(newTestEngine({ pool: { keepalive: '30s' } }))
    await engine.notifications.listen('a', silent)
    for (let n = 0; n < 10; n++) {
      await clock.advance(seconds(20))
      primary.notify('a')
    }
    expect(primary.statements().filter((sql) => sql.includes(HEARD))).toEqual([])
  })

  test('comes back when the server does, and asks a server that is down no more than some times a second', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    const heard: string[] = []
    await engine.notifications.listen('a', (payload) => heard.push(payload))
    primary.goDown(networkError('ECONNREFUSED'), 'sessions')
    await clock.advance(seconds(60))
    // Full jitter with a chance that is always the middle: half of 50 ms·2ⁿ, at most half a second.
    expect(primary.connects).toBeGreaterThan(100)
    expect(primary.connects).toBeLessThan(130)
    primary.comeUp()
    await clock.advance(seconds(1))
    primary.notify('a', 'again')
    expect(heard).toEqual(['again'])
  })

  test('that is lost again and again at once is opened with growing pauses', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    await engine.notifications.listen('a', silent)
    primary.on('listen', { drops: networkError('ECONNRESET') })
    primary.killAll()
    await clock.advance(seconds(60))
    expect(primary.connects).toBeLessThan(130)
  })

  test('leaves no timer and no connection behind when the engine stops', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    await engine.notifications.listen('a', silent)
    await engine.stop()
    expect(primary.openSessions).toEqual([])
    expect(clock.pendingTimers).toBe(0)
  })

  test('is given up while the engine stops in the middle of a pause', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    await engine.notifications.listen('a', silent)
    primary.goDown(networkError('ECONNREFUSED'), 'sessions')
    await clock.advance(10)
    await engine.stop()
    expect(clock.pendingTimers).toBe(0)
    const { connects } = primary
    await clock.advance(seconds(10))
    expect(primary.connects).toBe(connects)
  })
})

test('whoever stops the engine because of an error event waits for no pause', async () => {
  const { engine, primary, clock } = remembering(newTestEngine())
  await engine.notifications.listen('a', silent)
  let stopped: Promise<void> | undefined
  engine.listeners.on('error', () => void (stopped = engine.stop()))
  primary.killAll()
  await clock.advance(0)
  const watch = watched(stopped!)
  await clock.advance(0)
  expect(watch.state).toBe('resolved')
  expect(clock.pendingTimers).toBe(0)
})

describe('after a gap', () => {
  test('every channel is listened to again, and each is told of its own', async () => {
    const { engine, primary, clock, events } = remembering(newTestEngine())
    for (const name of ['a', 'b']) await engine.notifications.listen(name, silent)
    primary.killAll()
    await clock.advance(seconds(1))
    expect(primary.statements(primary.sessions[1]!.pid).filter((sql) => sql.startsWith('listen'))).toEqual([
      'listen "a"',
      'listen "b"',
    ])
    expect(events.gap.map(({ channel }) => channel)).toEqual(['a', 'b'])
  })

  test('a listener hears of it before the first notification, even if that comes with the answer to LISTEN', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    const told: string[] = []
    await engine.notifications.listen('a', (payload) => told.push(payload), { onGap: () => told.push('gap') })
    primary.on(/^listen/, (_, session) => {
      session.notify('a', 'early')
      return {}
    })
    primary.killAll()
    await clock.advance(seconds(1))
    expect(told).toEqual(['gap', 'early'])
  })

  test('it begins at the first loss, however often the next connections are lost', async () => {
    const { engine, primary, clock, events } = remembering(newTestEngine())
    await engine.notifications.listen('a', silent)
    const lostAt = clock.now()
    primary.on(/^listen/, { drops: networkError('ECONNRESET') })
    primary.killAll()
    await clock.advance(seconds(3))
    primary.on(/^listen/, {})
    await clock.advance(seconds(2))
    expect(events.gap).toMatchObject([{ since: lostAt }])
  })

  test('only those hear of it who listened before', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    const told: string[] = []
    const listen = (who: string): Promise<unknown> =>
      engine.notifications.listen('a', silent, { onGap: () => told.push(who) })
    await listen('elder')
    primary.killAll()
    const younger = listen('younger')
    await clock.advance(seconds(1))
    await younger
    expect(told).toEqual(['elder'])
  })

  test('an onGap that throws hurts no other listener', async () => {
    const { engine, primary, clock, events } = remembering(newTestEngine())
    const told: string[] = []
    const oops = new Error('oops')
    await engine.notifications.listen('a', silent, {
      onGap: () => {
        throw oops
      },
    })
    await engine.notifications.listen('a', silent, { onGap: () => told.push('second') })
    primary.killAll()
    await clock.advance(seconds(1))
    expect(told).toEqual(['second'])
    expect(events.error).toContainEqual({ node: 'primary', during: "listener of channel 'a'", error: oops })
  })
})

describe('listen()', () => {
  test('waits for a server that is down for as long as pool.acquireTimeout, and says why in the end', async () => {
    const { engine, primary, clock } = newTestEngine({ pool: { acquireTimeout: '10s' } })
    primary.goDown(networkError('ECONNREFUSED', 'nobody there'))
    const waiting = watched(engine.notifications.listen('a', silent))
    await clock.advance(seconds(9))
    expect(waiting.state).toBe('pending')
    await clock.advance(seconds(1) + 10)
    expect(waiting.state).toBe('rejected')
    expect(isSmartPgError(waiting.error, 'SMARTPG_CONNECT_FAILED')).toBe(true)
    expect((waiting.error as Error).message).toContain("channel 'a'")
    expect((waiting.error as Error).cause).toMatchObject({ code: 'ECONNREFUSED' })
    const { connects } = primary
    await clock.advance(seconds(10))
    expect(primary.connects).toBe(connects)
  })

  test('does not wait when the next try would be refused as well', async () => {
    const { engine, primary } = newTestEngine()
    primary.goDown(serverError('28P01', 'password authentication failed', 'FATAL'))
    expect(await rejection(engine.notifications.listen('a', silent))).toMatchObject({ code: '28P01' })
  })

  test('waits for a standby to become the primary', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    primary.on(/^listen/, { error: serverError('25006', 'cannot execute LISTEN during recovery') })
    const waiting = watched(engine.notifications.listen('a', silent))
    await clock.advance(seconds(2))
    expect(waiting.state).toBe('pending')
    primary.on(/^listen/, {})
    await clock.advance(seconds(1))
    expect(waiting.state).toBe('resolved')
  })

  test('tells its caller, and nobody else, of a name that the server does not take', async () => {
    const { engine, primary, events } = remembering(newTestEngine())
    const heard: string[] = []
    await engine.notifications.listen('a', (payload) => heard.push(payload))
    primary.on('listen "b"', { error: serverError('22P05', 'has no equivalent in encoding') })
    expect(await rejection(engine.notifications.listen('b', silent))).toMatchObject({ code: '22P05' })
    primary.notify('a', 'still here')
    expect(heard).toEqual(['still here'])
    expect(events.error).toEqual([])
  })

  test('is told when the engine stops meanwhile', async () => {
    const { engine, primary, clock } = newTestEngine()
    primary.connectDelayMs = seconds(1)
    const waiting = watched(engine.notifications.listen('a', silent))
    await clock.advance(100)
    await engine.stop()
    expect(waiting.state).toBe('rejected')
    expect(isSmartPgError(waiting.error, 'SMARTPG_CLOSED')).toBe(true)
    expect(clock.pendingTimers).toBe(0)
  })
})

describe('behind a pooler', () => {
  const warnings: string[] = []
  beforeEach(() => {
    warnings.length = 0
    vi.spyOn(process, 'emitWarning').mockImplementation(((_: string, options: { code: string }) => {
      warnings.push(options.code)
    }) as never)
  })
  afterEach(() => vi.restoreAllMocks())

  test('a warning says once that LISTEN may not last there', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    primary.on(WHO_ANSWERS.sql, { rows: [{ pid: '4711' }] })
    await engine.notifications.listen('a', silent)
    await clock.advance(0)
    expect(warnings).toEqual(['SMARTPG_LISTEN_POOLED'])
    primary.killAll()
    await clock.advance(seconds(1))
    expect(primary.connects).toBe(2)
    expect(warnings).toEqual(['SMARTPG_LISTEN_POOLED'])
  })

  test('that has forgotten a LISTEN, an error says what to do, and listeners are told of the gap', async () => {
    const { engine, primary, clock, events } = remembering(newTestEngine({ pool: { keepalive: '30s' } }))
    await engine.notifications.listen('a', silent)
    primary.on(HEARD, { rows: [{ n: '0' }] })
    await clock.advance(seconds(31))
    const [failed] = events.error
    expect(isSmartPgError(failed!.error, 'SMARTPG_CONFIG')).toBe(true)
    expect((failed!.error as Error).message).toContain('session mode')
    await clock.advance(seconds(1))
    expect(events.gap).toHaveLength(1)
  })

  test('a server that answers for itself warns of nothing', async () => {
    const { engine, primary, clock } = remembering(newTestEngine())
    primary.on(WHO_ANSWERS.sql, (_, { pid }) => ({ rows: [{ pid: String(pid) }] }))
    await engine.notifications.listen('a', silent)
    await clock.advance(0)
    expect(primary.statements()).toContain(WHO_ANSWERS.sql)
    expect(warnings).toEqual([])
  })
})
