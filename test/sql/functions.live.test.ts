// The list of reads against the server's own catalog: a name is there only when every overload is STABLE or
// IMMUTABLE, or when it is one of the few harmless VOLATILE ones.

import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import {
  AGGREGATES,
  CALLED_BY_DOT,
  HARMLESS_VOLATILE_FUNCTIONS,
  READ_FUNCTIONS,
  STAYING_FUNCTIONS,
} from '../../src/sql/functions.ts'
import { RESERVED, SYNTAX_CALLS } from '../../src/sql/keywords.ts'

// Without a database nothing is provided; the project that starts one runs these tests.
const url = inject('primaryUrl') as string | undefined

describe.skipIf(url === undefined)('against pg_proc (needs a database)', () => {
  const client = new Client({ connectionString: url })
  const volatile = new Map<string, boolean>()
  const aggregates = new Set<string>()
  let major = 0

  beforeAll(async () => {
    await client.connect()
    const { rows: versions } = await client.query<{ v: string }>("select current_setting('server_version_num') as v")
    major = Math.floor(Number(versions[0]!.v) / 10_000)
    const { rows } = await client.query<{ name: string; volatile: boolean; aggregate: boolean }>(
      `select proname as name, bool_or(provolatile = 'v') as volatile, bool_and(prokind = 'a') as aggregate
       from pg_proc where pronamespace = 'pg_catalog'::regnamespace group by proname`,
    )
    for (const row of rows) {
      volatile.set(row.name, row.volatile)
      if (row.aggregate) aggregates.add(row.name)
    }
  })

  afterAll(() => client.end())

  test('no overload of a read is VOLATILE', () => {
    // timezone(text, timetz) was VOLATILE up to 14, because it looks at the date; it keeps nothing.
    const excepted = major < 15 ? ['timezone'] : []
    const found = [...READ_FUNCTIONS].filter((name) => volatile.get(name) === true)
    expect(found.filter((name) => !excepted.includes(name))).toEqual([])
  })

  test('the harmless ones really are VOLATILE, else they belong among the reads', () => {
    const known = [...HARMLESS_VOLATILE_FUNCTIONS].filter((name) => volatile.has(name))
    expect(known.filter((name) => !volatile.get(name))).toEqual([])
  })

  test('the aggregates are aggregates', () => {
    expect([...AGGREGATES].filter((name) => volatile.has(name) && !aggregates.has(name))).toEqual([])
  })

  test('every function of the lists that may be called without parentheses is known, unless pg_ tells', async () => {
    const { rows } = await client.query<{ name: string }>(
      `select distinct proname as name from pg_proc where pronamespace = 'pg_catalog'::regnamespace and pronargs = 1`,
    )
    const single = new Set(rows.map(({ name }) => name))
    const dangerous = [...STAYING_FUNCTIONS].filter(([, { writes, stateful, waits }]) => writes || stateful || waits)
    const unknown = dangerous.filter(
      ([name]) => single.has(name) && !name.startsWith('pg_') && !CALLED_BY_DOT.has(name),
    )
    expect(unknown.map(([name]) => name)).toEqual([])
  })

  test('every name of the lists exists on the version they were made from', (context) => {
    if (major !== 18) context.skip('the lists follow PostgreSQL 18')
    const names = [...READ_FUNCTIONS, ...HARMLESS_VOLATILE_FUNCTIONS, ...STAYING_FUNCTIONS.keys()]
    expect(names.filter((name) => !volatile.has(name))).toEqual([])
  })

  test('the keywords are the server’s', async () => {
    const { rows } = await client.query<{ word: string; catcode: string }>(
      'select word, catcode from pg_get_keywords()',
    )
    const codes = new Map(rows.map((row) => [row.word, row.catcode]))
    // A word this server does not know as a keyword was reserved later; it is the other direction that matters.
    expect([...RESERVED].filter((word) => codes.has(word) && codes.get(word) !== 'R')).toEqual([])
    // 16 knows JSON only as the word after IS; since 17 it is a call.
    if (major < 17) codes.delete('json')
    expect([...SYNTAX_CALLS].filter((word) => codes.has(word) && codes.get(word) !== 'C')).toEqual([])
  })
})
