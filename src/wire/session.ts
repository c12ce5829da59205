// A Session that speaks the protocol itself, on the socket that pg has connected and authenticated. Several
// statements may be under way at once, each with a Sync of its own, or small reads with one together; what is sent in
// one turn of the event loop leaves as one write. Answers come in the order of the questions and settle at
// ReadyForQuery.

import type { DatabaseError } from 'pg'
import { NotExecutedError, SmartPgError } from '../core/errors.ts'
import type { Asker, Portal, Rows, Session, Statement, TransactionStatus } from '../core/types.ts'
import { PortalExchange, StatementExchange, isCopy } from './answer.ts'
import type { Exchange, Wire } from './answer.ts'
import { ConnectedSession } from './connected.ts'
import type { SessionOptions } from './connected.ts'
import { Decoder, ProtocolFault } from './decode.ts'
import type { Description, Notice, Parser, Receiver, Tag } from './decode.ts'
import { Encoder, tooLarge } from './encode.ts'
import type { Value } from './encode.ts'
import { nonsense } from './framing.ts'
import type { Guard } from './framing.ts'
import { GroupExchange, GroupMember } from './group.ts'
import type { PgClient } from './pg-client.ts'
import { SteppedPortal } from './portal.ts'
import type { Chunk, PortalSteps } from './portal.ts'
import type { ReportedSettings } from './reported.ts'
import { SharedExchange } from './shared.ts'
import { faster } from './timestamps.ts'
import { PreparedStatements } from './prepared.ts'
import type { Prepared } from './prepared.ts'
import { connectionLost, notSent, serialize } from './values.ts'

export interface NativeSessionOptions extends SessionOptions {
  /** Whether something in between may hand one connection to several servers; asked anew for each statement. */
  readonly mayBePooled: () => boolean
}

/** The socket's own queue gets no more while it holds this: what a slow network cannot take waits here, in one buffer. */
const MOST_QUEUED = 1024 * 1024

export class NativeSession extends ConnectedSession implements Session, Wire, Receiver {
  readonly pipelines = true
  status: TransactionStatus = 'idle'
  readonly prepared: PreparedStatements
  readonly #mayBePooled: () => boolean
  readonly #encoder = new Encoder()
  readonly #decoder = new Decoder(this)
  // The line: written or about to be, in the order in which the answers come.
  #first: Exchange | null = null
  #last: Exchange | null = null
  /** How many statements stand in line, and how many of them, at its end, have not left yet. */
  #inLine = 0
  #unflushed = 0
  /** Not to be sent before the one that may be a COPY has ended. */
  readonly #held: Exchange[] = []
  #holding = 0
  #bytes = 0
  /** An answer has come with the bytes that are being read. */
  #answered = false
  #flushing = false
  /** Reads of this write that get one Sync together. */
  #sharing: SharedExchange | null = null
  /** What is being asked leaves when the event loop has come round. */
  #gathers = false
  /** The socket has more than it can take, and tells when it has not. */
  #draining = false
  #portals = 0

