// One statement on its way through the spine: what every step that has a part in it knows of it.

import type { CommitSent } from '../core/commit-fate.ts'
import type { Fault } from '../core/fault.ts'
import type { Wish } from '../core/route.ts'
import type { Statement } from '../core/types.ts'
import type { Engine } from './engine.ts'
import type { Hold, Opening } from './hold.ts'
import type { Node } from './node.ts'
import type { ReadSession } from './read-session.ts'

/** One statement on its way, for every step that has a part in it. */
export interface Run {
  readonly engine: Engine
  readonly hold: Hold
  readonly statement: Statement
  /** Where its caller wants it to run. */
  readonly wish: Wish | undefined
  /** What it must see, and what must see it. */
  readonly session: ReadSession | undefined
  readonly signal: AbortSignal | undefined
  /** How long it may take, as its caller said. */
  readonly ownTimeoutMs: number | undefined
  readonly startedAt: number
  /** Nodes that could not answer it so far. */
  readonly failedOn: Node[]
  attempt: number
  /** For a connection, in all tries before this one together. */
  waitedMs: number
  /** When this try began. */
  triedAt: number
  sentAt: number
  wasInTransaction: boolean
  /** The BEGIN that it took along. */
  begin: Statement | null
  /** Others wait for what becomes of it. */
  opening: Opening | null
  /** What the BEGIN itself failed with, and whether it was sent at all. */
  refusal: unknown
  beginSent: boolean
  /** Its stale name was the reason to begin its transaction anew. */
  healed: boolean
  /** Nothing of its own lease stands before it or leaves with it: its time is its own. */
  alone: boolean
  /** How long it may take, milliseconds; 0: as long as it takes. */
  timeoutMs: number
  /** Taking its time is in its nature. */
  exempt: boolean
  /** The connection was gone before this statement: its holder had not noticed yet. */
  wasLost: boolean
  /** The replicas have been looked at on its behalf. */
  looked: boolean
  /** For a primary, while there was none, in all tries together. */
  searchedMs: number
  /** It has been made sure on its behalf who the primary is. */
  madeSure: boolean
  /** It has waited for a replica to show what it must see. */
  awaitedReplay: boolean
  /** It runs on the primary because no replica would do, and counts there. */
  helped: boolean
  /** Servers that it came to as primary and that were none. */
  demotions: number
  /** It has just been refused by one, which has said of itself that it is a standby. */
  demoted: boolean
  saidStandby: boolean
  /** It is a COMMIT whose answer, if it is lost, may be asked for. */
  commit: CommitSent | null
  /** What lost the answer to that, while nobody has been told. */
  untold: Fault | null
  /** What the try before ended with. */
  failure: unknown
}

/** It had its connection, or gave up, at `until`; what comes now is another try. */
export function hasWaited(run: Run, until: number): void {
  run.waitedMs += until - run.triedAt
  run.triedAt = until
}

/** The statement as it is sent: named as late as possible, because the name is about the server's memory. */
export function named({ engine, hold, statement, wasInTransaction, attempt }: Run): Statement {
  const name = engine.nameOf(statement, hold.node!, wasInTransaction, attempt)
  if (name === undefined) return statement
  const { sql, parameters, facts } = statement
  return { sql, parameters, facts, name }
}
