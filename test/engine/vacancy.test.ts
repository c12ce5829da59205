// No server is the primary, or the wrong one says that it is: who writes waits for the right one, and for no longer than he
// may, and is never sent to an old one.

import { describe, expect, test } from 'vitest'
import { NotExecutedError } from '../../src/core/errors.ts'
import { intercept, probes, seconds, sent, watched } from '../support/engine.ts'
import { newTestCluster, startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

const INSERT = 'insert into t values (1)'

/** Where the writes were run so far. */
const ranOn = ({ writes }: TestCluster): string[] => writes.map(({ node }) => node)

describe('an old primary that has come back beside its successor', () => {
  const beside = (options = {}): TestCluster => {
    const cluster = newTestCluster({ replicas: 1, ...options })
    cluster.promote('replica-1')
    return cluster
  }

  test.each([INSERT, 'begin', 'select surprise()', 'select a from t for update'])(
    'is sent nothing by a process that starts only then: %s',
    async (sql) => {
      const cluster = beside()
      cluster.engine.start()
      const first = watched(cluster.run(sql))
      await cluster.clock.advance(100)
      expect(first.error ?? first.state).toBe('resolved')
      expect([sent(cluster.primary), sent(cluster.replicas[0]!)[0]]).toEqual([[], sql])
    },
  )

  test('is sent nothing by a process that has slept through the failover', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    await cluster.clock.advance(seconds(60))
    cluster.kill('primary')
    cluster.promote('replica-1')
    cluster.comeBack('primary')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(100)
    expect(write.error ?? write.state).toBe('resolved')
    expect(ranOn(cluster)).toEqual(['primary', 'replica-1'])
  })

  test('is sent nothing by a process that has missed it and found nobody else until then', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    cluster.kill('primary')
    await cluster.clock.advance(seconds(1))
    cluster.promote('replica-1')
    cluster.comeBack('primary')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(500)
    expect(write.error ?? write.state).toBe('resolved')
    expect(ranOn(cluster)).toEqual(['primary', 'replica-1'])
  })

  test('is found out by one look for all who start at once', async () => {
    const cluster = beside()
    cluster.engine.start()
    const writes = Array.from({ length: 200 }, (_, n) => watched(cluster.run(`insert into t values (${n})`)))
    await cluster.clock.advance(500)
    expect(writes.filter(({ state }) => state === 'resolved').length).toBe(200)
    expect(cluster.members.map(({ server }) => probes(server) < 20)).toEqual([true, true])
  })

  test('costs a write nothing while all is well: it is sent at once', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    await cluster.clock.advance(seconds(40))
    const before = cluster.members.map(({ server }) => probes(server))
    await cluster.run(INSERT)
    expect(cluster.members.map(({ server }) => probes(server))).toEqual(before)
  })
})

