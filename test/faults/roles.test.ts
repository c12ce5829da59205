// Addresses are not roles. Who is the primary is found out, whatever the order of the addresses, and found out again when
// nobody is, when servers come and go, and when a name leads elsewhere. A server of another cluster is never used.

import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import type { Lookup } from '../../src/config/options.ts'
import { startRelay } from '../support/failover/relay.ts'
import { freePort } from '../support/postgres/free-port.ts'
import { crash, succeed } from '../support/postgres/succession.ts'
import { timeline } from '../support/postgres/timeline.ts'
import { application, notesOn, serversWithNotes, observed } from './application.ts'
import type { Application } from './application.ts'
import { borrowed, failure, ownOnly, spread } from './dialects.ts'

describe.skipIf(borrowed)(`addresses ${ownOnly}`, () => {
  test('without roles, the first of them a standby: writes find the primary, and reads the standbys', async () => {
    const cluster = await serversWithNotes()
    const app = observed({ hosts: [...cluster.replicaUrls, cluster.url] })
    // Without `ready`: the first statement must find out for itself.
    await app.write(1)
    expect(app.answered).toEqual([expect.objectContaining({ node: 'host-3', role: 'primary' })])
    await app.readsOn('host-1')
    await app.readsOn('host-2')
    expect(await app.reads(50)).not.toContain('host-3')
  })

  test('named as primary and replica the wrong way round: they serve what they are', async () => {
    const cluster = await serversWithNotes({ replicas: 1 })
    const app = observed({ primary: cluster.replicaUrls[0]!, replicas: [cluster.url] })
    await app.writesAgain(1)
    await app.readsOn('primary')
    expect(app.answered.findLast(({ node }) => node === 'primary')).toMatchObject({ role: 'replica' })
  })

  test('of standbys alone: writes are told within failover.timeout that there is no primary, until one is promoted', async () => {
    const cluster = await serversWithNotes()
    await cluster.primary.stop()
    const app = observed({ hosts: cluster.replicaUrls, failover: { timeout: 300 } })
    const error = await failure(app.write(1))
    expect(isSmartPgError(error)).toBe(true)
    expect(error['retryable']).toBe(true)
    expect(error.message).toMatch(/primary/)
    const { primary } = await succeed(cluster)
    const id = await app.writesAgain(2)
    expect(await notesOn(primary)).toEqual([0, id])
  })

  test('behind one of which a server of another cluster answers: it is never used, and told', async () => {
    const cluster = await serversWithNotes({ replicas: 1 })
    const other = await serversWithNotes({ replicas: 0 })
    const app = observed({
      primary: cluster.url,
      replicas: [...cluster.replicaUrls, other.url],
      failover: { probeInterval: 50 },
      pool: { acquireTimeout: 500 },
    })
    await app.write(1)
    await app.readsOn('replica-1')
    expect(await app.reads(200)).not.toContain('replica-2')
    expect(app.told.join(' | ')).toMatch(/replica-2.*(cluster|system_identifier)/)
    expect(app.failovers.map(({ to }) => to)).not.toContain('replica-2')
    // Not even when it is the only one that takes writes, on whatever timeline.
    await crash(cluster)
    expect(isSmartPgError(await failure(app.db.insertInto('notes').values({ id: 2 }).execute()))).toBe(true)
    expect(await notesOn(other.primary)).toEqual([0])
    await succeed(cluster)
    await app.writesAgain(10)
    expect(await notesOn(other.primary)).toEqual([0])
  })

  test.each([
    ['a write', (app: Application) => app.write(1)],
    ['a transaction', (app: Application) => inTransaction(app, 1)],
  ])(
    'one of which was the primary and came back writable: %s of a process that starts now is not lost there',
    async (_, write) => {
      const cluster = await serversWithNotes()
      const old = await crash(cluster)
      const { primary } = await succeed(cluster)
      await old.start()
      const app = observed({ primary: cluster.url, replicas: cluster.replicaUrls })
      await write(app)
      expect(await notesOn(old)).toEqual([0])
      expect(await notesOn(primary)).toEqual([0, 1])
    },
  )

  test('all of which take writes: those of the highest timeline get them, from every process', async () => {
    const cluster = await serversWithNotes()
    const [first, second] = [cluster.replicas[0]!, cluster.replicas[1]!]
    await first.promote()
    await cluster.follow(second, first)
    await cluster.caughtUp(second, first)
    await second.promote()
    expect(await timeline(second)).toBeGreaterThan(await timeline(first))
    const urls = [cluster.url, first.url, second.url]
    const apps = urls.map((_, i) => observed({ hosts: [...urls.slice(i), ...urls.slice(0, i)] }))
    await Promise.all(apps.map((app, i) => app.write(1 + i)))
    expect(await notesOn(second)).toEqual([0, 1, 2, 3])
    expect(await notesOn(first)).toEqual([0])
    expect(await notesOn(cluster.primary)).toEqual([0])
  })

  test('one of which nobody answers on from the beginning: the others serve', async () => {
    const cluster = await serversWithNotes({ replicas: 1 })
    const nobody = `postgres://postgres@127.0.0.1:${await freePort()}/postgres`
    const app = observed({ hosts: [nobody, ...cluster.replicaUrls, cluster.url] })
    await app.write(1)
    await app.readsOn('host-2')
    expect(await app.reads(50)).not.toContain('host-1')
  })

  test('of replicas that are added and removed under load: no operation fails', async () => {
    const cluster = await serversWithNotes()
    const app = await application({ url: cluster.url, replicaUrls: [cluster.replicaUrls[0]!] })
    const until = { over: false }
    const failures: unknown[] = []
    const ask = async (caller: number): Promise<void> => {
      for (let id = 1 + caller; !until.over; id += 8) {
        const asked: Promise<unknown> =
          id % 10 === 0 ? app.db.insertInto('journal').values({ id }).execute() : app.finds(0)
        await asked.catch((error: unknown) => failures.push(error))
      }
    }
    const load = spread(8, 8, ask)
    for (let i = 0; i < 3; i++) {
      app.dialect.addReplica({ name: 'newcomer', connectionString: cluster.replicaUrls[1]! })
      await app.readsOn('newcomer')
      await app.dialect.removeReplica('newcomer')
      expect(await app.reads(50)).not.toContain('newcomer')
    }
    await app.dialect.removeReplica('replica-1')
    expect(new Set(await app.reads(50))).toEqual(new Set(['primary']))
    until.over = true
    await load
    expect(failures).toEqual([])
  })

  test('of a replica that was added serve as primary when it is promoted', async () => {
    const cluster = await serversWithNotes({ replicas: 1 })
    const app = await application({ url: cluster.url, replicaUrls: [] })
    app.dialect.addReplica({ name: 'newcomer', connectionString: cluster.replicaUrls[0]! })
    await app.readsOn('newcomer')
    await crash(cluster)
    await succeed(cluster)
    const id = await app.writesAgain(1)
    expect(await notesOn(cluster.replicas[0]!)).toContain(id)
    const error = await failure(app.dialect.removeReplica('newcomer'))
    expect(isSmartPgError(error, 'SMARTPG_CONFIG')).toBe(true)
  })

  // Linux alone answers on all of 127.0.0.0/8 without being told to.
  test.skipIf(process.platform !== 'linux')(
    'of one name that leads elsewhere after a failover: writes go on, at the new address',
    async () => {
      const cluster = await serversWithNotes({ replicas: 1 })
      const port = await freePort()
      await using before = await startRelay('127.0.0.2', port, cluster.primary)
      await using _ = await startRelay('127.0.0.3', port, cluster.replicas[0]!)
      const record = { address: '127.0.0.2' }
      const lookup: Lookup = (hostname, _options, callback) => {
        if (hostname === 'database.internal') callback(null, [{ address: record.address, family: 4 }])
        else callback(new Error(`unexpected name ${hostname}`), [])
      }
      const url = `postgres://postgres@database.internal:${port}/postgres`
      const app = observed({ primary: url, routing: { lookup } })
      await app.write(1)
      await cluster.caughtUp()
      await crash(cluster)
      await before.close()
      const { primary } = await succeed(cluster)
      record.address = '127.0.0.3'
      const id = await app.writesAgain(10)
      expect(await notesOn(primary)).toEqual([0, 1, id])
    },
  )

  test.skipIf(process.platform !== 'linux')(
    'of one name whose server is demoted and still answers: writes go on at the new address, and none is lost',
    async () => {
      const cluster = await serversWithNotes({ replicas: 1 })
      const port = await freePort()
      await using _ = await startRelay('127.0.0.2', port, cluster.primary)
      await using __ = await startRelay('127.0.0.3', port, cluster.replicas[0]!)
      const record = { address: '127.0.0.2' }
      const lookup: Lookup = (_hostname, _options, callback) => callback(null, record.address, 4)
      const url = `postgres://postgres@database.internal:${port}/postgres`
      const app = observed({ primary: url, routing: { lookup } })
      await app.write(1)
      const old = cluster.primary
      await old.stop()
      const { primary } = await succeed(cluster)
      // It answers on the old address, as a standby, and connections to it stand before the name leads elsewhere.
      await cluster.comeBack(old, primary)
      await expect.poll(() => app.finds(0).catch(String)).toBe(true)
      record.address = '127.0.0.3'
      await app.write(2)
      expect(await notesOn(primary)).toEqual([0, 1, 2])
    },
  )
})

async function inTransaction(app: Application, id: number): Promise<void> {
  await app.db.transaction().execute(async (trx) => void (await trx.insertInto('notes').values({ id }).execute()))
}
