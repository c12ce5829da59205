// The spine: one statement, top to bottom. It waits for a connection, the server, and a backoff; everything
// else is a synchronous question to core. Each step says why it stands where it stands.

import { mayShare } from '../core/lane.ts'
import { NotExecutedError, OutcomeUnknownError, SmartPgError, neverRan, releasedError } from '../core/errors.ts'
import { nextStep } from '../core/retry.ts'
import { BEGIN_FACTS } from '../core/statements.ts'
import type { NextStep } from '../core/retry.ts'
import type { Permit } from '../core/breaker.ts'
import type { Fault } from '../core/fault.ts'
import type { RouteReason } from '../core/cells.ts'
import type { Facts, Rows, Statement } from '../core/types.ts'
import { pause } from './clock.ts'
import type { Engine } from './engine.ts'
import type { Hold, Opening } from './hold.ts'
import type { Node } from './node.ts'
import type { LanePassage } from './passage.ts'
import type { PooledSession } from './pooled-session.ts'
import type { Seat } from './seat.ts'
import { afterwards, count, tell, watchPlan } from './settle.ts'
import { goesTogether } from './together.ts'

const NOTHING: Rows = { rows: [], command: null, count: null }
const ROLLBACK: Statement = {
  sql: 'rollback',
  parameters: [],
  facts: { ...BEGIN_FACTS, verb: 'rollback', summary: 'ROLLBACK' },
}

/** One statement on its way, for every step that has a part in it. */
interface Run {
  readonly engine: Engine
  readonly hold: Hold
  readonly statement: Statement
  /** Raw SQL of the user. */
  readonly raw: boolean
  readonly signal: AbortSignal | undefined
  readonly startedAt: number
  /** Nodes that could not answer it so far. */
  readonly failedOn: Node[]
  attempt: number
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
  /** The connection was gone before this statement: its holder had not noticed yet. */
  wasLost: boolean
  /** The replicas have been looked at on its behalf. */
  looked: boolean
  /** What the try before ended with. */
  failure: unknown
}

/** Runs one statement for a lease. Rejects with PostgreSQL's error, with one of ours, or with the signal's reason. */
export async function execute(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  raw: boolean,
  signal?: AbortSignal,
): Promise<Rows> {
  const startedAt = engine.clock.now()
  const run: Run = {
    engine,
    hold,
    statement,
    raw,
    signal,
    startedAt,
    failedOn: [],
    attempt: 0,
    sentAt: startedAt,
    wasInTransaction: false,
    begin: null,
    opening: null,
    refusal: null,
    beginSent: true,
    healed: false,
    wasLost: false,
    looked: false,
    failure: undefined,
  }
  try {
    for (;;) {
      run.attempt++
      refuseStrangersSequences(run)
      // What comes while BEGIN is under way belongs into the transaction, whatever becomes of it.
      while (hold.opening !== null && hold.together === null && run.opening === null) await hold.opening
      // First the connection: its node decides all that follows. A value when there is one, a promise when not.
      const bound = hold.bound ?? bind(run)
      const seat = bound instanceof Promise ? await bound : bound
      // Aborted while waiting: nothing was sent, nothing will be.
      if (signal?.aborted) throw unsent(hold, signal)
      // A cancel request that is still on its way would hit this statement.
      if (seat.cancelling !== null) await seat.cancelling
      // Asked for only now, when the connection is there and the circuit has been asked: a BEGIN may wait for its statement.
      const unsaid = savedRoundTrip(run) ?? neverBegan(run)
      if (unsaid !== null) return unsaid
      beforeSending(run, seat)
      try {
        const rows = await deliver(run, seat)
        answered(run, seat, rows)
        return rows
      } catch (error) {
        if (waitsAlone(run, error)) continue
        const step = failed(run, seat, error)
        if (step === null) throw hold.failure
        // The backoff last: the connection is back in its pool while nobody needs it.
        if (step.after > 0) await pause(engine.clock, step.after, signal)
      }
    }
  } finally {
    // Whoever waited for the BEGIN that it took along goes on now, and finds what has become of it.
    run.opening?.ended(run.refusal, run.beginSent)
  }
}

