// One thing at a time on the wire: what is sent, and what is made of the answer once ReadyForQuery has come.

import { Query } from 'pg'
import type { Asker, Row, Rows, Statement } from '../core/types.ts'
import type { PortalStep } from './cursor.ts'
import type { PgClient } from './pg-client.ts'
import { coded } from './values.ts'

/** It starts when the one before has ended. */
export interface Exchange {
  /** Of the session's own doing: nobody waits for it. */
  readonly housekeeping: boolean
  start(): void
  /** ReadyForQuery has come. */
  ready(): void
  /** The connection is gone. */
  fail(reason: Error): void
}

/** The session, as far as an exchange needs it. */
export interface Line {
  readonly client: PgClient
  readonly node: string
  /** Hands a query to pg. */
  submit(query: Query): void
  /** The name on this connection; it counts as used now. */
  use(name: string): string
  /** pg shall parse this name again. */
  forget(name: string): void
  /** The name has run once more; how often since it was prepared. */
  ran(name: string): number
  /** Takes a failed named statement's name out of the way; true when it may run once more, now. */
  heal(error: Error, name: string, statement: Statement): boolean
  /** Puts an exchange on the wire, in its own place. */
  begin(exchange: Exchange): void
}

/** A statement and its answer. */
export class QueryExchange implements Exchange {
  readonly housekeeping = false
  readonly #line: Line
  readonly #statement: Statement
  readonly #values: unknown[]
  readonly #asker: Asker
  #name: string | undefined
  #failure: Error | null = null
  #rows: Rows | null = null
  #healed = false

  constructor(line: Line, statement: Statement, values: unknown[], asker: Asker) {
    this.#line = line
    this.#statement = statement
    this.#values = values
    this.#asker = asker
  }

  start(): void {
    const { sql: text, name } = this.#statement
    const values = this.#values
    this.#name = name === undefined ? undefined : this.#line.use(name)
    // A Query instead of a config, which pg would clone property by property.
    const query = new Query(text, values as never, (error: Error | null | undefined, result: unknown) => {
      if (error) this.#failure ??= error
      else this.#rows ??= rowsOf(result as PgResult | PgResult[])
    }) as Query & { name?: string }
    if (this.#name !== undefined) query.name = this.#name
    this.#line.submit(query)
  }

  ready(): void {
    const failure = this.#failure
    const name = this.#name
    const executions = name === undefined ? 0 : this.#line.ran(name)
    if (failure === null) {
      const rows = this.#rows ?? NO_ROWS
      this.#asker.resolve(name === undefined ? rows : { ...rows, executions })
    } else if (name !== undefined && this.#line.heal(failure, name, this.#statement) && !this.#healed) {
      this.#healed = true
      this.#failure = null
      this.#line.begin(this)
    } else {
      this.#asker.reject(failure)
    }
  }

  fail(reason: Error): void {
    this.#asker.reject(coded(this.#line.node, this.#failure ?? reason))
  }
}

/** One step of a portal. */
export class PortalExchange implements Exchange {
  readonly housekeeping = false
  readonly #line: Line
  readonly #step: PortalStep

  constructor(line: Line, step: PortalStep) {
    this.#line = line
    this.#step = step
  }

  start(): void {
    this.#line.client.query(this.#step as never)
  }

  ready(): void {
    this.#step.ready()
  }

  fail(reason: Error): void {
    this.#step.fail(coded(this.#line.node, reason))
  }
}

/** A name the server need not keep; that it is gone already is no failure of anybody's. */
export class Deallocation implements Exchange {
  readonly housekeeping = true
  readonly #line: Line
  readonly #name: string

  constructor(line: Line, name: string) {
    this.#line = line
    this.#name = name
  }

  start(): void {
    this.#line.forget(this.#name)
    this.#line.client.query(`deallocate "${this.#name}"`, () => undefined)
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
function rowsOf(result: PgResult | PgResult[]): Rows {
  if (!Array.isArray(result)) return { rows: result.rows, command: result.command, count: result.rowCount }
  return { rows: [], command: result.at(-1)?.command ?? null, count: null }
}
