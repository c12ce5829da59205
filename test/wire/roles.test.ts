// What servers tell of their roles: a connection hears of a promotion whatever it asks, and any role may ask what a
// server is, of which cluster, on which timeline, and how far it has come.

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { elect } from '../../src/core/election.ts'
import type { NodeView } from '../../src/core/election.ts'
import { settleLsn } from '../../src/core/freshness.ts'
import { IDENTITY, identityOf } from '../../src/core/identity.ts'
import type { ServerIdentity } from '../../src/core/identity.ts'
import { NODE_SQL, sampleOf } from '../../src/core/node-sample.ts'
import type { NodeSample } from '../../src/core/node-sample.ts'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Row, Session } from '../../src/core/types.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster, Server } from '../support/postgres/cluster.ts'
import type { Wire } from '../support/wire.ts'
import { borrowed, listener, message, open, opener, run, welcome } from './sessions.ts'

const wires: Wire[] = ['native', 'pg']

/** The reports of a connection that nobody uses, and that keeps no process alive. */
async function reportsOf(url: string, over: Wire): Promise<{ session: Session; heard: boolean[] }> {
  const session = await open({}, url, over)
  const heard: boolean[] = []
  session.onStandby((standby) => heard.push(standby))
  session.unref()
  return { session, heard }
}

const says = (value: string): Buffer => message('S', 'in_hot_standby', value)

describe.each(wires)('a connection over %s', (over) => {
  test('tells each report that differs from the one before, in order, and is no other session for it', async () => {
    const server = await listener((socket) => socket.once('data', () => socket.write(Buffer.concat([says('on'), welcome])))) // prettier-ignore
    const { session, heard } = await reportsOf(server.url, over)
    session.keepSettings()
    expect([session.standby, heard]).toEqual([true, []])
    server.sockets[0]!.write(Buffer.concat([says('on'), says('off'), says('off'), says('on')]))
    server.sockets[0]!.write(says('off'))
    await expect.poll(() => heard).toEqual([false, true, false])
    expect([session.standby, session.drifted]).toEqual([false, false])
    await server.close()
  })

  test('to a server that reports nothing knows nothing, until it does', async () => {
    const server = await listener((socket) => socket.once('data', () => socket.write(welcome)))
    const { session, heard } = await reportsOf(server.url, over)
    expect(session.standby).toBeNull()
    server.sockets[0]!.write(says('off'))
    await expect.poll(() => heard).toEqual([false])
    await server.close()
  })
})

