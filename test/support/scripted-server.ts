// A PostgreSQL server for tests of the engine, in memory: it answers statements as the test scripted, keeps a
// log of everything it was sent, and can refuse connections, fall silent or die. It knows no SQL beyond what
// moves a session's transaction status.

import type {
  Asker,
  Clock,
  OpenSession,
  Portal,
  Row,
  Rows,
  Session,
  Statement,
  Timer,
  TransactionStatus,
} from '../../src/core/types.ts'
import { NotExecutedError, SmartPgError } from '../../src/core/errors.ts'
import { IDENTITY } from '../../src/core/identity.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { POSITION } from '../../src/core/token.ts'

/** What a statement is answered with; `drops` loses the connection instead. */
export type Answer =
  | { readonly rows?: Row[]; readonly command?: string; readonly count?: number | null; readonly delayMs?: number }
  | { readonly error: Error; readonly delayMs?: number }
  | { readonly drops: Error; readonly delayMs?: number }
  | 'never'

export type Handler = (statement: Statement, session: ScriptedSession) => Answer

const OWN_QUESTIONS: ReadonlySet<string> = new Set([IDENTITY.sql, NODE_SQL, POSITION.sql])

/** One statement as it arrived, with the status of its session's transaction before it. */
export interface Received {
  readonly pid: number
  readonly sql: string
  readonly parameters: readonly unknown[]
  readonly name: string | undefined
  readonly status: TransactionStatus
  readonly at: number
}

export class ScriptedServer {
  readonly clock: Clock
  /** Everything that was run, in the order in which the server began it. */
  readonly log: Received[] = []
  /** Every session that was ever opened, the lost ones included. */
  readonly sessions: ScriptedSession[] = []
  /** Connects that were tried, the failed ones included. */
  connects = 0
  connectDelayMs = 0
  /** What pg_stat_activity says of a session, by its pid: null keeps it back, 'gone' knows none. Else what it does. */
  readonly says = new Map<number, string | null>()
  /** Tells it from others behind the same address. */
  startedAt = '1700000000.000001'
  /** What it reports as in_hot_standby, to every session from its beginning; null: it is older than that. */
  #standby: boolean | null = null
  /** Backends that somebody has ended by their pid. */
  readonly ended: number[] = []

  readonly #rules: { readonly matches: (sql: string) => boolean; readonly handler: Handler }[] = []
  #nextFailures: Error[] = []
  #down: Error | null = null

  constructor(clock: Clock) {
    this.clock = clock
  }

  /** Answers statements that match; of several matching rules the last one counts. Text matches anywhere, in any case. */
  on(pattern: string | RegExp, answer: Answer | Handler): this {
    const matches = (sql: string): boolean => {
      if (typeof pattern !== 'string') return pattern.test(sql)
      // The house's own questions name functions like pg_current_wal_insert_lsn.
      if (OWN_QUESTIONS.has(sql) && !pattern.startsWith('pg_')) return sql === pattern
      return sql.toLowerCase().includes(pattern.toLowerCase())
    }
    this.#rules.unshift({ matches, handler: typeof answer === 'function' ? answer : () => answer })
    return this
  }

  /** From now on it says what its backends do, and which server it is. */
  showActivity(): this {
    return this.on('pg_postmaster_start_time', () => ({ rows: [{ server: this.startedAt }] }))
      .on(ACTIVITY, (statement, asking) => ({ rows: this.activity(statement, asking) }))
      .on('pg_terminate_backend', ({ parameters: [pid] }) => {
        this.ended.push(pid as number)
        return {}
      })
  }

  /** What is answered to who asks pg_stat_activity for some backends: of them and of himself. */
  activity({ parameters: [pids] }: Statement, asking: ScriptedSession): Row[] {
    return this.sessions
      .map((one) => ({ one, state: this.says.has(one.pid) ? this.says.get(one.pid)! : one.activity }))
      .filter(({ one, state }) => state !== 'gone' && (one === asking || (pids as number[]).includes(one.pid)))
      .map(({ one: { pid }, state }) => ({ pid: `${pid}`, state, born: `birth of ${pid}`, server: this.startedAt }))
  }

