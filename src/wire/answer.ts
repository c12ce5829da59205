// What was sent over our own wire and what is made of its answer, message by message, until ReadyForQuery. Each
// is one group of messages with one Sync, so that a failure is its own and never its neighbour's.

import type { DatabaseError } from 'pg'
import type { Asker, Row, Statement } from '../core/types.ts'
import { ProtocolFault, readRow } from './decode.ts'
import type { Description, Parser, Tag } from './decode.ts'
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
  /** The parsers of today, until the next result of the same description. */
  parsersFor(description: Description): readonly Parser[]
  /** Puts right what a failed named statement tells of its name; true when the name was what failed. */
  learns(error: Error, prepared: Prepared): boolean
  /** Whether it may run once more, now, behind all that was sent after it. */
  mayRunLast(statement: Statement): boolean
  /** Puts it on the wire again. */
  again(exchange: Exchange): void
}

export abstract class Exchange {
  /** Who is answered next. */
  next: Exchange | null = null
  /** How many statements it stands for. */
  size = 1
  /** How many bytes it takes on the wire; about as many as `weight` says until it has been encoded. */
  bytes = 0
  /** The server may ask it for the data of a COPY: nothing is sent behind it. Known when it has been encoded. */
  mayCopy = false
  /** What it is about; undefined for a step of a portal, and for several at once. */
  readonly statement: Statement | undefined
  protected readonly wire: Wire

  constructor(wire: Wire, statement: Statement | undefined) {
    this.wire = wire
    this.statement = statement
  }

  /** Writes its messages. */
  abstract encode(out: Encoder): void

  /** About how many bytes that will be. */
  get weight(): number {
    return 0
  }

  // The answers of the server.

  abstract row(bytes: Buffer, from: number, to: number): void
  abstract description(description: Description | null): void
  abstract error(error: DatabaseError): void
  parseComplete(): void {}
  complete(_tag: Tag): void {}
  emptyQuery(): void {}
  portalSuspended(): void {}
  /** Answers CopyIn; the server waits for it. */
  abstract refuseCopy(out: Encoder): void
  /** Throws when ReadyForQuery comes before everything has been answered. */
  mustBeAnswered(): void {}
  /** ReadyForQuery has come. */
  abstract ready(): void

  /** The connection is gone. */
  abstract fail(reason: Error): void
}

/** An exchange with one result. */
abstract class ResultExchange extends Exchange {
  protected failure: Error | null = null
  protected rows: Row[] = []
  protected shape: Description | null | undefined = undefined
  #parsers: readonly Parser[] | null = null

  abstract reject(error: Error): void

  override description(description: Description | null): void {
    this.shape = description
    this.#parsers = null
  }

  override row(bytes: Buffer, from: number, to: number): void {
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

  override refuseCopy(out: Encoder): void {
    out.copyFail(NO_DATA)
    // In copy mode the server has passed over our Sync.
    out.sync()
  }

  override error(error: DatabaseError): void {
    this.failure ??= error
  }

  override fail(reason: Error): void {
    this.reject(coded(this.wire.node, this.failure ?? reason))
  }

  /** As if it had never been sent. */
  protected restart(): void {
    this.failure = null
    this.rows = []
    this.shape = undefined
    this.#parsers = null
  }
}

const NO_DATA = 'COPY … FROM STDIN has no data to read when it runs as a query'

/** Of the empty query. */
const NO_TAG: Tag = { command: null, count: null }

/** A statement and its answer. */
export class StatementExchange extends ResultExchange {
  declare readonly statement: Statement
  protected readonly values: readonly Value[]
  protected readonly asker: Asker
  protected prepared: Prepared | undefined = undefined
  /** Its Parse has been sent and not been answered. */
  protected parses = false
  #simple = false
  #healed = false
  #tag = NO_TAG
  #completed = 0

  constructor(wire: Wire, statement: Statement, values: readonly Value[], asker: Asker) {
    super(wire, statement)
    this.values = values
    this.asker = asker
  }

  override reject(error: Error): void {
    this.asker.reject(error)
  }

  override get weight(): number {
    let bytes = this.statement.sql.length
    for (const value of this.values) bytes += value === null ? 4 : 4 + value.length
    return bytes
  }

