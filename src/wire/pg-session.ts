// A Session over pg's own Client.query: one statement at a time, in the order they were handed in. It is the
// safe base, the oracle for any faster wire, and what tools that patch Client.query can see through.
// What pg leaves open is closed here: an error settles only after ReadyForQuery, a value that cannot be
// serialized never reaches the socket, a named statement that the server lost is prepared anew, and the
// connection has an 'error' listener for its whole life.

import { LRUCache } from 'lru-cache'
import { prepareValue } from 'pg/lib/utils.js'
import { SmartPgError } from '../core/errors.ts'
import type { Clock, Portal, Row, Rows, Session, Statement, TransactionStatus } from '../core/types.ts'
import { sendCancel } from './cancel.ts'
import { PgPortal } from './cursor.ts'
import type { PortalStep } from './cursor.ts'
import type { PgClient } from './pg-client.ts'

export interface PgSessionOptions {
  readonly node: string
  readonly clock: Clock
  /** Named statements kept on the server for this connection. */
  readonly cacheSize: number
  /** The server had lost, or already had, a statement of ours: something between us reuses its connections. */
  readonly onStatementsUnreliable: () => void
}

/** PostgreSQL counts parameters in 16 bits. */
const MAX_PARAMETERS = 65_535

interface Waiting {
  start(): void
  fail(error: Error): void
}

export class PgSession implements Session {
  readonly pid: number
  status: TransactionStatus = 'idle'
  lost: Error | null = null

  readonly #client: PgClient
  readonly #options: PgSessionOptions
  readonly #queue: Waiting[] = []
  readonly #prepared: LRUCache<string, true>
  readonly #doomed: string[] = []
  readonly #lostListeners: ((reason: Error) => void)[] = []
  /** What is on the wire now; called at ReadyForQuery, or with the reason when the connection is gone. */
  #inFlight: { ready(): void; fail(error: Error): void } | null = null
  /** Raised when the server holds a statement under our name that must not be used again. */
  #generation = 0
  #closing = false

  /** Takes over an authenticated client. */
  constructor(client: PgClient, options: PgSessionOptions) {
    this.#client = client
    this.#options = options
    this.pid = client.processID
    this.#prepared = new LRUCache({
      max: options.cacheSize,
      dispose: (_, name, reason) => {
        if (reason === 'evict') this.#doom(name)
      },
    })
    client.connection.on('readyForQuery', () => this.#readyForQuery())
    client.connection.on('end', () => this.#end(connectionLost(options.node)))
    client.on('error', (error) => this.#end(error))
  }

  get raw(): PgClient {
    return this.#client
  }

  get unanswered(): number {
    return (this.#inFlight === null ? 0 : 1) + this.#queue.length
  }

  send(statement: Statement): Promise<Rows> {
    let values: unknown[]
    try {
      values = serialize(statement.parameters, this.#options.node)
    } catch (error) {
      return Promise.reject(error)
    }
    const name = statement.name === undefined ? undefined : this.#serverName(statement.name)
    if (name === undefined) return this.#run(statement.sql, values, undefined)
    if (this.#doomed.length > 0 && this.status === 'idle') this.#deallocateDoomed()
    this.#prepared.set(name, true)
    return this.#run(statement.sql, values, name).catch((error: unknown) =>
      this.#healed(error, statement, values, name),
    )
  }

  openPortal(statement: Statement): Portal {
    const values = serialize(statement.parameters, this.#options.node)
    return new PgPortal(statement.sql, values, (step) => this.#submit(step))
  }

  cancel(timeoutMs: number): Promise<void> {
    return sendCancel(this.#client, this.#options.clock, timeoutMs)
  }

  forgetStatements(): void {
    for (const name of this.#prepared.keys()) this.#forget(name)
    this.#prepared.clear()
    this.#doomed.length = 0
  }

  close(graceMs: number): Promise<void> {
    if (this.lost !== null) return Promise.resolve()
    this.#closing = true
    return new Promise((resolve) => {
      const { clock } = this.#options
      const grace = clock.setTimeout(() => this.#client.connection.stream.destroy(), graceMs)
      this.onLost(() => {
        clock.clearTimeout(grace)
        resolve()
      })
      void this.#client.end().catch(() => this.#client.connection.stream.destroy())
    })
  }

  destroy(reason: Error): void {
    this.#closing = true
    this.#client.connection.stream.destroy()
    this.#end(reason)
  }

  onLost(listener: (reason: Error) => void): void {
    if (this.lost !== null) listener(this.lost)
    else this.#lostListeners.push(listener)
  }

  onNotification(listener: (channel: string, payload: string) => void): void {
    this.#client.on('notification', (message) => listener(message.channel, message.payload ?? ''))
  }

  #run(text: string, values: unknown[], name: string | undefined): Promise<Rows> {
    return new Promise((resolve, reject) => {
      this.#enqueue({
        fail: reject,
        start: () => {
          let failure: Error | null = null
          let rows: Rows | null = null
          this.#inFlight = {
            ready: () => (failure === null ? resolve(rows ?? NO_ROWS) : reject(failure)),
            fail: (reason) => reject(failure ?? reason),
          }
          const config = name === undefined ? { text, values } : { text, values, name }
          this.#client.query(config, (error: Error | null, result: PgResult | PgResult[]) => {
            if (error) failure ??= this.#isOurs(error) ? error : connectionLost(this.#options.node, error)
            else rows ??= rowsOf(result)
          })
        },
      })
    })
  }

  /** pg raises some failures without a code when the socket is gone; those get a typed error. */
  #isOurs(error: Error): boolean {
    return !CODELESS.has(error.message) || 'code' in error
  }

  #submit(step: PortalStep): Promise<Row[]> {
    this.#enqueue({
      fail: (error) => step.fail(error),
      start: () => {
        this.#inFlight = { ready: () => step.ready(), fail: (reason) => step.fail(reason) }
        this.#client.query(step as never)
      },
    })
    return step.done
  }

  #enqueue(waiting: Waiting): void {
    if (this.lost !== null || this.#closing) waiting.fail(notSent(this.#options.node, this.lost))
    else if (this.#inFlight === null) waiting.start()
    else this.#queue.push(waiting)
  }

  #readyForQuery(): void {
    this.status = STATUS[this.#client.getTransactionStatus() ?? 'I']
    const settled = this.#inFlight
    this.#inFlight = null
    this.#queue.shift()?.start()
    settled?.ready()
  }

  #end(reason: Error): void {
    if (this.lost !== null) return
    this.lost = reason
    const inFlight = this.#inFlight
    this.#inFlight = null
    inFlight?.fail(reason)
    for (const waiting of this.#queue.splice(0)) waiting.fail(notSent(this.#options.node, reason))
    for (const listener of this.#lostListeners.splice(0)) listener(reason)
  }

  /** A named statement that the server cannot run any more, or holds already: forget it, and once more. */
  #healed(error: unknown, statement: Statement, values: unknown[], name: string): Promise<Rows> {
    const code = codeOf(error)
    const stale = code === '0A000' && (error as { routine?: string }).routine === 'RevalidateCachedQuery'
    if (code === '26000') this.#forget(name)
    else if (code === '42P05') this.#client.connection.parsedStatements[name] = statement.sql
    else if (stale) this.#retire(name)
    else throw error
    if (!stale) this.#options.onStatementsUnreliable()
    if (this.status !== 'idle' || this.lost !== null) throw error
    return this.#run(statement.sql, values, stale ? this.#serverName(statement.name!) : name)
  }

  #serverName(name: string): string {
    return this.#generation === 0 ? name : `${name}_${this.#generation.toString(36)}`
  }

  /** The row type changed under a prepared statement: every name of this connection may be next. */
  #retire(name: string): void {
    this.#generation++
    this.#doom(name)
    this.#prepared.delete(name)
  }

  #doom(name: string): void {
    this.#forget(name)
    this.#doomed.push(name)
  }

  #forget(name: string): void {
    delete this.#client.connection.parsedStatements[name]
  }

  #deallocateDoomed(): void {
    for (const name of this.#doomed.splice(0)) {
      // A name that is gone already is no failure of anybody's query.
      this.#run(`deallocate "${name}"`, [], undefined).catch(() => undefined)
    }
  }
}

