// An engine as the dialect builds it, but over scripted servers, a clock that stands still and a chance that is
// always the middle: what a test wants to happen, happens when it says so, and nothing else does.
//
//     const { run, primary, clock } = startedEngine({ replicas: 1, pool: { max: 3 } })

import { expect } from 'vitest'
import type { NodeConfig, PoolOptions, ReplicaOptions, SmartPgOptions } from '../../src/config/options.ts'
import { resolveConfig, resolveReplica } from '../../src/config/resolve.ts'
import type { EventName, Events } from '../../src/core/events.ts'
import { formatLsn } from '../../src/core/freshness.ts'
import { IDENTITY } from '../../src/core/identity.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { BEGIN_FACTS, PING, WHO_ANSWERS } from '../../src/core/statements.ts'
import type { Chance, OpenSession, Rows } from '../../src/core/types.ts'
import { FINGERPRINT } from '../../src/engine/catalog-queries.ts'
import { Engine } from '../../src/engine/engine.ts'
import type { OpenerHooks } from '../../src/engine/engine.ts'
import { execute } from '../../src/engine/execute.ts'
import type { Asked } from '../../src/engine/execute.ts'
import { Hold } from '../../src/engine/hold.ts'
import { Listeners } from '../../src/engine/listeners.ts'
import type { Node } from '../../src/engine/node.ts'
import type { Pool } from '../../src/engine/pool.ts'
import { faultOf } from '../../src/wire/fault-of.ts'
import { FakeClock } from './fake-clock.ts'
import { ScriptedServer } from './scripted-server.ts'

export interface TestEngineOptions extends Omit<SmartPgOptions, 'primary' | 'replicas' | 'hosts'> {
  /** How many replicas, or one object of options for each. Default 0. */
  replicas?: number | readonly Omit<ReplicaOptions, 'connect'>[]
  /** They are given as `hosts`, the primary first: nobody has said what they are. Default false. */
  rolesUnknown?: boolean
  chance?: Chance
  /** The server answers questions about connections on which nothing is heard. Default false. */
  asksAside?: boolean
}

/** A pool that opens nothing that nobody asked for, and asks no idle connection whether it lives. */
export const bare: PoolOptions = { min: 0, initial: 0, minIdle: 0, max: 2, keepalive: 0 }

export interface TestEngine {
  readonly engine: Engine
  readonly clock: FakeClock
  readonly primary: ScriptedServer
  readonly replicas: readonly ScriptedServer[]
  /** The primary's. */
  readonly pool: Pool
  readonly wal: Wal
  /** Every event so far. */
  readonly events: { readonly [Name in EventName]: Events[Name][] }
  /** One statement on a lease of its own, as `db.selectFrom(…).execute()` runs it. */
  readonly run: (sql: string, asked?: Asked) => Promise<Rows>
  /** A lease for several statements, as `db.connection()` and `db.transaction()` hold it. */
  readonly lease: () => TestLease
  /** One more server to read from, as `dialect.addReplica` adds it. */
  readonly addReplica: (server: ScriptedServer, options?: Omit<ReplicaOptions, 'connect'>) => Node
}

export interface TestLease {
  readonly hold: Hold
  run(sql: string, asked?: Asked): Promise<Rows>
  begin(mode?: 'read-write' | 'read-only'): Promise<Rows>
  release(): void
}

/** An engine that nobody has started. */
export function newTestEngine({
  replicas: given = 0,
  rolesUnknown = false,
  chance = () => 0.5,
  asksAside = false,
  ...options
}: TestEngineOptions = {}): TestEngine {
  const clock = new FakeClock()
  const traits = typeof given === 'number' ? Array.from({ length: given }, () => ({})) : given
  const count = traits.length
  const primary = new ScriptedServer(clock)
  const replicas = Array.from({ length: count }, () => new ScriptedServer(clock))
  const wal = new Wal(primary, replicas)
  primary.on(FINGERPRINT, { error: new Error('the catalog is not known') })
  const listeners = new Listeners()
  const first = 'postgres://app@primary/app'
  const others = traits.map((one, i) => ({ host: `replica-${i + 1}`, user: 'app', database: 'app', ...one }))
  const config = resolveConfig({
    ...options,
    ...(rolesUnknown ? { hosts: [first, ...others] } : { primary: first }),
    ...(rolesUnknown || count === 0 ? {} : { replicas: others }),
    pool: { ...bare, ...options.pool },
  })
  const servers = new Map([config.primary, ...config.replicas].map((node, i) => [node, [primary, ...replicas][i]!]))
  const opener = (node: NodeConfig, { aside }: OpenerHooks): OpenSession => {
    const server = servers.get(node)!
    if (aside === true && !asksAside) return () => Promise.reject(new Error('nobody is asked about silent connections'))
    return (how) => (intercepted.get(server) ?? server.open)(how)
  }
  const engine = new Engine(config, { clock, chance, listeners, faultOf, opener })
  return {
    engine,
    clock,
    primary,
    replicas,
    pool: engine.cluster.primary.pool,
    wal,
    events: recorded(listeners),
    run: async (sql, asked) => {
      const hold = new Hold()
      try {
        return await execute(engine, hold, engine.statement(sql, []), asked)
      } finally {
        hold.release()
      }
    },
    lease: () => newLease(engine),
    addReplica: (server, traits = {}) => {
      const taken = engine.cluster.nodes.map(({ name }) => name)
      const added = resolveReplica({ host: 'added', user: 'app', database: 'app', ...traits }, taken, config)
      servers.set(added, server)
      return engine.add(added)
    },
  }
}

