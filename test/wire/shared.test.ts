// Reads of many callers under one Sync of our own wire: how many share one and who does not, what becomes of those
// behind one that fails, and that nobody is told twice, or never, whatever the server or the connection does.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, inject, test, vi } from 'vitest'
import type { Rows, Session, Statement } from '../../src/core/types.ts'
import { seededChance } from '../support/chance.ts'
import {
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
  writesOf,
} from './sessions.ts'
import type { Overrides } from './sessions.ts'

const opened = (overrides: Overrides = {}, url = inject('primaryUrl')): Promise<Session> =>
  open(overrides, url, 'native')

/** What each asker was told, in the order of the asking, and how often. */
interface Told {
  readonly answers: Promise<unknown>[]
  readonly times: number[]
  /** Indexes, in the order of the telling. */
  readonly order: number[]
}

/** Rows of what was kept, the error of what was not. */
function ask(session: Session, statements: readonly Statement[], gathers: number): Told {
  const told: Told = { answers: [], times: [], order: [] }
  for (const asked of statements) {
    const i = told.times.push(0) - 1
    told.answers.push(
      new Promise((resolve) => {
        const tell = (answer: unknown): void => {
          told.times[i]!++
          told.order.push(i)
          resolve(answer)
        }
        session.ask(asked, { resolve: ({ rows }: Rows) => tell(rows), reject: tell }, gathers)
      }),
    )
  }
  return told
}

const outcomes = (session: Session, statements: readonly Statement[], gathers = 100): Promise<unknown[]> =>
  Promise.all(ask(session, statements, gathers).answers)

const one = (n: number, name: string | undefined = 'one'): Statement => statement('select $1::int as n', [n], name)
const quotient = (n: number): Statement => statement('select 60/$1::int as n', [n], 'quotient')
/** Shows how often it was executed: a sequence forgets no transaction that failed. */
const counted = (n: number): Statement =>
  statement("select $1::int as n, nextval('counted')::int as at", [n], 'counted')
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1)

/** The server holds the names of `one`, `quotient` and `counted`. */
async function ready(session: Session): Promise<Session> {
  await run(session, 'create temp sequence counted')
  for (const known of [one(1), quotient(1)]) await session.send(known)
  await session.send(counted(1))
  await run(session, "select setval('counted', 1, false)")
  return session
}

const counts = (session: Session): number[] => [session.unanswered, session.unflushed, session.bytesUnanswered]
const syncs = (writes: readonly string[]): number => writes.join('').replaceAll(/[^SQ]/g, '').length
const executed = async (session: Session): Promise<unknown> =>
  (await column(session, 'select case when is_called then last_value else 0 end::int from counted'))[0]
const lost = { code: 'SMARTPG_CONNECTION_LOST', phase: 'execute' }
const unsent = { code: 'SMARTPG_CONNECTION_LOST', phase: 'send', retryable: true }
const divided = { code: '22012' }

