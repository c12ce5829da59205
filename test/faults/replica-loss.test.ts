// A replica that dies, freezes or falls behind is left out, and taken back when it is well again; reads go on being
// answered meanwhile.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster, Server } from '../support/postgres/cluster.ts'
import { borrowed, open, ownOnly, spread, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  numbers: { n: number }
}

// Well below the 15 s after which an idle primary writes something of its own accord, by which a standby learns
// how much it has received: nobody shall have to wait for that.
const recovery = { timeout: 8_000 }

describe.skipIf(borrowed)(`a replica ${ownOnly}`, () => {
  let cluster: Cluster
  let first: Server
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    first = cluster.replicas[0]!
    await cluster.primary.query('create table numbers as select generate_series(1, 1000) as n')
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  beforeEach(async () => {
    // Each test begins with replicas that have just heard of the primary.
    await cluster.primary.query('create or replace view heard as select now() as at')
    await cluster.caughtUp()
  })

  interface Reading {
    readonly failures: Tally
    readonly nodes: Tally
    longestMs: number
  }

  /** Reads `count` times; `after` so many answers something `happens`. */
  async function readAll(
    { db, dialect }: Opened<Tables>,
    count: number,
    { after = -1, happens = (): unknown => undefined } = {},
  ): Promise<Reading> {
    const reading: Reading = { failures: new Tally(), nodes: new Tally(), longestMs: 0 }
    using _ = dialect.on('query', ({ node, ok }) => {
      if (ok) reading.nodes.add(node)
    })
    let answers = 0
    let happened: unknown
    await spread(count, 8, async (i) => {
      const startedAt = performance.now()
      const n = (i % 1000) + 1
      try {
        expect(await db.selectFrom('numbers').select('n').where('n', '=', n).execute()).toEqual([{ n }])
      } catch (error) {
        reading.failures.add(error)
      }
      reading.longestMs = Math.max(reading.longestMs, performance.now() - startedAt)
      if (++answers === after) happened = happens()
    })
    await happened
    return reading
  }

  /** What the nodes were said to be, by name. */
  async function connected(
    options: Partial<SmartPgOptions> = {},
  ): Promise<Opened<Tables> & { up: Map<string, boolean> }> {
    const opened = open<Tables>({ primary: cluster.url, replicas: cluster.replicaUrls, ...options })
    const up = new Map<string, boolean>()
    opened.dialect.on('node', (event) => up.set(event.node, event.up))
    await opened.dialect.ready()
    return { ...opened, up }
  }

  const seenOn = async (opened: Opened<Tables>, node: string): Promise<boolean> =>
    ((await readAll(opened, 20)).nodes.counts[node] ?? 0) > 0

  test('that is killed is left out, 99.5 % of the reads are answered, and it gets reads again after its restart', async () => {
    const opened = await connected()
    const reads = 8_000
    const { failures, nodes } = await readAll(opened, reads, { after: 2_000, happens: () => first.kill9() })
    console.log(`${reads} reads, a replica killed after 2,000: ${JSON.stringify([nodes.counts, failures.counts])}`)
    expect(nodes.counts['replica-1']).toBeGreaterThan(0)
    expect(failures.total).toBeLessThanOrEqual(reads * 0.005)
    await expect.poll(() => opened.up.get('replica-1')).toBe(false)
    const without = await readAll(opened, 200)
    expect(without.nodes.counts).toEqual({ 'replica-2': 200 })
    expect(without.failures.counts).toEqual({})
    await first.start()
    await expect.poll(() => seenOn(opened, 'replica-1'), recovery).toBe(true)
    expect(opened.up.get('replica-1')).toBe(true)
  }, 60_000)

  test('that is stopped properly costs no read at all', async () => {
    const opened = await connected()
    const { failures } = await readAll(opened, 4_000, { after: 1_000, happens: () => first.stop() })
    expect(failures.counts).toEqual({})
    await first.start()
    // The primary has written nothing meanwhile, so the replica has received nothing since its start.
    await expect.poll(() => seenOn(opened, 'replica-1'), recovery).toBe(true)
  }, 60_000)

  test('that freezes holds up what runs on it for the query timeout alone, then it is left out', async () => {
    const queryTimeout = 1_000
    const opened = await connected({ queryTimeout })
    const reads = 8_000
    try {
      const { failures, nodes, longestMs } = await readAll(opened, reads, {
        after: 2_000,
        happens: () => first.freeze(),
      })
      console.log(`${reads} reads, a replica frozen after 2,000: ${JSON.stringify([nodes.counts, failures.counts])}`)
      expect(failures.total).toBeLessThanOrEqual(reads * 0.005)
      // Its time, the cancel request's, and a second for the machine.
      expect(longestMs).toBeLessThan(queryTimeout + 1_000 + 1_000)
      await expect.poll(() => opened.up.get('replica-1')).toBe(false)
      expect((await readAll(opened, 200)).nodes.counts).toEqual({ 'replica-2': 200 })
    } finally {
      first.thaw()
    }
    await expect.poll(() => seenOn(opened, 'replica-1'), recovery).toBe(true)
  }, 60_000)

  test('that is frozen does not keep destroy from settling', async () => {
    const { db } = await connected({ queryTimeout: 500 })
    first.freeze()
    try {
      await db.destroy()
    } finally {
      first.thaw()
    }
  })

  test('that replays nothing gets no reads once it is beyond maxLag, and gets them again when it has caught up', async () => {
    const routing = { maxLag: { ms: 1_000 }, readYourWrites: 'off' } as const
    const opened = await connected({ routing, failover: { probeInterval: 50 } })
    expect(await seenOn(opened, 'replica-1')).toBe(true)
    await cluster.pauseReplay(0)
    try {
      await cluster.primary.query('insert into numbers values (-1)')
      await expect
        .poll(async () => {
          await readAll(opened, 1)
          return opened.up.get('replica-1')
        })
        .toBe(false)
      expect((await readAll(opened, 500)).nodes.counts).toEqual({ 'replica-2': 500 })
    } finally {
      await cluster.resumeReplay(0)
    }
    await expect.poll(() => seenOn(opened, 'replica-1'), recovery).toBe(true)
  })

  test('that is cut off from the primary gets no reads although it looks caught up', async () => {
    const opened = await connected({ failover: { probeInterval: 50 } })
    await cluster.cutOff(0)
    await expect
      .poll(async () => {
        await readAll(opened, 1)
        return opened.up.get('replica-1')
      })
      .toBe(false)
    expect((await readAll(opened, 200)).nodes.counts).toEqual({ 'replica-2': 200 })
    await cluster.follow(0)
    await expect.poll(() => seenOn(opened, 'replica-1'), recovery).toBe(true)
  })

  test('is not needed: with none left the primary answers', async () => {
    const opened = await connected({ failover: { probeInterval: 50 } })
    await Promise.all(cluster.replicas.map((replica) => replica.stop()))
    try {
      const { failures } = await readAll(opened, 500)
      expect(failures.counts).toEqual({})
      await expect.poll(async () => (await readAll(opened, 50)).nodes.counts).toEqual({ primary: 50 })
    } finally {
      await Promise.all(cluster.replicas.map((replica) => replica.start()))
    }
  }, 60_000)
})
