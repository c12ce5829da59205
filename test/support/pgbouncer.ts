// A real PgBouncer in front of a server, for tests of what a pooler in between changes: sessions that are not what
// they seem, names that others have prepared, a pooler that pauses, restarts, or lets nobody in.
//
//     const bouncer = await startPgBouncer(cluster.url, { pool_mode: 'transaction', default_pool_size: '4' })
//     const db = connect(bouncer.url)
//     await bouncer.admin('pause')
//     await bouncer.close()
//
// Debian's package installs it as /usr/sbin/pgbouncer. Tests are skipped where there is none (`noPgBouncer`).

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { giveTo } from './postgres/account.ts'
import { freePort } from './postgres/free-port.ts'
import { Premises } from './postgres/premises.ts'
import { signal } from './postgres/processes.ts'
import { ask, tail } from './postgres/server.ts'

const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
const program = folders.map((folder) => join(folder, 'pgbouncer')).find((path) => existsSync(path))

export const noPgBouncer = program === undefined
/** Why tests are skipped, for their titles. */
export const pgBouncerNeeded = '(pgbouncer is installed)'

/** Lines of its [pgbouncer] section. Times are seconds. */
export type PgBouncerSettings = Readonly<Record<string, string | number>>

const defaults: PgBouncerSettings = {
  listen_addr: '127.0.0.1',
  unix_socket_dir: '',
  auth_type: 'trust',
  // What it learns of a server that went away or came back is to be known at once.
  server_login_retry: 1,
  server_check_delay: 0,
}

const readyWithinMs = 10_000

/** One on a port of its own, which serves every database of the server. */
export async function startPgBouncer(serverUrl: string, settings: PgBouncerSettings): Promise<PgBouncer> {
  if (program === undefined) throw new Error('there is no pgbouncer on this machine')
  const bouncer = new PgBouncer(program, serverUrl, await freePort(), settings)
  try {
    await bouncer.start()
    return bouncer
  } catch (error) {
    await bouncer.close()
    throw error
  }
}

export class PgBouncer implements AsyncDisposable {
  /** The server's, with its own port. */
  readonly url: string
  readonly port: number
  readonly #program: string
  readonly #premises = new Premises()
  readonly #ini: string
  readonly #log: string
  readonly #user: string
  #process: ChildProcess | undefined

  constructor(found: string, serverUrl: string, port: number, settings: PgBouncerSettings) {
    this.#program = found
    this.port = port
    const url = new URL(serverUrl)
    const { hostname, password, username } = url
    this.#user = decodeURIComponent(username)
    const folder = join(this.#premises.folder, 'pgbouncer')
    mkdirSync(folder)
    this.#ini = join(folder, 'pgbouncer.ini')
    this.#log = join(folder, 'pgbouncer.log')
    writeFileSync(join(folder, 'users'), `"${this.#user}" "${decodeURIComponent(password)}"\n`)
    const section = {
      ...defaults,
      listen_port: port,
      auth_file: join(folder, 'users'),
      admin_users: this.#user,
      // The name by which the guard of the premises finds who is to end, should the tests end without ending it.
      pidfile: join(folder, 'postmaster.pid'),
      ...settings,
    }
    const lines = Object.entries(section).map(([name, value]) => `${name} = ${value}\n`)
    const target = `host=${hostname} port=${url.port || 5432} user=${this.#user}`
    const secret = password === '' ? '' : ` password=${decodeURIComponent(password)}`
    writeFileSync(this.#ini, `[databases]\n* = ${target}${secret}\n[pgbouncer]\n${lines.join('')}`)
    giveTo(this.#premises.account, this.#premises.folder)
    url.hostname = '127.0.0.1'
    url.port = String(port)
    this.url = url.href
  }

  /** Settles when it answers. */
  async start(): Promise<void> {
    // PgBouncer refuses to run as root; the premises give it a plain account where the tests do.
    const started = this.#premises.spawn(this.#program, ['-q', this.#ini], this.#log)
    this.#process = started
    started.once('exit', () => {
      if (this.#process === started) this.#process = undefined
    })
    started.unref()
    const until = performance.now() + readyWithinMs
    for (;;) {
      const refusal = await this.admin('show version').then(
        () => undefined,
        (error: unknown) => error,
      )
      if (refusal === undefined) return
      if (this.#process !== started || performance.now() > until) {
        throw new Error(`pgbouncer does not answer; its log ends with:\n${tail(this.#log)}`, { cause: refusal })
      }
      await sleep(5)
    }
  }

  /** One command on its console: `pause`, `resume`, `reconnect`, `show pools`. Settles when it has been carried out. */
  async admin<R = Record<string, unknown>>(command: string): Promise<R[]> {
    const console = new URL(this.url)
    console.pathname = '/pgbouncer'
    return ask<R>(console.href, command)
  }

  /** SIGKILL: its clients and its servers' connections are cut. Settles when it is gone. */
  async kill9(): Promise<void> {
    await this.#end('SIGKILL')
  }

  /** Ends it as `systemctl stop` does, at once, whatever its clients do. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM')
  }

  /** Ends it and removes all that it has left. */
  async close(): Promise<void> {
    await this.#end('SIGKILL')
    this.#premises.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #end(how: NodeJS.Signals): Promise<void> {
    const ending = this.#process
    if (ending?.pid === undefined) return
    ending.ref()
    const gone = once(ending, 'exit')
    signal(ending.pid, how)
    await gone
  }
}

/** A client of pg's own, as whoever does without this library would use one. */
export async function stockClient(url: string): Promise<Client> {
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  return client
}
