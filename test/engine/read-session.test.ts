// What is written within `dialect.session` is seen by whoever reads within it, on whatever server: each write tells where
// in the log it stands, and a read goes where that has been replayed.

import { CompiledQuery } from 'kysely'
import { describe, expect, test } from 'vitest'
import { OutcomeUnknownError } from '../../src/core/errors.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { POSITION } from '../../src/core/token.ts'
import type { WriteToken } from '../../src/core/token.ts'
import { Hold } from '../../src/engine/hold.ts'
import type { ReadSession } from '../../src/engine/read-session.ts'
import { stream } from '../../src/engine/stream.ts'
import { Lease } from '../../src/kysely/lease.ts'
import { rejection, seconds, watched } from '../support/engine.ts'
import type { TestEngineOptions } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

const INSERT = 'insert into t values (1)'
const SELECT = 'select a from t'

/** Own writes of the process are no concern, so that what is seen is the session's doing. */
const inSessionsOnly = (options: TestEngineOptions = {}): Promise<TestCluster> =>
  startedCluster({ replicas: 1, ...options, routing: { readYourWrites: 'session', ...options.routing } })

const within = <T>({ engine }: TestCluster, fn: (session: ReadSession) => T, token: WriteToken | null = null): T =>
  engine.sessions.run(token, () => fn(engine.sessions.current!))

/** What the primary was asked, the house's questions but for positions left out. */
const asked = ({ primary }: TestCluster): string[] =>
  primary
    .statements()
    .filter((sql) => /^(insert|begin|commit|rollback|select a)/.test(sql) || sql === POSITION.sql)
    .map((sql) => (sql === POSITION.sql ? 'position' : sql))

/** How often replicas were asked how far they are. */
const looks = ({ replicas }: TestCluster): number =>
  replicas.flatMap((replica) => replica.statements()).filter((sql) => sql === NODE_SQL).length

describe('a write within a session', () => {
  test('asks where it stands behind it: on the same connection, before anything is answered', async () => {
    const cluster = await inSessionsOnly()
    const behind: number[] = []
    cluster.primary.on('insert', (_, session) => {
      behind.push(session.unanswered)
      return { delayMs: 20 }
    })
    const write = watched(within(cluster, () => cluster.run(INSERT)))
    await cluster.clock.advance(100)
    expect(write.state).toBe('resolved')
    expect(behind).toEqual([1])
    expect(asked(cluster)).toEqual([INSERT, 'position'])
    expect(
      new Set(
        cluster.primary.log
          .filter(({ sql }) => /^insert|wal_insert_lsn\(\) end as lsn/.test(sql))
          .map(({ pid }) => pid),
      ).size,
    ).toBe(1)
  })

  test('of a transaction asks once, behind COMMIT', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async () => {
      const lease = cluster.lease()
      await lease.begin()
      await lease.run(INSERT)
      await lease.run(SELECT)
      await lease.run('commit')
      lease.release()
    })
    expect(asked(cluster)).toEqual(['begin', INSERT, SELECT, 'commit', 'position'])
  })

  test('that leaves in a batch asks in the same write, behind COMMIT', async () => {
    const cluster = await inSessionsOnly()
    const behind: number[] = []
    cluster.primary.on(/^commit/, (_, session) => {
      behind.push(session.unanswered)
      return {}
    })
    await within(cluster, async () => {
      const lease = new Lease(cluster.engine)
      await lease.begin({})
      await lease.together([INSERT, 'commit'].map((sql) => CompiledQuery.raw(sql)))
      lease.committed()
      lease.release()
    })
    expect(asked(cluster)).toEqual(['begin', INSERT, 'commit', 'position'])
    expect(behind).toEqual([1])
  })

  test('that is streamed asks behind its own COMMIT', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async (session) => {
      const statement = cluster.engine.statement('insert into t values (1) returning a', [])
      const hold = new Hold()
      for await (const rows of stream(cluster.engine, hold, statement, {
        chunkSize: 10,
        signal: undefined,
        timeoutMs: undefined,
      })) {
        expect(rows).toEqual([])
      }
      hold.end()
      expect(session.token).not.toBe(null)
    })
    expect(asked(cluster)).toEqual(['begin', 'insert into t values (1) returning a', 'commit', 'position'])
  })

  test('on a connection that its caller keeps asks each time', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async () => {
      const lease = cluster.lease()
      await lease.run(INSERT)
      await lease.run(INSERT)
      await lease.run(SELECT)
      lease.release()
    })
    expect(asked(cluster)).toEqual([INSERT, 'position', INSERT, 'position', SELECT])
  })

  test.each<[string, (cluster: TestCluster) => Promise<unknown>]>([
    ['a read', ({ run }) => run('select a from t for update')],
    ['a transaction that only reads', (cluster) => inTransaction(cluster, [SELECT, 'commit'])],
    ['a transaction that is rolled back', (cluster) => inTransaction(cluster, [INSERT, 'rollback'])],
  ])('%s asks nothing', async (_, work) => {
    const cluster = await inSessionsOnly()
    await within(cluster, () => work(cluster))
    expect(asked(cluster)).not.toContain('position')
  })

  test('asks nothing with readYourWrites off, nor does one outside of sessions', async () => {
    const off = await inSessionsOnly({ routing: { readYourWrites: 'off' } })
    await within(off, () => off.run(INSERT))
    expect(asked(off)).toEqual([INSERT])
    const on = await inSessionsOnly()
    await within(on, () => undefined)
    await on.run(INSERT)
    expect(asked(on)).toEqual([INSERT])
  })

  test('that is refused leaves its session as it was', async () => {
    const cluster = await inSessionsOnly()
    const refused = serverError('23505', 'duplicate key')
    cluster.primary.on('insert', { error: refused })
    await within(cluster, async (session) => {
      expect(await rejection(cluster.run(INSERT))).toBe(refused)
      expect(session.unplaced).toBe(false)
      expect(await cluster.readsFrom()).toBe('replica-1')
    })
  })
})

