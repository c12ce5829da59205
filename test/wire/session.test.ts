// One connection on a real server: what it answers, in which order, in which state it leaves the connection, and
// how it ends.

import { describe, expect, inject, test, vi } from 'vitest'
import type { Asker, TransactionStatus } from '../../src/core/types.ts'
import { alive, busy, clientOf, column, failure, open, outside, road, run, statement, wire } from './sessions.ts'

describe('an answer', () => {
  test('has the rows with their types, the command and the count of its tag', async () => {
    const session = await open()
    expect(await run(session, "select 1 as one, 'two' as two, null as three, $1::int[] as four", [[1, 2]])).toEqual({
      rows: [{ one: 1, two: 'two', three: null, four: [1, 2] }],
      command: 'SELECT',
      count: 1,
    })
  })

  test('of a write counts the rows it touched', async () => {
    const session = await open()
    expect(await run(session, 'create temp table counted (n int)')).toEqual({
      rows: [],
      command: 'CREATE',
      count: null,
    })
    const insert = 'insert into counted select generate_series(1, 5) returning n'
    expect(await run(session, insert)).toMatchObject({ command: 'INSERT', count: 5, rows: { length: 5 } })
    expect(await run(session, 'update counted set n = n where n > 3')).toEqual({
      rows: [],
      command: 'UPDATE',
      count: 2,
    })
    expect(await run(session, 'delete from counted where n > 100')).toEqual({ rows: [], command: 'DELETE', count: 0 })
  })

  test('of several statements in one text has no rows and the last tag', async () => {
    const session = await open()
    expect(await run(session, 'begin; select 1; commit')).toEqual({ rows: [], command: 'COMMIT', count: null })
    expect(await run(session, 'select 1; select 2')).toEqual({ rows: [], command: 'SELECT', count: null })
  })

  test('of several statements is the error of the first that fails, and nothing of them is kept', async () => {
    const session = await open()
    await run(session, 'create temp table several (n int)')
    const error = await failure(
      run(session, 'insert into several values (1); select 1/0; insert into several values (2)'),
    )
    expect(error['code']).toBe('22012')
    expect(session.status).toBe('idle')
    expect(await column(session, 'select n from several')).toEqual([])
  })

  test.each(['', '   ', '-- nothing', ';'])('of the empty query %j is empty', async (text) => {
    const session = await open()
    expect(await run(session, text)).toEqual({ rows: [], command: null, count: null })
    expect(await column(session, 'select 1')).toEqual([1])
  })

  test('goes through the type parsers of the dialect', async () => {
    const session = await open({ types: { getTypeParser: () => (text: string) => `parsed ${text}` } })
    expect(await column(session, 'select 42')).toEqual(['parsed 42'])
  })

  test('whose type parser throws is an error, and the connection serves on', async () => {
    let broken = true
    const getTypeParser = () => (text: string) => {
      if (broken) throw new Error('the parser broke')
      return text
    }
    const session = await open({ types: { getTypeParser } })
    expect((await failure(run(session, 'select generate_series(1, 3)'))).message).toBe('the parser broke')
    broken = false
    expect(await column(session, 'select 42')).toEqual(['42'])
  })

  test('of COPY … FROM STDIN as text is an error, and the connection serves on', async () => {
    const session = await open()
    await run(session, 'create temp table copied (n int)')
    expect((await failure(run(session, 'copy copied from stdin')))['code']).toBe('57014')
    expect(await column(session, 'select count(*)::int from copied')).toEqual([0])
  })
})

describe('who asks without a promise', () => {
  const told = (): { what: unknown[]; asker: Asker } => {
    const what: unknown[] = []
    return { what, asker: { resolve: (rows) => what.push(rows.rows), reject: (error) => what.push(error) } }
  }

  test('is told the rows or the error, and whoever listens to the reads hears it afterwards', async () => {
    const session = await open()
    const { what, asker } = told()
    session.onRead(() => what.push(session.unanswered))
    session.ask(statement('select $1::int as n', [1]), asker)
    await expect.poll(() => what).toEqual([[{ n: 1 }], 0])
    session.ask(statement('select 1/$1::int', [0]), asker)
    await expect.poll(() => what).toMatchObject([[{ n: 1 }], 0, { code: '22012' }, 0])
  })

  test('may ask again when he is told, and stands behind those who wait already', async () => {
    const session = await open()
    const order: string[] = []
    const asks = (name: string, then: () => void = () => undefined): void =>
      session.ask(statement('select 1'), { resolve: () => (order.push(name), then()), reject: then })
    const done = new Promise<void>((resolve) => {
      asks('first', () => asks('third', resolve))
      asks('second')
    })
    await done
    expect(order).toEqual(['first', 'second', 'third'])
  })

  test('is told of what cannot be sent, and nothing is thrown', async () => {
    const session = await open()
    const { what, asker } = told()
    const secret = { toPostgres: () => { throw new Error('no such value') } } // prettier-ignore
    session.ask(statement('select $1', [secret]), asker)
    session.ask(statement('select 1', Array(65_536).fill(1)), asker)
    const unsent = { code: 'SMARTPG_INVALID_QUERY', phase: 'send' }
    expect(what).toMatchObject([unsent, unsent])
    session.destroy(new Error('enough'))
    session.ask(statement('select 1'), asker)
    expect(what[2]).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST', phase: 'send' })
  })
})

