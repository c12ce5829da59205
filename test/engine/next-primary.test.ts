// A statement is refused as read-only: by a standby that was taken for the primary, or because its caller has said so
// himself. Only the first is ours to mend.

import { describe, expect, test } from 'vitest'
import { NotExecutedError } from '../../src/core/errors.ts'
import { BEGIN_FACTS } from '../../src/core/statements.ts'
import { execute } from '../../src/engine/execute.ts'
import { probes, rejection, seconds, sent, watched } from '../support/engine.ts'
import type { TestLease } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { serverError } from '../support/scripted-server.ts'

const INSERT = 'insert into t values (1)'
const READ_ONLY = serverError('25006', 'cannot execute INSERT in a read-only transaction')

const times = (cluster: TestCluster, name: string, sql: string): number =>
  sent(cluster.member(name).server).filter((one) => one === sql).length

/** The primary is in recovery from now on, and `next` is the primary. */
function switchOver(cluster: TestCluster, next: string, told = true): void {
  cluster.member('primary').recovering = true
  cluster.promote(next)
  if (told) cluster.primary.reportStandby(true)
}

/** A transaction as Kysely begins one with `transactions.lazyBegin`: BEGIN waits for its first statement. */
async function lazily(cluster: TestCluster): Promise<TestLease> {
  const lease = cluster.lease()
  const begin = { sql: 'begin', parameters: [], facts: BEGIN_FACTS }
  lease.hold.begins('read-write')
  lease.hold.lazy = begin
  await execute(cluster.engine, lease.hold, begin)
  return lease
}

describe('a write that the primary refuses because it is a standby by now', () => {
  test.each([
    ['and says so of itself', true],
    ['and is too old to say so of itself', false],
  ])('%s runs on the next primary, once', async (_, told) => {
    const cluster = await startedCluster({ replicas: 2 })
    await cluster.run(INSERT)
    switchOver(cluster, 'replica-2', told)
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(100)
    expect(write.error ?? write.state).toBe('resolved')
    expect(cluster.writes.map(({ node }) => node)).toEqual(['primary', 'replica-2'])
    expect(cluster.events.query.at(-1)).toMatchObject({ node: 'replica-2', ok: true })
    // Nothing of its text was to blame.
    expect(cluster.events.rerun).toEqual([])
  })

  test('waits for a next primary that is not there yet', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(3))
    expect(write.state).toBe('pending')
    cluster.promote('replica-1')
    await cluster.clock.advance(200)
    expect(write.error ?? write.state).toBe('resolved')
    expect(cluster.writes.map(({ node }) => node)).toEqual(['primary', 'replica-1'])
  })

  test('waits no longer than failover.timeout, and was not executed then', async () => {
    const cluster = await startedCluster({ replicas: 1, failover: { timeout: '2s' } })
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(1_900)
    expect(write.state).toBe('pending')
    await cluster.clock.advance(300)
    expect(write.error).toBeInstanceOf(NotExecutedError)
    expect((write.error as { cause?: unknown }).cause).toMatchObject({ code: '25006' })
    expect(cluster.events.query.at(-1)).toMatchObject({ ok: false })
  })

  test('is given up by its caller at any time', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    const controller = new AbortController()
    const write = watched(cluster.run(INSERT, { signal: controller.signal }))
    await cluster.clock.advance(seconds(1))
    controller.abort(new Error('no longer wanted'))
    await cluster.clock.advance(0)
    expect(write.error).toMatchObject({ message: 'no longer wanted' })
  })

  test.each([1, 2, 3])('is tried %i times in all, as failover.attempts says', async (attempts) => {
    const cluster = await startedCluster({ replicas: 1, failover: { attempts } })
    // It says of itself that it is a standby, and when it is asked, that it is none.
    cluster.primary.reportStandby(true)
    cluster.primary.on('insert', { error: READ_ONLY })
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(20))
    expect(write.error).toMatchObject({ code: '25006' })
    expect(times(cluster, 'primary', INSERT)).toBe(attempts)
  })

  test('as the first statement of a transaction begins it anew on the next one', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    switchOver(cluster, 'replica-1')
    const lease = await lazily(cluster)
    const write = watched(lease.run(INSERT))
    await cluster.clock.advance(100)
    expect(write.error ?? write.state).toBe('resolved')
    await lease.run('commit')
    lease.release()
    expect(sent(cluster.replicas[0]!)).toEqual(['begin', INSERT, 'commit'])
    expect(cluster.writes.map(({ node }) => node)).toEqual(['primary', 'replica-1'])
  })

  test('within a transaction fails as the server says, and the roles are looked at for those who come next', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const lease = cluster.lease()
    await lease.begin()
    await lease.run('select a from t')
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    expect(await rejection(lease.run(INSERT))).toMatchObject({ code: '25006' })
    lease.release()
    await cluster.clock.advance(50)
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
  })

  test('on a connection that its caller keeps fails as the server says, and the roles are looked at', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const lease = cluster.lease()
    await lease.run(INSERT)
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    expect(await rejection(lease.run(INSERT))).toMatchObject({ code: '25006' })
    lease.release()
    await cluster.clock.advance(50)
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
  })
})