/** The same, started; the first look at the replicas is over. */
export async function startedEngine(options: TestEngineOptions = {}): Promise<TestEngine> {
  const test = newTestEngine(options)
  test.engine.start()
  await test.clock.advance(0)
  return test
}

function newLease(engine: Engine): TestLease {
  const hold = new Hold()
  return {
    hold,
    run: (sql, asked) => execute(engine, hold, engine.statement(sql, []), asked),
    begin: (mode = 'read-write') => {
      hold.transaction = mode
      return execute(engine, hold, { sql: 'begin', parameters: [], facts: BEGIN_FACTS })
    },
    release: () => hold.end(),
  }
}

function recorded(listeners: Listeners): TestEngine['events'] {
  const events: TestEngine['events'] = {
    query: [],
    breaker: [],
    leak: [],
    node: [],
    retry: [],
    gap: [],
    error: [],
    'plan-regression': [],
    rerun: [],
    failover: [],
  }
  for (const name of Object.keys(events) as EventName[]) {
    listeners.on(name, (event) => {
      const unread = 'during' in event && event.during === 'reading the catalog'
      if (!unread) (events[name] as unknown[]).push(event)
    })
  }
  return events
}

/** The write-ahead log of a scripted cluster, as the monitor's questions see it. */
export class Wal {
  /** Where the primary is. */
  position = 0x1000n
  /** What each replica says of itself. */
  readonly replicas: { replayed: bigint; recovering: boolean; receiving: boolean }[]

  constructor(primary: ScriptedServer, replicas: readonly ScriptedServer[]) {
    this.replicas = replicas.map(() => ({ replayed: this.position, recovering: true, receiving: true }))
    primary.on(PROBE, () => ({
      rows: [{ recovering: 'false', lsn: formatLsn(this.position), block: '8192', segment: '16777216' }],
    }))
    replicas.forEach((server, i) => {
      server.on(PROBE, () => {
        const { replayed, recovering, receiving } = this.replicas[i]!
        const received = formatLsn(this.position > replayed ? this.position : replayed)
        return {
          rows: [{ recovering: `${recovering}`, receiving: `${receiving}`, received, replayed: formatLsn(replayed) }],
        }
      })
    })
  }

  /** The primary writes `bytes`, which no replica has replayed yet. */
  write(bytes = 0x100n): void {
    this.position += bytes
  }

  /** Every replica, or replica `i`, has replayed all there is. */
  replay(i?: number): void {
    this.replicas.forEach((replica, at) => {
      if (i === undefined || i === at) replica.replayed = this.position
    })
  }
}

/** The monitor's question, as every node is asked it. */
const PROBE = NODE_SQL

const intercepted = new WeakMap<ScriptedServer, OpenSession>()

/** From now on `open` decides over every connect to this server; `server.open` is the way in. */
export function intercept(server: ScriptedServer, open: OpenSession): void {
  intercepted.set(server, open)
}

/** Milliseconds, for the clock. */
export function seconds(count: number): number {
  return count * 1_000
}

/** What users sent to a server: without the questions of the house itself. */
export function logged(server: ScriptedServer): ScriptedServer['log'] {
  const ours = [NODE_SQL, FINGERPRINT, WHO_ANSWERS.sql, IDENTITY.sql, PING.sql]
  return server.log.filter(({ sql }) => !ours.includes(sql))
}

/** The same, the texts alone; with `pid` only those of one session. */
export function sent(server: ScriptedServer, pid?: number): string[] {
  return logged(server)
    .filter((entry) => pid === undefined || entry.pid === pid)
    .map(({ sql }) => sql)
}

/** How often the monitor asked a server. */
export function probes(server: ScriptedServer): number {
  return server.statements().filter((sql) => sql.includes(PROBE)).length
}

/** Idle connections that were asked whether they live. */
export function pings(server: ScriptedServer, pid?: number): number {
  return server.statements(pid).filter((sql) => sql === PING.sql).length
}

export interface Watched<T> {
  state: 'pending' | 'resolved' | 'rejected'
  value: T
  error: unknown
}

/** A promise to look at without waiting for it; its rejection is never an unhandled one. */
export function watched<T>(promise: Promise<T>): Watched<T> {
  const watch: Watched<T> = { state: 'pending', value: undefined as T, error: undefined }
  promise.then(
    (value) => Object.assign(watch, { state: 'resolved', value }),
    (error: unknown) => Object.assign(watch, { state: 'rejected', error }),
  )
  return watch
}

/** What a promise was rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error, 'it was expected to reject').toBeInstanceOf(Error)
  return error as Error & { code?: string }
}