  /** The next connects fail with these, one each; then connecting works again. */
  failConnects(...errors: Error[]): void {
    this.#nextFailures.push(...errors)
  }

  /** Every connect fails from now on, and with `sessions` all open sessions die too. */
  goDown(error: Error, also?: 'sessions'): void {
    this.#down = error
    if (also === 'sessions') this.killAll(error)
  }

  comeUp(): void {
    this.#down = null
  }

  killAll(reason?: Error): void {
    for (const session of this.openSessions) session.kill(reason)
  }

  get openSessions(): ScriptedSession[] {
    return this.sessions.filter((session) => session.lost === null)
  }

  /** The texts received so far; of one session when `pid` is given. */
  statements(pid?: number): string[] {
    return this.log.filter((entry) => pid === undefined || entry.pid === pid).map((entry) => entry.sql)
  }

  notify(channel: string, payload = ''): void {
    for (const session of this.openSessions) session.notify(channel, payload)
  }

  /** From now on it is a standby, or none: every open session is told so, and every new one begins with it. */
  reportStandby(standby: boolean): this {
    this.#standby = standby
    for (const session of this.openSessions) session.report(standby)
    return this
  }

  /** The port that the engine is handed. */
  readonly open: OpenSession = async ({ timeoutMs, signal }) => {
    this.connects++
    const failure = this.#nextFailures.shift()
    signal?.throwIfAborted()
    if (this.connectDelayMs > 0) await this.#connectDelay(timeoutMs, signal)
    if (failure !== undefined) throw failure
    if (this.#down !== null) throw this.#down
    const session = new ScriptedSession(this, 100 + this.sessions.length)
    session.standby = this.#standby
    this.sessions.push(session)
    return session
  }

  answerTo(statement: Statement, session: ScriptedSession): Answer {
    const { sql, parameters, name } = statement
    this.log.push({ pid: session.pid, sql, parameters, name, status: session.status, at: this.clock.now() })
    const rule = this.#rules.find(({ matches }) => matches(sql))
    return rule === undefined ? {} : rule.handler(statement, session)
  }

  #connectDelay(timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = this.connectDelayMs > timeoutMs
      const onAbort = (): void => {
        this.clock.clearTimeout(timer)
        reject(signal!.reason as Error)
      }
      const timer = this.clock.setTimeout(
        () => {
          signal?.removeEventListener('abort', onAbort)
          if (late) reject(connectTimeout(timeoutMs))
          else resolve()
        },
        late ? timeoutMs : this.connectDelayMs,
      )
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }
}

/** The question what certain backends do. */
export const ACTIVITY = 'where pid = any($1'

interface Sent {
  readonly statement: Statement
  readonly asker: Asker
  /** Sent under one Sync with others. */
  readonly group?: Group
}

/** What stands under one Sync: behind the first failure nothing is executed. */
interface Group {
  failure: Error | null
}

/** One connection: runs what it was sent one after the other, as a backend does. */
export class ScriptedSession implements Session {
  readonly pid: number
  readonly raw: unknown = { scripted: true }
  status: TransactionStatus = 'idle'
  lost: Error | null = null
  /** Cancel requests that arrived, and how often the named statements were forgotten. */
  cancels = 0
  forgotten = 0

  readonly #server: ScriptedServer
  readonly #queue: Sent[] = []
  #running: { readonly sent: Sent; readonly timer: Timer } | null = null
  #onIdle: (() => void) | null = null
  #lostListeners: ((reason: Error) => void)[] = []
  readonly #notificationListeners: ((channel: string, payload: string) => void)[] = []
  readonly #readListeners: (() => void)[] = []
  readonly #standbyListeners: ((standby: boolean) => void)[] = []
  readonly pipelines = true
  bytesUnanswered = 0
  /** Grows with each answer. */
  bytesRead = 0
  /** Sent within the call that runs now. */
  unflushed = 0

