// The circuit breaker: it stops asking a server that does not answer, and finds out by a few trial calls when it
// does again. One circuit per node for connecting and one for querying. It reads no clock and rolls no dice: `now`
// (monotonic milliseconds) and `chance` come in. States are values; a permit is the number of the state it was
// given in, so that a result which arrives after the state has changed is known to be late and changes nothing.
//
//   closed ──failures in a row, rate of failures, rate of slow calls──► open ──its time is over──► half-open
//     ▲  a share of the calls at first, then all                         ▲                          │      │
//     └───────────────────────enough answers─────────────────────────────┼──────────────────────────┘      │
//                                                                        └──────────one failure────────────┘

import { openMs, rampShare, whyOpened } from './breaker-rules.ts'
import type { BreakerSettings } from './breaker-rules.ts'
import { closed, nameOf, openUntil, retryAfter } from './breaker-state.ts'
import type { Closed, Forced, HalfOpen, Open, State } from './breaker-state.ts'
import { CallWindow } from './call-window.ts'
import type { BreakerStateName } from './events.ts'
import type { BreakerVerdict } from './fault.ts'
import type { Chance } from './types.ts'

export interface BreakerHooks {
  /** Called after each change of state. */
  readonly onTransition?: (transition: Transition) => void
  /** Wall clock minus monotonic clock (`performance.timeOrigin`), so that status can tell dates. Default 0. */
  readonly wallOffsetMs?: number
  /** One answer closes it, and then all are admitted at once. Default false. */
  readonly closesAtOnce?: boolean
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
/** Admitted although it should have been refused: for metrics only. */
const unheard: Permit = -2

/** The parts of a CircuitOpenError. */
export interface Refusal {
  readonly since: number
  readonly retryAfterMs: number | null
  readonly because: string
  readonly cause: unknown
}

export interface BreakerStatus {
  readonly state: BreakerStateName
  /** Held open by `forceOpen` or `isolate`. */
  readonly forced: boolean
  /** Milliseconds on the wall clock at which this state began. */
  readonly since: number
  readonly consecutive_failures: number
  /** Of the calls in the window, 0 to 1. */
  readonly error_rate: number
  readonly slow_rate: number
  /** Of the calls that come while it recovers, 0 to 1; 1 when it is closed and has recovered, 0 when it is open. */
  readonly admitting: number
  /** null unless open, and when forced open. */
  readonly retry_after_ms: number | null
  readonly rejections: number
  /** The last five, oldest first. */
  readonly transitions: readonly Transition[]
}

const transitionsKept = 5
/** While it recovers at least as many calls as trials are admitted in this time, so that little traffic finds no ramp. */
const RAMP_FLOOR_MS = 100
/** Connections that are lost, or cannot be had, so close to each other tell of one event. */
const ONE_EVENT_MS = 1_000
const middle: Chance = () => 0.5

/** One circuit. With `null` for settings it never opens by itself. */
export class Breaker {
  readonly #settings: BreakerSettings | null
  readonly #onTransition: BreakerHooks['onTransition']
  readonly #wallOffsetMs: number
  readonly #closesAtOnce: boolean
  readonly #window: CallWindow
  readonly #isolations = new Set<object>()
  #state: State = closed(0, NaN, 0)
  #generation: Permit = 0
  #sinceMs = 0
  #rejections = 0
  #lastCause: unknown = undefined
  #transitions: readonly Transition[] = []

  constructor(settings: BreakerSettings | null, hooks: BreakerHooks = {}) {
    this.#settings = settings
    this.#onTransition = hooks.onTransition
    this.#wallOffsetMs = hooks.wallOffsetMs ?? 0
    this.#closesAtOnce = hooks.closesAtOnce ?? false
    this.#window = new CallWindow(settings?.windowMs ?? 10_000)
  }

