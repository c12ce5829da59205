// What the engine knows of the primary's catalog: read beside the traffic, believed until something changes it.

import { describe, expect, test } from 'vitest'
import { FINGERPRINT, PLAIN_TABLES } from '../../src/engine/catalog-queries.ts'
import { seconds, sent } from '../support/engine.ts'
import { newTestCluster, startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { serverError } from '../support/scripted-server.ts'

describe('the catalog', () => {
  /** Of the tables `a` and `b`, both plain. */
  const known = (cluster: TestCluster): void => {
    let version = 0
    cluster.primary.on(FINGERPRINT, () => ({ rows: [{ fingerprint: `${++version}` }] }))
    cluster.primary.on(PLAIN_TABLES, { rows: [{ schema: 'public', names: '["a","b"]' }] })
  }
  const catalogErrors = ({ engine }: TestCluster, told: unknown[]): void => {
    engine.listeners.on('error', (event) => {
      if (event.during === 'reading the catalog') told.push(event)
    })
  }
  const reads = ({ primary }: TestCluster): number => primary.statements().filter((sql) => sql === FINGERPRINT).length

  test('known, a write to one table leaves the reads of others free', async () => {
    const cluster = newTestCluster({ replicas: 1 })
    known(cluster)
    cluster.engine.start()
    await cluster.clock.advance(0)
    expect(cluster.engine.catalog.known).toBe(true)
    await cluster.run('insert into a values (1)')
    expect(await cluster.readsFrom('select x from a')).toBe('primary')
    expect(await cluster.readsFrom('select x from b')).toBe('replica-1')
  })

  test('that cannot be read is told, and read again five seconds later', async () => {
    const told: unknown[] = []
    const cluster = newTestCluster({ replicas: 1 })
    catalogErrors(cluster, told)
    cluster.primary.on(FINGERPRINT, { error: serverError('42501', 'permission denied') })
    cluster.engine.start()
    await cluster.clock.advance(0)
    expect(told).toEqual([expect.objectContaining({ node: 'primary' })])
    known(cluster)
    for (let i = 0; i < 7; i++) {
      expect(cluster.engine.catalog.known).toBe(i > 4)
      await cluster.readsFrom()
      await cluster.clock.advance(seconds(1))
    }
    expect(told.length).toBe(1)
  })

  test('is read by one connection that is closed afterwards', async () => {
    const cluster = newTestCluster({ replicas: 1 })
    known(cluster)
    cluster.engine.start()
    await cluster.clock.advance(0)
    const read = cluster.primary.log.find(({ sql }) => sql === FINGERPRINT)!
    expect(cluster.primary.openSessions.map(({ pid }) => pid)).not.toContain(read.pid)
  })

  test('is forgotten after a definition that passes through, and read again at the next look', async () => {
    const cluster = newTestCluster({ replicas: 1 })
    known(cluster)
    cluster.engine.start()
    await cluster.clock.advance(0)
    await cluster.run('alter table a add column y int')
    expect(cluster.engine.catalog.known).toBe(false)
    cluster.replay()
    await cluster.readsFrom('select x from b')
    await cluster.clock.advance(seconds(2))
    expect(cluster.engine.catalog.known).toBe(true)
    expect(reads(cluster)).toBe(2)
  })

  test('that was being read when a definition passed through is not believed', async () => {
    const cluster = newTestCluster({ replicas: 1 })
    known(cluster)
    cluster.primary.on(PLAIN_TABLES, { rows: [{ schema: 'public', names: '["a","b"]' }], delayMs: 100 })
    cluster.engine.start()
    await cluster.clock.advance(50)
    await cluster.run('create view b as select 1')
    await cluster.clock.advance(100)
    expect(cluster.engine.catalog.known).toBe(false)
    await cluster.readsFrom()
    await cluster.clock.advance(seconds(3))
    expect(cluster.engine.catalog.known).toBe(true)
  })

  test('is asked of whoever is the primary', async () => {
    const cluster = await startedCluster({ replicas: 1 })
    await cluster.readsFrom()
    cluster.kill('primary')
    cluster.promote('replica-1')
    for (let i = 0; i < 8; i++) {
      await cluster.readsFrom()
      await cluster.clock.advance(seconds(1))
    }
    expect(cluster.replicas[0]!.statements()).toContain(FINGERPRINT)
  })

  test('holds nobody up however long it takes', async () => {
    const cluster = newTestCluster({ replicas: 1, routing: { readYourWrites: 'off' } })
    cluster.primary.on(FINGERPRINT, 'never')
    cluster.engine.start()
    await cluster.clock.advance(0)
    for (let i = 0; i < 10; i++) {
      expect(await cluster.readsFrom()).toBe('replica-1')
      await cluster.clock.advance(seconds(1))
    }
    expect(sent(cluster.primary)).toEqual([])
  })
})
