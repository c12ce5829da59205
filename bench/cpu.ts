// CPU time of a PostgreSQL server and its backends, as Linux counts it. On a busy machine it says more than a rate:
// what a query costs does not depend on the neighbours, how soon it gets its turn does.

import { readFileSync } from 'node:fs'
import { childrenOf } from '../test/support/postgres/processes.ts'

/** Microseconds so far; NaN where it cannot be known. Backends must not end between two calls that are compared. */
export function serverCpuUs(postmaster: number | undefined): number {
  if (postmaster === undefined) return Number.NaN
  try {
    return childrenOf(postmaster).reduce((sum, pid) => sum + runNsOf(pid) / 1000, 0)
  } catch {
    return Number.NaN
  }
}

function runNsOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0])
}