/** The answer to a BEGIN that waits for the first statement, and to the end of a transaction that never began. */
function savedRoundTrip({ hold, statement }: Run): Rows | null {
  if (statement === hold.lazy) {
    hold.lazy = null
    hold.begin = statement
    return { rows: [], command: 'BEGIN', count: null }
  }
  if (hold.begin === null || statement.facts.kind !== 'transaction' || hold.together !== null) return null
  if (statement.sql !== 'commit' && statement.sql !== 'rollback') return null
  hold.begin = null
  return { rows: [], command: statement.sql.toUpperCase(), count: null }
}

/** Nothing runs in a transaction that never began: the reason is told again, and its COMMIT is a ROLLBACK. */
function neverBegan({ hold, statement: { sql, facts } }: Run): Rows | null {
  if (hold.refusal === null) return null
  if (facts.kind !== 'transaction' || (sql !== 'commit' && sql !== 'rollback')) throw hold.refusal
  hold.refusal = null
  return { rows: [], command: 'ROLLBACK', count: null }
}

/** A BEGIN that still waits for a statement is sent by itself. */
export async function beginNow(engine: Engine, hold: Hold, signal?: AbortSignal): Promise<void> {
  const { begin } = hold
  if (begin === null) {
    if (hold.refusal !== null) throw hold.refusal
    return
  }
  const opening = hold.opens(begin)
  hold.opening = null
  try {
    await execute(engine, hold, begin, true, signal)
    opening.ended(null, true)
  } catch (error) {
    const idle = hold.pooled !== null && hold.pooled.session.lost === null && !hold.inTransaction
    opening.ended(idle ? error : null, !neverRan(error) && !signal?.aborted)
    throw error
  }
}

/** Not async, because most statements are sent as they are. */
function deliver(run: Run, seat: Seat): Promise<Rows> {
  const { hold, begin } = run
  // Named as late as possible: the name is about the server's memory, not about the statement.
  const statement = named(run)
  const { together } = hold
  if (together !== null) {
    const answer = together.add(statement)
    if (together.full) hold.together = null
    return answer
  }
  return begin === null ? seat.send(statement) : beginWith(run, seat, begin, statement)
}

/** BEGIN and the first statement in one write and under one Sync: where the one fails the other is not executed. */
async function beginWith(run: Run, seat: Seat, begin: Statement, statement: Statement): Promise<Rows> {
  run.opening ??= run.hold.opens(begin)
  run.hold.begin = null
  let begun: Promise<Rows> = Promise.resolve(NOTHING)
  try {
    const pair = goesTogether(statement) ? seat.session.sendTogether([begin, statement]) : null
    begun = pair?.[0] ?? seat.session.send(begin)
    begun.catch(() => undefined)
    const answer = pair?.[1] ?? begun.then(() => seat.send(statement))
    return await answer.catch((error: unknown) => healed(run, seat, begin, statement, error))
  } catch (error) {
    const refusal = await begun.then(
      () => null,
      (reason: unknown) => reason,
    )
    // A statement that cannot be sent holds back the BEGIN with it, and is not what the BEGIN failed for.
    throw error instanceof NotExecutedError && refusal !== null ? refusal : error
  } finally {
    const refusal = await begun.then(
      () => null,
      (reason: unknown) => reason,
    )
    run.refusal = seat.session.lost === null ? refusal : null
    run.beginSent = !neverRan(refusal)
  }
}

/** The transaction is as new: after a stale name of ours it begins again, once, and the statement is prepared anew. */
async function healed(run: Run, seat: Seat, begin: Statement, { name }: Statement, error: unknown): Promise<Rows> {
  const { engine } = run
  const { lost, status } = seat.session
  const stale = name !== undefined && engine.faultOf(error, 'query').class === 'prepared-statement'
  if (!stale || run.healed || lost !== null || status === 'idle') throw error
  run.healed = true
  await seat.session.send(ROLLBACK)
  const [begun, answer] = seat.session.sendTogether([begin, named(run)])
  begun!.catch(() => undefined)
  return answer!
}

