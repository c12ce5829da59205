// The faults, each as it is described to whoever reads the results: what happens to a server, to a network or to the
// client itself while the load goes on. `happens` settles when all is well again.

import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import type { FaultProxy } from '../fault-proxy.ts'
import type { Cluster } from '../postgres/cluster.ts'
import type { SmartPgOptions } from '../../../src/index.ts'
import { ask } from '../postgres/server.ts'
import type { LoadHandle } from './load-handle.ts'
import type { Moment } from './load.ts'

/** The server and the client of one run. */
export interface Scene {
  readonly cluster: Cluster
  /** The database of this run, as superuser and straight. */
  readonly url: string
  /** The same as the role whose connections the load has. */
  readonly roleUrl: string
  readonly proxy: FaultProxy
  readonly load: LoadHandle
  readonly applicationName: string
}

export interface Scenario {
  readonly name: string
  readonly description: string
  /** How long the fault lasts unless somebody says otherwise. */
  readonly seconds: number
  /** Clients go through the proxy. */
  readonly proxied: boolean
  /** Set in every client; by itself each has its own default. */
  readonly queryTimeoutMs?: number
  /** Of ours alone, over its defaults. */
  readonly more?: Partial<SmartPgOptions>
  /** Nobody writes. */
  readonly readsOnly?: boolean
  /** Answers when all could be well again, where that is not when it ends. */
  readonly happens: (scene: Scene, ms: number) => Promise<Moment | void>
}

/** As a web service sets it. */
const SHORT_TIMEOUT_MS = 1_000
const HERD = 300
/** So many that every connection has something under way. */
const CROWD = 100

const ofLoad = 'from pg_stat_activity where application_name = $1'

export const scenarios: readonly Scenario[] = [
  {
    name: 'restart',
    description: 'the server is shut down (fast), and started again at the end',
    seconds: 2,
    proxied: false,
    async happens({ cluster }, ms) {
      await cluster.primary.stop('fast')
      await sleep(ms)
      await cluster.primary.start()
    },
  },
  {
    name: 'kill-9',
    description: 'all processes of the server are killed; it recovers at the end',
    seconds: 2,
    proxied: false,
    async happens({ cluster }, ms) {
      await cluster.primary.kill9()
      await sleep(ms)
      await cluster.primary.start()
    },
  },
  {
    name: 'refused',
    description: 'connections are reset, and new ones refused',
    seconds: 2.5,
    proxied: true,
    async happens({ proxy }, ms) {
      proxy.refuse()
      proxy.reset()
      await sleep(ms)
      await proxy.accept()
    },
  },
  {
    name: '53300',
    description: "another client takes every slot of the server, those of the load's connections as well",
    seconds: 2.5,
    proxied: false,
    happens: takeAllSlots,
  },
  {
    name: 'storm',
    description: `all backends are terminated in the moment in which ${HERD} more callers come`,
    seconds: 0,
    proxied: false,
    async happens(scene) {
      scene.load.tell({ do: 'herd', callers: HERD })
      await terminateAll(scene)
    },
  },
  {
    name: 'half-open',
    description: `open connections go silent while new ones work; queryTimeout ${SHORT_TIMEOUT_MS} ms`,
    seconds: 2.5,
    proxied: true,
    queryTimeoutMs: SHORT_TIMEOUT_MS,
    happens: silence,
  },
  {
    name: 'half-open-default',
    description: 'the same without a queryTimeout of its own',
    seconds: 2.5,
    proxied: true,
    happens: silence,
  },
  {
    name: 'flows-lost',
    description: `open connections end on the server, and the client does not hear of it; queryTimeout ${SHORT_TIMEOUT_MS} ms`,
    seconds: 2.5,
    proxied: true,
    queryTimeoutMs: SHORT_TIMEOUT_MS,
    async happens(scene, ms) {
      for (const one of scene.proxy.open) one.silence()
      await terminateAll(scene)
      await sleep(ms)
      await scene.proxy.heal()
    },
  },
  {
    name: 'lost-answers',
    description: 'every 50 ms the answer to a write is lost when the server has done it, and the connection is reset',
    seconds: 2.5,
    proxied: true,
    async happens({ proxy }, ms) {
      const until = performance.now() + ms
      while (performance.now() < until) {
        proxy.loseReply({ to: /^(insert|commit)/i })
        await sleep(50)
      }
      await proxy.heal()
    },
  },
  {
    name: 'kills',
    description: 'a backend is terminated every 100 ms',
    seconds: 2.5,
    proxied: false,
    happens: killOneByOne,
  },
  {
    name: 'slow-accept',
    description: 'connections are reset, and new ones take 1.5 s',
    seconds: 2.5,
    proxied: true,
    async happens({ proxy }, ms) {
      await proxy.accept({ afterMs: 1_500 })
      proxy.reset()
      await sleep(ms)
      await proxy.accept()
    },
  },
  {
    name: 'dirty',
    description: 'callers leave open transactions, roles, search paths and temporary tables behind',
    seconds: 10,
    proxied: false,
    async happens({ load }, ms) {
      load.tell({ do: 'dirty', ms })
      await sleep(ms)
    },
  },
  {
    name: 'blocked',
    description: `the client's event loop stands still when ${CROWD} callers have come; queryTimeout ${SHORT_TIMEOUT_MS} ms`,
    seconds: 3.5,
    proxied: false,
    queryTimeoutMs: SHORT_TIMEOUT_MS,
    async happens({ load }, ms) {
      load.tell({ do: 'herd', callers: CROWD })
      // They are asking, and few have been answered.
      await sleep(5)
      load.tell({ do: 'block', ms })
      await sleep(ms)
    },
  },
  {
    name: 'ddl',
    description: 'columns come and go in tables that are read with `select *`, every 50 ms',
    seconds: 2.5,
    proxied: false,
    happens: alterTables,
  },
]