test('statements are sent together only where more than one may be under way', async () => {
  const session = await open()
  const settled = await Promise.allSettled(session.sendTogether([statement('select 1'), statement('select 2')]))
  expect(settled.map(({ status }) => status === 'fulfilled')).toEqual([session.pipelines, session.pipelines])
  const refused = { reason: { code: 'SMARTPG_INVALID_QUERY', phase: 'send' } }
  if (!session.pipelines) expect(settled).toMatchObject([refused, refused])
  expect(await column(session, 'select 1')).toEqual([1])
})

describe('the status', () => {
  // Were an answer settled before ReadyForQuery, the status seen here would be that of the exchange before.
  test('is right at the moment each exchange settles, also with an error', async () => {
    const session = await open()
    const seen: [string, TransactionStatus][] = []
    for (const sql of [
      'select 1',
      'begin',
      'select 1',
      'select 1/0',
      'select 1',
      'rollback',
      'select 1/0',
      'begin',
      'commit',
    ]) {
      await run(session, sql).then(
        () => seen.push([sql, session.status]),
        () => seen.push([`${sql} fails`, session.status]),
      )
    }
    expect(seen).toEqual([
      ['select 1', 'idle'],
      ['begin', 'open'],
      ['select 1', 'open'],
      ['select 1/0 fails', 'failed'],
      ['select 1 fails', 'failed'],
      ['rollback', 'idle'],
      ['select 1/0 fails', 'idle'],
      ['begin', 'open'],
      ['commit', 'idle'],
    ])
  })

  test('after an error with parameters is right, too', async () => {
    const session = await open()
    await run(session, 'begin')
    const status = await run(session, 'select 1 / $1::int', [0]).catch(() => session.status)
    expect(status).toBe('failed')
    expect(session.unanswered).toBe(0)
  })
})

