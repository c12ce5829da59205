// Which servers belong together, and which of them is the primary, where nobody has said so or somebody was mistaken: hosts
// without roles, servers of another cluster, two that accept writes.

import { describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/core/errors.ts'
import { rejection, seconds, sent, watched } from '../support/engine.ts'
import { newTestCluster, startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

const INSERT = 'insert into t values (1)'

/** Where the writes were run so far. */
const ranOn = ({ writes }: TestCluster): string[] => writes.map(({ node }) => node)

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
