// Which server is the primary, while servers die, are promoted and come back. Nothing of a write may be lost or doubled
// by that, and nobody may be sent where only an old primary is left.

import { describe, expect, test } from 'vitest'
import { OutcomeUnknownError } from '../../src/core/errors.ts'
import { rejection, seconds, sent, watched } from '../support/engine.ts'
import type { TestLease } from '../support/engine.ts'
import { newTestCluster, startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { networkError } from '../support/scripted-server.ts'

const INSERT = 'insert into t values (1)'

/** Where the writes were run so far. */
const ranOn = ({ writes }: TestCluster): string[] => writes.map(({ node }) => node)

describe('when the primary is lost and a replica is promoted', () => {
  test('writes that wait for the old one run on the new one as soon as it is found, each once', async () => {
    const cluster = await startedCluster({ replicas: 2 })
    await cluster.run('insert into t values (0)')
    cluster.kill('primary')
    const waiting = [1, 2, 3, 4, 5].map((n) => watched(cluster.run(`insert into t values (${n})`)))
    await cluster.clock.advance(300)
    expect(waiting.map(({ state }) => state)).toEqual(Array(5).fill('pending'))
    cluster.promote('replica-1')
    await cluster.clock.advance(200)
    expect(waiting.map(({ state }) => state)).toEqual(Array(5).fill('resolved'))
    expect(ranOn(cluster)).toEqual(['primary', ...Array<string>(5).fill('replica-1')])
    expect(new Set(cluster.writes.map(({ sql }) => sql)).size).toBe(6)
  })

  test('that is frozen, writes that wait for a connection to it wait no longer than the next one is looked for', async () => {
    const pool = { max: 1, acquireTimeout: '30s', connectTimeout: '20s' } as const
    const cluster = await startedCluster({ replicas: 1, pool })
    const lease = cluster.lease()
    await lease.run('select a from t for update')
    cluster.freeze('primary')
    watched(lease.run('select a from t for update'))
    const writes = [1, 2, 3].map((n) => watched(cluster.run(`insert into t values (${n})`)))
    await cluster.clock.advance(100)
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(seconds(6))
    expect(writes.map(({ error, state }) => error ?? state)).toEqual(Array(3).fill('resolved'))
    expect(ranOn(cluster)).toEqual(Array(3).fill('replica-1'))
  })

  test('and no server tells its timeline, that is found out all the same', async () => {
    const cluster = newTestCluster({ replicas: 2 })
    for (const member of cluster.members) member.telling = false
    cluster.engine.start()
    await cluster.run(INSERT)
    cluster.kill('primary')
    cluster.promote('replica-1')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(500)
    expect(write.error ?? write.state).toBe('resolved')
    expect(ranOn(cluster)).toEqual(['primary', 'replica-1'])
    expect(cluster.events.failover).toEqual([
      { from: 'primary', to: 'replica-1', because: 'the primary is unreachable', timeline: null },
    ])
  })

  test('a write that was sent and not answered is never sent again: nobody knows its outcome', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    cluster.member('primary').writeMs = 10_000
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(10)
    cluster.promote('replica-1')
    cluster.kill('primary')
    await cluster.clock.advance(seconds(5))
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    expect(ranOn(cluster)).toEqual(['primary'])
  })

  test('that is frozen, and no more than that, its unanswered writes are given up soon after', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    cluster.freeze('primary')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(10)
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(seconds(8))
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    await cluster.run(INSERT)
    expect(ranOn(cluster)).toEqual(['primary', 'replica-1'])
  })

  test('a COMMIT that is unanswered then may have been kept: its caller is told that nobody knows', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const lease = cluster.lease()
    await lease.begin()
    await lease.run(INSERT)
    cluster.primary.on(/^commit/, 'never')
    const commit = watched(lease.run('commit'))
    await cluster.clock.advance(10)
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    cluster.kill('primary')
    await cluster.clock.advance(seconds(5))
    expect(commit.error).toBeInstanceOf(OutcomeUnknownError)
    lease.release()
  })

  test('a write of which nobody knows the outcome is an own write: who looks for it does not look on a stale replica', async () => {
    const cluster = await startedCluster({ replicas: 2 })
    cluster.member('primary').writeMs = 60_000
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(10)
    cluster.replay('replica-1')
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    expect(write.error).toBeInstanceOf(OutcomeUnknownError)
    expect(cluster.engine.cluster.node('replica-2')!.health.fit).toBe(true)
    expect(await cluster.readsFrom()).toBe('replica-1')
    cluster.replay('replica-2')
    await cluster.clock.advance(seconds(2))
    expect(await cluster.readsFrom()).toBe('replica-2')
  })

  test('reads go on: on the replica that remains, once that is known to follow the new one', async () => {
    const cluster = await startedCluster({ replicas: 2, routing: { readYourWrites: 'off' } })
    cluster.kill('primary')
    cluster.promote('replica-1')
    cluster.replay()
    for (let i = 0; i < 10; i++) {
      expect(await cluster.readsFrom()).toMatch(/^replica-[12]$/)
      await cluster.clock.advance(20)
    }
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
    expect(await cluster.readsFrom()).toBe('replica-2')
  })

  test('it is told once: from where to where, why, and on which timeline', async () => {
    const cluster = await startedCluster({ replicas: 2 })
    cluster.kill('primary')
    cluster.promote('replica-2')
    await cluster.clock.advance(seconds(5))
    expect(cluster.events.failover).toEqual([
      { from: 'primary', to: 'replica-2', because: 'the primary is unreachable', timeline: 2 },
    ])
  })

  test('it is found out without a single read: a lost connection is enough', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    // The monitor has gone to rest.
    await cluster.clock.advance(seconds(30))
    cluster.kill('primary')
    cluster.promote('replica-1')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(500)
    expect(write.state).toBe('resolved')
    expect(ranOn(cluster)).toEqual(['primary', 'replica-1'])
  })

  test('what it had open goes on nowhere: the old one is asked for nothing once it is back on its old timeline', async () => {
    const cluster = await startedCluster({ replicas: 2 })
    await cluster.run(INSERT)
    cluster.kill('primary')
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(2))
    const before = sent(cluster.primary).length
    cluster.comeBack('primary')
    for (let i = 0; i < 20; i++) {
      await cluster.run(INSERT)
      expect(await cluster.readsFrom()).not.toBe('primary')
      await cluster.clock.advance(150)
    }
    expect(sent(cluster.primary).slice(before)).toEqual([])
    expect(cluster.engine.cluster.node('primary')!.health).toMatchObject({ fit: false, because: 'old timeline' })
  })

  test('and the old one comes back as a standby, it gets reads again, when it has been found fresh', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { readYourWrites: 'off' } })
    cluster.kill('primary')
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(1))
    cluster.comeBack('primary', 'standby')
    expect(await cluster.readsFrom()).toBe('replica-1')
    await cluster.clock.advance(seconds(2))
    expect(await cluster.readsFrom()).toBe('primary')
    expect(cluster.events.query.at(-1)).toMatchObject({ node: 'primary', role: 'replica' })
    await cluster.run(INSERT)
    expect(ranOn(cluster)).toEqual(['replica-1'])
  })

  test('there and back again: a second failover brings the writes home', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    cluster.kill('primary')
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(1))
    await cluster.run(INSERT)
    cluster.comeBack('primary', 'standby')
    await cluster.clock.advance(seconds(2))
    cluster.kill('replica-1')
    cluster.promote('primary')
    await cluster.clock.advance(seconds(1))
    await cluster.run(INSERT)
    expect(ranOn(cluster)).toEqual(['replica-1', 'primary'])
    expect(cluster.events.failover.map(({ from, to, timeline }) => [from, to, timeline])).toEqual([
      ['primary', 'replica-1', 2],
      ['replica-1', 'primary', 3],
    ])
  })

  test.each<[string, string, (lease: TestLease) => Promise<unknown>]>([
    ['of a transaction that was open on the old one', 'commit', (lease) => lease.begin()],
    ['of a transaction that was open on the old one', INSERT, (lease) => lease.begin()],
    ['on a connection that its caller keeps', INSERT, (lease) => lease.run('select a from t for update')],
  ])('nothing more %s is sent there, since nothing of it would be kept: %s', async (_, next, opens) => {
    const cluster = await startedCluster({ replicas: 1 })
    const lease = cluster.lease()
    await opens(lease)
    await lease.run(INSERT)
    await cluster.run('select a from t for update')
    expect(cluster.pool.counts()).toMatchObject({ active: 1, idle: 1 })
    // It goes on accepting writes, on a timeline that is over.
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    const before = sent(cluster.primary).length
    const { code } = await rejection(lease.run(next))
    expect(['SMARTPG_NOT_EXECUTED', 'SMARTPG_CONNECTION_LOST']).toContain(code)
    lease.release()
    await cluster.clock.advance(10)
    expect(sent(cluster.primary).slice(before)).toEqual([])
    expect(cluster.engine.cluster.node('primary')!.pool.counts().total).toBe(0)
  })

  test('a COMMIT that is sent to the old one all the same and not answered is of unknown outcome', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const lease = cluster.lease()
    await lease.begin()
    await lease.run(INSERT)
    cluster.primary.on(/^commit/, { drops: networkError('ECONNRESET'), delayMs: 20 })
    const commit = watched(lease.run('commit'))
    await cluster.clock.advance(10)
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(100)
    expect(commit.error).toBeInstanceOf(OutcomeUnknownError)
    lease.release()
  })

  test('a wait for a new primary does not use up the time in which a connection to it may be opened', async () => {
    const cluster = await startedCluster({ replicas: 1, pool: { acquireTimeout: '1s' }, failover: { timeout: '5s' } })
    cluster.member('primary').recovering = true
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    cluster.replicas[0]!.connectDelayMs = 50
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(3))
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(1))
    expect(write.state).toBe('resolved')
  })
})
