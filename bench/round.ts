// One round of one client: groups of callers, each caller with one operation under way, first to warm up, then
// measured.

import { setTimeout as sleep } from 'node:timers/promises'
import type { OpenClient } from './clients/contract.ts'
import { percentile, shareAbove } from './statistics.ts'
import type { Group, Workload } from './workloads/contract.ts'

export interface RoundPlan {
  readonly workload: string
  /** As asked for; a workload with a crowd of its own does not look at it. */
  readonly callers: number
  readonly warmUpMs: number
  readonly measuredMs: number
  /** An operation that takes longer is late. */
  readonly lateMs: number
}

export interface GroupFigures {
  readonly name: string
  /** Operations per second that succeeded; those that failed are nowhere but in `errors`. */
  readonly rate: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly meanMs: number
  /** Share of the operations that were late. */
  readonly late: number
}

export interface Round {
  readonly groups: readonly GroupFigures[]
  /** User and system time of the whole process per operation. */
  readonly cpuUs: number
  /** All that succeeded since the start, the warm-up included. */
  readonly operations: number
  readonly errors: number
  readonly firstError?: string
  /** What the workload counted. */
  readonly counted: { readonly [what: string]: number }
}

export async function measure(client: OpenClient, workload: Workload, plan: RoundPlan): Promise<Round> {
  const counted: Record<string, number> = {}
  const tally = (what: string, count: number): void => void (counted[what] = (counted[what] ?? 0) + count)
  const groups = workload.groups(plan.callers).map((group) => new Callers(client, group, tally))
  const running = groups.map((callers) => callers.run())
  // With many callers behind a slow network the first answers are not yet those of a full queue.
  await Promise.all([sleep(plan.warmUpMs), ...groups.map(({ warm }) => warm)])
  const before = momentOf(groups)
  await sleep(plan.measuredMs)
  const after = momentOf(groups)
  for (const callers of groups) callers.stopping = true
  await Promise.all(running)
  const cpuUs = after.cpu.user + after.cpu.system - before.cpu.user - before.cpu.system
  return {
    groups: groups.map((callers, i) =>
      figuresOf(callers.name, callers.latencies.slice(before.done[i], after.done[i]), after.atMs - before.atMs, plan),
    ),
    cpuUs: cpuUs / (sum(after.done) - sum(before.done)),
    operations: sum(groups.map(({ done }) => done)),
    errors: sum(groups.map(({ errors }) => errors)),
    firstError: groups.map(({ firstError }) => firstError).find((error) => error !== undefined),
    counted,
  }
}

interface Moment {
  /** Operations of each group so far. */
  readonly done: readonly number[]
  readonly atMs: number
  readonly cpu: NodeJS.CpuUsage
}

function momentOf(groups: readonly Callers[]): Moment {
  return { done: groups.map(({ done }) => done), atMs: performance.now(), cpu: process.cpuUsage() }
}

function figuresOf(name: string, latencies: Float64Array, elapsedMs: number, { lateMs }: RoundPlan): GroupFigures {
  const sorted = latencies.toSorted()
  return {
    name,
    rate: (1000 * sorted.length) / elapsedMs,
    p50Ms: percentile(sorted, 0.5),
    p95Ms: percentile(sorted, 0.95),
    p99Ms: percentile(sorted, 0.99),
    meanMs: sum(sorted) / sorted.length,
    late: shareAbove(sorted, lateMs),
  }
}

function sum(values: Iterable<number>): number {
  let total = 0
  for (const value of values) total += value
  return total
}

class Callers {
  readonly #client: OpenClient
  readonly #group: Group
  readonly #tally: (what: string, count: number) => void
  /** Of every operation that succeeded, in the order in which they ended. */
  #latencies = new Float64Array(1 << 16)
  #ended = 0
  #warmed!: () => void
  /** Settles when as many operations have ended as there are callers. */
  readonly warm = new Promise<void>((resolve) => (this.#warmed = resolve))
  done = 0
  stopping = false
  errors = 0
  firstError: string | undefined

  constructor(client: OpenClient, group: Group, tally: (what: string, count: number) => void) {
    this.#client = client
    this.#group = group
    this.#tally = tally
  }

  get name(): string {
    return this.#group.name
  }

  get latencies(): Float64Array {
    return this.#latencies
  }

  async run(): Promise<void> {
    await Promise.all(Array.from({ length: this.#group.callers }, () => this.#call()))
  }

  async #call(): Promise<void> {
    while (!this.stopping) {
      const began = performance.now()
      try {
        await this.#group.once(this.#client, this.#tally)
        this.#record(performance.now() - began)
      } catch (error) {
        this.errors++
        this.firstError ??= String(error)
        // A client that fails without asking anybody would keep the process from everything else.
        await sleep(1)
      }
      if (++this.#ended === this.#group.callers) this.#warmed()
    }
  }

  #record(ms: number): void {
    if (this.done === this.#latencies.length) {
      const longer = new Float64Array(2 * this.#latencies.length)
      longer.set(this.#latencies)
      this.#latencies = longer
    }
    this.#latencies[this.done++] = ms
  }
}
