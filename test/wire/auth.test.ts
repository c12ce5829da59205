// Passwords on the way: what is never sent without TLS over a network, to whom it may be sent, and servers that let
// us in without having shown that they know it. A network is played by this machine's own address.

import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { freePort } from '../support/postgres/free-port.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { hasOpenssl, hba, makeCertificates, ownAddress, superuserQueries, turnTlsOn } from './own-server.ts'
import { borrowed, column, failure, message, open, opener, welcome } from './sessions.ts'

const timeoutMs = 5_000
const network = ownAddress ?? '127.0.0.1'
const needed = ownAddress === undefined ? '(needs an address beside 127.0.0.1)' : ''

const CLEARTEXT = message('R', 3)
const MD5 = message('R', 5, Buffer.from('salt'))
const SCRAM = message('R', 10, 'SCRAM-SHA-256', Buffer.from([0]))

interface Asking {
  readonly url: string
  /** The types of the messages that came after the startup message. */
  readonly answers: string[]
  readonly sockets: Socket[]
}

/** A server that asks so, and lets everybody in who answers. */
async function asking(how: Buffer, host: string): Promise<Asking> {
  const answers: string[] = []
  const sockets: Socket[] = []
  const server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => undefined)
    socket.once('data', () => {
      socket.on('data', (word: Buffer) => {
        answers.push(String.fromCharCode(word[0]!))
        socket.write(welcome)
      })
      socket.write(how)
    })
  })
  const port = await freePort()
  server.listen(port, host)
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { url: `postgres://app:canary@${host}:${port}/app`, answers, sockets }
}

const ways: [string, Buffer][] = [
  ['in the clear', CLEARTEXT],
  ['as an MD5 hash', MD5],
]

describe.skipIf(ownAddress === undefined)(`a server on the network, without TLS ${needed}`, () => {
  test.each(ways)('that asks for the password %s is not answered, where pg answers', async (words, how) => {
    const server = await asking(how, network)
    const stock = new Client(server.url)
    stock.on('error', () => undefined)
    await stock.connect()
    expect(server.answers).toEqual(['p'])
    await stock.end()

    server.answers.length = 0
    const password = vi.fn(async () => 'canary')
    const { hostname, port } = new URL(server.url)
    for (const target of [server.url, { host: hostname, port: Number(port), user: 'app', password }]) {
      const error = await failure(opener(() => target)({ timeoutMs }))
      expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', node: 'primary', faults: [{ path: 'allowInsecureAuth' }] })
      expect(error.message).toContain(words)
      expect(error.message).toContain(network)
      expect(error['hint']).toMatch(/not sent.*ssl: true.*verify-full.*scram-sha-256.*allowInsecureAuth: true/)
      expect(`${error.message}${String(error['hint'])}`).not.toContain('canary')
    }
    await expect.poll(() => server.sockets.slice(1).map((socket) => socket.destroyed)).toEqual([true, true])
    expect(server.answers).toEqual([])
  })

  test.each(ways)('that asks for it %s is answered with `allowInsecureAuth`', async (_, how) => {
    const server = await asking(how, network)
    expect((await open({ allowInsecureAuth: true }, server.url)).status).toBe('idle')
    expect(server.answers).toEqual(['p'])
  })

  test('that asks for no password at all lets us in, as it pleases', async () => {
    const server = await asking(welcome, network)
    expect((await open({}, server.url)).status).toBe('idle')
    expect(server.answers).toEqual([])
  })
})

describe('a server on this machine', () => {
  test.each(ways)('that asks for the password %s is answered', async (_, how) => {
    const server = await asking(how, '127.0.0.1')
    for (const url of [server.url, server.url.replace('127.0.0.1', 'localhost')]) {
      expect((await open({}, url)).status).toBe('idle')
    }
    expect(server.answers).toEqual(['p', 'p'])
  })
})

