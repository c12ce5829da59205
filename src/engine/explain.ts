// Where a statement would run now, and why: the same questions that routing asks, answered in full and for every node.

import type { CandidateExplanation, RouteExplanation } from '../core/explain.ts'
import { mayTravel, cannotTravel } from '../core/hint.ts'
import type { Wish } from '../core/route.ts'
import type { Clock, Statement } from '../core/types.ts'
import type { Cluster, Obstacle, RouteAsk } from './cluster.ts'
import type { Node } from './node.ts'
import type { ReadSessions } from './read-session.ts'

/** Whom it takes to answer. */
export interface Knowing {
  readonly cluster: Cluster
  readonly sessions: ReadSessions
  readonly clock: Clock
  /** Why a standby has refused a text; null: none has. */
  refusalOf(sql: string): string | null
}

/** Asks nobody. Throws as the statement would: for a replica that is none, and for a write that is to run on one. */
export function explain(engine: Knowing, statement: Statement, wish: Wish | undefined): RouteExplanation {
  const { cluster, sessions } = engine
  if (wish?.target === 'replica' && !mayTravel(statement.facts)) throw cannotTravel(statement.facts)
  const ask: RouteAsk = {
    statement,
    transaction: 'none',
    forcePrimary: false,
    wish,
    session: sessions.current,
    failedOn: [],
  }
  const choice = cluster.route(ask, 'nobody')
  const node = choice === null || (choice.node.role === 'primary' && cluster.roles.vacant) ? null : choice.node
  return {
    target: choice?.node.role ?? 'replica',
    node: node?.name ?? null,
    reason: choice?.because ?? 'fallback',
    facts: statement.facts,
    refused: engine.refusalOf(statement.sql),
    strategy: cluster.strategy,
    candidates: cluster.nodes.map((one) => candidate(engine, one, ask)),
  }
}

function candidate(engine: Knowing, node: Node, ask: RouteAsk): CandidateExplanation {
  const now = engine.clock.now()
  const { standing, health } = node
  const obstacle = obstacleFor(engine, node, ask, now)
  const latencyMs = standing.latencyMs(now)
  const { zone, priority, weight, tags } = standing.traits
  return {
    name: node.name,
    role: node.role,
    eligible: obstacle === null,
    because: obstacle ?? (node.role === 'primary' ? 'primary' : health.because),
    lagMs: health.lagMs,
    lagBytes: health.lagBytes,
    score: standing.score(now),
    load: node.load,
    latencyMs: latencyMs === 0 ? null : latencyMs,
    breaker: node.circuitStatus().state,
    ownWrites: ownWritesOn(engine, node, ask),
    zone,
    priority,
    weight,
    tags,
  }
}

function obstacleFor({ cluster }: Knowing, node: Node, ask: RouteAsk, now: number): string | null {
  if (node.role === 'primary') {
    if (cluster.roles.vacant) return 'no server is the primary'
    return node.admits(now) ? null : 'circuit open'
  }
  if (cluster.destination(ask).target === 'primary') return 'the statement belongs on the primary'
  const obstacle = cluster.obstacle(node, ask, cluster.writesToShow(ask.statement), now)
  return obstacle === null ? null : inWords(obstacle, node, now)
}

/** What metrics put into one drawer, told apart. */
function inWords(obstacle: Obstacle, node: Node, now: number): string {
  if (obstacle === 'not asked for') return 'has not the name or the tags that were asked for'
  if (obstacle === 'own-write') return 'has not replayed yet what was written here'
  if (obstacle === 'stale-replicas') return node.health.fit ? 'not asked for long' : node.health.because
  return node.health.up && !node.admits(now) ? 'circuit open' : node.health.because
}

function ownWritesOn({ cluster }: Knowing, node: Node, ask: RouteAsk): CandidateExplanation['ownWrites'] {
  if (node.role === 'primary') return 'visible'
  if (!cluster.mustShowWrites(ask)) return 'none'
  const shown = cluster.showsOwnWrites(node, ask.session, cluster.writesToShow(ask.statement))
  return shown ? 'visible' : 'not visible yet'
}
