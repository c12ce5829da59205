// The house as an application has it: a Kysely instance over the driver, the engine and the wire of this package, with
// settings that the seed decides. Only the sockets, the clock and chance are not real.

import { Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type { NodeConfig, SmartPgOptions } from '../../src/config/options.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import type { OpenSession, Session } from '../../src/core/types.ts'
import { EngineHandle } from '../../src/engine/engine-handle.ts'
import { Engine } from '../../src/engine/engine.ts'
import type { EnginePorts, OpenerHooks } from '../../src/engine/engine.ts'
import { Listeners } from '../../src/engine/listeners.ts'
import { SmartPgDriver } from '../../src/kysely/driver.ts'
import { faultOf } from '../../src/wire/fault-of.ts'
import { nativeSessionOpener } from '../../src/wire/open.ts'
import type { VirtualSocket } from './line.ts'
import type { VirtualPostgres } from './server.ts'
import type { Dice, World } from './world.ts'

/** What is broken on purpose, to see whether the judge notices. */
export interface Mutant {
  readonly ports?: (ports: EnginePorts, dice: Dice) => EnginePorts
  readonly session?: (session: Session, dice: Dice) => void
  readonly engine?: (engine: Engine, dice: Dice) => void
}

export interface House {
  readonly engine: Engine
  readonly db: Kysely<unknown>
  /** Most connections. */
  readonly max: number
  /** All that it has ever had. */
  readonly sockets: readonly VirtualSocket[]
}

export const ACQUIRE_MS = 2_000
export const QUERY_MS = 500
export const ATTEMPTS = 3
export const BACKOFF_MS = 200

export interface Site {
  readonly world: World
  readonly server: VirtualPostgres
  readonly dice: Dice
  readonly behindPooler: boolean
  readonly mutant: Mutant
}

export function buildHouse(site: Site): House {
  const { world, mutant } = site
  const config = resolveConfig(drawOptions(site))
  const sockets: VirtualSocket[] = []
  const ports: EnginePorts = {
    clock: world.process,
    chance: world.newChance(),
    listeners: new Listeners(),
    faultOf,
    opener: (node, hooks) => opener(site, node, hooks, config.statements.cacheSize, sockets),
  }
  const engine = new Engine(config, mutant.ports?.(ports, world.newChance()) ?? ports)
  mutant.engine?.(engine, world.newChance())
  const handle = new EngineHandle(
    () => engine,
    () => () => undefined,
  )
  const db = new Kysely<unknown>({
    dialect: {
      createDriver: () => new SmartPgDriver(handle),
      createQueryCompiler: () => new PostgresQueryCompiler(),
      createAdapter: () => new PostgresAdapter(),
      createIntrospector: (it) => new PostgresIntrospector(it),
    },
  })
  return { engine, db, max: config.primary.pool.max, sockets }
}

function drawOptions({ dice, behindPooler }: Site): SmartPgOptions {
  const max = dice.whole(1, 5)
  return {
    primary: 'postgres://app@primary/app',
    pool: {
      max,
      min: 0,
      initial: dice.whole(0, Math.min(2, max)),
      minIdle: dice.whole(0, 1),
      acquireTimeout: ACQUIRE_MS,
      connectTimeout: 600,
      idleTimeout: dice.oneOf([500, 60_000]),
      maxLifetime: dice.oneOf([1_500, 60_000]),
      validateAfterIdle: dice.oneOf([0, 100, 500]),
      keepalive: dice.oneOf([0, 700]),
      lanes: dice.happens(0.85),
      pipelineWrites: dice.happens(0.3),
    },
    queryTimeout: QUERY_MS,
    retry: { attempts: ATTEMPTS, base: 20, max: BACKOFF_MS },
    breaker: { failureThreshold: dice.whole(2, 6), recoveryTimeout: { min: 100, max: 1_000 } },
    statements: { prepare: behindPooler || dice.happens(0.7) ? 'auto' : 'always', cacheSize: dice.oneOf([2, 100]) },
    transactions: { lazyBegin: dice.happens(0.7), resolveCommit: dice.happens(0.3) },
    metrics: false,
  }
}

/** The wire itself, over a socket that is not one. */
function opener(
  { world, server, mutant }: Site,
  { name }: NodeConfig,
  hooks: OpenerHooks,
  cacheSize: number,
  sockets: VirtualSocket[],
): OpenSession {
  const newSocket = (): VirtualSocket => {
    const socket = server.newSocket()
    sockets.push(socket)
    return socket
  }
  const coordinates = { host: 'primary', port: 5432, user: 'app', database: 'app' }
  const open = nativeSessionOpener({
    node: name,
    clock: world.process,
    target: () => ({ ...coordinates, stream: newSocket() }),
    ssl: undefined,
    types: undefined,
    applicationName: 'simulation',
    settings: {},
    cacheSize,
    ...hooks,
  })
  const dice = world.newChance()
  return async (how) => {
    const session = await open(how)
    // pg would open a socket of its own for it.
    session.cancel = () => server.cancel(session.pid)
    mutant.session?.(session, dice)
    return session
  }
}
