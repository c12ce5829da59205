// After a failure one question is asked: what may have happened to the statement? And from its answer another: what
// next? Both are answered here and nowhere else. A statement that may have been applied is never sent again; what
// was never sent, or was rolled back for certain, may be; a read may always be. The server that failed matters
// only for where to go.

import type { Fault } from './fault.ts'
import type { Chance, Facts } from './types.ts'

/** `refused`: the server answered that it would not, and nothing of it remains. */
export type Fate = 'never-sent' | 'rolled-back' | 'maybe-applied' | 'refused'

export interface Failure {
  readonly fault: Fault
  /** A byte of it may have left this process. */
  readonly sent: boolean
  readonly facts: Pick<Facts, 'retrySafe' | 'writes' | 'stateful' | 'multiple' | 'kind' | 'verb'>
  /** In a transaction of the user, or on a connection that he was promised for himself. */
  readonly inTransaction: boolean
  /** It was no transaction, but a connection that he was promised for himself. */
  readonly keepsSession?: boolean
  /** It was the COMMIT of that transaction. */
  readonly committing: boolean
  readonly onReplica: boolean
  /** It failed on another node before. */
  readonly triedElsewhere: boolean
  /** 1 for the first try. */
  readonly attempt: number
  readonly attempts: number
  readonly baseMs: number
  readonly maxMs: number
  /** What is left of the statement's whole time. Default: no limit. */
  readonly remainingMs?: number
  /** `RetryBudget.left`. Default true. */
  readonly budgetLeft?: boolean
}

export type NextStep =
  | {
      readonly do: 'retry'
      /** Milliseconds to wait first. */
      readonly after: number
      readonly where: 'same' | 'elsewhere' | 'primary'
      readonly because: string
    }
  | {
      readonly do: 'fail'
      /**
       * `not-executed`: certainly not, so the caller may run it again. `unknown`: it may have been applied.
       * `as-is`: the error tells by itself.
       */
      readonly outcome: 'not-executed' | 'unknown' | 'as-is'
      readonly because: string
    }

/** What may have happened to the statement. */
export function fateOf({ fault, sent, facts }: Pick<Failure, 'fault' | 'sent' | 'facts'>): Fate {
  if (!sent) return 'never-sent'
  // A standby persists nothing.
  if (fault.class === 'read-only' || fault.class === 'recovery-conflict') return 'refused'
  if (!serverAnswered(fault)) return 'maybe-applied'
  // Several statements, CALL and DO may have committed something before the one that was refused.
  if (commitsByItself(facts)) return 'maybe-applied'
  return fault.class === 'rolled-back' ? 'rolled-back' : 'refused'
}

/** With an ERROR, after which nothing of the statement remains. What our own code threw says nothing of the kind. */
function serverAnswered({ code, dropsConnection }: Fault): boolean {
  if (dropsConnection || code === undefined) return false
  return code.length === sqlStateLength || code === 'SMARTPG_QUERY_TIMEOUT'
}
const sqlStateLength = 5

function commitsByItself({ multiple, kind, verb }: Failure['facts']): boolean {
  return multiple || kind === 'ddl' || kind === 'unknown' || verb === 'call' || verb === 'do' || verb === 'copy'
}

/** What next. `chance` spreads the backoff. */
export function nextStep(failure: Failure, chance: Chance): NextStep {
  const fate = fateOf(failure)
  if (failure.inTransaction) return inTransaction(failure, fate)
  const { fault } = failure
  if (fate === 'refused' && fault.retry === 'primary') return onPrimary(failure)
  if (fate === 'refused' && fault.retry === 'once-prepared') return preparedAnew(failure)
  const why = mayRunAgain(failure, fate)
  if (why === null) return gaveUp(failure, fate, `${fault.class}: ${reasonNotTo(failure, fate)}`)
  const limit = limitReached(failure)
  if (limit !== null) return gaveUp(failure, fate, limit)
  return again(failure, why, chance)
}

// Whoever opened a transaction has seen answers that a second run might contradict: only he can run it again.
function inTransaction(failure: Failure, fate: Fate): NextStep {
  // Only transactions that are read only run on replicas: nothing to know of theirs.
  if (failure.committing && fate === 'maybe-applied' && !failure.onReplica) {
    return { do: 'fail', outcome: 'unknown', because: 'the answer to COMMIT was lost' }
  }
  if (failure.keepsSession === true) return gaveUp(failure, fate, 'a session that its caller keeps is never left')
  return { do: 'fail', outcome: 'as-is', because: "a user's transaction is never run again by the driver" }
}

// Not bounded by attempts or budget: it mends our own routing, and on the primary it cannot come back here.
function onPrimary({ onReplica }: Failure): NextStep {
  if (onReplica) return { do: 'retry', after: 0, where: 'primary', because: 'a standby refused it and kept nothing' }
  return { do: 'fail', outcome: 'as-is', because: 'refused as read-only, and not by a replica' }
}

function preparedAnew({ attempt }: Failure): NextStep {
  if (attempt === 1) return { do: 'retry', after: 0, where: 'same', because: 'the prepared statement was stale' }
  return { do: 'fail', outcome: 'as-is', because: 'the prepared statement was prepared anew already' }
}

