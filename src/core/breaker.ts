// The circuit breaker: it stops asking a server that does not answer, and finds out by a few trial calls when it
// does again. One circuit per node for connecting and one for querying. It reads no clock and rolls no dice: `now`
// (monotonic milliseconds) and `chance` come in. States are values; a permit is the number of the state it was
// given in, so that a result which arrives after the state has changed is known to be late and changes nothing.
//
//   closed ──failures──► open ──its time is over──► half-open ──enough answers──► closed
//                         ▲                             │
//                         └──────────one failure────────┘

import type { BreakerStateName } from './events.ts'
import type { BreakerVerdict } from './fault.ts'
import type { Chance } from './types.ts'

/** The resolved options under `breaker`. */
export interface BreakerSettings {
  readonly failureThreshold: number
  readonly recoveryMinMs: number
  readonly recoveryMaxMs: number
  readonly halfOpenMaxCalls: number
}

export interface BreakerHooks {
  /** Called after each change of state. */
  readonly onTransition?: (transition: Transition) => void
  /** Wall clock minus monotonic clock (`performance.timeOrigin`), so that status can tell dates. Default 0. */
  readonly wallOffsetMs?: number
}

export interface Transition {
  readonly from: BreakerStateName
  readonly to: BreakerStateName
  readonly because: string
  /** Milliseconds on the wall clock. */
  readonly at: number
}

/** What a call came to; a fault's `breaker` fits as it is. */
export type Outcome = BreakerVerdict

/** The state in which a call was admitted; `refused` when it was not. */
export type Permit = number
export const refused: Permit = -1

/** The parts of a CircuitOpenError. */
export interface Refusal {
  readonly since: number
  readonly retryAfterMs: number | null
  readonly because: string
  readonly cause: unknown
}

export interface BreakerStatus {
  readonly state: BreakerStateName
  /** Held open by `forceOpen` until `forceClose`. */
  readonly forced: boolean
  /** Milliseconds on the wall clock at which this state began. */
  readonly since: number
  readonly consecutive_failures: number
  /** null unless open, and when forced open. */
  readonly retry_after_ms: number | null
  readonly rejections: number
  /** The last five, oldest first. */
  readonly transitions: readonly Transition[]
}

type State = Closed | Open | HalfOpen | Forced

interface Closed {
  readonly at: 'closed'
  failures: number
}
interface Open {
  readonly at: 'open'
  readonly failures: number
  readonly until: number
  /** How often in a row; doubles the time. */
  readonly openings: number
}
interface HalfOpen {
  readonly at: 'half-open'
  readonly failures: number
  readonly openings: number
  /** Trial calls that may still start. */
  permits: number
  /** Trial calls under way. */
  running: number
  /** Trial calls that the server has answered. */
  answered: number
  /** If the trials are not back until then, others may start. */
  renewAt: number
}
interface Forced {
  readonly at: 'forced'
  readonly failures: 0
}

const transitionsKept = 5
// Without it all processes that lost the same server would come back to it in the same millisecond.
const jitter = 0.2
const middle: Chance = () => 0.5

/** One circuit. With `null` for settings it never opens by itself. */
export class Breaker {
  readonly #settings: BreakerSettings | null
  readonly #onTransition: BreakerHooks['onTransition']
  readonly #wallOffsetMs: number
  #state: State = { at: 'closed', failures: 0 }
  #generation: Permit = 0
  #sinceMs = 0
  #rejections = 0
  #lastCause: unknown = undefined
  #transitions: readonly Transition[] = []

  constructor(settings: BreakerSettings | null, hooks: BreakerHooks = {}) {
    this.#settings = settings
    this.#onTransition = hooks.onTransition
    this.#wallOffsetMs = hooks.wallOffsetMs ?? 0
  }

