// A Session over pg's own Client.query: one statement at a time, in the order they were handed in. It is the
// safe base, the oracle for any faster wire, and what tools that patch Client.query can see through.
// What pg leaves open is closed here: an error settles only after ReadyForQuery, a value that cannot be
// serialized never reaches the socket, a named statement that the server lost is prepared anew, and the
// connection has an 'error' listener for its whole life.

import { LRUCache } from 'lru-cache'
import { Query } from 'pg'
import { prepareValue } from 'pg/lib/utils.js'
import { SmartPgError } from '../core/errors.ts'
import type { Clock, Portal, Row, Rows, Session, Statement, TransactionStatus } from '../core/types.ts'
import { sendCancel } from './cancel.ts'
import { PgPortal } from './cursor.ts'
import { Outgoing } from './outgoing.ts'
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

/** One thing at a time on the wire: it starts when the one before has ended with ReadyForQuery. */
interface Exchange {
  /** Of the session's own doing: nobody waits for it. */
  readonly housekeeping: boolean
  start(): void
  /** ReadyForQuery has come. */
  ready(): void
  /** The connection is gone. */
  fail(reason: Error): void
}

export class PgSession implements Session {
  readonly pid: number
  status: TransactionStatus = 'idle'
  lost: Error | null = null

  readonly client: PgClient
  readonly options: PgSessionOptions
  readonly #queue: Exchange[] = []
  /** Names the server holds for us. One that is pushed out waits in `#doomed` until it can be deallocated. */
  readonly #prepared: LRUCache<string, true>
  readonly #doomed = new Set<string>()
  readonly #lostListeners: ((reason: Error) => void)[] = []
  readonly #outgoing: Outgoing
  #inFlight: Exchange | null = null
  /** Raised when the server holds a statement under our name that must not be used again. */
  #generation = 0
  #closing = false