describe('reads of one turn of the event loop', () => {
  test.each([2, 3, 16, 100])('%i of them leave as one write with one Sync, and each has its own answer', async (n) => {
    const session = await ready(await opened())
    const writes = writesOf(session)
    const told = ask(
      session,
      numbers(n).map((i) => one(i)),
      n,
    )
    expect([session.unanswered, session.unflushed]).toEqual([n, n])
    expect(session.bytesUnanswered).toBeGreaterThan(n * 20)
    expect(await Promise.all(told.answers)).toEqual(numbers(n).map((i) => [{ n: i }]))
    expect(writes).toEqual([`${'BE'.repeat(n)}S`])
    expect([told.times, told.order]).toEqual([Array(n).fill(1), numbers(n).map((i) => i - 1)])
    expect([counts(session), session.status]).toEqual([[0, 0, 0], 'idle'])
  })

  test('share a Sync by threes when no more than three may', async () => {
    const session = await ready(await opened())
    const writes = writesOf(session)
    expect(
      await outcomes(
        session,
        numbers(10).map((i) => one(i)),
        3,
      ),
    ).toEqual(numbers(10).map((i) => [{ n: i }]))
    expect(writes).toEqual(['BEBEBESBEBEBESBEBEBESBES'])
  })

  test('count their executions and say how many rows there were, as if each were alone', async () => {
    const session = await ready(await opened())
    const answers = numbers(3).map((n) => new Promise((resolve, reject) => session.ask(one(n), { resolve, reject }, 3)))
    expect(await Promise.all(answers)).toEqual(
      numbers(3).map((n) => ({ rows: [{ n }], command: 'SELECT', count: 1, executions: n + 1 })),
    )
  })

  test('have their names parsed under Syncs of their own before they share one', async () => {
    const session = await opened()
    const writes = writesOf(session)
    const ten = numbers(4).map((i) => one(i))
    expect(await outcomes(session, ten)).toEqual(numbers(4).map((i) => [{ n: i }]))
    expect(await outcomes(session, ten)).toEqual(numbers(4).map((i) => [{ n: i }]))
    expect(writes).toEqual(['PBDES'.repeat(4), 'BEBEBEBES'])
  })

  test.each([
    ['without names', undefined, 100],
    ['of which one may share', 'one', 1],
    ['of which none may', 'one', 0],
  ])('%s have each a Sync of its own', async (_, name, gathers) => {
    const session = await ready(await opened())
    const writes = writesOf(session)
    const told = numbers(3).map((n) => statement('select $1::int as n', [n], name))
    expect(await outcomes(session, told, gathers)).toEqual(numbers(3).map((n) => [{ n }]))
    expect([writes.length, syncs(writes)]).toEqual([1, 3])
  })

  test('are described each for itself where something in between may swap servers', async () => {
    const session = await ready(await opened({ mayBePooled: () => true }))
    const writes = writesOf(session)
    expect(await outcomes(session, [one(1), one(2)])).toEqual([[{ n: 1 }], [{ n: 2 }]])
    expect(writes).toEqual(['BDEBDES'])
  })

  test('of different texts and shapes share one as well', async () => {
    const session = await ready(await opened())
    const set = statement('select g from generate_series(1, $1::int) as g', [3], 'set')
    const nothing = statement('select 1 as x where $1::int = 0', [1], 'nothing')
    for (const known of [set, nothing]) await session.send(known)
    const writes = writesOf(session)
    expect(await outcomes(session, [set, one(1), nothing, quotient(6), set])).toEqual([
      [{ g: 1 }, { g: 2 }, { g: 3 }],
      [{ n: 1 }],
      [],
      [{ n: 10 }],
      [{ g: 1 }, { g: 2 }, { g: 3 }],
    ])
    expect(syncs(writes)).toBe(1)
  })

  test('that cannot be serialized fail before anything is sent, and harm nobody beside them', async () => {
    const session = await ready(await opened())
    const broken = statement('select $1::int as n', [{ toPostgres: () => { throw new Error('no such value') } }], 'one') // prettier-ignore
    const writes = writesOf(session)
    const answers = await outcomes(session, [one(1), broken, one(2)])
    expect(answers).toMatchObject([[{ n: 1 }], { code: 'SMARTPG_INVALID_QUERY', phase: 'send' }, [{ n: 2 }]])
    expect([writes, counts(session)]).toEqual([['BEBES'], [0, 0, 0]])
  })

  test('give way in the cache of names without losing one', async () => {
    const session = await opened({ cacheSize: 2 })
    const texts = ['a', 'b', 'c', 'd']
    const named = (n: number): Statement => {
      const name = texts[n % 4]!
      return statement(`select $1::int as ${name}`, [n], name)
    }
    for (let round = 0; round < 5; round++) {
      const answers = await outcomes(
        session,
        numbers(20).map((n) => named(n % 3 === 0 ? n : n - (n % 4))),
      )
      expect(answers).toEqual(
        numbers(20)
          .map((n) => (n % 3 === 0 ? n : n - (n % 4)))
          .map((n) => [{ [texts[n % 4]!]: n }]),
      )
    }
    expect((await column(session, 'select name from pg_prepared_statements')).length).toBeLessThanOrEqual(2)
  })
})