/** The short lock timeout of shared connections is ours: whoever meets it was not executed, and waits elsewhere as he said. */
function waitsAlone({ hold, engine }: Run, error: unknown): boolean {
  const { passage, node } = hold
  if (passage === null || !node!.pool.pipelineWrites) return false
  const { code, routine } = error as { code?: string; routine?: string }
  // NOWAIT has the same code, and says so from elsewhere.
  if (code !== '55P03' || routine !== 'ProcessInterrupts') return false
  node!.pool.lanes.ranIntoLock(passage)
  const now = engine.clock.now()
  node!.settleQuery(passage.permit, 'ignore', now)
  passage.permit = null
  afterwards(engine, hold, passage, now)
  hold.alone = true
  return true
}

function named({ engine, hold, statement, wasInTransaction }: Run): Statement {
  const name = engine.nameOf(statement, hold.node!, wasInTransaction)
  if (name === undefined) return statement
  const { sql, parameters, facts } = statement
  return { sql, parameters, facts, name }
}

function unsent(hold: Hold, { reason }: AbortSignal): unknown {
  const { passage } = hold
  if (passage !== null) {
    if (passage.permit !== null) hold.node!.giveBackQuery(passage.permit)
    passage.leave()
    hold.passage = null
  }
  return reason
}

/** A connection for the lease's first statement, or for the first after a read on a replica. */
function bind(run: Run): Seat | Promise<Seat> {
  const { engine, hold, signal } = run
  if (signal?.aborted) throw signal.reason
  if (hold.ended) throw releasedError()
  // What follows a read on a replica may be a write, and one session must see both: the primary's. Whoever sends a
  // second statement was promised one session, wherever the first one rode.
  if (hold.readOnReplica || hold.settled > 0) hold.forcePrimary = true
  if (hold.readOnReplica) hold.release()
  const choice = engine.cluster.route(hold, run.statement.facts, run.raw, run.failedOn)
  if (choice === null) return look(run)
  const { node, because } = choice
  // The breaker after the route, because it belongs to the server; before the queue, because nobody shall wait
  // for a server that does not answer.
  const permit = node.admitQuery(engine.clock.now())
  if (permit === null) throw unserved(run, node, node.circuitOpen())
  if (rides(run, node)) {
    const passage = node.pool.lane(run.statement.facts)
    if (passage === null) return waitForLane(run, node, because, permit)
    hold.ride(passage, node, because, permit)
    return passage
  }
  const pooled = node.pool.take()
  if (pooled === null) return wait(run, node, because, permit)
  hold.take(pooled, node, because, permit)
  return engine.onReserve === undefined ? pooled : reserved(engine, hold, pooled)
}

/** The first statement of a lease that leaves nothing behind shares a connection; a second was promised one session. */
function rides({ engine, hold, statement }: Run, { pool }: Node): boolean {
  if (!pool.sharing || engine.onReserve !== undefined || hold.alone) return false
  // What keeps something although it fails (CREATE INDEX CONCURRENTLY) must not be given up for a lock.
  if (pool.pipelineWrites && statement.facts.kind === 'ddl') return false
  return hold.transaction === 'none' && hold.settled === 0 && !hold.untimed && mayShare(statement.facts)
}

/** `lastval()` on a connection that others have used answers with their value. */
function refuseStrangersSequences({ hold, statement }: Run): void {
  const { functions, tablesWritten } = statement.facts
  if (functions.length === 0 || tablesWritten.length > 0 || hold.transaction !== 'none') return
  if (hold.pooled !== null && !hold.rode) return
  const asks = functions.find((name) => /^(pg_catalog\.)?(currval|lastval)$/.test(name))
  if (asks === undefined || functions.some((name) => name.endsWith('nextval'))) return
  throw new SmartPgError(
    'SMARTPG_INVALID_QUERY',
    `${asks}() would answer with somebody else's value: what was inserted before went over a connection that others use.`,
    { phase: 'send', hint: 'Use RETURNING in the insert, or run both in one db.transaction().' },
  )
}

