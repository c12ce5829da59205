// One run: a seed decides who calls what and when, what the house is set to, and what goes wrong. Afterwards everything
// is made well again, and the house must be as good as new; then it is closed, and nothing of it may remain.

import { calls } from './callers.ts'
import { Database } from './database.ts'
import type { Budgets, Caller } from './doing.ts'
import { STORM_MS, brew } from './faults.ts'
import { ACQUIRE_MS, ATTEMPTS, BACKOFF_MS, QUERY_MS, buildHouse } from './house.ts'
import type { House, Mutant } from './house.ts'
import { inspectClosing, inspectLeftovers, inspectRecovery } from './inspection.ts'
import { judgeSettling, judgeWrites } from './judge.ts'
import { Ledger, describe } from './ledger.ts'
import type { Complaint } from './ledger.ts'
import { isDeadlock, isOurs, isWanted } from './reasons.ts'
import { VirtualPostgres } from './server.ts'
import { World } from './world.ts'

export interface Outcome {
  readonly seed: number
  readonly complaints: readonly Complaint[]
  readonly trace: readonly string[]
  readonly operations: number
  /** Those that failed for no fault of their callers. */
  readonly failed: number
}

const OPERATIONS = 30
/** Within this they begin, when nothing holds them up. */
const CALLING_MS = 6_000
/** Far longer than any operation may take. */
const AT_LAST_MS = 60_000

export async function simulate(seed: number, mutant: Mutant = {}): Promise<Outcome> {
  const world = new World(seed)
  const ledger = new Ledger(world)
  const uncaught = (error: unknown): void =>
    ledger.complain('an exception is uncaught', error instanceof Error ? String(error.stack) : String(error))
  const deafen = [
    hear('unhandledRejection', (error) => ledger.complain('a rejection is unhandled', describe(error))),
    hear('uncaughtException', uncaught),
  ]
  try {
    await run(world, ledger, mutant)
  } catch (error) {
    uncaught(error)
  } finally {
    for (const stop of deafen) stop()
  }
  const { operations, complaints } = ledger
  const failed = operations.filter(({ error }) => error !== undefined && !isWanted(error)).length
  return { seed, complaints, trace: world.trace, operations: operations.length, failed }
}

async function run(world: World, ledger: Ledger, mutant: Mutant): Promise<void> {
  const dice = world.newChance()
  // Then two processes share it.
  const behindPooler = dice.happens(1 / 6)
  const closesEarly = dice.happens(0.1)
  const database = new Database()
  const server = new VirtualPostgres(world, database, ledger, behindPooler)
  const inspected = { world, ledger, server }
  const site = { world, server, dice, behindPooler, mutant }
  const houses = Array.from({ length: behindPooler ? 2 : 1 }, () => buildHouse(site))
  const storm = brew(world, server)
  const budgets: Budgets = {
    statementMs: ACQUIRE_MS + ATTEMPTS * (QUERY_MS + BACKOFF_MS) + 1_000,
    silenceMs: storm.longestSilenceMs + 1_000,
  }
  const newCaller = (name: string, { db }: House): Caller => {
    return { name, db, world, dice: world.newChance(), ledger, budgets, leavesTraces: !behindPooler }
  }
  const callers = Array.from({ length: dice.whole(4, 8) }, (_, n) => newCaller(`c${n + 1}`, houses[n % houses.length]!))
  const each = Math.ceil(OPERATIONS / callers.length)
  let calling = callers.length
  for (const caller of callers) void calls(caller, each, CALLING_MS / each).finally(() => calling--)
  if (closesEarly) {
    await world.until(() => false, dice.between(100, STORM_MS))
    for (const house of houses) await inspectClosing(inspected, house)
  }
  await world.until(() => calling === 0 && world.now > STORM_MS, storm.longestMs - world.now)
  storm.heal()
  await world.until(() => calling === 0, AT_LAST_MS)
  judgeSettling(ledger)
  if (!closesEarly) {
    judgeFailures(ledger, storm.faults === 0)
    for (const house of houses) await inspectRecovery(inspected, house, newCaller('c99', house))
  }
  // Once more where it was closed before its first query: Kysely does nothing then.
  for (const house of houses) await inspectClosing(inspected, house)
  await inspectLeftovers(inspected)
  judgeWrites(ledger, database)
}

/** Some failures are never right, and in fair weather hardly any. */
function judgeFailures(ledger: Ledger, fairWeather: boolean): void {
  for (const { name, what, error } of ledger.operations) {
    if (error === undefined || isWanted(error)) continue
    if (!isOurs(what, error) && (!fairWeather || isDeadlock(error))) continue
    ledger.complain('a failure without a fault', `${name} (${what}): ${describe(error)}`)
  }
}

/** What nobody has caught is for the judge alone. Gives back how to stop. */
function hear(event: 'unhandledRejection' | 'uncaughtException', heard: (error: unknown) => void): () => void {
  const others = process.listeners(event as 'uncaughtException')
  process.removeAllListeners(event)
  process.on(event, heard)
  return () => {
    process.off(event, heard)
    for (const other of others) process.on(event, other)
  }
}
