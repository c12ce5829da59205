// Reads that arrive as they like, in virtual time, at replicas that are as slow as the case says; the balancer decides
// where each goes, and the outliers are reviewed once a second, as the engine does it. For bench/balance.ts and for
// tests: the same seed is the same run.

import { Balancer } from '../../src/core/balance.ts'
import type { BalanceRules, Replica } from '../../src/core/balance.ts'
import { reviewOutliers } from '../../src/core/ejection.ts'
import { Standing } from '../../src/core/standing.ts'
import type { Traits } from '../../src/core/standing.ts'
import { BEGIN_FACTS } from '../../src/core/statements.ts'
import type { Chance, Facts } from '../../src/core/types.ts'
import { UsualTimes } from '../../src/core/usual-time.ts'
import { seededChance } from './chance.ts'

/** One SQL text: its share of the reads, and its time on an idle server, log-normal. */
export interface LoadText {
  readonly share: number
  readonly ms: number
  readonly sigma: number
}

export interface LoadReplica {
  readonly traits?: Partial<Traits>
  /** How many times longer everything takes, by time. Default 1. */
  readonly slowness?: (now: number) => number
  /** Nothing moves between these two times. */
  readonly stalls?: readonly [from: number, until: number]
  /** The share of the statements that fail, by time. Default 0. */
  readonly failing?: (now: number) => number
}

export interface Load {
  readonly texts: readonly LoadText[]
  readonly replicas: readonly LoadReplica[]
  readonly perSecond: number
  readonly seconds: number
  readonly strategy: BalanceRules['strategy']
  readonly zone?: string
  readonly seed?: number
  /** Nobody says what a text usually takes. Default false. */
  readonly timesUnknown?: boolean
}

export interface LoadResult {
  /** Milliseconds of the reads of the first text, ascending, without the first two seconds. */
  readonly took: Float64Array
  /** Which replica took the read, for each; and when it came. */
  readonly chosen: readonly number[]
  readonly cameAt: readonly number[]
  /** `replica 0 ejected at 3000: …` */
  readonly verdicts: readonly string[]
}

const ROUND_TRIP_MS = 0.5
/** What a replica works on at once; the rest waits. */
const CORES = 8
const WARM_UP_MS = 2_000

interface Job {
  readonly text: number
  readonly ms: number
  readonly sentAt: number
}

class SimulatedReplica implements Replica {
  readonly name: string
  readonly standing: Standing
  readonly how: LoadReplica
  readonly waiting: Job[] = []
  busy = 0

  constructor(name: string, how: LoadReplica) {
    this.name = name
    this.how = how
    this.standing = new Standing({ zone: undefined, weight: 1, priority: 1, tags: [], ...how.traits })
  }

  get load(): number {
    return this.busy + this.waiting.length
  }

  /** When a job is done that begins now. */
  doneAt(job: Job, now: number): number {
    const takesMs = job.ms * (this.how.slowness?.(now) ?? 1)
    const [from, until] = this.how.stalls ?? [Infinity, Infinity]
    return now + takesMs > from && now < until ? until + takesMs : now + takesMs
  }
}

export function runLoad(load: Load): LoadResult {
  const chance = seededChance(load.seed ?? 1)
  const events = new Agenda()
  const balancer = new Balancer({ strategy: load.strategy, zone: load.zone, healthThreshold: 50 }, chance)
  const replicas = load.replicas.map((how, i) => new SimulatedReplica(`replica ${i}`, how))
  const usual = new UsualTimes()
  const facts: Facts[] = load.texts.map(() => ({ ...BEGIN_FACTS }))
  const took: number[] = []
  const chosen: number[] = []
  const cameAt: number[] = []
  const verdicts: string[] = []
  const endsAt = load.seconds * 1_000

  const answered = (replica: SimulatedReplica, job: Job, now: number): void => {
    const tookMs = now - job.sentAt
    const ok = chance() >= (replica.how.failing?.(now) ?? 0)
    const usualMs = ok ? usual.learn(facts[job.text]!, tookMs, now) : usual.of(facts[job.text]!)
    replica.standing.answered(ok, tookMs, now, load.timesUnknown === true ? 0 : usualMs)
    if (now > WARM_UP_MS && job.text === 0) took.push(tookMs)
  }
  const begin = (replica: SimulatedReplica, job: Job, now: number): void => {
    replica.busy++
    events.add(replica.doneAt(job, now), (done) => {
      replica.busy--
      events.add(done + ROUND_TRIP_MS, (heard) => answered(replica, job, heard))
      const next = replica.waiting.shift()
      if (next !== undefined) begin(replica, next, done)
    })
  }
  const arrive = (now: number): void => {
    const text = drawText(load.texts, chance)
    const replica = balancer.choose(replicas, replicas.length, now)!
    const { ms, sigma } = load.texts[text]!
    const job = { text, ms: ms * Math.exp(sigma * normal(chance)), sentAt: now }
    chosen.push(replicas.indexOf(replica))
    cameAt.push(now)
    if (replica.busy < CORES) begin(replica, job, now)
    else replica.waiting.push(job)
    const nextAt = now - (Math.log(1 - chance()) * 1_000) / load.perSecond
    if (nextAt < endsAt) events.add(nextAt, arrive)
  }
  const review = (now: number): void => {
    for (const verdict of reviewOutliers(replicas, now, chance)) {
      const { name, standing } = verdict.sibling
      verdicts.push(`${name} ${verdict.do} at ${now}: ${verdict.because}`)
      if (verdict.do === 'eject') standing.eject(verdict.forMs, now)
      else standing.returned(now)
    }
    if (now < endsAt) events.add(now + 1_000, review)
  }
  events.add(0, arrive)
  events.add(1_000, review)
  events.run()
  return { took: Float64Array.from(took).toSorted(), chosen, cameAt, verdicts }
}

/** The share of the reads that a replica took between two times. */
export function shareOf({ chosen, cameAt }: LoadResult, replica: number, from = 0, until = Infinity): number {
  const within = chosen.filter((_, i) => cameAt[i]! >= from && cameAt[i]! < until)
  return within.filter((one) => one === replica).length / within.length
}

function drawText(texts: readonly LoadText[], chance: Chance): number {
  let left = chance()
  const found = texts.findIndex(({ share }) => (left -= share) < 0)
  return found < 0 ? texts.length - 1 : found
}

// Box and Muller's.
function normal(chance: Chance): number {
  return Math.sqrt(-2 * Math.log(1 - chance())) * Math.cos(2 * Math.PI * chance())
}

/** What happens when, the earliest first: a binary heap. */
class Agenda {
  readonly #heap: { readonly at: number; readonly run: (now: number) => void }[] = []

  add(at: number, run: (now: number) => void): void {
    const heap = this.#heap
    let i = heap.push({ at, run }) - 1
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (heap[parent]!.at <= heap[i]!.at) break
      ;[heap[parent], heap[i]] = [heap[i]!, heap[parent]!]
      i = parent
    }
  }

  run(): void {
    for (let next = this.#take(); next !== undefined; next = this.#take()) next.run(next.at)
  }

  #take(): { at: number; run: (now: number) => void } | undefined {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (first === undefined || last === undefined || heap.length === 0) return first
    heap[0] = last
    for (let i = 0; ;) {
      let child = 2 * i + 1
      if (child >= heap.length) return first
      if (child + 1 < heap.length && heap[child + 1]!.at < heap[child]!.at) child++
      if (heap[i]!.at <= heap[child]!.at) return first
      ;[heap[i], heap[child]] = [heap[child]!, heap[i]!]
      i = child
    }
  }
}
