// What must be so when all is well again: the house answers, it has as many connections as it may have, it can be
// closed, and then nothing of it is left.

import { asks } from './callers.ts'
import type { Caller } from './doing.ts'
import { ACQUIRE_MS, QUERY_MS } from './house.ts'
import type { House } from './house.ts'
import { describe } from './ledger.ts'
import type { Ledger } from './ledger.ts'
import type { VirtualPostgres } from './server.ts'
import type { World } from './world.ts'

/** The server's limit, once seen, is tried again so often. */
const SLOTS_RETRY_MS = 30_000
/** Longer than a circuit stays open. */
const RECOVERY_MS = 6_000
/** As many as close a circuit, and one more. */
const ANSWERS = 4
const MOST_ASKED = 40
/** After the goodbye, until the last socket is closed. */
const CLOSING_MS = 3_000

interface Inspected {
  readonly world: World
  readonly ledger: Ledger
  readonly server: VirtualPostgres
}

/** It answers, and all its connections can be held at once. */
export async function inspectRecovery(inspected: Inspected, house: House, caller: Caller): Promise<void> {
  const { world, ledger } = inspected
  const { pool } = house.engine.cluster.primary
  const reads = { asked: 0, answered: 0 }
  void askAgainAndAgain(house, caller, reads)
  if (!(await world.until(() => reads.answered >= ANSWERS, RECOVERY_MS))) {
    ledger.complain('the circuit stays open', `${reads.answered} of ${reads.asked} reads were answered`)
  }
  const end = world.now + house.max * SLOTS_RETRY_MS * 1.1
  while (!(await holdsAll(inspected, house, caller))) {
    if (world.now > end) {
      ledger.complain('capacity is lost', JSON.stringify(pool.counts()))
      break
    }
    await world.until(() => false, CLOSING_MS)
  }
  await world.until(() => false, 200)
  const { active, waiting } = pool.counts()
  if (active + waiting > 0) ledger.complain('capacity is lost', `${active} are held by nobody, ${waiting} wait`)
}

async function askAgainAndAgain(
  { db }: House,
  caller: Caller,
  reads: { asked: number; answered: number },
): Promise<void> {
  while (reads.answered < ANSWERS && reads.asked < MOST_ASKED) {
    await caller.world.pause(100)
    await asks(caller, db, ++reads.asked).then(
      () => reads.answered++,
      () => undefined,
    )
  }
}

async function holdsAll({ world }: Inspected, { db, max }: House, caller: Caller): Promise<boolean> {
  const state = { held: 0, letGo: false, over: 0 }
  for (let n = 0; n < max; n++) {
    const holding = db.connection().execute(async (connection) => {
      await asks(caller, connection, 100 + n)
      // From the second on it is surely a connection of his own.
      await asks(caller, connection, 200 + n)
      state.held++
      while (!state.letGo) await world.pause(20)
    })
    void holding.catch(() => undefined).finally(() => state.over++)
  }
  const all = await world.until(() => state.held === max, ACQUIRE_MS + 500)
  state.letGo = true
  await world.until(() => state.over === max, 10_000)
  return all
}

/** It can be closed, whatever it does just then. */
export async function inspectClosing({ world, ledger }: Inspected, { db, sockets }: House): Promise<void> {
  // Before the first query Kysely does nothing.
  const inUse = sockets.length > 0
  let closed = false
  const whenClosed = (): void => {
    closed = true
    const open = sockets.filter(({ destroyed }) => !destroyed).length
    if (inUse && open > 0) ledger.complain('sessions are left on the server', `${open} sockets open after destroy`)
  }
  void db
    .destroy()
    .then(whenClosed, (error: unknown) => ledger.complain('destroy hangs', `it failed: ${describe(error)}`))
  if (!(await world.until(() => closed, QUERY_MS + CLOSING_MS))) ledger.complain('destroy hangs', 'it never settled')
}

/** Whatever was opened is closed, and no timer sets another. */
export async function inspectLeftovers({ world, ledger, server }: Inspected): Promise<void> {
  // A backend that works for somebody who is gone notices when it is done.
  await world.until(() => server.connections.size === 0, CLOSING_MS)
  const left = [...server.connections].map(({ line }) => `line ${line.id}`)
  if (left.length > 0) ledger.complain('sessions are left on the server', left.join(', '))
  if (!(await world.until(() => !world.process.waitsForTimers, CLOSING_MS)))
    ledger.complain('a timer is left', 'after destroy')
}