/** No replica is known to be fit, and the primary may not help out: look at them once, then decide. */
async function look(run: Run): Promise<Seat> {
  const { engine, failedOn } = run
  if (run.looked) throw engine.cluster.noReplica(failedOn, run.failure)
  run.looked = true
  await engine.look()
  return bind(run)
}

async function wait(run: Run, node: Node, because: RouteReason, permit: Permit): Promise<Seat> {
  const { engine, hold, signal } = run
  let pooled: PooledSession
  try {
    pooled = await node.pool.acquire({ signal })
  } catch (error) {
    return elsewhere(run, node, permit, error)
  }
  if (hold.ended) {
    // Nobody awaited this statement, and the callback it stood in is over: nobody would give the connection back.
    node.giveBackQuery(permit)
    node.pool.release(pooled)
    throw releasedError()
  }
  hold.take(pooled, node, because, permit)
  return engine.onReserve === undefined ? pooled : reserved(engine, hold, pooled)
}

async function waitForLane(run: Run, node: Node, because: RouteReason, permit: Permit): Promise<Seat> {
  const { hold, signal, statement } = run
  let passage: LanePassage
  try {
    passage = await node.pool.waitForLane(statement.facts, { signal })
  } catch (error) {
    return elsewhere(run, node, permit, error)
  }
  if (hold.ended) {
    node.giveBackQuery(permit)
    passage.leave()
    throw releasedError()
  }
  hold.ride(passage, node, because, permit)
  return passage
}

/** The pool has tried for as long as it may. A replica is not the only one who can answer. */
function elsewhere(run: Run, node: Node, permit: Permit, error: unknown): Seat | Promise<Seat> {
  node.giveBackQuery(permit)
  if (node.role === 'primary' || run.signal?.aborted) throw unserved(run, node, error)
  run.failedOn.push(node)
  run.failure = error
  return bind(run)
}

/** It never got a connection: counted and told as a failed query all the same. */
function unserved(run: Run, node: Node, error: unknown): unknown {
  const { engine, hold, statement } = run
  const fault = engine.faultOf(error, 'query')
  hold.node = node
  count(hold, statement, run, fault, engine.clock.now())
  tell(engine, hold, statement, run, fault)
  return error
}

/** The user's hook sets up the session before the lease's first statement, on every lease. */
async function reserved(engine: Engine, hold: Hold, pooled: PooledSession): Promise<PooledSession> {
  try {
    await engine.onReserve!(engine.hookConnection(pooled.session))
    return pooled
  } catch (error) {
    hold.release('error')
    throw error
  }
}

function beforeSending(run: Run, seat: Seat): void {
  const { engine, hold, statement } = run
  const { facts } = statement
  const timed = engine.config.queryTimeoutMs > 0 && !hold.untimed && !hold.keepsSession && !takesItsTime(facts)
  run.sentAt = engine.clock.now()
  run.wasLost = seat.session.lost !== null
  // Nobody opens a transaction on a connection that others use.
  const belongs = hold.transaction !== 'none' && facts !== BEGIN_FACTS
  run.wasInTransaction = hold.passage === null && (hold.inTransaction || belongs || hold.together !== null)
  run.begin = hold.begin
  seat.sends(run.sentAt, facts.summary, timed)
  hold.sends(facts)
}

/** DDL, COPY, VACUUM, CALL, and the lock that migrations wait for: as long as they take is long enough. */
function takesItsTime({ kind, verb, functions }: Facts): boolean {
  if (kind === 'ddl' || verb === 'copy') return true
  if (kind === 'unknown') return verb !== 'select' && verb !== 'with'
  return functions.some((name) => name.startsWith('pg_advisory'))
}

function answered(run: Run, seat: Seat, rows: Rows): void {
  const { engine, hold, statement } = run
  const now = engine.clock.now()
  hold.answered++
  hold.settled++
  if (rows.executions !== undefined) watchPlan(engine, hold, seat, statement, run, rows.executions, now)
  afterwards(engine, hold, seat, now)
  hold.node!.settleQuery(seat.permit, 'success', now)
  seat.permit = null
  count(hold, statement, run, undefined, now)
  tell(engine, hold, statement, run, undefined)
}

