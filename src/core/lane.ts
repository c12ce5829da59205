// Which connection a statement rides when several share one. A lane is a connection on which statements of many
// callers stand one behind the other; the server answers them in that order, so one that takes long, or that waits
// for a lock, holds up all that stand behind it. These are the rules that keep the fast from standing behind the
// slow: estimates of what each text costs the server, the work each lane still has before it, and who may be last.
//
// Blind rotation cut the throughput of fast queries 47-fold beside one slow one; rules over elapsed time mistake a
// long network for a busy server (a hundredth of the throughput at 25 ms). So what counts is the server's own time.

import type { Closes, TextCost } from './text-cost.ts'

/** Up to here several statements of one turn leave in one write; beyond, the server could work on two lanes. */
const PACKED_MS = 1
/** Work that may stand before a statement when it is sent behind others. */
const BACKLOG_MS = 3
/** The answer at the head is late by more than this: what comes behind it would be late as well. */
const OVERDUE_MS = 3
/** A read that stands behind a head that is late by more than this is sent once more, elsewhere. */
export const STUCK_MS = 5
/** Bytes of statements that a lane may hold unanswered. */
const MOST_BYTES = 1024 * 1024
/** For so long after a fast read, or after one that found no room, lanes are kept free for the next one. */
const FAST_SEEN_MS = 1_000
/** What may wait for a lock and takes longer than this may well have waited for one. */
const CONTENDED_MS = 3

/** A statement on a lane. */
export interface Passage {
  readonly cost: TextCost
  readonly closes: Closes
  /** What was reckoned with when it was sent. */
  readonly costMs: number
  readonly sentAt: number
  /** What the server took for it, as far as can be told; known once it is answered. */
  serverMs: number
}

/** What carries it. */
interface Carrier {
  readonly bytesUnanswered: number
  readonly unflushed: number
}

/** One connection as the rules see it. */
export class Lane<P extends Passage = Passage> {
  /** What stands on it, in the order of the answers. */
  readonly passages: P[] = []
  /** When the server is expected to have answered all of them. */
  #due = 0
  #answeredAt = -Infinity
  /** Answered in this read and not yet reckoned. */
  readonly #answered: P[] = []
  /** Kept for somebody who waits to have a connection for himself: nothing new may ride. */
  reserved = false
  /** To be closed, or being cancelled: nothing new may ride. */
  ending = false

  /** Bytes that are not answered yet, and statements that leave with this turn's write: what the connection says. */
  readonly #connection: Carrier

  constructor(connection: Carrier) {
    this.#connection = connection
  }

  /** Nothing stands on it. */
  get dry(): boolean {
    return this.passages.length === 0
  }

  /** There are bytes that this turn of the event loop will write anyway. */
  get unflushed(): boolean {
    return this.#connection.unflushed > 0
  }

  /** The first of those that this read answered. */
  get firstAnswered(): P | null {
    return this.#answered[0] ?? null
  }

  /** Why the last statement lets nothing ride behind it. */
  get closed(): Closes {
    return this.passages.at(-1)?.closes ?? 'no'
  }

  /** Work that would stand before a statement when it arrives at the server, milliseconds. */
  backlogMs(now: number, roundTripMs: number): number {
    return this.passages.length === 0 ? 0 : this.#due - now - roundTripMs
  }

