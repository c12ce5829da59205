// Named statements on a real server: prepared once, forgotten on both sides when there are too many, and prepared
// anew when the server has lost them, changed under them, or holds one already.

import { beforeEach, describe, expect, test, vi } from 'vitest'
import type { Session } from '../../src/core/types.ts'
import { failure, open, run } from './sessions.ts'

const unreliable = vi.fn<() => void>()
const outdated = vi.fn<(name: string) => void>()
beforeEach(() => {
  unreliable.mockClear()
  outdated.mockClear()
})

const opened = (cacheSize = 100): Promise<Session> =>
  open({ cacheSize, onStatementsUnreliable: unreliable, onStatementsOutdated: outdated })

/** What the server holds, by name; how often each has run. */
async function held(session: Session): Promise<Record<string, number>> {
  const sql = 'select name, (generic_plans + custom_plans)::int as runs from pg_prepared_statements order by name'
  const { rows } = await run(session, sql)
  return Object.fromEntries(rows.map(({ name, runs }) => [name as string, runs as number]))
}

const number = async (session: Session, name: string, n: number): Promise<unknown> =>
  (await run(session, `select $1::int as ${name}`, [n], name)).rows[0]?.[name]

describe('a named statement', () => {
  test('is prepared once and runs under its name', async () => {
    const session = await opened()
    for (const n of [1, 2, 3]) expect(await number(session, 'a', n)).toBe(n)
    expect(await held(session)).toEqual({ a: 3 })
  })

  test('without parameters is prepared, too', async () => {
    const session = await opened()
    await run(session, 'select 1', [], 'plain')
    await run(session, 'select 1', [], 'plain')
    expect(await held(session)).toEqual({ plain: 2 })
  })

  test('is not prepared when its text has no name', async () => {
    const session = await opened()
    await run(session, 'select $1::int', [1])
    expect(await held(session)).toEqual({})
  })

  test('whose first preparation fails can be prepared later', async () => {
    const session = await opened()
    const sql = 'select n from not_yet'
    expect((await failure(run(session, sql, [], 'late')))['code']).toBe('42P01')
    await run(session, 'create temp table not_yet as select 1 as n')
    expect((await run(session, sql, [], 'late')).rows).toEqual([{ n: 1 }])
    expect(unreliable).not.toHaveBeenCalled()
  })
})

describe('the executions of a name', () => {
  const executions = async (session: Session, n: number, name = 'a'): Promise<number | undefined> =>
    (await run(session, `select 1/$1::int as ${name}`, [n], name)).executions

  test('are counted on each connection from its Parse on, those that failed included', async () => {
    const session = await opened()
    expect([await executions(session, 1), await executions(session, 1)]).toEqual([1, 2])
    await failure(executions(session, 0))
    expect([await executions(session, 1), await executions(session, 1, 'b')]).toEqual([4, 1])
    expect(await executions(await opened(), 1)).toBe(1)
  })

  test('begin anew when it is prepared anew', async () => {
    const session = await opened(1)
    await executions(session, 1)
    await executions(session, 1, 'b')
    expect([await executions(session, 1), await executions(session, 1)]).toEqual([1, 2])
    await run(session, 'deallocate all')
    expect([await executions(session, 1), await executions(session, 1)]).toEqual([1, 2])
    await run(session, 'discard all')
    session.forgetStatements()
    expect(await executions(session, 1)).toBe(1)
  })

  test('are not told without a name, nor counted when the Parse failed', async () => {
    const session = await opened()
    expect(await run(session, 'select $1::int', [1])).not.toHaveProperty('executions')
    expect(await run(session, 'select 1')).not.toHaveProperty('executions')
    await failure(run(session, 'select n from not_yet', [], 'late'))
    await run(session, 'create temp table not_yet as select 1 as n')
    expect((await run(session, 'select n from not_yet', [], 'late')).executions).toBe(1)
  })
})

