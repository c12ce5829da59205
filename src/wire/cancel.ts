// The wire's CancelRequest, on a connection of its own: with the backend's key, to the same address, over the same TLS,
// with its own deadline. (pg_cancel_backend needs a free connection and cancels nothing behind a pooler.)

import { isIP } from 'node:net'
import { Connection } from 'pg'
import type { Clock } from '../core/types.ts'
import { peerOf } from './auth.ts'
import type { PgClient } from './pg-client.ts'

interface CancelConnection {
  readonly stream: { destroy(): void }
  attachListeners(stream: CancelStream): void
  on(event: 'connect' | 'sslconnect' | 'end' | 'error', listener: (error?: Error) => void): void
  connect(port: number | string, host?: string): void
  requestSsl(): void
  cancel(pid: number, key: number): void
}

interface CancelStream {
  on(event: 'data', listener: () => void): void
}

/** Settles when the server has closed the cancel connection, or rejects after `timeoutMs`. */
export function sendCancel(client: PgClient, clock: Clock, timeoutMs: number): Promise<void> {
  const ssl = tlsAs(client)
  const direct = client.connectionParameters.sslnegotiation === 'direct'
  const Channel = Connection as unknown as new (config: object) => CancelConnection
  const connection = new Channel({ ssl, sslNegotiation: direct ? 'direct' : 'postgres' })
  // A server says nothing here. What it says all the same is read, so that its end is seen, and understood by nobody.
  connection.attachListeners = (stream) => stream.on('data', () => undefined)
  return new Promise<void>((resolve, reject) => {
    const deadline = clock.setTimeout(
      () => fail(new Error(`cancel request not taken within ${timeoutMs} ms`)),
      timeoutMs,
      'awaited',
    )
    const fail = (error: Error): void => {
      clock.clearTimeout(deadline)
      connection.stream.destroy()
      reject(error)
    }
    const send = (): void => connection.cancel(client.processID, client.secretKey)
    connection.on('connect', () => {
      if (ssl === false) send()
      else if (!direct) connection.requestSsl()
    })
    connection.on('sslconnect', send)
    connection.on('error', (error) => fail(error!))
    connection.on('end', () => {
      clock.clearTimeout(deadline)
      resolve()
    })
    if (client.host.startsWith('/')) connection.connect(`${client.host}/.s.PGSQL.${client.port}`)
    // A name may by now mean another server, which would not know the key.
    else connection.connect(client.port, peerOf(client))
  })
}

/** The TLS of the session, with its certificate's name: pg would ask for one that is made for the address. */
function tlsAs(client: PgClient): object | false {
  const { ssl } = client.connectionParameters
  if (!ssl) return false
  const name = isIP(client.host) === 0 ? { servername: client.host } : {}
  return { host: client.host, ...name, ...(ssl === true ? {} : ssl) }
}