/** Why a second run changes nothing that the first may have changed; null if it might, or would not help. */
function mayRunAgain({ fault, facts, attempt }: Failure, fate: Fate): string | null {
  if (fault.retry === 'never' || fault.retry === 'primary' || fault.retry === 'once-prepared') return null
  if (fault.retry === 'once-credentials' && attempt > 1) return null
  if (fate === 'never-sent') return 'it was never sent'
  if (facts.retrySafe) return 'a read'
  return fate === 'rolled-back' ? 'the server rolled it back' : null
}

function reasonNotTo({ fault, attempt }: Failure, fate: Fate): string {
  if (fault.retry === 'once-credentials' && attempt > 1) return 'credentials were asked for anew already'
  if (fault.retry === 'never' || fate === 'refused') return 'a second try would change nothing'
  return 'it may have been applied'
}

function limitReached({ attempt, attempts, budgetLeft, remainingMs }: Failure): string | null {
  if (attempt >= attempts) return `${attempt} of ${attempts} attempts made`
  if (budgetLeft === false) return 'the retry budget is exhausted'
  if (remainingMs !== undefined && remainingMs <= 0) return 'its time is over'
  return null
}

function again(failure: Failure, why: string, chance: Chance): NextStep {
  const because = `${failure.fault.class}: ${why}`
  // At most one other replica, then the primary: endless tours of a broken set of replicas only spread the damage.
  if (failure.onReplica) {
    return { do: 'retry', after: 0, where: failure.triedElsewhere ? 'primary' : 'elsewhere', because }
  }
  // The one node that could answer has just refused: its breaker is open, and waiting is the breaker's business.
  if (failure.fault.class === 'refused') return gaveUp(failure, 'never-sent', `${because}, but nobody else can run it`)
  const after = backoffMs(failure.attempt, failure.baseMs, failure.maxMs, chance())
  if (after >= (failure.remainingMs ?? Infinity)) return gaveUp(failure, fateOf(failure), 'its time is over')
  return { do: 'retry', after, where: 'same', because }
}

function gaveUp({ fault, facts }: Failure, fate: Fate, because: string): NextStep {
  return { do: 'fail', outcome: outcomeOf(fault, facts, fate), because }
}

function outcomeOf(fault: Fault, facts: Failure['facts'], fate: Fate): 'not-executed' | 'unknown' | 'as-is' {
  // Our own refusals, wrong passwords and aborts say all there is to say.
  if (fault.class === 'refused' || fault.class === 'authentication' || fault.code === 'ABORT_ERR') return 'as-is'
  if (fate === 'never-sent') return fault.retry === 'never' ? 'as-is' : 'not-executed'
  return fate === 'maybe-applied' && fault.dropsConnection && leavesTraces(facts) ? 'unknown' : 'as-is'
}

// What a statement leaves only in its session (SET, LISTEN) is gone with the connection.
function leavesTraces({ retrySafe, writes, stateful }: Failure['facts']): boolean {
  return writes || (!retrySafe && !stateful)
}

/**
 * Full jitter: anything from nothing to base · 2ⁿ⁻¹, at most max. Callers who failed together do not come back
 * together (Brooker, "Exponential Backoff and Jitter").
 */
export function backoffMs(attempt: number, baseMs: number, maxMs: number, chance: number): number {
  return Math.min(maxMs, baseMs * 2 ** (attempt - 1)) * chance
}

export interface RetryBudgetLimits {
  /** Retries per request. Default 0.2. */
  readonly share?: number
  /** Retries per second that are always allowed, so that little traffic can retry at all. Default 10. */
  readonly perSecond?: number
}

const windowSeconds = 10

/**
 * How many retries a node may still see: a share of its requests of the last ten seconds and a few more per second.
 * It keeps a server that is half down from drowning in the second tries of everyone (Finagle's RetryBudget).
 */
export class RetryBudget {
  readonly #share: number
  readonly #always: number
  readonly #requests = new Float64Array(windowSeconds)
  readonly #retries = new Float64Array(windowSeconds)
  #second = 0

  constructor(limits: RetryBudgetLimits = {}) {
    this.#share = limits.share ?? 0.2
    this.#always = (limits.perSecond ?? 10) * windowSeconds
  }

  /** A statement was asked for. */
  requested(now: number): void {
    this.#turnTo(now)
    this.#requests[this.#second % windowSeconds]! += 1
  }

  /** Whether one more retry is allowed; takes none. */
  left(now: number): boolean {
    this.#turnTo(now)
    return sum(this.#retries) + 1 <= this.#share * sum(this.#requests) + this.#always
  }

  /** Takes one retry, or says that none is left. */
  take(now: number): boolean {
    if (!this.left(now)) return false
    this.#retries[this.#second % windowSeconds]! += 1
    return true
  }

  /** Forgets the seconds that have gone out of the window. */
  #turnTo(now: number): void {
    const second = Math.floor(now / 1000)
    if (second <= this.#second) return
    const gone = Math.min(windowSeconds, second - this.#second)
    for (let i = 1; i <= gone; i++) {
      this.#requests[(this.#second + i) % windowSeconds] = 0
      this.#retries[(this.#second + i) % windowSeconds] = 0
    }
    this.#second = second
  }
}

function sum(counts: Float64Array): number {
  let total = 0
  for (const count of counts) total += count
  return total
}
