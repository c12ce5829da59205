// Servers that are none: they refuse TLS, stall in its midst, slip words in before it begins, are too old, or have a
// certificate that nobody vouches for. None of them is told anything, none is kept waiting for, no socket is left.

import type { Socket } from 'node:net'
import tls from 'node:tls'
import type { TlsOptions } from 'node:tls'
import { Client } from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { SslOptions } from '../../src/config/options.ts'
import { hasOpenssl, makeCertificates } from './own-server.ts'
import type { Identity } from './own-server.ts'
import { failure, listener, message, open, opener, refusal, welcome } from './sessions.ts'

const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

interface Imposter {
  readonly url: string
  /** What was sent to it in the clear, all connections together. */
  readonly heard: () => Buffer
  readonly sockets: readonly Socket[]
}

/** Does as it is told once somebody has sent his first bytes. */
async function imposter(answer: (socket: Socket) => void): Promise<Imposter> {
  const words: Buffer[] = []
  const server = await listener((socket) => {
    socket.on('data', (word: Buffer) => words.push(word))
    socket.once('data', () => answer(socket))
  })
  onTestFinished(() => server.close())
  const url = server.url.replace('app@', 'app:canary@')
  return { url, sockets: server.sockets, heard: () => Buffer.concat(words) }
}

const connecting = (url: string, ssl: SslOptions = true, timeoutMs = 5_000): Promise<Error & Record<string, unknown>> =>
  failure(opener(() => url, { ssl })({ timeoutMs }))

describe('a server without TLS', () => {
  test('is sent nothing but the question for it, the error says what to do, and its socket is closed', async () => {
    // It keeps its half of the connection, which PostgreSQL would not.
    const plain = await imposter((socket) => {
      socket.allowHalfOpen = true
      socket.write('N')
    })
    for (const url of [plain.url, `${plain.url}?sslmode=require`, `${plain.url}?sslmode=prefer`]) {
      const error = await connecting(url)
      expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
      expect(error['hint']).toMatch(/sent nothing.*ssl = on.*ssl: false/)
    }
    // Whoever is only half gone would go on reading this.
    const gone = (socket: Socket): boolean => socket.destroyed || (socket.write('still there?'), socket.destroyed)
    await expect.poll(() => plain.sockets.map(gone)).toEqual([true, true, true])
    expect(plain.heard()).toEqual(Buffer.concat([sslRequest, sslRequest, sslRequest]))
  })

  test('is not heard when it answers the question with an error, which anybody could have written', async () => {
    const loud = await imposter((socket) => socket.write(refusal('28000', 'visit evil.example.com')))
    const error = await connecting(loud.url)
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    expect(error.message).not.toContain('evil')
    expect(loud.heard()).toEqual(sslRequest)
  })
})

describe('a server that slips words in before TLS', () => {
  test.each<[string, (socket: Socket) => void]>([
    ['in one write', (socket) => socket.write(Buffer.concat([Buffer.from('S'), welcome]))],
    [
      'right behind',
      (socket) => {
        socket.write('S')
        setImmediate(() => socket.write(welcome))
      },
    ],
    ['instead', (socket) => socket.write(welcome)],
  ])('%s is not believed: nobody is let in, and it hears nothing in the clear', async (_, answer) => {
    const stuffing = await imposter(answer)
    expect(await connecting(stuffing.url)).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    expect(stuffing.heard().subarray(0, 8)).toEqual(sslRequest)
    expect(stuffing.heard().includes('canary') || stuffing.heard().includes('client_encoding')).toBe(false)
    await expect.poll(() => stuffing.sockets[0]!.destroyed).toBe(true)
  })
})

describe('a server that stalls', () => {
  test.each<[string, (socket: Socket) => void]>([
    ['before it says whether it speaks TLS', () => undefined],
    ['when TLS should begin', (socket) => socket.write('S')],
    [
      'in the midst of the handshake',
      (socket) => {
        socket.write('S')
        // The head of a record that never comes.
        socket.once('data', () => socket.write(Buffer.from([22, 3, 3, 0, 100])))
      },
    ],
  ])('%s is given up at the connect timeout, and no socket is left', async (_, answer) => {
    const stalling = await imposter(answer)
    const error = await connecting(stalling.url, true, 100)
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', cause: { code: 'ETIMEDOUT' } })
    await expect.poll(() => stalling.sockets[0]!.destroyed).toBe(true)
  })
})

