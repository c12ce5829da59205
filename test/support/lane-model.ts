// Callers who send one statement after the other, over the engine's lanes or over a simpler way to share
// connections, against a server that takes as long as it is told (virtual-postgres.ts). What comes out is how many
// statements each group of callers had answered and how long these took: the same numbers in every run, so that rules
// can be compared, and a test can hold them to a figure.

import type { NodePoolConfig } from '../../src/config/options.ts'
import { NodeCells } from '../../src/core/cells.ts'
import { BEGIN_FACTS, READ_FACTS } from '../../src/core/statements.ts'
import type { Chance, Facts } from '../../src/core/types.ts'
import type { Host } from '../../src/engine/connector.ts'
import { Listeners } from '../../src/engine/listeners.ts'
import { Pool } from '../../src/engine/pool.ts'
import { seededChance } from './chance.ts'
import { VirtualProcess, VirtualServer, usualMachines } from './virtual-postgres.ts'
import type { Machines, Text, VirtualSession } from './virtual-postgres.ts'

/** How statements are shared out among the connections. `one-each`: one under way on each, the others queue. */
export type Way = 'lanes' | 'least-in-flight' | 'rotation' | 'one-each'

/** A statement in a transaction; or one for which its caller waits meanwhile, but not on the transaction's connection. */
export type Step = Text | { readonly apart: Text }

export interface Group {
  readonly name: string
  readonly callers: number
  /** The next statement of one of them, or the steps of a transaction. */
  readonly next: (chance: Chance) => Text | readonly Step[]
  /** Pause between two. */
  readonly pauseMs?: number
}

export interface Model extends Partial<Machines> {
  readonly way: Way
  readonly groups: readonly Group[]
  /** At most. Default 10. */
  readonly connections?: number
  /** How many stand from the start; by default all. */
  readonly initial?: number
  readonly pipelineWrites?: boolean
  /** Measured, after `warmMs`. */
  readonly forMs?: number
  readonly warmMs?: number
  readonly seed?: number
}

export class Figures {
  /** Milliseconds from the call to the answer, of all that were answered in the measured time. */
  readonly latencies: number[] = []
  #perSecondOf: number

  constructor(forMs: number) {
    this.#perSecondOf = forMs / 1000
  }

  get perSecond(): number {
    return this.latencies.length / this.#perSecondOf
  }

  /** The share of those that took longer than `ms`. */
  later(ms: number): number {
    return this.latencies.filter((latency) => latency > ms).length / this.latencies.length
  }

  quantile(q: number): number {
    const sorted = this.latencies.toSorted((a, b) => a - b)
    return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN
  }
}

export interface Outcome {
  readonly of: (name: string) => Figures
  /** Reads that were sent twice, in all. */
  readonly resent: number
  /** The share of the measured time in which the client worked; the server's cores. */
  readonly clientBusy: number
  readonly serverBusy: number
  readonly connections: number
}

export async function runModel(model: Model): Promise<Outcome> {
  const { groups, forMs = 1_000, warmMs = 200, seed = 1 } = model
  const machines: Machines = { ...usualMachines, ...definedOf(model) }
  const process = new VirtualProcess(machines, seededChance(seed))
  const server = new VirtualServer(process)
  const cells = new NodeCells()
  const client = await clientOf(model, server, cells)
  const figures = new Map(groups.map(({ name }) => [name, new Figures(forMs)]))
  const from = process.now() + warmMs
  const failures: unknown[] = []
  let number = 0
  for (const group of groups) {
    for (let i = 0; i < group.callers; i++) {
      const chance = seededChance(seed * 1_000_003 + number++)
      calls(group, client, process, chance, from, figures.get(group.name)!).catch((error: unknown) =>
        failures.push(error),
      )
    }
  }
  await process.run(from)
  const clientBefore = process.busyMs
  const serverBefore = server.cores.busyMs
  await process.run(from + forMs)
  if (failures.length > 0) throw failures[0]
  return {
    of: (name) => figures.get(name)!,
    resent: cells.resent,
    clientBusy: (process.busyMs - clientBefore) / forMs,
    serverBusy: (server.cores.busyMs - serverBefore) / forMs / machines.cores,
    connections: server.sessions.length,
  }
}

