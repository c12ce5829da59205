// The same port on another address of this machine, as the servers of one cluster have it in production: whoever comes
// there is passed on to a server.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'

export interface Relay extends AsyncDisposable {
  /** Nobody comes through any more, as when the machine is gone. */
  close(): Promise<void>
}

/** `host`: 127.0.0.1 to 127.255.255.254, which only Linux has all of. */
export async function startRelay(host: string, port: number, to: { readonly port: number }): Promise<Relay> {
  const sockets = new Set<Socket>()
  const listener = createServer((client) => {
    const server = connect(to.port, '127.0.0.1')
    for (const socket of [client, server]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        server.destroy()
      })
    }
    client.pipe(server).pipe(client)
  })
  listener.listen(port, host)
  await once(listener, 'listening')
  const close = async (): Promise<void> => {
    if (!listener.listening) return
    const closed = once(listener, 'close')
    listener.close()
    for (const socket of sockets) socket.destroy()
    await closed
  }
  return { close, [Symbol.asyncDispose]: close }
}
