// A named portal read in steps, for streams. Each step is one exchange that ends with ReadyForQuery, so the
// connection is never left half read; pg-cursor's hang on a dead connection cannot happen, because every
// step settles with the connection.

import { Result } from 'pg'
import type { Portal, Row } from '../core/types.ts'
import type { PgConnection } from './pg-client.ts'

export class PgPortal implements Portal {
  readonly #name: string
  readonly #sql: string
  readonly #values: unknown[]
  readonly #submit: (step: PortalStep) => Promise<Row[]>
  #state: 'unopened' | 'suspended' | 'done' = 'unopened'
  readonly #result = new Result('object', undefined as never) as unknown as PgRowParser

  /** `name` must be the session's only open portal of that name. */
  constructor(name: string, sql: string, values: unknown[], submit: (step: PortalStep) => Promise<Row[]>) {
    this.#name = name
    this.#sql = sql
    this.#values = values
    this.#submit = submit
  }

  async read(count: number): Promise<Row[]> {
    if (this.#state === 'done') return []
    const opening = this.#state === 'unopened'
    const step = new PortalStep(this.#result, (connection) => {
      if (opening) this.#open(connection)
      connection.execute({ portal: this.#name, rows: count })
      connection.sync()
    })
    try {
      const rows = await this.#submit(step)
      this.#state = step.suspended ? 'suspended' : 'done'
      return rows
    } catch (error) {
      this.#state = 'done'
      throw error
    }
  }

  async close(): Promise<void> {
    if (this.#state !== 'suspended') return
    this.#state = 'done'
    await this.#submit(
      new PortalStep(this.#result, (connection) => {
        connection.close({ type: 'P', name: this.#name })
        connection.sync()
      }),
    )
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
