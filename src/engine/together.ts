// Statements of one lease that leave in one write and under one Sync: those of a batch, and the BEGIN of a
// transaction with the first statement in it. Behind one that fails nothing is executed.

import { NotExecutedError, neverRan } from '../core/errors.ts'
import type { Rows, Session, Statement } from '../core/types.ts'

/** Gathers statements until as many have come as were announced, and sends them then. */
export class Together {
  readonly #node: string
  readonly #session: Session
  readonly #count: number
  readonly #begin: Statement | null
  #begun: Promise<Rows> | null = null
  readonly #gathered: Statement[] = []
  readonly #answers: Promise<readonly Promise<Rows>[]>
  #sent!: (answers: readonly Promise<Rows>[]) => void
  #refused!: (reason: Error) => void

  /** `count` statements will be added, behind `begin` if there is one. */
  constructor(node: string, session: Session, count: number, begin: Statement | null) {
    this.#node = node
    this.#session = session
    this.#count = count
    this.#begin = begin
    this.#answers = new Promise((resolve, reject) => {
      this.#sent = resolve
      this.#refused = reject
    })
    this.#answers.catch(() => undefined)
  }

  /** All have come, and have been sent. */
  get full(): boolean {
    return this.#gathered.length === this.#count
  }

  /** Why the BEGIN before them did not take place, if it did not, and whether it was sent. */
  async refusal(): Promise<[refusal: unknown, sent: boolean]> {
    if (this.#session.lost !== null) return [null, true]
    if (!this.full) return [new Error('not sent'), false]
    if (this.#begun === null) return [null, true]
    return this.#begun.then(
      () => [null, true],
      (error: unknown) => [error, !neverRan(error)],
    )
  }

  /** One that was announced will not come: the others are not sent. */
  refuse(cause: unknown): void {
    const message = 'The statement was not sent, because another that was to be sent with it failed before.'
    if (!this.full) this.#refused(new NotExecutedError(this.#node, message, 'send', cause))
  }

  async add(statement: Statement): Promise<Rows> {
    const at = this.#gathered.push(statement) - 1
    if (this.full) this.#send()
    return (await this.#answers)[at]!
  }

  #send(): void {
    const begin = this.#begin === null ? [] : [this.#begin]
    const answers = this.#session.sendTogether([...begin, ...this.#gathered])
    // Each is awaited by whoever added it, a little later than it may fail.
    for (const answer of answers) answer.catch(() => undefined)
    if (begin.length > 0) this.#begun = answers[0]!
    this.#sent(answers.slice(begin.length))
  }
}

/** A text that only the simple protocol takes, or that may ask for data, is sent by itself. */
export function goesTogether({ facts }: Statement): boolean {
  return !facts.multiple && facts.verb !== 'copy'
}
