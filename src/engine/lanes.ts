// The connections of one pool that callers share: whose statement goes on which of them now, who waits for a place,
// and what each answer teaches about text, lane and network. The rules are core/lane.ts's; here is what remembers
// and what waits. A lane with nothing on it is an idle connection of the pool like any other.

import type { NodeCells } from '../core/cells.ts'
import { LaneRules, STUCK_MS } from '../core/lane.ts'
import { RoundTrip, Rounds } from '../core/round-trip.ts'
import { TextCosts, closes } from '../core/text-cost.ts'
import type { LaneView } from '../core/lane.ts'
import type { Closes, TextCost } from '../core/text-cost.ts'
import type { Clock, Facts, Timer } from '../core/types.ts'
import { LaneCaller, LaneQueue } from './lane-queue.ts'
import type { LaneRoom } from './lane-queue.ts'
import { LanePassage, SharedLane } from './passage.ts'
import type { PlaceGiver } from './passage.ts'
import type { PooledSession } from './pooled-session.ts'

/** The pool, as far as its lanes need it. */
export interface LaneHost {
  readonly node: string
  readonly cells: NodeCells
  readonly clock: Clock
  /** Lanes run with a short lock timeout. */
  readonly pipelineWrites: boolean
  /** Connections with nothing on them. */
  readonly idle: number
  /** Somebody holds a connection for himself, or waits for one. */
  readonly pinned: boolean
  /** One of the idle that needs no question asked, or null. */
  takeIdle(now: number): PooledSession | null
  /** Sets a lock timeout ahead of the next statement. */
  underLockTimeout(pooled: PooledSession, whose: 'own' | 'short'): void
  /** Whether it may go on being used. */
  keeps(pooled: PooledSession, now: number): boolean
  /** Nothing is on it any more. */
  giveBack(pooled: PooledSession, now: number): void
  /** Rejects those who have waited in vain. */
  tellLate(late: readonly LaneCaller[], now: number, waited: number): void
  /** Another connection is wanted, if there may be one. */
  grow(): void
}

export class Lanes implements LaneView<SharedLane>, PlaceGiver {
  /** In use now. */
  readonly lanes = new Set<SharedLane>()
  readonly roundTrip = new RoundTrip()
  now = 0
  /** Statements on lanes, unanswered. */
  riding = 0
  readonly #host: LaneHost
  /** Every connection that has been one. */
  readonly #known = new WeakMap<PooledSession, SharedLane>()
  readonly #costs = new TextCosts()
  readonly #rules = new LaneRules<SharedLane>()
  readonly queue: LaneQueue
  /** How many lanes are kept for those who wait for a connection of their own. */
  #reserved = 0
  /** A read stands behind one that does not move, and there is no other lane for it. */
  #stuck = false
  #stopped = false
  readonly #rounds = new Rounds()
  #stuckTimer: Timer = null

