// Connections on which a statement waits and nothing is heard. A slow statement and a connection that the network has
// lost look the same from here, and the deadline that would tell them apart may be half a minute away. So the server is
// asked, on a connection beside the pool's: what it knows to be idle, or does not know at all, has not got our bytes,
// or we shall not get its own. Asked twice, because an answer may just be on its way.

import { SmartPgError } from '../core/errors.ts'
import { endOrphan, whatTheyDo } from '../core/statements.ts'
import type { Clock, OpenSession, Session, Timer } from '../core/types.ts'
import { within } from './clock.ts'
import type { PooledSession } from './pooled-session.ts'

/** What the pool is told and asked. */
export interface SilenceHost {
  readonly node: string
  readonly clock: Clock
  /** A connection was lost without a word: others of this host may be, too. */
  silent(): void
}

/** Nothing heard for so long is worth a question. */
const QUIET_MS = 500
/** From the first answer that makes a connection doubtful to the second question. */
const AGAIN_MS = 250
/** Connecting and asking: each. */
const ASK_MS = 1_000
/** The connection for asking is closed when it was not needed for so long. */
const KEPT_MS = 30_000

/** By pid; `state` is null's text where the server keeps it to itself. */
type Backends = ReadonlyMap<number, { readonly state: string; readonly born: string }>

export class Silence {
  readonly #host: SilenceHost
  readonly #open: OpenSession
  #session: Session | null = null
  #asking = false
  #keptTimer: Timer = null
  #stopped = false

  constructor(host: SilenceHost, open: OpenSession) {
    this.#host = host
    this.#open = open
  }

  /** Looks at connections in use; to be called a few times a second. */
  look(used: Iterable<PooledSession>): void {
    const now = this.#host.clock.now()
    const doubtful: PooledSession[] = []
    for (const pooled of used) {
      const { session, quiet } = pooled
      if (session.unanswered === 0 || session.lost !== null) pooled.quiet = null
      else if (quiet === null || quiet.bytes !== session.bytesRead) {
        pooled.quiet = { bytes: session.bytesRead, since: now, askAt: now + QUIET_MS, doubted: false }
      } else if (now >= quiet.askAt) doubtful.push(pooled)
    }
    if (doubtful.length > 0 && !this.#asking) void this.#ask(doubtful)
  }

  stop(): void {
    this.#stopped = true
    this.#letGo()
  }

  async #ask(doubtful: readonly PooledSession[]): Promise<void> {
    const { clock } = this.#host
    this.#asking = true
    try {
      const backends = await this.#backends(doubtful)
      const now = clock.now()
      for (const pooled of doubtful) this.#judge(pooled, backends, now)
    } catch {
      // Whoever cannot be asked about others is heard of by his own connections.
      const now = clock.now()
      for (const { quiet } of doubtful) if (quiet !== null) quiet.askAt = now + ASK_MS
    } finally {
      this.#asking = false
    }
    const again = doubtful.filter(({ quiet }) => quiet?.doubted === true)
    if (again.length > 0) clock.setTimeout(() => this.look(again), AGAIN_MS)
  }

  #judge(pooled: PooledSession, backends: Backends | null, now: number): void {
    const { quiet, session } = pooled
    // Heard of meanwhile.
    if (quiet === null || session.lost !== null || quiet.bytes !== session.bytesRead) return
    const backend = backends?.get(session.pid)
    if (backends === null || (backend !== undefined && !backend.state.startsWith('idle'))) {
      quiet.doubted = false
      quiet.askAt = now + 2 * (now - quiet.since)
    } else if (!quiet.doubted) {
      // Idle, in a transaction or not; or there is no such backend.
      quiet.doubted = true
      quiet.askAt = now + AGAIN_MS
    } else {
      const message = `Node '${this.#host.node}' has not answered, and says that nothing runs on this connection.`
      session.destroy(new SmartPgError('SMARTPG_CONNECTION_LOST', message, { node: this.#host.node, phase: 'execute' }))
      this.#host.silent()
      // Its server does not know that we are gone, and keeps its locks for a transaction that nobody can end.
      if (backend !== undefined) this.#session?.send(endOrphan(session.pid, backend.born)).catch(() => undefined)
    }
  }

  /** What each backend does now; null when the server does not say. */
  async #backends(doubtful: readonly PooledSession[]): Promise<Backends | null> {
    const { clock } = this.#host
    const session = await this.#opened()
    const pids = doubtful.map(({ session: { pid } }) => pid)
    try {
      const { rows } = await within(clock, ASK_MS, session.send(whatTheyDo(pids)), noAnswer)
      const backends: Backends = new Map(
        rows.map(({ pid, state, born }) => [Number(pid), { state: String(state), born: String(born) }]),
      )
      // Whoever does not see himself does not see others either.
      return backends.has(session.pid) ? backends : null
    } catch (error) {
      session.destroy(error as Error)
      throw error
    }
  }

  async #opened(): Promise<Session> {
    const { clock } = this.#host
    clock.clearTimeout(this.#keptTimer)
    this.#keptTimer = clock.setTimeout(() => this.#letGo(), KEPT_MS)
    if (this.#session !== null && this.#session.lost === null) return this.#session
    const session = await this.#open({ timeoutMs: ASK_MS })
    if (this.#stopped) {
      session.destroy(new Error('the pool was closed'))
      throw session.lost!
    }
    session.unref()
    return (this.#session = session)
  }

  #letGo(): void {
    this.#host.clock.clearTimeout(this.#keptTimer)
    this.#session?.destroy(new Error('no longer needed'))
    this.#session = null
  }
}

function noAnswer(): Error {
  return new Error(`no answer within ${ASK_MS} ms`)
}
