// The spine: one statement, top to bottom. It waits for a connection, the server, and a backoff; everything
// else is a synchronous question to core. Each step says why it stands where it stands.

import { NotExecutedError, OutcomeUnknownError, SmartPgError, isSmartPgError } from '../core/errors.ts'
import type { Fault } from '../core/fault.ts'
import { nextStep } from '../core/retry.ts'
import type { NextStep } from '../core/retry.ts'
import type { Rows, Statement } from '../core/types.ts'
import { pause } from './clock.ts'
import type { Engine } from './engine.ts'
import type { Hold } from './hold.ts'
import type { Node } from './node.ts'
import { PooledSession } from './pooled-session.ts'

/** One try of one statement, for everybody who is told about it. */
interface Try {
  readonly engine: Engine
  readonly hold: Hold
  readonly statement: Statement
  readonly pooled: PooledSession
  readonly attempt: number
  readonly startedAt: number
  readonly sentAt: number
  readonly wasInTransaction: boolean
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
  const failedOn: Node[] = []
  for (let attempt = 1; ; attempt++) {
    // First the connection: its node decides all that follows. A value when there is one, a promise when not.
    const bound = hold.bound ?? bind(engine, hold, statement, raw, failedOn, signal)
    const pooled = bound instanceof PooledSession ? bound : await bound
    // Aborted while waiting: nothing was sent, nothing will be.
    if (signal?.aborted) throw signal.reason
    const { session } = pooled
    const sentAt = engine.clock.now()
    const once = {
      engine,
      hold,
      statement,
      pooled,
      attempt,
      startedAt,
      sentAt,
      wasInTransaction: session.status !== 'idle',
    }
    beforeSending(once)
    try {
      const name = engine.nameOf(statement)
      const rows = await session.send(name === undefined ? statement : { ...statement, name })
      answered(once)
      return rows
    } catch (error) {
      const step = failed(once, error, failedOn)
      if (step === null) throw hold.failure
      // The backoff last: the connection is back in its pool while nobody needs it.
      if (step.after > 0) await pause(engine.clock, step.after, signal)
    }
  }
}

/** A connection for the lease's first statement, or for the first after a read on a replica. */
function bind(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  raw: boolean,
  failedOn: Node[],
  signal: AbortSignal | undefined,
): PooledSession | Promise<PooledSession> {
  if (signal?.aborted) throw signal.reason
  // What follows a read on a replica may be a write, and one session must see both: the primary's.
  if (hold.pooled !== null) {
    hold.release()
    hold.forcePrimary = true
  }
  const { node, because } = engine.cluster.route(hold, statement.facts, raw, failedOn)
  hold.because = because
  // The breaker after the route, because it belongs to the server; before the queue, because nobody shall wait
  // for a server that does not answer.
  const permit = node.admitQuery()
  if (permit === null) throw node.circuitOpen()
  const taken = node.pool.take()
  if (taken === null) return wait(engine, hold, statement, raw, failedOn, signal, node, permit)
  taken.permit = permit
  hold.pooled = taken
  return engine.onReserve === undefined ? taken : reserved(engine, hold, taken)
}

