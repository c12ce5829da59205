// One direction of a connection: bytes arrive in order, later than they were sent and no faster than the line is.
// An action can be sent down the line like bytes, so that a reset comes after what was sent before it.

import type { Chance } from '../../../src/core/types.ts'

/** What holds for all connections of a proxy in one direction; changed while they are open. */
export interface LineQuality {
  latencyMs: number
  /** Up to so much more, drawn anew for every chunk. */
  jitterMs: number
  chance: Chance
  /** 0: as fast as it goes. */
  bytesPerSecond: number
}

interface Parcel {
  dueAt: number
  readonly bytes: number
  readonly deliver: () => void
}

/** At a limited rate bytes come in portions of this much time, so that they flow rather than jump. */
const PORTION_MS = 10

export class Delayed {
  readonly #quality: LineQuality
  readonly #write: (bytes: Buffer) => void
  #parcels: Parcel[] = []
  #timer: NodeJS.Timeout | undefined
  /** When the last parcel will have left: nothing overtakes, and a slow line is busy until then. */
  #freeAt = 0
  /** Bytes on their way. */
  underway = 0

  constructor(quality: LineQuality, write: (bytes: Buffer) => void) {
    this.#quality = quality
    this.#write = write
  }

  send(bytes: Buffer): void {
    const { bytesPerSecond } = this.#quality
    if (this.#isStraight) {
      this.#write(bytes)
      return
    }
    const arrivesAt = this.#arrival()
    if (bytesPerSecond === 0) {
      this.#push(arrivesAt, bytes.length, () => this.#write(bytes))
      return
    }
    const portion = Math.max(1, Math.ceil((bytesPerSecond * PORTION_MS) / 1000))
    for (let from = 0; from < bytes.length; from += portion) {
      const part = bytes.subarray(from, from + portion)
      const doneAt = Math.max(arrivesAt, this.#freeAt) + (part.length * 1000) / bytesPerSecond
      this.#push(doneAt, part.length, () => this.#write(part))
    }
  }

  /** Runs `action` when all that was sent before has arrived. */
  whenArrived(action: () => void): void {
    if (this.#isStraight) action()
    else this.#push(this.#arrival(), 0, action)
  }

  /** All that is on its way arrives now. */
  flush(): void {
    const parcels = this.#parcels
    this.drop()
    for (const parcel of parcels) parcel.deliver()
  }

  /** Nothing that is on its way arrives. */
  drop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#parcels = []
    this.#freeAt = 0
    this.underway = 0
  }

  get #isStraight(): boolean {
    const { latencyMs, jitterMs, bytesPerSecond } = this.#quality
    return latencyMs === 0 && jitterMs === 0 && bytesPerSecond === 0 && this.#parcels.length === 0
  }

  #arrival(): number {
    const { latencyMs, jitterMs, chance } = this.#quality
    return performance.now() + latencyMs + (jitterMs > 0 ? jitterMs * chance() : 0)
  }

  #push(at: number, bytes: number, deliver: () => void): void {
    this.#freeAt = Math.max(at, this.#freeAt)
    this.#parcels.push({ dueAt: this.#freeAt, bytes, deliver })
    this.underway += bytes
    this.#wait()
  }

  #wait(): void {
    const [next] = this.#parcels
    if (this.#timer !== undefined || next === undefined) return
    this.#timer = setTimeout(() => this.#arrive(), Math.max(0, Math.ceil(next.dueAt - performance.now())))
  }

  #arrive(): void {
    this.#timer = undefined
    const now = performance.now()
    for (let next = this.#parcels[0]; next !== undefined && next.dueAt <= now; next = this.#parcels[0]) {
      this.#parcels.shift()
      this.underway -= next.bytes
      next.deliver()
    }
    this.#wait()
  }
}
