// One connection through the proxy: the client's socket, the server's, and what happens to bytes in between.

import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { Conversation } from './conversation.ts'
import { Delayed } from './delayed.ts'
import type { LineQuality } from './delayed.ts'
import { isLast } from './messages.ts'
import type { Piece } from './messages.ts'
import { damaged } from './traps.ts'
import type { Harm, Trap } from './traps.ts'

export type Direction = 'toServer' | 'toClient'
export type Both = Record<Direction, number>

/** What all passages of a proxy share. */
export interface Circumstances {
  readonly quality: Record<Direction, LineQuality>
  /** Nothing that is sent this way arrives, on any connection. */
  readonly silent: Record<Direction, boolean>
  readonly traps: ReadonlySet<Trap>
}

/** Where a slow line makes its sender wait. */
const MOST_UNDERWAY = 1 << 20

export class Passage {
  /** Bytes that were sent, whether or not they arrived. */
  readonly bytes: Both = { toServer: 0, toClient: 0 }
  /** What the client sent first. */
  opening: Buffer = Buffer.alloc(0)
  /** How often the client spoke after the server had: its waits for an answer. */
  roundTrips = 0

  readonly #around: Circumstances
  readonly #client: Socket
  #server: Socket | null = null
  readonly #lines: Record<Direction, Delayed>
  readonly #conversation = new Conversation()
  readonly #silenced = new Set<Direction>()
  /** Ways on which something was swallowed: what came after it would be out of step. */
  readonly #broken = new Set<Direction>()
  #harm: Harm | null = null
  #lastSpoke: Direction = 'toClient'
  #clientGone = false

