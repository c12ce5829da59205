// A TCP proxy in front of a PostgreSQL server, for tests of what networks do: it is slow, silent, closed, and it breaks
// in the worst moment. Faults are switched on and off while connections are open:
//
//     await using proxy = await startFaultProxy(cluster.url)
//     const db = connect(proxy.url)
//     proxy.latency(5, { jitter: 2, seed: 1 })             // every round trip takes 5 to 7 ms longer
//     proxy.loseReply({ to: /^commit/i })                   // one COMMIT is carried out, and its answer never arrives
//     await proxy.heal()
//
// It reads the protocol only as far as a fault needs it. Encrypted connections pass, too: silence, delays and resets
// work on them, faults of messages do not.

import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { seededChance } from './chance.ts'
import type { LineQuality } from './fault-proxy/delayed.ts'
import { Passage, waysOf } from './fault-proxy/passage.ts'
import type { Both, Circumstances, Direction } from './fault-proxy/passage.ts'
import { Trap } from './fault-proxy/traps.ts'
import type { Armed, Damage, Harm, MessageChoice } from './fault-proxy/traps.ts'
import { freePort } from './postgres/free-port.ts'

/** A proxy on a port of its own; `url` is the server's with that port. */
export async function startFaultProxy(serverUrl: string): Promise<FaultProxy> {
  const proxy = new FaultProxy(serverUrl, await freePort())
  await proxy.accept()
  return proxy
}

interface Address {
  readonly host: string
  readonly port: number
}

export class FaultProxy implements AsyncDisposable {
  readonly url: string
  readonly port: number
  /** All that were ever accepted, in that order. */
  readonly connections: Passage[] = []
  #target: Address
  #listener: Server | null = null
  #acceptsAfterMs = 0
  readonly #late = new Set<NodeJS.Timeout>()
  readonly #quality: Record<Direction, LineQuality> = { toServer: straight(), toClient: straight() }
  readonly #silent: Record<Direction, boolean> = { toServer: false, toClient: false }
  readonly #traps = new Set<Trap>()

  constructor(serverUrl: string, port: number) {
    this.#target = addressOf(serverUrl)
    this.port = port
    const url = new URL(serverUrl)
    url.hostname = '127.0.0.1'
    url.port = String(port)
    this.url = url.href
  }

  /** Connections that clients hold now. */
  get open(): Passage[] {
    return this.connections.filter((one) => one.open)
  }

  /** Bytes sent on all connections so far, whether or not they arrived. */
  get bytes(): Both {
    const sum = (direction: Direction): number =>
      this.connections.reduce((total, { bytes }) => total + bytes[direction], 0)
    return { toServer: sum('toServer'), toClient: sum('toClient') }
  }

  /**
   * A round trip takes `ms` longer, and by chance up to `jitter` ms more: one half each way, or with `direction` all of
   * it that way, where the other keeps what it has. Nothing overtakes. The same seed draws the same delays.
   */
  latency(ms: number, options: { jitter?: number; seed?: number; direction?: Direction } = {}): void {
    const { jitter = 0, seed = 1, direction } = options
    const ways = waysOf(direction)
    for (const [i, way] of ways.entries()) {
      const quality = this.#quality[way]
      quality.latencyMs = ms / ways.length
      quality.jitterMs = jitter / ways.length
      quality.chance = seededChance(seed + i)
    }
  }

  /** Each connection carries so many bytes per second, in one direction or either; 0: any number. */
  bandwidth(bytesPerSecond: number, direction?: Direction): void {
    for (const way of waysOf(direction)) this.#quality[way].bytesPerSecond = bytesPerSecond
  }

  /**
   * What is sent this way (default: either way) never arrives, on open connections and new ones, which are accepted; the
   * ends of connections go unheard as well. One connection alone: `proxy.connections[0].silence()`.
   */
  silence(direction?: Direction): void {
    for (const way of waysOf(direction)) this.#silent[way] = true
  }

  /** New connections are refused; open ones stay. */
  refuse(): void {
    this.#listener?.close()
    this.#listener = null
  }

  /** New connections are taken, and joined with the server after `afterMs` (default: at once). */
  async accept({ afterMs = 0 }: { afterMs?: number } = {}): Promise<void> {
    this.#acceptsAfterMs = afterMs
    if (this.#listener !== null) return
    const listener = createServer({ allowHalfOpen: true }, (client) => this.#accepted(client))
    this.#listener = listener
    listener.listen(this.port, '127.0.0.1')
    await once(listener, 'listening')
  }

  /** All open connections are reset: clients get a RST, the server an end after all that it has been sent. */
  reset(): void {
    for (const connection of this.connections) connection.reset()
  }

  /** The connection is reset after `afterBytes` bytes of one message of the server, header included. */
  resetInside({ afterBytes, ...choice }: MessageChoice & { afterBytes: number }): Armed {
    return this.#arm({ do: 'reset', afterBytes }, choice)
  }

  /** One message of the server is damaged; `as` is the type byte or the length to write instead. */
  corrupt({ kind, as, ...choice }: MessageChoice & { kind: Damage; as?: number }): Armed {
    return this.#arm({ do: 'damage', kind, as }, choice)
  }

  /**
   * The next answer to a statement of this text does not arrive: the server has done what was asked and is ready for the
   * next, and the connection is reset. Where several statements share one Sync, so do they share one answer.
   */
  loseReply({ to }: { to: RegExp }): Armed {
    return this.#arm({ do: 'lose' }, { to })
  }

  /** New connections go to another server; with `cut` the open ones are reset. */
  retarget(serverUrl: string, { cut = false }: { cut?: boolean } = {}): void {
    this.#target = addressOf(serverUrl)
    if (cut) this.reset()
  }

  /**
   * Ends every fault, those that still wait for their message included. A connection from which something was swallowed
   * stays silent: nothing can mend it. The server is still the one of the last `retarget`.
   */
  async heal(): Promise<void> {
    this.#traps.clear()
    for (const way of waysOf(undefined)) {
      Object.assign(this.#quality[way], straight())
      this.#silent[way] = false
    }
    for (const connection of this.connections) connection.heal()
    await this.accept()
  }

  /** Nothing listens any more and every connection is gone, on both sides. */
  async close(): Promise<void> {
    for (const timer of this.#late) clearTimeout(timer)
    const listener = this.#listener
    this.#listener = null
    const closed = new Promise((resolve) => (listener === null ? resolve(undefined) : listener.close(resolve)))
    for (const connection of this.connections) connection.destroy()
    await closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #accepted(client: Socket): void {
    const around: Circumstances = { quality: this.#quality, silent: this.#silent, traps: this.#traps }
    const passage = new Passage(client, around)
    this.connections.push(passage)
    if (this.#acceptsAfterMs === 0) {
      passage.joinTo(this.#target)
      return
    }
    const timer = setTimeout(() => {
      this.#late.delete(timer)
      passage.joinTo(this.#target)
    }, this.#acceptsAfterMs)
    this.#late.add(timer)
  }

  #arm(harm: Harm, choice: MessageChoice): Armed {
    const trap = new Trap(harm, choice)
    this.#traps.add(trap)
    return trap
  }
}

function straight(): LineQuality {
  return { latencyMs: 0, jitterMs: 0, chance: () => 0, bytesPerSecond: 0 }
}

function addressOf(serverUrl: string): Address {
  const url = new URL(serverUrl)
  return { host: url.hostname, port: Number(url.port || 5432) }
}