  constructor(host: LaneHost) {
    this.#host = host
    this.queue = new LaneQueue(host.clock, (cost) => this.#closes(cost), host.tellLate.bind(host))
  }

  // What the rules look at.

  get idle(): number {
    return this.#host.idle
  }

  get count(): number {
    return this.lanes.size + this.#host.idle
  }

  get pinned(): boolean {
    return this.#host.pinned
  }

  get unreadMs(): number {
    return this.#rounds.unreadMs(this.now)
  }

  get roundTripMs(): number {
    return this.roundTrip.ms
  }

  // What the pool looks at.

  /** Whether one in use takes more. */
  get open(): boolean {
    const now = this.#host.clock.now()
    for (const lane of this.lanes) if (lane.isOpen(now, this.roundTrip.ms, this.#rounds.unreadMs(now))) return true
    return false
  }

  get waiting(): number {
    return this.queue.length
  }

  /** How many more connections those who wait could use. */
  get wanted(): number {
    return this.queue.wanted + (this.#stuck ? 1 : 0)
  }

  /** How long one connection would need for all who wait, milliseconds. */
  get workMs(): number {
    return this.#stuck ? Infinity : this.queue.workMs
  }

  /** A place for a statement at once, or null: the fast path, without a promise. */
  ride(facts: Facts): LanePassage | null {
    this.now = this.#host.clock.now()
    const cost = this.#costs.of(facts)
    const passage = this.queue.precedes(cost) ? null : this.#place(cost, this.#closes(cost))
    if (passage === null) return null
    this.#host.cells.acquires.ok++
    this.#host.cells.acquireDuration.observe(0)
    return passage
  }

  /** A place when there is one. Rejects like an acquire. */
  wait(facts: Facts, deadlineMs: number, signal: AbortSignal | undefined): Promise<LanePassage> {
    const { cells, clock } = this.#host
    const now = clock.now()
    const caller = new LaneCaller(cells, now, now + deadlineMs, this.#costs.of(facts))
    this.queue.join(caller)
    cells.waitedAcquires++
    if (signal !== undefined) caller.watch(signal, () => caller.leaves())
    return caller.served
  }

  /** Those who wait get what there is. */
  serve(): void {
    if (this.waiting === 0) return
    this.now = this.#host.clock.now()
    this.queue.sort()
    for (const room of this.queue.rooms) {
      for (let caller = room.head; caller !== null; caller = room.head) if (!this.#serveOne(caller, room)) break
    }
  }

  /** A connection came free: whether somebody who waits for a place rides it now. */
  admit(pooled: PooledSession, now: number): boolean {
    if (this.waiting === 0 || !pooled.session.pipelines) return false
    this.now = now
    const lane = this.#begin(pooled)
    this.#refill(lane)
    if (!lane.dry) return true
    this.lanes.delete(lane)
    return false
  }

  /** So many lanes take nothing new, because somebody waits for a connection of his own: the first to run dry. */
  reserve(count: number): void {
    if (count === 0 && this.#reserved === 0) return
    this.#reserved = count
    this.now = this.#host.clock.now()
    // As far as anybody can tell: one that hangs may hang for ever.
    const hangs = (lane: SharedLane): boolean =>
      lane.closed !== 'no' || lane.isOverdue(this.now, this.roundTripMs, this.unreadMs)
    const until = (lane: SharedLane): number => (hangs(lane) ? 1e9 : 0) + Math.max(0, lane.backlogMs(this.now, 0))
    const lanes = [...this.lanes].toSorted((a, b) => until(a) - until(b))
    for (const [i, lane] of lanes.entries()) lane.reserved = i < count
  }

  /** Looks at nothing any more. */
  stop(): void {
    this.#host.clock.clearTimeout(this.#stuckTimer)
    this.#stopped = true
  }

  /** Whether this one has run dry for somebody who waits for a connection of his own; asked once. */
  wasReserved(pooled: PooledSession): boolean {
    const lane = this.#known.get(pooled)
    if (lane === undefined || !lane.reserved) return false
    lane.reserved = false
    return true
  }

  /** The connection of a lane is gone; its statements have been told. Whether it was a lane. */
  lost(pooled: PooledSession): boolean {
    const lane = this.#known.get(pooled)
    if (lane === undefined || !this.lanes.delete(lane)) return false
    this.#rules.left(lane)
    return true
  }

  /** A statement ran into the lock timeout of its lane: for a while its text is not taken for one that never waits. */
  ranIntoLock({ cost }: LanePassage): void {
    cost.lockTimeoutAt = this.#host.clock.now()
    this.#host.cells.lockTimeouts++
  }

  // What a passage tells.

  answered(passage: LanePassage): void {
    this.riding--
    passage.lane.answer(passage)
  }

  leave(passage: LanePassage): void {
    const { lane } = passage
    this.riding--
    lane.unboard(passage)
    if (this.lanes.has(lane) && lane.dry) this.#dry(lane)
  }

  /** Asks the server to cancel a statement, if it can hit no other. */
  async cancel(passage: LanePassage, timeoutMs: number): Promise<void> {
    if (!this.#isAlone(passage)) return
    passage.lane.ending = true
    await passage.pooled.cancel(this.#host.clock, timeoutMs)
  }

  /** Cancels a statement and closes the connection under it, if nothing else stands there. */
  async kill(passage: LanePassage, timeoutMs: number, reason: Error): Promise<void> {
    if (!this.#isAlone(passage)) return
    const { lane, pooled } = passage
    lane.ending = true
    // Before the connection is given back, which waits for the same.
    await pooled.cancel(this.#host.clock, timeoutMs).then(() => pooled.session.destroy(reason))
  }

  /** What runs on each of them, and for how long. */
  heads(now: number): { heldMs: number; summary: string }[] {
    const heads = [...this.lanes].flatMap(({ passages: [head] }) => (head === undefined ? [] : [head]))
    return heads.map(({ sentAt, doing }) => ({ heldMs: now - sentAt, summary: doing }))
  }

  /** Whether nothing else stands on the connection: what is done to it hits nobody else. */
  #isAlone(passage: LanePassage): boolean {
    const { passages, pooled } = passage.lane
    return pooled.session.lost === null && passages.length === 1 && passages[0] === passage
  }

  #closes(cost: TextCost): Closes {
    return closes(cost, this.now, this.#host.pipelineWrites)
  }

  #place(cost: TextCost, kind: Closes): LanePassage | null {
    const choice = this.#rules.choose(cost, kind, this)
    if (choice === 'wait') return null
    if (choice !== 'idle') return this.#board(choice, cost, kind)
    const pooled = this.#host.takeIdle(this.now)
    if (pooled === null) return null
    pooled.session.ref()
    const lane = this.#begin(pooled)
    this.#rules.began(lane)
    return this.#board(lane, cost, kind)
  }

  #begin(pooled: PooledSession): SharedLane {
    const lane = this.#known.get(pooled) ?? this.#newLane(pooled)
    lane.reserved = false
    lane.ending = false
    lane.cancellingSince = 0
    this.lanes.add(lane)
    this.#host.underLockTimeout(pooled, 'short')
    return lane
  }

  #newLane(pooled: PooledSession): SharedLane {
    const lane = new SharedLane(pooled)
    this.#known.set(pooled, lane)
    pooled.session.onRead(() => this.#read(lane))
    return lane
  }

  #board(lane: SharedLane, cost: TextCost, kind: Closes): LanePassage {
    const passage = new LanePassage(this, lane, cost, kind, this.now)
    this.riding++
    passage.alone = lane.dry
    lane.board(passage, this.now, this.roundTrip.ms)
    if (!passage.alone) {
      this.#roundBegins()
      if (this.#stuckTimer === null && !this.#stopped) this.#watchStuck()
    }
    return passage
  }

  /** Answers have come on this lane and have been told. */
  #read(lane: SharedLane): void {
    if (!this.lanes.has(lane)) return
    this.now = this.#host.clock.now()
    const { firstAnswered: answered } = lane
    if (answered !== null) {
      if (answered.alone) this.roundTrip.observe(this.now - answered.sentAt, this.now)
      this.queue.learn(answered, this.now)
    }
    lane.reckon(this.now, this.roundTrip.ms, this.unreadMs)
    lane.cancellingSince = 0
    if (!this.#host.keeps(lane.pooled, this.now)) lane.ending = true
    if (this.waiting > 0) {
      this.#refill(lane)
      this.serve()
    }
    if (lane.dry) this.#dry(lane)
    if (this.lanes.size > 0) this.#roundBegins()
  }

  #roundBegins(): void {
    if (this.#rounds.begin(this.now)) this.#host.clock.nextTurn(this.#roundEnds)
  }

  readonly #roundEnds = (): void => this.#rounds.end(this.#host.clock.now())

  /** Those who wait ride the lane that has just answered, as far as its backlog goes. */
  #refill(lane: SharedLane): void {
    this.queue.sort()
    for (const room of this.queue.rooms) {
      for (let caller = room.head; caller !== null; caller = room.head) {
        const kind = this.#closes(caller.cost)
        if (!this.#rules.refills(lane, caller.cost, kind, this)) break
        this.#grant(caller, room, this.#board(lane, caller.cost, kind))
      }
    }
  }

  #serveOne(caller: LaneCaller, room: LaneRoom): boolean {
    const passage = this.#place(caller.cost, this.#closes(caller.cost))
    if (passage === null) return false
    this.#grant(caller, room, passage)
    return true
  }

  #grant(caller: LaneCaller, room: LaneRoom, passage: LanePassage): void {
    room.next()
    caller.resolve(passage, this.now)
  }

  #dry(lane: SharedLane): void {
    const { pooled } = lane
    if (pooled.cancelling === null) {
      this.#release(lane)
      return
    }
    // Until the request is over it would hit whatever comes next.
    lane.ending = true
    void pooled.cancelling.then(() => this.#release(lane))
  }

  #release(lane: SharedLane): void {
    if (!this.lanes.delete(lane)) return
    this.#rules.left(lane)
    this.#host.giveBack(lane.pooled, this.#host.clock.now())
  }

  /** Looks every few milliseconds for reads behind a head that does not move, as long as anything stands behind anything. */
  #watchStuck(): void {
    const { clock } = this.#host
    this.#stuckTimer = clock.setTimeout(() => {
      // What lies unread in the sockets is read first.
      clock.nextTurn(() => {
        this.#stuckTimer = null
        this.#resendStuck()
      })
    }, STUCK_MS)
  }

  #resendStuck(): void {
    this.now = this.#host.clock.now()
    let crowded = false
    this.#stuck = false
    for (const lane of this.lanes) {
      if (lane.passages.length < 2) continue
      crowded = true
      if (!lane.isOverdue(this.now, this.roundTrip.ms, this.unreadMs, STUCK_MS)) continue
      // What hangs is the head, unless its answer waits for others under the same Sync.
      const behind = lane.passages.slice(lane.passages[0]!.shares ? 0 : 1)
      if (!behind.every((passage) => this.#resend(passage))) this.#stuck = true
    }
    if (this.#stuck) this.#host.grow()
    if (crowded && this.#stuckTimer === null && !this.#stopped) this.#watchStuck()
  }

  /** Sends a read once more, on another lane; false when there is none. */
  #resend(passage: LanePassage): boolean {
    const { dropped, twin, statement, cost } = passage
    if (dropped || twin !== null || statement === null || !cost.facts.retrySafe) return true
    const again = this.#place(cost, this.#closes(cost))
    if (again === null) return false
    this.#host.cells.resent++
    again.sends(this.now, passage.doing, passage.timeoutMs)
    again.repeat(passage)
    return true
  }
}
