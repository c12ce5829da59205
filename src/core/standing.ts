// What balancing remembers of one server: how many statements it answered, at what pace, how fresh it was, whether it has
// just come back, and whether it stood out so much that it is left alone for a while. One number sums it up for people
// and for the threshold, the health score.

import { Mean, Peak, towards } from './average.ts'
import { rampShare } from './breaker-rules.ts'
import { CallWindow } from './call-window.ts'
import { Pace } from './pace.ts'

/** What was said of a node when it was configured. */
export interface Traits {
  readonly zone: string | undefined
  /** Its share of the reads among those of its priority. */
  readonly weight: number
  /** 1 comes first. */
  readonly priority: number
  readonly tags: readonly string[]
}

export interface HealthScore {
  /** 0 to 100: 100 times the three factors. */
  readonly value: number
  /** The share of the last minute's statements that the server answered, be it with an error of the SQL. 0 to 1. */
  readonly answered: number
  /** What it is used to take, divided by what it takes now. 0 to 1. */
  readonly latency: number
  /** 1 without lag, 0.5 at the limit. 0 to 1. */
  readonly freshness: number
}

/** What happened to the statements of the last minute. */
export interface RecentCalls {
  readonly calls: number
  readonly failed: number
  /** How many seconds they failed in: when a server restarts, many are told of one event. */
  readonly failedSeconds: number
}

const WINDOW_MS = 60_000
/** As if so many more had been answered: after a quiet minute one lost connection is no reason to leave a server. */
const CREDIT = 5
/** So far above the threshold must be who was below it, so that nobody goes to and fro. */
const ABOVE_THRESHOLD = 10
/** How long it is taken for healthy, or not, before that is reckoned again: reads come by the thousand. */
const JUDGED_EVERY_MS = 100
/** Its share grows half as fast as behind a circuit: connections are made soon, caches fill slowly. */
const RAMP_SLOWNESS = 2
/** How long one ejection is remembered. */
const FORGIVEN_AFTER_MS = 60_000
const FELT_MS = 10_000

/** One per node, as long as the node lives. */
export class Standing {
  readonly traits: Traits
  readonly pace = new Pace()
  /** What round-robin owes this server: the balancer's own note. */
  turn = 0
  readonly #calls = new CallWindow(WINDOW_MS)
  readonly #latency = new Peak(FELT_MS, 0)
  readonly #meanLatency = new Mean(WINDOW_MS)
  #heardAt = 0
  #failedAt = -Infinity
  #freshness = 1
  #returnedAt = -Infinity
  #ejectedUntil = -Infinity
  #ejections = 0
  #dueBack = false
  #healthy = true
  #judgedUntil = -Infinity

  constructor(traits: Traits) {
    this.traits = traits
  }

  /**
   * The server answered after `tookMs`, or failed to by a fault of its own or of the network. `usualMs` is what the text
   * usually takes (`UsualTimes`); 0, the default: unknown, and then nothing is learned of the server's pace.
   */
  answered(ok: boolean, tookMs: number, now: number, usualMs = 0): void {
    const anotherSecond = !ok && now - this.#failedAt >= 1_000
    if (anotherSecond) this.#failedAt = now
    // The window's column for slow calls holds the seconds with failures.
    this.#calls.count(now, !ok, anotherSecond)
    this.pace.observe(tookMs, usualMs, ok, now)
    if (tookMs >= 0 && tookMs < Infinity && (ok || tookMs > this.#latency.value)) this.#observeLatency(tookMs, now)
  }

  /** As the monitor saw it last; null: unknown, which counts as at the limit. */
  observedLag(lagMs: number | null, maxLagMs: number): void {
    this.#freshness = freshnessOf(lagMs, maxLagMs)
    this.#judgedUntil = -Infinity
  }

  /** It may take reads for the first time, or again: at first a tenth of its share of them. */
  returned(now: number): void {
    this.#returnedAt = Math.max(now, this.#ejectedUntil)
    if (now >= this.#ejectedUntil) this.#dueBack = false
    this.#startAnew(now)
  }

  /** While there are others it gets no reads for so long, and then at first a tenth of its share. */
  eject(forMs: number, now: number): void {
    this.#ejections = this.timesEjected(now) + 1
    this.#ejectedUntil = now + forMs
    this.#returnedAt = this.#ejectedUntil
    this.#dueBack = true
    this.#startAnew(now)
  }

  isEjected(now: number): boolean {
    return now < this.#ejectedUntil
  }

  /** Its ejection is over, and nobody has said yet that it has returned. */
  isDueBack(now: number): boolean {
    return this.#dueBack && now >= this.#ejectedUntil
  }

  /** How often it was ejected of late: one is forgotten for each minute without. */
  timesEjected(now: number): number {
    const behavedMs = Math.max(0, now - this.#ejectedUntil)
    return Math.max(0, this.#ejections - Math.floor(behavedMs / FORGIVEN_AFTER_MS))
  }

  /** What statements take here, in milliseconds: quick to rise, slow to fall; 0 before the first. For people to read. */
  latencyMs(now: number): number {
    return towards(this.#meanLatency.value, this.#latency.value, (now - this.#heardAt) / FELT_MS)
  }

  recent(now: number): RecentCalls {
    this.#calls.turnTo(now)
    return { calls: this.#calls.calls, failed: this.#calls.failed, failedSeconds: this.#calls.slow }
  }

  score(now: number): HealthScore {
    const value = this.health(now)
    return { value, answered: this.#answered(now), latency: this.#swiftness(now), freshness: this.#freshness }
  }

  /** The score's value, without an object. */
  health(now: number): number {
    return 100 * this.#answered(now) * this.#swiftness(now) * this.#freshness
  }

  /** Not below the threshold, or 10 above it since it was. */
  isHealthy(threshold: number, now: number): boolean {
    if (now < this.#judgedUntil) return this.#healthy
    this.#judgedUntil = now + JUDGED_EVERY_MS
    const needed = this.#healthy ? threshold : Math.min(100, threshold + ABOVE_THRESHOLD)
    return (this.#healthy = this.health(now) >= needed)
  }

  /** What it takes of its share since it has returned: a tenth at first, all of it after ten seconds. */
  ramp(now: number): number {
    const sinceMs = now - this.#returnedAt
    return sinceMs >= 0 ? rampShare(sinceMs / RAMP_SLOWNESS) : 0
  }

  #answered(now: number): number {
    this.#calls.turnTo(now)
    const { calls, failed } = this.#calls
    return (calls - failed + CREDIT) / (calls + CREDIT)
  }

  #swiftness(now: number): number {
    return Math.min(1, this.pace.baseline(now) / this.pace.recent(now))
  }

  #observeLatency(tookMs: number, now: number): void {
    if (this.#latency.value === 0) this.#latency.value = tookMs
    this.#latency.observe(tookMs, now)
    this.#meanLatency.observe(tookMs, now)
    this.#heardAt = now
  }

  #startAnew(now: number): void {
    this.#calls.clear()
    this.pace.forget(now)
    this.turn = 0
    this.#failedAt = -Infinity
    this.#healthy = true
    this.#judgedUntil = -Infinity
  }
}

/** Within the limit never below a half: who is allowed to be so far behind is not left out for that alone. */
function freshnessOf(lagMs: number | null, maxLagMs: number): number {
  if (lagMs === null || Number.isNaN(lagMs)) return 0.5
  if (lagMs <= 0) return 1
  return lagMs < 2 * maxLagMs ? 1 - lagMs / (2 * maxLagMs) : 0
}