export function scenarioOf(name: string): Scenario {
  const found = scenarios.find((one) => one.name === name)
  if (found === undefined) throw new Error(`there is no scenario ${name}`)
  return found
}

async function silence({ proxy }: Scene, ms: number): Promise<void> {
  for (const one of proxy.open) one.silence()
  await sleep(ms)
  await proxy.heal()
}

async function terminateAll({ url, applicationName }: Scene): Promise<void> {
  await ask(url, `select pg_terminate_backend(pid) ${ofLoad}`, [applicationName])
}

async function takeAllSlots({ url, roleUrl, applicationName }: Scene, ms: number): Promise<void> {
  const taken: Client[] = []
  const takeOne = async (): Promise<boolean> => {
    const client = new Client({ connectionString: roleUrl, application_name: 'other' })
    client.on('error', () => undefined)
    const connected = await client.connect().then(() => true, () => false) // prettier-ignore
    if (connected) taken.push(client)
    return connected
  }
  // Asks from before on: who knocks at a full house takes the slots of superusers as well, for a moment each.
  await withClient(url, async (outside) => {
    const until = performance.now() + ms
    try {
      while (performance.now() < until) {
        while (await takeOne());
        await outside.query(`select pg_terminate_backend(pid) ${ofLoad}`, [applicationName])
        await sleep(20)
      }
    } finally {
      await Promise.all(taken.map((client) => client.end().catch(() => undefined)))
    }
  })
}

function killOneByOne({ url, applicationName }: Scene, ms: number): Promise<void> {
  const text = `select pg_terminate_backend(pid) from (select pid ${ofLoad} order by random() limit 1) as one`
  return withClient(url, async (killer) => {
    const until = performance.now() + ms
    while (performance.now() < until) {
      await killer.query(text, [applicationName])
      await sleep(100)
    }
  })
}

async function withClient(url: string, use: (client: Client) => Promise<void>): Promise<void> {
  const client = new Client({ connectionString: url, application_name: 'faults' })
  await client.connect()
  try {
    await use(client)
  } finally {
    await client.end()
  }
}

async function alterTables({ url }: Scene, ms: number): Promise<void> {
  const until = performance.now() + ms
  for (let i = 0; performance.now() < until; i++) {
    const table = i % 4 < 2 ? 'known' : 'accounts'
    const change = i % 2 === 0 ? 'add column extra text' : 'drop column extra'
    await ask(url, `alter table ${table} ${change}`)
    await sleep(50)
  }
}