  /** Takes over an authenticated client of which pg's parser has read everything so far. */
  constructor(client: PgClient, guard: Guard, options: NativeSessionOptions, reported: ReportedSettings) {
    super(client, options, reported)
    this.prepared = new PreparedStatements(options.cacheSize)
    this.#mayBePooled = options.mayBePooled
    guard.handOver((bytes) => this.#read(bytes))
    client.query = refuseQuery
  }

  get unanswered(): number {
    return this.#inLine + this.#holding
  }

  get unflushed(): number {
    return this.#unflushed + this.#holding
  }

  get bytesUnanswered(): number {
    return this.#bytes
  }

  get pooled(): boolean {
    return this.#mayBePooled()
  }

  send(statement: Statement): Promise<Rows> {
    return new Promise((resolve, reject) => this.ask(statement, { resolve, reject }))
  }

  ask(statement: Statement, asker: Asker, gathers = 0): void {
    let values: readonly Value[]
    try {
      values = this.#valuesOf(statement)
    } catch (error) {
      asker.reject(error as Error)
      return
    }
    const exchange = new StatementExchange(this, statement, values, asker)
    this.#gathers = gathers > 0
    if (gathers < 2 || !this.#share(exchange, gathers)) this.#enqueue(exchange)
    this.#gathers = false
  }

  sendTogether(statements: readonly Statement[]): Promise<Rows>[] {
    const values: (readonly Value[])[] = []
    try {
      for (const statement of statements) values.push(this.#valuesInGroup(statement))
    } catch (error) {
      const others = (): Error => new NotExecutedError(this.node, UNSENT_TOGETHER, 'send', error)
      return statements.map((_, i) => Promise.reject(i === values.length ? error : others()))
    }
    const members: GroupMember[] = []
    const answers = statements.map((statement, i) => {
      return new Promise<Rows>((resolve, reject) => {
        members.push(new GroupMember(this, statement, values[i]!, { resolve, reject }))
      })
    })
    if (members.length > 0) this.#enqueue(new GroupExchange(this, members))
    return answers
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

  parsersFor({ oids, formats, parsers }: Description): readonly Parser[] {
    const { client } = this
    for (let i = 0; i < oids.length; i++) {
      parsers[i] = faster(client.getTypeParser(oids[i] as never, formats[i]) as Parser)
    }
    return parsers
  }

  learns(error: Error, prepared: Prepared): boolean {
    const { code, routine } = error as { code?: string; routine?: string }
    if (code === '0A000' && routine === 'RevalidateCachedQuery') {
      this.prepared.renew(prepared)
      this.options.onStatementsOutdated(prepared.name)
    } else if (code === '26000') {
      this.prepared.gone(prepared)
      this.options.onStatementsUnreliable()
    } else if (code === '42P05') {
      const there = this.prepared.use(prepared.name, this)
      if (there !== undefined) there.state = 'held'
      this.options.onStatementsUnreliable()
    } else {
      return false
    }
    return true
  }

  mayRunLast({ facts }: Statement): boolean {
    if (this.status !== 'idle' || this.lost !== null) return false
    if (this.#first === null) return true
    if (this.#blocked || !facts.retrySafe) return false
    for (let one: Exchange | null = this.#first; one !== null; one = one.next) {
      if (one instanceof SharedExchange) continue
      if (one.statement === undefined || !standsAlone(one.statement)) return false
    }
    return true
  }

  again(exchange: Exchange): void {
    this.#enqueue(exchange)
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

  complete(tag: Tag): void {
    this.#current().complete(tag)
  }

  emptyQuery(): void {
    this.#current().emptyQuery()
  }

  portalSuspended(): void {
    this.#current().portalSuspended()
  }

  copyIn(): void {
    const exchange = this.#current()
    // What stands behind it would be taken for its data.
    if (exchange !== this.#last) throw new ProtocolFault('a COPY that nobody asked for')
    exchange.refuseCopy(this.#encoder)
    this.#flush()
  }

  error(error: DatabaseError): void {
    if (this.#inLine > this.#unflushed) this.#first!.error(error)
    // Nothing was asked: the server says why it leaves.
    else this.destroy(error)
  }

  ready(status: 'I' | 'T' | 'E'): void {
    const settled = this.#current()
    settled.mustBeAnswered()
    this.status = STATUS[status]
    this.client._txStatus = status
    this.#leave(settled)
    this.#answered = true
    settled.ready()
    if (this.#holding > 0) this.#release()
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
    if (this.#inLine === this.#unflushed) throw new ProtocolFault('an answer to nothing')
    return this.#first!
  }

  #read(bytes: Buffer): void {
    try {
      this.#decoder.push(bytes)
    } catch (cause) {
      this.client.connection.stream.destroy(nonsense(this.options.node, cause))
    }
    if (!this.#answered) return
    this.#answered = false
    this.tellRead()
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

  #valuesInGroup(statement: Statement): readonly Value[] {
    if (!isCopy(statement)) return this.#valuesOf(statement)
    throw new SmartPgError('SMARTPG_INVALID_QUERY', 'COPY cannot be sent together with other statements.', {
      node: this.node,
      phase: 'send',
      hint: 'Nothing was sent. Run it on a connection of its own, outside of the batch.',
    })
  }

  #enqueue(exchange: Exchange): void {
    if (this.lost !== null || this.closing) exchange.fail(notSent(this.options.node, this.lost))
    else if (this.#holding > 0 || this.#blocked) this.#hold(exchange)
    else this.#begin(exchange)
  }

  /** The last in line may be a COPY, which would take what comes behind it for its data. */
  get #blocked(): boolean {
    return this.#last !== null && this.#last.mayCopy
  }

  #hold(exchange: Exchange): void {
    exchange.bytes = exchange.weight
    this.#held.push(exchange)
    this.#holding += exchange.size
    this.#bytes += exchange.bytes
  }

  #release(): void {
    while (this.#held.length > 0 && !this.#blocked && this.lost === null) {
      const exchange = this.#held.shift()!
      this.#holding -= exchange.size
      this.#bytes -= exchange.bytes
      this.#begin(exchange)
    }
  }

  /** Puts a read under the Sync of those that leave in the same write, `most` of them; false when it cannot stand there. */
  #share(exchange: StatementExchange, most: number): boolean {
    const { name } = exchange.statement
    if (name === undefined || this.lost !== null || this.closing || this.#holding > 0 || this.#blocked) return false
    const prepared = this.prepared.use(name, exchange)
    // Whatever has yet to be parsed, or to make room, does so under a Sync of its own.
    if (prepared === undefined || prepared.state !== 'held') return false
    if (this.#sharing === null) {
      this.#sharing = new SharedExchange(this)
      this.#join(this.#sharing)
    }
    const sharing = this.#sharing
    const before = this.#encoder.length
    try {
      sharing.add(exchange, prepared, this.#encoder)
    } catch (cause) {
      this.destroy(connectionLost(this.options.node, cause))
      return true
    }
    const bytes = this.#encoder.length - before
    sharing.bytes += bytes
    this.#bytes += bytes
    this.#inLine++
    this.#unflushed++
    if (sharing.size >= most) this.#endSharing()
    this.#flushLater()
    return true
  }

  /** The Sync of those that share one. */
  #endSharing(): void {
    if (this.#sharing === null) return
    this.#encoder.sync()
    this.#sharing = null
  }

  #join(exchange: Exchange): void {
    if (this.#last === null) this.#first = exchange
    else this.#last.next = exchange
    this.#last = exchange
  }

  #begin(exchange: Exchange): void {
    this.#endSharing()
    this.#join(exchange)
    this.#inLine += exchange.size
    this.#unflushed += exchange.size
    const before = this.#encoder.length
    try {
      exchange.encode(this.#encoder)
    } catch (cause) {
      // Out of memory in the middle of a message: nothing can be said on this connection any more.
      this.destroy(connectionLost(this.options.node, cause))
      return
    }
    exchange.bytes = this.#encoder.length - before
    this.#bytes += exchange.bytes
    this.#flushLater()
  }

  #flushLater(): void {
    if (this.#flushing) return
    this.#flushing = true
    if (this.#gathers) this.options.clock.nextTurn(this.#flushSoon)
    else process.nextTick(NativeSession.#flushOf, this)
  }

  /** The first in line has been answered. */
  #leave(first: Exchange): void {
    this.#first = first.next
    first.next = null
    if (this.#first === null) this.#last = null
    this.#inLine -= first.size
    this.#bytes -= first.bytes
  }

  readonly #flushSoon = (): void => this.#flush()

  /** One function for all sessions, so that a flush costs no closure. */
  static readonly #flushOf = (session: NativeSession): void => session.#flush()

  #flush(): void {
    this.#flushing = false
    const { stream } = this.client.connection
    if (this.lost !== null || this.#draining || this.#encoder.empty || !stream.writable) return
    if (stream.writableLength > MOST_QUEUED) {
      this.#draining = true
      stream.once('drain', () => {
        this.#draining = false
        this.#flush()
      })
      return
    }
    this.#endSharing()
    this.#unflushed = 0
    stream.write(this.#encoder.take())
  }

  protected settleAll(reason: Error): void {
    this.#decoder.end()
    const { node } = this.options
    let written = this.#inLine - this.#unflushed
    let exchange = this.#first
    const held = this.#held.splice(0)
    this.#first = this.#last = null
    this.#inLine = this.#unflushed = this.#holding = this.#bytes = 0
    while (exchange !== null) {
      const { next } = exchange
      exchange.fail(written > 0 ? reason : notSent(node, reason))
      written -= exchange.size
      exchange = next
    }
    for (const waiting of held) waiting.fail(notSent(node, reason))
  }
}

const UNSENT_TOGETHER = 'The statement was not sent, because another that was to be sent together with it cannot be.'

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