describe('while no server is the primary', () => {
  const vacant = async (options = {}): Promise<TestCluster> => {
    const cluster = await startedCluster({ replicas: 2, failover: { timeout: '2s' }, ...options })
    cluster.member('primary').recovering = true
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    expect(cluster.engine.roles.vacant).toBe(true)
    return cluster
  }

  test('writes wait, and end as not executed when failover.timeout is over, with what each node says', async () => {
    const cluster = await vacant()
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(1_900)
    expect(write.state).toBe('pending')
    await cluster.clock.advance(200)
    expect(write.error).toBeInstanceOf(NotExecutedError)
    const { message } = write.error as Error
    for (const name of ['primary: ', 'replica-1: ', 'replica-2: ', 'failover.timeout']) expect(message).toContain(name)
    expect(cluster.events.query.at(-1)).toMatchObject({ ok: false, kind: 'write_simple' })
    expect(cluster.writes).toEqual([])
  })

  test('writes run within moments of the promotion', async () => {
    const cluster = await vacant()
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    cluster.promote('replica-2')
    await cluster.clock.advance(100)
    expect(write.state).toBe('resolved')
    expect(ranOn(cluster)).toEqual(['replica-2'])
  })

  test('a caller who gives up is let go at once, and nothing is left of his wait', async () => {
    const cluster = await vacant()
    const controller = new AbortController()
    const timers = cluster.clock.pendingTimers
    const write = watched(cluster.run(INSERT, { signal: controller.signal }))
    await cluster.clock.advance(100)
    expect(cluster.clock.pendingTimers).toBe(timers + 1)
    controller.abort(new Error('no longer wanted'))
    await cluster.clock.advance(0)
    expect(write.error).toMatchObject({ message: 'no longer wanted' })
    expect(cluster.clock.pendingTimers).toBe(timers)
    cluster.promote('replica-1')
    await cluster.clock.advance(seconds(1))
    expect(cluster.writes).toEqual([])
  })

  test('reads that a replica may answer need not wait', async () => {
    const cluster = await vacant({ routing: { readYourWrites: 'off' } })
    expect(await cluster.readsFrom()).toMatch(/^replica/)
  })

  test('it is told once, and once more when there is one', async () => {
    const cluster = await vacant()
    watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(3))
    expect(cluster.events.failover).toEqual([
      { from: 'primary', to: null, because: 'in recovery, and no other is primary', timeline: null },
    ])
    cluster.promote('replica-1')
    watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    expect(cluster.events.failover.slice(1)).toEqual([
      { from: 'primary', to: 'replica-1', because: expect.any(String), timeline: 2 },
    ])
  })

  test('and the same server becomes it again, that is told as well', async () => {
    const cluster = await vacant()
    cluster.promote('primary')
    watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    expect(cluster.events.failover.at(-1)).toMatchObject({ to: 'primary', timeline: 2 })
    expect(ranOn(cluster)).toEqual(['primary'])
  })

  test('a standby that takes its time to say goodbye does not delay the search', async () => {
    const cluster = newTestCluster({ replicas: 2 })
    const { server } = cluster.member('replica-1')
    intercept(server, async (how) => {
      const session = await server.open(how)
      const close = session.close.bind(session)
      session.close = async (graceMs) => {
        await new Promise<void>((resolve) => cluster.clock.setTimeout(resolve, graceMs))
        await close(0)
      }
      return session
    })
    cluster.engine.start()
    await cluster.clock.advance(0)
    cluster.member('primary').recovering = true
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(1_100)
    cluster.promote('replica-2')
    await cluster.clock.advance(200)
    expect(write.error ?? write.state).toBe('resolved')
  })

  test('its name may come to mean another server: that is looked at, too', async () => {
    const cluster = await vacant()
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(200)
    // As behind a moved address: whoever connects anew meets a server that is not in recovery; the old one lives on.
    const old = cluster.primary.openSessions
    const { server } = cluster.member('primary')
    const answer = server.answerTo.bind(server)
    server.answerTo = (statement, session) => {
      cluster.member('primary').recovering = old.includes(session)
      return answer(statement, session)
    }
    await cluster.clock.advance(seconds(1))
    expect(write.state).toBe('resolved')
  })

  test('destroy() ends every wait, and leaves neither timer nor connection', async () => {
    const cluster = await vacant()
    const waits = [INSERT, 'select a from t for update', 'begin'].map((sql) => watched(cluster.run(sql)))
    await cluster.clock.advance(100)
    const stopped = watched(cluster.engine.stop())
    await cluster.clock.advance(10)
    expect(waits.map(({ state }) => state)).toEqual(Array(3).fill('rejected'))
    await cluster.clock.advance(seconds(5))
    expect(stopped.state).toBe('resolved')
    expect(cluster.clock.pendingTimers).toBe(0)
    for (const { server } of cluster.members) expect(server.openSessions).toEqual([])
  })

  test('whoever comes after destroy() is told that, and does not wait', async () => {
    const cluster = await vacant()
    const stopped = watched(cluster.engine.stop())
    await cluster.clock.advance(seconds(5))
    expect(stopped.state).toBe('resolved')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(0)
    expect(write.error).toMatchObject({ code: 'SMARTPG_CLOSED' })
    expect(cluster.clock.pendingTimers).toBe(0)
  })
})
