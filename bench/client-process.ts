// The process of one client. It does what the program in main.ts tells it, one message and one answer at a time, and
// nothing in between.

import { clients } from './clients/client.ts'
import type { OpenClient, OpenOptions } from './clients/contract.ts'
import { measure } from './round.ts'
import type { Round, RoundPlan } from './round.ts'
import { workloadOf } from './workloads/all.ts'

export type Ask =
  | { readonly do: 'open'; readonly client: string; readonly options: OpenOptions }
  | { readonly do: 'round'; readonly plan: RoundPlan }
  | { readonly do: 'close' }

export type Answer =
  | { readonly is: 'done' }
  | { readonly is: 'round'; readonly round: Round }
  | { readonly is: 'failed'; readonly why: string }

let client: OpenClient | undefined

async function answer(ask: Ask): Promise<Answer> {
  if (ask.do === 'round') return { is: 'round', round: await measure(client!, workloadOf(ask.plan.workload), ask.plan) }
  if (ask.do === 'open') {
    const open = await clients[ask.client]!()
    client = open(ask.options)
  } else {
    await client?.close()
  }
  return { is: 'done' }
}

process.on('message', (ask: Ask) => {
  answer(ask)
    .catch((error: unknown): Answer => ({ is: 'failed', why: String(error) }))
    .then((reply) => process.send!(reply))
    .catch(() => process.exit(1))
})
// Whoever asked has all it wanted, or is gone.
process.on('disconnect', () => process.exit())
