// Which server is the primary, while servers die, are promoted and come back. Nothing of a write may be lost or doubled
// by that, and nobody may be sent where only an old primary is left.

import { describe, expect, test } from 'vitest'
import { ConfigError, NotExecutedError, OutcomeUnknownError } from '../../src/core/errors.ts'
import { rejection, seconds, sent, watched } from '../support/engine.ts'
import { newTestCluster, startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

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

  test('its connections are closed as they are given back, and none is handed out again', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    const lease = cluster.lease()
    await lease.run(INSERT)
    await lease.run('select a from t')
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(seconds(1))
    const [pool] = cluster.engine.cluster.nodes.filter(({ name }) => name === 'primary').map((node) => node.pool)
    expect(pool!.counts().total).toBe(1)
    lease.release()
    await cluster.clock.advance(0)
    expect(pool!.counts().total).toBe(0)
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

describe('a planned switchover', () => {
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
    const write = watched(cluster.run(INSERT, { signal: controller.signal }))
    await cluster.clock.advance(100)
    controller.abort(new Error('no longer wanted'))
    await cluster.clock.advance(0)
    expect(write.error).toMatchObject({ message: 'no longer wanted' })
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

  test('its name may come to mean another server: that is looked at, too', async () => {
    const cluster = await vacant()
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(200)
    // As behind a moved address: whoever connects anew meets a server that is not in recovery; the old one lives on.
    const old = cluster.primary.openSessions
    const { server } = cluster.member('primary')
    const answer = server.answerTo
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

describe('hosts, of which nobody has said what they are', () => {
  test('of which the first is a standby: nothing is written before the primary is known, and then there', async () => {
    const cluster = newTestCluster({ replicas: 2, rolesUnknown: true })
    cluster.member('host-1').recovering = true
    cluster.member('host-3').recovering = false
    for (const { server } of cluster.members) server.connectDelayMs = 30
    cluster.engine.start()
    const write = watched(cluster.run(INSERT))
    const read = watched(cluster.run('select a from t'))
    await cluster.clock.advance(20)
    expect(cluster.members.flatMap(({ server }) => sent(server))).toEqual([])
    await cluster.clock.advance(300)
    expect([write.state, read.state]).toEqual(['resolved', 'resolved'])
    expect(ranOn(cluster)).toEqual(['host-3'])
    expect(cluster.primary.statements()).not.toContain(INSERT)
  })

  test('of which the first is the primary: writes run there, and no failover is told', async () => {
    const cluster = newTestCluster({ replicas: 1, rolesUnknown: true })
    cluster.engine.start()
    await cluster.run(INSERT)
    await cluster.clock.advance(seconds(2))
    expect(ranOn(cluster)).toEqual(['host-1'])
    expect(cluster.events.failover).toEqual([])
  })

  test('one that has never been the primary is not told as having been it', async () => {
    const cluster = newTestCluster({ replicas: 1, rolesUnknown: true })
    cluster.member('host-1').recovering = true
    cluster.member('host-2').recovering = false
    cluster.engine.start()
    await cluster.clock.advance(seconds(1))
    expect(cluster.engine.roles.primary.name).toBe('host-2')
    expect(cluster.events.failover.filter(({ from }) => from === 'host-1')).toEqual([])
  })

  test('ready() says so when none of them is the primary', async () => {
    const cluster = newTestCluster({ replicas: 1, rolesUnknown: true })
    cluster.member('host-1').recovering = true
    cluster.engine.start()
    const ready = watched(cluster.engine.ready(1_000))
    await cluster.clock.advance(seconds(2))
    expect(ready.state).toBe('rejected')
    expect(String(ready.error)).toContain('No server is the primary')
  })
})

describe('a server of another cluster', () => {
  test('is refused when its connection opens, with the name of the node and both clusters', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { fallbackToPrimary: false, readYourWrites: 'off' } })
    cluster.member('replica-1').systemIdentifier = '7999'
    const error = await rejection(cluster.run('select a from t'))
    const told = [error, (error as { cause?: unknown }).cause].find((one) => one instanceof ConfigError)
    expect(told).toMatchObject({ message: expect.stringContaining('7999') as string })
    expect((told as Error).message).toContain('replica-1')
    expect(sent(cluster.replicas[0]!)).toEqual([])
  })

  test('is given no reads, and the first look tells so', async () => {
    const cluster = newTestCluster({ replicas: 2, routing: { readYourWrites: 'off' } })
    cluster.member('replica-2').systemIdentifier = '7999'
    cluster.engine.start()
    await cluster.clock.advance(0)
    for (let i = 0; i < 5; i++) expect(await cluster.readsFrom()).toBe('replica-1')
    expect(cluster.events.node).toEqual([{ node: 'replica-2', role: 'replica', up: false, because: 'another cluster' }])
  })

  test('that accepts writes on a higher timeline does not become the primary', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    Object.assign(cluster.member('replica-1'), { systemIdentifier: '7999', recovering: false, timeline: 9 })
    cluster.kill('primary')
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(400)
    cluster.comeBack('primary')
    await cluster.clock.advance(seconds(3))
    expect(write.error ?? write.state).toBe('resolved')
    expect(ranOn(cluster)).toEqual(['primary'])
  })

  test('is ours when every node says the same: the cluster was replaced by another', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    for (const member of cluster.members) {
      cluster.kill(member.name)
      member.systemIdentifier = '7999'
    }
    await cluster.clock.advance(100)
    for (const { name } of cluster.members) cluster.comeBack(name)
    await cluster.clock.advance(seconds(3))
    await cluster.run(INSERT)
    expect(await cluster.readsFrom('select b from u')).toMatch(/^(primary|replica-1)$/)
    expect(cluster.engine.roles.systemIdentifier).toBe('7999')
  })

  test('is ours when every node says the same, also where nobody reads', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.run(INSERT)
    await cluster.clock.advance(seconds(30))
    for (const member of cluster.members) {
      member.systemIdentifier = '7999'
      member.server.killAll()
    }
    watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(1))
    expect(write.error ?? write.state).toBe('resolved')
  })

  test('may stand behind the address of a single node from now on', async () => {
    const cluster = await startedCluster()
    await cluster.run(INSERT)
    cluster.member('primary').systemIdentifier = '7999'
    cluster.primary.killAll()
    const write = watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(2))
    expect(write.error ?? write.state).toBe('resolved')
  })
})

describe('two servers that accept writes on one timeline', () => {
  test('the one that was the primary stays it, and the other is given nothing', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    cluster.member('replica-1').recovering = false
    await cluster.clock.advance(seconds(2))
    for (let i = 0; i < 5; i++) {
      expect(await cluster.readsFrom()).toBe('primary')
      await cluster.run(INSERT)
      await cluster.clock.advance(seconds(1))
    }
    expect(new Set(ranOn(cluster))).toEqual(new Set(['primary']))
    expect(cluster.events.failover).toEqual([])
  })
})
