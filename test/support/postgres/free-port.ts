// A port nobody listens on. Below 32768, where no operating system hands out ports for outgoing connections:
// otherwise a client's own socket may take a server's port while that server restarts.

import { createServer } from 'node:net'

const first = 10_000
const last = 32_000

export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = first + Math.floor(Math.random() * (last - first))
    if (await canListen(port)) return port
  }
  throw new Error(`no free port between ${first} and ${last}`)
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen({ port, host: '127.0.0.1', exclusive: true }, () => probe.close(() => resolve(true)))
  })
}
