// Who takes part: the clients by name, the divisor twice, and pgbench.

import { ClientHandle } from './client-handle.ts'
import { clients } from './clients/client.ts'
import type { Line } from './delay/line.ts'
import type { Participant } from './participant.ts'
import { Pgbench } from './pgbench.ts'
import type { Workload } from './workloads/contract.ts'

/** What all others are divided by. */
export const divisor = 'kysely-pg'

/** A second process of the divisor: how far two equals lie apart on this machine. */
export const again = 'kysely-pg again'

const pgbench = 'pgbench'

/** All, in the order of the tables. */
export const everyone: readonly string[] = [...Object.keys(clients), again, pgbench]

/** The asked ones that can do this workload; the divisor always takes part, and so does its double. */
export function takingPart(asked: readonly string[], workload: Workload, program: string | undefined): string[] {
  const wanted = new Set([...asked, divisor, again])
  return everyone.filter((label) => {
    if (!wanted.has(label)) return false
    if (label === pgbench) return program !== undefined && workload.pgbench !== undefined
    return workload.clients?.includes(label) ?? true
  })
}

export interface Ground {
  readonly line: Line
  readonly connections: number
  /** A folder for CPU profiles. */
  readonly profiles: string | undefined
  /** Where pgbench is. */
  readonly program: string | undefined
}

/** Rejects with what the client says against being opened like this. */
export async function enter(label: string, workload: Workload, ground: Ground): Promise<Participant> {
  const { line, connections, profiles, program } = ground
  if (label === pgbench) return new Pgbench(program!, line.url, connections, workload.pgbench!)
  const handle = new ClientHandle(label, label === again ? divisor : label, profiles)
  try {
    await handle.open({ url: line.url, connections, tenants: workload.tenants ?? false })
    return handle
  } catch (error) {
    await handle.close()
    throw error
  }
}
