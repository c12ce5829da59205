// One statement of somebody on a connection that others use at the same time: from the moment it has its place
// until its caller has been told. Its caller may be told earlier than the server answers (it took too long, or the
// answer came by another lane): then the answer is dropped when it comes.

import type { Permit } from '../core/breaker.ts'
import { Lane } from '../core/lane.ts'
import type { Passage as Placed } from '../core/lane.ts'
import { readsPerSync } from '../core/sharing.ts'
import type { Closes, TextCost } from '../core/text-cost.ts'
import type { Asker, Rows, Session, Statement } from '../core/types.ts'
import type { PooledSession } from './pooled-session.ts'
import type { Seat } from './seat.ts'

/** Who gave it its place. */
export interface PlaceGiver {
  /** Statements on shared connections of this server, unanswered. */
  readonly riding: number
  /** The server has answered, or will never. */
  answered(passage: LanePassage): void
  /** Nothing was sent. */
  leave(passage: LanePassage): void
}

/** One connection that callers share. */
export class SharedLane extends Lane<LanePassage> {
  readonly pooled: PooledSession
  /** Since when what stands at its head is being cancelled; 0 when it is not. */
  cancellingSince = 0

  constructor(pooled: PooledSession) {
    super(pooled.session)
    this.pooled = pooled
  }
}

export class LanePassage implements Placed, Seat, Asker {
  readonly lane: SharedLane
  readonly cost: TextCost
  readonly closes: Closes
  readonly costMs: number
  sentAt: number
  serverMs = NaN
  /** Nothing stood on the lane when it boarded. */
  alone = false
  permit: Permit | null = null
  timedOut = false
  /** How long it may take, milliseconds; 0: as long as it takes. */
  timeoutMs = 0
  /** How far the deadline has been acted upon. */
  overdue: 'no' | 'seen' | 'told' = 'no'
  doing = ''
  /** Nobody waits for the answer any more. */
  dropped = false
  /** What this repeats. */
  #origin: LanePassage | null = null
  /** The same statement on another lane, or the one that this repeats. */
  twin: LanePassage | null = null
  statement: Statement | null = null
  /** It may be answered no earlier than others that stand under the same Sync. */
  shares = false
  readonly #giver: PlaceGiver
  #resolve: ((rows: Rows) => void) | null = null
  #reject: ((error: Error) => void) | null = null
  #asking = false

  constructor(giver: PlaceGiver, lane: SharedLane, cost: TextCost, closes: Closes, now: number) {
    this.#giver = giver
    this.lane = lane
    this.cost = cost
    this.closes = closes
    this.costMs = cost.expectedMs
    this.sentAt = now
  }

  get pooled(): PooledSession {
    return this.lane.pooled
  }

  get session(): Session {
    return this.lane.pooled.session
  }

  get cancelling(): null {
    // Nothing boards a lane on which something is being cancelled.
    return null
  }

  sends(now: number, doing: string, timeoutMs: number): void {
    this.sentAt = now
    this.doing = doing
    this.timeoutMs = timeoutMs
  }

  send(statement: Statement): Promise<Rows> {
    this.statement = statement
    return new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
      this.#ask(statement)
    })
  }

  /** Sends what its twin has sent, on this lane as well: whichever answers first. */
  repeat(twin: LanePassage): void {
    this.#origin = twin
    this.twin = twin
    twin.twin = this
    this.statement = twin.statement
    this.#ask(twin.statement!)
  }

  /** Gives its place up: nothing was sent. */
  leave(): void {
    this.#giver.leave(this)
  }

  /** Tells the caller now; what the server still answers is dropped. */
  abandon(error: Error): void {
    this.dropped = true
    if (this.twin !== null) this.twin.dropped = true
    const asked = this.#reject === null ? this.twin : this
    if (asked !== null) asked.#reject?.(error)
  }

  settles(): void {}

  /** The server is asked to end it, because its time is over. */
  timesOut(): void {
    this.timedOut = true
    if (this.#origin !== null) this.#origin.timedOut = true
  }

  // Asker: within the read that brought the answer.

  resolve(rows: Rows): void {
    this.#giver.answered(this)
    if (this.dropped) return
    const { twin } = this
    if (twin !== null) twin.dropped = true
    ;(this.#resolve ?? twin!.#resolve)!(rows)
  }

  reject(error: Error): void {
    // Refused before anything was sent: no answer will come that could take it off its lane.
    if (this.#asking) this.#giver.leave(this)
    else this.#giver.answered(this)
    if (this.dropped) return
    const { twin } = this
    if (twin !== null) {
      this.dropped = true
      // One of the two may still succeed.
      if (!twin.dropped) {
        this.twin = null
        twin.#adopt(this)
        return
      }
    }
    this.#reject!(error)
  }

  #ask(statement: Statement): void {
    this.#asking = true
    const gathers = readsPerSync(this.cost, this.#giver.riding)
    this.shares = gathers > 1
    this.session.ask(statement, this, gathers)
    this.#asking = false
  }

  /** The other one has failed: from now on there is only this. */
  #adopt(failed: LanePassage): void {
    this.#resolve ??= failed.#resolve
    this.#reject ??= failed.#reject
    this.twin = null
  }
}