describe.skipIf(!hasOpenssl)('a server whose TLS is not ours (needs the program openssl)', () => {
  const made = hasOpenssl ? makeCertificates() : undefined

  interface Listening extends Imposter {
    /** What came through TLS. */
    readonly understood: () => string
  }

  async function speaking({ certificate, key }: Identity, options: TlsOptions = {}): Promise<Listening> {
    const words: Buffer[] = []
    const server = await imposter((socket) => {
      socket.write('S')
      const secured = new tls.TLSSocket(socket, { isServer: true, cert: certificate, key, ...options })
      secured.on('error', () => undefined)
      secured.on('data', (word: Buffer) => {
        words.push(word)
        secured.write(welcome)
      })
    })
    return { ...server, understood: () => Buffer.concat(words).toString('latin1') }
  }

  const identity = (): Identity => ({ certificate: made!.leaf, key: made!.key })

  test('hears not even who asks, when nobody vouches for it', async () => {
    const server = await speaking(identity())
    expect(await connecting(server.url, { ca: made!.stranger })).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    await expect.poll(() => server.sockets[0]!.destroyed).toBe(true)
    expect(server.understood()).toBe('')
    // It would have heard something.
    const session = await open({ ssl: { ca: made!.ca } }, server.url)
    expect(session.status).toBe('idle')
    expect(server.understood()).toContain('client_encoding')
  })

  test('is refused below TLS 1.2 whatever Node is told to allow, unless `minVersion` says it here', async () => {
    const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const
    const server = await speaking(identity(), old)
    const weak = { ca: made!.ca, ciphers: old.ciphers }
    const usual = tls.DEFAULT_MIN_VERSION
    tls.DEFAULT_MIN_VERSION = 'TLSv1'
    onTestFinished(() => void (tls.DEFAULT_MIN_VERSION = usual))
    const stock = new Client({ connectionString: server.url, ssl: weak })
    await stock.connect()
    stock.on('error', () => undefined)
    void stock.end()
    const error = await connecting(server.url, weak)
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    expect(error['hint']).toContain('minVersion')
    const session = await open({ ssl: { ...weak, minVersion: 'TLSv1' } }, server.url)
    expect(session.status).toBe('idle')
  })

  test('may not be older than a URL says', async () => {
    const server = await speaking(identity(), { maxVersion: 'TLSv1.2' })
    const url = `${server.url}?ssl_min_protocol_version=TLSv1.3`
    expect(await connecting(url, { ca: made!.ca })).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    expect((await open({ ssl: { ca: made!.ca } }, server.url)).status).toBe('idle')
  })

  test('is asked for no cancel, when it has another certificate by then', async () => {
    const understood: Buffer[] = []
    let index = 0
    const changing = await imposter((socket) => {
      const first = index++ === 0
      const cert = first ? made!.leaf : made!.selfSigned
      socket.write('S')
      const secured = new tls.TLSSocket(socket, { isServer: true, cert, key: made!.key })
      secured.on('error', () => undefined)
      secured.on('data', (word: Buffer) => (first ? secured.write(welcome) : understood.push(word)))
    })
    const session = await open({ ssl: { ca: made!.ca } }, changing.url)
    expect(await failure(session.cancel(5_000))).toMatchObject({ code: expect.stringContaining('SELF_SIGNED') })
    await expect.poll(() => changing.sockets[1]!.destroyed).toBe(true)
    expect(understood).toEqual([])
  })
})

describe('a cancel request', () => {
  /** The first connection is a session; what comes after it is answered so. */
  async function sessionThen(answer: (socket: Socket) => void): Promise<{ url: string; sockets: readonly Socket[] }> {
    let index = 0
    const server = await imposter((socket) => (index++ === 0 ? void socket.write(welcome) : answer(socket)))
    return server
  }

  test('is not thrown off by what a server says to it', async () => {
    // Of which pg's parser makes an exception that nobody can catch.
    const server = await sessionThen((socket) => socket.end(message('R', 99)))
    const session = await open({}, server.url)
    await session.cancel(5_000)
    expect(session.status).toBe('idle')
  })

  test('leaves no socket behind when nobody ends it', async () => {
    const server = await sessionThen(() => undefined)
    const session = await open({}, server.url)
    expect((await failure(session.cancel(30))).message).toContain('30 ms')
    await expect.poll(() => server.sockets[1]!.destroyed).toBe(true)
  })
})