  get state(): BreakerStateName {
    return nameOf(this.#state)
  }

  /** A permit to settle once, or `refused`. Never waits, and allocates nothing while closed. */
  admit(now: number): Permit {
    if (this.#state.at === 'closed') return this.#generation
    return this.#admitTrial(now)
  }

  /** Whether `admit` would let a call through. Takes no permit, so that a router may ask every node. */
  admits(now: number): boolean {
    const state = this.#state
    if (state.at === 'closed') return true
    if (state.at === 'open') return now >= state.until
    return state.at === 'half-open' && (state.permits > 0 || now >= state.renewAt)
  }

  /**
   * The call has come back. Late results and those of refused calls change nothing. `ignore` in half-open counts as
   * an answer of the server, else three unique violations would be an outage for ever. `cause` is what a caller who
   * is refused later finds in his error.
   */
  settle(permit: Permit, outcome: Outcome, now: number, chance: Chance = middle, cause?: unknown): void {
    if (permit !== this.#generation) return
    const state = this.#state
    if (state.at === 'closed') {
      if (outcome === 'success') state.failures = 0
      else if (outcome !== 'ignore') this.#failed(state, outcome, now, chance, cause)
    } else if (state.at === 'half-open' && state.running > 0) {
      state.running -= 1
      if (outcome === 'success' || outcome === 'ignore') this.#answeredTrial(state, now)
      else this.#failedTrial(state, outcome, now, chance, cause)
    }
  }

  /** The call never reached the server (aborted while it waited): its permit goes to another. */
  giveBack(permit: Permit): void {
    const state = this.#state
    if (permit !== this.#generation || state.at !== 'half-open' || state.running === 0) return
    state.running -= 1
    state.permits += 1
  }

  /** Open until `forceClose`. */
  forceOpen(reason: string, now: number): void {
    this.#lastCause = undefined
    this.#become({ at: 'forced', failures: 0 }, `forced open: ${reason}`, now)
  }

  /** Closed, and counting from zero. */
  forceClose(reason: string, now: number): void {
    this.#close(`forced closed: ${reason}`, now)
  }

  /** What to tell a caller who was refused. */
  refusal(now: number): Refusal {
    const state = this.#state
    return {
      since: this.#since(),
      retryAfterMs: state.at === 'forced' ? null : (retryAfter(state, now) ?? 0),
      because: this.#transitions.at(-1)?.because ?? 'it is closed',
      cause: this.#lastCause,
    }
  }

  status(now: number): BreakerStatus {
    return { ...this.toJSON(), retry_after_ms: retryAfter(this.#state, now) }
  }

  /** The status without the time that is left, for which one would have to know the time. */
  toJSON(): Omit<BreakerStatus, 'retry_after_ms'> {
    return {
      state: nameOf(this.#state),
      forced: this.#state.at === 'forced',
      since: this.#since(),
      consecutive_failures: this.#state.failures,
      rejections: this.#rejections,
      transitions: this.#transitions,
    }
  }

  #admitTrial(now: number): Permit {
    if (this.#state.at === 'open' && now >= this.#state.until) this.#halfOpen(this.#state, now)
    const state = this.#state
    if (state.at === 'half-open') {
      this.#renewIfForgotten(state, now)
      if (state.permits > 0) {
        state.permits -= 1
        state.running += 1
        return this.#generation
      }
    }
    this.#rejections += 1
    return refused
  }

  #failed(state: Closed, outcome: 'failure' | 'soft', now: number, chance: Chance, cause: unknown): void {
    state.failures += 1
    if (this.#settings === null || state.failures < this.#settings.failureThreshold) return
    const because =
      outcome === 'soft'
        ? `the server is starting or stopping, ${state.failures} failures in a row`
        : `${state.failures} failures in a row`
    this.#open(state.failures, 1, because, now, chance, cause)
  }

  #failedTrial(state: HalfOpen, outcome: 'failure' | 'soft', now: number, chance: Chance, cause: unknown): void {
    // A server that says it is starting is nearly back: whatever was learned from its silence is no longer true.
    const openings = outcome === 'soft' ? 1 : state.openings + 1
    this.#open(state.failures + 1, openings, 'a trial call failed', now, chance, cause)
  }

  #answeredTrial(state: HalfOpen, now: number): void {
    state.answered += 1
    if (state.answered >= this.#trials()) this.#close(`${state.answered} trial calls were answered`, now)
  }

  /** A caller who never settles must not keep the circuit half open for ever. */
  #renewIfForgotten(state: HalfOpen, now: number): void {
    if (state.permits > 0 || now < state.renewAt) return
    state.permits = this.#trials() - state.answered
    state.renewAt = now + this.#patienceMs()
  }

  #open(failures: number, openings: number, because: string, now: number, chance: Chance, cause: unknown): void {
    this.#lastCause = cause
    const until = now + openMs(openings, this.#settings!, chance())
    this.#become({ at: 'open', failures, until, openings }, because + lastCode(cause), now)
  }

  #halfOpen({ failures, openings }: Open, now: number): void {
    const permits = this.#trials()
    const renewAt = now + this.#patienceMs()
    const state: HalfOpen = { at: 'half-open', failures, openings, permits, running: 0, answered: 0, renewAt }
    this.#become(state, 'its time is over', now)
  }

  #close(because: string, now: number): void {
    this.#lastCause = undefined
    this.#become({ at: 'closed', failures: 0 }, because, now)
  }

  #become(next: State, because: string, now: number): void {
    const from = nameOf(this.#state)
    this.#state = next
    this.#generation += 1
    this.#sinceMs = now
    const transition: Transition = { from, to: nameOf(next), because, at: this.#since() }
    this.#transitions = [...this.#transitions, transition].slice(-transitionsKept)
    this.#onTransition?.(transition)
  }

  #trials(): number {
    return this.#settings!.halfOpenMaxCalls
  }

  // As long as the longest time that it would have stayed open without asking at all.
  #patienceMs(): number {
    return this.#settings!.recoveryMaxMs
  }

  #since(): number {
    return this.#sinceMs + this.#wallOffsetMs
  }
}

/** How long to stay open the n-th time in a row: min, 2 min, 4 min … max, ±20 %. */
export function openMs(openings: number, settings: BreakerSettings, chance: number): number {
  const plainMs = Math.min(settings.recoveryMaxMs, settings.recoveryMinMs * 2 ** (openings - 1))
  return plainMs * (1 - jitter + 2 * jitter * chance)
}

function nameOf(state: State): BreakerStateName {
  return state.at === 'forced' ? 'open' : state.at
}

function retryAfter(state: State, now: number): number | null {
  return state.at === 'open' ? Math.max(0, state.until - now) : null
}

// The code alone: messages of PostgreSQL print values.
function lastCode(cause: unknown): string {
  const code = typeof cause === 'object' && cause !== null && 'code' in cause ? cause.code : undefined
  return typeof code === 'string' ? `, the last ${code}` : ''
}
