// Another server becomes the primary because somebody wants it so: nothing is down, and nobody shall notice.

import { describe, expect, test } from 'vitest'
import { seconds, watched } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

const INSERT = 'insert into t values (1)'

/** Where the writes were run so far. */
const ranOn = ({ writes }: TestCluster): string[] => writes.map(({ node }) => node)

describe('a planned switchover', () => {
  test('gives the old primary no reads before it was looked at as a standby, however long that takes', async () => {
    const cluster = await startedCluster({ replicas: 2, routing: { readYourWrites: 'off' } })
    cluster.freeze('replica-2')
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    cluster.engine.suspect()
    for (let i = 0; i < 60; i++) {
      const node = await cluster.readsFrom()
      const old = cluster.engine.cluster.node('primary')!
      if (node === 'primary' && old.role === 'replica') expect(old.health.because).toBe('fresh')
      await cluster.clock.advance(20)
    }
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
  })

  test('is noticed although the old primary goes on answering, and everything lands on the new one', async () => {
    const cluster = await startedCluster({ replicas: 2 })
    await cluster.run(INSERT)
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    const writes = [1, 2, 3].map((n) => watched(cluster.run(`insert into t values (${n})`)))
    await cluster.clock.advance(100)
    expect(writes.map(({ state, error }) => error ?? state)).toEqual(Array(3).fill('resolved'))
    expect(ranOn(cluster)).toEqual(['primary', 'replica-1', 'replica-1', 'replica-1'])
  })

  test('is noticed by what a server says of itself, without a write', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    // The monitor rests: only connections of the pool are there to hear it.
    await cluster.clock.advance(seconds(30))
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    cluster.primary.reportStandby(true)
    await cluster.clock.advance(10)
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
  })

  test('keeps hundreds of writes waiting for one look at the servers, not for one each', async () => {
    const cluster = await startedCluster({ replicas: 2, pool: { max: 50, min: 50, initial: 50 } })
    await cluster.clock.advance(100)
    expect(cluster.pool.counts().idle).toBe(50)
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    const before = cluster.members.map(({ server }) => server.statements().length)
    const writes = Array.from({ length: 300 }, (_, n) => watched(cluster.run(`insert into t values (${n})`)))
    await cluster.clock.advance(500)
    expect(writes.filter(({ state }) => state === 'resolved').length).toBe(300)
    const asked = cluster.members.map(({ server }, i) => {
      const ours = server.statements().slice(before[i])
      return ours.filter((sql) => sql.includes('pg_stat_wal_receiver')).length
    })
    for (const count of asked) expect(count).toBeLessThan(30)
  })
})

describe('whoever listens', () => {
  test.each([
    ['has lost its connection', (cluster: TestCluster) => cluster.kill('primary')],
    [
      'waits for a connection that nobody lets in',
      (cluster: TestCluster) => {
        cluster.freeze('primary')
        cluster.primary.killAll()
      },
    ],
    ['has a connection on which nothing is heard', (cluster: TestCluster) => cluster.freeze('primary')],
    ['could go on listening at the old one', () => undefined],
  ])('and %s listens at the next primary soon after', async (_, fails) => {
    const cluster = await startedCluster({ replicas: 1 })
    const heard: string[] = []
    const listening = watched(cluster.engine.notifications.listen('news', (payload) => heard.push(payload)))
    await cluster.clock.advance(10)
    expect(listening.state).toBe('resolved')
    fails(cluster)
    await cluster.clock.advance(100)
    cluster.promote('replica-1')
    cluster.engine.suspect()
    // The silent one is noticed by then.
    await cluster.clock.advance(seconds(5))
    cluster.replicas[0]!.notify('news', 'at the new one')
    expect(heard).toEqual(['at the new one'])
  })
})