describe('a write that the primary refuses although it is no standby', () => {
  test('is the error of its caller, whose settings say read only', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    cluster.primary.on('insert', { error: READ_ONLY })
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(10))
    expect(write.error).toBe(READ_ONLY)
    expect(times(cluster, 'primary', INSERT)).toBe(1)
    expect(cluster.events.failover).toEqual([])
    expect(cluster.events.query.filter(({ ok }) => !ok).length).toBe(1)
  })

  test('is that at once where the server says of itself that it is none', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    cluster.primary.reportStandby(false)
    cluster.primary.on('insert', { error: READ_ONLY })
    // That it says so is news.
    await cluster.clock.advance(10)
    const before = cluster.members.map(({ server }) => probes(server))
    expect(await rejection(cluster.run(INSERT))).toBe(READ_ONLY)
    await cluster.clock.advance(10)
    expect(cluster.members.map(({ server }) => probes(server))).toEqual(before)
  })

  test('in a read only transaction of his is his error, too', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { readOnlyTransactions: false } })
    cluster.primary.on('insert', { error: READ_ONLY })
    const lease = cluster.lease()
    await lease.begin('read-only')
    expect(await rejection(lease.run(INSERT))).toBe(READ_ONLY)
    lease.release()
    const own = cluster.lease()
    await own.run('begin read only')
    expect(await rejection(own.run(INSERT))).toBe(READ_ONLY)
    own.release()
    await cluster.clock.advance(seconds(1))
    expect(times(cluster, 'primary', INSERT)).toBe(2)
    expect(cluster.events.failover).toEqual([])
  })
})

describe('a single server that has become a standby', () => {
  test('is connected to anew until its name leads to a primary, and the statement runs there', async () => {
    const cluster = await startedCluster({ pool: { max: 4 } })
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    const old = new Set(cluster.primary.openSessions)
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    expect(write.state).toBe('pending')
    cluster.promote('primary')
    await cluster.clock.advance(300)
    expect(write.error ?? write.state).toBe('resolved')
    for (const session of old) expect(session.lost).not.toBe(null)
    expect(cluster.writes.length).toBe(2)
  })

  test('that stays one: the statement fails as the server says when failover.timeout is over', async () => {
    const cluster = await startedCluster({ failover: { timeout: '2s' } })
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(1_900)
    expect(write.state).toBe('pending')
    await cluster.clock.advance(600)
    expect(write.error).toMatchObject({ code: '25006' })
  })

  test('goes on serving reads', async () => {
    const cluster = await startedCluster()
    const lease = cluster.lease()
    await lease.begin()
    await lease.run('select a from t')
    cluster.member('primary').recovering = true
    await rejection(lease.run(INSERT))
    lease.release()
    await cluster.clock.advance(seconds(1))
    expect(await cluster.readsFrom()).toBe('primary')
  })

  test('is let go by destroy(): who waits for it is told so', async () => {
    const cluster = await startedCluster()
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    const stopped = watched(cluster.engine.stop())
    await cluster.clock.advance(500)
    expect(stopped.state).toBe('resolved')
    expect(write.state).toBe('rejected')
    expect(cluster.clock.pendingTimers).toBe(0)
    expect(cluster.primary.openSessions).toEqual([])
  })
})
