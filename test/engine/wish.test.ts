// What a caller says of where his statement shall run: on the primary, on a replica, on that one, on one of those.

import { describe, expect, test } from 'vitest'
import { ConfigError, SmartPgError } from '../../src/core/errors.ts'
import type { Wish } from '../../src/core/route.ts'
import { rejection, seconds, sent, watched } from '../support/engine.ts'
import type { TestEngineOptions } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'

const SELECT = 'select a from t'
const UNKNOWN = 'select surprise()'
const onPrimary: Wish = { target: 'primary' }
const onReplica = (wish: Omit<Wish, 'target'> = {}): Wish => ({ target: 'replica', ...wish })

const threeReplicas = (options: TestEngineOptions = {}): Promise<TestCluster> =>
  startedCluster({
    replicas: [{ tags: ['reports'] }, { tags: ['reports', 'big'] }, { name: 'far-away' }],
    ...options,
    routing: { readYourWrites: 'off', ...options.routing },
  })

/** Where it ran, and why. */
async function ran(cluster: TestCluster, sql: string, wish: Wish): Promise<string> {
  const asked = watched(cluster.run(sql, { wish }))
  await cluster.clock.advance(5)
  expect(asked.error ?? asked.state).toBe('resolved')
  const { node, reason } = cluster.events.query.at(-1)!
  return `${node}: ${reason}`
}

describe('whoever asks for the primary', () => {
  test('gets it, for reads and within read only transactions', async () => {
    const cluster = await threeReplicas()
    expect(await ran(cluster, SELECT, onPrimary)).toBe('primary: hint')
    const lease = cluster.lease()
    lease.hold.begins('read-only')
    await lease.run('begin read only', { wish: onPrimary })
    expect(lease.hold.node!.name).toBe('primary')
    lease.release()
  })

  test('gets whoever is the primary, and waits for it', async () => {
    const cluster = await threeReplicas()
    cluster.member('primary').recovering = true
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    const read = watched(cluster.run(SELECT, { wish: onPrimary }))
    await cluster.clock.advance(100)
    expect(read.state).toBe('pending')
    cluster.promote('replica-2')
    await cluster.clock.advance(100)
    expect([read.state, cluster.events.query.at(-1)!.node]).toEqual(['resolved', 'replica-2'])
  })
})