  constructor(server: ScriptedServer, pid: number) {
    this.#server = server
    this.pid = pid
  }

  get unanswered(): number {
    return this.#queue.length + (this.#running === null ? 0 : 1)
  }

  /** As pg_stat_activity calls it. */
  get activity(): string {
    if (this.lost !== null) return 'gone'
    if (this.#running !== null) return 'active'
    return { idle: 'idle', open: 'idle in transaction', failed: 'idle in transaction (aborted)' }[this.status]
  }

  send(statement: Statement): Promise<Rows> {
    return new Promise((resolve, reject) => this.ask(statement, { resolve, reject }))
  }

  ask(statement: Statement, asker: Asker): void {
    this.#enqueue({ statement, asker })
  }

  sendTogether(statements: readonly Statement[]): Promise<Rows>[] {
    const group: Group = { failure: null }
    return statements.map(
      (statement) => new Promise((resolve, reject) => this.#enqueue({ statement, asker: { resolve, reject }, group })),
    )
  }

  onRead(listener: () => void): void {
    this.#readListeners.push(listener)
  }

  #enqueue(sent: Sent): void {
    if (this.lost !== null) {
      sent.asker.reject(this.lost)
      return
    }
    this.#queue.push(sent)
    this.unflushed++
    // A server never answers within the call that sends.
    queueMicrotask(() => {
      this.unflushed = 0
      this.#runNext()
    })
  }

  openPortal(statement: Statement): Portal {
    let rest: Row[] | null = null
    return {
      read: async (count) => {
        rest ??= [...(await this.send(statement)).rows]
        return rest.splice(0, count)
      },
      close: async () => {
        rest = []
      },
    }
  }

  /** As PostgreSQL does: what runs now fails with 57014, and nothing happens when nothing runs. */
  async cancel(): Promise<void> {
    this.cancels++
    if (this.#running !== null) this.#settle({ error: serverError('57014', 'canceling statement due to user request') })
  }

  standby: boolean | null = null
  onStandby(listener: (standby: boolean) => void): void {
    this.#standbyListeners.push(listener)
  }

  /** The server says whether it is a standby, without having been asked; tells who listens if that is news. */
  report(standby: boolean): void {
    if (this.lost !== null || standby === this.standby) return
    this.standby = standby
    for (const listener of this.#standbyListeners) listener(standby)
  }

  drifted = false
  keepSettings(): void {
    this.drifted = false
  }

  forgetStatements(): void {
    this.forgotten++
  }

  async close(graceMs: number): Promise<void> {
    if (this.lost !== null) return
    if (this.unanswered > 0) {
      await new Promise<void>((resolve) => {
        const timer = this.#server.clock.setTimeout(resolve, graceMs)
        this.#onIdle = () => {
          this.#server.clock.clearTimeout(timer)
          resolve()
        }
      })
    }
    this.kill()
  }

  destroy(reason: Error): void {
    this.kill(reason)
  }

  /** The connection dies: all that is unanswered fails with `reason`, and the listeners hear of it once. */
  kill(reason: Error = connectionLost()): void {
    if (this.lost !== null) return
    this.lost = reason
    const running = this.#running
    this.#running = null
    this.#server.clock.clearTimeout(running?.timer)
    running?.sent.asker.reject(reason)
    for (const { asker } of this.#queue.splice(0)) asker.reject(reason)
    for (const listener of this.#lostListeners.splice(0)) listener(reason)
    this.#onIdle?.()
  }

  /** There is no socket that could keep a process alive. */
  ref(): void {}
  unref(): void {}

  notify(channel: string, payload: string): void {
    for (const listener of this.#notificationListeners) listener(channel, payload)
  }

  onLost(listener: (reason: Error) => void): void {
    if (this.lost !== null) listener(this.lost)
    else this.#lostListeners.push(listener)
  }

  onNotification(listener: (channel: string, payload: string) => void): void {
    this.#notificationListeners.push(listener)
  }

  #runNext(): void {
    if (this.#running !== null || this.lost !== null) return
    const sent = this.#queue.shift()
    if (sent === undefined) {
      this.#onIdle?.()
      return
    }
    const skipped = sent.group?.failure ?? null
    if (skipped !== null) {
      sent.asker.reject(new NotExecutedError('scripted', 'The statement before it failed.', 'execute', skipped))
      this.#runNext()
      return
    }
    const answer = this.#answerTo(sent.statement)
    const delayMs = answer === 'never' ? 0 : (answer.delayMs ?? 0)
    const later = delayMs > 0 ? this.#server.clock.setTimeout(() => this.#settle(answer), delayMs) : null
    this.#running = { sent, timer: later }
    if (later === null) this.#settle(answer)
  }

  #answerTo(statement: Statement): Answer {
    const answer = this.#server.answerTo(statement, this)
    const effect = transactionEffect(statement.sql)
    const heals = effect === 'ends' || effect === 'returns-to-savepoint'
    if (this.status !== 'failed' || heals || answer === 'never' || 'drops' in answer) return answer
    return { error: serverError('25P02', 'current transaction is aborted, commands ignored until end of block') }
  }

  #settle(answer: Answer): void {
    if (answer === 'never') return
    const { sent, timer } = this.#running!
    this.#running = null
    this.bytesRead++
    this.#server.clock.clearTimeout(timer)
    if ('drops' in answer) {
      this.#queue.unshift(sent)
      this.kill(answer.drops)
      return
    }
    if ('error' in answer) {
      if (this.status === 'open') this.status = 'failed'
      if (sent.group !== undefined) sent.group.failure = answer.error
      sent.asker.reject(answer.error)
    } else {
      const rows = answer.rows ?? []
      const command = answer.command ?? commandTag(sent.statement.sql, this.status)
      const count = answer.count === undefined ? rows.length : answer.count
      this.status = statusAfter(sent.statement.sql, this.status)
      sent.asker.resolve({ rows, command, count })
    }
    for (const listener of this.#readListeners) listener()
    this.#runNext()
  }
}

/** An error as PostgreSQL reports it: SQLSTATE in `code`, and a severity. */
export function serverError(code: string, message: string, severity: 'ERROR' | 'FATAL' = 'ERROR'): Error {
  return Object.assign(new Error(message), { name: 'error', code, severity })
}

/** An error as node's sockets report it. */
export function networkError(code: string, message = code): Error {
  return Object.assign(new Error(message), { code, syscall: 'connect' })
}

function connectionLost(): SmartPgError {
  return new SmartPgError('SMARTPG_CONNECTION_LOST', 'The connection was lost.', { phase: 'execute' })
}

function connectTimeout(timeoutMs: number): SmartPgError {
  return new SmartPgError('SMARTPG_CONNECT_FAILED', `No connection within ${timeoutMs} ms.`, {
    phase: 'connect',
    retryable: true,
    cause: networkError('ETIMEDOUT'),
  })
}

type TransactionEffect = 'begins' | 'ends' | 'returns-to-savepoint' | 'none'

function transactionEffect(sql: string): TransactionEffect {
  if (/^\s*(begin|start\s+transaction)\b/i.test(sql)) return 'begins'
  if (/^\s*rollback\s+(work\s+|transaction\s+)?to\b/i.test(sql)) return 'returns-to-savepoint'
  if (/^\s*(commit|end|rollback|abort)\b/i.test(sql)) return 'ends'
  return 'none'
}

function statusAfter(sql: string, status: TransactionStatus): TransactionStatus {
  const effect = transactionEffect(sql)
  if (effect === 'ends') return 'idle'
  if (effect === 'begins') return status === 'idle' ? 'open' : status
  if (effect === 'returns-to-savepoint') return 'open'
  return status
}

/** The first word, as the server tags it; the COMMIT of a failed transaction is answered with ROLLBACK. */
function commandTag(sql: string, status: TransactionStatus): string {
  const verb = /[a-z]+/i.exec(sql)?.[0].toUpperCase() ?? ''
  return verb === 'COMMIT' && status === 'failed' ? 'ROLLBACK' : verb
}
