// A road to a PostgreSQL server on which a test can listen: what the clients said, message by message, and how often
// they waited for an answer. Nothing on it is slow or breaks; that is the business of fault-proxy.ts.
//
//     const tap = await startWiretap(cluster.url)
//     …
//     tap.flights     // ['PBDEPBDES', 'BES']: what was said before the server spoke again, one letter per message

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'
import { HEADER, isLast, Messages } from './fault-proxy/messages.ts'
import { freePort } from './postgres/free-port.ts'

export interface Wiretap extends AsyncDisposable {
  readonly url: string
  /** By clients that have been welcomed: the types of their messages between two words of the server. */
  readonly flights: readonly string[]
  /** The texts of the statements in them. */
  readonly texts: readonly string[]
  /** SQLSTATEs of the errors that the server answered with. */
  readonly errors: readonly string[]
  forget(): void
  close(): Promise<void>
}

/** Listens on a port of its own; `url` is the server's with that port. */
export async function startWiretap(serverUrl: string): Promise<Wiretap> {
  const target = new URL(serverUrl)
  const record = new Record()
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect({ host: target.hostname, port: Number(target.port || 5432), noDelay: true })
    client.setNoDelay(true)
    const listener = record.listener()
    client.on('data', (chunk) => {
      listener.clientSays(chunk)
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => {
      listener.serverSays(chunk)
      client.write(chunk)
    })
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => other.destroySoon())
    }
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const url = new URL(serverUrl)
  url.host = `127.0.0.1:${port}`
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
  }
  return {
    url: url.href,
    get flights() {
      return record.flights
    },
    get texts() {
      return record.texts
    },
    get errors() {
      return record.errors
    },
    forget: () => record.forget(),
    close,
    [Symbol.asyncDispose]: close,
  }
}

interface ConnectionListener {
  clientSays(chunk: Buffer): void
  serverSays(chunk: Buffer): void
}

class Record {
  flights: string[] = []
  texts: string[] = []
  errors: string[] = []

  forget(): void {
    this.flights = []
    this.texts = []
    this.errors = []
  }

  listener(): ConnectionListener {
    const fromClient = new Messages(true)
    const fromServer = new Messages()
    let said: Buffer[] = []
    let answered: Buffer[] = []
    let flying = false
    return {
      clientSays: (chunk) => {
        for (const piece of fromClient.pieces(chunk)) {
          if (piece.at === 0) said = []
          said.push(piece.bytes)
          if (!isLast(piece)) continue
          fromClient.opening = false
          // The opening, passwords, the goodbye.
          if (piece.type === '' || piece.type === 'p' || piece.type === 'X') continue
          this.#hear(piece.type, Buffer.concat(said).subarray(HEADER), flying)
          flying = true
        }
      },
      serverSays: (chunk) => {
        flying = false
        for (const piece of fromServer.pieces(chunk)) {
          if (piece.type !== 'E') continue
          if (piece.at === 0) answered = []
          answered.push(piece.bytes)
          if (isLast(piece)) this.errors.push(codeOf(Buffer.concat(answered).subarray(HEADER)))
        }
      },
    }
  }

  #hear(type: string, content: Buffer, flying: boolean): void {
    if (flying) this.flights.push((this.flights.pop() ?? '') + type)
    else this.flights.push(type)
    const [first = '', second = ''] = content.toString('utf8').split('\0', 2)
    if (type === 'Q') this.texts.push(first)
    if (type === 'P') this.texts.push(second)
  }
}

/** Of an ErrorResponse: fields that each begin with a letter. */
function codeOf(content: Buffer): string {
  const fields = content.toString('utf8').split('\0')
  return fields.find((field) => field.startsWith('C'))?.slice(1) ?? ''
}