describe('whoever asks for a replica', () => {
  test('by its name gets that one and no other', async () => {
    const cluster = await threeReplicas()
    for (let i = 0; i < 5; i++) {
      expect(await ran(cluster, SELECT, onReplica({ name: 'far-away' }))).toBe('far-away: hint')
    }
  })

  test('by a name that no node has is told so, and nothing is sent', async () => {
    const cluster = await threeReplicas()
    const error = await rejection(cluster.run(SELECT, { wish: onReplica({ name: 'nowhere' }) }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toContain('far-away')
    expect(cluster.members.flatMap(({ server }) => sent(server))).toEqual([])
  })

  test('by the name of the primary gets the primary while it is that, since a name outlives its role', async () => {
    const cluster = await threeReplicas()
    expect(await ran(cluster, SELECT, onReplica({ name: 'primary' }))).toMatch(/^primary: /)
  })

  test('by tags gets one that has them all', async () => {
    const cluster = await threeReplicas()
    for (let i = 0; i < 10; i++) {
      expect(await ran(cluster, SELECT, onReplica({ tags: ['reports', 'big'] }))).toBe('replica-2: hint')
      expect(await ran(cluster, SELECT, onReplica({ tags: ['reports'] }))).toMatch(/^replica-[12]: hint/)
    }
  })

  test('by tags that none has gets the primary, unless that may not help', async () => {
    const cluster = await threeReplicas()
    expect(await ran(cluster, SELECT, onReplica({ tags: ['none'] }))).toBe('primary: fallback')
    const strict = await threeReplicas({ routing: { fallbackToPrimary: false } })
    const error = await rejection(strict.run(SELECT, { wish: onReplica({ tags: ['none'] }) }))
    expect(error).toMatchObject({ code: 'SMARTPG_NOT_EXECUTED' })
  })

  test('sends there what nobody knows, and vouches for it', async () => {
    const cluster = await threeReplicas()
    expect(await ran(cluster, UNKNOWN, onReplica())).toMatch(/hint$/)
    expect(sent(cluster.primary)).toEqual([])
  })

  test.each(['insert into t values (1)', 'select a from t for update', "select nextval('s')"])(
    'cannot send there what is known to write or to lock: %s',
    async (sql) => {
      const cluster = await threeReplicas()
      const error = await rejection(cluster.run(sql, { wish: onReplica() }))
      expect(error).toBeInstanceOf(SmartPgError)
      expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
      expect(cluster.members.flatMap(({ server }) => sent(server))).toEqual([])
    },
  )

  test('sees own writes all the same', async () => {
    const cluster = await threeReplicas({ routing: { readYourWrites: 'auto' } })
    await cluster.run('insert into t values (1)')
    expect(await ran(cluster, SELECT, onReplica())).toBe('primary: own-write')
  })

  test('gets the primary where there is no replica', async () => {
    const cluster = await startedCluster()
    expect(await ran(cluster, SELECT, onReplica())).toBe('primary: no-replica')
  })
})

describe('maxLag of a caller', () => {
  test('takes a replica that is too far behind for others, and refuses one that is not', async () => {
    const cluster = await startedCluster({
      replicas: 1,
      routing: { readYourWrites: 'off', maxLag: { bytes: 1_000 } },
    })
    cluster.write(5_000n)
    await cluster.clock.advance(seconds(2))
    expect(await cluster.readsFrom()).toBe('primary')
    expect(await ran(cluster, SELECT, onReplica({ maxLagBytes: 10_000 }))).toBe('replica-1: hint')
    expect(await ran(cluster, SELECT, onReplica({ maxLagBytes: 4_000 }))).toBe('primary: stale-replicas')
    expect(await ran(cluster, SELECT, onReplica({ maxLagMs: 60_000 }))).toBe('replica-1: hint')
    expect(await ran(cluster, SELECT, onReplica({ maxLagMs: 0 }))).toBe('primary: stale-replicas')
  })

  test('takes none that is unfit for another reason', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { readYourWrites: 'off' } })
    cluster.member('replica-1').receiving = false
    cluster.write()
    await cluster.clock.advance(seconds(2))
    const wish = onReplica({ maxLagBytes: 1e9, maxLagMs: 1e9 })
    expect(await ran(cluster, SELECT, wish)).toBe('primary: stale-replicas')
  })
})

describe('a lease whose caller asks for a replica', () => {
  test('keeps the replica of its first statement for all that follow, and never comes to the primary', async () => {
    const cluster = await threeReplicas()
    for (let i = 0; i < 5; i++) {
      const lease = cluster.lease()
      await lease.run(SELECT, { wish: onReplica() })
      const { name } = lease.hold.node!
      for (const sql of [SELECT, UNKNOWN, SELECT]) {
        await lease.run(sql, { wish: onReplica() })
        expect(cluster.events.query.at(-1)!.node).toBe(name)
      }
      lease.release()
      await cluster.clock.advance(0)
    }
    expect(sent(cluster.primary)).toEqual([])
  })

  test('and then does not, is on the primary with what comes next', async () => {
    const cluster = await threeReplicas()
    const lease = cluster.lease()
    await lease.run(SELECT, { wish: onReplica() })
    await lease.run('insert into t values (1)')
    expect(cluster.events.query.at(-1)!.node).toBe('primary')
    lease.release()
  })

  test('stays on one session of it from the second statement on', async () => {
    const cluster = await threeReplicas()
    const lease = cluster.lease()
    for (let i = 0; i < 4; i++) await lease.run(SELECT, { wish: onReplica({ name: 'far-away' }) })
    const server = cluster.member('far-away').server
    const pids = server.log.filter(({ sql }) => sql === SELECT).map(({ pid }) => pid)
    expect(new Set(pids.slice(1)).size).toBe(1)
    lease.release()
  })

  test('of a read only transaction gets it for the whole of it', async () => {
    const cluster = await threeReplicas()
    const lease = cluster.lease()
    lease.hold.begins('read-only')
    await lease.run('begin read only', { wish: onReplica({ name: 'far-away' }) })
    await lease.run(SELECT)
    await lease.run('commit')
    lease.release()
    expect(sent(cluster.member('far-away').server)).toEqual(['begin read only', SELECT, 'commit'])
  })
})
