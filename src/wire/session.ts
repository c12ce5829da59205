// A Session that speaks the protocol itself, on the socket that pg has connected and authenticated. Several
// statements may be under way at once, each with a Sync of its own; what is sent in one turn of the event loop
// leaves as one write. Answers come in the order of the questions and settle at ReadyForQuery.

import type { DatabaseError } from 'pg'
import { SmartPgError } from '../core/errors.ts'
import type { Portal, Rows, Session, Statement, TransactionStatus } from '../core/types.ts'
import { PortalExchange, StatementExchange } from './answer.ts'
import type { Exchange, Wire } from './answer.ts'
import { ConnectedSession } from './connected.ts'
import type { SessionOptions } from './connected.ts'
import { Decoder, ProtocolFault } from './decode.ts'
import type { Description, Notice, Parser, Receiver } from './decode.ts'
import { Encoder, tooLarge } from './encode.ts'
import type { Value } from './encode.ts'
import { nonsense } from './framing.ts'
import type { Guard } from './framing.ts'
import type { PgClient } from './pg-client.ts'
import { SteppedPortal } from './portal.ts'
import type { Chunk, PortalSteps } from './portal.ts'
import { PreparedStatements } from './prepared.ts'
import type { Prepared } from './prepared.ts'
import { connectionLost, notSent, serialize } from './values.ts'

export interface NativeSessionOptions extends SessionOptions {
  /** Whether something in between may hand one connection to several servers; asked anew for each statement. */
  readonly mayBePooled: () => boolean
}

export class NativeSession extends ConnectedSession implements Session, Wire, Receiver {
  status: TransactionStatus = 'idle'
  readonly prepared: PreparedStatements
  readonly #mayBePooled: () => boolean
  readonly #encoder = new Encoder()
  readonly #decoder = new Decoder(this)
  /** Written or about to be, in the order in which the answers come. */
  readonly #line: Exchange[] = []
  /** How many of the last in line have not left yet. */
  #unflushed = 0
  /** Not to be sent before the one that may be a COPY has ended. */
  readonly #held: Exchange[] = []
  #flushing = false
  #portals = 0

