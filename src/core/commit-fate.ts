// A COMMIT was sent and its answer is lost: has the server kept the transaction? PostgreSQL remembers it by the
// transaction's id, so whoever had the id before can ask, but only the very server that gave it, and only while that has
// not crashed: afterwards the same id is given to a stranger, and the answer is his. What cannot be known for certain is
// said to be unknown, never guessed.

import type { Facts, TransactionStatus } from './types.ts'

/** Which transaction of which server. */
export interface TransactionIdentity {
  /** `pg_current_xact_id()`, in digits. */
  readonly xid: string
  /** When the server's process started: no two servers agree in it to the microsecond. */
  readonly server: string
}

/** What is known of one transaction's id, and what has been asked. */
export class TransactionId {
  #identity: TransactionIdentity | null = null
  /** How many possible writes stood before the last question that was sent, and before the last that was answered. */
  #asked = 0
  #answered = 0
  /** Settles when the questions that are under way have been answered, or never will be. */
  pending: Promise<void> | null = null

  get identity(): TransactionIdentity | null {
    return this.#identity
  }

  /** Whether something was sent that may have been given an id since it was asked for. */
  wantsAsking(writes: number): boolean {
    return this.#identity === null && writes > this.#asked
  }

  /** Whether all that there is to know is known: the id, or that nothing of what was sent has needed one. */
  inHand(writes: number): boolean {
    return this.#identity !== null || writes <= this.#answered
  }

  asks(writes: number): void {
    this.#asked = writes
  }

  answers(identity: TransactionIdentity | null, writes: number): void {
    this.#identity ??= identity
    this.#answered = writes
  }
}

/** A COMMIT that may be lost: what was known when it was sent. */
export interface CommitSent {
  /** The transaction had failed before: COMMIT rolls it back. */
  readonly status: TransactionStatus
  /** Statements of it that may have written. */
  readonly writes: number
  readonly id: TransactionId | null
}

/** What became of the transaction. */
export interface CommitFate {
  readonly is: 'kept' | 'undone' | 'unknown'
  readonly because: string
}

/** It depends on what a server says of this one. */
export interface ToBeAsked {
  readonly is: 'to be asked'
  readonly identity: TransactionIdentity
}

/** What can be said without asking, or whom to ask for. `behindPooler`: undefined while nobody knows. */
export function fateOfCommit(
  { status, writes, id }: CommitSent,
  behindPooler: boolean | undefined,
): CommitFate | ToBeAsked {
  if (status === 'failed') return { is: 'undone', because: 'the transaction had failed before' }
  if (writes === 0) return { is: 'kept', because: 'it was all reads' }
  if (id === null || !id.inHand(writes)) return unknown('its id was not known when COMMIT was sent')
  // What is sent by NOTIFY, and what foreign tables keep, depends on COMMIT all the same.
  if (id.identity === null) return unknown('it had no id to be asked for')
  if (behindPooler !== false) return unknown('behind a pooler nobody knows which server answers')
  return { is: 'to be asked', identity: id.identity }
}

/** What a connection that stood before COMMIT was sent has answered. */
export interface StatusAnswer {
  /** `pg_xact_status`; null when the server has forgotten. */
  readonly status: string | null
  readonly server: string
  /** Its backend is the one that it was opened with. */
  readonly ownBackend: boolean
}

/** What that says: `ask another` because this one is not to be believed, `ask again` because nothing is decided yet. */
export function fateByStatus(
  { server }: TransactionIdentity,
  answer: StatusAnswer,
): CommitFate | 'ask another' | 'ask again' {
  if (answer.server !== server || !answer.ownBackend) return 'ask another'
  switch (answer.status) {
    case 'committed':
      return { is: 'kept', because: 'the server says that it is committed' }
    case 'aborted':
      return { is: 'undone', because: 'the server says that it was rolled back' }
    case 'in progress':
      return 'ask again'
    default:
      return unknown('the server does not remember it')
  }
}

function unknown(because: string): CommitFate {
  return { is: 'unknown', because }
}

const ENDS = new Set(['commit', 'end', 'prepare', 'rollback', 'abort'])
const QUERIES = new Set(['', 'select', 'with', 'values', 'table', 'insert', 'update', 'delete', 'merge'])

/** Whether this may be the end of the transaction it stands in, or the beginning of another. */
export function mayEndTransaction(facts: EndFacts): boolean {
  return (facts.kind === 'transaction' && ENDS.has(facts.verb)) || mayHideControl(facts)
}

/** Whether this may have kept what its transaction has done so far. */
export function mayCommit(facts: EndFacts): boolean {
  const { kind, verb } = facts
  const keeps = verb === 'commit' || verb === 'end' || verb === 'prepare'
  return (kind === 'transaction' && keeps) || mayHideControl(facts)
}

type EndFacts = Pick<Facts, 'kind' | 'verb' | 'multiple' | 'stateful'>

/** A text of several statements with transaction control among them, or one that could not be read. */
function mayHideControl({ kind, verb, multiple, stateful }: EndFacts): boolean {
  return (multiple && stateful) || (kind === 'unknown' && QUERIES.has(verb))
}

/** Whether it is a COMMIT after which nothing of its transaction goes on. */
export function isPlainCommit(sql: string): boolean {
  return /^\s*(?:commit|end)(?:\s+(?:work|transaction))?\s*;?\s*$/i.test(sql)
}