function definedOf(model: Model): Partial<Machines> {
  const names = Object.keys(usualMachines) as (keyof Machines)[]
  return Object.fromEntries(names.filter((name) => model[name] !== undefined).map((name) => [name, model[name]]))
}

/** One caller, until the model stops. */
async function calls(
  { next, pauseMs = 0 }: Group,
  client: Client,
  process: VirtualProcess,
  chance: Chance,
  from: number,
  { latencies }: Figures,
): Promise<void> {
  for (;;) {
    const since = process.now()
    const what = next(chance)
    if ('sql' in what) await client.run(what)
    else await client.transaction(what)
    const now = process.now()
    if (now >= from) latencies.push(now - since)
    if (pauseMs > 0) await new Promise<void>((resolve) => process.setTimeout(resolve, pauseMs))
  }
}

interface Client {
  run(text: Text): Promise<unknown>
  transaction(steps: readonly Step[]): Promise<unknown>
}

async function clientOf(model: Model, server: VirtualServer, cells: NodeCells): Promise<Client> {
  const { way, connections = 10 } = model
  if (way === 'lanes') return lanesClient(model, server, cells)
  const sessions = Array.from({ length: connections }, () => server.opened())
  if (way === 'one-each') return new OneEach(server, sessions)
  return new Blind(server, sessions, way)
}

/** The engine's own pool, over virtual connections. */
async function lanesClient(model: Model, server: VirtualServer, cells: NodeCells): Promise<Client> {
  const { process } = server
  const { connections: max = 10, initial = max, pipelineWrites = false } = model
  const config: NodePoolConfig = { ...POOL, initial, max, pipelineWrites }
  const host: Host = {
    name: 'model',
    role: 'primary',
    cells,
    lockTimeout: '0',
    behindPooler: false,
    servers: new WeakMap(),
    admitConnect: () => ({}) as never,
    admitProbe: () => null,
    settleConnect: () => undefined,
    giveBackConnect: () => undefined,
    lostOne: () => undefined,
    circuitOpen: () => {
      throw new Error('the model has no circuit')
    },
    faultOf: (error) => {
      throw error
    },
  }
  const pool = new Pool(host, config, {
    open: server.open,
    openBeside: server.open,
    clock: process,
    chance: process.chance,
    prepare: () => Promise.resolve(),
    listeners: new Listeners(),
    restore: null,
    queryTimeoutMs: 0,
    pipelines: true,
  })
  pool.start()
  const ready = pool.ready(Infinity)
  while (pool.counts().total > pool.counts().idle || pool.counts().idle < initial) await process.run(process.now() + 1)
  await ready
  return new Sharing(server, pool)
}

const POOL: NodePoolConfig = {
  min: 0,
  initial: 0,
  max: 0,
  minIdle: 0,
  acquireTimeoutMs: 1e9,
  connectTimeoutMs: 1e9,
  idleTimeoutMs: 1e9,
  maxLifetimeMs: 0,
  maxWaiting: 1e9,
  validateAfterIdleMs: 1e9,
  keepaliveMs: 0,
  leakDetectionMs: 0,
  lanes: true,
  pipelineWrites: false,
}

class Sharing implements Client {
  readonly #server: VirtualServer
  readonly #pool: Pool

  constructor(server: VirtualServer, pool: Pool) {
    this.#server = server
    this.#pool = pool
  }

  /** As the engine's spine goes. */
  async run(text: Text): Promise<void> {
    const statement = this.#server.statement(text)
    const passage = this.#pool.lane(text.facts) ?? (await this.#pool.waitForLane(text.facts))
    const now = this.#server.process.now()
    passage.sends(now, '', 0)
    await passage.send(statement)
    passage.settles()
  }

