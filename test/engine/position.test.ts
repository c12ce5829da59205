// Within `dialect.session` a write tells where in the log it stands: the question rides behind it, on the same connection
// and in the same write, so that it costs no round trip and is asked after the commit.

import { CompiledQuery } from 'kysely'
import { describe, expect, test } from 'vitest'
import { OutcomeUnknownError } from '../../src/core/errors.ts'
import { POSITION } from '../../src/core/token.ts'
import { Hold } from '../../src/engine/hold.ts'
import { stream } from '../../src/engine/stream.ts'
import { Lease } from '../../src/kysely/lease.ts'
import { rejection, watched } from '../support/engine.ts'
import { inSession, startedForSessions } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

const INSERT = 'insert into t values (1)'
const SELECT = 'select a from t'

/** What the primary was asked, the house's questions but for positions left out. */
const asked = ({ primary }: TestCluster): string[] =>
  primary
    .statements()
    .filter((sql) => /^(insert|begin|commit|rollback|select a)/.test(sql) || sql === POSITION.sql)
    .map((sql) => (sql === POSITION.sql ? 'position' : sql))

describe('a write within a session', () => {
  test('asks where it stands behind it: on the same connection, before anything is answered', async () => {
    const cluster = await startedForSessions()
    const behind: number[] = []
    cluster.primary.on('insert', (_, session) => {
      behind.push(session.unanswered)
      return { delayMs: 20 }
    })
    const write = watched(inSession(cluster, () => cluster.run(INSERT)))
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
    const cluster = await startedForSessions()
    await inSession(cluster, async () => {
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
    const cluster = await startedForSessions()
    const behind: number[] = []
    cluster.primary.on(/^commit/, (_, session) => {
      behind.push(session.unanswered)
      return {}
    })
    await inSession(cluster, async () => {
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
    const cluster = await startedForSessions()
    await inSession(cluster, async (session) => {
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
    const cluster = await startedForSessions()
    await inSession(cluster, async () => {
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
    const cluster = await startedForSessions()
    await inSession(cluster, () => work(cluster))
    expect(asked(cluster)).not.toContain('position')
  })

  test('asks nothing with readYourWrites off, nor does one outside of sessions', async () => {
    const off = await startedForSessions({ routing: { readYourWrites: 'off' } })
    await inSession(off, () => off.run(INSERT))
    expect(asked(off)).toEqual([INSERT])
    const on = await startedForSessions()
    inSession(on, () => undefined)
    await on.run(INSERT)
    expect(asked(on)).toEqual([INSERT])
  })

  test('that is refused leaves its session as it was', async () => {
    const cluster = await startedForSessions()
    const refused = serverError('23505', 'duplicate key')
    cluster.primary.on('insert', { error: refused })
    await inSession(cluster, async (session) => {
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
    const cluster = await startedForSessions()
    prepare(cluster)
    await inSession(cluster, async () => {
      const write = watched(cluster.run(INSERT))
      await cluster.clock.advance(20)
      expect(write.state).not.toBe('pending')
      cluster.replay()
      await cluster.engine.look()
      expect(await cluster.readsFrom()).toBe('primary')
    })
    expect(await cluster.readsFrom()).toBe('replica-1')
  })

  test('counts for the sessions within its own as well', async () => {
    const cluster = await startedForSessions()
    cluster.primary.on('insert', { drops: networkError('ECONNRESET') })
    await inSession(cluster, async () => {
      await rejection(cluster.run(INSERT))
      cluster.replay()
      await cluster.engine.look()
      await inSession(cluster, async () => {
        expect(await cluster.readsFrom()).toBe('primary')
      })
    })
  })

  test('counts for the session around it as well', async () => {
    const cluster = await startedForSessions()
    cluster.primary.on('insert', { drops: networkError('ECONNRESET') })
    await inSession(cluster, async () => {
      const error = await inSession(cluster, () => rejection(cluster.run(INSERT)))
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      cluster.replay()
      await cluster.engine.look()
      expect(await cluster.readsFrom()).toBe('primary')
    })
  })
})