async function wait(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  raw: boolean,
  failedOn: Node[],
  signal: AbortSignal | undefined,
  node: Node,
  permit: number,
): Promise<PooledSession> {
  let pooled: PooledSession
  try {
    pooled = await node.pool.acquire({ signal })
  } catch (error) {
    node.giveBackQuery(permit)
    // The pool has tried for as long as it may. A replica is not the only one who can answer.
    if (node.role === 'primary' || signal?.aborted) throw error
    failedOn.push(node)
    return bind(engine, hold, statement, raw, failedOn, signal)
  }
  pooled.permit = permit
  hold.pooled = pooled
  return engine.onReserve === undefined ? pooled : reserved(engine, hold, pooled)
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

function beforeSending({ engine, hold, statement, pooled, sentAt }: Try): void {
  const { facts } = statement
  const timed = !hold.untimed && facts.kind !== 'ddl'
  pooled.sends(sentAt, facts.summary, timed && engine.config.queryTimeoutMs > 0)
  if (facts.stateful) pooled.dirty = true
  if (facts.writes) hold.wrote = true
  if (hold.transaction === 'none' && pooled.node.role === 'replica') hold.readOnReplica = true
}

function answered(once: Try): void {
  const { hold, pooled } = once
  hold.answered++
  afterwards(once)
  if (pooled.permit === null) pooled.node.heard('success')
  else pooled.node.settleQuery(pooled.permit, 'success')
  pooled.permit = null
  tell(once, undefined)
}

/** Settles what failed; null: throw `hold.failure`. Otherwise the connection is given back and the next try may go. */
function failed(once: Try, error: unknown, failedOn: Node[]): (NextStep & { do: 'retry' }) | null {
  const { engine, hold, statement, pooled, attempt, wasInTransaction } = once
  const { node } = pooled
  const cause = pooled.timedOut ? timedOut(once, error) : error
  const fault = engine.faultOf(cause, 'query')
  afterwards(once)
  if (pooled.permit === null) node.heard(fault.breaker, error)
  else node.settleQuery(pooled.permit, fault.breaker, error)
  pooled.permit = null
  tell(once, fault)
  if (fault.dropsConnection) hold.discard = true
  const { attempts, baseMs, maxMs } = engine.config.retry
  const now = engine.clock.now()
  const inTransaction = wasInTransaction || hold.answered > 0
  const step = nextStep(
    {
      fault,
      sent: !(isSmartPgError(error) && error.phase === 'send'),
      facts: statement.facts,
      inTransaction,
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
  const wouldHaveRetried = fault.retry !== 'never' && !inTransaction
  if (step.do === 'fail') {
    if (wouldHaveRetried && attempt > 1) node.cells.retries[fault.class].failed++
    hold.failure = meaning(once, cause, step.outcome)
    return null
  }
  node.retries.take(now)
  node.cells.retries[fault.class].ok++
  if (step.where === 'primary' && fault.class === 'read-only') node.cells.reruns++
  engine.listeners.emit('retry', { node: node.name, attempt, fault: fault.class, because: step.because })
  failedOn.push(node)
  hold.release()
  hold.discard = false
  hold.readOnReplica = false
  hold.forcePrimary ||= step.where === 'primary'
  return step
}

/** Own writes are counted when they have ended, well or badly: only then can their position be asked for. */
function afterwards({ engine, hold, pooled, statement }: Try): void {
  pooled.settles()
  const { session } = pooled
  const over = session.lost !== null || session.status === 'idle'
  if (hold.wrote && over && pooled.node.role === 'primary') {
    hold.wrote = false
    engine.ownWrites.wrote()
  }
  if (session.status !== 'idle' && statement.facts.writes) hold.wrote = true
}

/** Counters first, then events, and these only when somebody listens. */
function tell({ engine, hold, statement, pooled, attempt, startedAt, sentAt }: Try, fault: Fault | undefined): void {
  const { cells } = pooled.node
  const { facts } = statement
  const now = engine.clock.now()
  cells.queries++
  const operation = cells.operations[facts.kind]
  operation.queries++
  operation.duration.observe(Math.round((now - sentAt) * 1000))
  if (fault !== undefined) {
    cells.queryErrors++
    cells.errorsByCategory[fault.category]++
  }
  if (!engine.listeners.heard('query')) return
  engine.listeners.emit('query', {
    node: pooled.node.name,
    role: pooled.node.role,
    reason: hold.answered > 1 ? 'pinned' : hold.because,
    kind: facts.kind,
    summary: facts.summary,
    sql: statement.sql,
    ms: now - startedAt,
    cached: false,
    attempts: attempt,
    ok: fault === undefined,
    ...(fault?.code === undefined ? {} : { code: fault.code }),
  })
}

function timedOut({ engine, pooled, statement }: Try, cause: unknown): SmartPgError {
  return new SmartPgError(
    'SMARTPG_QUERY_TIMEOUT',
    `No answer within queryTimeout (${engine.config.queryTimeoutMs} ms): ${statement.facts.summary} on node '${pooled.node.name}'.`,
    { node: pooled.node.name, phase: 'execute', cause },
  )
}

/** What the caller is told: the server's own error, unless what happened to the statement is not in it. */
function meaning(once: Try, error: unknown, outcome: 'not-executed' | 'unknown' | 'as-is'): unknown {
  const { pooled, statement, attempt } = once
  const node = pooled.node.name
  const phase = statement.facts.verb === 'commit' ? 'commit' : 'execute'
  if (outcome === 'unknown') return new OutcomeUnknownError(node, phase, error)
  if (outcome === 'as-is') return error
  const why = error instanceof Error ? error.message : String(error)
  const message = `${statement.facts.summary} was not executed on node '${node}': ${why}`
  return new NotExecutedError(node, message, phase, error, attempt)
}
