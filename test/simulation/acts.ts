// What callers do: reads, writes, transactions with a constant sum, leases that leave something behind, batches, streams,
// and people who go away in the middle or do not wait for what they have asked for.

import type { QueryResult } from 'kysely'
import { batch } from '../../src/kysely/batch.ts'
import { ACCOUNTS } from './database.ts'
import { compiled } from './doing.ts'
import type { Abort, Db, Doing, Row } from './doing.ts'
import { ChangedMind, GoneAway, isWanted } from './reasons.ts'
import {
  ADD,
  ADVISORY_LOCK,
  BROKEN,
  HOW_MANY_NUMBERS,
  INSERT,
  INSERT_RETURNING,
  LOOKS,
  NUMBERS,
  SLOW_LOOK,
  TENANT,
  TOUCH,
  leavings,
} from './texts.ts'
import type { Dice } from './world.ts'

export interface Act {
  readonly weight: number
  readonly statements: number
  /** Part of it has no deadline of its own. */
  readonly untimed?: boolean
  readonly act: (doing: Doing) => Promise<void>
}

const account = (dice: Dice): number => dice.whole(0, ACCOUNTS - 1)

async function look(doing: Doing, abort?: Abort): Promise<void> {
  const { dice, db } = doing.caller
  await doing.run(db, dice.oneOf(LOOKS), doing.stamp(), [], abort)
}

async function slowLook(doing: Doing): Promise<void> {
  await doing.run(doing.caller.db, SLOW_LOOK, doing.stamp())
}

async function insert(doing: Doing, abort?: Abort): Promise<void> {
  const { dice, db } = doing.caller
  await doing.write(db, dice.happens(0.5) ? INSERT : INSERT_RETURNING, [], abort)
}

async function touch(doing: Doing): Promise<void> {
  const { dice, db } = doing.caller
  await doing.write(db, TOUCH, [account(dice)])
}

/** Many at once, fast reads above all, some of which nobody waits for: what lanes are for. */
async function crowd(doing: Doing): Promise<void> {
  const { dice } = doing.caller
  const one = (): Promise<void> => {
    if (dice.happens(0.8)) return look(doing)
    return dice.oneOf([insert, touch, touch, slowLook, goesAway])(doing)
  }
  const settled = await Promise.allSettled(Array.from({ length: dice.whole(5, 40) }, one))
  const failures = settled.flatMap((it) => (it.status === 'rejected' ? [it.reason as unknown] : []))
  const worst = failures.find((failure) => !isWanted(failure)) ?? failures[0]
  if (worst !== undefined) throw worst
}

/** Takes from one account what it gives to another. */
async function transfer(doing: Doing): Promise<void> {
  const { caller } = doing
  const { dice, db, world } = caller
  const amount = dice.whole(1, 100)
  const from = account(dice)
  const to = (from + dice.whole(1, ACCOUNTS - 1)) % ACCOUNTS
  const stamps = [doing.stamp('in a transaction'), doing.stamp('in a transaction'), doing.stamp('in a transaction')]
  const changesMind = dice.happens(0.2)
  const together = dice.happens(0.3)
  const steps: ((trx: Db) => Promise<unknown>)[] = [
    (trx) => doing.run(trx, ADD, stamps[0]!, [from, -amount]),
    (trx) => doing.run(trx, ADD, stamps[1]!, [to, amount]),
    (trx) => doing.run(trx, INSERT, stamps[2]!),
    (trx) => doing.run(trx, dice.oneOf(LOOKS), doing.stamp('in a transaction')),
  ]
  if (dice.happens(0.5)) steps.reverse()
  await doing.unit(stamps, () =>
    db.transaction().execute(async (trx) => {
      if (together) await Promise.all(steps.map((step) => step(trx)))
      else {
        for (const step of steps) {
          await step(trx)
          if (dice.happens(0.4)) await world.pause(dice.between(0, 60))
          if (changesMind && dice.happens(0.5)) throw new ChangedMind('the caller changed his mind')
        }
      }
      if (changesMind) throw new ChangedMind('the caller changed his mind at the end')
    }),
  )
}

/** One of its statements fails, and the caller goes back to before it, or pretends that nothing has happened. */
async function mishap(doing: Doing): Promise<void> {
  const { dice, db } = doing.caller
  const stamps = [doing.stamp('in a transaction'), doing.stamp('in a transaction')]
  const broken = doing.stamp('in a transaction')
  const goesBack = dice.happens(0.5)
  const work = async (): Promise<void> => {
    const trx = await db.startTransaction().execute()
    try {
      await doing.run(trx, INSERT, stamps[0]!)
      const savepoint = goesBack ? await trx.savepoint('here').execute() : null
      await doing.run(trx, BROKEN, broken).catch(() => undefined)
      if (savepoint !== null) await savepoint.rollbackToSavepoint('here').execute()
      await doing.run(trx, INSERT, stamps[1]!).catch((error: unknown) => {
        if (goesBack) throw error
      })
      await trx.commit().execute()
    } catch (error) {
      await trx.rollback().execute()
      throw error
    }
  }
  await doing.unit(stamps, work).catch((error: unknown) => {
    // COMMIT was answered with ROLLBACK.
    if (goesBack || (error as Error).name !== 'AbortedTransactionError') throw error
  })
}

