// CPU time as Linux counts it. On a busy machine it says more than a rate: what a query costs does not depend on the
// neighbours, how soon it gets its turn does. Elsewhere than on Linux it is NaN.

import { readFileSync } from 'node:fs'
import { childrenOf } from '../test/support/postgres/processes.ts'

/** Linux counts the time of processes in hundredths of a second towards users, whatever its own clock does. */
const tickUs = 10_000

/** Microseconds so far of a PostgreSQL server: its backends, and those that have ended. */
export function serverCpuUs(postmaster: number | undefined): number {
  if (postmaster === undefined) return Number.NaN
  try {
    const running = childrenOf(postmaster).reduce((sum, pid) => sum + runNsOf(pid) / 1000, 0)
    return running + endedChildrenCpuUs(postmaster)
  } catch {
    return Number.NaN
  }
}

/** Microseconds of all children of a process that have ended; to a hundredth of a second. */
export function endedChildrenCpuUs(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // `pid (command) state …`; the command may hold blanks. Fields 16 and 17 are cutime and cstime.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[13]) + Number(fields[14])) * tickUs
  } catch {
    return Number.NaN
  }
}

/** A backend that has just ended is counted among the ended ones. */
function runNsOf(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0])
  } catch {
    return 0
  }
}
