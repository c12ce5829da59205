// One round: a fresh client, some warm-up, then the callers work for a while and everything is written down.

import { setTimeout as sleep } from 'node:timers/promises'
import type { ShopClient } from './clients.ts'
import { chanceFrom, nextOperation, run } from './operations.ts'

export interface RoundPlan {
  readonly callers: number
  /** Part of the seed of every caller: both clients get the same number for the same round. */
  readonly round: number
  readonly warmUpMs: number
  readonly measuredMs: number
  readonly signal: AbortSignal
}

export interface Measured {
  operations: number
  queries: number
  /** Of each operation, in milliseconds. */
  latencies: number[]
  /** From the end of the warm-up until the last caller had its answer. */
  wallMs: number
  /** User and system time of this process over the same span. */
  cpuMs: number
  /** Warm-up included, as the two below. */
  errors: number
  firstError: unknown
  ownOrdersNotSeen: number
}

export function nothingMeasured(): Measured {
  return {
    operations: 0,
    queries: 0,
    latencies: [],
    wallMs: 0,
    cpuMs: 0,
    errors: 0,
    firstError: undefined,
    ownOrdersNotSeen: 0,
  }
}

/** Works for one round; `into` grows meanwhile, so that a progress line can watch it. */
export async function workOneRound(client: ShopClient, plan: RoundPlan, into: Measured): Promise<void> {
  const begin = performance.now() + plan.warmUpMs
  const end = begin + plan.measuredMs
  // The processor is read by a timer, so it may begin some milliseconds off; the same for both clients.
  const cpuAtBegin = sleep(plan.warmUpMs).then(() => process.cpuUsage())
  await Promise.all(Array.from({ length: plan.callers }, (_, caller) => call(client, plan, caller, begin, end, into)))
  const { user, system } = process.cpuUsage(await cpuAtBegin)
  into.cpuMs += (user + system) / 1000
  into.wallMs += performance.now() - begin
}

async function call(
  client: ShopClient,
  plan: RoundPlan,
  caller: number,
  begin: number,
  end: number,
  into: Measured,
): Promise<void> {
  const chance = chanceFrom(plan.round * 100_003 + caller)
  for (let started = performance.now(); started < end && !plan.signal.aborted; started = performance.now()) {
    try {
      const { queries, sawOwnOrder } = await run(client, nextOperation(chance))
      if (!sawOwnOrder) into.ownOrdersNotSeen++
      if (started < begin) continue
      into.operations++
      into.queries += queries
      into.latencies.push(performance.now() - started)
    } catch (error) {
      into.errors++
      into.firstError ??= error
      // A client that fails at once must not keep the process from hearing Ctrl-C.
      await sleep(1)
    }
  }
}
