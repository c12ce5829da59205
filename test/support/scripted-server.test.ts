import { beforeEach, expect, test } from 'vitest'
import type { Facts, Statement } from '../../src/core/types.ts'
import { FakeClock } from './fake-clock.ts'
import { networkError, ScriptedServer, serverError } from './scripted-server.ts'
import type { ScriptedSession } from './scripted-server.ts'

let clock: FakeClock
let server: ScriptedServer

beforeEach(() => {
  clock = new FakeClock(0)
  server = new ScriptedServer(clock)
})

// The server never looks at the facts.
const statement = (sql: string, ...parameters: unknown[]): Statement => ({ sql, parameters, facts: {} as Facts })
const connect = (): Promise<ScriptedSession> => server.open({ timeoutMs: 1_000 }) as Promise<ScriptedSession>

test('statements are answered as scripted, the last matching rule first, and the rest with no rows', async () => {
  server.on('from orders', { rows: [{ id: 1 }] }).on(/^select .* from orders where/, { rows: [] })
  const session = await connect()
  expect(await session.send(statement('select * from orders'))).toEqual({
    rows: [{ id: 1 }],
    command: 'SELECT',
    count: 1,
  })
  expect((await session.send(statement('select * from orders where false'))).rows).toEqual([])
  expect(await session.send(statement('vacuum'))).toEqual({ rows: [], command: 'VACUUM', count: 0 })
})

test('a handler sees the statement and its session', async () => {
  server.on('pid', ({ parameters }, session) => ({ rows: [{ pid: session.pid, parameters }] }))
  const session = await connect()
  const { rows } = await session.send(statement('select pid', 7))
  expect(rows).toEqual([{ pid: session.pid, parameters: [7] }])
})

test('one connection answers in order: what is sent behind a slow statement waits for it', async () => {
  server.on('slow', { delayMs: 100 })
  const session = await connect()
  const answered: string[] = []
  void session.send(statement('slow')).then(() => answered.push('slow'))
  void session.send(statement('fast')).then(() => answered.push('fast'))
  await clock.advance(99)
  expect(session.unanswered).toBe(2)
  expect(server.statements()).toEqual(['slow'])
  await clock.advance(1)
  expect(answered).toEqual(['slow', 'fast'])
  expect(session.unanswered).toBe(0)
})

test('the log tells of every statement its session, parameters, time and the transaction it met', async () => {
  const session = await connect()
  await session.send(statement('begin'))
  await clock.advance(5)
  await session.send(statement('insert into a values ($1)', 1))
  expect(server.log).toEqual([
    { pid: session.pid, sql: 'begin', parameters: [], name: undefined, status: 'idle', at: 0 },
    { pid: session.pid, sql: 'insert into a values ($1)', parameters: [1], name: undefined, status: 'open', at: 5 },
  ])
})

test('the transaction status moves as the real one does', async () => {
  server.on('fails', { error: serverError('23505', 'duplicate key') })
  const session = await connect()
  const after = async (sql: string): Promise<unknown> => {
    const answer = await session.send(statement(sql)).then(
      (rows) => rows.command,
      (error: { code: string }) => error.code,
    )
    return [answer, session.status]
  }
  expect(await after('fails')).toEqual(['23505', 'idle'])
  expect(await after('start transaction')).toEqual(['START', 'open'])
  expect(await after('savepoint "a"')).toEqual(['SAVEPOINT', 'open'])
  expect(await after('fails')).toEqual(['23505', 'failed'])
  expect(await after('select 1')).toEqual(['25P02', 'failed'])
  expect(await after('rollback to "a"')).toEqual(['ROLLBACK', 'open'])
  expect(await after('fails')).toEqual(['23505', 'failed'])
  expect(await after('commit')).toEqual(['ROLLBACK', 'idle'])
})

test('a statement that is never answered is ended by a cancel request', async () => {
  server.on('sleep', 'never')
  const session = await connect()
  const sleeping = session.send(statement('sleep'))
  await clock.advance(60_000)
  expect(session.unanswered).toBe(1)
  await session.cancel()
  await expect(sleeping).rejects.toMatchObject({ code: '57014' })
  expect(session.unanswered).toBe(0)
  await session.cancel()
  expect(session.cancels).toBe(2)
})