describe('what is asked behind reads that share a Sync', () => {
  test.each<[string, (session: Session) => Promise<unknown>]>([
    ['a write', (session) => run(session, 'insert into written values ($1)', [1])],
    ['a simple query', (session) => run(session, 'select 1')],
    ['a group', (session) => Promise.all(session.sendTogether([one(8), one(9)]))],
    ['a read that does not share', (session) => session.send(one(7))],
    ['a portal', (session) => session.openPortal(statement('select 1')).read(10)],
  ])('%s stands behind their Sync', async (_, other) => {
    const session = await ready(await opened())
    await run(session, 'create temp table written (n int)')
    const writes = writesOf(session)
    const before = ask(session, [one(1), one(2)], 100)
    const between = other(session)
    const behind = ask(session, [one(3), one(4)], 100)
    expect(await Promise.all([...before.answers, ...behind.answers])).toEqual(numbers(4).map((n) => [{ n }]))
    await between
    expect(writes[0]!.startsWith('BEBES')).toBe(true)
    expect(writes[0]!.endsWith('BEBES')).toBe(true)
    expect(counts(session)).toEqual([0, 0, 0])
  })

  test('is not harmed by one of them that fails, and does not harm them', async () => {
    const session = await ready(await opened())
    await run(session, 'create temp table written (n int primary key)')
    const insert = () => run(session, 'insert into written values ($1)', [1])
    const before = ask(session, [one(1), quotient(0), one(2)], 100)
    const written = insert()
    const twice = failure(insert())
    const behind = ask(session, [one(3), one(4)], 100)
    expect(await Promise.all(before.answers)).toMatchObject([[{ n: 1 }], divided, [{ n: 2 }]])
    expect(await written).toMatchObject({ command: 'INSERT', count: 1 })
    expect(await twice).toMatchObject({ code: '23505' })
    expect(await Promise.all(behind.answers)).toEqual([[{ n: 3 }], [{ n: 4 }]])
    expect(await column(session, 'select n from written')).toEqual([1])
  })

  test('waits for a COPY as they do, when it stands before them', async () => {
    const session = await ready(await opened())
    await run(session, 'create temp table copied (n int)')
    const copy = failure(run(session, 'copy copied from stdin'))
    const told = ask(session, [one(1), one(2)], 100)
    expect([session.unanswered, session.unflushed]).toEqual([3, 3])
    expect((await copy)['code']).toBe('57014')
    expect(await Promise.all(told.answers)).toEqual([[{ n: 1 }], [{ n: 2 }]])
    expect([told.times, counts(session)]).toEqual([
      [1, 1],
      [0, 0, 0],
    ])
  })
})

