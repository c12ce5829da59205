// All rounds of one workload with one number of callers. Only one participant works at a time, in turns: a b c, c b a,
// a b c … so that what changes with time meets all alike.

import { serverCpuUs } from './cpu.ts'
import type { Participant } from './participant.ts'
import type { Round, RoundPlan } from './round.ts'

export interface MeasuredRound extends Round {
  /** Of the server's processes per operation. */
  readonly serverCpuUs: number
}

/** Rounds of one participant, in the order in which they were run. */
export interface Series {
  readonly label: string
  readonly rounds: readonly MeasuredRound[]
  /** Why there are no rounds, or no more of them. */
  readonly failed?: string
}

/** A participant, or why it is none. */
export interface Entrant {
  readonly label: string
  readonly participant: Participant | null
  readonly failed?: string
}

export async function compare(
  entrants: readonly Entrant[],
  plan: RoundPlan,
  count: number,
  postmaster: number | undefined,
): Promise<readonly Series[]> {
  const series = entrants.map(({ label, participant, failed }) => ({
    label,
    participant,
    failed,
    rounds: [] as MeasuredRound[],
  }))
  for (let n = 0; n < count; n++) {
    for (const one of n % 2 === 0 ? series : series.toReversed()) {
      if (one.participant === null || one.failed !== undefined) continue
      try {
        one.rounds.push(await oneRound(one.participant, plan, postmaster))
      } catch (error) {
        one.failed = String(error)
      }
    }
  }
  return series.map(({ label, rounds, failed }) => ({ label, rounds, ...(failed === undefined ? {} : { failed }) }))
}

async function oneRound(
  participant: Participant,
  plan: RoundPlan,
  postmaster: number | undefined,
): Promise<MeasuredRound> {
  const before = serverCpuUs(postmaster)
  const round = await participant.round(plan)
  return { ...round, serverCpuUs: (serverCpuUs(postmaster) - before) / round.operations }
}

/** A participant that is out counts as one more. */
export function errorsOf({ rounds, failed }: Series): number {
  return rounds.reduce((sum, { errors }) => sum + errors, failed === undefined ? 0 : 1)
}

export function firstErrorOf({ rounds, failed }: Series): string | undefined {
  return rounds.map(({ firstError }) => firstError).find((error) => error !== undefined) ?? failed
}
