// A connection lent as a client, as the engine sees it: who may have it, what the pool counts, and what follows from
// not knowing what was done on it. What the client itself can do is the wire's, and stands in test/kysely.

import { expect, test } from 'vitest'
import { isSmartPgError } from '../../src/core/errors.ts'
import type { Lent, Loan } from '../../src/engine/lend.ts'
import { lendTo } from '../../src/engine/lend.ts'
import { rejection, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine } from '../support/engine.ts'

const lent = (busy = false): Lent => ({ client: 'a client', busy })

function borrow<T>({ engine }: TestEngine, use: () => T | Promise<T>, loan: Partial<Loan<T>> = {}): Promise<T> {
  return lendTo(engine, { node: engine.cluster.primary, lend: () => lent(), use, signal: undefined, ...loan })
}

test('reads that follow go to the primary until the replicas have all that it may have written', async () => {
  const it = await startedEngine({ replicas: 1 })
  const read = async (): Promise<string | undefined> => {
    await it.run('select name from person')
    return it.events.query.at(-1)?.reason
  }
  expect(await read()).toBe('read')
  await borrow(it, () => it.wal.write())
  expect(await read()).toBe('own-write')
})

test('one on a replica is no write', async () => {
  const it = await startedEngine({ replicas: 1 })
  await it.run('select name from person')
  await borrow(it, () => it.wal.write(), { node: it.engine.cluster.replicas[0]! })
  await it.run('select name from person')
  expect(it.events.query.at(-1)?.reason).toBe('read')
})

test('the connection is closed for no fault of its own', async () => {
  const it = await startedEngine()
  await borrow(it, () => 'done')
  const { cells } = it.engine.cluster.primary
  expect(cells.connectionsClosed).toMatchObject({ lifetime: 1, error: 0 })
  expect(it.primary.openSessions).toEqual([])
  expect(it.pool.counts()).toMatchObject({ total: 0, active: 0 })
})

test('a node whose circuit is open lends nothing, not even what it has', async () => {
  const it = await startedEngine()
  await it.run('select 1')
  it.engine.cluster.primary.forceOpen('maintenance')
  let called = false
  const error = await rejection(borrow(it, () => void (called = true)))
  expect(isSmartPgError(error, 'SMARTPG_CIRCUIT_OPEN')).toBe(true)
  expect(called).toBe(false)
  expect(it.pool.counts()).toMatchObject({ idle: 1, active: 0 })
})

test('a hook that fails before the loan is the borrower’s error, and its connection is given up', async () => {
  const oops = new Error('oops')
  const it = await startedEngine({ onReserveConnection: () => Promise.reject(oops) })
  expect(await rejection(borrow(it, () => 'never'))).toBe(oops)
  expect(it.pool.counts()).toMatchObject({ total: 0, active: 0 })
})

test('what the borrower leaves running is cancelled, and its connection destroyed, before the place is free', async () => {
  const it = await startedEngine({ pool: { max: 1 } })
  const next = await borrow(it, () => watched(it.run('select 1')), { lend: () => lent(true) })
  const [first] = it.primary.sessions
  expect(first!.cancels).toBe(1)
  await it.clock.advance(0)
  expect(next.state).toBe('resolved')
  expect(it.primary.connects).toBe(2)
})