  /** By how much the answer at the head is late; at most 0 while it is not. */
  lateMs(now: number, roundTripMs: number): number {
    const head = this.passages[0]
    return head === undefined ? 0 : now - Math.max(head.sentAt + roundTripMs, this.#answeredAt)
  }

  /** Whether the head is late, and not merely unread because this process itself has been busy. */
  isOverdue(now: number, roundTripMs: number, unreadMs: number, limitMs = OVERDUE_MS): boolean {
    return this.lateMs(now, roundTripMs) - unreadMs > limitMs
  }

  /** Whether a statement may ride behind those that are there. */
  isOpen(now: number, roundTripMs: number, unreadMs: number): boolean {
    if (this.reserved || this.ending || this.closed !== 'no') return false
    if (this.isOverdue(now, roundTripMs, unreadMs)) return false
    return this.#connection.bytesUnanswered <= MOST_BYTES
  }

  /** A statement is sent. */
  board(passage: P, now: number, roundTripMs: number): void {
    // What was answered before it ran dry says nothing of what comes now.
    if (this.passages.length === 0) this.#due = 0
    this.#due = Math.max(now + roundTripMs, this.#due) + passage.costMs
    this.passages.push(passage)
  }

  /** It is not sent after all. */
  unboard(passage: P): void {
    this.#remove(passage)
    this.#due -= passage.costMs
  }

  /** Its answer has come; `reckon` follows when the read is over. */
  answer(passage: P): void {
    this.#answered.push(passage)
    this.#remove(passage)
  }

  /**
   * What the answers of one read say about the server: the time since the answer before is theirs. They share up to
   * 3 ms of it evenly; what is beyond is the first one's, because the others were answered behind it. Of that the time
   * for which it may have lain here unread is not the server's.
   */
  reckon(now: number, roundTripMs: number, unreadMs: number): void {
    const count = this.#answered.length
    if (count === 0) return
    const [first] = this.#answered
    const elapsed = Math.max(0, now - Math.max(first!.sentAt + roundTripMs, this.#answeredAt))
    const share = Math.min(elapsed, BACKLOG_MS) / count
    let beyond = Math.max(0, elapsed - share * count - unreadMs)
    for (const passage of this.#answered) {
      passage.serverMs = share + beyond
      beyond = 0
      passage.cost.observe(passage.serverMs)
      this.#due += passage.serverMs - passage.costMs
    }
    this.#answered.length = 0
    this.#answeredAt = now
  }

  #remove(passage: P): void {
    const { passages } = this
    if (passages[0] === passage) passages.shift()
    else {
      const at = passages.indexOf(passage)
      if (at >= 0) passages.splice(at, 1)
    }
  }
}

/** What the rules look at. */
export interface LaneView<L extends Lane = Lane> {
  /** Those with something on them. */
  readonly lanes: Iterable<L>
  /** How many connections share, those with nothing on them included. */
  readonly count: number
  /** Connections with nothing on them, ready for use. */
  readonly idle: number
  /** Somebody holds a connection for himself, or is about to: he may have locks, and wait for a read of his own. */
  readonly pinned: boolean
  readonly now: number
  readonly roundTripMs: number
  /** For so long at most an answer may have lain unread. */
  readonly unreadMs: number
}

/** The lane to ride, an `idle` connection to begin a new one on, or to wait. */
export type LaneChoice<L extends Lane = Lane> = L | 'idle' | 'wait'

/** Remembers what it needs to keep lanes free for reads. One per server. */
export class LaneRules<L extends Lane = Lane> {
  /** The lane of this turn's write. */
  #packing: L | null = null
  #fastSeenAt = -Infinity
  /** When a read last found other work before it on every lane, or had to wait. */
  #crowdedAt = -Infinity

  choose(cost: TextCost, kind: Closes, view: LaneView<L>): LaneChoice<L> {
    const { now, roundTripMs, unreadMs } = view
    if (kind === 'no') this.#fastSeenAt = now
    else if (this.#isFull(cost, view)) return 'wait'
    const packing = this.#packing
    // One that ran dry may be somebody's own by now.
    if (packing !== null && !packing.dry && packing.unflushed) {
      if (packing.backlogMs(now, roundTripMs) <= PACKED_MS && packing.isOpen(now, roundTripMs, unreadMs)) return packing
    }
    if (view.idle > 0) return 'idle'
    const lane = leastBehind(view)
    if (kind === 'no' && (lane === null || lane.backlogMs(now, roundTripMs) > PACKED_MS)) this.#crowdedAt = now
    if (lane === null) return 'wait'
    return (this.#packing = lane)
  }

  /** A lane that was begun on an idle connection: what comes next in this turn rides along. */
  began(lane: L): void {
    this.#packing = lane
  }

  /** It is a lane no more. */
  left(lane: L): void {
    if (this.#packing === lane) this.#packing = null
  }

  /** Whether a lane that has just answered may take one more that waits. */
  refills(lane: L, cost: TextCost, kind: Closes, view: LaneView<L>): boolean {
    const { now, roundTripMs, unreadMs } = view
    if (kind === 'no') this.#fastSeenAt = now
    else if (this.#isFull(cost, view)) return false
    // What comes last has reads before it at any time: they may not keep it waiting for ever.
    const most = kind === 'no' ? BACKLOG_MS : 2 * BACKLOG_MS
    return lane.backlogMs(now, roundTripMs) <= most && lane.isOpen(now, roundTripMs, unreadMs)
  }

  /**
   * Whether as many lanes as may be are closed already. While reads come, or somebody holds a connection, one lane is
   * kept open: a transaction that waits for a read of its own caller must not wait behind those who wait for its lock,
   * a deadlock that the server cannot see. That read may be slow or unknown as well: beside transactions another lane
   * is kept from what may wait for a lock, and where nothing else closes lanes a slow read may take the last. Slow reads
   * leave two. Where reads come thick they are left two by all, and half of the lanes by a single text that seems to wait
   * for locks: more of it at once would only wait for each other.
   */
  #isFull(cost: TextCost, { lanes, count, now, pinned }: LaneView<L>): boolean {
    const { lockWaiter } = cost.facts
    let alike = 0
    let same = 0
    let closed = 0
    for (const lane of lanes) {
      if (lane.closed === 'no') continue
      closed++
      const last = lane.passages.at(-1)!.cost
      if (last.facts.lockWaiter === lockWaiter) alike++
      if (last === cost) same++
    }
    if (now - this.#fastSeenAt > FAST_SEEN_MS && !pinned) return closed >= count
    if (!lockWaiter) return alike >= Math.max(1, count - 2) || closed >= (alike === 0 ? count : Math.max(1, count - 1))
    const crowded = now - this.#crowdedAt <= FAST_SEEN_MS
    if (closed >= Math.max(1, count - 1) || alike >= Math.max(1, count - (pinned || crowded ? 2 : 1))) return true
    return crowded && cost.ms > CONTENDED_MS && same >= Math.max(1, count >> 1)
  }
}

/** The open lane with the least work before it; of equals the one with fewer statements. */
function leastBehind<L extends Lane>({ lanes, now, roundTripMs, unreadMs }: LaneView<L>): L | null {
  let best: L | null = null
  let least = BACKLOG_MS
  for (const lane of lanes) {
    const backlog = lane.backlogMs(now, roundTripMs)
    if (backlog > least || (backlog === least && best !== null && lane.passages.length >= best.passages.length))
      continue
    if (!lane.isOpen(now, roundTripMs, unreadMs)) continue
    best = lane
    least = backlog
  }
  return best
}
