// What looked like a read and is none for a standby: it runs on the primary once, and from then on at once.

import { describe, expect, test } from 'vitest'
import { rejection, sent, watched } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { TestCluster } from '../support/scripted-cluster.ts'
import { serverError } from '../support/scripted-server.ts'

const READ_ONLY = serverError('25006', 'cannot execute INSERT in a read-only transaction')

const times = (cluster: TestCluster, name: string, sql: string): number =>
  sent(cluster.member(name).server).filter((one) => one === sql).length

describe('a read that a standby refuses', () => {
  const SECRET = 'select a from writes_in_secret'
  const READ = 'select a from v'
  const refusing = async (): Promise<TestCluster> => {
    const cluster = await startedCluster({ replicas: 2, routing: { readYourWrites: 'off' } })
    for (const replica of cluster.replicas) {
      replica.on(READ, { error: serverError('55000', 'recovery is in progress') })
    }
    return cluster
  }

  test('runs on the primary once, is counted and told', async () => {
    const cluster = await refusing()
    await cluster.run(READ)
    const [refused] = cluster.replicas.filter((replica) => sent(replica).length > 0)
    expect(sent(refused!)).toEqual([READ])
    expect(times(cluster, 'primary', READ)).toBe(1)
    const node = cluster.events.rerun[0]!.node
    expect(cluster.events.rerun).toEqual([{ node, summary: 'SELECT v', code: '55000' }])
    expect(cluster.engine.cluster.node(node)!.cells.reruns).toBe(1)
    expect(cluster.events.query).toEqual([expect.objectContaining({ node: 'primary', ok: true, attempts: 2 })])
  })

  test('goes to the primary from then on, and its neighbours do not', async () => {
    const cluster = await refusing()
    await cluster.run(READ)
    await cluster.run(READ)
    expect(cluster.events.query.at(-1)).toMatchObject({ node: 'primary', reason: 'refused', attempts: 1 })
    expect(await cluster.readsFrom('select a from t')).toMatch(/^replica/)
    expect(cluster.replicas.flatMap((replica) => sent(replica)).filter((sql) => sql === READ)).toEqual([READ])
  })

  test('which is told by 25006 as well, by whatever code', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { readYourWrites: 'off' } })
    await cluster.run(SECRET)
    expect(cluster.writes.map(({ node, sql }) => [node, sql])).toEqual([['primary', SECRET]])
    expect(cluster.events.rerun).toEqual([{ node: 'replica-1', summary: expect.any(String) as string, code: '25006' }])
  })

  test('is tried on replicas again after ten minutes', async () => {
    const cluster = await refusing()
    await cluster.run(READ)
    await cluster.clock.advance(10 * 60_000)
    await cluster.readsFrom('select a from t')
    await cluster.clock.advance(10)
    await cluster.run(READ)
    expect(cluster.events.rerun.length).toBe(2)
  })

  test('is tried on replicas again after definitions have changed, which may have mended it', async () => {
    const cluster = await refusing()
    await cluster.run(READ)
    await cluster.run('alter table t add column b int')
    await cluster.run(READ)
    expect(cluster.events.rerun.length).toBe(2)
  })

  test('goes to the primary even if its caller asks for a replica', async () => {
    const cluster = await refusing()
    await cluster.run(READ)
    await cluster.run(READ, { wish: { target: 'replica' } })
    expect(cluster.events.query.at(-1)).toMatchObject({ node: 'primary', reason: 'refused' })
  })

  test('because its caller vouched for a function that nobody knows is remembered as well', async () => {
    const cluster = await startedCluster({ replicas: 1, routing: { readYourWrites: 'off' } })
    const sql = 'select surprise()'
    cluster.replicas[0]!.on(sql, { error: serverError('25006', 'cannot execute INSERT in a read-only transaction') })
    await cluster.run(sql, { wish: { target: 'replica' } })
    await cluster.run(sql, { wish: { target: 'replica' } })
    expect([times(cluster, 'replica-1', sql), times(cluster, 'primary', sql)]).toEqual([1, 2])
    expect(cluster.events.rerun.length).toBe(1)
  })

  test('and that the primary refuses as well fails with what the primary says', async () => {
    const cluster = await refusing()
    cluster.primary.reportStandby(false)
    cluster.primary.on(READ, { error: READ_ONLY })
    expect(await rejection(cluster.run(READ))).toBe(READ_ONLY)
    expect(times(cluster, 'primary', READ)).toBe(1)
  })

  test('while no server is the primary waits for one', async () => {
    const cluster = await refusing()
    cluster.member('primary').recovering = true
    cluster.engine.suspect()
    await cluster.clock.advance(10)
    const read = watched(cluster.run(READ))
    await cluster.clock.advance(500)
    expect(read.state).toBe('pending')
    cluster.promote('primary')
    await cluster.clock.advance(500)
    expect(read.error ?? read.state).toBe('resolved')
  })
})
