// One round of one client: so many callers, each with one operation under way, first to warm up, then measured.

import { setTimeout as sleep } from 'node:timers/promises'
import type { OpenClient } from './clients/contract.ts'
import { percentile } from './statistics.ts'
import type { Workload } from './workloads.ts'

export interface RoundPlan {
  readonly workload: string
  readonly concurrency: number
  readonly warmUpMs: number
  readonly measuredMs: number
}

export interface Round {
  /** Operations per second. */
  readonly rate: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  /** User and system time of the whole process per operation. */
  readonly cpuUs: number
  /** All since the start, the warm-up included. */
  readonly operations: number
  readonly errors: number
  readonly firstError?: string
}

export async function measure(client: OpenClient, workload: Workload, plan: RoundPlan): Promise<Round> {
  const callers = new Callers(client, workload)
  callers.start(plan.concurrency)
  await sleep(plan.warmUpMs)
  const before = callers.now()
  await sleep(plan.measuredMs)
  const after = callers.now()
  await callers.stop()
  const { latencies, operations, errors, firstError } = callers
  return { ...between(before, after, latencies), operations, errors, firstError }
}

interface Moment {
  readonly done: number
  readonly atMs: number
  readonly cpu: NodeJS.CpuUsage
}

function between(before: Moment, after: Moment, latencies: Float64Array): Omit<Round, 'operations' | 'errors'> {
  const sorted = latencies.slice(before.done, after.done).toSorted()
  const cpuUs = after.cpu.user + after.cpu.system - before.cpu.user - before.cpu.system
  return {
    rate: (1000 * sorted.length) / (after.atMs - before.atMs),
    p50Ms: percentile(sorted, 0.5),
    p95Ms: percentile(sorted, 0.95),
    p99Ms: percentile(sorted, 0.99),
    cpuUs: cpuUs / sorted.length,
  }
}

class Callers {
  readonly #client: OpenClient
  readonly #workload: Workload
  /** Of every operation since the start, in the order in which they ended. */
  #latencies = new Float64Array(1 << 16)
  #done = 0
  #stopping = false
  #running: Promise<void>[] = []
  errors = 0
  firstError: string | undefined

  constructor(client: OpenClient, workload: Workload) {
    this.#client = client
    this.#workload = workload
  }

  get latencies(): Float64Array {
    return this.#latencies
  }

  get operations(): number {
    return this.#done
  }

  start(count: number): void {
    this.#running = Array.from({ length: count }, () => this.#call())
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all(this.#running)
  }

  now(): Moment {
    return { done: this.#done, atMs: performance.now(), cpu: process.cpuUsage() }
  }

  async #call(): Promise<void> {
    while (!this.#stopping) {
      const began = performance.now()
      try {
        await this.#workload.once(this.#client)
      } catch (error) {
        this.errors++
        this.firstError ??= String(error)
      }
      this.#record(performance.now() - began)
    }
  }

  #record(ms: number): void {
    if (this.#done === this.#latencies.length) {
      const longer = new Float64Array(2 * this.#latencies.length)
      longer.set(this.#latencies)
      this.#latencies = longer
    }
    this.#latencies[this.#done++] = ms
  }
}
