// A Session over pg's own Client.query: one statement at a time, in the order they were handed in. It is the
// safe base, the oracle for any faster wire, and what tools that patch Client.query can see through.
// What pg leaves open is closed here: an error settles only after ReadyForQuery, a value that cannot be
// serialized never reaches the socket, a named statement that the server lost is prepared anew, and the
// connection has an 'error' listener for its whole life.

import { LRUCache } from 'lru-cache'
import type { Query } from 'pg'
import { SmartPgError } from '../core/errors.ts'
import type { Asker, Portal, Row, Rows, Session, Statement, TransactionStatus } from '../core/types.ts'
import { ConnectedSession } from './connected.ts'
import type { SessionOptions } from './connected.ts'
import { PgPortalSteps } from './cursor.ts'
import type { PortalStep } from './cursor.ts'
import { Deallocation, PortalExchange, QueryExchange } from './exchange.ts'
import type { Exchange, Line } from './exchange.ts'
import { Outgoing } from './outgoing.ts'
import type { PgClient } from './pg-client.ts'
import { SteppedPortal } from './portal.ts'
import type { ReportedSettings } from './reported.ts'
import { notSent, serialize } from './values.ts'

export class PgSession extends ConnectedSession implements Session, Line {
  readonly pipelines = false
  /** pg writes at once. */
  readonly unflushed = 0
  status: TransactionStatus = 'idle'
  readonly #queue: Exchange[] = []
  /** Names the server holds for us. One that is pushed out waits in `#doomed` until it can be deallocated. */
  readonly #prepared: LRUCache<string, { executions: number }>
  readonly #doomed = new Set<string>()
  readonly #outgoing: Outgoing
  #inFlight: Exchange | null = null
  /** Who has been answered is being told: what he asks now stands behind those who wait already. */
  #telling = false
  /** Raised when the server holds a statement under our name that must not be used again. */
  #generation = 0
  #portals = 0
  /** Bytes sent before what is under way. */
  #sentBefore = 0

  /** Takes over an authenticated client. */
  constructor(client: PgClient, options: SessionOptions, reported: ReportedSettings) {
    super(client, options, reported)
    this.#outgoing = new Outgoing(client.connection)
    this.#prepared = new LRUCache({
      max: options.cacheSize,
      dispose: (_, name, reason) => {
        if (reason === 'evict') this.#doomed.add(name)
      },
    })
    client.connection.on('readyForQuery', () => this.#readyForQuery())
  }

  get unanswered(): number {
    return (this.#inFlight === null || this.#inFlight.housekeeping ? 0 : 1) + this.#queue.length
  }

  get bytesUnanswered(): number {
    return this.#inFlight === null ? 0 : this.client.connection.stream.bytesWritten - this.#sentBefore
  }

  send(statement: Statement): Promise<Rows> {
    return new Promise((resolve, reject) => this.ask(statement, { resolve, reject }))
  }

  ask(statement: Statement, asker: Asker): void {
    let values: unknown[]
    try {
      values = serialize(statement.parameters, this.options.node)
    } catch (error) {
      asker.reject(error as Error)
      return
    }
    this.#enqueue(new QueryExchange(this, statement, values, asker))
  }

  sendTogether(statements: readonly Statement[]): Promise<Rows>[] {
    const refused = (): Error =>
      new SmartPgError('SMARTPG_INVALID_QUERY', "With `wire: 'pg'` no statements can be sent together.", {
        node: this.node,
        phase: 'send',
        hint: 'Nothing was sent. Send one after the other.',
      })
    return statements.map(() => Promise.reject(refused()))
  }

  openPortal(statement: Statement): Portal {
    const values = serialize(statement.parameters, this.options.node)
    const submit = (step: PortalStep): Promise<Row[]> => {
      this.#enqueue(new PortalExchange(this, step))
      return step.done
    }
    return new SteppedPortal(new PgPortalSteps(`smartpg_${++this.#portals}`, statement.sql, values, submit))
  }

  forgetStatements(): void {
    for (const name of this.#prepared.keys()) this.forget(name)
    for (const name of this.#doomed) this.forget(name)
    this.#prepared.clear()
    this.#doomed.clear()
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
    if (this.#prepared.get(own) === undefined) this.#prepared.set(own, { executions: 0 })
    return own
  }

  ran(name: string): number {
    const known = this.#prepared.peek(name)
    // One that pg does not know did not get through its Parse.
    if (known === undefined || this.client.connection.parsedStatements[name] === undefined) return 0
    return ++known.executions
  }

  /** pg shall parse this name again. */
  forget(name: string): void {
    delete this.client.connection.parsedStatements[name]
  }

  /** Takes a failed named statement's name out of the way; true when it may run once more, now. */
  heal(error: Error, name: string, statement: Statement): boolean {
    const code = 'code' in error ? error.code : undefined
    if (code === '0A000' && (error as { routine?: string }).routine === 'RevalidateCachedQuery') {
      // The row type changed under a prepared statement: every name of this connection may be next.
      this.#generation++
      this.#prepared.delete(name)
      this.#doomed.add(name)
      this.options.onStatementsOutdated(statement.name!)
    } else if (code === '26000' || code === '42P05') {
      this.#prepared.set(name, { executions: 0 })
      if (code === '26000') this.forget(name)
      else this.client.connection.parsedStatements[name] = statement.sql
      this.options.onStatementsUnreliable()
    } else {
      return false
    }
    return this.status === 'idle' && this.lost === null
  }

  #enqueue(exchange: Exchange): void {
    if (this.lost !== null || this.closing) exchange.fail(notSent(this.options.node, this.lost))
    else if (this.#inFlight !== null || this.#telling) this.#queue.push(exchange)
    else this.begin(exchange)
  }

  /** Puts an exchange on the wire; for one that is to run again, in its own place. */
  begin(exchange: Exchange): void {
    this.#inFlight = exchange
    this.#sentBefore = this.client.connection.stream.bytesWritten
    exchange.start()
  }

  #readyForQuery(): void {
    this.status = STATUS[this.client.getTransactionStatus() ?? 'I']
    const settled = this.#inFlight
    this.#inFlight = null
    this.#telling = true
    settled?.ready()
    if (settled?.housekeeping === false && this.#inFlight === null) this.tellRead()
    this.#telling = false
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

  protected settleAll(reason: Error): void {
    const inFlight = this.#inFlight
    this.#inFlight = null
    inFlight?.fail(reason)
    for (const waiting of this.#queue.splice(0)) waiting.fail(notSent(this.options.node, reason))
  }
}

const STATUS = { I: 'idle', T: 'open', E: 'failed' } as const
