// One thing that a caller does, while it is under way: its statements with their stamps, what it is told of each, and
// whether that is right.

import { CompiledQuery } from 'kysely'
import type { InflightQueryAbortStrategy, Kysely, QueryResult } from 'kysely'
import { toldBy } from './ledger.ts'
import type { Ledger } from './ledger.ts'
import { stampOf } from './stamps.ts'
import type { Stamp } from './stamps.ts'
import { INSERT_RETURNING, LOOKS, SLOW_LOOK, TENANT } from './texts.ts'
import type { Dice, World } from './world.ts'

// oxlint-disable-next-line typescript/no-explicit-any -- no schema: texts are handed over as they are
export type Db = Kysely<any>

/** How long things may take, milliseconds. */
export interface Budgets {
  /** One statement, with every wait and every try that it may have. */
  readonly statementMs: number
  /** More for what has no deadline of its own: until a silent line is known to be dead. */
  readonly silenceMs: number
}

export interface Caller {
  readonly name: string
  readonly db: Db
  readonly world: World
  readonly dice: Dice
  readonly ledger: Ledger
  readonly budgets: Budgets
  /** Behind a pooler nobody may leave anything in a session. */
  readonly leavesTraces: boolean
}

/** One thing that a caller does, while it is under way. */
export class Doing {
  readonly caller: Caller
  readonly name: string
  #statements = 0

  constructor(caller: Caller, name: string) {
    this.caller = caller
    this.name = name
  }

  stamp(place: 'alone' | 'in a transaction' = 'alone'): Stamp {
    return stampOf(this.name, ++this.#statements, place)
  }

  /** Runs one text and looks whether the answer is its own. */
  async run(
    on: Db,
    sql: string,
    stamp: Stamp,
    more: readonly unknown[] = [],
    signal?: Abort,
  ): Promise<QueryResult<Row>> {
    const answer = await on.executeQuery<Row>(compiled(sql, [stamp, ...more]), signal)
    this.looksAt(sql, stamp, answer.rows)
    return answer
  }

  /** The answer must be to this very statement. */
  looksAt(sql: string, stamp: Stamp, rows: readonly Row[]): void {
    const strange = rows.find((row) => row['stamp'] !== stamp || ('text' in row && row['text'] !== textOfLook(sql)))
    const [one = {}] = rows
    if (strange !== undefined) this.#strange(stamp, strange)
    else if (ONE_ROW.has(sql) && rows.length !== 1) this.#strange(stamp, one)
  }

  /** One write by itself. */
  async write(on: Db, sql: string, more: readonly unknown[] = [], signal?: Abort): Promise<void> {
    const stamp = this.stamp()
    await this.unit([stamp], () => this.run(on, sql, stamp, more, signal), signal)
  }

  /** Writes that stand or fall together. */
  async unit(stamps: readonly Stamp[], work: () => Promise<unknown>, abort?: Abort): Promise<void> {
    const { ledger } = this.caller
    try {
      await work()
    } catch (error) {
      ledger.tell(stamps, toldBy(error, abort?.signal), error)
      throw error
    }
    ledger.tell(stamps, 'acknowledged')
  }

  #strange(stamp: Stamp, row: Row): void {
    this.caller.ledger.complain("an answer is somebody else's", `${stamp} was answered with ${JSON.stringify(row)}`)
  }
}

export type Row = Record<string, unknown>

export interface Abort {
  readonly signal: AbortSignal
  readonly inflightQueryAbortStrategy?: InflightQueryAbortStrategy
}

export function compiled(sql: string, parameters: readonly unknown[] = []): CompiledQuery {
  const raw = CompiledQuery.raw(sql, [...parameters])
  // What a builder made is sent on other ways than what somebody wrote.
  return sql.startsWith('select') ? ({ ...raw, query: { kind: 'SelectQueryNode' } } as unknown as CompiledQuery) : raw
}

const ONE_ROW = new Set([...LOOKS, SLOW_LOOK, TENANT, INSERT_RETURNING])

function textOfLook(sql: string): string {
  return sql === SLOW_LOOK ? 'slow' : `${LOOKS.indexOf(sql)}`
}
