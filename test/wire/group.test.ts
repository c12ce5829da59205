// Statements sent together over our own wire: one write, one Sync, and so one fate of all that stands behind a failed
// one. What is asked of a real server first; then servers that speak nonsense in the middle of it.

import { describe, expect, inject, test, vi } from 'vitest'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Rows, Session, Statement } from '../../src/core/types.ts'
import { seededChance } from '../support/chance.ts'
import {
  busy,
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

const together = (session: Session, ...statements: Statement[]): Promise<PromiseSettledResult<Rows>[]> =>
  Promise.allSettled(session.sendTogether(statements))

/** Rows of what was kept, the error of what was not. */
async function outcomes(session: Session, ...statements: Statement[]): Promise<unknown[]> {
  const settled = await together(session, ...statements)
  return settled.map((one) => (one.status === 'fulfilled' ? one.value.rows : one.reason))
}

const one = (n: number, name?: string): Statement => statement('select $1::int as n', [n], name)
const fails = statement('select 1/$1::int', [0])
const passedOver = { code: 'SMARTPG_NOT_EXECUTED', name: 'NotExecutedError', retryable: true }

describe('statements sent together', () => {
  test('leave as one write with one Sync, parameters or not, and each has its own answer', async () => {
    const session = await opened()
    const writes = writesOf(session)
    const answers = session.sendTogether([
      statement('begin'),
      statement("select g, 'x' as x from generate_series(1, 3) as g"),
      one(7),
      statement(''),
      statement('create temp table together (n int)'),
      statement('insert into together values ($1), ($2)', [1, 2]),
      statement('commit'),
    ])
    expect([session.unanswered, session.unflushed]).toEqual([7, 7])
    expect(await Promise.all(answers)).toEqual([
      { rows: [], command: 'BEGIN', count: null },
      { rows: [1, 2, 3].map((g) => ({ g, x: 'x' })), command: 'SELECT', count: 3 },
      { rows: [{ n: 7 }], command: 'SELECT', count: 1 },
      { rows: [], command: null, count: null },
      { rows: [], command: 'CREATE', count: null },
      { rows: [], command: 'INSERT', count: 2 },
      { rows: [], command: 'COMMIT', count: null },
    ])
    expect(writes).toEqual([`${'PBDE'.repeat(7)}S`])
    expect([session.unanswered, session.unflushed, session.bytesUnanswered, session.status]).toEqual([0, 0, 0, 'idle'])
  })

  test('none of them are none', async () => {
    const session = await opened()
    expect(session.sendTogether([])).toEqual([])
    expect(session.unanswered).toBe(0)
  })

  test('settle all when all have ended', async () => {
    const session = await opened()
    const seen: string[] = []
    const answers = session.sendTogether([statement('begin'), fails, one(1)])
    await Promise.allSettled(
      answers.map((answer) => answer.catch(() => undefined).then(() => seen.push(session.status))),
    )
    expect(seen).toEqual(['failed', 'failed', 'failed'])
    await run(session, 'rollback')
  })

  test('behind one that fails are not executed, and say so', async () => {
    const session = await opened()
    await run(session, 'create temp table written (n int)')
    const insert = (n: number) => statement('insert into written values ($1)', [n])
    const [begin, first, failed, ...behind] = await outcomes(
      session,
      statement('begin'),
      insert(1),
      fails,
      insert(2),
      statement('commit'),
    )
    expect([begin, first, session.status]).toEqual([[], [], 'failed'])
    expect(failed).toMatchObject({ code: '22012' })
    expect(behind).toHaveLength(2)
    for (const error of behind) {
      expect(error).toMatchObject({ ...passedOver, phase: 'execute', cause: failed })
      expect((error as Error).message).toMatch(/one before it.*failed/)
    }
    await run(session, 'rollback')
    expect(await column(session, 'select n from written')).toEqual([])
  })

  test('of which the first cannot begin are all refused, and the session serves on', async () => {
    const session = await opened()
    expect(await outcomes(session, statement('begni'), one(1))).toMatchObject([{ code: '42601' }, passedOver])
    expect([session.status, await column(session, 'select 1')]).toEqual(['idle', [1]])
  })

  test('fail with the last of them when what was put off fails at the end', async () => {
    const session = await opened()
    await run(session, 'create temp table put_off (n int unique deferrable initially deferred)')
    const twice = statement('insert into put_off values ($1), ($1)', [1])
    const inTransaction = await outcomes(session, statement('begin'), twice, statement('commit'))
    expect(inTransaction).toMatchObject([[], [], { code: '23505' }])
    expect(session.status).toBe('idle')
    // Without BEGIN the Sync commits, when the last of them has completed long ago.
    expect(await outcomes(session, one(1), twice)).toMatchObject([[{ n: 1 }], { code: '23505' }])
    expect(await column(session, 'select n from put_off')).toEqual([])
  })

  test('fail alone where only a type parser throws', async () => {
    const getTypeParser = () => (text: string) => {
      if (text === '2') throw new Error('the parser broke')
      return text
    }
    const session = await opened({ types: { getTypeParser } })
    const answers = await outcomes(session, one(1), one(2), one(3))
    expect(answers).toMatchObject([[{ n: '1' }], { message: 'the parser broke' }, [{ n: '3' }]])
  })

  test('stand among others in the order in which they were sent', async () => {
    const session = await opened()
    const before = column(session, 'select 1')
    const group = outcomes(session, one(2), fails, one(4))
    const behind = [column(session, 'select $1::int', [5]), column(session, 'select 6')]
    expect(session.unanswered).toBe(6)
    const answers = await Promise.all([before, group, ...behind])
    expect(answers).toMatchObject([[1], [[{ n: 2 }], { code: '22012' }, passedOver], [5], [6]])
    expect(session.bytesUnanswered).toBe(0)
  })

  test('wait for a COPY to end, and count as not written until then', async () => {
    const session = await opened()
    await run(session, 'create temp table copied (n int)')
    const copy = failure(run(session, 'copy copied from stdin'))
    const group = outcomes(session, one(1), one(2))
    expect([session.unanswered, session.unflushed]).toEqual([3, 3])
    expect(session.bytesUnanswered).toBeGreaterThan(2 * 'select $1::int as n'.length)
    expect((await copy)['code']).toBe('57014')
    expect(await group).toEqual([[{ n: 1 }], [{ n: 2 }]])
    expect([session.unanswered, session.unflushed, session.bytesUnanswered]).toEqual([0, 0, 0])
  })
})

describe('nothing of what is sent together is written', () => {
  const broken = { toPostgres: () => { throw new Error('no such value') } } // prettier-ignore

  test.each([
    ['a COPY', statement('copy t from stdin')],
    ['a COPY behind a comment', { ...statement('/* c */ COPY t TO stdout'), facts: { ...READ_FACTS, verb: 'copy' } }],
    ['a value that cannot be serialized', statement('select $1', [broken])],
    ['too many parameters', statement('select 1', Array(65_536).fill(1))],
  ])('when one of them is %s', async (_, culprit) => {
    const session = await opened()
    const writes = writesOf(session)
    const [first, refused, last] = await outcomes(session, one(1), culprit, one(2))
    expect(refused).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send' })
    for (const other of [first, last]) expect(other).toMatchObject({ ...passedOver, phase: 'send', cause: refused })
    expect([writes, session.unanswered]).toEqual([[], 0])
    expect(await column(session, 'select 1')).toEqual([1])
  })

  test('but a text that only has the word is sent', async () => {
    const session = await opened()
    expect(await outcomes(session, statement("select 'copyright' as copy"), one(1))).toEqual([
      [{ copy: 'copyright' }],
      [{ n: 1 }],
    ])
  })
})

describe('a name among statements sent together', () => {
  const unreliable = vi.fn<() => void>()
  const outdated = vi.fn<(name: string) => void>()
  const watched = async (cacheSize = 100): Promise<Session> => {
    unreliable.mockClear()
    outdated.mockClear()
    return opened({ cacheSize, onStatementsUnreliable: unreliable, onStatementsOutdated: outdated })
  }
  const held = (session: Session): Promise<unknown[]> =>
    column(session, 'select name from pg_prepared_statements order by name')

  test('is parsed once, however often it stands there', async () => {
    const session = await watched()
    const writes = writesOf(session)
    const ask = () => together(session, one(1, 'a'), one(2, 'a'), one(3, 'a'))
    const counts = (await ask()).map((answer) => (answer.status === 'fulfilled' ? answer.value : undefined))
    expect(counts).toMatchObject([1, 2, 3].map((n) => ({ rows: [{ n }], executions: n })))
    expect(await ask()).toMatchObject([4, 5, 6].map((executions) => ({ value: { executions } })))
    expect(writes).toEqual(['PBDEBDEBDES', 'BEBEBES'])
    expect(await held(session)).toEqual(['a'])
  })

  test('whose Parse fails is new the next time, and was not used behind it', async () => {
    const session = await watched()
    const late = (n: number) => statement('select $1::int + n as n from not_yet', [n], 'late')
    expect(await outcomes(session, late(1), late(2))).toMatchObject([{ code: '42P01' }, passedOver])
    await run(session, 'create temp table not_yet as select 1 as n')
    const writes = writesOf(session)
    expect(await outcomes(session, late(1), late(2))).toEqual([[{ n: 2 }], [{ n: 3 }]])
    expect(writes).toEqual(['PBDEBDES'])
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('whose Parse was passed over is new the next time', async () => {
    const session = await watched()
    expect(await outcomes(session, fails, one(1, 'a'), one(2, 'a'))).toMatchObject([{ code: '22012' }, passedOver, {}])
    const writes = writesOf(session)
    expect((await run(session, 'select $1::int as n', [3], 'a')).executions).toBe(1)
    expect(writes).toEqual(['PBDES'])
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('is not used by those who come behind before it is certain', async () => {
    const session = await watched()
    const group = outcomes(session, fails, one(1, 'a'))
    const behind = run(session, 'select $1::int as n', [2], 'a')
    expect(await behind).toEqual({ rows: [{ n: 2 }], command: 'SELECT', count: 1 })
    expect(await group).toMatchObject([{ code: '22012' }, passedOver])
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('that has to leave for another is closed with the next statement, whether or not they fail', async () => {
    const session = await watched(1)
    await run(session, 'select $1::int as n', [1], 'a')
    const writes = writesOf(session)
    expect(await outcomes(session, one(1, 'a'), one(2, 'b'), one(3, 'a'))).toEqual([1, 2, 3].map((n) => [{ n }]))
    await together(session, fails, one(1, 'c'), one(2, 'b'))
    expect(await column(session, 'select $1::int', [1])).toEqual([1])
    expect(writes.map((types) => types[0])).toEqual(['B', 'C', 'C'])
    expect(await held(session)).toEqual([])
    expect(unreliable).not.toHaveBeenCalled()
  })

  test.each([1, 2, 3, 4])(
    'never comes to mean another text nor gets lost, with failures by chance (seed %i)',
    async (seed) => {
      const session = await watched(3)
      const chance = seededChance(seed)
      const pick = (count: number): number => Math.floor(chance() * count)
      const letter = (): string => 'abcdef'[pick(6)]!
      const named = (n: number, name: string): Statement => statement(`select $1::int as ${name}`, [n], name)
      const wrong: unknown[] = []
      const check = (answer: Promise<Rows>, n: number, name: string, mayBePassedOver: boolean): Promise<void> =>
        answer.then(
          ({ rows }) => void (rows[0]![name] === n || wrong.push(rows)),
          (error: Error & { code?: string }) =>
            void ((mayBePassedOver && error.code === 'SMARTPG_NOT_EXECUTED') || wrong.push(error)),
        )
      for (let turn = 0; turn < 60; turn++) {
        const waits: Promise<unknown>[] = []
        for (let sent = 1 + pick(4); sent > 0; sent--) {
          if (chance() < 0.4) {
            const name = letter()
            waits.push(check(session.send(named(sent, name)), sent, name, false))
            continue
          }
          const names = Array.from({ length: 1 + pick(6) }, letter)
          const group = names.map((name, i) => named(i, name))
          const at = pick(12)
          if (at < names.length) group.splice(at, 0, fails)
          for (const [i, answer] of session.sendTogether(group).entries()) {
            if (i === at && at < names.length) waits.push(answer.catch(() => undefined))
            else waits.push(check(answer, i > at ? i - 1 : i, names[i > at ? i - 1 : i]!, i > at))
          }
        }
        await Promise.all(waits)
      }
      expect(wrong).toEqual([])
      expect(unreliable).not.toHaveBeenCalled()
      await run(session, 'select $1::int', [1])
      expect((await held(session)).length).toBeLessThanOrEqual(3)
    },
  )

  test('that the server has lost fails, is told, and is prepared the next time', async () => {
    const session = await watched()
    await run(session, 'select $1::int as n', [1], 'a')
    await run(session, 'deallocate all')
    const lost = [{ code: '26000' }, { ...passedOver, cause: { code: '26000' } }]
    expect(await outcomes(session, one(1, 'a'), one(2))).toMatchObject(lost)
    expect(unreliable).toHaveBeenCalledOnce()
    expect(await outcomes(session, one(1, 'a'), one(2))).toEqual([[{ n: 1 }], [{ n: 2 }]])
    expect(unreliable).toHaveBeenCalledOnce()
  })

  test('that the server held already fails, is told, and is used the next time', async () => {
    const session = await watched()
    await run(session, 'prepare a as select $1::int as n')
    expect(await outcomes(session, one(1, 'a'), one(2, 'a'))).toMatchObject([{ code: '42P05' }, passedOver])
    expect(unreliable).toHaveBeenCalledOnce()
    const writes = writesOf(session)
    expect(await outcomes(session, one(1, 'a'), one(2, 'a'))).toEqual([[{ n: 1 }], [{ n: 2 }]])
    expect(writes).toEqual(['BDEBDES'])
  })

  test('whose row type has changed fails, is told, and is parsed anew the next time', async () => {
    const session = await watched()
    await run(session, 'create temp table changing as select 1 as a')
    const star = statement('select * from changing', [], 'star')
    await session.send(star)
    await run(session, 'alter table changing add b int')
    expect(await outcomes(session, statement('begin'), star)).toMatchObject([[], { code: '0A000' }])
    expect(outdated.mock.calls).toEqual([['star']])
    await run(session, 'rollback')
    expect(await outcomes(session, statement('begin'), star)).toEqual([[], [{ a: 1, b: null }]])
    await run(session, 'rollback')
    expect(unreliable).not.toHaveBeenCalled()
  })
})

describe('when the connection goes', () => {
  test('before the end, nobody knows of those before the one that was told, and those behind it were not executed', async () => {
    const session = await opened()
    const other = await outside()
    const settled = outcomes(session, statement('begin'), one(1), statement('select pg_sleep(60)'), statement('commit'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await other.query('select pg_terminate_backend($1)', [session.pid])
    const lost = { code: 'SMARTPG_CONNECTION_LOST', phase: 'execute' }
    expect(await settled).toMatchObject([lost, lost, { code: '57P01' }, { code: 'SMARTPG_NOT_EXECUTED' }])
    expect([session.unanswered, session.bytesUnanswered]).toEqual([0, 0])
  })

  test('after the last has completed and before the end, nobody knows of any of them', async () => {
    const completed = Buffer.concat([message('1'), message('2'), message('n'), message('C', 'INSERT 0 1')])
    const server = await answering(Buffer.concat([completed, completed]), 'and hangs up')
    const session = await opened({}, server.url)
    const lost = { code: 'SMARTPG_CONNECTION_LOST', phase: 'execute' }
    expect(await outcomes(session, one(1), one(2))).toMatchObject([lost, lost])
    await server.close()
  })

  test('before they were written, they were not sent', async () => {
    const session = await opened()
    const settled = outcomes(session, one(1), one(2))
    session.destroy(new Error('enough'))
    const unsent = { code: 'SMARTPG_CONNECTION_LOST', phase: 'send', retryable: true }
    expect(await settled).toMatchObject([unsent, unsent])
    expect(await outcomes(session, one(1))).toMatchObject([unsent])
  })
})

/** A server that greets and then says this to whatever it is told. */
function answering(bytes: Buffer, end?: 'and hangs up'): ReturnType<typeof listener> {
  return listener((socket) =>
    socket.once('data', () => {
      socket.write(welcome)
      socket.once('data', () => {
        if (end === undefined) socket.write(bytes)
        else socket.end(bytes)
      })
    }),
  )
}

describe('a server that speaks nonsense in the middle of them', () => {
  const begun = Buffer.concat([message('1'), message('2'), message('n')])
  const done = Buffer.concat([begun, message('C', 'BEGIN')])
  const end = message('Z', Buffer.from('I'))
  const refused = message(
    'E',
    Buffer.from('SERROR\0'),
    Buffer.from('C22012\0'),
    Buffer.from('Mno\0'),
    Buffer.from('\0'),
  )

  test.each([
    ['an end before the answers', [done, end]],
    ['one answer too many', [done, done, message('C', 'SELECT 1'), end]],
    ['a row for nobody', [done, done, message('D', Buffer.from([0, 0])), end]],
    ['a row without a description', [begun, message('D', Buffer.from([0, 0])), end]],
    ['an answer behind an error', [done, refused, begun, end]],
    ['a COPY that nobody asked for', [begun, message('G', Buffer.from([0, 0, 0])), end]],
    ['a portal that stops', [begun, message('s'), end]],
  ])('%s ends the connection and settles all of them', async (_, messages) => {
    const server = await answering(Buffer.concat(messages))
    const session = await opened({}, server.url)
    const errors = (await outcomes(session, one(1), one(2))) as Error[]
    const said = errors.map((error) => (error as Error & { code: string }).code)
    expect(said.every((code) => code === 'SMARTPG_CONNECTION_LOST' || code === '22012')).toBe(true)
    expect(session.lost!.message).toContain('does not speak')
    expect([session.unanswered, session.bytesUnanswered]).toEqual([0, 0])
    await server.close()
  })

  test('a refusal and a last word settle each with its own', async () => {
    const goodbye = message(
      'E',
      Buffer.from('SFATAL\0'),
      Buffer.from('C57P01\0'),
      Buffer.from('Mbye\0'),
      Buffer.from('\0'),
    )
    const server = await answering(Buffer.concat([done, refused, goodbye]), 'and hangs up')
    const session = await opened({}, server.url)
    const lost = { code: 'SMARTPG_CONNECTION_LOST', phase: 'execute' }
    expect(await outcomes(session, one(1), one(2), one(3))).toMatchObject([
      lost,
      { code: '22012' },
      { code: 'SMARTPG_NOT_EXECUTED' },
    ])
    await server.close()
  })
})