describe('a server that begins with SCRAM', () => {
  test('and lets us in without its own proof is not believed, where pg believes it', async () => {
    const server = await asking(SCRAM, '127.0.0.1')
    const stock = new Client(server.url)
    stock.on('error', () => undefined)
    await stock.connect()
    await stock.end()
    const error = await failure(opener(() => server.url)({ timeoutMs }))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', node: 'primary', retryable: true })
    expect(error.message).toContain('has not shown that it knows the password')
    await expect.poll(() => server.sockets[1]!.destroyed).toBe(true)
  })
})

describe.skipIf(borrowed)('PostgreSQL that asks in every way (TEST_DATABASE_URL and TEST_PG are unset)', () => {
  let cluster: Cluster
  const url = (user: string, host: string): string =>
    `postgres://${user}:right@${host}:${cluster.primary.port}/postgres`

  beforeAll(async () => {
    cluster = await startCluster({ settings: { listen_addresses: '0.0.0.0' } })
    await superuserQueries(
      cluster,
      "create role scram login password 'right'",
      "create role cleartext login password 'right'",
      "set password_encryption = md5; create role md5 login password 'right'",
    )
    for (const host of [network, '127.0.0.1']) {
      await hba(cluster, `host all scram ${host}/32 scram-sha-256`)
      await hba(cluster, `host all cleartext ${host}/32 password`)
      await hba(cluster, `host all md5 ${host}/32 md5`)
    }
  })
  afterAll(() => cluster.close())

  const who = async (user: string, host: string, overrides = {}): Promise<unknown[]> =>
    column(await open(overrides, url(user, host)), 'select current_user')

  test('is answered in all of them on this machine', async () => {
    for (const user of ['scram', 'md5', 'cleartext']) expect(await who(user, '127.0.0.1')).toEqual([user])
  })

  test.skipIf(ownAddress === undefined)(
    `is answered over the network when it asks for SCRAM, or by TLS, or when it is allowed ${needed}`,
    async () => {
      expect(await who('scram', network)).toEqual(['scram'])
      for (const user of ['md5', 'cleartext']) {
        const error = await failure(opener(() => url(user, network))({ timeoutMs }))
        expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', faults: [{ path: 'allowInsecureAuth' }] })
        expect(await who(user, network, { allowInsecureAuth: true })).toEqual([user])
      }
    },
  )

  test.skipIf(ownAddress === undefined)(`tells of a connection over the network without TLS ${needed}`, async () => {
    const told: string[] = []
    const onInsecure = (message: string): number => told.push(message)
    await who('scram', '127.0.0.1', { onInsecure })
    await who('scram', network, { onInsecure, ssl: false })
    expect(told).toEqual([])
    await who('scram', network, { onInsecure })
    expect(told).toEqual([expect.stringMatching(/'primary'.*not encrypted.*ssl: true.*verify-full.*ssl: false/)])
    expect(told[0]).toContain(network)
    expect(told[0]).not.toContain('right')
  })

  test.skipIf(ownAddress === undefined || !hasOpenssl)(
    `is answered in all of them over TLS, and tells where nobody checks who it is (the program openssl) ${needed}`,
    async () => {
      const made = makeCertificates()
      await turnTlsOn(cluster, made.leaf, made.key)
      const ssl = { ca: made.ca, servername: 'localhost' }
      await expect.poll(() => who('scram', network, { ssl }).catch(() => 'not yet')).toEqual(['scram'])
      for (const user of ['md5', 'cleartext']) expect(await who(user, network, { ssl })).toEqual([user])
      const told: string[] = []
      const onInsecure = (message: string): number => told.push(message)
      await who('scram', network, { ssl, onInsecure })
      await who('scram', network, { ssl: { rejectUnauthorized: false }, onInsecure })
      expect(told).toEqual([])
      await open({ onInsecure }, `${url('scram', network)}?sslmode=no-verify`)
      expect(told).toEqual([expect.stringMatching(/'primary'.*encrypted.*nobody checks.*verify-full.*ssl: \{ ca \}/)])
    },
  )
})
