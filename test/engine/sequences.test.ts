// `lastval()` and `currval()` speak of what this session did last, and a session from the pool did it for others.

import { expect, test } from 'vitest'
import { rejection, sent, startedEngine } from '../support/engine.ts'

test('a stranger’s sequence value is never read: the first statement of a connection that asks for one is refused', async () => {
  const { run, primary } = await startedEngine()
  for (const text of ['select lastval()', "select currval('orders_id_seq')", 'select pg_catalog.lastval()']) {
    const error = await rejection(run(text))
    expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send' })
    expect((error as { hint?: string }).hint).toContain('RETURNING')
  }
  expect(sent(primary)).toEqual([])
})

test('on a connection or in a transaction of one’s own it is one’s own value', async () => {
  const { lease, primary } = await startedEngine()
  const own = lease()
  await own.run('select a from t')
  await own.run('insert into orders values (1)')
  await own.run('select lastval()')
  own.release()
  const transaction = lease()
  await transaction.begin()
  await transaction.run('select lastval()')
  transaction.release()
  expect(sent(primary)).toContain('select lastval()')
})

test('what a connection’s first statement drew is not asked for afterwards: it went over a connection of others', async () => {
  const { lease, primary } = await startedEngine()
  const own = lease()
  await own.run('insert into orders values (1)')
  expect(await rejection(own.run('select lastval()'))).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send' })
  await own.run('select a from t')
  expect(await rejection(own.run('select lastval()'))).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
  own.release()
  expect(sent(primary)).toEqual(['insert into orders values (1)', 'select a from t'])
})

test('together with nextval it is asked for what it has just made', async () => {
  const { run, primary } = await startedEngine()
  await run("select nextval('s'), currval('s')")
  expect(sent(primary)).toEqual(["select nextval('s'), currval('s')"])
})