describe('a read that fails', () => {
  /** Which of ten fail. */
  test.each([[[1]], [[5]], [[10]], [[1, 10]], [[3, 4, 8]], [numbers(10)]])(
    'at %j of ten under one Sync fails alone, and everyone else is executed exactly once',
    async (failing) => {
      const session = await ready(await opened())
      const told = ask(
        session,
        numbers(10).map((n) => (failing.includes(n) ? quotient(0) : counted(n))),
        100,
      )
      const answers = await Promise.all(told.answers)
      for (const [i, answer] of answers.entries()) {
        if (failing.includes(i + 1)) expect(answer).toMatchObject(divided)
        else expect(answer).toMatchObject([{ n: i + 1 }])
      }
      expect(told.times).toEqual(Array(10).fill(1))
      expect(await executed(session)).toBe(10 - failing.length)
      expect([counts(session), session.status]).toEqual([[0, 0, 0], 'idle'])
    },
  )

  test('sends those behind it again by themselves, each with a Sync of its own', async () => {
    const session = await ready(await opened())
    const writes = writesOf(session)
    const told = ask(session, [one(1), quotient(0), one(3), one(4)], 100)
    await Promise.all(told.answers)
    expect(writes).toEqual(['BEBEBEBES', 'BESBES'])
    expect(told.order).toEqual([0, 1, 2, 3])
  })

  test('does not harm the reads under the next Sync of the same write', async () => {
    const session = await ready(await opened())
    const told = ask(session, [one(1), quotient(0), counted(3), counted(4), counted(5), quotient(0)], 3)
    const answers = await Promise.all(told.answers)
    expect(answers).toMatchObject([[{ n: 1 }], divided, [{ n: 3 }], [{ n: 4 }], [{ n: 5 }], divided])
    expect([told.times, await executed(session)]).toEqual([Array(6).fill(1), 3])
  })

  test('with a value that its type does not take fails alone', async () => {
    const session = await ready(await opened())
    const wrong = statement('select $1::int as n', ['x'], 'one')
    const late = statement('select $1::int as n', [2 ** 40], 'one')
    const answers = await outcomes(session, [one(1), wrong, one(2), late, one(3)])
    expect(answers).toMatchObject([[{ n: 1 }], { code: '22P02' }, [{ n: 2 }], { code: '22003' }, [{ n: 3 }]])
  })

  test('in the middle of its rows keeps none of them', async () => {
    const session = await ready(await opened())
    const rows = (n: number): Statement =>
      statement('select 60/($1::int - g) as n from generate_series(1, 3) as g', [n], 'rows')
    await session.send(rows(9))
    const answers = await outcomes(session, [one(1), rows(3), rows(5), one(2)])
    expect(answers).toMatchObject([[{ n: 1 }], divided, [{ n: 15 }, { n: 20 }, { n: 30 }], [{ n: 2 }]])
  })

  test('because a type parser throws harms nobody, and nothing is sent again', async () => {
    const getTypeParser = () => (text: string) => {
      if (text === '2') throw new Error('the parser broke')
      return text
    }
    const session = await ready(await opened({ types: { getTypeParser } }))
    const writes = writesOf(session)
    const answers = await outcomes(session, [one(1), one(2), one(3)])
    expect(answers).toMatchObject([[{ n: '1' }], { message: 'the parser broke' }, [{ n: '3' }]])
    expect(writes).toEqual(['BEBEBES'])
  })

  test('whose asker asks again at once harms nobody who was passed over', async () => {
    const session = await ready(await opened())
    const told: Promise<unknown>[] = []
    const again = new Promise<unknown>((resolve) => {
      const reject = (): void => resolve(Promise.all(ask(session, [one(8), quotient(0), one(9)], 100).answers))
      told.push(...ask(session, [one(1)], 100).answers)
      session.ask(quotient(0), { resolve, reject }, 100)
      told.push(...ask(session, [one(3), one(4)], 100).answers)
    })
    expect(await Promise.all(told)).toEqual([[{ n: 1 }], [{ n: 3 }], [{ n: 4 }]])
    expect(await again).toMatchObject([[{ n: 8 }], divided, [{ n: 9 }]])
    expect(counts(session)).toEqual([0, 0, 0])
  })
})

