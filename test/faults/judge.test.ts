// The judge judged: logs and databases that were doctored, each in one way. A judge who does not complain of that would
// find nothing in a fault run either.

import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { blameless, findOut, judge } from '../support/fault-load/judge.ts'
import type { Found, Verdict } from '../support/fault-load/judge.ts'
import type { Entry } from '../support/fault-load/load.ts'
import { accountCount, firstBalance, schema } from '../support/fault-load/operations.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'

const budgetMs = 5_000
const due = 1_000_000

const answered = (n: number, kind: Entry['kind'], more: Partial<Entry> = {}): Entry => {
  const reads = kind === 'read' || kind === 'recall' || kind === 'stream'
  const wrote = reads ? 'nothing' : 'yes'
  return { kind, n, of: undefined, herd: false, due, settled: due + 10, told: 'ok', wrote, wrong: null, ...more }
}

const failed = (n: number, kind: Entry['kind'], told: string, wrote: Entry['wrote']): Entry =>
  answered(n, kind, { told, wrote })

/** One operation of each kind that all went well, and what they left behind. */
const log: readonly Entry[] = [
  answered(1, 'insert'),
  answered(2, 'read'),
  answered(3, 'recall', { of: 1 }),
  answered(4, 'transfer'),
  answered(5, 'own-write'),
  answered(6, 'batch'),
  answered(7, 'stream'),
]
const leavings = [
  `insert into written values (1, 'whole'), (5, 'whole'), (6, 'left'), (6, 'right')`,
  'insert into transfers values (4, 1, 2, 5)',
  'update accounts set balance = balance - 5 where id = 1',
  'update accounts set balance = balance + 5 where id = 2',
]

interface Doctored {
  readonly what: string
  readonly expected: Partial<Verdict>
  readonly doctoring?: readonly string[]
  readonly entries?: readonly Entry[]
}

describe('the judge', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    for (const statement of schema) await ask(database.url, statement)
  })
  afterAll(() => database.drop())
  beforeEach(async () => {
    await ask(database.url, `truncate written, transfers`)
    await ask(database.url, `update accounts set balance = ${firstBalance}`)
    for (const statement of leavings) await ask(database.url, statement)
  })

  const verdict = async (entries: readonly Entry[] = log, ...doctoring: string[]): Promise<Verdict> => {
    for (const statement of doctoring) await ask(database.url, statement)
    return judge(entries, await findOut(database.url), budgetMs)
  }

  test('has nothing to say against a run in which all went well', async () => {
    expect(await verdict()).toEqual(blameless)
  })

  test('allows what nobody knows, whether it is there or not', async () => {
    const entries = [
      ...log.slice(1),
      failed(1, 'insert', 'SMARTPG_OUTCOME_UNKNOWN', 'maybe'),
      failed(8, 'insert', 'SMARTPG_OUTCOME_UNKNOWN', 'maybe'),
      failed(9, 'batch', 'SMARTPG_OUTCOME_UNKNOWN', 'maybe'),
      failed(10, 'transfer', 'SMARTPG_OUTCOME_UNKNOWN', 'maybe'),
    ]
    expect(await verdict(entries)).toEqual(blameless)
  })

  // prettier-ignore
  const doctored: readonly Doctored[] = [
    { what: 'an acknowledged insert that is missing', expected: { lost: 1, dirty: 1 }, doctoring: ['delete from written where n = 1'] },
    { what: 'an own write that is missing although its reader saw it', expected: { lost: 1 }, doctoring: ['delete from written where n = 5'] },
    { what: 'a batch that is missing as a whole', expected: { lost: 1 }, doctoring: ['delete from written where n = 6'] },
    { what: 'a transfer that was taken back', expected: { lost: 1 }, doctoring: ['delete from transfers', `update accounts set balance = ${firstBalance}`] },
    { what: 'an insert that was done twice', expected: { twice: 1 }, doctoring: ["insert into written values (1, 'whole')"] },
    { what: 'one half of a batch that was done twice', expected: { twice: 1 }, doctoring: ["insert into written values (6, 'left')"] },
    { what: 'a transfer that was done twice', expected: { twice: 1, torn: 2 }, doctoring: ['insert into transfers values (4, 1, 2, 5)'] },
    { what: 'half a batch', expected: { lost: 1, torn: 1 }, doctoring: ["delete from written where part = 'right'"] },
    { what: 'half a batch of which nobody knows', expected: { torn: 1 }, doctoring: ["insert into written values (8, 'left')"], entries: [...log, failed(8, 'batch', 'SMARTPG_OUTCOME_UNKNOWN', 'maybe')] },
    { what: 'a transfer that left its sender and never arrived', expected: { torn: 2 }, doctoring: ['update accounts set balance = balance - 5 where id = 2'] },
    { what: 'money that went to somebody else', expected: { torn: 2 }, doctoring: ['update accounts set balance = balance - 5 where id = 2', 'update accounts set balance = balance + 5 where id = 3'] },
    { what: 'a write that is there although it was said not to be', expected: { untrue: 1 }, entries: [...log.slice(1), failed(1, 'insert', 'SMARTPG_NOT_EXECUTED', 'no')] },
    { what: 'half a batch that is there although it was said not to be', expected: { untrue: 1, torn: 1 }, doctoring: ["insert into written values (8, 'left')"], entries: [...log, failed(8, 'batch', 'SMARTPG_NOT_EXECUTED', 'no')] },
    { what: 'an answer that carries something else', expected: { wrong: 1 }, entries: [...log, answered(8, 'read', { wrong: 'read 8: [{"n":9,"value":"value 9"}]' })] },
    { what: 'a stream that ended early', expected: { short: 1 }, entries: [...log, answered(8, 'stream', { wrong: 'short: a stream of 50 rows ended as if it were whole' })] },
    { what: 'a read of what was never kept', expected: { dirty: 1 }, entries: [...log, answered(8, 'recall', { of: 12 })] },
    { what: 'an operation that is still under way', expected: { hung: 1 }, entries: [...log, answered(8, 'read', { settled: null, told: 'pending' })] },
    { what: 'an operation that settled too late', expected: { hung: 1 }, entries: [...log, answered(8, 'read', { settled: due + budgetMs + 1_001 })] },
  ]

  test.each(doctored)('finds $what', async ({ expected, doctoring = [], entries = log }) => {
    const found = await verdict(entries, ...doctoring)
    expect(found).toEqual({ ...blameless, ...expected, examples: found.examples })
    expect(found.examples).not.toEqual([])
  })

  test('asks the tables of the run, whatever search_path its database or its role has', async () => {
    const role = `judged_${randomBytes(4).toString('hex')}`
    await ask(database.url, 'create schema if not exists elsewhere')
    await ask(database.url, 'create table elsewhere.written (n int, part text)')
    await ask(database.url, `create role ${role} superuser login`)
    try {
      await ask(database.url, `alter role ${role} set search_path to elsewhere`)
      const url = new URL(database.url)
      url.username = role
      const found: Found = await findOut(url.href)
      expect(found.written).toHaveLength(4)
      expect(found.sum).toBe(accountCount * firstBalance)
    } finally {
      await ask(database.url, `drop role ${role}`)
    }
  })
})