describe('several statements at once on one session', () => {
  test('are answered in the order in which they were sent, errors among them', async () => {
    const session = await open()
    const order: string[] = []
    const sent = [
      run(session, 'select pg_sleep(0.05)').then(() => order.push('slow')),
      run(session, 'select 1').then(() => order.push('fast')),
      run(session, 'select 1/0').catch(() => order.push('failed')),
      run(session, 'select $1::int', [2]).then(() => order.push('last')),
    ]
    expect(session.unanswered).toBe(4)
    await Promise.all(sent)
    expect(order).toEqual(['slow', 'fast', 'failed', 'last'])
    expect(session.unanswered).toBe(0)
  })

  test('get each its own answer, two hundred of them', async () => {
    const session = await open()
    const numbers = Array.from({ length: 200 }, (_, n) => n)
    const answers = await Promise.all(
      numbers.map(async (n) => (await run(session, 'select $1::int as n', [n], n % 2 ? 'named' : undefined)).rows[0]),
    )
    expect(answers).toEqual(numbers.map((n) => ({ n })))
  })

  test('are all settled when the backend dies under the first of them', async () => {
    const session = await open()
    const other = await outside()
    const reasons: Error[] = []
    session.onLost((reason) => reasons.push(reason))
    const sent = Promise.allSettled([
      run(session, 'select pg_sleep(60)'),
      run(session, 'select 1'),
      run(session, 'select 2'),
    ])
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await other.query('select pg_terminate_backend($1)', [session.pid])
    const settled = await sent
    expect(settled.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected'])
    expect((settled[0] as PromiseRejectedResult).reason).toMatchObject({ code: '57P01' })
    expect(reasons).toHaveLength(1)
    expect(session.lost).toBe(reasons[0])
    expect(session.unanswered).toBe(0)
  })
})

describe('parameters', () => {
  test('one whose conversion throws never reaches the socket', async () => {
    const session = await open()
    const written = vi.spyOn(clientOf(session).connection.stream as unknown as { write(): boolean }, 'write')
    const secret = { toPostgres: () => { throw new Error('no such value') } } // prettier-ignore
    const error = await failure(run(session, 'select $1, $2', [1, secret], 'thrown'))
    expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send', cause: { message: 'no such value' } })
    expect(error.message).toContain('$2')
    expect(written).not.toHaveBeenCalled()
    expect(await column(session, 'select $1::int', [1])).toEqual([1])
    expect(written).toHaveBeenCalled()
    // The name was not used up by the failure.
    expect((await run(session, 'select $1::int as a, $2::int as b', [1, 2], 'thrown')).rows).toEqual([{ a: 1, b: 2 }])
  })

  test('65,536 of them never reach the socket', async () => {
    const session = await open()
    const written = vi.spyOn(clientOf(session).connection.stream as unknown as { write(): boolean }, 'write')
    const error = await failure(run(session, 'select 1', Array(65_536).fill(1)))
    expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send' })
    expect(error.message).toMatch(/65536.*65535/)
    expect(written).not.toHaveBeenCalled()
    expect(await column(session, 'select 1')).toEqual([1])
  })

  test('65,535 of them are answered', async () => {
    const session = await open()
    const numbers = Array.from({ length: 65_535 }, (_, i) => i)
    const list = numbers.map((i) => `$${i + 1}`).join(',')
    expect(await column(session, `select array_length(array[${list}]::text[], 1)`, numbers)).toEqual([65_535])
  })

  test('too few of them are an error of the server, and the connection serves on', async () => {
    const session = await open()
    expect((await failure(run(session, 'select $1::int, $2::int', [1])))['code']).toBe('08P01')
    expect(session.lost).toBeNull()
    expect(await column(session, 'select 1')).toEqual([1])
  })
})

describe('NOTIFY', () => {
  test('from another connection is heard, with channel, payload, and who sent it', async () => {
    const session = await open()
    const other = await outside()
    const heard = new Promise((resolve) => session.onNotification((...what) => resolve(what)))
    await run(session, 'listen news')
    const { rows } = await other.query('select pg_backend_pid() as pid')
    await other.query("notify news, 'today'")
    expect(await heard).toEqual(['news', 'today', rows[0].pid])
  })
})

describe('the end of a session', () => {
  test('close says goodbye: the backend is gone, and nothing can be sent any more', async () => {
    const session = await open()
    const other = await outside()
    const reasons: Error[] = []
    session.onLost((reason) => reasons.push(reason))
    await session.close(10_000)
    await expect.poll(() => alive(other, session.pid)).toBe(false)
    expect(reasons).toHaveLength(1)
    expect((await failure(run(session, 'select 1')))['code']).toBe('SMARTPG_CONNECTION_LOST')
    // A second time there is nothing to close.
    await session.close(10_000)
    session.destroy(new Error('again'))
    expect(reasons).toHaveLength(1)
  })

  test('close settles with a statement under way, and so does the statement', async () => {
    const session = await open()
    const statement = run(session, 'select pg_sleep(0.01)').catch(() => undefined)
    await session.close(5_000)
    await statement
    expect(session.lost).not.toBeNull()
  })

  test('close destroys the socket of a server that does not answer the goodbye', async () => {
    const way = await road(inject('primaryUrl'))
    const session = await open({}, way.url)
    way.silence()
    await session.close(20)
    expect(session.lost).not.toBeNull()
  })

  test('destroy settles everything with its reason, and tells once', async () => {
    const session = await open()
    const reason = new Error('enough')
    const reasons: Error[] = []
    session.onLost((why) => reasons.push(why))
    const sent = [run(session, 'select pg_sleep(60)'), run(session, 'select 1')]
    for (const one of sent) one.catch(() => undefined)
    const other = await outside()
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    session.destroy(reason)
    expect(await failure(sent[0]!)).toBe(reason)
    const unsent = { code: 'SMARTPG_CONNECTION_LOST', phase: 'send', cause: reason }
    // Over pg the second waits for the first and was never sent, and says so; our own wire has sent it behind the first.
    if (wire === 'pg') expect(await failure(sent[1]!)).toMatchObject(unsent)
    else expect(await failure(sent[1]!)).toBe(reason)
    expect(reasons).toEqual([reason])
    expect(session.lost).toBe(reason)
    expect(await failure(run(session, 'select 1'))).toMatchObject({ phase: 'send', cause: reason })
    // The socket's own end comes later and tells nothing new.
    const socket = clientOf(session).connection.stream as unknown as { destroyed: boolean; closed: boolean }
    await expect.poll(() => socket.closed).toBe(true)
    expect(reasons).toEqual([reason])
  })

  test('a listener that comes late is told at once', async () => {
    const session = await open()
    session.destroy(new Error('enough'))
    const late = vi.fn<(reason: Error) => void>()
    session.onLost(late)
    expect(late).toHaveBeenCalledExactlyOnceWith(session.lost)
  })

  test('a backend killed while idle is told once, with the reason the server gave', async () => {
    const session = await open()
    const other = await outside()
    const reasons: Error[] = []
    session.onLost((reason) => reasons.push(reason))
    await other.query('select pg_terminate_backend($1)', [session.pid])
    await expect.poll(() => reasons).toMatchObject([{ code: '57P01' }])
    const socket = clientOf(session).connection.stream as unknown as { closed: boolean }
    await expect.poll(() => socket.closed).toBe(true)
    expect(reasons).toHaveLength(1)
  })

  test('what was sent just before the connection broke is settled', async () => {
    const way = await road(inject('primaryUrl'))
    const session = await open({}, way.url)
    way.silence()
    const sent = failure(run(session, 'select 1'))
    way.reset()
    expect((await sent)['code']).toMatch(/^(SMARTPG_CONNECTION_LOST|ECONNRESET|EPIPE)$/)
  })
})
