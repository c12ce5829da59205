// What each SQL text has cost a server so far, and what follows from it for those who would stand behind it on a
// shared connection: nothing, that it takes long, or that it may wait for a lock.

import type { Facts } from './types.ts'

/** A text that takes longer than this is slow: it rides apart, and nothing rides behind it. */
export const SLOW_MS = 20
/** A text is not known before it has been answered this often. */
const KNOWN_SAMPLES = 2
/** A fast text counts at most this, so that at least 32 of them fit into the backlog. */
const FAST_MS = 1
/** A 32nd of what may stand before a statement on a lane. */
const FAST_COST_MS = 3 / 32
/** A write that has run so often, and fast, without ever waiting for a lock is not expected to. */
const PLAIN_SAMPLES = 8
/** Long enough for the disk that a commit waits for: with 1 ms, writes of 2 ms gained nothing from being pipelined. */
const PLAIN_MS = 5
const LOCK_TIMEOUT_FORGOTTEN_MS = 60_000

/** What one text has cost one server so far. */
export class TextCost {
  readonly facts: Facts
  /** A read that calls nothing and locks nothing: it makes no difference which transaction it stands in. */
  readonly pure: boolean
  /** Mean server time, exponentially weighted, milliseconds. */
  ms = 0
  samples = 0
  /** When it last ran into the lock timeout of a lane. */
  lockTimeoutAt = -Infinity

  constructor(facts: Facts) {
    this.facts = facts
    this.pure = facts.retrySafe && !facts.writes && !facts.lockWaiter && facts.functions.length === 0
  }

  observe(serverMs: number): void {
    this.ms += (serverMs - this.ms) / Math.min(++this.samples, 8)
  }

  get known(): boolean {
    return this.samples >= KNOWN_SAMPLES
  }

  /** What to reckon with when it is sent. */
  get expectedMs(): number {
    return this.ms <= FAST_MS ? Math.min(this.ms, FAST_COST_MS) : this.ms
  }
}

/** The costs of all texts of one server, kept as long as their facts are. */
export class TextCosts {
  readonly #costs = new WeakMap<Facts, TextCost>()

  of(facts: Facts): TextCost {
    let cost = this.#costs.get(facts)
    if (cost === undefined) this.#costs.set(facts, (cost = new TextCost(facts)))
    return cost
  }
}

/** Why nothing may ride behind a statement: it takes long (or nobody knows), or it may wait for a lock. */
export type Closes = 'no' | 'slow' | 'lock'

/** `pipelined`: lanes run with a short lock timeout, so that a write that has to wait is given up and sent again alone. */
export function closes(cost: TextCost, now: number, pipelined: boolean): Closes {
  if (!cost.known || cost.ms > SLOW_MS) return 'slow'
  if (!cost.facts.lockWaiter) return 'no'
  return pipelined && isPlain(cost, now) ? 'no' : 'lock'
}

function isPlain(cost: TextCost, now: number): boolean {
  if (cost.facts.kind !== 'write_simple' || cost.samples < PLAIN_SAMPLES || cost.ms > PLAIN_MS) return false
  return now - cost.lockTimeoutAt > LOCK_TIMEOUT_FORGOTTEN_MS
}
