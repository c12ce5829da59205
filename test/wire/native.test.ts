// What only our own wire does: take the socket over from pg, send several statements at once, keep descriptions, and
// put right what goes wrong while others are under way behind it.

import { describe, expect, inject, test, vi } from 'vitest'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Facts, Rows, Session } from '../../src/core/types.ts'
import {
  alive,
  busy,
  clientOf,
  column,
  failure,
  listener,
  message,
  open,
  outside,
  run,
  statement,
  welcome,
} from './sessions.ts'
import { writesOf } from './sessions.ts'
import type { Overrides } from './sessions.ts'

const opened = (overrides: Overrides = {}, url = inject('primaryUrl')): Promise<Session> =>
  open(overrides, url, 'native')

const named = (session: Session, n: number): Promise<Rows> => run(session, 'select $1::int as n', [n], 'named')

describe('the socket', () => {
  test('has one reader after the take-over, and pg’s has nothing left to read', async () => {
    const session = await opened()
    const { stream } = clientOf(session).connection as unknown as { stream: NodeJS.EventEmitter }
    expect(stream.listenerCount('data')).toBe(1)
    const heard = vi.fn<() => void>()
    const connection = clientOf(session).connection as unknown as NodeJS.EventEmitter
    for (const name of ['message', 'readyForQuery', 'rowDescription', 'dataRow']) connection.on(name, heard)
    expect(await column(session, 'select 1')).toEqual([1])
    expect(heard).not.toHaveBeenCalled()
  })

  test('is taken over between two messages, when the greeting ends in the middle of one', async () => {
    const greeting = Buffer.concat([message('R', 0), message('K', 4711, 815), message('Z', Buffer.from('I'))])
    const parameter = message('S', 'a_setting', 'x'.repeat(1000))
    const answer = Buffer.concat([message('I'), message('Z', Buffer.from('T'))])
    const server = await listener((socket) =>
      socket.once('data', () => {
        socket.write(Buffer.concat([greeting, parameter.subarray(0, 500)]), () => {
          setImmediate(() => socket.write(parameter.subarray(500)))
          socket.once('data', () => socket.write(answer))
        })
      }),
    )
    const session = await opened({}, server.url)
    expect(await run(session, '')).toEqual({ rows: [], command: null, count: null })
    expect([session.status, session.lost]).toEqual(['open', null])
    await server.close()
  })

  test('is still pg’s to say goodbye on', async () => {
    const session = await opened()
    const other = await outside()
    await clientOf(session).end()
    await expect.poll(() => alive(other, session.pid)).toBe(false)
    expect(session.lost).not.toBeNull()
  })

  test('is not pg’s to ask on: Client.query says so instead of waiting for ever', async () => {
    const session = await opened()
    expect(() => clientOf(session).query('select 1')).toThrow("wire: 'native'")
    expect(await column(session, 'select 1')).toEqual([1])
    expect(clientOf(session).getTransactionStatus()).toBe('I')
  })
})

describe('statements of one turn of the event loop', () => {
  test('leave as one write, each with a Sync of its own', async () => {
    const session = await opened()
    const writes = writesOf(session)
    const sent = [run(session, 'select $1::int', [1]), run(session, 'select 2'), run(session, 'select $1::int', [3])]
    expect(writes).toEqual([])
    expect(session.unanswered).toBe(3)
    await Promise.all(sent)
    expect(writes).toEqual(['PBDESQPBDES'])
  })

  test('that were never written when the session ends say that they were never sent', async () => {
    const session = await opened()
    const sent = [run(session, 'select 1'), run(session, 'select $1::int', [2])]
    const reason = new Error('enough')
    session.destroy(reason)
    const unsent = { code: 'SMARTPG_CONNECTION_LOST', phase: 'send', retryable: true, cause: reason }
    for (const one of sent) expect(await failure(one)).toMatchObject(unsent)
  })

  test('are written although one of them cannot be', async () => {
    const session = await opened()
    const broken = { toPostgres: () => { throw new Error('no such value') } } // prettier-ignore
    const sent = [
      column(session, 'select 1'),
      failure(run(session, 'select $1', [broken])),
      column(session, 'select 2'),
    ]
    expect(await Promise.all(sent)).toMatchObject([[1], { code: 'SMARTPG_INVALID_QUERY', phase: 'send' }, [2]])
  })

  test('fail each for itself', async () => {
    const session = await opened()
    const settled = await Promise.allSettled([
      column(session, 'select 1/$1::int', [1]),
      column(session, 'select 1/$1::int', [0]),
      column(session, 'selec'),
      column(session, 'select $1::int', ['x']),
      column(session, 'select 5'),
    ])
    expect(settled.map((one) => (one.status === 'fulfilled' ? one.value : one.reason.code))).toEqual([
      [1],
      '22012',
      '42601',
      '22P02',
      [5],
    ])
  })

  test('a thousand of them, small and large, get each its own answer', async () => {
    const session = await opened()
    const sizes = Array.from({ length: 1000 }, (_, i) => (i % 50 === 0 ? 100_000 : i))
    const answers = sizes.map((size, i) =>
      column(session, 'select $1::int || repeat($2::text, $3::int)', [i, 'x', size]),
    )
    for (const [i, answer] of (await Promise.all(answers)).entries()) {
      expect((answer[0] as string).length).toBe(String(i).length + sizes[i]!)
    }
  })

  test('are all settled when the backend dies under the first of them', async () => {
    const session = await opened()
    const other = await outside()
    const sent = Promise.allSettled([run(session, 'select pg_sleep(60)'), named(session, 1), named(session, 2)])
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await other.query('select pg_terminate_backend($1)', [session.pid])
    const reasons = (await sent).map((one) => (one as PromiseRejectedResult).reason as Record<string, unknown>)
    expect(reasons).toMatchObject([{ code: '57P01' }, { code: 'SMARTPG_CONNECTION_LOST', phase: 'execute' }, {}])
  })
})

