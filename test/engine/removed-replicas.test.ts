// Replicas that come and go while the dialect runs.

import { describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/core/errors.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { rejection, seconds, sent, watched } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

const off = { readYourWrites: 'off' } as const

const remove = (cluster: TestCluster, name: string): Promise<void> =>
  cluster.engine.remove(cluster.engine.cluster.node(name)!)

describe('a replica that is added', () => {
  test('gets reads as soon as it has been looked at, and not before', async () => {
    const cluster = await startedCluster({ routing: off })
    await cluster.run('insert into t values (1)')
    const added = cluster.standby('replica-1')
    added.server.connectDelayMs = 30
    cluster.addReplica(added.server)
    expect(await cluster.readsFrom()).toBe('primary')
    await cluster.clock.advance(100)
    added.server.connectDelayMs = 0
    expect(await cluster.readsFrom()).toBe('replica-1')
  })

  test('that cannot be reached costs nobody anything', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: off })
    const added = cluster.standby('replica-2')
    cluster.kill('replica-2')
    cluster.addReplica(added.server)
    for (let i = 0; i < 10; i++) {
      await cluster.clock.advance(300)
      expect(await cluster.readsFrom()).toBe('replica-1')
    }
  })

  test('and turns out to be the primary becomes it', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const added = cluster.standby('replica-2')
    cluster.kill('primary')
    cluster.promote('replica-2')
    cluster.addReplica(added.server)
    const write = watched(cluster.run('insert into t values (1)'))
    await cluster.clock.advance(seconds(1))
    expect(write.error ?? write.state).toBe('resolved')
    expect(cluster.writes.at(-1)!.node).toBe('replica-2')
  })

  test('by a name that is taken is refused', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const added = cluster.standby('other')
    expect(() => cluster.addReplica(added.server, { name: 'replica-1' })).toThrow(ConfigError)
    expect(cluster.engine.cluster.nodes.length).toBe(2)
  })

  test('before the start is opened with all others', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: off })
    const added = cluster.standby('replica-2')
    cluster.addReplica(added.server, { priority: 1 })
    const ready = watched(cluster.engine.ready(5_000))
    await cluster.clock.advance(seconds(1))
    expect(ready.error ?? ready.state).toBe('resolved')
    const nodes = new Set<string>()
    for (let i = 0; i < 20; i++) nodes.add(await cluster.readsFrom())
    expect([...nodes].every((node) => node.startsWith('replica'))).toBe(true)
  })
})

