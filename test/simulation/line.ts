// One TCP connection without a network: bytes travel each way in order, for as long as they need, in the pieces in
// which they happen to arrive. It can be cut in the middle of a message, or fall silent for a while or for good.

import { EventEmitter } from 'node:events'
import type { Dice, World } from './world.ts'

/** The end of a line that is not the client's. */
export interface FarEnd {
  received(bytes: Buffer): void
  /** The client has said goodbye, or is gone. */
  ended(): void
}

/** What the network is like just now. */
export interface Weather {
  /** One way, milliseconds. */
  least: number
  most: number
}

type Parcel = { readonly bytes: Buffer; readonly read?: () => void } | 'end'

/** One direction. */
class Way {
  readonly #world: World
  readonly #line: Line
  readonly #deliver: (parcel: Parcel) => void
  readonly #onTheWay: Parcel[] = []
  #lastAt = 0

  constructor(world: World, line: Line, deliver: (parcel: Parcel) => void) {
    this.#world = world
    this.#line = line
    this.#deliver = deliver
  }

  /** The first that is on its way. */
  get first(): Buffer | null {
    const [first] = this.#onTheWay
    return first === undefined || first === 'end' ? null : first.bytes
  }

  send(parcel: Parcel): void {
    const at = Math.max(this.#lastAt, this.#world.now + this.#line.wayMs())
    this.#lastAt = at
    this.#onTheWay.push(parcel)
    this.#world.after(at - this.#world.now, () => this.#arrive())
  }

  /** Nothing that is on its way arrives. */
  drop(): void {
    this.#onTheWay.length = 0
  }

  #arrive(): void {
    if (this.#onTheWay.length === 0) return
    const { silentUntil } = this.#line
    if (this.#world.now < silentUntil) {
      // What waits arrives as soon as the line speaks again; until then nothing moves.
      if (silentUntil !== Infinity) this.#world.after(silentUntil - this.#world.now, () => this.#arrive())
      return
    }
    this.#deliver(this.#onTheWay.shift()!)
  }
}

export class Line {
  readonly socket: VirtualSocket
  readonly id: number
  far: FarEnd | null = null
  cut = false
  silentUntil = 0
  /** Bytes of the next write that get through before the line is cut; -1: all, and no cut. */
  breaksWithin = -1
  /** What the client writes, for whoever keeps the books. */
  onWritten: (bytes: Buffer) => void = () => undefined
  readonly #world: World
  readonly #dice: Dice
  readonly #weather: Weather
  readonly #up: Way
  readonly #down: Way