/** A connection for a while, and something that stays in its session. */
async function lease(doing: Doing): Promise<void> {
  const { caller } = doing
  const { dice, db } = caller
  await db.connection().execute(async (connection) => {
    if (dice.happens(0.5)) await doing.write(connection, INSERT)
    if (caller.leavesTraces) {
      if (dice.happens(0.3)) await doing.run(connection, ADVISORY_LOCK, doing.stamp())
      else await connection.executeQuery(compiled(dice.oneOf(leavings(doing.name))))
    }
    await doing.run(connection, TENANT, doing.stamp())
    await doing.run(connection, dice.oneOf(LOOKS), doing.stamp())
    if (dice.happens(0.5)) await doing.write(connection, INSERT)
    if (dice.happens(0.1)) await caller.world.pause(dice.between(0, 1_500))
    if (dice.happens(0.2)) throw new ChangedMind('the caller left his connection as it was')
  })
}

/** Cancels what takes too long and goes on with something else on the same connection. */
async function impatience(doing: Doing): Promise<void> {
  const { dice, db } = doing.caller
  await db.connection().execute(async (connection) => {
    for (let n = 0; n < 3; n++) {
      const abort = { signal: soon(doing), inflightQueryAbortStrategy: 'cancel query' as const }
      await doing
        .run(connection, dice.happens(0.5) ? SLOW_LOOK : LOOKS[n]!, doing.stamp(), [], abort)
        .catch((error: unknown) => {
          if (!isWanted(error)) throw error
        })
      await doing.run(connection, dice.oneOf(LOOKS), doing.stamp())
    }
  })
}

/** Does not wait for the last thing that was asked for. */
async function haste(doing: Doing): Promise<void> {
  const { dice, db } = doing.caller
  const work = async (connection: Db): Promise<void> => {
    if (dice.happens(0.5)) await connection.executeQuery(compiled('select 1 where false'))
    void connection.executeQuery(compiled('select 1 where false')).catch(() => undefined)
  }
  if (dice.happens(0.5)) await db.connection().execute(work)
  else await db.transaction().execute(work)
}

/** BEGIN by hand, and nobody who ends it. */
async function forgottenBegin(doing: Doing): Promise<void> {
  const { db, ledger } = doing.caller
  const stamp = doing.stamp('in a transaction')
  try {
    await db.connection().execute(async (connection) => {
      await connection.executeQuery(compiled('begin'))
      await doing.run(connection, INSERT, stamp)
    })
  } finally {
    ledger.tell([stamp], 'nothing')
  }
}

async function inOneBatch(doing: Doing): Promise<void> {
  const { dice, db } = doing.caller
  const stamps = [doing.stamp('in a transaction'), doing.stamp('in a transaction')]
  const read = doing.stamp('in a transaction')
  const broken = dice.happens(0.2)
  const sql = dice.oneOf(LOOKS)
  await doing.unit(stamps, async () => {
    const [, rows] = await batch(db, [
      compiled(INSERT, [stamps[0]]),
      compiled(sql, [read]),
      ...(broken ? [compiled(BROKEN, [doing.stamp('in a transaction')])] : []),
      compiled(INSERT_RETURNING, [stamps[1]]),
    ])
    doing.looksAt(sql, read, (rows as QueryResult<Row>).rows)
  })
}

async function readStream(doing: Doing): Promise<void> {
  const { dice, db, ledger, world } = doing.caller
  const stamp = doing.stamp('in a transaction')
  const stopsAt = dice.happens(0.2) ? dice.whole(1, HOW_MANY_NUMBERS - 1) : Infinity
  let count = 0
  for await (const { rows } of db.getExecutor().stream<Row>(compiled(NUMBERS, [stamp]), dice.oneOf([3, 5, 10, 50]))) {
    doing.looksAt(NUMBERS, stamp, rows)
    count += rows.length
    if (count >= stopsAt) return
    if (dice.happens(0.5)) await world.pause(dice.between(0, 60))
  }
  if (count !== HOW_MANY_NUMBERS) ledger.complain('a stream is short', `${stamp} had ${count} of ${HOW_MANY_NUMBERS}`)
}

/** Aborted in a moment. */
function soon({ caller: { world, dice } }: Doing): AbortSignal {
  const controller = new AbortController()
  void world
    .pause(dice.happens(0.5) ? dice.between(0, 5) : dice.between(0, 40))
    .then(() => controller.abort(new GoneAway('the caller went away')))
  return controller.signal
}

/** Somebody who does not wait for the answer. */
async function goesAway(doing: Doing): Promise<void> {
  const { dice } = doing.caller
  const abort: Abort = {
    signal: soon(doing),
    inflightQueryAbortStrategy: dice.oneOf(['ignore query', 'cancel query', 'kill session'] as const),
  }
  if (dice.happens(0.5)) await look(doing, abort)
  else await insert(doing, abort)
}

export const acts: Record<string, Act> = {
  'a read': { weight: 5, statements: 1, act: (doing) => look(doing) },
  'a slow read': { weight: 2, statements: 1, act: slowLook },
  'an insert': { weight: 5, statements: 1, act: (doing) => insert(doing) },
  'an update': { weight: 5, statements: 1, act: touch },
  'a crowd': { weight: 3, statements: 1, act: crowd },
  'a transfer': { weight: 7, statements: 6, act: transfer },
  'a mishap': { weight: 2, statements: 6, act: mishap },
  'a lease': { weight: 2, statements: 5, untimed: true, act: lease },
  'an impatient caller': { weight: 2, statements: 6, untimed: true, act: impatience },
  'a hasty caller': { weight: 1, statements: 3, untimed: true, act: haste },
  'a forgotten begin': { weight: 1, statements: 2, untimed: true, act: forgottenBegin },
  'a batch': { weight: 3, statements: 6, act: inOneBatch },
  'a stream': { weight: 2, statements: 4, untimed: true, act: readStream },
  'a caller who goes away': { weight: 2, statements: 1, act: goesAway },
}