/** The failure, and what it means. Of several under way one ran into the deadline; the others failed for their own reasons. */
function whatFailed(run: Run, seat: Seat, error: unknown): { cause: unknown; fault: Fault } {
  const { engine } = run
  const fault = engine.faultOf(error, 'query')
  if (error instanceof NotExecutedError) return { cause: error, fault: { ...fault, code: error.code } }
  const ended = fault.code === '57014' || fault.dropsConnection || seat.session.lost !== null
  if (!seat.timedOut || !ended) return { cause: error, fault }
  const cause = timedOut(run, error)
  return { cause, fault: engine.faultOf(cause, 'query') }
}

/** Settles what failed; null: throw `hold.failure`. Otherwise the connection is given back and the next try may go. */
function failed(run: Run, seat: Seat, error: unknown): (NextStep & { do: 'retry' }) | null {
  const { engine, hold, statement, attempt, wasInTransaction, failedOn, begin } = run
  const node = hold.node!
  const { cause, fault } = whatFailed(run, seat, error)
  const now = engine.clock.now()
  afterwards(engine, hold, seat, now)
  const sent = !run.wasLost && !neverRan(error)
  // What was never sent says nothing about the server.
  const counts = sent && (!fault.dropsConnection || fault.class === 'cancelled' || node.isNewLoss(seat.session))
  node.settleQuery(seat.permit, counts ? fault.breaker : 'ignore', now, error)
  seat.permit = null
  count(hold, statement, run, fault, now)
  if (fault.dropsConnection && hold.pooled !== null) hold.discard = true
  const { attempts, baseMs, maxMs } = engine.config.retry
  const step = nextStep(
    {
      fault,
      sent,
      facts: statement.facts,
      // The first statement of a transaction that nobody has seen yet may still begin it elsewhere.
      inTransaction:
        run.healed ||
        hold.settled > 0 ||
        (wasInTransaction && (begin === null || (sent && !statement.facts.retrySafe))),
      committing: wasInTransaction && statement.facts.verb === 'commit',
      onReplica: node.role === 'replica',
      triedElsewhere: failedOn.length > 0,
      attempt,
      attempts,
      baseMs,
      maxMs,
      budgetLeft: node.retries.left(now),
    },
    engine.chance,
  )
  if (step.do === 'fail') {
    hold.settled++
    if (!node.retries.left(now) && fault.retry !== 'never') node.cells.retries[fault.class].refused++
    else if (attempt > 1) node.cells.retries[fault.class].failed++
    tell(engine, hold, statement, run, fault)
    hold.failure = meaning(run, cause, step.outcome)
    return null
  }
  node.retries.take(now)
  node.cells.retries[fault.class].ok++
  if (step.where === 'primary' && fault.class === 'read-only') node.cells.reruns++
  engine.listeners.emit('retry', { node: node.name, attempt, fault: fault.class, because: step.because })
  failedOn.push(node)
  run.failure = cause
  hold.release()
  hold.begin = begin
  hold.forcePrimary ||= step.where === 'primary'
  return step
}

function timedOut({ engine, hold, statement }: Run, cause: unknown): SmartPgError {
  const { name } = hold.node!
  return new SmartPgError(
    'SMARTPG_QUERY_TIMEOUT',
    `No answer within queryTimeout (${engine.config.queryTimeoutMs} ms): ${statement.facts.summary} on node '${name}'.`,
    { node: name, phase: 'execute', cause },
  )
}

/** What the caller is told: the server's own error, unless what happened to the statement is not in it. */
function meaning({ hold, statement, attempt }: Run, error: unknown, outcome: 'not-executed' | 'unknown' | 'as-is') {
  if (outcome === 'as-is') return error
  const { name } = hold.node!
  const phase = statement.facts.verb === 'commit' ? 'commit' : 'execute'
  if (outcome === 'unknown') return new OutcomeUnknownError(name, phase, error)
  const why = error instanceof Error ? error.message : String(error)
  const message = `${statement.facts.summary} was not executed on node '${name}': ${why}`
  return new NotExecutedError(name, message, phase, error, attempt)
}