describe('a name under a shared Sync', () => {
  const unreliable = vi.fn<() => void>()
  const outdated = vi.fn<(name: string) => void>()
  const watched = async (): Promise<Session> => {
    unreliable.mockClear()
    outdated.mockClear()
    return ready(await opened({ onStatementsUnreliable: unreliable, onStatementsOutdated: outdated }))
  }
  const star = statement('select * from changing', [], 'star')

  test.each([3, 100])('whose row type has changed is answered right in the end (%i to a Sync)', async (gathers) => {
    const session = await watched()
    await run(session, 'create temp table changing as select 1 as a')
    await session.send(star)
    await run(session, 'alter table changing add b int not null default 2')
    const told = ask(session, [one(1), star, one(2), star, star, counted(3), star, one(4), star, star], gathers)
    const row = [{ a: 1, b: 2 }]
    expect(await told.answers[5]).toEqual([{ n: 3, at: 1 }])
    const others = (await Promise.all(told.answers)).toSpliced(5, 1)
    expect(others).toEqual([[{ n: 1 }], row, [{ n: 2 }], row, row, row, [{ n: 4 }], row, row])
    expect([told.times, await executed(session), counts(session)]).toEqual([Array(10).fill(1), 1, [0, 0, 0]])
    expect(outdated).toHaveBeenCalledWith('star')
    expect(unreliable).not.toHaveBeenCalled()
    const writes = writesOf(session)
    expect(await outcomes(session, [star, star])).toEqual([row, row])
    expect(await outcomes(session, [star, star])).toEqual([row, row])
    expect(writes.at(-1)).toBe('BEBES')
  })

  test('that changes again and again, in the middle of the load, never puts a value under the wrong name', async () => {
    const session = await watched()
    await run(session, 'create temp table changing as select 1 as c1')
    await session.send(star)
    for (let round = 2; round < 8; round++) {
      const before = ask(session, Array(6).fill(star), 4)
      const change = run(session, `alter table changing add c${round} int not null default ${round}`)
      const behind = ask(session, Array(6).fill(star), 4)
      await change
      const all = (columns: number) => [Object.fromEntries(numbers(columns).map((n) => [`c${n}`, n]))]
      expect(await Promise.all(before.answers)).toEqual(Array(6).fill(all(round - 1)))
      expect(await Promise.all(behind.answers)).toEqual(Array(6).fill(all(round)))
    }
    expect(counts(session)).toEqual([0, 0, 0])
  })

  test.each([3, 100])('that the server has lost is put right for everybody (%i to a Sync)', async (gathers) => {
    const session = await watched()
    await run(session, 'deallocate all')
    const told = ask(session, [one(1), one(2), counted(3), one(4), counted(5), quotient(0), one(6)], gathers)
    const answers = await Promise.all(told.answers)
    expect(answers).toMatchObject([1, 2, 3, 4, 5, 0, 6].map((n) => (n === 0 ? divided : [{ n }])))
    expect([told.times, await executed(session), counts(session)]).toEqual([Array(7).fill(1), 2, [0, 0, 0]])
    expect(unreliable).toHaveBeenCalled()
    await outcomes(session, [one(1), one(2)])
    const writes = writesOf(session)
    await outcomes(session, [one(1), one(2)])
    expect(writes).toEqual(['BEBES'])
  })
})

