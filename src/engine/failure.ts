// What becomes of a statement that failed: what happened to it, whether and where it is tried once more, and what
// its caller is told when it is not.

import { mayCommit } from '../core/commit-fate.ts'
import { NotExecutedError, OutcomeUnknownError, SmartPgError, neverRan } from '../core/errors.ts'
import { neverPassedOn, saidByServer } from '../core/fault.ts'
import type { Fault } from '../core/fault.ts'
import { nextStep } from '../core/retry.ts'
import type { NextStep } from '../core/retry.ts'
import type { Run } from './run.ts'
import type { Seat } from './seat.ts'
import { afterwards, count, tell } from './settle.ts'

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
export function failed(run: Run, seat: Seat, error: unknown): (NextStep & { do: 'retry' }) | null {
  const { engine, hold, statement, attempt, wasInTransaction, failedOn, begin } = run
  const node = hold.node!
  const { cause, fault } = whatFailed(run, seat, error)
  const now = engine.clock.now()
  afterwards(engine, hold, seat, now)
  const sent = !run.wasLost && !neverRan(error) && !neverPassedOn(fault)
  // What was never sent says nothing about the server, nor does what only we have said.
  const tells = sent && (fault.breaker !== 'ignore' || saidByServer(fault))
  if (tells) node.settleQuery(seat.permit, fault.breaker, now, error, run.exempt ? 0 : now - run.sentAt)
  else if (seat.permit !== null) node.giveBackQuery(seat.permit)
  if (tells && fault.breaker !== 'ignore' && engine.cluster.replicas.length > 0) {
    const answered = fault.breaker === 'success'
    // No answer in time says something of its pace; an error of the statement's own says nothing.
    node.standing.answered(answered, now - run.sentAt, now, answered ? 0 : engine.usualTimes.of(statement.facts))
  }
  seat.permit = null
  count(hold, statement, run, fault, now)
  if (fault.dropsConnection && hold.pooled !== null) hold.discard = true
  const { attempts, baseMs, maxMs } = engine.config.retry
  run.demoted = isDemoted(run, seat, fault)
  run.saidStandby = seat.session.standby === true
  const step = nextStep(
    {
      fault,
      sent,
      facts: statement.facts,
      // The first statement of a transaction that nobody has seen yet may still begin it elsewhere.
      inTransaction:
        run.healed ||
        hold.settled > 0 ||
        (wasInTransaction && (begin === null || (sent && !statement.facts.retrySafe && !run.demoted))),
      keepsSession: hold.settled > 0 && !wasInTransaction,
      committing:
        wasInTransaction &&
        (statement.facts.verb === 'commit' || (fault.dropsConnection && mayCommit(statement.facts))),
      onReplica: hold.sentAs === 'replica' || run.demoted,
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
    run.demoted = false
    hold.settled++
    if (!node.retries.left(now) && fault.retry !== 'never') node.cells.retries[fault.class].refused++
    else if (attempt > 1) node.cells.retries[fault.class].failed++
    hold.lost ||= fault.dropsConnection
    hold.failure = meaning(run, cause, step.outcome)
    // What is told of a COMMIT whose answer is lost depends on what the server says of it.
    if (run.commit !== null && step.outcome === 'unknown') run.untold = fault
    else {
      hold.kept ||= wasInTransaction && step.outcome === 'unknown'
      tell(engine, hold, statement, run, fault)
    }
    return null
  }
  node.retries.take(now)
  node.cells.retries[fault.class].ok++
  if (step.where === 'primary' && fault.class === 'read-only' && !run.demoted) {
    engine.refused(statement, node, fault.code, messageOf(cause))
  }
  engine.listeners.emit('retry', { node: node.name, attempt, fault: fault.class, because: step.because })
  failedOn.push(node)
  run.failure = cause
  hold.release()
  hold.begin = begin
  hold.forcePrimary ||= step.where === 'primary'
  return step
}

/** Refused as read-only by what should be the primary, and not in a transaction that its caller has made read-only. */
function isDemoted(
  { engine, hold, wasInTransaction, begin, demotions }: Run,
  { session }: Seat,
  fault: Fault,
): boolean {
  if (fault.class !== 'read-only' || hold.sentAs !== 'primary' || session.standby === false) return false
  // Whatever becomes of the statement.
  engine.suspect()
  if (hold.transaction === 'read-only') return false
  hold.demoted = session.standby === true
  if (wasInTransaction && begin === null) return false
  return demotions + 1 < engine.config.failover.attempts
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function timedOut({ hold, statement, timeoutMs, ownTimeoutMs }: Run, cause: unknown): SmartPgError {
  const { name } = hold.node!
  return new SmartPgError(
    'SMARTPG_QUERY_TIMEOUT',
    `No answer within ${ownTimeoutMs === undefined ? `queryTimeout (${timeoutMs} ms)` : `${timeoutMs} ms`}: ${statement.facts.summary} on node '${name}'.`,
    { node: name, phase: 'execute', cause },
  )
}

/** What the caller is told: the server's own error, unless what happened to the statement is not in it. */
function meaning({ hold, statement, attempt }: Run, error: unknown, outcome: 'not-executed' | 'unknown' | 'as-is') {
  if (outcome === 'as-is') return error
  const { name } = hold.node!
  const { kind, verb } = statement.facts
  const phase = verb === 'commit' || (kind === 'transaction' && verb === 'end') ? 'commit' : 'execute'
  if (outcome === 'unknown') return new OutcomeUnknownError(name, phase, error)
  const why = error instanceof Error ? error.message : String(error)
  const message = `${statement.facts.summary} was not executed on node '${name}': ${why}`
  return new NotExecutedError(name, message, phase, error, attempt)
}

/** The short lock timeout of shared connections is ours: whoever meets it was not executed, and waits elsewhere as he said. */
export function waitsAlone({ hold, engine }: Run, error: unknown): boolean {
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
