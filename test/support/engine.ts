// An engine as the dialect builds it, but over scripted servers, a clock that stands still and a chance that is
// always the middle: what a test wants to happen, happens when it says so, and nothing else does.
//
//     const { run, primary, clock } = startedEngine({ replicas: 1, pool: { max: 3 } })

import { expect } from 'vitest'
import type { NodeConfig, PoolOptions, SmartPgOptions } from '../../src/config/options.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import type { EventName, Events } from '../../src/core/events.ts'
import { formatLsn } from '../../src/core/freshness.ts'
import { PLAIN_TABLES_SQL } from '../../src/core/plain-tables.ts'
import { BEGIN_FACTS, PING, WHICH_SERVER, WHO_ANSWERS } from '../../src/core/statements.ts'
import type { Chance, OpenSession, Rows } from '../../src/core/types.ts'
import { Engine } from '../../src/engine/engine.ts'
import type { OpenerHooks } from '../../src/engine/engine.ts'
import { execute } from '../../src/engine/execute.ts'
import { Hold } from '../../src/engine/hold.ts'
import { Listeners } from '../../src/engine/listeners.ts'
import type { Pool } from '../../src/engine/pool.ts'
import { faultOf } from '../../src/wire/fault-of.ts'
import { FakeClock } from './fake-clock.ts'
import { ScriptedServer } from './scripted-server.ts'

export interface TestEngineOptions extends Omit<SmartPgOptions, 'primary' | 'replicas'> {
  /** How many replicas. Default 0. */
  replicas?: number
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
  readonly run: (sql: string, options?: RunOptions) => Promise<Rows>
  /** A lease for several statements, as `db.connection()` and `db.transaction()` hold it. */
  readonly lease: () => TestLease
}

export interface RunOptions {
  readonly raw?: boolean
  readonly signal?: AbortSignal
}

export interface TestLease {
  readonly hold: Hold
  run(sql: string, options?: RunOptions): Promise<Rows>
  begin(mode?: 'read-write' | 'read-only'): Promise<Rows>
  release(): void
}

/** An engine that nobody has started. */
export function newTestEngine({
  replicas: count = 0,
  chance = () => 0.5,
  asksAside = false,
  ...options
}: TestEngineOptions = {}): TestEngine {
  const clock = new FakeClock()
  const primary = new ScriptedServer(clock)
  const replicas = Array.from({ length: count }, () => new ScriptedServer(clock))
  const wal = new Wal(primary, replicas)
  const listeners = new Listeners()
  const config = resolveConfig({
    ...options,
    primary: 'postgres://app@primary/app',
    ...(count === 0 ? {} : { replicas: replicas.map((_, i) => `postgres://app@replica-${i + 1}/app`) }),
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
    run: async (sql, { raw = false, signal } = {}) => {
      const hold = new Hold()
      try {
        return await execute(engine, hold, engine.statement(sql, []), raw, signal)
      } finally {
        hold.release()
      }
    },
    lease: () => newLease(engine),
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
    run: (sql, { raw = false, signal } = {}) => execute(engine, hold, engine.statement(sql, []), raw, signal),
    begin: (mode = 'read-write') => {
      hold.transaction = mode
      return execute(engine, hold, { sql: 'begin', parameters: [], facts: BEGIN_FACTS }, true)
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
  }
  for (const name of Object.keys(events) as EventName[]) {
    listeners.on(name, (event) => (events[name] as unknown[]).push(event))
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
      rows: [{ recovering: false, lsn: formatLsn(this.position), block: '8192', segment: '16777216' }],
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

const PROBE = 'pg_is_in_recovery'

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
  const ours = [PLAIN_TABLES_SQL, WHO_ANSWERS.sql, WHICH_SERVER.sql, PING.sql]
  return server.log.filter(({ sql }) => !sql.includes(PROBE) && !ours.includes(sql))
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