describe('when the connection goes', () => {
  test('before they were written, they were not sent, and each is told once', async () => {
    const session = await ready(await opened())
    const told = ask(
      session,
      numbers(5).map((n) => one(n)),
      3,
    )
    session.destroy(new Error('enough'))
    expect(await Promise.all(told.answers)).toMatchObject(numbers(5).map(() => unsent))
    const late = ask(session, [one(1), one(2)], 3)
    expect(await Promise.all(late.answers)).toMatchObject([unsent, unsent])
    await nextTurn()
    expect([told.times, late.times, counts(session)]).toEqual([Array(5).fill(1), [1, 1], [0, 0, 0]])
  })

  test('by a goodbye with an open group, they were not sent', async () => {
    const session = await ready(await opened())
    const writes = writesOf(session)
    const told = ask(session, [one(1), one(2)], 100)
    const closed = session.close(1_000)
    const late = ask(session, [one(3)], 100)
    expect(await Promise.all([...told.answers, ...late.answers])).toMatchObject([unsent, unsent, unsent])
    await closed
    expect([told.times, late.times, counts(session)]).toEqual([[1, 1], [1], [0, 0, 0]])
    expect(writes.join('')).not.toContain('B')
  })

  test('after they were written, nobody knows of any of them', async () => {
    const session = await ready(await opened())
    const told = ask(
      session,
      numbers(4).map((n) => one(n)),
      2,
    )
    await nextTurn()
    expect(session.unflushed).toBe(0)
    const unwritten = ask(session, [one(5), one(6)], 2)
    session.destroy(new Error('enough'))
    const answers = await Promise.all([...told.answers, ...unwritten.answers])
    const reason = { message: 'enough' }
    expect(answers).toMatchObject([reason, reason, reason, reason, unsent, unsent])
    await nextTurn()
    expect([told.times, unwritten.times, counts(session)]).toEqual([Array(4).fill(1), [1, 1], [0, 0, 0]])
  })

  test('in the middle of them, the one that ran is told why and the others that the connection was lost', async () => {
    const session = await ready(await opened())
    const other = await outside()
    const sleep = (seconds: number): Statement => statement('select pg_sleep($1)', [seconds], 'sleep')
    await session.send(sleep(0))
    const told = ask(session, [one(1), sleep(60), one(2), one(3)], 3)
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await other.query('select pg_terminate_backend($1)', [session.pid])
    expect(await Promise.all(told.answers)).toMatchObject([lost, { code: '57P01' }, lost, lost])
    expect([told.times, counts(session)]).toEqual([
      [1, 1, 1, 1],
      [0, 0, 0],
    ])
  })

  test('while those that were passed over are under way again, each is told once', async () => {
    const session = await ready(await opened())
    const told = ask(session, [one(1), quotient(0), one(3), one(4)], 100)
    await told.answers[1]
    session.destroy(new Error('enough'))
    const answers = await Promise.all(told.answers)
    expect(answers).toMatchObject([[{ n: 1 }], divided, {}, {}])
    for (const answer of answers.slice(2)) expect(answer).toBeInstanceOf(Error)
    expect([told.times, counts(session)]).toEqual([
      [1, 1, 1, 1],
      [0, 0, 0],
    ])
  })

  test('by the hand of the asker of the one that failed, those passed over were not sent', async () => {
    const session = await ready(await opened())
    const answers: unknown[] = []
    const tell = (answer: unknown): void => void answers.push(answer)
    await new Promise<void>((resolve) => {
      const reject = (): void => session.destroy(new Error('enough'))
      session.ask(quotient(0), { resolve: tell, reject }, 100)
      session.ask(one(1), { resolve: tell, reject: tell }, 100)
      session.ask(one(2), { resolve: tell, reject: (error) => (tell(error), resolve()) }, 100)
    })
    await nextTurn()
    expect(answers).toMatchObject([unsent, unsent])
    expect(counts(session)).toEqual([0, 0, 0])
  })
})

describe('a server that does not read', () => {
  test('keeps shared reads waiting outside of the socket, and answers them all in the end', async () => {
    const session = await ready(await opened())
    const text = (n: number): Statement => statement('select length($1::text) as n', ['x'.repeat(100_000 + n)], 'text')
    await session.send(text(0))
    const other = await outside()
    await other.query('select pg_advisory_lock(4712)')
    const blocked = run(session, 'select pg_advisory_lock(4712)')
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    const { stream } = clientOf(session).connection as unknown as { stream: { writableLength: number } }
    const answers: Promise<unknown>[] = []
    let most = 0
    for (let turn = 0; turn < 40; turn++) {
      const asked = numbers(4).map((n) => text(10 * turn + n))
      answers.push(...ask(session, asked, 3).answers)
      await nextTurn()
      most = Math.max(most, stream.writableLength)
    }
    expect(session.unflushed).toBeGreaterThan(0)
    expect(most).toBeLessThan(4_000_000)
    await other.query('select pg_advisory_unlock(4712)')
    await blocked
    const expected = numbers(40).flatMap((turn) => numbers(4).map((n) => [{ n: 100_000 + 10 * (turn - 1) + n }]))
    expect(await Promise.all(answers)).toEqual(expected)
    expect(counts(session)).toEqual([0, 0, 0])
  })
})

