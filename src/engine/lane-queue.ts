// Those who wait for a place on a shared connection, in three queues, because they wait for different things: fast
// reads for room behind others, slow reads for a lane to close, and what may wait for a lock for a lane that no read
// needs. Reads overtake; nobody overtakes his like.

import type { NodeCells } from '../core/cells.ts'
import type { Closes, TextCost } from '../core/text-cost.ts'
import type { Clock } from '../core/types.ts'
import { Caller } from './caller.ts'
import type { LanePassage } from './passage.ts'
import type { Ticket } from './wait-queue.ts'
import { WaitingRoom } from './waiting-room.ts'

export type LaneRoom = WaitingRoom<LanePassage, LaneCaller>

/** Reads that one more connection could serve at once: a backlog's worth. */
const READS_PER_LANE = 32
/** What a statement that closes its lane is taken to hold it for while nothing is known, milliseconds. */
const UNKNOWN_USE_MS = 1

/** Somebody who waits for a place. */
export class LaneCaller extends Caller<LanePassage> {
  readonly cost: TextCost
  #room: LaneRoom | null = null
  #ticket: Ticket<LanePassage, LaneCaller> | null = null

  constructor(cells: NodeCells, since: number, deadline: number, cost: TextCost) {
    super(cells, since, deadline)
    this.cost = cost
  }

  joins(room: LaneRoom): void {
    this.#room = room
    this.#ticket = room.join(this)
  }

  /** Whether it still waited. */
  leaves(): boolean {
    return this.#room!.leave(this.#ticket!)
  }
}

export class LaneQueue {
  /** In the order in which they are served. */
  readonly rooms: readonly LaneRoom[]
  readonly #reads: LaneRoom
  /** Reads behind whom nothing may ride. */
  readonly #slow: LaneRoom
  /** Those who may wait for a lock: reads must not wait behind them, be they slow or unknown. */
  readonly #lockers: LaneRoom
  readonly #closes: (cost: TextCost) => Closes
  /** Mean time for which a statement that closes its lane holds it. */
  #closedMs = UNKNOWN_USE_MS
  #readMs = 0
  /** Something has been answered. */
  #learnt = false

  constructor(
    clock: Clock,
    closes: (cost: TextCost) => Closes,
    tellLate: (late: readonly LaneCaller[], now: number, waited: number) => void,
  ) {
    this.#closes = closes
    this.#reads = new WaitingRoom(clock, tellLate)
    this.#slow = new WaitingRoom(clock, tellLate)
    this.#lockers = new WaitingRoom(clock, tellLate)
    this.rooms = [this.#reads, this.#slow, this.#lockers]
  }

  get length(): number {
    return this.#reads.length + this.#closers
  }

  get #closers(): number {
    return this.#slow.length + this.#lockers.length
  }

  /** How many more connections those who wait could use. */
  get wanted(): number {
    // At the very beginning every text is unknown; most turn out to be fast reads.
    const shareable = this.#learnt ? this.#reads.length : this.length
    return (this.#learnt ? this.#closers : 0) + Math.ceil(shareable / READS_PER_LANE)
  }

  /** How long one connection would need for all who wait, milliseconds. */
  get workMs(): number {
    return this.#closers * this.#closedMs + this.#reads.length * this.#readMs
  }

  /** Since when the first of those who wait has waited; null when nobody does. */
  get since(): number | null {
    if (this.length === 0) return null
    return Math.min(this.#reads.since ?? Infinity, this.#slow.since ?? Infinity, this.#lockers.since ?? Infinity)
  }

  headWaitMs(): number {
    return Math.max(...this.rooms.map((room) => room.headWaitMs()))
  }

  /** Whether somebody waits whom this one must not overtake. */
  precedes(cost: TextCost): boolean {
    return this.length > 0 && (this.#reads.length > 0 || this.#roomOf(cost).length > 0)
  }

  join(caller: LaneCaller): void {
    caller.joins(this.#roomOf(caller.cost))
  }

  rejectAll(error: unknown, since?: number): void {
    for (const room of this.rooms) room.rejectAll(error, since)
  }

  /** What an answer says of how long such statements take. */
  learn({ closes, cost, sentAt }: LanePassage, now: number): void {
    this.#learnt = true
    if (closes === 'no') this.#readMs += (cost.expectedMs - this.#readMs) / 8
    else this.#closedMs += (now - sentAt - this.#closedMs) / 8
  }

  /** A text that has become known, or slow, while its caller waited: nobody waits behind a head that belongs elsewhere. */
  sort(): void {
    for (const room of this.rooms) {
      for (let caller = room.head; caller !== null; caller = room.head) {
        const other = this.#roomOf(caller.cost)
        if (other === room) break
        room.next()
        caller.joins(other)
      }
    }
  }

  #roomOf(cost: TextCost): LaneRoom {
    if (this.#closes(cost) === 'no') return this.#reads
    return cost.facts.lockWaiter ? this.#lockers : this.#slow
  }
}