  /** Takes over an authenticated client. */
  constructor(client: PgClient, options: PgSessionOptions) {
    this.client = client
    this.options = options
    this.pid = client.processID
    this.#outgoing = new Outgoing(client.connection)
    this.#prepared = new LRUCache({
      max: options.cacheSize,
      dispose: (_, name, reason) => {
        if (reason === 'evict') this.#doomed.add(name)
      },
    })
    client.connection.on('readyForQuery', () => this.#readyForQuery())
    client.connection.on('end', () => this.#end(connectionLost(options.node)))
    client.on('error', (error) => this.#end(error))
  }

  get raw(): PgClient {
    return this.client
  }

  get unanswered(): number {
    return (this.#inFlight === null || this.#inFlight.housekeeping ? 0 : 1) + this.#queue.length
  }

  send(statement: Statement): Promise<Rows> {
    let values: unknown[]
    try {
      values = serialize(statement.parameters, this.options.node)
    } catch (error) {
      return Promise.reject(error)
    }
    return new Promise((resolve, reject) => {
      this.#enqueue(new QueryExchange(this, statement, values, resolve, reject))
    })
  }

  openPortal(statement: Statement): Portal {
    const values = serialize(statement.parameters, this.options.node)
    return new PgPortal(statement.sql, values, (step) => {
      this.#enqueue(new PortalExchange(this, step))
      return step.done
    })
  }

  cancel(timeoutMs: number): Promise<void> {
    return sendCancel(this.client, this.options.clock, timeoutMs)
  }

  ref(): void {
    this.client.connection.stream.ref?.()
  }

  unref(): void {
    this.client.connection.stream.unref?.()
  }

  forgetStatements(): void {
    for (const name of this.#prepared.keys()) this.forget(name)
    for (const name of this.#doomed) this.forget(name)
    this.#prepared.clear()
    this.#doomed.clear()
  }

  close(graceMs: number): Promise<void> {
    if (this.lost !== null) return Promise.resolve()
    this.#closing = true
    this.ref()
    return new Promise((resolve) => {
      const { clock } = this.options
      const grace = clock.setTimeout(() => this.client.connection.stream.destroy(), graceMs, 'awaited')
      this.onLost(() => {
        clock.clearTimeout(grace)
        resolve()
      })
      void this.client.end().catch(() => this.client.connection.stream.destroy())
    })
  }

  destroy(reason: Error): void {
    this.#closing = true
    this.client.connection.stream.destroy()
    this.#end(reason)
  }

  onLost(listener: (reason: Error) => void): void {
    if (this.lost !== null) listener(this.lost)
    else this.#lostListeners.push(listener)
  }

  onNotification(listener: (channel: string, payload: string) => void): void {
    this.client.on('notification', (message) => listener(message.channel, message.payload ?? ''))
  }

  /** Hands a query to pg, whose messages for it then leave as one write instead of five. */
  submit(query: Query): void {
    this.#outgoing.gather()
    this.client.query(query)
    this.#outgoing.flush()
  }

  /** The name on this connection; it counts as used now. */
  use(name: string): string {
    const own = this.#generation === 0 ? name : `${name}_${this.#generation.toString(36)}`
    if (this.#doomed.size > 0) this.#doomed.delete(own)
    if (this.#prepared.get(own) === undefined) this.#prepared.set(own, true)
    return own
  }

  /** pg shall parse this name again. */
  forget(name: string): void {
    delete this.client.connection.parsedStatements[name]
  }

  /** Takes a failed named statement's name out of the way; true when it may run once more, now. */
  heal(error: Error, name: string, sql: string): boolean {
    const code = 'code' in error ? error.code : undefined
    if (code === '0A000' && (error as { routine?: string }).routine === 'RevalidateCachedQuery') {
      // The row type changed under a prepared statement: every name of this connection may be next.
      this.#generation++
      this.#prepared.delete(name)
      this.#doomed.add(name)
    } else if (code === '26000' || code === '42P05') {
      if (code === '26000') this.forget(name)
      else this.client.connection.parsedStatements[name] = sql
      this.options.onStatementsUnreliable()
    } else {
      return false
    }
    return this.status === 'idle' && this.lost === null
  }

  #enqueue(exchange: Exchange): void {
    if (this.lost !== null || this.#closing) exchange.fail(notSent(this.options.node, this.lost))
    else if (this.#inFlight !== null) this.#queue.push(exchange)
    else this.begin(exchange)
  }

  /** Puts an exchange on the wire; for one that is to run again, in its own place. */
  begin(exchange: Exchange): void {
    this.#inFlight = exchange
    exchange.start()
  }

  #readyForQuery(): void {
    this.status = STATUS[this.client.getTransactionStatus() ?? 'I']
    const settled = this.#inFlight
    this.#inFlight = null
    settled?.ready()
    // It may have begun again.
    if (this.#inFlight !== null || this.lost !== null) return
    const next = this.#nextDeallocation() ?? this.#queue.shift()
    if (next !== undefined) this.begin(next)
  }

  #nextDeallocation(): Exchange | undefined {
    if (this.status !== 'idle') return undefined
    for (const name of this.#doomed) {
      this.#doomed.delete(name)
      return new Deallocation(this, name)
    }
    return undefined
  }

  #end(reason: Error): void {
    if (this.lost !== null) return
    this.lost = reason
    const inFlight = this.#inFlight
    this.#inFlight = null
    inFlight?.fail(reason)
    for (const waiting of this.#queue.splice(0)) waiting.fail(notSent(this.options.node, reason))
    for (const listener of this.#lostListeners.splice(0)) listener(reason)
  }
}

/** A statement and its answer. */
class QueryExchange implements Exchange {
  readonly housekeeping = false
  readonly #session: PgSession
  readonly #statement: Statement
  readonly #values: unknown[]
  readonly #resolve: (rows: Rows) => void
  readonly #reject: (error: Error) => void
  #name: string | undefined
  #failure: Error | null = null
  #rows: Rows | null = null
  #healed = false

  constructor(
    session: PgSession,
    statement: Statement,
    values: unknown[],
    resolve: (rows: Rows) => void,
    reject: (error: Error) => void,
  ) {
    this.#session = session
    this.#statement = statement
    this.#values = values
    this.#resolve = resolve
    this.#reject = reject
  }

  start(): void {
    const { sql: text, name } = this.#statement
    const values = this.#values
    this.#name = name === undefined ? undefined : this.#session.use(name)
    // A Query instead of a config, which pg would clone property by property.
    const query = new Query(text, values as never, (error: Error | null | undefined, result: unknown) => {
      if (error) this.#failure ??= error
      else this.#rows ??= rowsOf(result as PgResult | PgResult[])
    }) as Query & { name?: string }
    if (this.#name !== undefined) query.name = this.#name
    this.#session.submit(query)
  }

  ready(): void {
    const failure = this.#failure
    if (failure === null) {
      this.#resolve(this.#rows ?? NO_ROWS)
    } else if (
      this.#name !== undefined &&
      !this.#healed &&
      this.#session.heal(failure, this.#name, this.#statement.sql)
    ) {
      this.#healed = true
      this.#failure = null
      this.#session.begin(this)
    } else {
      this.#reject(failure)
    }
  }

  fail(reason: Error): void {
    const { node } = this.#session.options
    const failure = this.#failure ?? reason
    // pg raises some failures without a code when the socket is gone; those get a typed error.
    this.#reject(CODELESS.has(failure.message) && !('code' in failure) ? connectionLost(node, failure) : failure)
  }
}

/** One step of a portal. */
class PortalExchange implements Exchange {
  readonly housekeeping = false
  readonly #session: PgSession
  readonly #step: PortalStep

  constructor(session: PgSession, step: PortalStep) {
    this.#session = session
    this.#step = step
  }

  start(): void {
    this.#session.client.query(this.#step as never)
  }

  ready(): void {
    this.#step.ready()
  }

  fail(reason: Error): void {
    this.#step.fail(reason)
  }
}

/** A name the server need not keep; that it is gone already is no failure of anybody's. */
class Deallocation implements Exchange {
  readonly housekeeping = true
  readonly #session: PgSession
  readonly #name: string

  constructor(session: PgSession, name: string) {
    this.#session = session
    this.#name = name
  }

  start(): void {
    this.#session.forget(this.#name)
    this.#session.client.query(`deallocate "${this.#name}"`, () => undefined)
  }

  ready(): void {}
  fail(): void {}
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
  const values: unknown[] = []
  for (let i = 0; i < parameters.length; i++) {
    try {
      values.push(prepareValue(parameters[i]))
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
