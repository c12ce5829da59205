// What the metrics read of the nodes, at the moment they are scraped.

import type { BreakerStatus } from '../core/breaker.ts'
import type { NodeCells } from '../core/cells.ts'
import type { PoolCounts } from '../core/errors.ts'
import type { Role } from '../core/types.ts'
import type { NodeSnapshot } from './metrics.ts'

/** The parts of a node that are shown. */
export interface Visible {
  readonly name: string
  readonly role: Role
  readonly address: { readonly host: string; readonly port: number }
  readonly cells: NodeCells
  readonly pool: { counts(): PoolCounts; readonly running: number; readonly config: { readonly min: number } }
  readonly health: {
    readonly fit: boolean
    readonly up: boolean
    readonly lagMs: number | null
    readonly lagBytes: number | null
  }
  circuitStatus(): BreakerStatus
}

const STATE = { closed: 0, 'half-open': 1, open: 2 } as const

export function* snapshotOf(nodes: Iterable<Visible>): Iterable<NodeSnapshot> {
  for (const node of nodes) {
    const counts = node.pool.counts()
    const circuit = node.circuitStatus()
    const { host, port } = node.address
    yield {
      node: node.name,
      role: node.role,
      ...(host === '' ? {} : { host, port }),
      cells: node.cells,
      counts: { ...counts, min: node.pool.config.min },
      breakerState: STATE[circuit.state],
      consecutiveFailures: circuit.consecutive_failures,
      up: node.health.up && circuit.state !== 'open',
      lagMs: node.health.lagMs,
      lagBytes: node.health.lagBytes,
      healthy: node.health.fit,
      inflight: node.pool.running,
    }
  }
}
