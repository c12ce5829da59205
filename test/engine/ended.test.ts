// A query that nobody awaited outlives the callback it stood in. It must not take a connection that nobody would give
// back.

import { expect, test } from 'vitest'
import { sent, startedEngine, watched } from '../support/engine.ts'

test('a statement still waiting for a connection when its lease has ended gets none, and is never sent', async () => {
  const { pool, lease, primary, clock } = await startedEngine({ pool: { max: 1 } })
  const holder = await pool.acquire()
  const forgetful = lease()
  const late = watched(forgetful.run('insert into t values (1)'))
  await clock.advance(0)
  forgetful.release()
  pool.release(holder)
  await clock.advance(10)
  expect(late.error).toMatchObject({ code: 'SMARTPG_RELEASED' })
  expect(sent(primary)).toEqual([])
  expect(pool.counts()).toMatchObject({ active: 0, idle: 1, waiting: 0 })
})

test('a statement under way when its lease has ended is waited for before the next caller gets the connection', async () => {
  const { run, lease, primary, pool, clock } = await startedEngine({ pool: { max: 1 } })
  primary.on('slow', { delayMs: 500 })
  const forgetful = lease()
  const late = watched(forgetful.run('select slow'))
  await clock.advance(10)
  forgetful.release()
  const next = watched(run('select a from t'))
  await clock.advance(100)
  expect(next.state).toBe('pending')
  await clock.advance(500)
  expect([late.state, next.state]).toEqual(['resolved', 'resolved'])
  expect(pool.counts()).toMatchObject({ active: 0, idle: 1 })
})
