// Rows in chunks from a real server: portals of the wire, which live in a transaction and die with it.

import { describe, expect, test } from 'vitest'
import type { Session } from '../../src/core/types.ts'
import { busy, column, failure, open, outside, run, statement } from './sessions.ts'

async function begun(): Promise<Session> {
  const session = await open()
  await run(session, 'begin')
  return session
}

const series = (to: number) => statement('select generate_series(1, $1::int) as n', [to])

const numbers = (rows: Record<string, unknown>[]): unknown[] => rows.map(({ n }) => n)

/** Portals that the server holds in this session. */
const portals = (session: Session): Promise<unknown[]> =>
  column(session, "select name from pg_cursors where name like 'smartpg%'")

describe('a portal', () => {
  test('gives its rows in chunks, then the end', async () => {
    const session = await begun()
    const portal = session.openPortal(series(10))
    expect(numbers(await portal.read(4))).toEqual([1, 2, 3, 4])
    expect(numbers(await portal.read(4))).toEqual([5, 6, 7, 8])
    expect(numbers(await portal.read(4))).toEqual([9, 10])
    expect(await portal.read(4)).toEqual([])
    expect(session.status).toBe('open')
  })

  test('whose rows fill the last chunk ends after it', async () => {
    const portal = (await begun()).openPortal(series(4))
    expect(numbers(await portal.read(2))).toEqual([1, 2])
    expect(numbers(await portal.read(2))).toEqual([3, 4])
    expect(await portal.read(2)).toEqual([])
    expect(await portal.read(2)).toEqual([])
  })

  test('of no rows is at its end at once', async () => {
    const portal = (await begun()).openPortal(series(0))
    expect(await portal.read(10)).toEqual([])
  })

  test('goes through the type parsers of the dialect', async () => {
    const session = await open({ types: { getTypeParser: () => (text: string) => `parsed ${text}` } })
    await run(session, 'begin')
    expect(await session.openPortal(series(1)).read(5)).toEqual([{ n: 'parsed 1' }])
  })

  test('that is closed early leaves the server', async () => {
    const session = await begun()
    const portal = session.openPortal(series(1_000))
    await portal.read(3)
    expect(await portals(session)).toHaveLength(1)
    await portal.close()
    expect(await portals(session)).toEqual([])
    expect(await portal.read(3)).toEqual([])
  })

  test('that was never read closes without a word to the server', async () => {
    const session = await begun()
    const portal = session.openPortal(series(1_000))
    const closing = portal.close()
    expect(session.unanswered).toBe(0)
    await closing
  })

  test('shares its session with other portals and with statements between', async () => {
    const session = await begun()
    const [odd, even] = ['2n - 1', '2n'].map((_, i) =>
      session.openPortal(statement(`select 2 * n - ${1 - i} as n from generate_series(1, 3) as n`)),
    )
    const seen = []
    for (let turn = 0; turn < 3; turn++) {
      seen.push(...numbers(await odd!.read(1)), ...numbers(await even!.read(1)))
      expect(await column(session, 'select 0')).toEqual([0])
    }
    expect(seen).toEqual([1, 2, 3, 4, 5, 6])
    await Promise.all([odd!.close(), even!.close()])
    expect(await portals(session)).toEqual([])
  })

  test('reads in the order in which it was asked, also without waiting', async () => {
    const portal = (await begun()).openPortal(series(6))
    const first = portal.read(2)
    await first
    expect((await Promise.all([first, portal.read(2)])).map(numbers)).toEqual([
      [1, 2],
      [3, 4],
    ])
  })
})

describe('a portal that fails', () => {
  test('at a later row gives the rows before in their chunks and then the error', async () => {
    const session = await begun()
    const portal = session.openPortal(statement('select 10 / (5 - n) as n from generate_series(1, 9) as n'))
    expect(numbers(await portal.read(4))).toEqual([2, 3, 5, 10])
    expect((await failure(portal.read(4)))['code']).toBe('22012')
    expect(session.status).toBe('failed')
    await portal.close()
    await run(session, 'rollback')
    expect(session.status).toBe('idle')
  })

  test('at its text fails at the first read', async () => {
    const session = await begun()
    expect((await failure(session.openPortal(statement('select nonsense')).read(1)))['code']).toBe('42703')
    await run(session, 'rollback')
  })

  test('in a failed transaction says so', async () => {
    const session = await begun()
    const before = session.openPortal(series(10))
    await before.read(2)
    await failure(run(session, 'select 1/0'))
    expect((await failure(session.openPortal(series(1)).read(1)))['code']).toBe('25P02')
    expect((await failure(before.read(2)))['code']).toMatch(/^(25P02|34000)$/)
    await before.close()
    await run(session, 'rollback')
    expect(await column(session, 'select 1')).toEqual([1])
  })

  test('because a type parser throws leaves the connection usable', async () => {
    const types = { getTypeParser: () => () => { throw new Error('the parser broke') } } // prettier-ignore
    const session = await open({ types })
    await run(session, 'begin')
    const portal = session.openPortal(series(10))
    expect((await failure(portal.read(2))).message).toBe('the parser broke')
    await portal.close()
    expect((await run(session, 'commit')).command).toBe('COMMIT')
  })

  test('because it is a COPY leaves the connection usable', async () => {
    const session = await begun()
    await run(session, 'create temp table copied (n int)')
    await failure(session.openPortal(statement('copy copied from stdin')).read(1))
    await run(session, 'rollback')
    expect(await column(session, 'select 1')).toEqual([1])
  })

  test('because a parameter cannot be converted never reaches the server', async () => {
    const session = await begun()
    const broken = { toPostgres: () => { throw new Error('no such value') } } // prettier-ignore
    expect(() => session.openPortal(statement('select $1', [broken]))).toThrow(/\$1/)
    expect(session.unanswered).toBe(0)
    expect(session.status).toBe('open')
  })
})

describe('a portal whose connection dies', () => {
  test('between two reads settles the next one, and its close', async () => {
    const session = await begun()
    const other = await outside()
    const portal = session.openPortal(series(1_000))
    await portal.read(2)
    await other.query('select pg_terminate_backend($1)', [session.pid])
    await expect.poll(() => session.lost).not.toBeNull()
    await failure(portal.read(2))
    await portal.close().catch(() => undefined)
  })

  test('during a read settles that read', async () => {
    const session = await begun()
    const other = await outside()
    const reading = failure(session.openPortal(statement('select pg_sleep(60)')).read(2))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await other.query('select pg_terminate_backend($1)', [session.pid])
    expect((await reading)['code']).toBe('57P01')
  })

  test('by destroy settles with the reason given', async () => {
    const session = await begun()
    const other = await outside()
    const reading = failure(session.openPortal(statement('select pg_sleep(60)')).read(2))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    const reason = new Error('enough')
    session.destroy(reason)
    expect(await reading).toBe(reason)
  })
})
