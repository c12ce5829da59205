// What was sent over our own wire and what is made of its answer, message by message, until ReadyForQuery. Each
// is one group of messages with one Sync, so that a failure is its own and never its neighbour's.

import type { DatabaseError } from 'pg'
import type { Row, Rows, Statement } from '../core/types.ts'
import { ProtocolFault, readRow } from './decode.ts'
import type { Description, Parser } from './decode.ts'
import type { Encoder, Value } from './encode.ts'
import type { Chunk } from './portal.ts'
import type { Prepared, PreparedStatements } from './prepared.ts'
import { coded } from './values.ts'

/** The session, as far as an answer needs it. */
export interface Wire {
  readonly node: string
  readonly prepared: PreparedStatements
  /** A result may not be read by a description that came with an earlier one. */
  readonly pooled: boolean
  parsersFor(description: Description): readonly Parser[]
  /** Whether a named statement that failed so may run once more, now. */
  heals(error: Error, prepared: Prepared, statement: Statement): boolean
  /** Puts it on the wire again. */
  again(exchange: Exchange): void
}

export abstract class Exchange {
  /** The server may ask it for the data of a COPY: nothing is sent behind it. */
  readonly mayCopy: boolean
  /** What it is about; undefined for a step of a portal. */
  readonly statement: Statement | undefined
  protected readonly wire: Wire
  protected failure: Error | null = null
  protected rows: Row[] = []
  protected shape: Description | null | undefined = undefined
  #parsers: readonly Parser[] | null = null

  constructor(wire: Wire, mayCopy: boolean, statement?: Statement) {
    this.wire = wire
    this.mayCopy = mayCopy
    this.statement = statement
  }

  /** Writes its messages. */
  abstract encode(out: Encoder): void
  /** ReadyForQuery has come. */
  abstract ready(): void
  abstract reject(error: Error): void

  parseComplete(): void {}
  complete(_tag: string): void {}
  portalSuspended(): void {}

  description(description: Description | null): void {
    this.shape = description
    this.#parsers = null
  }

  row(bytes: Buffer, from: number, to: number): void {
    if (this.failure !== null) return
    const { shape } = this
    if (shape === null || shape === undefined) throw new ProtocolFault('a row without a description')
    try {
      // Per result, because a type parser may be set at any time.
      this.#parsers ??= this.wire.parsersFor(shape)
      this.rows.push(readRow(bytes, from, to, shape, this.#parsers))
    } catch (error) {
      if (error instanceof ProtocolFault) throw error
      this.failure = error as Error
    }
  }

  /** Answers CopyIn; the server waits for it. */
  refuseCopy(out: Encoder): void {
    out.copyFail('COPY … FROM STDIN has no data to read when it runs as a query')
    // In copy mode the server has passed over our Sync.
    out.sync()
  }

  error(error: DatabaseError): void {
    this.failure ??= error
  }

  /** The connection is gone. */
  fail(reason: Error): void {
    this.reject(coded(this.wire.node, this.failure ?? reason))
  }
}

/** A statement and its answer. */
export class StatementExchange extends Exchange {
  declare readonly statement: Statement
  readonly #values: readonly Value[]
  readonly #resolve: (rows: Rows) => void
  readonly #reject: (error: Error) => void
  #prepared: Prepared | undefined
  #simple = false
  #parses = false
  #healed = false
  #command: string | null = null
  #count: number | null = null
  #completed = 0

  constructor(
    wire: Wire,
    statement: Statement,
    values: readonly Value[],
    resolve: (rows: Rows) => void,
    reject: (error: Error) => void,
  ) {
    super(wire, mayBeCopy(statement.sql), statement)
    this.#values = values
    this.#resolve = resolve
    this.#reject = reject
  }

  reject(error: Error): void {
    this.#reject(error)
  }

  encode(out: Encoder): void {
    const { sql, name } = this.statement
    if (name === undefined && this.#values.length === 0) {
      // Only so several statements may stand in one text.
      this.#simple = true
      out.query(sql)
      return
    }
    const prepared = name === undefined ? undefined : this.wire.prepared.use(name)
    for (const leaving of this.wire.prepared.leaving()) out.closeStatement(leaving)
    this.#prepared = prepared
    const own = prepared?.name ?? ''
    this.#parses = prepared?.state !== 'held'
    if (this.#parses) {
      out.parse(own, sql)
      if (prepared !== undefined) prepared.state = 'asked'
    }
    out.bind('', own, this.#values)
    // A description belongs to one Parse on one connection; behind a pooler nobody knows which that is.
    const known = prepared === undefined || this.#parses || this.wire.pooled ? undefined : prepared.description
    if (known === undefined) out.describePortal('')
    else this.shape = known
    out.execute('', 0)
    out.sync()
  }

  override refuseCopy(out: Encoder): void {
    if (this.#simple) out.copyFail('COPY … FROM STDIN has no data to read when it runs as a query')
    else super.refuseCopy(out)
  }

  override parseComplete(): void {
    if (this.#prepared !== undefined) this.#prepared.state = 'held'
    this.#parses = false
  }

  override description(description: Description | null): void {
    super.description(description)
    if (this.#prepared !== undefined) this.#prepared.description = description
    if (this.#completed > 0) this.rows = []
  }

  override complete(tag: string): void {
    const parts = TAG.exec(tag)
    this.#completed++
    this.#command = parts?.[1] ?? null
    const count = parts?.[3] ?? parts?.[2]
    this.#count = count === undefined ? null : Number(count)
  }

  ready(): void {
    const { failure } = this
    // The Parse did not get through, or the server would have said so.
    if (this.#parses && this.#prepared !== undefined) this.wire.prepared.gone(this.#prepared)
    if (failure === null) {
      this.#resolve(
        this.#completed > 1
          ? { rows: [], command: this.#command, count: null }
          : { rows: this.rows, command: this.#command, count: this.#count },
      )
    } else if (
      !this.#healed &&
      this.#prepared !== undefined &&
      this.wire.heals(failure, this.#prepared, this.statement)
    ) {
      this.#healed = true
      this.failure = null
      this.rows = []
      this.shape = undefined
      this.#completed = 0
      this.wire.again(this)
    } else {
      this.reject(failure)
    }
  }
}

/** As pg reads it: the first word, and the last of up to two numbers. */
const TAG = /^([A-Za-z]+)(?: (\d+))?(?: (\d+))?/

/** One step of a portal. */
export class PortalExchange extends Exchange {
  readonly done: Promise<Chunk>
  readonly #encode: (out: Encoder) => void
  readonly #described: (description: Description | null) => void
  #resolve!: (chunk: Chunk) => void
  #reject!: (error: Error) => void
  #suspended = false

  /** `known`: what an earlier step of the same portal was told. */
  constructor(
    wire: Wire,
    sql: string,
    encode: (out: Encoder) => void,
    known: Description | null | undefined,
    described: (description: Description | null) => void,
  ) {
    super(wire, mayBeCopy(sql))
    this.#encode = encode
    this.#described = described
    this.shape = known
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  encode(out: Encoder): void {
    this.#encode(out)
  }

  override description(description: Description | null): void {
    super.description(description)
    this.#described(description)
  }

  override portalSuspended(): void {
    this.#suspended = true
  }

  ready(): void {
    if (this.failure === null) this.#resolve({ rows: this.rows, suspended: this.#suspended })
    else this.#reject(this.failure)
  }

  reject(error: Error): void {
    this.#reject(error)
  }
}

/** No text without this word is a COPY, whatever it is called or hides behind. */
function mayBeCopy(sql: string): boolean {
  return COPY.test(sql)
}

const COPY = /copy/i