describe.skipIf(borrowed)('a primary and two standbys (TEST_DATABASE_URL and TEST_PG are unset)', () => {
  let cluster: Cluster
  let system: string
  const as = (role: string, { url }: Server): string => url.replace('postgres@', `${role}@`)

  const answer = async (server: Server, role: string, sql: string): Promise<Row> => {
    const session = await opener(() => as(role, server))({ timeoutMs: 10_000 })
    try {
      const { rows } = await session.send({ sql, parameters: [], facts: READ_FACTS })
      expect(Object.values(rows[0]!).filter((value) => value !== null && typeof value !== 'string')).toEqual([])
      return rows[0]!
    } finally {
      await session.close(1_000)
    }
  }
  const identity = async (server: Server, role = 'app'): Promise<ServerIdentity> =>
    identityOf(await answer(server, role, IDENTITY.sql))
  const sample = async (server: Server, role = 'app'): Promise<NodeSample> =>
    sampleOf(await answer(server, role, NODE_SQL), 5)

  const startOf = async (server: Server): Promise<string> => {
    const sql = 'select extract(epoch from pg_postmaster_start_time())::text as at'
    return (await server.query<{ at: string }>(sql))[0]!.at
  }

  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    const [row] = await cluster.primary.query<{ id: string }>('select system_identifier::text as id from pg_control_system()') // prettier-ignore
    system = row!.id
    for (const sql of ['create role app login', 'create role watcher login in role pg_monitor', 'create role numb login', 'create role aurora login', `alter role aurora set "rds.extensions" = 'aurora_stat_utils, plpgsql'`]) await cluster.primary.query(sql) // prettier-ignore
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())

  test('each say to an ordinary role who they are', async () => {
    const [one, two] = [cluster.primary, cluster.replicas[0]!]
    expect(await identity(one)).toEqual({
      server: await startOf(one),
      systemIdentifier: system,
      standby: false,
      timeline: 1,
    })
    expect(await identity(two)).toEqual({
      server: await startOf(two),
      systemIdentifier: system,
      standby: true,
      timeline: 1,
    })
  })

  test('each say to an ordinary role how far they are', async () => {
    const primary = await sample(cluster.primary)
    expect(primary).toEqual({
      server: await startOf(cluster.primary),
      systemIdentifier: system,
      inRecovery: false,
      timeline: 1,
      insertLsn: expect.any(BigInt) as bigint,
      walReceiver: false,
      receiveLsn: null,
      replayLsn: null,
      receivedTimeline: null,
      walBlockSize: 8192,
      walSegmentSize: 16 * 1024 * 1024,
      at: 5,
    })
    await cluster.caughtUp()
    const standby = await sample(cluster.replicas[0]!)
    expect(standby).toMatchObject({
      systemIdentifier: system,
      inRecovery: true,
      timeline: null,
      insertLsn: null,
      walReceiver: true,
      receivedTimeline: null,
    })
    expect(standby.replayLsn! <= standby.receiveLsn!).toBe(true)
    const { insertLsn } = primary
    await expect.poll(async () => (await sample(cluster.replicas[0]!)).replayLsn! >= settleLsn(insertLsn!)).toBe(true)
  })

  test('say to a role that may see it which timeline they receive', async () => {
    expect(await sample(cluster.replicas[0]!, 'watcher')).toMatchObject({ receivedTimeline: 1 })
    expect(await sample(cluster.primary, 'watcher')).toMatchObject({ receivedTimeline: null })
  })

  test('say what they may where functions are refused', async () => {
    const functions = ['pg_control_system()', 'pg_control_checkpoint()', 'pg_walfile_name(pg_lsn)']
    const change = async (what: string): Promise<void> => {
      for (const name of functions) await cluster.primary.query(`${what.replace('?', `execute on function ${name}`)} public`) // prettier-ignore
      await cluster.caughtUp()
    }
    await change('revoke ? from')
    try {
      const untold = { systemIdentifier: null, timeline: null }
      for (const server of [cluster.primary, cluster.replicas[0]!]) {
        const standby = server !== cluster.primary
        expect(await identity(server, 'numb')).toEqual({ server: await startOf(server), standby, ...untold })
        const seen = await sample(server, 'numb')
        expect(seen).toMatchObject({ inRecovery: standby, ...untold })
        expect(seen.insertLsn ?? seen.replayLsn).toBeTypeOf('bigint')
      }
    } finally {
      await change('grant ? to')
    }
  })

  test('say their role where the functions of the log throw, as with Amazon Aurora', async () => {
    for (const server of [cluster.primary, cluster.replicas[0]!]) {
      const standby = server !== cluster.primary
      const told = { server: await startOf(server), systemIdentifier: null, timeline: null }
      expect(await identity(server, 'aurora')).toEqual({ ...told, standby })
      const untold = { insertLsn: null, receiveLsn: null, replayLsn: null, receivedTimeline: null, walReceiver: false }
      expect(await sample(server, 'aurora')).toMatchObject({ ...told, inRecovery: standby, ...untold })
    }
  })

  test.each(wires)('are known for what they are from the first moment, over %s', async (over) => {
    expect((await open({}, cluster.url, over)).standby).toBe(false)
    expect((await open({}, cluster.replicaUrls[0], over)).standby).toBe(true)
  })

  test('are told apart by all of this, and a promotion is heard and seen', async () => {
    const [one, two, three] = [cluster.primary, ...cluster.replicas] as [Server, Server, Server]
    const looks = async (): Promise<NodeView[]> =>
      Promise.all(
        Object.entries({ one, two, three }).map(async ([name, server]) => {
          const seen = server.pid === undefined ? null : await sample(server, 'watcher')
          return { name, reachable: seen !== null, sample: seen }
        }),
      )
    const first = elect(await looks(), null, { timeline: 0, systemIdentifier: null })
    expect(first).toMatchObject({ primary: 'one', timeline: 1, systemIdentifier: system })
    const known = { timeline: 1, systemIdentifier: system }

    const idle = await Promise.all(wires.map((over) => reportsOf(two.url, over)))
    const other = await Promise.all(wires.map((over) => reportsOf(three.url, over)))
    // Properly, so that both standbys have all of it.
    await one.stop()
    expect(elect(await looks(), 'one', known)).toMatchObject({ primary: 'one', is: 'same' })
    await two.promote()
    const heardBefore = idle.map(({ session, heard }) => run(session, 'select 1 where false').then(() => [...heard]))
    // Ahead of the answer, so that whoever reads it knows.
    expect(await Promise.all(heardBefore)).toEqual([[false], [false]])
    expect(idle.map(({ session }) => session.standby)).toEqual([false, false])
    await Promise.all(other.map(({ session }) => run(session, 'select 1 where false')))
    expect(other.map(({ heard, session }) => [heard, session.standby])).toEqual([[[], true], [[], true]]) // prettier-ignore

    const failover = elect(await looks(), 'one', known)
    expect(failover).toMatchObject({ primary: 'two', because: 'the primary is unreachable', timeline: 2, timelineMoved: true }) // prettier-ignore
    expect(await identity(two)).toMatchObject({ standby: false, timeline: 2, systemIdentifier: system })
    await run(idle[0]!.session, 'create table written_there (id int)')

    await cluster.follow(1, two)
    await expect.poll(async () => (await sample(three, 'watcher')).receivedTimeline).toBe(2)
    await one.start()
    const revenant = elect(await looks(), 'two', { ...known, timeline: 2 })
    expect(revenant).toMatchObject({ primary: 'two', is: 'same', refused: new Map([['one', 'old timeline']]) })
    expect(elect(await looks(), 'one', known)).toMatchObject({ primary: 'two', because: 'higher timeline' })
  })
})
