// Statements of one lease that leave in one write and under one Sync: those of a batch, and the BEGIN of a
// transaction with the first statement in it. Behind one that fails nothing is executed.

import { NotExecutedError } from '../core/errors.ts'
import type { Rows, Session, Statement } from '../core/types.ts'

/** Gathers statements until as many have come as were announced, and sends them then. */
export class Together {
  readonly #session: Session
  readonly #count: number
  readonly #begin: Statement | null
  readonly #gathered: Statement[] = []
  readonly #answers: Promise<readonly Promise<Rows>[]>
  #sent!: (answers: readonly Promise<Rows>[]) => void

  /** `count` statements will be added, behind `begin` if there is one. */
  constructor(session: Session, count: number, begin: Statement | null) {
    this.#session = session
    this.#count = count
    this.#begin = begin
    this.#answers = new Promise((resolve) => (this.#sent = resolve))
  }

  async add(statement: Statement): Promise<Rows> {
    const at = this.#gathered.push(statement) - 1
    if (at + 1 === this.#count) this.#send()
    return (await this.#answers)[at]!
  }

  #send(): void {
    const begin = this.#begin === null ? [] : [this.#begin]
    const answers = this.#session.sendTogether([...begin, ...this.#gathered])
    // Each is awaited by whoever added it, a little later than it may fail.
    for (const answer of answers) answer.catch(() => undefined)
    this.#sent(answers.slice(begin.length))
  }
}

/** Sends a statement in one write with the BEGIN before it; of a BEGIN that fails this is the failure. */
export async function withBegin(session: Session, begin: Statement, statement: Statement): Promise<Rows> {
  const [begun, answered] = session.sendTogether([begin, statement])
  begun!.catch(() => undefined)
  try {
    return await answered!
  } catch (error) {
    if (error instanceof NotExecutedError) await begun
    throw error
  }
}

/** A text that only the simple protocol takes, or that may ask for data, is sent by itself. */
export function goesTogether({ facts }: Statement): boolean {
  return !facts.multiple && facts.verb !== 'copy'
}
