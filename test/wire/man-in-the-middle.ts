// Somebody on the way to a server who ends TLS with a certificate of his own, for which the client's CA vouches, and
// speaks TLS to the server himself. He hears every word, and may change what the server says.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'
import * as tls from 'node:tls'
import { onTestFinished } from 'vitest'
import { freePort } from '../support/postgres/free-port.ts'
import { message } from './sessions.ts'
import type { Identity } from './own-server.ts'

const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

export interface Intruder {
  readonly url: string
  /** What clients said, decrypted. */
  heard(): string
}

/** Between clients and the server of `serverUrl` until the test is over. */
export async function intrude(
  serverUrl: string,
  { certificate, key }: Identity,
  reword: (word: Buffer) => Buffer = (word) => word,
): Promise<Intruder> {
  const { hostname, port: serverPort } = new URL(serverUrl)
  const sockets: { destroy(): void }[] = []
  const words: Buffer[] = []
  const joined = async (client: Socket): Promise<void> => {
    const server = connect({ host: hostname, port: Number(serverPort) })
    sockets.push(client, server)
    for (const socket of [client, server]) socket.on('error', () => undefined)
    server.write(sslRequest)
    await Promise.all([once(client, 'data'), once(server, 'data')])
    client.write('S')
    const outer = new tls.TLSSocket(client, { isServer: true, cert: certificate, key })
    const inner = tls.connect({ socket: server, rejectUnauthorized: false })
    for (const [one, other] of [
      [outer, inner],
      [inner, outer],
    ] as const) {
      one.on('error', () => other.destroy())
      one.on('close', () => other.destroySoon())
    }
    outer.on('data', (word: Buffer) => {
      words.push(word)
      inner.write(word)
    })
    inner.on('data', (word: Buffer) => outer.write(reword(word)))
  }
  const listener = createServer((client) => void joined(client).catch(() => client.destroy()))
  const port = await freePort()
  listener.listen(port, '127.0.0.1')
  await once(listener, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    listener.close()
  })
  const url = new URL(serverUrl)
  url.host = `127.0.0.1:${port}`
  return { url: url.href, heard: () => Buffer.concat(words).toString('latin1') }
}

/** The server's offer of mechanisms, without those that bind the exchange to the channel. */
export function withoutBinding(word: Buffer): Buffer {
  if (!word.includes('SCRAM-SHA-256-PLUS\0')) return word
  return message('R', 10, 'SCRAM-SHA-256', Buffer.from([0]))
}
