// The cluster that other tests stand on: it must do to servers what it says, and leave nothing on the machine.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type Cluster, type Server } from './postgres/cluster.ts'
import { createDatabase } from './postgres/database.ts'
import { childrenOf, running, waitUntilEnded } from './postgres/processes.ts'
import { crash, leader, succeed, switchOver } from './postgres/succession.ts'
import { timeline } from './postgres/timeline.ts'

const borrowed = Boolean(process.env['TEST_DATABASE_URL'] ?? process.env['TEST_PG'])

describe.skipIf(borrowed)('a cluster of our own (TEST_DATABASE_URL and TEST_PG are unset)', () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2, settings: { max_connections: '110' } })
  })
  afterAll(() => cluster.close())

  const [first, second] = [0, 1]
  const server = (i: number) => cluster.replicas[i]!
  const count = async (i: number, table: string): Promise<number> => {
    const [row] = await server(i).query<{ n: number }>(`select count(*)::int as n from ${table}`)
    return row!.n
  }

  test('a row written on the primary appears on both replicas', async () => {
    await cluster.primary.query('create table streamed as select 1 as id')
    await cluster.caughtUp()
    expect(await count(first, 'streamed')).toBe(1)
    expect(await count(second, 'streamed')).toBe(1)
  })

  test('the primary is a primary and the replicas are standbys, on ports below 32768', async () => {
    const servers = [cluster.primary, ...cluster.replicas]
    const answers = await Promise.all(servers.map((one) => one.query('select pg_is_in_recovery() as standby')))
    expect(answers.flat()).toEqual([{ standby: false }, { standby: true }, { standby: true }])
    for (const { port } of servers) expect(port).toBeLessThan(32_768)
  })

  test('settings hold on every server, over the defaults', async () => {
    for (const one of [cluster.primary, ...cluster.replicas]) {
      expect(await one.query('show max_connections')).toEqual([{ max_connections: '110' }])
      expect(await one.query('show fsync')).toEqual([{ fsync: 'off' }])
    }
  })

  test('a database of its own is reachable on the primary and on both replicas until it is dropped', async () => {
    const database = await createDatabase(cluster)
    const urls = [database.url, ...database.replicaUrls]
    expect(urls).toHaveLength(3)
    const held = await Promise.all(urls.map(connected))
    const ended = held.map((client) => new Promise<void>((resolve) => client.on('end', () => resolve())))
    await database.drop()
    await Promise.all(ended)
    await expect(connected(database.url)).rejects.toMatchObject({ code: '3D000' })
  })

  test('a replica whose replay is paused lags, and catches up when it is resumed', async () => {
    await cluster.pauseReplay(first)
    await cluster.primary.query('create table late as select 1 as id')
    await cluster.caughtUp(second)
    expect(await server(first).query("select to_regclass('late') as name")).toEqual([{ name: null }])
    await cluster.resumeReplay(first)
    await cluster.caughtUp(first)
    expect(await count(first, 'late')).toBe(1)
  })

  test('a replica that is cut off receives nothing, and everything once it follows again', async () => {
    await cluster.cutOff(second)
    await cluster.primary.query('create table missed as select 1 as id')
    await cluster.caughtUp(first)
    expect(await server(second).query("select to_regclass('missed') as name")).toEqual([{ name: null }])
    await cluster.follow(second)
    await cluster.caughtUp(second)
    expect(await count(second, 'missed')).toBe(1)
  })

  test('a frozen server does not answer until it is thawed', async () => {
    const client = await connected(server(first).url)
    server(first).freeze()
    let answered = false
    const answer = client.query('select').then(() => (answered = true))
    // Another server's answer takes as long as this one's would.
    await server(second).query('select')
    expect(answered).toBe(false)
    server(first).thaw()
    await answer
    await client.end()
  })

  test('after kill -9 no process of the server is left, and a start brings back what was committed', async () => {
    await cluster.primary.query('create table committed as select 1 as id')
    const pid = cluster.primary.pid!
    const processes = [pid, ...childrenOf(pid)]
    await cluster.primary.kill9()
    expect(running(processes)).toEqual([])
    expect(cluster.primary.pid).toBeUndefined()
    await cluster.primary.start()
    expect(await cluster.primary.query('select id from committed')).toEqual([{ id: 1 }])
  })

  test('a stopped server refuses connections until it is started again', async () => {
    await server(first).stop()
    await expect(server(first).query('select')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await server(first).start()
    await server(first).query('select')
  })

  // Last: the cluster is another one afterwards.
  test('a promoted replica accepts writes, and the other one can follow it', async () => {
    // Both stream while the primary stops, so both have all of its WAL: one that had more could follow nobody.
    await cluster.follow(first)
    await cluster.follow(second)
    await cluster.primary.stop()
    await server(first).promote()
    await server(first).query('create table promoted as select 1 as id')
    await cluster.follow(second, server(first))
    await cluster.caughtUp(second, server(first))
    expect(await count(second, 'promoted')).toBe(1)
  })
})