describe('a replica that is removed', () => {
  test('finishes what it runs, gets nothing new, and has no connection then', async () => {
    const cluster = await startedCluster({ replicas: 2, routing: off, pool: { max: 5 } })
    for (const replica of cluster.replicas) replica.on('slow', { delayMs: 500 })
    const slow = [1, 2, 3, 4].map(() => watched(cluster.run('select slow from t')))
    await cluster.clock.advance(10)
    expect(sent(cluster.replicas[0]!).length).toBeGreaterThan(0)
    const before = sent(cluster.replicas[0]!).length
    const removed = watched(remove(cluster, 'replica-1'))
    for (let i = 0; i < 5; i++) {
      expect(await cluster.readsFrom('select a from t')).toBe('replica-2')
    }
    await cluster.clock.advance(100)
    expect(removed.state).toBe('pending')
    await cluster.clock.advance(500)
    expect(removed.state).toBe('resolved')
    expect(slow.map(({ state }) => state)).toEqual(Array(4).fill('resolved'))
    expect(sent(cluster.replicas[0]!).length).toBe(before)
    expect(cluster.replicas[0]!.openSessions).toEqual([])
  })

  test('sends who waits for a connection there to the others', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: off, pool: { lanes: false, max: 1 } })
    cluster.replicas[0]!.on('slow', { delayMs: 500 })
    const reads = [1, 2, 3].map(() => watched(cluster.run('select slow from t')))
    await cluster.clock.advance(10)
    void remove(cluster, 'replica-1')
    await cluster.clock.advance(seconds(2))
    expect(reads.map(({ error, state }) => error ?? state)).toEqual(Array(3).fill('resolved'))
    expect(new Set(cluster.events.query.map(({ node }) => node))).toEqual(new Set(['replica-1', 'primary']))
  })

  test('keeps a lease that reads there until it is given back', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: off })
    const lease = cluster.lease()
    await lease.begin('read-only')
    const removed = watched(remove(cluster, 'replica-1'))
    await cluster.clock.advance(100)
    await lease.run('select a from t')
    await lease.run('commit')
    expect(removed.state).toBe('pending')
    lease.release()
    await cluster.clock.advance(0)
    expect(removed.state).toBe('resolved')
    expect(cluster.replicas[0]!.openSessions).toEqual([])
  })

  test('is not asked any more', async () => {
    const cluster = await startedCluster({ replicas: 2, routing: off })
    await cluster.readsFrom()
    await remove(cluster, 'replica-1')
    const before = cluster.replicas[0]!.log.length
    const { connects } = cluster.replicas[0]!
    for (let i = 0; i < 5; i++) {
      await cluster.readsFrom()
      await cluster.clock.advance(seconds(1))
    }
    expect(cluster.replicas[0]!.log.length).toBe(before)
    expect(cluster.replicas[0]!.connects).toBe(connects)
  })

  test('while it is being looked at is forgotten all the same', async () => {
    const cluster = await startedCluster({ replicas: 2, routing: off })
    await cluster.readsFrom()
    cluster.replicas[0]!.on(NODE_SQL, 'never')
    cluster.engine.suspect()
    await cluster.clock.advance(100)
    const removed = watched(remove(cluster, 'replica-1'))
    await cluster.clock.advance(seconds(5))
    expect(removed.state).toBe('resolved')
    expect(cluster.replicas[0]!.openSessions).toEqual([])
    expect(cluster.engine.cluster.nodes.map(({ name }) => name)).toEqual(['primary', 'replica-2'])
    expect(await cluster.readsFrom()).toBe('replica-2')
    expect(cluster.events.error.filter(({ node }) => node === 'replica-1')).toEqual([])
  })

  test('while it lets nobody in is forgotten all the same', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: off })
    cluster.freeze('replica-1')
    cluster.replicas[0]!.killAll()
    await cluster.readsFrom()
    await cluster.clock.advance(100)
    const removed = watched(remove(cluster, 'replica-1'))
    await cluster.clock.advance(seconds(40))
    expect(removed.state).toBe('resolved')
    expect(await cluster.readsFrom()).toBe('primary')
  })

  test('cannot be the primary, whatever it is called', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    expect(await rejection(remove(cluster, 'primary'))).toBeInstanceOf(ConfigError)
    cluster.kill('primary')
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(1))
    const error = await rejection(remove(cluster, 'replica-1'))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toContain('replica-1')
    await cluster.run('insert into t values (1)')
    // What was the primary may go.
    await remove(cluster, 'primary')
    expect(cluster.engine.cluster.nodes.map(({ name }) => name)).toEqual(['replica-1'])
    await cluster.run('insert into t values (2)')
    expect(await cluster.readsFrom()).toBe('replica-1')
  })

  test('may come back under its name, and gets reads when it has been looked at', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run('insert into t values (1)')
    cluster.replay()
    await cluster.engine.look()
    expect(await cluster.readsFrom()).toBe('replica-1')
    const removed = remove(cluster, 'replica-1')
    const other = cluster.standby('other')
    other.lsn -= 0x100n
    cluster.addReplica(other.server, { name: 'replica-1' })
    await removed
    await cluster.clock.advance(50)
    // The other has not replayed what the first one had.
    expect(await cluster.readsFrom()).toBe('primary')
    other.lsn += 0x100n
    await cluster.readsFrom()
    await cluster.clock.advance(seconds(1))
    expect(await cluster.readsFrom()).toBe('replica-1')
    expect(sent(other.server)).toEqual(['select a from t'])
  })

  test('as the last one leaves the primary to serve everything, also where it may not help out', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { ...off, fallbackToPrimary: false } })
    expect(await cluster.readsFrom()).toBe('replica-1')
    await remove(cluster, 'replica-1')
    expect(await cluster.readsFrom()).toBe('primary')
    await cluster.clock.advance(seconds(30))
    expect(await cluster.readsFrom()).toBe('primary')
  })

  test('and destroyed at the same time is closed once, and everything settles', async () => {
    const cluster = await startedCluster({ replicas: 2, routing: off })
    await cluster.readsFrom()
    const both = [watched(remove(cluster, 'replica-1')), watched(cluster.engine.stop())]
    await cluster.clock.advance(seconds(5))
    expect(both.map(({ state }) => state)).toEqual(['resolved', 'resolved'])
    expect(cluster.clock.pendingTimers).toBe(0)
    for (const { server } of cluster.members) expect(server.openSessions).toEqual([])
  })
})
