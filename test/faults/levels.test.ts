// The most telling faults, each a few seconds long, under a load of all kinds of operations. The judge asks the database
// afterwards: whatever the fault, nothing may be lost, done twice, torn or answered wrongly, nobody may wait for ever,
// and all is as before when it is over. How many are answered meanwhile is measured by `npm run bench:faults`.

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { blameless } from '../support/fault-load/judge.ts'
import { runLevel, serverSettings } from '../support/fault-load/level.ts'
import type { Level } from '../support/fault-load/level.ts'
import { scenarioOf } from '../support/fault-load/scenarios.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { borrowed, ownOnly } from './dialects.ts'

const max = 8

describe.skipIf(borrowed)(`under load ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ settings: serverSettings })
  })
  afterAll(() => cluster.close())

  const run = async (name: string): Promise<Level> => {
    const scenario = scenarioOf(name)
    const times = { leadInMs: 500, faultMs: 1_000, tailMs: 2_000 }
    const level = await runLevel(cluster, { scenario, client: 'smart', seed: 7, rate: 150, max, ...times })
    const { answered, due, failures } = level
    console.log(`${scenario.description}: ${answered} of ${due} answered, ${JSON.stringify(failures)}`)
    return level
  }

  const telling = ['kill-9', '53300', 'flows-lost', 'lost-answers', 'kills', 'dirty'] as const

  test.each(telling)(
    '%s: nothing is lost, twice, torn, wrong or hung, and all is as before afterwards',
    async (name) => {
      const level = await run(name)
      expect(level.verdict).toEqual(blameless)
      expect(level.crashes).toEqual([])
      expect(level.failedBefore).toBe(0)
      // A load that does nothing would pass all of the above.
      expect(level.due).toBeGreaterThan(100)
      expect(level.answeredAfter).toBeGreaterThan(0)
      expect(level.capacity).toBe(max)
      expect(level.destroyMs).not.toBeNull()
      expect(level.left).toBe(0)
    },
  )
})
