// What the operating system says about processes. A server is a postmaster and its children; a test that
// stops, freezes or kills a server means all of them.

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'

interface Process {
  readonly pid: number
  readonly parent: number
  readonly ended: boolean
}

/** A process that has ended but whose parent has not yet asked for its status (a zombie) is not running. */
export function running(pids: readonly number[]): number[] {
  return processes()
    .filter((process) => pids.includes(process.pid) && !process.ended)
    .map((process) => process.pid)
}

/** Direct children; PostgreSQL's processes are all children of the postmaster. */
export function childrenOf(pid: number): number[] {
  return processes()
    .filter((process) => process.parent === pid && !process.ended)
    .map((process) => process.pid)
}

/** Sends a signal to a process that may be gone already. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Waits without the event loop, so that it also works while the process exits. False: still running at the end. */
export function waitUntilEnded(pids: readonly number[], ms: number): boolean {
  const until = performance.now() + ms
  while (running(pids).length > 0) {
    if (performance.now() > until) return false
    pause(3)
  }
  return true
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

function processes(): Process[] {
  return existsSync('/proc/self/stat') ? fromProc() : fromPs()
}

function fromProc(): Process[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1')
      // `pid (command) state parent …`; the command may hold blanks and parentheses itself.
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      return [{ pid: Number(name), parent: Number(parent), ended: state === 'Z' || state === 'X' }]
    } catch {
      return [] // ended while the list was read
    }
  })
}

function fromPs(): Process[] {
  return execFileSync('ps', ['-A', '-o', 'pid=,ppid=,state='], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((line) => {
      const [pid, parent, state] = line.trim().split(/\s+/)
      return { pid: Number(pid), parent: Number(parent), ended: state?.startsWith('Z') ?? false }
    })
}