  async transaction(steps: readonly Step[]): Promise<void> {
    const pooled = this.#pool.take() ?? (await this.#pool.acquire())
    for (const step of [BEGIN, ...steps, COMMIT]) {
      if ('apart' in step) await this.run(step.apart)
      else {
        pooled.sends(this.#server.process.now(), '', 0)
        await pooled.send(this.#server.statement(step))
        pooled.settles(this.#server.process.now())
      }
    }
    this.#pool.release(pooled)
  }
}

/** Pipelined, without a look at what a statement is. */
class Blind implements Client {
  readonly #server: VirtualServer
  readonly #sessions: readonly VirtualSession[]
  readonly #way: Way
  #next = 0

  constructor(server: VirtualServer, sessions: readonly VirtualSession[], way: Way) {
    this.#server = server
    this.#sessions = sessions
    this.#way = way
  }

  run(text: Text): Promise<unknown> {
    return this.#session().send(this.#server.statement(text))
  }

  transaction(): Promise<never> {
    return Promise.reject(new Error('two callers on one pipelined connection would share a transaction'))
  }

  #session(): VirtualSession {
    if (this.#way === 'rotation') return this.#sessions[this.#next++ % this.#sessions.length]!
    let least = this.#sessions[0]!
    for (const session of this.#sessions) if (session.unanswered < least.unanswered) least = session
    return least
  }
}

/** As a pool without lanes: whoever has a connection has it for himself. */
class OneEach implements Client {
  readonly #server: VirtualServer
  readonly #idle: VirtualSession[]
  readonly #waiting: ((session: VirtualSession) => void)[] = []

  constructor(server: VirtualServer, sessions: readonly VirtualSession[]) {
    this.#server = server
    this.#idle = [...sessions]
  }

  run(text: Text): Promise<void> {
    return this.#hold([text])
  }

  transaction(steps: readonly Step[]): Promise<void> {
    return this.#hold([BEGIN, ...steps, COMMIT])
  }

  async #hold(steps: readonly Step[]): Promise<void> {
    const session = this.#idle.pop() ?? (await new Promise<VirtualSession>((resolve) => this.#waiting.push(resolve)))
    for (const step of steps) {
      if ('apart' in step) await this.run(step.apart)
      else await session.send(this.#server.statement(step))
    }
    const next = this.#waiting.shift()
    if (next === undefined) this.#idle.push(session)
    else next(session)
  }
}

// Texts.

const between =
  (least: number, most: number) =>
  (chance: Chance): number =>
    least + (most - least) * chance()

const WRITE_FACTS: Facts = {
  ...READ_FACTS,
  kind: 'write_simple',
  verb: 'update',
  safeOnReplica: false,
  retrySafe: false,
  writes: true,
  lockWaiter: true,
}

const BEGIN: Text = { sql: 'begin', facts: BEGIN_FACTS, workMs: between(0.02, 0.03) }
const COMMIT: Text = {
  sql: 'commit',
  facts: { ...BEGIN_FACTS, verb: 'commit' },
  workMs: between(0.02, 0.03),
  sleepMs: 1,
}

export function read(sql: string, leastMs: number, mostMs: number): Text {
  return { sql, facts: { ...READ_FACTS }, workMs: between(leastMs, mostMs) }
}

/** It sleeps, so that no core is busy with it. */
export function sleeper(sql: string, sleepMs: number): Text {
  return { sql, facts: { ...READ_FACTS }, workMs: between(0.02, 0.03), sleepMs }
}

/** Its commit waits for the disk for `diskMs`, and it has its row locked for so long. */
export function write(sql: string, diskMs = 1, row?: string): Text {
  const text = { sql, facts: { ...WRITE_FACTS }, workMs: between(0.05, 0.2), sleepMs: diskMs }
  return row === undefined ? text : { ...text, row }
}

/** One of these, each as likely as the others. */
export function anyOf(texts: readonly Text[]): (chance: Chance) => Text {
  return (chance) => texts[Math.floor(chance() * texts.length)]!
}
