// Who looks at the servers, how often, and what becomes of it when one of them takes its time, is away, or says no.

import { describe, expect, test } from 'vitest'
import { formatLsn } from '../../src/core/freshness.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import type { Row } from '../../src/core/types.ts'
import { FINGERPRINT } from '../../src/engine/catalog-queries.ts'
import { intercept, probes, seconds, watched } from '../support/engine.ts'
import type { TestEngineOptions } from '../support/engine.ts'
import { newTestCluster, startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import type { ScriptedServer } from '../support/scripted-server.ts'

const INSERT = 'insert into t values (1)'

const off = (options: TestEngineOptions = {}): TestEngineOptions => ({
  replicas: 2,
  ...options,
  routing: { readYourWrites: 'off', ...options.routing },
})

const allProbes = ({ members }: TestCluster): number => members.reduce((sum, { server }) => sum + probes(server), 0)
const healthOf = ({ engine }: TestCluster, name: string) => engine.cluster.node(name)!.health

describe('a server that takes its time', () => {
  test('does not delay what is found out about the others', async () => {
    const cluster = await startedCluster(off())
    cluster.replicas[0]!.on(NODE_SQL, 'never')
    for (let i = 0; i < 20; i++) {
      await cluster.clock.advance(200)
      expect(await cluster.readsFrom()).toMatch(/^replica/)
      const { fit, at } = healthOf(cluster, 'replica-2')
      expect(fit).toBe(true)
      expect(cluster.clock.now() - at).toBeLessThan(2_000)
    }
    expect(healthOf(cluster, 'replica-1').fit).toBe(false)
  })

  test('to let somebody in does not delay the others either', async () => {
    const cluster = await startedCluster(off())
    cluster.freeze('replica-1')
    cluster.replicas[0]!.killAll()
    for (let i = 0; i < 20; i++) {
      await cluster.clock.advance(200)
      expect(await cluster.readsFrom()).toBe('replica-2')
    }
  })

  test('and is the primary does not make replicas look as if they were ahead of it', async () => {
    const cluster = await startedCluster(off({ replicas: 1 }))
    await cluster.readsFrom()
    const answer = (): Row => ({ recovering: 'false', lsn: formatLsn(cluster.member('primary').lsn) })
    cluster.primary.on(NODE_SQL, () => ({ rows: [answer()], delayMs: 700 }))
    for (let i = 0; i < 30; i++) {
      cluster.write()
      cluster.replay()
      await cluster.clock.advance(150)
      expect(await cluster.readsFrom()).toBe('replica-1')
    }
  })

  test('and says nothing gives the reads that wait for it to others', async () => {
    const cluster = await startedCluster(off({ queryTimeout: '60s' }))
    const reads: ReturnType<typeof watched>[] = []
    for (const name of ['replica-1', 'replica-2'] as const) {
      await cluster.run('select a from t', { wish: { target: 'replica', name } })
    }
    cluster.freeze('replica-1')
    for (let i = 0; i < 10; i++) reads.push(watched(cluster.run('select a from t')))
    await cluster.clock.advance(seconds(8))
    expect(reads.map(({ error, state }) => error ?? state)).toEqual(Array(10).fill('resolved'))
  })

  test('and answers late is judged soon after, not at the next second', async () => {
    const cluster = await startedCluster(off({ replicas: 1, failover: { probeInterval: '10s' } }))
    cluster.kill('replica-1')
    await cluster.clock.advance(10)
    expect(await cluster.readsFrom()).toBe('primary')
    cluster.comeBack('replica-1')
    const lsn = { received: '0/1000000', replayed: '0/1000000', receiving: 'true' }
    cluster.replicas[0]!.on(NODE_SQL, { rows: [{ recovering: 'true', ...lsn }], delayMs: 1_500 })
    void cluster.engine.look()
    await cluster.clock.advance(1_400)
    expect(await cluster.readsFrom()).toBe('primary')
    await cluster.clock.advance(400)
    expect(await cluster.readsFrom()).toBe('replica-1')
  })
})

describe('the monitor', () => {
  test('rests after ten seconds without reads: no timer and no connection of its own is left', async () => {
    const cluster = await startedCluster(off())
    await cluster.readsFrom()
    await cluster.clock.advance(seconds(15))
    const before = allProbes(cluster)
    await cluster.clock.advance(seconds(60))
    expect(allProbes(cluster)).toBe(before)
    // What is left is the connection that the read was on.
    expect(cluster.replicas.flatMap(({ openSessions }) => openSessions).length).toBe(1)
    expect(cluster.primary.openSessions).toEqual([])
  })

  test('wakes when the primary cannot be connected to, without a read', async () => {
    const cluster = await startedCluster(off())
    await cluster.clock.advance(seconds(30))
    const before = allProbes(cluster)
    cluster.kill('primary')
    watched(cluster.run(INSERT))
    await cluster.clock.advance(100)
    expect(allProbes(cluster)).toBeGreaterThan(before)
  })

  test('wakes when somebody is in trouble in the very moment in which it goes to rest', async () => {
    const cluster = newTestCluster(off({ replicas: 1 }))
    // Its connection to the replica takes its time to close.
    slowToClose(cluster, cluster.replicas[0]!)
    cluster.engine.start()
    await cluster.clock.advance(0)
    await cluster.run(INSERT)
    const goodbyes = (): number => closing.get(cluster) ?? 0
    for (let i = 0; i < 300 && goodbyes() === 0; i++) await cluster.clock.advance(100)
    expect(goodbyes()).toBeGreaterThan(0)
    cluster.member('primary').recovering = true
    cluster.promote('replica-1')
    cluster.engine.suspect()
    await cluster.clock.advance(seconds(5))
    expect(cluster.engine.roles.primary.name).toBe('replica-1')
  })

  test('looks every 50 ms while there is no primary, and once a second when there is one again', async () => {
    const cluster = await startedCluster(off())
    await cluster.readsFrom()
    cluster.member('primary').recovering = true
    cluster.engine.suspect()
    await cluster.clock.advance(100)
    const [replica] = cluster.replicas
    const before = probes(replica!)
    await cluster.clock.advance(seconds(1))
    expect(probes(replica!) - before).toBeGreaterThanOrEqual(18)
    expect(probes(replica!) - before).toBeLessThanOrEqual(21)
    cluster.promote('primary')
    await cluster.clock.advance(200)
    await cluster.readsFrom()
    const settled = probes(replica!)
    await cluster.clock.advance(seconds(5))
    expect(probes(replica!) - settled).toBeLessThanOrEqual(7)
  })

  test('tells of a server that does not answer, and does not repeat itself twenty times a second', async () => {
    const cluster = await startedCluster(off())
    await cluster.readsFrom()
    cluster.kill('primary')
    await cluster.clock.advance(seconds(10))
    const told = cluster.events.error.filter(({ node, during }) => node === 'primary' && during === 'probe').length
    expect(told).toBeGreaterThan(0)
    expect(told).toBeLessThanOrEqual(15)
  })

  test('asks no single server anything, whatever happens to it', async () => {
    const cluster = await startedCluster({ replicas: 0 })
    await cluster.run(INSERT)
    cluster.kill('primary')
    watched(cluster.run(INSERT))
    await cluster.clock.advance(seconds(3))
    expect(allProbes(cluster)).toBe(0)
  })

  test.each<[string, (cluster: TestCluster) => Promise<void>]>([
    ['while it rests', ({ clock }) => clock.advance(seconds(30))],
    ['between two looks', ({ clock }) => clock.advance(500)],
    ['while a server keeps its answer back', frozenFor(100)],
    ['while it waits for a server that lets nobody in', frozenFor(100, 'its connections are lost')],
    ['when a server has been silent for long', frozenFor(5_000)],
    ['while there is no primary', vacantFor(500)],
    ['while the catalog is being read', catalogPending],
    ['while somebody waits for a replica to show his write', waitingForReplay],
  ])('stopped %s leaves neither timer nor connection', async (_, until) => {
    const cluster = await startedCluster({ replicas: 2 })
    await cluster.readsFrom()
    await until(cluster)
    const stopped = watched(cluster.engine.stop())
    await cluster.clock.advance(seconds(40))
    expect(stopped.state).toBe('resolved')
    expect(cluster.clock.pendingTimers).toBe(0)
    for (const { server } of cluster.members) expect(server.openSessions).toEqual([])
  })
})

const closing = new WeakMap<TestCluster, number>()

function slowToClose(cluster: TestCluster, server: ScriptedServer): void {
  intercept(server, async (how) => {
    const session = await server.open(how)
    const close = session.close.bind(session)
    session.close = async (graceMs) => {
      closing.set(cluster, (closing.get(cluster) ?? 0) + 1)
      await new Promise<void>((resolve) => cluster.clock.setTimeout(resolve, 1_000))
      await close(graceMs)
    }
    return session
  })
}

function frozenFor(ms: number, also?: string): (cluster: TestCluster) => Promise<void> {
  return async (cluster) => {
    cluster.freeze('replica-1')
    if (also !== undefined) cluster.replicas[0]!.killAll()
    cluster.engine.suspect()
    await cluster.clock.advance(ms)
  }
}

function vacantFor(ms: number): (cluster: TestCluster) => Promise<void> {
  return async (cluster) => {
    cluster.member('primary').recovering = true
    watched(cluster.run(INSERT))
    await cluster.clock.advance(ms)
    expect(cluster.engine.roles.vacant).toBe(true)
  }
}

async function catalogPending(cluster: TestCluster): Promise<void> {
  cluster.primary.on(FINGERPRINT, 'never')
  await cluster.run('create table u ()')
  await cluster.clock.advance(seconds(10))
  await cluster.readsFrom()
  await cluster.clock.advance(seconds(2))
}

async function waitingForReplay(cluster: TestCluster): Promise<void> {
  await cluster.engine.sessions.run(null, async () => {
    await cluster.run(INSERT)
    cluster.replicas[0]!.on(NODE_SQL, 'never')
    watched(cluster.run('select a from t'))
    await cluster.clock.advance(1)
  })
}
