// All that a cluster leaves on the machine: one temporary folder and the processes that live in it. Whatever
// way the program ends (return, exception, Ctrl-C, even kill -9), nothing of it stays.

import { spawn, type ChildProcess } from 'node:child_process'
import { chmodSync, closeSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { giveTo, serverAccount, type Account } from './account.ts'
import { childrenOf, signal, waitUntilEnded } from './processes.ts'

const endings: [NodeJS.Signals, number][] = [
  ['SIGHUP', 129],
  ['SIGINT', 130],
  ['SIGTERM', 143],
]

export class Premises {
  readonly folder: string
  readonly account: Account | undefined
  readonly #guard: ChildProcess
  readonly #children = new Set<ChildProcess>()
  readonly #onExit = (): void => this.clear()
  readonly #onSignal = new Map<NodeJS.Signals, () => void>()
  #cleared = false

  constructor() {
    this.account = serverAccount()
    this.folder = mkdtempSync(join(tmpdir(), 'smartpg-postgres-'))
    process.on('exit', this.#onExit)
    for (const [name, code] of endings) this.#exitOn(name, code)
    giveTo(this.account, this.folder)
    chmodSync(this.folder, 0o700)
    this.#guard = guard(this.folder)
  }

  /** Starts a program of PostgreSQL in this folder, writing to `log`. */
  spawn(program: string, args: readonly string[], log: string): ChildProcess {
    if (this.#cleared) throw new Error('this cluster is closed')
    const output = openSync(log, 'a')
    try {
      const child = spawn(program, args, {
        ...this.account,
        cwd: this.folder,
        // The caller's PGPORT, PGOPTIONS … are about other servers; C keeps the messages in English.
        env: { PATH: process.env['PATH'], LC_ALL: 'C', TZ: 'UTC' },
        stdio: ['ignore', output, output],
        // In a process group of its own: Ctrl-C in a terminal is for the caller, who ends the servers himself.
        detached: true,
      })
      this.#children.add(child)
      child.once('exit', () => this.#children.delete(child))
      child.once('error', () => this.#children.delete(child))
      return child
    } finally {
      closeSync(output)
    }
  }

  /** Ends every process in the folder and removes it. Without the event loop, so that it works in `exit` too. */
  clear(): void {
    if (this.#cleared) return
    this.#cleared = true
    process.off('exit', this.#onExit)
    for (const [name, listener] of this.#onSignal) process.off(name, listener)
    const pids = [...this.#children].flatMap((child) => (child.pid === undefined ? [] : [child.pid]))
    for (const pid of pids) endNow(pid)
    if (!waitUntilEnded(pids, 6_000)) for (const pid of pids) killNow(pid)
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 })
    this.#guard.kill('SIGKILL')
  }

  // With another listener the program has its own way to end, and `exit` is enough.
  #exitOn(name: NodeJS.Signals, code: number): void {
    const listener = (): void => {
      if (process.listenerCount(name) === 1) process.exit(code)
    }
    this.#onSignal.set(name, listener)
    process.on(name, listener)
  }
}

// SIGQUIT is PostgreSQL's immediate shutdown: it ends its children and frees its shared memory, which kill -9
// would leave behind. A frozen server must be thawed to hear it.
function endNow(pid: number): void {
  for (const member of [pid, ...childrenOf(pid)]) signal(member, 'SIGCONT')
  signal(pid, 'SIGQUIT')
}

function killNow(pid: number): void {
  for (const member of [pid, ...childrenOf(pid)]) signal(member, 'SIGKILL')
  waitUntilEnded([pid], 1_000)
}

// Its standard input ends when this process does, for whatever reason: then it does what `clear` does.
// A second rm, because an initdb that was cut off may still write into the folder.
function guard(folder: string): ChildProcess {
  const script = `
    read -r never
    for file in "$1"/*/postmaster.pid; do
      read -r pid < "$file" || continue
      kill -CONT "$pid"; kill -QUIT "$pid"
    done 2> /dev/null
    sleep 1; rm -rf "$1"; sleep 2; rm -rf "$1"`
  const child = spawn('/bin/sh', ['-c', script, 'guard', folder], {
    cwd: '/',
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  child.unref()
  // A socket underneath, which the types do not say.
  const input = child.stdin as (typeof child)['stdin'] & { unref(): void }
  input?.unref()
  return child
}
