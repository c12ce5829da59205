// The decisions against 49,000 statements that real servers were asked about: PostgreSQL's own regression suites,
// run on a primary and a standby. The figures are printed; the levels they must keep stand in the tests.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { factsOf } from '../../src/sql/facts.ts'
import type { Facts } from '../../src/core/types.ts'

interface Labelled {
  readonly sql: string
  readonly label: string
  /** Parse node, where the server's parser knew one. */
  readonly kind?: string
  /** SQLSTATE of the attempt on the standby. */
  readonly standby?: string
}

const file = join(import.meta.dirname, '../../../shared/corpus/statements.jsonl')
const absent = !existsSync(file)

const oneLine = (sql: string): string =>
  sql
    .replaceAll(/--.*\n/g, '')
    .replaceAll(/\s+/g, ' ')
    .trim()
    .slice(0, 200)

const sample = (statements: readonly Judged[]): string => statements.map(({ sql }) => `\n  ${oneLine(sql)}`).join('')

type Judged = Labelled & { readonly facts: Facts }

describe.skipIf(absent)('labelled statements (needs ../shared/corpus/statements.jsonl)', () => {
  const statements: Judged[] = absent
    ? []
    : readFileSync(file, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => {
          const labelled = JSON.parse(line) as Labelled
          return { ...labelled, facts: factsOf(labelled.sql) }
        })
  const labelled = (...labels: string[]): Judged[] => statements.filter(({ label }) => labels.includes(label))

  test('the corpus is whole', () => {
    expect(statements.length).toBe(49_118)
  })

  // What is left are views that call functions, operators of users and tables that are not logged: the text does
  // not show it, the server refuses them and they are run again on the primary.
  test('hardly a statement that must run on the primary is sent to a replica', () => {
    const must = labelled('primary', 'server_effect')
    const sent = must.filter(({ facts }) => facts.safeOnReplica)
    console.log(`sent to a replica wrongly: ${sent.length} of ${must.length}${sample(sent)}`)
    expect(sent.length, sample(sent)).toBeLessThanOrEqual(15)
  })

  test('three of four statements that a replica could run are sent there', () => {
    const could = labelled('replica')
    const sent = could.filter(({ facts }) => facts.safeOnReplica)
    console.log(
      `sent to a replica rightly: ${sent.length} of ${could.length}, ${((100 * sent.length) / could.length).toFixed(1)} %`,
    )
    expect(sent.length / could.length).toBeGreaterThanOrEqual(0.75)
  })

  // The label also holds statements that only need their session: a temporary table somebody made, a date read
  // under another DateStyle. They carry the standby's error; those that change the session have run on both.
  test('no statement that changes its session goes unnoticed', () => {
    const untilCommit = /^(set\s+(local|transaction|constraints)\b)/i
    const changing = labelled('stateful').filter(
      ({ sql, kind, standby }) =>
        !untilCommit.test(oneLine(sql)) &&
        (standby === undefined || !/^(Select|Insert|Update|Delete|Merge|Explain|CreateTableAs)Stmt/.test(kind ?? '')),
    )
    expect(changing.length).toBeGreaterThan(1_500)
    const missed = changing.filter(({ facts }) => !facts.stateful)
    expect(missed.length, sample(missed)).toBe(0)
  })

  test('a statement that needs its session is sent to a replica only when nothing in its text tells', () => {
    const sent = labelled('stateful').filter(({ facts }) => facts.safeOnReplica)
    const unmarked = labelled('stateful').filter(({ facts }) => !facts.stateful && !facts.safeOnReplica)
    console.log(`need their session, not visible in the text: ${sent.length} reads, ${unmarked.length} others`)
    // Each of them failed on the standby for want of what the session had.
    expect(sent.filter(({ standby }) => standby === undefined)).toEqual([])
    for (const { facts } of sent) expect(facts.writes).toBe(false)
  })

  test('transaction control is known as such', () => {
    const single = labelled('txn').filter(({ kind }) => kind === 'TransactionStmt')
    expect(single.length).toBeGreaterThan(700)
    const missed = single.filter(({ facts }) => facts.kind !== 'transaction')
    expect(missed.length, sample(missed)).toBe(0)
  })

  test('every insert, update, delete and merge is known as a write that may wait for a lock', () => {
    const writes = statements.filter(({ kind }) => /^(Insert|Update|Delete|Merge)Stmt$/.test(kind ?? ''))
    expect(writes.length).toBeGreaterThan(5_000)
    const missed = writes.filter(({ facts }) => !facts.writes || !facts.lockWaiter || !facts.kind.startsWith('write_'))
    expect(missed.length, sample(missed)).toBe(0)
    const nameless = writes.filter(({ facts }) => facts.tablesWritten.length === 0)
    expect(nameless.length, sample(nameless)).toBe(0)
  })

  test('several statements in one text are seen as several', () => {
    const several = statements.filter(({ kind }) => kind?.includes('+'))
    expect(several.length).toBeGreaterThan(50)
    const missed = several.filter(({ facts }) => !facts.multiple)
    expect(missed.length, sample(missed)).toBe(0)
  })
})
