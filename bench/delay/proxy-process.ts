// A network between client and server, in a process of its own: bytes arrive in their order, half of the round trip
// later, with no limit to how many are on their way.
//
// The timers of Node count whole milliseconds, which would make 1 ms of round trip out of anything between 1 and 3. So
// they only wait until the last millisecond, and short naps of the thread do the rest.

import { createServer, createConnection } from 'node:net'
import type { Socket } from 'node:net'
import { freePort } from '../../test/support/postgres/free-port.ts'

export interface ProxyPlan {
  readonly host: string
  readonly port: number
  /** One way. */
  readonly delayMs: number
}

interface Parcel {
  readonly dueAt: number
  readonly deliver: () => void
}

let delayMs = 0
/** Of all connections in both directions: the delay is the same for all, so they are due in the order they came. */
let underway: Parcel[] = []
let first = 0
let waiting = false

function send(deliver: () => void): void {
  underway.push({ dueAt: performance.now() + delayMs, deliver })
  wait()
}

const coarseMs = 1.5
const napMs = 0.05
const neverWoken = new Int32Array(new SharedArrayBuffer(4))

function wait(): void {
  const next = underway[first]
  if (waiting || next === undefined) return
  waiting = true
  const restMs = next.dueAt - performance.now()
  if (restMs > coarseMs) setTimeout(arrive, Math.floor(restMs - 1))
  // Through the event loop, so that what comes in meanwhile gets its time.
  else setImmediate(nap)
}

function nap(): void {
  const restMs = underway[first]!.dueAt - performance.now()
  if (restMs > napMs) Atomics.wait(neverWoken, 0, 0, napMs)
  arrive()
}

function arrive(): void {
  waiting = false
  const now = performance.now()
  for (let next = underway[first]; next !== undefined && next.dueAt <= now; next = underway[first]) {
    first++
    next.deliver()
  }
  if (first === underway.length || first > 10_000) {
    underway = underway.slice(first)
    first = 0
  }
  wait()
}

function carry(from: Socket, to: Socket): void {
  from.setNoDelay(true)
  from.on('data', (bytes) => send(() => to.write(bytes)))
  from.on('end', () => send(() => to.end()))
  from.on('close', () => send(() => to.destroy()))
  // What broke here ends there, by `close`.
  from.on('error', () => undefined)
}

async function open({ host, port, delayMs: asked }: ProxyPlan): Promise<void> {
  delayMs = asked
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = createConnection({ host, port, allowHalfOpen: true })
    carry(client, upstream)
    carry(upstream, client)
  })
  const own = await freePort()
  server.listen(own, '127.0.0.1', () => process.send!(own))
}

process.once('message', (plan: ProxyPlan) => void open(plan))
process.on('disconnect', () => process.exit())