const int16 = (n: number): Buffer => Buffer.from([n >> 8, n & 0xff])
const described = message('T', int16(1), 'n', 0, int16(0), 23, int16(4), -1, int16(0))
const row = (n: number): Buffer => message('D', int16(1), 1, Buffer.from(String(n)))
const complete = message('C', 'SELECT 1')
const end = message('Z', Buffer.from('I'))
const done = Buffer.concat([message('2'), row(7), complete])
const said = (code: string): Buffer =>
  message('E', Buffer.from('SERROR\0'), Buffer.from(`C${code}\0`), Buffer.from('Mno\0'), Buffer.from('\0'))
const refused = said('22012')

/** A server that lets a name be parsed, and then says these bytes to whatever it is told. */
async function holding(bytes: Buffer, after?: 'and hangs up'): Promise<Session> {
  const server = await listener((socket) =>
    socket.once('data', () => {
      socket.write(welcome)
      socket.once('data', () => {
        socket.write(Buffer.concat([message('1'), message('2'), described, row(1), complete, end]))
        socket.once('data', () => {
          if (after === undefined) socket.write(bytes)
          else socket.end(bytes)
        })
      })
    }),
  )
  const session = await opened({}, server.url)
  expect((await session.send(one(1))).rows).toEqual([{ n: 1 }])
  return session
}

describe('a server that speaks nonsense in the middle of them', () => {
  test.each([
    ['an end before the answers', [done, done, end]],
    ['an end without answers', [end]],
    ['one answer too many', [done, done, done, done, end]],
    ['a row behind the last', [done, done, done, row(1), end]],
    ['a Parse that nobody sent', [message('1'), done, done, done, end]],
    ['a Parse that nobody sent behind the first', [done, message('1'), done, done, end]],
    ['a row behind an error', [done, refused, row(1), end]],
    ['an answer behind an error', [done, refused, done, end]],
    ['a description behind an error', [done, refused, described, end]],
    ['a COPY that nobody asked for', [done, message('G', Buffer.from([0, 0, 0])), end]],
    ['a portal that stops', [done, message('2'), row(1), message('s'), end]],
    ['a row of the wrong width', [done, message('2'), message('D', int16(2), -1, -1), complete, end]],
    ['bytes that are no message', [done, Buffer.from([0, 0, 0, 0, 0, 0])]],
  ])('%s ends the connection and tells everybody once', async (_, messages) => {
    const session = await holding(Buffer.concat(messages))
    const told = ask(session, [one(1), one(2), one(3)], 3)
    const errors = (await Promise.all(told.answers)) as { code: string }[]
    const codes = errors.map(({ code }) => code)
    expect(codes.filter((code) => code !== 'SMARTPG_CONNECTION_LOST' && code !== '22012')).toEqual([])
    expect(codes[0]).toBe('SMARTPG_CONNECTION_LOST')
    expect(session.lost!.message).toContain('does not speak')
    await nextTurn()
    expect([told.times, counts(session)]).toEqual([
      [1, 1, 1],
      [0, 0, 0],
    ])
  })

  test('an end too many harms nobody who has been answered', async () => {
    const session = await holding(Buffer.concat([done, done, done, end, end]))
    const told = ask(session, [one(1), one(2), one(3)], 3)
    expect(await Promise.all(told.answers)).toEqual(numbers(3).map(() => [{ n: 7 }]))
    await expect.poll(() => session.lost?.message).toContain('does not speak')
    expect([told.times, counts(session)]).toEqual([
      [1, 1, 1],
      [0, 0, 0],
    ])
  })

  test.each([
    ['after half of the answers', [done, done], [lost, lost, lost]],
    ['in the middle of a row', [done, message('2'), row(1).subarray(0, 8)], [lost, lost, lost]],
    ['after all answers, before the end', [done, done, done], [lost, lost, lost]],
    ['after an error', [done, refused], [lost, divided, lost]],
    ['with a last word', [done, said('57P01')], [lost, { code: '57P01' }, lost]],
    ['with a last word behind all answers', [done, done, done, said('57P01')], [lost, lost, { code: '57P01' }]],
  ])('and a connection that ends %s tells everybody once', async (_, messages, expected) => {
    const session = await holding(Buffer.concat(messages), 'and hangs up')
    const told = ask(session, [one(1), one(2), one(3)], 3)
    expect(await Promise.all(told.answers)).toMatchObject(expected)
    await nextTurn()
    expect([told.times, counts(session)]).toEqual([
      [1, 1, 1],
      [0, 0, 0],
    ])
  })

  test('an error at the end of all is the last one’s, and the others keep their answers', async () => {
    const session = await holding(Buffer.concat([done, done, done, said('40001'), end]))
    const told = ask(session, [one(1), one(2), one(3)], 3)
    expect(await Promise.all(told.answers)).toMatchObject([[{ n: 7 }], [{ n: 7 }], { code: '40001' }])
    expect([told.times, counts(session), session.lost]).toEqual([[1, 1, 1], [0, 0, 0], null])
  })
})