interface PgResult {
  command: string | null
  rowCount: number | null
  rows: Row[]
}

const NO_ROWS: Rows = { rows: [], command: null, count: null }
const STATUS = { I: 'idle', T: 'open', E: 'failed' } as const

/** pg's messages for a client that is gone; they carry no code. */
const CODELESS = new Set([
  'Connection terminated',
  'Connection terminated unexpectedly',
  'Client was closed and is not queryable',
  'Client has encountered a connection error and is not queryable',
])

function rowsOf(result: PgResult | PgResult[]): Rows {
  if (!Array.isArray(result)) return { rows: result.rows, command: result.command, count: result.rowCount }
  return { rows: [], command: result.at(-1)?.command ?? null, count: null }
}

function serialize(parameters: readonly unknown[], node: string): unknown[] {
  if (parameters.length > MAX_PARAMETERS) {
    throw new SmartPgError(
      'SMARTPG_INVALID_QUERY',
      `The query has ${parameters.length} parameters; PostgreSQL takes at most ${MAX_PARAMETERS}.`,
      { node, phase: 'send', hint: 'Split the statement, or pass one array and use unnest() or = any($1).' },
    )
  }
  const values = Array.from<unknown>({ length: parameters.length })
  for (let i = 0; i < values.length; i++) {
    try {
      values[i] = prepareValue(parameters[i])
    } catch (cause) {
      throw new SmartPgError(
        'SMARTPG_INVALID_QUERY',
        `Parameter $${i + 1} cannot be serialized: its conversion threw.`,
        {
          node,
          phase: 'send',
          hint: 'Nothing was sent. What the conversion threw stands in `cause`.',
          cause,
        },
      )
    }
  }
  return values
}

function codeOf(error: unknown): unknown {
  return typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
}

/** `phase: 'send'` says that not a byte of the statement has left. */
function notSent(node: string, cause: unknown): SmartPgError {
  return new SmartPgError('SMARTPG_CONNECTION_LOST', `The connection to node '${node}' is gone; nothing was sent.`, {
    node,
    phase: 'send',
    retryable: true,
    cause,
  })
}

function connectionLost(node: string, cause?: unknown): SmartPgError {
  return new SmartPgError('SMARTPG_CONNECTION_LOST', `The connection to node '${node}' was lost.`, {
    node,
    phase: 'execute',
    cause,
  })
}
