// Connections on which a statement waits and nothing is heard. A slow statement and a connection that the network has
// lost look the same from here, and the deadline that would tell them apart may be half a minute away. So the server is
// asked, on a connection beside the pool's: what it knows to be idle, or does not know at all, has not got our bytes,
// or we shall not get its own. Asked twice, because an answer may just be on its way.

import { SmartPgError } from '../core/errors.ts'
import { endOrphan, whatTheyDo } from '../core/statements.ts'
import type { Clock, OpenSession, Session, Timer } from '../core/types.ts'
import { within } from './clock.ts'
import type { PooledSession, Quiet } from './pooled-session.ts'

/** What the pool is told and asked. */
export interface SilenceHost {
  readonly node: string
  readonly clock: Clock
  /** Which server a connection is with; undefined: nobody knows. */
  serverOf(session: Session): string | undefined
  /** A connection was lost without a word: others of this host may be, too. */
  silent(): void
}

/** Nothing heard for so long is worth a question; a little less than from one look to the next, which is never exact. */
const QUIET_MS = 450
/** A server calls a backend idle until it has read the whole of a message: so many bytes a millisecond arrive at least. */
const SLOWEST_BYTES_PER_MS = 16
/** From the first answer that makes a connection doubtful to the second question. */
const AGAIN_MS = 250
/** Connecting and asking: each. */
const ASK_MS = 1_000
/** Asking on a connection that was kept: nothing is quicker to answer. */
const KEPT_ASK_MS = 300
/** The connection for asking is closed when it was not needed for so long. */
const KEPT_MS = 30_000

/** One connection, and since when it is silent. */
interface Doubtful {
  readonly pooled: PooledSession
  readonly quiet: Quiet
}

/** By pid; `state` is null's text where the server keeps it to itself. */
interface Answer {
  readonly server: string
  readonly backends: ReadonlyMap<number, { readonly state: string; readonly born: string }>
}

export class Silence {
  readonly #host: SilenceHost
  readonly #open: OpenSession
  readonly #stopping = new AbortController()
  #session: Session | null = null
  #asking = false
  #keptTimer: Timer = null
  #againTimer: Timer = null

  constructor(host: SilenceHost, open: OpenSession) {
    this.#host = host
    this.#open = open
  }

  /** Looks at connections in use; to be called a few times a second. */
  look(used: Iterable<PooledSession>): void {
    const now = this.#host.clock.now()
    const doubtful: Doubtful[] = []
    for (const pooled of used) {
      const { session, quiet } = pooled
      if (session.unanswered === 0 || session.lost !== null) pooled.quiet = null
      else if (quiet === null || quiet.bytes !== session.bytesRead) {
        const askAt = now + QUIET_MS + session.bytesUnanswered / SLOWEST_BYTES_PER_MS
        pooled.quiet = { bytes: session.bytesRead, since: now, askAt, doubted: false }
      } else if (now >= quiet.askAt) doubtful.push({ pooled, quiet })
    }
    if (doubtful.length > 0 && !this.#asking && !this.#stopping.signal.aborted) void this.#ask(doubtful)
  }

  stop(): void {
    this.#stopping.abort(new Error('the pool was closed'))
    this.#host.clock.clearTimeout(this.#againTimer)
    this.#letGo()
  }

  async #ask(all: readonly Doubtful[]): Promise<void> {
    const { clock } = this.#host
    this.#asking = true
    // What lies in the sockets of a process that was busy is read before anybody is asked, and before anybody is judged.
    await this.#turn()
    const doubtful = all.filter(isSilent)
    try {
      if (doubtful.length === 0) return
      const answer = await this.#answer(doubtful.map(({ pooled }) => pooled.session.pid))
      await this.#turn()
      const now = clock.now()
      for (const one of doubtful) if (isSilent(one)) this.#judge(one, answer, now)
    } catch {
      // Whoever cannot be asked about others is heard of by his own connections.
      const now = clock.now()
      for (const { quiet } of doubtful) quiet.askAt = later(quiet, now)
    } finally {
      this.#asking = false
    }
    const again = doubtful.filter(({ quiet }) => quiet.doubted).map(({ pooled }) => pooled)
    if (again.length === 0 || this.#stopping.signal.aborted) return
    clock.clearTimeout(this.#againTimer)
    this.#againTimer = clock.setTimeout(() => this.look(again), AGAIN_MS)
  }

  #judge({ pooled: { session }, quiet }: Doubtful, answer: Answer | null, now: number): void {
    const backend = answer?.backends.get(session.pid)
    // Behind one address there may be several servers, and another one's backend may have the same number.
    const known = answer !== null && answer.server === this.#host.serverOf(session)
    if (!known || (backend !== undefined && !backend.state.startsWith('idle'))) {
      quiet.doubted = false
      quiet.askAt = later(quiet, now)
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
  async #answer(pids: readonly number[]): Promise<Answer | null> {
    const { clock } = this.#host
    const kept = this.#session?.lost === null
    const session = await this.#opened()
    try {
      const { rows } = await within(clock, kept ? KEPT_ASK_MS : ASK_MS, session.send(whatTheyDo(pids)), noAnswer)
      const backends = new Map(
        rows.map(({ pid, state, born }) => [Number(pid), { state: String(state), born: String(born) }]),
      )
      // Whoever does not see himself does not see others either.
      return backends.has(session.pid) ? { server: String(rows[0]!['server']), backends } : null
    } catch (error) {
      session.destroy(error as Error)
      // It may be as lost as those that it is asked about.
      if (kept && !this.#stopping.signal.aborted) return this.#answer(pids)
      throw error
    }
  }

  async #opened(): Promise<Session> {
    const { clock } = this.#host
    clock.clearTimeout(this.#keptTimer)
    if (this.#session === null || this.#session.lost !== null) {
      const { signal } = this.#stopping
      const session = await this.#open({ timeoutMs: ASK_MS, signal })
      if (signal.aborted) session.destroy(signal.reason as Error)
      signal.throwIfAborted()
      session.unref()
      this.#session = session
    }
    this.#keptTimer = clock.setTimeout(() => this.#letGo(), KEPT_MS)
    return this.#session
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#host.clock.nextTurn(resolve))
  }

  #letGo(): void {
    this.#host.clock.clearTimeout(this.#keptTimer)
    this.#session?.destroy(new Error('no longer needed'))
    this.#session = null
  }
}

/** Still the same silence. */
function isSilent({ pooled, quiet }: Doubtful): boolean {
  return pooled.quiet === quiet && pooled.session.lost === null && pooled.session.bytesRead === quiet.bytes
}

/** The longer it lasts, the less often it is asked about. */
function later({ since }: Quiet, now: number): number {
  return now + Math.max(ASK_MS, 2 * (now - since))
}

function noAnswer(): Error {
  return new Error('no answer in time')
}