describe('whatever is asked side by side', () => {
  test.each([1, 2, 3, 4, 5, 6])('everybody gets his own right answer, once (seed %i)', async (seed) => {
    const session = await ready(await opened({ cacheSize: 5 }))
    await run(session, 'create temp table written (n int)')
    const chance = seededChance(seed)
    const pick = (count: number): number => Math.floor(chance() * count)
    const wrong: unknown[] = []
    const waits: Promise<unknown>[] = []
    let n = 0
    let countings = 0
    let writes = 0
    const tellings: number[] = []
    const check = (asked: Statement, expected: unknown, gathers: number): void => {
      const i = tellings.push(0) - 1
      waits.push(
        new Promise<void>((resolve) => {
          const tell = (answer: unknown): void => {
            tellings[i]!++
            if (JSON.stringify(answer) !== JSON.stringify(expected)) wrong.push({ answer, expected, asked })
            resolve()
          }
          const reject = (error: Error & { code?: string }): void => tell(error.code ?? String(error))
          const resolveRows = ({ rows }: Rows): void => tell(rows.map((found) => found['n']))
          session.ask(asked, { resolve: resolveRows, reject }, gathers)
        }),
      )
    }
    const deeds: (() => void)[] = [
      () => check(one(++n), [n], 1 + pick(6)),
      () => check(one(++n), [n], 16),
      () => (countings++, check(counted(++n), [n], 16)),
      () => (countings++, check(counted(++n), [n], 2 + pick(6))),
      () => check(quotient(0), '22012', 16),
      () => check(quotient(6), [10], 16),
      () => {
        const name = 'abcdef'[pick(6)]!
        check(statement(`select $1::int as n, '${name}' as name`, [++n], name), [n], 16)
      },
      () => check(one(++n, undefined), [n], 16),
      () => (writes++, check(statement('insert into written values ($1) returning n', [++n], 'write'), [n], 0)),
      () => check(statement('select 1/0 as n'), '22012', 0),
      () => {
        const [first, failed, last] = session.sendTogether([one(++n), quotient(0), one(5)])
        const expected = n
        waits.push(first!.then(({ rows }) => void (rows[0]!['n'] === expected || wrong.push(rows))))
        for (const [promise, code] of [
          [failed!, '22012'],
          [last!, 'SMARTPG_NOT_EXECUTED'],
        ] as const) {
          waits.push(failure(promise).then((error) => void (error['code'] === code || wrong.push(error))))
        }
      },
    ]
    for (let turn = 0; turn < 80; turn++) {
      for (let asked = 1 + pick(12); asked > 0; asked--) deeds[pick(deeds.length)]!()
      const pause = pick(4)
      if (pause === 1) await nextTurn()
      if (pause === 2) await Promise.resolve()
      if (pause === 3) await Promise.all(waits.splice(0))
    }
    await Promise.all(waits)
    expect(wrong).toEqual([])
    expect(tellings.filter((times) => times !== 1)).toEqual([])
    expect([await executed(session), counts(session)]).toEqual([countings, [0, 0, 0]])
    expect(await column(session, 'select count(*)::int from written')).toEqual([writes])
  })
})