describe('more names than the cache holds', () => {
  test('leave the server: the longest unused goes first', async () => {
    const session = await opened(2)
    for (const name of ['a', 'b', 'a', 'c', 'c']) await number(session, name, 1)
    expect(Object.keys(await held(session))).toEqual(['a', 'c'])
    expect(await number(session, 'b', 7)).toBe(7)
    expect(await number(session, 'a', 8)).toBe(8)
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('never pile up on the server', async () => {
    const session = await opened(5)
    for (let n = 0; n < 100; n++) await number(session, `s${n}`, n)
    expect(Object.keys(await held(session)).length).toBeLessThanOrEqual(6)
  })

  test('can be used again inside one transaction', async () => {
    const session = await opened(2)
    await run(session, 'begin')
    for (const name of ['a', 'b', 'c', 'a', 'b']) expect(await number(session, name, 5)).toBe(5)
    await run(session, 'commit')
    expect(session.status).toBe('idle')
    for (const name of ['a', 'b', 'c', 'a', 'b']) expect(await number(session, name, 6)).toBe(6)
    expect(unreliable).not.toHaveBeenCalled()
  })

  test('sent all at once are all answered, and prepared statements stay trusted', async () => {
    const session = await opened(1)
    const names = ['a', 'b', 'c', 'a', 'b', 'c', 'c', 'a']
    expect(await Promise.all(names.map((name, n) => number(session, name, n)))).toEqual(names.map((_, n) => n))
    for (const [n, name] of names.entries()) expect(await number(session, name, n)).toBe(n)
    expect(unreliable).not.toHaveBeenCalled()
  })
})

describe('a statement that the server has lost (26000)', () => {
  test('is prepared anew and answered, and the dialect is told', async () => {
    const session = await opened()
    await number(session, 'a', 1)
    await run(session, 'deallocate all')
    expect(await number(session, 'a', 2)).toBe(2)
    expect(unreliable).toHaveBeenCalledOnce()
    expect(await held(session)).toEqual({ a: 1 })
  })

  test('fails in a transaction, which is the caller’s to run again, and works after it', async () => {
    const session = await opened()
    await number(session, 'a', 1)
    await run(session, 'deallocate all')
    await run(session, 'begin')
    expect((await failure(number(session, 'a', 2)))['code']).toBe('26000')
    expect(session.status).toBe('failed')
    await run(session, 'rollback')
    expect(await number(session, 'a', 3)).toBe(3)
  })
})

async function changing(session: Session): Promise<void> {
  await run(session, 'create temp table changing as select 1 as a')
  expect((await run(session, 'select * from changing', [], 'star')).rows).toEqual([{ a: 1 }])
  await run(session, "alter table changing add b text default 'new'")
}

describe('a table changed under a prepared statement (0A000)', () => {
  test('is answered with the new columns', async () => {
    const session = await opened()
    await changing(session)
    expect((await run(session, 'select * from changing', [], 'star')).rows).toEqual([{ a: 1, b: 'new' }])
    expect((await run(session, 'select * from changing', [], 'star')).rows).toEqual([{ a: 1, b: 'new' }])
    // Nothing lies between us and the server: names may be used on.
    expect(unreliable).not.toHaveBeenCalled()
    // But the other connections hold the same: the dialect is told.
    expect(outdated.mock.calls).toEqual([['star']])
  })

  test('fails in a transaction and works after it', async () => {
    const session = await opened()
    await changing(session)
    await run(session, 'begin')
    expect((await failure(run(session, 'select * from changing', [], 'star')))['code']).toBe('0A000')
    expect(outdated.mock.calls).toEqual([['star']])
    await run(session, 'rollback')
    expect((await run(session, 'select * from changing', [], 'star')).rows).toEqual([{ a: 1, b: 'new' }])
  })

  test('leaves no stale statement on the server', async () => {
    const session = await opened()
    await changing(session)
    for (let n = 0; n < 3; n++) await run(session, 'select * from changing', [], 'star')
    expect(Object.values(await held(session))).toEqual([3])
  })
})

describe('a name that the server holds already (42P05)', () => {
  test('is used as it is, and the dialect is told', async () => {
    const session = await opened()
    await run(session, 'prepare a as select $1::int as a')
    expect(await number(session, 'a', 4)).toBe(4)
    expect(await number(session, 'a', 5)).toBe(5)
    expect(unreliable).toHaveBeenCalledOnce()
  })
})

describe('forgetStatements', () => {
  test('after DISCARD ALL prepares everything anew without a failure', async () => {
    const session = await opened()
    await number(session, 'a', 1)
    await number(session, 'b', 1)
    await run(session, 'discard all')
    session.forgetStatements()
    expect(await number(session, 'a', 2)).toBe(2)
    expect(await number(session, 'b', 3)).toBe(3)
    expect(unreliable).not.toHaveBeenCalled()
    expect(await held(session)).toEqual({ a: 1, b: 1 })
  })
})
