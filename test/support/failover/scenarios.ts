// What happens to a primary and its two standbys while a load goes on: somebody takes over, or a replica is of no use
// for a while. Each wants a cluster for itself, because the roles are others afterwards.

import { setTimeout as sleep } from 'node:timers/promises'
import { scenarioOf } from '../fault-load/scenarios.ts'
import type { Scenario } from '../fault-load/scenarios.ts'
import { startCluster } from '../postgres/cluster.ts'
import type { Cluster } from '../postgres/cluster.ts'
import { ask } from '../postgres/server.ts'
import { crash, succeed, switchOver } from '../postgres/succession.ts'

export interface ClusterScenario extends Scenario {
  /** The primary acknowledges what a standby has, so that not even its crash loses any of it. */
  readonly synchronous: boolean
}

/** As a web service sets it: what a frozen server holds up, it holds up for so long. */
const SHORT_TIMEOUT_MS = 1_000

/** Standbys cancel at once what stands in the way of their replay. */
const settings = { max_standby_streaming_delay: '0', hot_standby_feedback: 'off' }

export function startFor({ synchronous }: ClusterScenario): Promise<Cluster> {
  return startCluster({ replicas: 2, synchronous, settings })
}

const usual = { proxied: false, synchronous: false } as const

export const clusterScenarios: readonly ClusterScenario[] = [
  {
    ...usual,
    name: 'crash',
    description: 'the primary is killed; later a standby is promoted, and the other one follows it',
    seconds: 1,
    synchronous: true,
    async happens({ cluster }, ms) {
      await crash(cluster)
      await sleep(ms)
      return (await succeed(cluster)).at
    },
  },
  {
    ...usual,
    name: 'freeze',
    description: 'the primary hangs; it is killed for that, and a standby promoted',
    seconds: 1,
    synchronous: true,
    queryTimeoutMs: SHORT_TIMEOUT_MS,
    async happens({ cluster }, ms) {
      cluster.primary.freeze()
      await sleep(ms)
      await cluster.primary.kill9()
      return (await succeed(cluster)).at
    },
  },
  {
    ...usual,
    name: 'switchover',
    description: 'the primary is stopped properly, a standby promoted, and the old primary becomes its standby',
    seconds: 0,
    async happens({ cluster }) {
      return (await switchOver(cluster, cluster.replicas[0]!)).at
    },
  },
  {
    ...usual,
    name: 'replica-killed',
    description: 'a replica is killed, and started again at the end',
    seconds: 2.5,
    async happens({ cluster }, ms) {
      await cluster.replicas[0]!.kill9()
      await sleep(ms)
      await cluster.replicas[0]!.start()
    },
  },
  {
    ...usual,
    name: 'replica-frozen',
    description: `a replica hangs; queryTimeout ${SHORT_TIMEOUT_MS} ms`,
    seconds: 2.5,
    queryTimeoutMs: SHORT_TIMEOUT_MS,
    async happens({ cluster }, ms) {
      cluster.replicas[0]!.freeze()
      await sleep(ms)
      cluster.replicas[0]!.thaw()
    },
  },
  {
    ...usual,
    name: 'replica-cut-off',
    description: 'a replica answers, but hears nothing of the primary any more',
    seconds: 2.5,
    async happens({ cluster }, ms) {
      await cluster.cutOff(0)
      await sleep(ms)
      await cluster.follow(0)
    },
  },
  {
    ...usual,
    name: 'replica-lagging',
    description: 'a replica replays nothing; maxLag 500 ms',
    seconds: 2.5,
    more: { routing: { maxLag: { ms: 500 } } },
    async happens({ cluster }, ms) {
      await cluster.pauseReplay(0)
      await sleep(ms)
      await cluster.resumeReplay(0)
    },
  },
  {
    ...usual,
    name: 'replica-conflict',
    description: 'both replicas cancel what they run, because the primary vacuums and locks what is read there',
    seconds: 2.5,
    async happens({ url }, ms) {
      const until = performance.now() + ms
      while (performance.now() < until) await conflict(url, 'known')
    },
  },
  {
    ...usual,
    name: 'replicas-killed',
    description: 'both replicas are killed, and started again at the end',
    seconds: 2.5,
    async happens({ cluster: { replicas } }, ms) {
      await Promise.all(replicas.map((replica) => replica.kill9()))
      await sleep(ms)
      await Promise.all(replicas.map((replica) => replica.start()))
    },
  },
]

/** One of these, or what happens to the primary alone while nobody is promoted. */
export function clusterScenarioOf(name: string): ClusterScenario {
  const found = clusterScenarios.find((one) => one.name === name)
  return found ?? { ...scenarioOf(name), synchronous: false }
}

/** The same rows again, and nobody may see the old ones any more; then nobody may see any for a moment. */
async function conflict(url: string, table: string): Promise<void> {
  await ask(url, `update ${table} set value = value`)
  await ask(url, `vacuum ${table}`)
  await ask(url, `begin; lock table ${table} in access exclusive mode; commit`)
  await sleep(5)
}
