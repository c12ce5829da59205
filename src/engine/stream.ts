// Rows in chunks, through a portal of its own. Outside a transaction it runs in one of its own, because a
// portal does not outlive the exchange that ends with Sync otherwise; it closes on every path.

import { SmartPgError, neverRan } from '../core/errors.ts'
import type { Fault } from '../core/fault.ts'
import { cannotTravel, mayTravel } from '../core/hint.ts'
import type { Wish } from '../core/route.ts'
import { BEGIN_FACTS } from '../core/statements.ts'
import type { Row, Statement } from '../core/types.ts'
import { within } from './clock.ts'
import type { Engine } from './engine.ts'
import { execute } from './execute.ts'
import type { Asked } from './execute.ts'
import type { Hold } from './hold.ts'
import { count, tell } from './settle.ts'

const BEGIN_READ: Statement = { sql: 'begin read only', parameters: [], facts: BEGIN_FACTS }
const BEGIN_WRITE: Statement = { sql: 'begin', parameters: [], facts: BEGIN_FACTS }
const COMMIT: Statement = {
  sql: 'commit',
  parameters: [],
  facts: { ...BEGIN_FACTS, verb: 'commit', summary: 'COMMIT' },
}

/** A cancel request is one connect and one message. */
const CANCEL_MS = 2_000

export interface StreamLimits {
  readonly chunkSize: number
  readonly signal: AbortSignal | undefined
  /** Longest time for the answer to each chunk, milliseconds. Default: as long as it takes. */
  readonly timeoutMs: number | undefined
  /** Where its caller wants it to run. */
  readonly wish?: Wish | undefined
}

/** Yields at most `chunkSize` rows at a time. The reader takes as long as it takes: no queryTimeout. */
export async function* stream(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  limits: StreamLimits,
): AsyncGenerator<Row[]> {
  const { signal, wish } = limits
  const startedAt = engine.clock.now()
  const own = hold.transaction === 'none' && !hold.inTransaction
  hold.untimed = true
  if (wish?.target === 'replica' && !mayTravel(statement.facts)) throw cannotTravel(statement.facts)
  // What is not known may write, which a read only transaction would refuse; unless its caller says that it only reads.
  const readOnly = statement.facts.safeOnReplica || wish?.target === 'replica'
  if (own) await begin(engine, hold, readOnly, { signal, wish })
  else await beginNow(engine, hold, signal)
  const times = { attempt: 1, startedAt, sentAt: engine.clock.now() }
  hold.sends(statement.facts)
  let fault: Fault | undefined
  try {
    yield* portalRows(engine, hold, statement, limits)
    if (own) await execute(engine, hold, COMMIT).catch((error: unknown) => kept(hold, readOnly, error))
  } catch (error) {
    fault = engine.faultOf(error, 'query')
    if (fault.dropsConnection) hold.discard = true
    throw error
  } finally {
    hold.untimed = false
    count(hold, statement, times, fault, engine.clock.now())
    tell(engine, hold, statement, times, fault)
    // On a connection that is gone there is nothing to end.
    if (own && hold.inTransaction && hold.pooled?.session.lost === null) await end(engine, hold, fault)
  }
}

/** All rows have been read: of what only reads nothing can be lost any more. */
function kept(hold: Hold, readOnly: boolean, error: unknown): void {
  if (!readOnly || hold.pooled === null || hold.pooled.session.lost === null) throw error
  hold.discard = true
}

/** The reader stopped early, so what the statement wrote by then stays; or the server failed, and nothing does. */
async function end(engine: Engine, hold: Hold, fault: Fault | undefined): Promise<void> {
  const committing = execute(engine, hold, COMMIT)
  if (fault === undefined) await committing
  else await committing.catch(() => undefined)
}

async function* portalRows(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  { chunkSize, signal, timeoutMs = 0 }: StreamLimits,
): AsyncGenerator<Row[]> {
  const { session } = hold.pooled!
  const portal = session.openPortal(statement)
  const read = (): Promise<Row[]> => {
    if (timeoutMs === 0) return portal.read(chunkSize)
    return within(engine.clock, timeoutMs, portal.read(chunkSize), () => {
      const error = tooLate(hold, statement, timeoutMs)
      // What it would still answer belongs to nobody; and without a cancel the server would work on, locks in hand.
      void session.cancel(CANCEL_MS).catch(() => undefined)
      session.destroy(error)
      return error
    })
  }
  try {
    for (;;) {
      signal?.throwIfAborted()
      const rows = await read()
      if (rows.length > 0) yield rows
      if (rows.length < chunkSize) return
    }
  } finally {
    await portal.close().catch(() => undefined)
  }
}

function tooLate({ node }: Hold, { facts }: Statement, timeoutMs: number): SmartPgError {
  const message = `No rows within ${timeoutMs} ms: ${facts.summary} on node '${node!.name}'.`
  return new SmartPgError('SMARTPG_QUERY_TIMEOUT', message, { node: node!.name, phase: 'stream' })
}

async function begin(engine: Engine, hold: Hold, readOnly: boolean, asked: Asked) {
  hold.transaction = readOnly && hold.answered === 0 ? 'read-only' : 'read-write'
  try {
    await execute(engine, hold, readOnly ? BEGIN_READ : BEGIN_WRITE, asked)
  } finally {
    hold.transaction = 'none'
  }
}

/** A BEGIN that still waits for a statement is sent by itself. */
async function beginNow(engine: Engine, hold: Hold, signal?: AbortSignal): Promise<void> {
  const unsent = hold.begin
  if (unsent === null) {
    if (hold.refusal !== null) throw hold.refusal
    return
  }
  const opening = hold.opens(unsent)
  hold.opening = null
  try {
    await execute(engine, hold, unsent, { signal })
    opening.ended(null, true)
  } catch (error) {
    const idle = hold.pooled !== null && hold.pooled.session.lost === null && !hold.inTransaction
    opening.ended(idle ? error : null, !neverRan(error) && !signal?.aborted)
    throw error
  }
}
