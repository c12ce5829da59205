// `db.onReplica({ maxLag })`: how far behind is too far says the caller, query by query, in place of `routing.maxLag`.

import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { explainRoute } from '../../src/index.ts'
import type { ReadOnlyKysely, ReplicaWish } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { borrowed, open, ownOnly } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  filling: { id: number; text: string }
}

const LATE = 'replica-1'
const LOG_BYTES = 256 * 1024

describe.skipIf(borrowed)(`one replica of two replays nothing ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    await cluster.primary.query('create table filling (id int, text text)')
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  beforeEach(async () => {
    await cluster.pauseReplay(0)
    // Random, so that nothing of it is compressed.
    const written = `insert into filling select n, gen_random_uuid() from generate_series(1, ${LOG_BYTES / 64}) as n`
    await cluster.primary.query(written)
    await cluster.caughtUp(1)
  })
  afterEach(() => cluster.resumeReplay(0))

  /** The late one is known to be late, and by default not too late. */
  async function behind(routing = {}): Promise<Opened<Tables>> {
    const opened = open<Tables>({ primary: cluster.url, replicas: cluster.replicaUrls, routing })
    await opened.dialect.ready()
    const late = () =>
      explainRoute(opened.db, opened.db.selectFrom('filling')).candidates.find(({ name }) => name === LATE)
    await expect.poll(async () => (await count(opened.db), late()?.lagBytes)).toBeGreaterThan(LOG_BYTES / 2)
    return opened
  }

  const count = (db: ReadOnlyKysely<Tables>) =>
    db
      .selectFrom('filling')
      .select(sql<number>`1`.as('one'))
      .limit(1)
      .execute()

  /** Where twenty such reads run. */
  async function nodesOf({ db, dialect }: Opened<Tables>, options: ReplicaWish): Promise<string[]> {
    const nodes = new Set<string>()
    using _ = dialect.on('query', ({ node }) => void nodes.add(node))
    for (let n = 0; n < 20; n++) await count(db.onReplica(options))
    return [...nodes].toSorted()
  }

  test('who allows fewer bytes, or less time, is not sent there', async () => {
    const opened = await behind({ maxLag: { ms: '1h', bytes: 2 ** 40 } })
    expect(await nodesOf(opened, { name: LATE })).toEqual([LATE])
    expect(await nodesOf(opened, { maxLag: { bytes: LOG_BYTES / 8 } })).toEqual(['replica-2'])
    expect(await nodesOf(opened, { name: LATE, maxLag: { bytes: LOG_BYTES / 8 } })).toEqual(['primary'])
    expect(await nodesOf(opened, { name: LATE, maxLag: '1h' })).toEqual([LATE])
    await expect.poll(() => nodesOf(opened, { name: LATE, maxLag: '50ms' })).toEqual(['primary'])
  })

  test('who allows more is, where routing.maxLag would not let him', async () => {
    const opened = await behind({ maxLag: { bytes: LOG_BYTES / 8 } })
    expect(await nodesOf(opened, {})).toEqual(['replica-2'])
    expect(await nodesOf(opened, { name: LATE, maxLag: { bytes: 2 ** 40 } })).toEqual([LATE])
    const text = String(explainRoute(opened.db.onReplica({ name: LATE }), opened.db.selectFrom('filling')))
    expect(text).toMatch(/replica-1 +replica +no: too many bytes behind/)
  })
})