test('a killed session fails what is unanswered, tells its listeners once, and takes nothing more', async () => {
  server.on('sleep', 'never')
  const session = await connect()
  const heard: Error[] = []
  session.onLost((reason) => heard.push(reason))
  const both = Promise.allSettled([session.send(statement('sleep')), session.send(statement('behind'))])
  await clock.advance()
  const reason = networkError('ECONNRESET')
  session.kill(reason)
  session.destroy(new Error('too late'))
  expect(await both).toEqual([
    { status: 'rejected', reason },
    { status: 'rejected', reason },
  ])
  expect(heard).toEqual([reason])
  session.onLost((late) => heard.push(late))
  expect(heard).toEqual([reason, reason])
  await expect(session.send(statement('select 1'))).rejects.toBe(reason)
  expect(server.statements()).toEqual(['sleep'])
  expect(server.openSessions).toHaveLength(0)
})

test('an answer may be the death of the connection', async () => {
  const reason = networkError('ECONNRESET')
  server.on('commit', { drops: reason, delayMs: 10 })
  const session = await connect()
  const commit = session.send(statement('commit'))
  commit.catch(() => undefined)
  await clock.advance(10)
  await expect(commit).rejects.toBe(reason)
  expect(session.lost).toBe(reason)
})

test('connects fail as scripted, one after the other, or as long as the server is down', async () => {
  const refused = networkError('ECONNREFUSED')
  server.failConnects(refused, serverError('53300', 'too many connections', 'FATAL'))
  await expect(connect()).rejects.toBe(refused)
  await expect(connect()).rejects.toMatchObject({ code: '53300' })
  const session = await connect()
  server.goDown(refused, 'sessions')
  expect(session.lost).toBe(refused)
  await expect(connect()).rejects.toBe(refused)
  server.comeUp()
  await connect()
  expect(server.connects).toBe(5)
  expect(server.openSessions).toHaveLength(1)
})

test('connecting takes its time, gives up at the timeout, and ends when it is aborted', async () => {
  server.connectDelayMs = 50
  const patient = server.open({ timeoutMs: 100 })
  const hasty = server.open({ timeoutMs: 20 })
  const aborted = new AbortController()
  const abandoned = server.open({ timeoutMs: 100, signal: aborted.signal })
  const settled = Promise.allSettled([patient, hasty, abandoned])
  await clock.advance(10)
  aborted.abort(new Error('no longer wanted'))
  await clock.advance(90)
  expect((await settled).map((one) => one.status)).toEqual(['fulfilled', 'rejected', 'rejected'])
  await expect(hasty).rejects.toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
  await expect(abandoned).rejects.toThrow('no longer wanted')
  expect(server.openSessions).toHaveLength(1)
  expect(clock.pendingTimers).toBe(0)
})

test('closing waits for what is running, and no longer than the grace', async () => {
  server.on('slow', { delayMs: 100 }).on('hangs', 'never')
  const polite = await connect()
  const slow = polite.send(statement('slow'))
  const closed = polite.close(1_000)
  await clock.advance(100)
  await closed
  expect((await slow).rows).toEqual([])
  const hung = await connect()
  const hangs = hung.send(statement('hangs'))
  hangs.catch(() => undefined)
  const ended = hung.close(1_000)
  await clock.advance(1_000)
  await ended
  await expect(hangs).rejects.toMatchObject({ code: 'SMARTPG_CONNECTION_LOST' })
  expect(server.openSessions).toHaveLength(0)
  expect(clock.pendingTimers).toBe(0)
})

test('a portal reads in pieces, and an empty piece is the end', async () => {
  server.on('from big', { rows: [{ n: 1 }, { n: 2 }, { n: 3 }] })
  const portal = (await connect()).openPortal(statement('select n from big'))
  expect(await portal.read(2)).toEqual([{ n: 1 }, { n: 2 }])
  expect(await portal.read(2)).toEqual([{ n: 3 }])
  expect(await portal.read(2)).toEqual([])
  await portal.close()
  expect(server.statements()).toEqual(['select n from big'])
})

test('notifications reach every open session', async () => {
  const heard: string[] = []
  for (const session of [await connect(), await connect()]) {
    session.onNotification((channel, payload) => heard.push(`${session.pid} ${channel} ${payload}`))
  }
  server.notify('jobs', 'done')
  expect(heard).toEqual(['100 jobs done', '101 jobs done'])
})