describe.skipIf(borrowed)(
  'a cluster whose primaries succeed each other (TEST_DATABASE_URL and TEST_PG are unset)',
  () => {
    let cluster: Cluster
    beforeAll(async () => {
      cluster = await startCluster({ replicas: 2, synchronous: true })
      await cluster.primary.query('create table kept (n int)')
    })
    afterAll(() => cluster.close())

    const write = async (n: number): Promise<void> => {
      await (await leader(cluster)).query('insert into kept values ($1)', [n])
    }
    const keptOn = async (server: Server): Promise<number[]> => {
      const rows = await server.query<{ n: number }>('select n from kept order by n')
      return rows.map(({ n }) => n)
    }
    const expectEverywhere = async (numbers: number[]): Promise<void> => {
      const primary = await leader(cluster)
      for (const server of [cluster.primary, ...cluster.replicas]) {
        if (server !== primary) await cluster.caughtUp(server, primary)
        expect(await keptOn(server)).toEqual(numbers)
      }
    }

    test('a planned switchover loses nothing and leaves three servers that stream, there and back again', async () => {
      const [first] = cluster.replicas
      await write(1)
      await switchOver(cluster, first!)
      expect(await leader(cluster)).toBe(first)
      await write(2)
      await expectEverywhere([1, 2])
      await switchOver(cluster, cluster.primary)
      expect(await leader(cluster)).toBe(cluster.primary)
      await write(3)
      await expectEverywhere([1, 2, 3])
    })

    test('no commit waits for a standby but that of a synchronous primary', async () => {
      const names = async (server: Server): Promise<unknown> =>
        (await server.query('show synchronous_standby_names'))[0]
      expect(await names(cluster.replicas[0]!)).toEqual({ synchronous_standby_names: '' })
      await using other = await startCluster({ replicas: 1, synchronous: true })
      expect(await names(other.primary)).toEqual({ synchronous_standby_names: 'ANY 1 (*)' })
      await other.replicas[0]!.stop()
      const answer = other.primary.query('create table waits (n int)')
      expect(await Promise.race([answer, other.primary.query('select 1 as n')])).toEqual([{ n: 1 }])
      await other.replicas[0]!.start()
      await answer
    })

    test('after a crash the standby that has most takes over, and the old primary is rebuilt as its standby', async () => {
      await write(4)
      const old = await crash(cluster)
      const { primary: next } = await succeed(cluster)
      expect(next).not.toBe(old)
      await write(5)
      // It comes back as it was: writable, and on the timeline before.
      await old.start()
      expect(await timeline(old)).toBeLessThan(await timeline(next))
      expect(await leader(cluster)).toBe(next)
      await old.query('insert into kept values (-1)').catch(() => undefined)
      await old.stop('immediate')
      await cluster.rebuild(old, next)
      expect(await timeline(old)).toBe(0)
      await expectEverywhere([1, 2, 3, 4, 5])
    })
  },
)

describe.skipIf(borrowed)('what is left of a cluster', () => {
  test('close leaves no process and no folder, even of a server that is frozen', async () => {
    const cluster = await startCluster({ replicas: 1 })
    const pids = processesOf(cluster)
    expect(pids.length).toBeGreaterThan(2)
    cluster.replicas[0]!.freeze()
    await cluster.close()
    expect(running(pids)).toEqual([])
    expect(existsSync(cluster.folder!)).toBe(false)
  })

  test('a setting that PostgreSQL refuses is reported with the end of its log', async () => {
    await expect(startCluster({ settings: { shared_buffers: 'much' } })).rejects.toThrow(
      /invalid value for parameter "shared_buffers": "much"/,
    )
  })

  test.for<NodeJS.Signals>(['SIGINT', 'SIGTERM', 'SIGKILL'])(
    'a program ended by %s leaves no process and no folder',
    async (ending) => {
      const program = spawn(process.execPath, ['--input-type=module-typescript'], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      program.stdin.end(`
        import { startCluster } from ${JSON.stringify(join(import.meta.dirname, 'postgres/cluster.ts'))}
        const { folder, primary } = await startCluster()
        console.log(JSON.stringify({ folder, pid: primary.pid }))
        setInterval(() => {}, 1000)`)
      const [line] = (await once(createInterface(program.stdout), 'line')) as [string]
      const { folder, pid } = JSON.parse(line) as { folder: string; pid: number }
      const pids = [pid, ...childrenOf(pid)]
      program.kill(ending)
      await once(program, 'exit')
      expect(waitUntilEnded(pids, 10_000)).toBe(true)
      await expect.poll(() => existsSync(folder), { timeout: 10_000 }).toBe(false)
    },
  )
})

async function connected(url: string): Promise<Client> {
  const client = new Client({ connectionString: url })
  client.on('error', () => {}) // its database is dropped while it is connected
  await client.connect()
  return client
}

function processesOf(cluster: Cluster): number[] {
  return [cluster.primary, ...cluster.replicas].flatMap(({ pid }) => (pid ? [pid, ...childrenOf(pid)] : []))
}