describe('what is under way', () => {
  test('is counted until it is written, and until it is answered', async () => {
    const session = await opened()
    const counts = () => [session.unanswered, session.unflushed]
    expect(session.pipelines).toBe(true)
    const sent = [named(session, 1), run(session, 'select 2')]
    expect(counts()).toEqual([2, 2])
    await nextTurn()
    // Written in this turn, and not read before the next.
    expect(session.unflushed).toBe(0)
    const behind = run(session, 'select 3')
    expect(session.unflushed).toBe(1)
    await Promise.all([...sent, behind])
    expect(counts()).toEqual([0, 0])
  })

  test('is weighed as it is written, and weighs nothing when it is answered', async () => {
    const session = await opened()
    const sizes: number[] = []
    const { stream } = clientOf(session).connection
    const write = stream.write.bind(stream)
    stream.write = (bytes) => {
      sizes.push(bytes.length)
      return write(bytes)
    }
    const sent = [named(session, 1), run(session, 'select $1::text', ['x'.repeat(100_000)]), run(session, 'select 2')]
    const failing = failure(run(session, 'select 1/$1::int', [0]))
    const weight = session.bytesUnanswered
    expect(weight).toBeGreaterThan(100_000)
    await Promise.all([...sent, failing])
    expect(sizes).toEqual([weight])
    expect(session.bytesUnanswered).toBe(0)
  })

  test('weighs nothing any more when the connection is gone', async () => {
    const session = await opened()
    const sent = failure(run(session, 'select pg_sleep(60)'))
    expect(session.bytesUnanswered).toBeGreaterThan(0)
    session.destroy(new Error('enough'))
    await sent
    expect([session.unanswered, session.unflushed, session.bytesUnanswered]).toEqual([0, 0, 0])
  })

  test('does not pile up in the socket while the server does not read', async () => {
    const session = await opened()
    const other = await outside()
    await other.query('select pg_advisory_lock(4711)')
    const blocked = run(session, 'select pg_advisory_lock(4711)')
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    const { stream } = clientOf(session).connection
    const text = 'x'.repeat(100_000)
    const answers: Promise<unknown[]>[] = []
    let most = 0
    for (let turn = 0; turn < 60; turn++) {
      for (let n = 0; n < 10; n++) answers.push(column(session, 'select length($1) + $2::int', [text, answers.length]))
      await nextTurn()
      most = Math.max(most, stream.writableLength)
    }
    expect(session.bytesUnanswered).toBeGreaterThan(60_000_000)
    // One MiB, and the write of the turn in which it was reached.
    expect(most).toBeGreaterThan(1_000_000)
    expect(most).toBeLessThan(1024 * 1024 + 10 * 101_000)
    expect(session.unflushed).toBeGreaterThan(300)
    await other.query('select pg_advisory_unlock(4711)')
    await blocked
    expect(await Promise.all(answers)).toEqual(answers.map((_, n) => [100_000 + n]))
    expect([session.unanswered, session.unflushed, session.bytesUnanswered]).toEqual([0, 0, 0])
  })

  test('and still waits for the socket when the connection goes says that it was not sent', async () => {
    const session = await opened()
    const other = await outside()
    await other.query('select pg_advisory_lock(4712)')
    const blocked = failure(run(session, 'select pg_advisory_lock(4712)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    const text = 'x'.repeat(1_000_000)
    const answers: Promise<Error & Record<string, unknown>>[] = []
    while (session.unflushed === 0) {
      answers.push(failure(run(session, 'select $1', [text])))
      await nextTurn()
    }
    const reason = new Error('enough')
    session.destroy(reason)
    expect(await blocked).toBe(reason)
    expect(await answers[0]).toBe(reason)
    expect(await answers.at(-1)).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST', phase: 'send', retryable: true })
  })
})

describe('who listens to the reads', () => {
  const answer = Buffer.concat([message('C', 'SELECT 1'), message('Z', Buffer.from('I'))])
  const refused = message(
    'E',
    Buffer.from('SERROR\0'),
    Buffer.from('C22012\0'),
    Buffer.from('Mno\0'),
    Buffer.from('\0'),
  )

  test('is told once after a read with many answers, when each has been told', async () => {
    const server = await listener((socket) =>
      socket.once('data', () => {
        socket.write(welcome)
        socket.once('data', () =>
          socket.write(Buffer.concat([answer, refused, message('Z', Buffer.from('I')), answer])),
        )
      }),
    )
    const session = await opened({}, server.url)
    const told: string[] = []
    const read = new Promise<void>((resolve) => {
      session.onRead(() => {
        told.push(`read with ${session.unanswered} to come`)
        resolve()
      })
    })
    const asker = { resolve: () => void told.push('answer'), reject: () => void told.push('error') }
    for (let n = 0; n < 4; n++) session.ask(statement('select 1'), asker)
    await read
    expect(told).toEqual(['answer', 'error', 'answer', 'read with 1 to come'])
    await server.close()
  })

  test('hears nothing of half an answer, nor of a notification', async () => {
    const notification = message('A', 4711, 'news', 'today')
    let say: (bytes: Buffer) => void = () => undefined
    const server = await listener((socket) =>
      socket.once('data', () => {
        socket.write(welcome)
        socket.once('data', () => socket.write(answer.subarray(0, 12)))
        say = (bytes) => void socket.write(bytes)
      }),
    )
    const session = await opened({}, server.url)
    const reads = vi.fn<() => void>()
    session.onRead(reads)
    const heard = new Promise<void>((resolve) => session.onNotification(() => resolve()))
    const { stream } = clientOf(session).connection as unknown as { stream: NodeJS.EventEmitter }
    const half = new Promise((resolve) => stream.once('data', resolve))
    const sent = run(session, 'select 1')
    await half
    expect(reads).not.toHaveBeenCalled()
    say(answer.subarray(12))
    await sent
    expect(reads).toHaveBeenCalledOnce()
    say(notification)
    await heard
    expect(reads).toHaveBeenCalledOnce()
    await server.close()
  })
})

describe('a description', () => {
  const three = async (session: Session): Promise<string[]> => {
    const writes = writesOf(session)
    for (const n of [1, 2, 3]) expect((await named(session, n)).rows).toEqual([{ n }])
    return writes
  }

  test('comes with every Parse, and is kept for that statement on that connection alone', async () => {
    expect(await three(await opened())).toEqual(['PBDES', 'BES', 'BES'])
    expect(await three(await opened())).toEqual(['PBDES', 'BES', 'BES'])
  })

  test('is asked for every time while a pooler may be in between', async () => {
    let pooled = true
    const session = await opened({ mayBePooled: () => pooled })
    expect(await three(session)).toEqual(['PBDES', 'BDES', 'BDES'])
    pooled = false
    expect((await three(session)).at(-1)).toBe('BES')
  })

  test('is asked for every time without a name', async () => {
    const session = await opened()
    const writes = writesOf(session)
    for (const n of [1, 2]) await run(session, 'select $1::int as n', [n])
    expect(writes).toEqual(['PBDES', 'PBDES'])
  })

  test('is never that of a table before it changed', async () => {
    const session = await opened()
    await run(session, 'create temp table changing as select 1 as a, 2 as b')
    const ask = async () => (await run(session, 'select * from changing', [], 'star')).rows
    expect([await ask(), await ask()]).toEqual([[{ a: 1, b: 2 }], [{ a: 1, b: 2 }]])
    for (const [change, row] of [
      ['alter table changing rename a to c', { c: 1, b: 2 }],
      ['alter table changing alter b type text', { c: 1, b: '2' }],
      ['alter table changing drop c', { b: '2' }],
      ['drop table changing; create temp table changing as select 3 as z, 4 as b', { z: 3, b: 4 }],
    ] as const) {
      await run(session, change)
      expect([await ask(), await ask()]).toEqual([[row], [row]])
    }
  })

  test('of one statement is not that of another that was sent at the same time', async () => {
    const session = await opened()
    for (let turn = 0; turn < 3; turn++) {
      const answers = await Promise.all([
        run(session, 'select $1::int as a', [1], 'a'),
        run(session, 'select $1::text as b, 2 as c', ['x'], 'b'),
        run(session, 'select $1::int as a', [2], 'a'),
        run(session, 'select 4 as d'),
      ])
      expect(answers.map(({ rows }) => rows)).toEqual([[{ a: 1 }], [{ b: 'x', c: 2 }], [{ a: 2 }], [{ d: 4 }]])
    }
  })
})

describe('a name', () => {
  const unreliable = vi.fn<() => void>()
  const held = (session: Session): Promise<unknown[]> =>
    column(session, 'select name from pg_prepared_statements order by name')

  test('that many ask for at once is prepared once', async () => {
    const session = await opened({ onStatementsUnreliable: unreliable })
    await Promise.all([1, 2, 3, 4].map((n) => named(session, n)))
    expect(await held(session)).toEqual(['named'])
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('whose Parse fails while others ask for it fails for each alone', async () => {
    const session = await opened({ onStatementsUnreliable: unreliable })
    const ask = () => run(session, 'select n from not_yet', [], 'late')
    const codes = await Promise.all([failure(ask()), failure(ask()), failure(ask())])
    expect(codes.map(({ code }) => code)).toEqual(['42P01', '42P01', '42P01'])
    await run(session, 'create temp table not_yet as select 1 as n')
    expect((await ask()).rows).toEqual([{ n: 1 }])
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('that has to leave is closed in the same write', async () => {
    const session = await opened({ cacheSize: 1 })
    await named(session, 1)
    const writes = writesOf(session)
    await run(session, 'select $1::int as other', [1], 'other')
    expect(writes).toEqual(['CPBDES'])
    expect(await held(session)).toEqual(['other'])
  })

  test('that the server has lost is prepared anew, also when reads were sent behind it', async () => {
    const session = await opened()
    await named(session, 1)
    await run(session, 'deallocate all')
    const sent = [named(session, 2), column(session, 'select 1'), named(session, 3)]
    expect(await Promise.all(sent)).toMatchObject([{ rows: [{ n: 2 }] }, [1], { rows: [{ n: 3 }] }])
  })

  test('that the server has lost is not run again inside a transaction that began behind it', async () => {
    const session = await opened()
    const begins: Facts = { ...READ_FACTS, kind: 'transaction', verb: 'begin' }
    await named(session, 1)
    await run(session, 'deallocate all')
    const lost = failure(named(session, 2))
    await session.send({ ...statement('begin'), facts: begins })
    expect((await lost)['code']).toBe('26000')
    expect(session.status).toBe('open')
  })
})

describe('COPY … FROM STDIN', () => {
  test.each(['simple', 'unnamed in a portal', 'named'])('%s is refused, and what comes behind it runs', async (how) => {
    const session = await opened()
    await run(session, 'create temp table copied (n int)')
    const sql = 'CoPy copied from stdin'
    const copy = {
      simple: () => run(session, sql),
      named: () => run(session, sql, [], 'a_copy'),
      'unnamed in a portal': () => session.openPortal(statement(sql)).read(1),
    }[how]!
    const sent = [failure(copy()), column(session, 'select 1'), column(session, 'select $1::int', [2])]
    expect(await Promise.all(sent)).toMatchObject([
      { code: '57014', message: expect.stringContaining('no data to read') },
      [1],
      [2],
    ])
    expect(await column(session, 'select count(*)::int from copied')).toEqual([0])
  })

  test('holds up nobody when only its word stands in a text', async () => {
    const session = await opened()
    const sent = [
      column(session, "select 'copy'"),
      column(session, 'select $1::text', ['copy']),
      column(session, 'select 3'),
    ]
    expect(await Promise.all(sent)).toEqual([['copy'], ['copy'], [3]])
  })
})

test('an answer to nothing ends the connection with a typed error', async () => {
  const server = await listener((socket) =>
    socket.once('data', () => {
      socket.write(Buffer.concat([message('R', 0), message('K', 4711, 815), message('Z', Buffer.from('I'))]))
      socket.once('data', () => socket.write(Buffer.concat([message('Z', Buffer.from('I')), message('C', 'SELECT 1')])))
    }),
  )
  const session = await opened({}, server.url)
  expect(await run(session, 'select 1')).toEqual({ rows: [], command: null, count: null })
  await expect.poll(() => session.lost).toMatchObject({ code: 'SMARTPG_CONNECTION_LOST', node: 'primary' })
  expect(session.lost!.message).toContain('does not speak')
  await server.close()
})
