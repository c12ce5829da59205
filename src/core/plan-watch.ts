// Has a prepared statement become slow because of its plan? PostgreSQL plans the first five runs of a named
// statement on a connection for their parameters; then it may keep one generic plan for all, which is far worse on
// skewed data (0.28 → 16 ms was measured). This watches each text of one node and says once when that has
// happened. It is slow to say so, for what looks like a bad plan is mostly a busy server, a lock or chance.

import type { Facts } from './types.ts'

/** How a text fared while it was planned for its parameters, and how it fares now: means, the highest cut. */
export interface PlanRegression {
  readonly baselineMs: number
  readonly nowMs: number
}

/** PostgreSQL's choose_custom_plan: a generic plan is thought of when five runs had one of their own. */
const CUSTOM_RUNS = 5

/** The first run on a connection is parsed as well and meets empty caches there; it says nothing of the plan. */
const COLD_RUNS = 1

/** The runs 2–5 of one connection at least, of the last four at most: the data grows, and old times mislead. */
const FEWEST_BASELINE = CUSTOM_RUNS - COLD_RUNS
const MOST_BASELINE = 4 * FEWEST_BASELINE

/** Custom plans cost planning at each run; it takes a multiple of the run itself to be worth that. */
const FACTOR = 5

/** What is faster counts as this, so that a text is at least (5 − 1) × 0.25 = 1 ms worse: below is noise. */
const LEAST_BASELINE_MS = 0.25

/** Runs that are judged together; with 32, a text of which half is slow by nature looks bad once in 300 windows. */
const WINDOW = 32

/** So many of them must be slow. A few that hung, or the rare value among others, are not the plan. */
const SLOW_OF_WINDOW = 24

/** Texts whose pace tells whether the whole server has slowed down, and how few of them say nothing yet. */
const WITNESSES = 8
const FEWEST_WITNESSES = 3

/** A witness takes one step for each run, however slow that was: six runs to see a server ten times slower. */
const STEP = 1.5

export class PlanWatch {
  readonly #courses = new WeakMap<Facts, Course>()
  /** The last texts seen, in a ring; they know only numbers, so that no text is kept alive. */
  readonly #witnesses: Course[] = []
  #nextWitness = 0

  /**
   * One run of a named statement has ended well: the how-manieth of that name on its connection, and its time on the
   * server. The verdict comes once for each text, 64 runs after the fifth at the earliest.
   */
  observe(facts: Facts, executions: number, serverMs: number): PlanRegression | null {
    // Waiting for a lock takes time, and no plan is to blame.
    if (facts.lockWaiter || !(serverMs >= 0)) return null
    let course = this.#courses.get(facts)
    if (course === undefined) this.#courses.set(facts, (course = new Course()))
    if (executions > CUSTOM_RUNS) return this.#judge(course, serverMs)
    if (executions > COLD_RUNS) course.learn(serverMs)
    return null
  }

  #judge(course: Course, serverMs: number): PlanRegression | null {
    if (!course.watched) return null
    if (!course.witness) this.#call(course)
    const regression = course.judge(serverMs)
    if (regression === null) return null
    const usual = Math.max(regression.baselineMs, LEAST_BASELINE_MS)
    if (regression.nowMs < FACTOR * usual * this.#slowdownBeside(course)) return null
    course.condemned = true
    return regression
  }

  /** The oldest witness makes room. */
  #call(course: Course): void {
    const leaving = this.#witnesses[this.#nextWitness]
    if (leaving !== undefined) leaving.witness = false
    course.witness = true
    this.#witnesses[this.#nextWitness] = course
    this.#nextWitness = (this.#nextWitness + 1) % WITNESSES
  }

  /** How many times slower than usual the other texts are: their median, so that bad plans among them do not count. */
  #slowdownBeside(course: Course): number {
    const paces = this.#witnesses.filter((witness) => witness !== course).map((witness) => witness.pace)
    if (paces.length < FEWEST_WITNESSES) return 1
    return Math.max(1, paces.toSorted((a, b) => a - b)[Math.floor(paces.length / 2)]!)
  }
}

/** One text on one node. */
class Course {
  /** Its last times with a plan for its parameters, in a ring. */
  readonly #baseline: number[] = []
  #nextOfBaseline = 0
  /** From here a run is slow; nothing is before the baseline is known. */
  #slowFromMs = Infinity
  #runs = 0
  #slowRuns = 0
  /** The times of this window when the last one was bad: a second in a row is needed. */
  #suspect: number[] | null = null
  /** About how many times slower than its baseline it is. */
  pace = 1
  witness = false
  condemned = false

  get watched(): boolean {
    return this.#slowFromMs < Infinity && !this.condemned
  }

  learn(ms: number): void {
    this.#baseline[this.#nextOfBaseline] = ms
    this.#nextOfBaseline = (this.#nextOfBaseline + 1) % MOST_BASELINE
    if (this.#baseline.length < FEWEST_BASELINE) return
    this.#slowFromMs = FACTOR * Math.max(this.#usual().highest, LEAST_BASELINE_MS)
  }

  /** Takes in one run; answers at the end of a second bad window in a row, and of each bad one behind it. */
  judge(ms: number): PlanRegression | null {
    const slower = ms * FACTOR > this.pace * this.#slowFromMs
    this.pace = slower ? this.pace * STEP : Math.max(1, this.pace / STEP)
    this.#suspect?.push(ms)
    if (ms >= this.#slowFromMs) this.#slowRuns++
    if (++this.#runs < WINDOW) return null
    const bad = this.#slowRuns >= SLOW_OF_WINDOW
    const times = this.#suspect
    this.#runs = this.#slowRuns = 0
    this.#suspect = bad ? [] : null
    if (!bad || times === null) return null
    return { baselineMs: this.#usual().mean, nowMs: winsorised(times, WINDOW - SLOW_OF_WINDOW).mean }
  }

  /**
   * One in four is cut, but of the few of a single connection none: the slowest of them must be beaten, or a text
   * that is slow every second time by nature would be condemned whenever its first runs happened to be fast.
   */
  #usual(): { mean: number; highest: number } {
    return winsorised(this.#baseline, Math.floor(this.#baseline.length / FEWEST_BASELINE) - 1)
  }
}

/** Mean and highest of these times when the `cut` highest are taken for as high as the next one. */
function winsorised(times: readonly number[], cut: number): { mean: number; highest: number } {
  const sorted = times.toSorted((a, b) => a - b)
  const highest = sorted[sorted.length - 1 - cut]!
  const sum = sorted.reduce((total, ms) => total + Math.min(ms, highest), 0)
  return { mean: sum / sorted.length, highest }
}