async function inTransaction(cluster: TestCluster, texts: string[]): Promise<void> {
  const lease = cluster.lease()
  await lease.begin()
  for (const sql of texts) await lease.run(sql)
  lease.release()
}

describe('a read within a session that has written', () => {
  test('goes to the primary while no replica has replayed that, and says why', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async () => {
      await cluster.run(INSERT)
      const read = watched(cluster.run(SELECT))
      await cluster.clock.advance(5)
      expect(read.state).toBe('resolved')
      expect(cluster.events.query.at(-1)).toMatchObject({ node: 'primary', reason: 'own-write' })
    })
  })

  test('goes to a replica that has replayed it since it was last asked, after one look', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async () => {
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
    const cluster = await inSessionsOnly({ replicas: 2 })
    await within(cluster, async () => {
      await cluster.run(INSERT)
      cluster.replay('replica-2')
      await cluster.engine.look()
      const before = looks(cluster)
      for (let i = 0; i < 5; i++) expect(await cluster.readsFrom()).toBe('replica-2')
      expect(looks(cluster)).toBe(before)
    })
  })

  test('waits no longer than 5 ms for a replica that takes its time to say how far it is', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async () => {
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
    const cluster = await inSessionsOnly({ pool: { max: 20 } })
    await within(cluster, async () => {
      await cluster.run(INSERT)
      const before = looks(cluster)
      const reads = Array.from({ length: 200 }, () => watched(cluster.run(SELECT)))
      await cluster.clock.advance(50)
      expect(reads.filter(({ state }) => state === 'resolved').length).toBe(200)
      expect(looks(cluster) - before).toBeLessThan(10)
    })
  })

  test('that is a read only transaction goes where the write is seen as well', async () => {
    const cluster = await inSessionsOnly()
    await within(cluster, async () => {
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
    const cluster = await inSessionsOnly({ routing: { readYourWrites: 'off' } })
    await within(cluster, async () => {
      await cluster.run(INSERT)
      expect(await cluster.readsFrom()).toBe('replica-1')
    })
  })

  test.each([
    ['auto', 'primary'],
    ['always', 'primary'],
    ['session', 'replica-1'],
  ] as const)('with readYourWrites %s a read outside of it goes to %s', async (readYourWrites, node) => {
    const cluster = await inSessionsOnly({ routing: { readYourWrites } })
    await within(cluster, () => cluster.run(INSERT))
    expect(await cluster.readsFrom()).toBe(node)
  })

  test('with readYourWrites auto sees what others of this process have written, too', async () => {
    const cluster = await inSessionsOnly({ routing: { readYourWrites: 'auto' } })
    await cluster.run(INSERT)
    await within(cluster, async () => {
      expect(await cluster.readsFrom()).toBe('primary')
    })
  })
})

