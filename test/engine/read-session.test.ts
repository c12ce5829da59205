// What is written within `dialect.session` is seen by whoever reads within it, on whatever server: each write tells where
// in the log it stands, and a read goes where that has been replayed.

import { describe, expect, test } from 'vitest'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { seconds, watched } from '../support/engine.ts'
import { inSession, startedCluster, startedForSessions } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

const INSERT = 'insert into t values (1)'
const SELECT = 'select a from t'

/** How often replicas were asked how far they are. */
const looks = ({ replicas }: TestCluster): number =>
  replicas.flatMap((replica) => replica.statements()).filter((sql) => sql === NODE_SQL).length

describe('a read within a session that has written', () => {
  test('goes to the primary while no replica has replayed that, and says why', async () => {
    const cluster = await startedForSessions()
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      const read = watched(cluster.run(SELECT))
      await cluster.clock.advance(5)
      expect(read.state).toBe('resolved')
      expect(cluster.events.query.at(-1)).toMatchObject({ node: 'primary', reason: 'own-write' })
    })
  })

  test('goes to a replica that has replayed it since it was last asked, after one look', async () => {
    const cluster = await startedForSessions()
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      cluster.replay()
      const before = looks(cluster)
      expect(await cluster.readsFrom()).toBe('replica-1')
      expect(looks(cluster)).toBe(before + 1)
      expect(await cluster.readsFrom()).toBe('replica-1')
      expect(looks(cluster)).toBe(before + 1)
    })
  })

  test('goes to the other replica, without any wait, if that is known to have replayed it', async () => {
    const cluster = await startedForSessions({ replicas: 2 })
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      cluster.replay('replica-2')
      await cluster.engine.look()
      const before = looks(cluster)
      for (let i = 0; i < 5; i++) expect(await cluster.readsFrom()).toBe('replica-2')
      expect(looks(cluster)).toBe(before)
    })
  })

  test('waits no longer than 5 ms for a replica that takes its time to say how far it is', async () => {
    const cluster = await startedForSessions()
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      cluster.replicas[0]!.on(NODE_SQL, 'never')
      const read = watched(cluster.run(SELECT))
      await cluster.clock.advance(4)
      expect(read.state).toBe('pending')
      await cluster.clock.advance(1)
      expect(read.state).toBe('resolved')
      expect(cluster.events.query.at(-1)).toMatchObject({ node: 'primary', reason: 'own-write' })
    })
  })

  test('of whatever number, they share a few looks', async () => {
    const cluster = await startedForSessions({ pool: { max: 20 } })
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      const before = looks(cluster)
      const reads = Array.from({ length: 200 }, () => watched(cluster.run(SELECT)))
      await cluster.clock.advance(50)
      expect(reads.filter(({ state }) => state === 'resolved').length).toBe(200)
      expect(looks(cluster) - before).toBeLessThan(10)
    })
  })

  test('that is a read only transaction goes where the write is seen as well', async () => {
    const cluster = await startedForSessions()
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      const lease = cluster.lease()
      const begin = watched(lease.begin('read-only'))
      await cluster.clock.advance(5)
      expect(begin.state).toBe('resolved')
      expect(lease.hold.node!.name).toBe('primary')
      lease.release()
    })
  })

  test('goes anywhere with readYourWrites off', async () => {
    const cluster = await startedForSessions({ routing: { readYourWrites: 'off' } })
    await inSession(cluster, async () => {
      await cluster.run(INSERT)
      expect(await cluster.readsFrom()).toBe('replica-1')
    })
  })

  test.each([
    ['auto', 'primary'],
    ['always', 'primary'],
    ['session', 'replica-1'],
  ] as const)('with readYourWrites %s a read outside of it goes to %s', async (readYourWrites, node) => {
    const cluster = await startedForSessions({ routing: { readYourWrites } })
    await inSession(cluster, () => cluster.run(INSERT))
    expect(await cluster.readsFrom()).toBe(node)
  })

  test('with readYourWrites auto sees what others of this process have written, too', async () => {
    const cluster = await startedForSessions({ routing: { readYourWrites: 'auto' } })
    await cluster.run(INSERT)
    await inSession(cluster, async () => {
      expect(await cluster.readsFrom()).toBe('primary')
    })
  })
})

