// The way to the server: straight, or through a proxy that delays (proxy-process.ts). Either is measured by a ping
// before anything else, because what stands in the results is what the way was, not what it was meant to be.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Client } from 'pg'
import { medianOf } from '../statistics.ts'
import type { ProxyPlan } from './proxy-process.ts'

export interface Line {
  /** Where clients are to connect. */
  readonly url: string
  /** As asked for, of a round trip. */
  readonly delayMs: number
  /** What a `select` takes on this way, the server's part included. */
  readonly roundTripMs: number
  /** How much of it the proxy is. */
  readonly addedMs: number
  close(): Promise<void>
}

export async function openLine(url: string, delayMs: number): Promise<Line> {
  const straightMs = await ping(url, 0)
  if (delayMs === 0) return { url, delayMs, roundTripMs: straightMs, addedMs: 0, close: async () => undefined }
  const proxy = fork(join(import.meta.dirname, 'proxy-process.ts'))
  const through = new URL(url)
  const plan: ProxyPlan = { host: through.hostname, port: Number(through.port || 5432), delayMs: delayMs / 2 }
  proxy.send(plan)
  const [port] = (await once(proxy, 'message')) as [number]
  through.hostname = '127.0.0.1'
  through.port = String(port)
  const roundTripMs = await ping(through.href, delayMs)
  const close = async (): Promise<void> => {
    const ended = once(proxy, 'exit')
    proxy.disconnect()
    await ended
  }
  return { url: through.href, delayMs, roundTripMs, addedMs: roundTripMs - straightMs, close }
}

/** Median of pings that take about a second in all. */
async function ping(url: string, delayMs: number): Promise<number> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    const times: number[] = []
    for (let left = Math.ceil(1000 / Math.max(5, delayMs)); left > 0; left--) {
      const began = performance.now()
      await client.query('select')
      times.push(performance.now() - began)
    }
    return medianOf(times)
  } finally {
    await client.end()
  }
}
