// Compiled, never run: `retryTransaction` gives what its callback gives, and hands it a transaction of the same tables.
// Each expected error fails the type check when it is none.

import type { Kysely, Transaction } from 'kysely'
import { retryTransaction } from '../../src/index.ts'
import { same } from './batch.ts'

interface Tables {
  person: { id: number; name: string }
}

export async function transactions(db: Kysely<Tables>): Promise<void> {
  const name = await retryTransaction(db, async (trx) => {
    same<typeof trx, Transaction<Tables>>()
    const { name: found } = await trx.selectFrom('person').select('name').executeTakeFirstOrThrow()
    return found
  })
  same<typeof name, string>()
  const nothing = await retryTransaction(db, async () => {}, {
    attempts: 5,
    base: '10ms',
    max: 500,
    isolationLevel: 'serializable',
    accessMode: 'read write',
    signal: AbortSignal.timeout(1_000),
  })
  same<typeof nothing, void>()
  // @ts-expect-error there is no such table
  await retryTransaction(db, (trx) => trx.selectFrom('pet').selectAll().execute())
  // @ts-expect-error a callback that gives no promise would end before its queries
  await retryTransaction(db, () => 1)
  // @ts-expect-error a misspelt option
  await retryTransaction(db, async () => 1, { retries: 3 })
  // @ts-expect-error no such level
  await retryTransaction(db, async () => 1, { isolationLevel: 'chaos' })
}
