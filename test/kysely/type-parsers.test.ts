// Type parsers of the user are for the user's rows. What the house asks for itself must not pass through them.

import { expect, test } from 'vitest'
import { hasReplicas, inDatabase } from './support.ts'

const place = inDatabase()

const odd = { getTypeParser: () => () => 'odd' }
const throwing = {
  getTypeParser: () => () => {
    throw new Error('no such animal')
  },
}

test.skipIf(!hasReplicas)('odd type parsers leave routing, freshness and own writes as they are', async () => {
  const { db, dialect } = await place.openWithReplicas({ types: odd })
  const roles = new Set<string>()
  using _ = dialect.on('query', ({ role }) => roles.add(role))
  expect(await db.selectFrom('person').select('name').limit(1).execute()).toEqual([{ name: 'odd' }])
  expect([...roles]).toEqual(['replica'])
  await db.insertInto('person').values({ name: 'dora', age: 1 }).execute()
  expect(await db.selectFrom('person').select('name').where('name', '=', 'dora').execute()).toHaveLength(1)
})

test('parsers that throw fail the rows of the user, and no connection, ping or reset', async () => {
  const { db } = place.openOne({ types: throwing, pool: { validateAfterIdle: 0 } })
  for (let round = 0; round < 3; round++) {
    await expect(db.selectFrom('person').select('name').execute()).rejects.toThrow('no such animal')
    await db
      .insertInto('person')
      .values({ name: `dora ${round}`, age: 1 })
      .execute()
  }
  expect((await place.names()).filter((name) => name.startsWith('dora'))).toHaveLength(3)
})