describe('sessions', () => {
  test('at the same time do not see each other’s writes', async () => {
    const cluster = await inSessionsOnly()
    const [writer, reader] = await Promise.all([
      within(cluster, async () => {
        await cluster.run(INSERT)
        return cluster.engine.sessions.current!.token
      }),
      within(cluster, async () => {
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
    const cluster = await inSessionsOnly()
    await within(cluster, async (outer) => {
      await cluster.run(INSERT)
      const before = outer.token!
      await within(cluster, async (inner) => {
        expect(inner.token).toEqual(before)
        await cluster.run(INSERT)
        expect(inner.token!.lsn).toBeGreaterThan(before.lsn)
        expect(outer.token).toEqual(inner.token)
      })
    })
    expect(cluster.engine.sessions.current).toBe(undefined)
  })

  test('begun with a token of another process see what was written there', async () => {
    const cluster = await inSessionsOnly()
    const { lsn } = cluster.member('primary')
    cluster.write()
    await within(
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
    const cluster = await inSessionsOnly()
    await within(cluster, async (outer) => {
      await cluster.run(INSERT)
      within(cluster, (inner) => expect(inner.token).toEqual(outer.token), { timeline: 1, lsn: 1n })
    })
  })

  test('with a token of a timeline that nobody here has seen yet read on the primary', async () => {
    const cluster = await inSessionsOnly()
    await within(
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
    const cluster = await inSessionsOnly()
    const tokens = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        within(cluster, async (session) => {
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
    const cluster = await inSessionsOnly({ replicas: 2 })
    await within(cluster, async (session) => {
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
    const cluster = await inSessionsOnly({ replicas: 2 })
    await within(cluster, async (session) => {
      await cluster.run(INSERT)
      expect(session.token!.timeline).toBe(1)
      await failedOver(cluster)
      await cluster.run(INSERT)
      expect(session.token!.timeline).toBe(2)
    })
  })
})

describe('a write of which nobody knows where it stands', () => {
  test.each<[string, (cluster: TestCluster) => void]>([
    [
      'because its connection was lost',
      ({ primary }) => primary.on('insert', { drops: networkError('ECONNRESET'), delayMs: 5 }),
    ],
    [
      'because the server does not tell',
      ({ primary }) => primary.on(POSITION.sql, { error: serverError('42501', 'permission denied') }),
    ],
    [
      'because the server was no primary any more when it was asked',
      ({ primary }) => primary.on(POSITION.sql, { rows: [{ lsn: null, timeline: null }] }),
    ],
  ])('%s sends the reads of its session to the primary, whatever replicas have replayed', async (_, prepare) => {
    const cluster = await inSessionsOnly()
    prepare(cluster)
    await within(cluster, async () => {
      const write = watched(cluster.run(INSERT))
      await cluster.clock.advance(20)
      expect(write.state).not.toBe('pending')
      cluster.replay()
      await cluster.engine.look()
      expect(await cluster.readsFrom()).toBe('primary')
    })
    expect(await cluster.readsFrom()).toBe('replica-1')
  })

  test('counts for the session around it as well', async () => {
    const cluster = await inSessionsOnly()
    cluster.primary.on('insert', { drops: networkError('ECONNRESET') })
    await within(cluster, async () => {
      const error = await within(cluster, () => rejection(cluster.run(INSERT)))
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      cluster.replay()
      await cluster.engine.look()
      expect(await cluster.readsFrom()).toBe('primary')
    })
  })
})
