// The steps of a portal through pg: each is what pg calls a submittable, which writes its own messages.

import { Result } from 'pg'
import type { Row } from '../core/types.ts'
import type { PgConnection } from './pg-client.ts'
import type { Chunk, PortalSteps } from './portal.ts'

export class PgPortalSteps implements PortalSteps {
  readonly #name: string
  readonly #sql: string
  readonly #values: unknown[]
  readonly #submit: (step: PortalStep) => Promise<Row[]>
  readonly #result = new Result('object', undefined as never) as unknown as PgRowParser

  /** `name` must be the session's only open portal of that name. */
  constructor(name: string, sql: string, values: unknown[], submit: (step: PortalStep) => Promise<Row[]>) {
    this.#name = name
    this.#sql = sql
    this.#values = values
    this.#submit = submit
  }

  open(count: number): Promise<Chunk> {
    return this.#read(count, true)
  }

  next(count: number): Promise<Chunk> {
    return this.#read(count, false)
  }

  close(): Promise<unknown> {
    return this.#submit(
      new PortalStep(this.#result, (connection) => {
        connection.close({ type: 'P', name: this.#name })
        connection.sync()
      }),
    )
  }

  async #read(count: number, opening: boolean): Promise<Chunk> {
    const step = new PortalStep(this.#result, (connection) => {
      if (opening) this.#open(connection)
      connection.execute({ portal: this.#name, rows: count })
      connection.sync()
    })
    const rows = await this.#submit(step)
    return { rows, suspended: step.suspended }
  }

  #open(connection: PgConnection): void {
    connection.parse({ text: this.#sql, name: '', types: undefined })
    connection.bind({ portal: this.#name, statement: '', values: this.#values, binary: false, valueMapper: identity })
    connection.describe({ type: 'P', name: this.#name })
  }
}

interface PgRowParser {
  _types: unknown
  addFields(fields: unknown[]): void
  parseRow(fields: unknown[]): Row
}

/** What pg calls a submittable: it writes its own messages and is told the answers. */
export class PortalStep {
  readonly done: Promise<Row[]>
  /** pg fills in the client's type parsers here. */
  readonly _result: PgRowParser
  suspended = false
  readonly #write: (connection: PgConnection) => void
  readonly #rows: Row[] = []
  #failure: Error | null = null
  #resolve!: (rows: Row[]) => void
  #reject!: (error: Error) => void

  constructor(result: PgRowParser, write: (connection: PgConnection) => void) {
    this._result = result
    this.#write = write
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  submit(connection: PgConnection): void {
    this.#write(connection)
  }

  ready(): void {
    if (this.#failure === null) this.#resolve(this.#rows)
    else this.#reject(this.#failure)
  }

  fail(reason: Error): void {
    this.#reject(this.#failure ?? reason)
  }

  handleRowDescription(message: { fields: unknown[] }): void {
    this._result.addFields(message.fields)
  }

  handleDataRow(message: { fields: unknown[] }): void {
    if (this.#failure !== null) return
    try {
      this.#rows.push(this._result.parseRow(message.fields))
    } catch (error) {
      this.#failure = error as Error
    }
  }

  handlePortalSuspended(): void {
    this.suspended = true
  }

  handleError(error: Error): void {
    this.#failure ??= error
  }

  handleCommandComplete(): void {}
  handleEmptyQuery(): void {}
  handleReadyForQuery(): void {}
  handleCopyData(): void {}
  /** In copy-in mode the server ignores our Sync and, after CopyFail, waits for another. */
  handleCopyInResponse(connection: { sendCopyFail(reason: string): void; sync(): void }): void {
    connection.sendCopyFail('COPY cannot be streamed as a query')
    connection.sync()
  }
}

const identity = (value: unknown): unknown => value
