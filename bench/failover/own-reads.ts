// How many of many inserts are missed by the select behind them, in each mode, and where the selects ran.

import { Kysely } from 'kysely'
import { SmartPgDialect } from '../../src/index.ts'
import type { RoutingOptions } from '../../src/index.ts'
import { seededChance } from '../../test/support/chance.ts'
import { disturbReplay, missedOwnWrites, pairsTables } from '../../test/support/failover/own-reads.ts'
import type { Pairs } from '../../test/support/failover/own-reads.ts'
import { startCluster } from '../../test/support/postgres/cluster.ts'

type Mode = NonNullable<RoutingOptions['readYourWrites']>

/** `session` is about callers who ask for it; these here do not. */
export const ownReadModes: readonly Mode[] = ['auto', 'always', 'off']

export interface OwnReads {
  readonly mode: Mode
  readonly pairs: number
  readonly missed: number
  readonly onReplicas: number
  readonly perSecond: number
}

const CALLERS = 64

export async function measureOwnReads(mode: Mode, pairs: number): Promise<OwnReads> {
  await using cluster = await startCluster({ replicas: 2 })
  await cluster.primary.query(pairsTables(CALLERS))
  await cluster.caughtUp()
  const routing = { readYourWrites: mode }
  const dialect = new SmartPgDialect({ primary: cluster.url, replicas: cluster.replicaUrls, routing, metrics: false })
  const db = new Kysely<Pairs>({ dialect })
  await dialect.ready()
  let onReplicas = 0
  dialect.on('query', ({ role, kind }) => void (role === 'replica' && kind === 'read_simple' && onReplicas++))
  const disturbing = disturbReplay(cluster, seededChance(1))
  const since = performance.now()
  try {
    const missed = await missedOwnWrites(db, { count: pairs, callers: CALLERS, chance: seededChance(2) })
    const perSecond = Math.round((1_000 * pairs) / (performance.now() - since))
    return { mode, pairs, missed: missed.length, onReplicas, perSecond }
  } finally {
    await disturbing.stop()
    await db.destroy()
  }
}
