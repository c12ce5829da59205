// One PostgreSQL server that belongs to the tests, with the things that happen to servers: it is stopped,
// killed, frozen, promoted. Each of these is over when its promise settles.

import { spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import type { Account } from './account.ts'
import type { Premises } from './premises.ts'
import { childrenOf, signal, waitUntilEnded } from './processes.ts'

/** How PostgreSQL shuts down: waits for clients · ends their connections · at once, with recovery at the next start. */
export type StopMode = 'smart' | 'fast' | 'immediate'

export interface Server {
  /** Superuser `postgres` in database `postgres`, no password. */
  readonly url: string
  readonly port: number
  /** The postmaster; undefined while it does not run, and for a server that is not ours. */
  readonly pid: number | undefined
  /** Rows of one statement, run as superuser on a connection of its own. */
  query<R = Record<string, unknown>>(sql: string, parameters?: readonly unknown[]): Promise<R[]>
  /** Default `fast`. */
  stop(mode?: StopMode): Promise<void>
  /** Starts it again on the same port and data; settles when a connection answers. */
  start(): Promise<void>
  /** `kill -9` of all its processes at once: what a crash of the machine does. */
  kill9(): Promise<void>
  /** Holds all its processes (SIGSTOP): sockets stay open and nothing answers. */
  freeze(): void
  thaw(): void
  /** A standby becomes a primary; settles when it accepts writes. */
  promote(): Promise<void>
}

const readyWithinMs = 30_000
const stopSignal = { smart: 'SIGTERM', fast: 'SIGINT', immediate: 'SIGQUIT' } as const

export class OwnServer implements Server {
  readonly port: number
  readonly data: string
  /** primary, replica-1 …: its folder, its log, and its name in pg_stat_replication. */
  readonly name: string
  readonly #bin: string
  readonly #premises: Premises
  #postmaster: ChildProcess | undefined

  constructor(premises: Premises, bin: string, name: string, port: number) {
    this.#premises = premises
    this.#bin = bin
    this.name = name
    this.data = join(premises.folder, name)
    this.port = port
  }

  /** Whose its files are. */
  get account(): Account | undefined {
    return this.#premises.account
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`
  }

  get pid(): number | undefined {
    return this.#postmaster?.pid
  }

  async start(): Promise<void> {
    if (this.#postmaster) throw new Error(`the server on port ${this.port} is running already`)
    const postmaster = this.#premises.spawn(
      join(this.#bin, 'postgres'),
      ['-D', this.data, '-p', String(this.port)],
      this.#log,
    )
    this.#postmaster = postmaster
    // Both: a program that cannot be started at all has an `error` and never an `exit`.
    postmaster.once('exit', () => this.#gone(postmaster))
    postmaster.once('error', () => this.#gone(postmaster))
    await this.#ready(postmaster)
    // A program that ends without closing its cluster must end.
    postmaster.unref()
  }

  async stop(mode: StopMode = 'fast'): Promise<void> {
    const postmaster = this.#running()
    const exit = exitOf(postmaster)
    this.thaw()
    postmaster.kill(stopSignal[mode])
    await exit
  }

  async kill9(): Promise<void> {
    const postmaster = this.#running()
    const exit = exitOf(postmaster)
    const pids = this.#processes()
    for (const pid of pids) signal(pid, 'SIGKILL')
    await exit
    waitUntilEnded(pids, 1_000)
    this.#freeSharedMemory()
  }

  freeze(): void {
    // The postmaster first, so that it does not start another process meanwhile.
    for (const pid of this.#processes()) signal(pid, 'SIGSTOP')
  }

  thaw(): void {
    for (const pid of this.#processes().toReversed()) signal(pid, 'SIGCONT')
  }

  async promote(): Promise<void> {
    const [row] = await this.query<{ promoted: boolean }>('select pg_promote(true, 30) as promoted')
    if (!row?.promoted)
      throw new Error(`the server on port ${this.port} was not promoted within 30 s${this.#logTail()}`)
  }

  async query<R = Record<string, unknown>>(sql: string, parameters: readonly unknown[] = []): Promise<R[]> {
    return ask<R>(this.url, sql, parameters)
  }

  /** Appends settings to postgresql.conf; the last one wins. They hold from the next start or `reload`. */
  configure(settings: Record<string, string>): void {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`)
    appendFileSync(join(this.data, 'postgresql.conf'), lines.join(''))
  }

  async reload(): Promise<void> {
    await this.query('select pg_reload_conf()')
  }

  get #log(): string {
    return `${this.data}.log`
  }

  #running(): ChildProcess {
    if (!this.#postmaster) throw new Error(`the server on port ${this.port} is not running`)
    return this.#postmaster
  }

  #processes(): number[] {
    const pid = this.#running().pid
    return pid === undefined ? [] : [pid, ...childrenOf(pid)]
  }

  #gone(postmaster: ChildProcess): void {
    if (this.#postmaster === postmaster) this.#postmaster = undefined
  }

  async #ready(postmaster: ChildProcess): Promise<void> {
    const until = performance.now() + readyWithinMs
    for (;;) {
      const refusal = await ask(this.url, 'select').then(
        () => undefined,
        (error: unknown) => error,
      )
      if (this.#postmaster !== postmaster) throw new Error(`PostgreSQL ended while starting${this.#logTail()}`)
      if (refusal === undefined) return
      if (performance.now() > until) {
        throw new Error(`PostgreSQL did not answer within ${readyWithinMs} ms${this.#logTail()}`, { cause: refusal })
      }
      await sleep(5)
    }
  }

  // Line 7 of the lock file names the segment. A start would free it as well, but nobody may start it again.
  #freeSharedMemory(): void {
    const lockFile = join(this.data, 'postmaster.pid')
    const segment = readFileSync(lockFile, 'utf8').split('\n')[6]?.trim().split(/\s+/)[1]
    if (segment) spawnSync('ipcrm', ['-m', segment])
    rmSync(lockFile)
  }

  #logTail(): string {
    return `; its log ends with:\n${tail(this.#log)}`
  }
}

function exitOf(child: ChildProcess): Promise<unknown> {
  child.ref()
  return once(child, 'exit')
}

/** The last lines of a log, for an error message. */
export function tail(log: string): string {
  try {
    return readFileSync(log, 'utf8').trimEnd().split('\n').slice(-20).join('\n')
  } catch {
    return '(there is no log)'
  }
}

/** One statement on a connection of its own. */
export async function ask<R = Record<string, unknown>>(
  url: string,
  sql: string,
  parameters: readonly unknown[] = [],
): Promise<R[]> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 5_000, application_name: 'cluster' })
  // A connection may also break between statements (a test kills the server); the statement then says so itself.
  client.on('error', () => {})
  try {
    await client.connect()
    const result = await client.query(sql, [...parameters])
    return result.rows as R[]
  } finally {
    await client.end().catch(() => {})
  }
}
