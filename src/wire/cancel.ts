// The wire's CancelRequest, on a connection of its own: with the backend's key, over the same TLS, with its
// own deadline. (pg_cancel_backend needs a free connection and cancels nothing behind a pooler.)

import { Connection } from 'pg'
import type { Clock } from '../core/types.ts'
import type { PgClient } from './pg-client.ts'

interface CancelConnection {
  readonly stream: { destroy(): void }
  on(event: 'connect' | 'sslconnect' | 'end' | 'error', listener: (error?: Error) => void): void
  connect(port: number | string, host?: string): void
  requestSsl(): void
  cancel(pid: number, key: number): void
}

/** Settles when the server has closed the cancel connection, or rejects after `timeoutMs`. */
export function sendCancel(client: PgClient, clock: Clock, timeoutMs: number): Promise<void> {
  const ssl = client.connectionParameters.ssl
  const Channel = Connection as unknown as new (config: object) => CancelConnection
  const connection = new Channel({ ssl: ssl ?? false })
  return new Promise<void>((resolve, reject) => {
    const deadline = clock.setTimeout(
      () => {
        connection.stream.destroy()
        reject(new Error(`cancel request not taken within ${timeoutMs} ms`))
      },
      timeoutMs,
      'awaited',
    )
    const settle = (error?: Error): void => {
      clock.clearTimeout(deadline)
      if (error === undefined) resolve()
      else reject(error)
    }
    const send = (): void => connection.cancel(client.processID, client.secretKey)
    connection.on('connect', () => (ssl ? connection.requestSsl() : send()))
    connection.on('sslconnect', send)
    connection.on('error', settle)
    connection.on('end', () => settle())
    if (client.host.startsWith('/')) connection.connect(`${client.host}/.s.PGSQL.${client.port}`)
    else connection.connect(client.port, client.host)
  })
}
