// Who takes part in a comparison, as main.ts sees it: a client in a process of its own, or pgbench.

import type { Round, RoundPlan } from './round.ts'

export interface Participant {
  /** How it is called in the report. */
  readonly label: string
  /** Rejects when no round is to be had from it any more. */
  round(plan: RoundPlan): Promise<Round>
  close(): Promise<void>
}