  get state(): BreakerStateName {
    return nameOf(this.#state)
  }

  /** What a call settles with that has not asked, and is heard all the same. */
  get current(): Permit {
    return this.#generation
  }

  /** A permit to settle once, or `refused`. Never waits, and allocates nothing while closed. */
  admit(now: number): Permit {
    const state = this.#state
    // Not recovering, which is what NaN says.
    if (state.at === 'closed' && !(state.rampFrom >= 0)) return this.#generation
    if (this.#admitSome(state, now)) return this.#generation
    this.#rejections += 1
    return this.#refuses ? refused : unheard
  }

  /** Whether `admit` would let a call through. Takes no permit, so that a router may ask every node. */
  admits(now: number): boolean {
    const state = this.#state
    if (!this.#refuses || (state.at === 'closed' && !(state.rampFrom >= 0))) return true
    if (state.at === 'closed') return this.#creditOf(state, now) + this.#shareOf(state, now) >= 1
    if (state.at === 'open') return now >= state.until
    return state.at === 'half-open' && (state.permits > 0 || now >= state.renewAt)
  }

  /**
   * A permit for one call that nobody waits for, to see whether the server is back although the circuit is still open;
   * `refused` most of the time. Answered, it makes the circuit half open; failed, it changes nothing.
   */
  admitProbe(now: number): Permit {
    const state = this.#state
    // When its time is over the next call is a trial.
    if (state.at !== 'open' || state.probing || now < state.probeAt || now >= state.until) return refused
    state.probing = true
    state.probeAt = now + state.probeEveryMs
    return this.#generation
  }

  /**
   * The call has come back after `tookMs`. Late results and those of refused calls change nothing. `ignore` in half-open
   * counts as an answer of the server, else three unique violations would be an outage for ever. `cause` is what a
   * caller who is refused later finds in his error.
   */
  settle(permit: Permit, outcome: Outcome, now: number, chance: Chance = middle, cause?: unknown, tookMs = 0): void {
    const state = this.#state
    if (permit !== this.#generation) {
      // Who was let through all the same has found out what a probe would.
      if (permit === unheard && state.at === 'open' && outcome === 'success') this.#probeAnswered(state, now)
      return
    }
    if (state.at === 'closed') this.#settleClosed(state, outcome, now, chance, cause, tookMs)
    else if (state.at === 'half-open' && state.running > 0) {
      state.running -= 1
      if (isAnswer(outcome)) this.#answeredTrial(state, now)
      else this.#failedTrial(state, outcome, now, chance, cause)
    } else if (state.at === 'open' && state.probing) {
      state.probing = false
      if (isAnswer(outcome)) this.#probeAnswered(state, now)
      else this.#lastCause = cause
    }
  }

  /** The call never reached the server (aborted while it waited): its permit goes to another. */
  giveBack(permit: Permit): void {
    const state = this.#state
    if (permit !== this.#generation) return
    if (state.at === 'open') state.probing = false
    if (state.at !== 'half-open' || state.running === 0) return
    state.running -= 1
    state.permits = Math.min(state.permits + 1, this.#trials() - state.answered)
  }

  /** Open until `forceClose`. */
  forceOpen(reason: string, now: number): void {
    this.#force(`forced open: ${reason}`, false, now)
  }

  /** Closed, and counting from zero; ends every isolation. */
  forceClose(reason: string, now: number): void {
    this.#isolations.clear()
    this.#close(`forced closed: ${reason}`, now, NaN, 0)
  }

  /** Open until every isolation has ended by what is returned; what `forceOpen` has opened stays so. */
  isolate(reason: string, now: number): (now: number) => void {
    const isolation = {}
    this.#isolations.add(isolation)
    if (this.#state.at !== 'forced') this.#force(`isolated: ${reason}`, true, now)
    return (ended) => {
      if (!this.#isolations.delete(isolation) || this.#isolations.size > 0) return
      if (this.#state.at === 'forced' && this.#state.isolated) this.#endIsolation(this.#state, ended)
    }
  }

  /** What to tell a caller who was refused. */
  refusal(now: number): Refusal {
    const state = this.#state
    return {
      since: this.#since(),
      retryAfterMs: state.at === 'forced' ? null : (retryAfter(state, now) ?? RAMP_FLOOR_MS),
      because: this.#whyRefused(),
      cause: this.#lastCause,
    }
  }

  status(now: number): BreakerStatus {
    this.#window.turnTo(now)
    const state = this.#state
    const admitting = state.at === 'closed' ? this.#shareOf(state, now) : 0
    return { ...this.toJSON(), admitting, retry_after_ms: retryAfter(state, now) }
  }

  /** The status without what one would have to know the time for. */
  toJSON(): Omit<BreakerStatus, 'retry_after_ms' | 'admitting'> {
    const { calls, failed, slow } = this.#window
    return {
      state: nameOf(this.#state),
      forced: this.#state.at === 'forced',
      since: this.#since(),
      consecutive_failures: this.#state.failures,
      error_rate: calls === 0 ? 0 : failed / calls,
      slow_rate: calls === 0 ? 0 : slow / calls,
      rejections: this.#rejections,
      transitions: this.#transitions,
    }
  }

  /** By hand it refuses even where it only watches. */
  get #refuses(): boolean {
    return this.#settings?.metricsOnly !== true || this.#state.at === 'forced'
  }

  #admitSome(state: State, now: number): boolean {
    if (state.at === 'closed') return this.#admitRecovering(state, now)
    if (state.at === 'forced') return false
    if (state.at === 'open' && now < state.until) return false
    const trial = state.at === 'open' ? this.#halfOpen(state, 'its time is over', now) : state
    // Who heard of it may have changed it by hand.
    if (trial !== this.#state) return this.#state.at === 'closed'
    this.#renewIfForgotten(trial, now)
    if (trial.permits === 0) return false
    trial.permits -= 1
    trial.running += 1
    return true
  }

  /** Each call brings its share of a permit, and time brings some; so a growing part of them gets through, evenly. */
  #admitRecovering(state: Closed, now: number): boolean {
    const share = this.#shareOf(state, now)
    if (share >= 1) {
      state.rampFrom = NaN
      state.openings = 0
      return true
    }
    const credit = this.#creditOf(state, now) + share
    state.creditAt = now
    state.credit = credit >= 1 ? credit - 1 : credit
    return credit >= 1
  }

  #shareOf({ rampFrom }: Closed, now: number): number {
    return rampFrom >= 0 ? rampShare(now - rampFrom) : 1
  }

  #creditOf({ credit, creditAt }: Closed, now: number): number {
    const trials = this.#trials()
    return Math.min(trials, credit + ((now - creditAt) * trials) / RAMP_FLOOR_MS)
  }

  #settleClosed(state: Closed, outcome: Outcome, now: number, chance: Chance, cause: unknown, tookMs: number): void {
    const settings = this.#settings
    if (outcome === 'ignore' || settings === null) return
    const slow = outcome === 'slow' || (settings.slowCallMs > 0 && tookMs >= settings.slowCallMs)
    const failed = outcome !== 'success' && outcome !== 'slow'
    if (outcome === 'lost' || outcome === 'soft') {
      // One event, learned by as many as were there.
      if (now - state.lostAt < Math.min(settings.recoveryMinMs, ONE_EVENT_MS)) return
      state.lostAt = now
    }
    this.#window.count(now, failed, slow)
    if (failed) state.failures += 1
    else if (outcome === 'success') state.failures = 0
    if (!failed && !slow) return
    const because = whyOpened(state.failures, this.#window, settings, outcome)
    if (because === null) return
    const openings = this.#shareOf(state, now) < 1 ? state.openings + 1 : 1
    this.#open(state.failures, openings, because, now, chance, cause)
  }

  #failedTrial(state: HalfOpen, outcome: Outcome, now: number, chance: Chance, cause: unknown): void {
    // A server that says it is starting is nearly back: whatever was learned from its silence is no longer true.
    const openings = outcome === 'soft' ? 1 : state.openings + 1
    this.#open(state.failures + 1, openings, 'a trial call failed', now, chance, cause)
  }

  #probeAnswered(state: Open, now: number): void {
    this.#answeredTrial(this.#halfOpen(state, 'a probe was answered', now), now)
  }

  #answeredTrial(state: HalfOpen, now: number): void {
    if (state !== this.#state) return
    state.answered += 1
    if (state.answered < this.#trials()) return
    const rampFrom = this.#closesAtOnce ? NaN : now
    this.#close(`${state.answered} trial calls were answered`, now, rampFrom, state.openings)
  }

  /** A caller who never settles must not keep the circuit half open for ever. */
  #renewIfForgotten(state: HalfOpen, now: number): void {
    if (state.permits > 0 || now < state.renewAt) return
    state.permits = this.#trials() - state.answered
    state.renewAt = now + this.#patienceMs()
  }

  #open(failures: number, openings: number, because: string, now: number, chance: Chance, cause: unknown): void {
    this.#lastCause = cause
    const forMs = openMs(openings, this.#settings!, chance())
    this.#become(openUntil(now + forMs, now, failures, openings), because + lastCode(cause), now)
  }

  #halfOpen({ failures, openings }: Open, because: string, now: number): HalfOpen {
    const permits = this.#trials()
    const renewAt = now + this.#patienceMs()
    const state: HalfOpen = { at: 'half-open', failures, openings, permits, running: 0, answered: 0, renewAt }
    this.#become(state, because, now)
    return state
  }

  #close(because: string, now: number, rampFrom: number, openings: number): void {
    this.#lastCause = undefined
    this.#window.clear()
    this.#become(closed(now, rampFrom, openings), because, now)
  }

  #force(because: string, isolated: boolean, now: number): void {
    const { at } = this.#state
    const over = at === 'open' || at === 'half-open' ? this.#state : null
    this.#lastCause = undefined
    this.#become({ at: 'forced', failures: 0, isolated, over }, because, now)
  }

  #endIsolation({ over }: Forced, now: number): void {
    const because = 'no longer isolated'
    if (over === null) this.#close(because, now, NaN, 0)
    else this.#become(openUntil(now, now, over.failures, over.openings), `${because}, and it was open before`, now)
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
    return this.#closesAtOnce ? 1 : this.#settings!.halfOpenMaxCalls
  }

  // As long as the longest time that it would have stayed open without asking at all.
  #patienceMs(): number {
    return this.#settings!.recoveryMaxMs
  }

  #whyRefused(): string {
    if (this.#state.at === 'half-open') return 'its trial calls are under way'
    if (this.#state.at === 'closed') return 'it has closed a moment ago and admits a share of the calls'
    return this.#transitions.at(-1)!.because
  }

  #since(): number {
    return this.#sinceMs + this.#wallOffsetMs
  }
}

/** The server has said something that only a server that works says. */
function isAnswer(outcome: Outcome): boolean {
  return outcome === 'success' || outcome === 'ignore'
}

// The code alone: messages of PostgreSQL print values.
function lastCode(cause: unknown): string {
  const code = typeof cause === 'object' && cause !== null && 'code' in cause ? cause.code : undefined
  return typeof code === 'string' ? `, the last ${code}` : ''
}