  /** Takes over an authenticated client of which pg's parser has read everything so far. */
  constructor(client: PgClient, guard: Guard, options: NativeSessionOptions) {
    super(client, options)
    this.prepared = new PreparedStatements(options.cacheSize)
    this.#mayBePooled = options.mayBePooled
    guard.handOver((bytes) => this.#read(bytes))
    client.query = refuseQuery
  }

  get unanswered(): number {
    return this.#line.length + this.#held.length
  }

  get pooled(): boolean {
    return this.#mayBePooled()
  }

  send(statement: Statement): Promise<Rows> {
    let values: readonly Value[]
    try {
      values = this.#valuesOf(statement)
    } catch (error) {
      return Promise.reject(error)
    }
    return new Promise((resolve, reject) => {
      this.#enqueue(new StatementExchange(this, statement, values, resolve, reject))
    })
  }

  openPortal(statement: Statement): Portal {
    const values = this.#valuesOf(statement)
    const name = `smartpg_${++this.#portals}`
    return new SteppedPortal(new NativePortalSteps(name, statement.sql, values, this, (step) => this.#enqueue(step)))
  }

  forgetStatements(): void {
    this.prepared.forget()
  }

  // What an answer asks of its session.

  parsersFor({ oids, formats }: Description): readonly Parser[] {
    const { client } = this
    return oids.map((oid, i) => client.getTypeParser(oid as never, formats[i]) as Parser)
  }

  heals(error: Error, prepared: Prepared, statement: Statement): boolean {
    const { code, routine } = error as { code?: string; routine?: string }
    if (code === '0A000' && routine === 'RevalidateCachedQuery') {
      this.prepared.renew(prepared)
    } else if (code === '26000') {
      this.prepared.gone(prepared)
      this.options.onStatementsUnreliable()
    } else if (code === '42P05') {
      const there = this.prepared.use(prepared.name)
      if (there !== undefined) there.state = 'held'
      this.options.onStatementsUnreliable()
    } else {
      return false
    }
    return this.status === 'idle' && this.lost === null && this.#mayRunLast(statement)
  }

  again(exchange: Exchange): void {
    this.#begin(exchange)
  }

  /** Whether it makes no difference that a statement runs behind those that were sent after it. */
  #mayRunLast({ facts }: Statement): boolean {
    if (this.#line.length === 0) return true
    if (this.#blocked) return false
    return facts.retrySafe && this.#line.every(({ statement }) => statement !== undefined && standsAlone(statement))
  }

  // What the server says.

  parseComplete(): void {
    this.#current().parseComplete()
  }

  description(description: Description | null): void {
    this.#current().description(description)
  }

  row(bytes: Buffer, from: number, to: number): void {
    this.#current().row(bytes, from, to)
  }

  complete(tag: string): void {
    this.#current().complete(tag)
  }

  emptyQuery(): void {
    this.#current()
  }

  portalSuspended(): void {
    this.#current().portalSuspended()
  }

  copyIn(): void {
    const exchange = this.#current()
    // What stands behind it would be taken for its data.
    if (this.#line.length > 1) throw new ProtocolFault('a COPY that nobody asked for')
    exchange.refuseCopy(this.#encoder)
    this.#flush()
  }

  error(error: DatabaseError): void {
    const exchange = this.#line[0]
    if (exchange !== undefined && this.#line.length > this.#unflushed) {
      exchange.error(error)
      return
    }
    // Nothing was asked: the server says why it leaves.
    this.destroy(error)
  }

  ready(status: 'I' | 'T' | 'E'): void {
    const settled = this.#current()
    this.status = STATUS[status]
    this.client._txStatus = status
    this.#line.shift()
    settled.ready()
    while (this.#held.length > 0 && !this.#blocked && this.lost === null) this.#begin(this.#held.shift()!)
  }

  notice(notice: Notice): void {
    this.client.emit('notice', notice)
  }

  notification(processId: number, channel: string, payload: string, length: number): void {
    this.client.emit('notification', { length, processId, channel, payload, name: 'notification' })
  }

  parameter(parameterName: string, parameterValue: string, length: number): void {
    this.client.connection.emit('parameterStatus', { length, parameterName, parameterValue, name: 'parameterStatus' })
  }

  /** Whose answer this is. */
  #current(): Exchange {
    if (this.#line.length === this.#unflushed) throw new ProtocolFault('an answer to nothing')
    return this.#line[0]!
  }

  #read(bytes: Buffer): void {
    try {
      this.#decoder.push(bytes)
    } catch (cause) {
      this.client.connection.stream.destroy(nonsense(this.options.node, cause))
    }
  }

  // What is said to the server.

  #valuesOf(statement: Statement): readonly Value[] {
    const { node } = this.options
    const values = serialize(statement.parameters, node) as Value[]
    const fault = tooLarge(statement.sql, values)
    if (fault === null) return values
    throw new SmartPgError('SMARTPG_INVALID_QUERY', `${fault} is larger than the 1 GiB that PostgreSQL takes.`, {
      node,
      phase: 'send',
      hint: 'Split the statement.',
    })
  }

  #enqueue(exchange: Exchange): void {
    if (this.lost !== null || this.closing) exchange.fail(notSent(this.options.node, this.lost))
    else if (this.#held.length > 0 || this.#blocked) this.#held.push(exchange)
    else this.#begin(exchange)
  }

  /** The last in line may be a COPY, which would take what comes behind it for its data. */
  get #blocked(): boolean {
    return this.#line.at(-1)?.mayCopy === true
  }

  #begin(exchange: Exchange): void {
    this.#line.push(exchange)
    this.#unflushed++
    try {
      exchange.encode(this.#encoder)
    } catch (cause) {
      // Out of memory in the middle of a message: nothing can be said on this connection any more.
      this.destroy(connectionLost(this.options.node, cause))
      return
    }
    if (this.#flushing) return
    this.#flushing = true
    process.nextTick(NativeSession.#flushOf, this)
  }

  /** One function for all sessions, so that a flush costs no closure. */
  static readonly #flushOf = (session: NativeSession): void => session.#flush()

  #flush(): void {
    this.#flushing = false
    if (this.lost !== null || this.#encoder.empty) return
    this.#unflushed = 0
    const { stream } = this.client.connection
    const bytes = this.#encoder.take()
    if (stream.writable) stream.write(bytes)
  }

  protected settleAll(reason: Error): void {
    this.#decoder.end()
    const line = this.#line.splice(0)
    const written = line.length - this.#unflushed
    this.#unflushed = 0
    for (const [i, exchange] of line.entries()) {
      exchange.fail(i < written ? reason : notSent(this.options.node, reason))
    }
    for (const waiting of this.#held.splice(0)) waiting.fail(notSent(this.options.node, reason))
  }
}

const STATUS = { I: 'idle', T: 'open', E: 'failed' } as const

/** It neither begins nor ends a transaction, and leaves nothing behind that another statement would see. */
function standsAlone({ facts }: Statement): boolean {
  return !facts.stateful && !facts.multiple && facts.kind !== 'transaction' && facts.kind !== 'unknown'
}

/** pg would write its own messages between ours and wait for ever. */
function refuseQuery(): never {
  throw new SmartPgError('SMARTPG_INVALID_QUERY', "pg's Client.query is not to be had with `wire: 'native'`.", {
    phase: 'send',
    hint: "Use the connection's executeQuery, or `wire: 'pg'`.",
  })
}

class NativePortalSteps implements PortalSteps {
  readonly #name: string
  readonly #sql: string
  readonly #values: readonly Value[]
  readonly #wire: Wire
  readonly #enqueue: (exchange: Exchange) => void
  #description: Description | null | undefined

  constructor(name: string, sql: string, values: readonly Value[], wire: Wire, enqueue: (exchange: Exchange) => void) {
    this.#name = name
    this.#sql = sql
    this.#values = values
    this.#wire = wire
    this.#enqueue = enqueue
  }

  open(count: number): Promise<Chunk> {
    return this.#step(this.#sql, (out) => {
      out.parse('', this.#sql)
      out.bind(this.#name, '', this.#values)
      out.describePortal(this.#name)
      out.execute(this.#name, count)
      out.sync()
    })
  }

  next(count: number): Promise<Chunk> {
    return this.#step('', (out) => {
      out.execute(this.#name, count)
      out.sync()
    })
  }

  close(): Promise<unknown> {
    return this.#step('', (out) => {
      out.closePortal(this.#name)
      out.sync()
    })
  }

  #step(sql: string, encode: (out: Encoder) => void): Promise<Chunk> {
    const remember = (description: Description | null): void => void (this.#description = description)
    const step = new PortalExchange(this.#wire, sql, encode, this.#description, remember)
    this.#enqueue(step)
    return step.done
  }
}