describe('sessions', () => {
  test('at the same time do not see each other’s writes', async () => {
    const cluster = await startedForSessions()
    const [writer, reader] = await Promise.all([
      inSession(cluster, async () => {
        await cluster.run(INSERT)
        return cluster.engine.sessions.current!.token
      }),
      inSession(cluster, async () => {
        await cluster.run(SELECT)
        await cluster.run(SELECT)
        return cluster.engine.sessions.current!.token
      }),
    ])
    expect(writer).not.toBe(null)
    expect(reader).toBe(null)
    const reads = cluster.events.query.filter(({ kind }) => kind === 'read_simple')
    expect(reads.map(({ node }) => node)).toEqual(['replica-1', 'replica-1'])
  })

  test('within one another: the inner one sees what the outer has written, and what it writes the outer sees', async () => {
    const cluster = await startedForSessions()
    await inSession(cluster, async (outer) => {
      await cluster.run(INSERT)
      const before = outer.token!
      await inSession(cluster, async (inner) => {
        expect(inner.token).toEqual(before)
        await cluster.run(INSERT)
        expect(inner.token!.lsn).toBeGreaterThan(before.lsn)
        expect(outer.token).toEqual(inner.token)
      })
    })
    expect(cluster.engine.sessions.current).toBe(undefined)
  })

  test('begun with a token of another process see what was written there', async () => {
    const cluster = await startedForSessions()
    const { lsn } = cluster.member('primary')
    cluster.write()
    await inSession(
      cluster,
      async () => {
        const read = watched(cluster.run(SELECT))
        await cluster.clock.advance(5)
        expect(read.state).toBe('resolved')
        expect(cluster.events.query.at(-1)!.node).toBe('primary')
        cluster.replay()
        expect(await cluster.readsFrom()).toBe('replica-1')
      },
      { timeline: 1, lsn: lsn + 0x100n },
    )
  })

  test('begun with an older token than the one around them keep to the newer', async () => {
    const cluster = await startedForSessions()
    await inSession(cluster, async (outer) => {
      await cluster.run(INSERT)
      inSession(cluster, (inner) => expect(inner.token).toEqual(outer.token), { timeline: 1, lsn: 1n })
    })
  })

  test('with a token of a timeline that nobody here has seen yet read on the primary', async () => {
    const cluster = await startedForSessions()
    await inSession(
      cluster,
      async () => {
        const read = watched(cluster.run(SELECT))
        await cluster.clock.advance(5)
        expect(read.state).toBe('resolved')
        expect(cluster.events.query.at(-1)!.node).toBe('primary')
      },
      { timeline: 2, lsn: 1n },
    )
  })

  test('end with the work that was begun in them: who is called back later stands in his own', async () => {
    const cluster = await startedForSessions()
    const tokens = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        inSession(cluster, async (session) => {
          for (let n = 0; n < i % 3; n++) await cluster.run(INSERT)
          expect(cluster.engine.sessions.current).toBe(session)
          return session.token === null
        }),
      ),
    )
    expect(tokens).toEqual(Array.from({ length: 20 }, (_, i) => i % 3 === 0))
  })
})

describe('after a failover', () => {
  const failedOver = async (cluster: TestCluster): Promise<void> => {
    cluster.kill('primary')
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(1))
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
  }

  test('a token of the old timeline is satisfied by a replica that has come as far as the new one began', async () => {
    const cluster = await startedForSessions({ replicas: 2 })
    await inSession(cluster, async (session) => {
      await cluster.run(INSERT)
      // Far beyond whatever the new timeline has written: as a number it would never be reached.
      session.wrote({ timeline: 1, lsn: 0xffff_ffffn })
      cluster.replay()
      await failedOver(cluster)
      const read = watched(cluster.run(SELECT))
      await cluster.clock.advance(5)
      expect([read.state, cluster.events.query.at(-1)!.node]).toEqual(['resolved', 'replica-1'])
      cluster.replay()
      await cluster.engine.look()
      expect(await cluster.readsFrom()).toBe('replica-2')
    })
  })

  test('own writes are shown by no position of the old timeline', async () => {
    const cluster = await startedCluster({ replicas: 2 })
    await cluster.run(INSERT)
    cluster.write(0x10_0000n)
    cluster.replay('replica-2')
    await cluster.engine.look()
    // The one that is behind is promoted: what the other has replayed beyond it belongs to a timeline that is gone.
    await failedOver(cluster)
    for (let i = 0; i < 5; i++) {
      expect(await cluster.readsFrom()).toBe('replica-1')
      await cluster.clock.advance(50)
    }
    Object.assign(cluster.member('replica-2'), { lsn: cluster.member('replica-1').lsn, timeline: 2 })
    await cluster.clock.advance(seconds(2))
    await cluster.readsFrom()
    await cluster.clock.advance(seconds(2))
    expect(await cluster.readsFrom()).toBe('replica-2')
  })

  test('writes of a session tell positions of the new timeline', async () => {
    const cluster = await startedForSessions({ replicas: 2 })
    await inSession(cluster, async (session) => {
      await cluster.run(INSERT)
      expect(session.token!.timeline).toBe(1)
      await failedOver(cluster)
      await cluster.run(INSERT)
      expect(session.token!.timeline).toBe(2)
    })
  })
})