  override encode(out: Encoder): void {
    const { sql } = this.statement
    // Behind a pooler the next server connection may not know a name that the last one knew.
    const name = this.#healed && this.wire.pooled ? undefined : this.statement.name
    if (name === undefined && this.values.length === 0) {
      // Only so several statements may stand in one text.
      this.#simple = true
      this.mayCopy = COPY.test(sql)
      out.query(sql)
      return
    }
    closeLeaving(this.wire, out)
    const prepared = name === undefined ? undefined : this.wire.prepared.use(name, this)
    // Who makes room for it.
    closeLeaving(this.wire, out)
    if (prepared === undefined) this.mayCopy = isCopy(this.statement)
    else this.mayCopy = prepared.mayCopy ??= isCopy(this.statement)
    this.encodeSteps(out, prepared, this)
    out.sync()
  }

  /** Everything but the Sync. */
  encodeSteps(out: Encoder, prepared: Prepared | undefined, by: object): void {
    const own = prepared === undefined ? '' : prepared.name
    const known = prepared !== undefined && (prepared.state === 'held' || prepared.askedBy === by)
    this.prepared = prepared
    this.parses = !known
    if (!known) {
      out.parse(own, this.statement.sql)
      if (prepared !== undefined) {
        prepared.state = 'asked'
        prepared.askedBy = by
      }
    }
    out.bind('', own, this.values)
    // A description belongs to one Parse on one connection; behind a pooler nobody knows which that is.
    const description = prepared === undefined || !known || this.wire.pooled ? undefined : prepared.description
    if (description === undefined) out.describePortal('')
    else this.shape = description
    out.execute('', 0)
  }

  override refuseCopy(out: Encoder): void {
    if (this.#simple) out.copyFail(NO_DATA)
    else super.refuseCopy(out)
  }

  override parseComplete(): void {
    this.parses = false
    const { prepared } = this
    if (prepared === undefined) return
    prepared.state = 'held'
    prepared.askedBy = null
  }

  override description(description: Description | null): void {
    super.description(description)
    if (this.prepared !== undefined) this.prepared.description = description
    if (this.#completed > 0) this.rows = []
  }

  override complete(tag: Tag): void {
    this.#completed++
    this.#tag = tag
  }

  override ready(): void {
    const { failure, prepared } = this
    this.settleName()
    if (failure === null) {
      this.answer()
    } else if (
      prepared !== undefined &&
      this.wire.learns(failure, prepared) &&
      !this.#healed &&
      this.wire.mayRunLast(this.statement)
    ) {
      this.#healed = true
      this.restart()
      this.wire.again(this)
    } else {
      this.reject(failure)
    }
  }

  /** One before it under the same Sync failed, so it was not executed: it is sent once more. */
  passedOver(): void {
    this.restart()
    this.wire.again(this)
  }

  /** What its end says of its name. */
  protected settleName(): void {
    const { prepared } = this
    if (prepared === undefined) return
    // The Parse did not get through, or the server would have said so.
    if (this.parses) this.wire.prepared.gone(prepared)
    else prepared.executions++
  }

  protected answer(): void {
    const { prepared, rows } = this
    const { command, count } = this.#tag
    if (this.#completed > 1) this.asker.resolve({ rows: [], command, count: null })
    else if (prepared === undefined) this.asker.resolve({ rows, command, count })
    else this.asker.resolve({ rows, command, count, executions: prepared.executions })
  }

  protected override restart(): void {
    super.restart()
    this.#tag = NO_TAG
    this.#completed = 0
  }
}

/** What the server shall no longer keep. It stands before anything that could fail, so that it is always carried out. */
export function closeLeaving({ prepared }: Wire, out: Encoder): void {
  for (const name of prepared.leaving()) out.closeStatement(name)
}

/** One step of a portal. */
export class PortalExchange extends ResultExchange {
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
    super(wire, undefined)
    this.mayCopy = COPY.test(sql)
    this.#encode = encode
    this.#described = described
    this.shape = known
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  override encode(out: Encoder): void {
    this.#encode(out)
  }

  override description(description: Description | null): void {
    super.description(description)
    this.#described(description)
  }

  override portalSuspended(): void {
    this.#suspended = true
  }

  override ready(): void {
    if (this.failure === null) this.#resolve({ rows: this.rows, suspended: this.#suspended })
    else this.#reject(this.failure)
  }

  override reject(error: Error): void {
    this.#reject(error)
  }
}

/** No text without this word is a COPY, whatever it is called or hides behind. */
const COPY = /copy/i
const BEGINS_WITH_COPY = /^\s*copy\b/i

/** Whether the one statement of the text is, or cannot be told from, a COPY. */
export function isCopy({ sql, facts }: Statement): boolean {
  return COPY.test(sql) && (facts.verb === 'copy' || facts.verb === '' || BEGINS_WITH_COPY.test(sql))
}
