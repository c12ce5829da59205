// What happens when a statement has ended, whoever sent it: counters and events, and the memory of own writes.

import type { Fault } from '../core/fault.ts'
import type { Statement } from '../core/types.ts'
import type { Engine } from './engine.ts'
import type { Hold } from './hold.ts'
import type { Seat } from './seat.ts'

export interface Times {
  readonly attempt: number
  readonly startedAt: number
  readonly sentAt: number
}

/** Own writes are counted when they have ended, well or badly: only then can their position be asked for. */
export function afterwards(engine: Engine, hold: Hold, seat: Seat, now: number): void {
  const shared = hold.passage !== null
  hold.passage = null
  seat.settles(now)
  if (hold.wrote === null || hold.sentAs === 'replica') return
  if (!shared && seat.session.lost === null && seat.session.status !== 'idle') return
  if (hold.redefined) engine.catalogChanged()
  hold.redefined = false
  engine.wrote(hold.wrote)
  hold.wrote = null
}

/** Whether the server's plan for a named statement has become far worse than it was: then it runs unnamed from now on. */
export function watchPlan(
  engine: Engine,
  { node, passage }: Hold,
  { session }: Seat,
  { facts }: Statement,
  times: Times,
  executions: number,
  now: number,
): void {
  // Behind other statements of its own lease it has waited for them.
  const ownMs = session.unanswered > 0 ? NaN : now - times.sentAt - node!.pool.lanes.roundTripMs
  const regression = node!.planWatch.observe(facts, executions, passage === null ? ownMs : passage.serverMs)
  if (regression === null) return
  engine.unname(facts)
  engine.listeners.emit('plan-regression', { node: node!.name, summary: facts.summary, ...regression })
}

/** One try of one statement, well or badly ended, in its node's counters. */
export function count(hold: Hold, { facts }: Statement, times: Times, fault: Fault | undefined, now: number): void {
  const { cells } = hold.node!
  cells.queries++
  const operation = cells.operations[facts.kind]
  operation.queries++
  operation.duration.observe(Math.round((now - times.sentAt) * 1000))
  if (fault !== undefined) {
    cells.queryErrors++
    cells.errorsByCategory[fault.category]++
  }
}

/** What the caller sees of a statement, once, and only when somebody listens. */
export function tell(engine: Engine, hold: Hold, statement: Statement, times: Times, fault: Fault | undefined): void {
  if (!engine.listeners.heard('query')) return
  const node = hold.node!
  const { facts } = statement
  engine.listeners.emit('query', {
    node: node.name,
    role: node.role,
    reason: hold.answered > 1 ? 'pinned' : hold.because,
    kind: facts.kind,
    summary: facts.summary,
    ms: engine.clock.now() - times.startedAt,
    cached: false,
    attempts: times.attempt,
    ok: fault === undefined,
    ...(fault?.code === undefined ? {} : { code: fault.code }),
  })
}