  constructor(world: World, dice: Dice, weather: Weather, id: number, connects: (line: Line) => void) {
    this.#world = world
    this.#dice = dice
    this.#weather = weather
    this.id = id
    this.#up = new Way(world, this, (parcel) => {
      if (parcel === 'end') this.far?.ended()
      else this.far?.received(parcel.bytes)
    })
    this.socket = new VirtualSocket(this, () => connects(this))
    this.#down = new Way(world, this, (parcel) => this.socket.arrives(parcel, world))
  }

  wayMs(): number {
    return this.#dice.between(this.#weather.least, this.#weather.most)
  }

  /** To the server. */
  write(bytes: Buffer): void {
    if (this.cut) return
    this.onWritten(bytes)
    if (this.breaksWithin >= 0) {
      const through = Math.min(this.breaksWithin, bytes.length)
      this.breaksWithin = -1
      if (through > 0) this.#up.send({ bytes: bytes.subarray(0, through) })
      this.#world.after(this.#weather.most, () => this.reset('in the middle of what the client says'))
      return
    }
    const split = this.#dice.happens(0.1) ? this.#dice.whole(1, bytes.length) : bytes.length
    this.#up.send({ bytes: bytes.subarray(0, split) })
    if (split < bytes.length) this.#up.send({ bytes: bytes.subarray(split) })
  }

  /** To the client; `read` is called when it has read the last of it. */
  answer(bytes: Buffer, read: () => void): void {
    if (this.cut) return
    const split = this.#dice.happens(0.1) ? this.#dice.whole(1, bytes.length) : bytes.length
    if (split === bytes.length) this.#down.send({ bytes, read })
    else {
      this.#down.send({ bytes: bytes.subarray(0, split) })
      this.#down.send({ bytes: bytes.subarray(split), read })
    }
  }

  /** The server has nothing more to say. */
  hangUp(): void {
    if (!this.cut) this.#down.send('end')
  }

  /** The client has nothing more to say. */
  goodbye(): void {
    if (!this.cut) this.#up.send('end')
  }

  /** The client has closed its socket: what is on its way to the server may still arrive. */
  abandoned(): void {
    if (this.cut) return
    this.#down.drop()
    if (this.#dice.happens(0.3)) this.#up.drop()
    this.#up.send('end')
  }

  /** Both ends learn at once that it is broken; of what is on its way to the client some may have come before. */
  reset(why: string): void {
    if (this.cut) return
    this.#world.note(`line ${this.id}`, `is cut ${why}`)
    const { first } = this.#down
    if (first !== null && this.silentUntil <= this.#world.now && this.#dice.happens(0.5)) {
      this.socket.arrives({ bytes: first.subarray(0, this.#dice.whole(0, first.length - 1)) }, this.#world)
    }
    this.cut = true
    this.#up.drop()
    this.#down.drop()
    this.socket.breaks(this.#world)
    this.far?.ended()
  }
}

/** The client's end, as much of net.Socket as pg and the wire use. */
export class VirtualSocket extends EventEmitter {
  writable = true
  readonly writableLength = 0
  bytesRead = 0
  destroyed = false
  readonly #line: Line
  readonly #connects: () => void
  #unread: (Parcel | Error)[] = []

  constructor(line: Line, connects: () => void) {
    super()
    this.#line = line
    this.#connects = connects
  }

  connect(): this {
    this.#connects()
    return this
  }

  setNoDelay(): this {
    return this
  }

  setKeepAlive(): this {
    return this
  }

  ref(): this {
    return this
  }

  unref(): this {
    return this
  }

  write(bytes: Buffer, written?: () => void): boolean {
    if (!this.writable) return false
    this.#line.write(bytes)
    if (written !== undefined) process.nextTick(written)
    return true
  }

  end(): this {
    if (!this.writable) return this
    this.writable = false
    this.#line.goodbye()
    return this
  }

  destroy(error?: Error): this {
    if (this.destroyed) return this
    this.#line.abandoned()
    this.#close(error)
    return this
  }

  /** Something has come. */
  arrives(parcel: Parcel, world: World): void {
    this.#push(parcel, world)
  }

  /** The line is broken: what has come before is read first. */
  breaks(world: World): void {
    this.#push(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', syscall: 'read' }), world)
  }

  /** No connection. */
  fails(code: string, world: World): void {
    this.#push(Object.assign(new Error(`connect ${code}`), { code, syscall: 'connect' }), world)
  }

  connected(world: World): void {
    world.process.arrives({ read: () => void (this.destroyed || this.emit('connect')) })
  }

  #push(what: Parcel | Error, world: World): void {
    if (this.destroyed) return
    if (this.#unread.push(what) === 1) world.process.arrives({ read: () => this.#read() })
  }

  #read(): void {
    const unread = this.#unread
    this.#unread = []
    const bytes = unread.flatMap((one) => (one instanceof Error || one === 'end' ? [] : [one.bytes]))
    for (const { length } of bytes) this.bytesRead += length
    for (const one of unread) if (!this.destroyed && !(one instanceof Error) && one !== 'end') one.read?.()
    if (bytes.length > 0 && !this.destroyed) this.emit('data', bytes.length === 1 ? bytes[0] : Buffer.concat(bytes))
    for (const one of unread) {
      if (this.destroyed) return
      if (one instanceof Error) this.#close(one)
      else if (one === 'end') {
        this.emit('end')
        this.end()
        this.#close()
      }
    }
  }

  #close(error?: Error): void {
    this.destroyed = true
    this.writable = false
    this.#unread = []
    process.nextTick(() => {
      if (error !== undefined) this.emit('error', error)
      this.emit('close')
    })
  }
}