  constructor(client: Socket, around: Circumstances) {
    this.#client = client
    this.#around = around
    client.setNoDelay(true)
    client.on('error', () => undefined)
    this.#lines = {
      toServer: new Delayed(around.quality.toServer, (bytes) => this.#write('toServer', bytes)),
      toClient: new Delayed(around.quality.toClient, (bytes) => this.#write('toClient', bytes)),
    }
  }

  /** Whether the client still holds its end. */
  get open(): boolean {
    return !this.#clientGone && !this.#client.destroyed
  }

  /** Joins the client with a server; until then nothing the client sends is read. */
  joinTo(target: { readonly host: string; readonly port: number }): void {
    if (this.#client.destroyed) return
    const server = connect({ ...target, noDelay: true, allowHalfOpen: true })
    this.#server = server
    this.#client.on('data', (chunk: Buffer) => this.#fromClient(chunk))
    server.on('data', (chunk: Buffer) => this.#fromServer(chunk))
    this.#client.on('end', () => (this.#clientGone = true))
    this.#pair(this.#client, server, 'toServer')
    this.#pair(server, this.#client, 'toClient')
  }

  /** Nothing that is sent this way (default: either way) arrives any more; the connection stays open. */
  silence(direction?: Direction): void {
    for (const one of waysOf(direction)) this.#silenced.add(one)
  }

  /** The client gets a RST; the server an end, after all that has been handed to it. */
  reset(): void {
    this.#lines.toServer.drop()
    this.#lines.toClient.drop()
    this.#client.resetAndDestroy()
    this.#server?.destroy()
  }

  /** Silence ends where nothing was lost by it, and what is under way arrives. */
  heal(): void {
    this.#silenced.clear()
    this.#lines.toServer.flush()
    this.#lines.toClient.flush()
    if (this.#clientGone && this.#broken.has('toServer')) this.destroy()
  }

  destroy(): void {
    this.#lines.toServer.drop()
    this.#lines.toClient.drop()
    this.#client.destroy()
    this.#server?.destroy()
  }

  #isSilent(direction: Direction): boolean {
    return this.#around.silent[direction] || this.#silenced.has(direction) || this.#broken.has(direction)
  }

  /** One socket's end becomes the other's, unless nothing arrives there. */
  #pair(from: Socket, to: Socket, direction: Direction): void {
    const pass = (end: () => void) => (): void => {
      if (this.#isSilent(direction)) this.#broken.add(direction)
      else this.#lines[direction].whenArrived(end)
    }
    from.on(
      'end',
      pass(() => to.end()),
    )
    from.on(
      'error',
      pass(() => to.resetAndDestroy()),
    )
    from.on(
      'close',
      pass(() => to.destroySoon()),
    )
  }

  #fromClient(chunk: Buffer): void {
    this.bytes.toServer += chunk.length
    if (this.opening.length === 0) this.opening = chunk
    if (this.#lastSpoke === 'toClient') this.roundTrips++
    this.#lastSpoke = 'toServer'
    if (this.#swallows('toServer')) return
    this.#conversation.clientSays(chunk)
    this.#send('toServer', chunk)
  }

  #fromServer(chunk: Buffer): void {
    this.bytes.toClient += chunk.length
    this.#lastSpoke = 'toClient'
    if (this.#swallows('toClient')) return
    const kept: Buffer[] = []
    let ends = false
    for (const piece of this.#conversation.serverSays(chunk)) {
      const { bytes, end } = this.#pass(piece)
      if (bytes.length > 0) kept.push(bytes)
      ends = end
      if (ends) break
    }
    if (kept.length > 0) this.#send('toClient', kept.length === 1 ? kept[0]! : Buffer.concat(kept))
    if (ends) this.#cut()
  }

  #swallows(direction: Direction): boolean {
    if (!this.#isSilent(direction)) return false
    this.#broken.add(direction)
    return true
  }

  /** What of a piece goes on to the client, and whether the connection ends behind it. */
  #pass(piece: Piece): { bytes: Buffer; end: boolean } {
    if (piece.at === 0 && this.#harm === null) this.#harm = this.#caught(piece)
    const harm = this.#harm
    if (harm === null) return { bytes: piece.bytes, end: false }
    switch (harm.do) {
      case 'reset': {
        const left = Math.max(0, harm.afterBytes - piece.at)
        return { bytes: piece.bytes.subarray(0, left), end: left <= piece.bytes.length || isLast(piece) }
      }
      case 'damage':
        if (isLast(piece)) this.#harm = null
        return { bytes: damaged(piece, harm.kind, harm.as), end: false }
      case 'lose':
        return { bytes: piece.bytes.subarray(0, 0), end: piece.type === 'Z' && isLast(piece) }
      default:
        return harm satisfies never
    }
  }

  #caught({ type }: Piece): Harm | null {
    if (type === '' || this.#around.traps.size === 0) return null
    for (const trap of this.#around.traps) {
      if (trap.catches(this, type, this.#conversation.answering)) return trap.harm
    }
    return null
  }

  /** A reset behind what was sent: that has arrived, nothing else does. */
  #cut(): void {
    this.#broken.add('toClient').add('toServer')
    // A RST overtakes what has not been handed to the system: nothing at all is written behind that.
    this.#lines.toClient.whenArrived(() => void this.#client.write(Buffer.alloc(0), () => this.reset()))
  }

  #send(direction: Direction, bytes: Buffer): void {
    this.#lines[direction].send(bytes)
    if (this.#underway(direction) > MOST_UNDERWAY) this.#source(direction)?.pause()
  }

  #write(direction: Direction, bytes: Buffer): void {
    const to = direction === 'toServer' ? this.#server : this.#client
    if (to === null || !to.writable) return
    to.write(bytes, () => {
      const from = this.#source(direction)
      if (from?.isPaused() && this.#underway(direction) <= MOST_UNDERWAY) from.resume()
    })
  }

  #underway(direction: Direction): number {
    const to = direction === 'toServer' ? this.#server : this.#client
    return this.#lines[direction].underway + (to?.writableLength ?? 0)
  }

  #source(direction: Direction): Socket | null {
    return direction === 'toServer' ? this.#client : this.#server
  }
}

export function waysOf(direction: Direction | undefined): readonly Direction[] {
  return direction === undefined ? ['toServer', 'toClient'] : [direction]
}
