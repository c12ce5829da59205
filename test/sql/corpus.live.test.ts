// The same 49,000 statements with a catalog: what a real server's pg_catalog says of built-in functions, and what the
// corpus says of the user's (see corpus-catalog.ts). The figures are printed; the levels they must keep stand in the
// tests. Then a real standby has its say.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { Catalog } from '../../src/core/catalog.ts'
import type { CatalogRules } from '../../src/core/catalog.ts'
import { builtInEffect, readCatalog } from '../../src/engine/catalog-reader.ts'
import type { CatalogSnapshot } from '../../src/core/catalog-snapshot.ts'
import type { Facts } from '../../src/core/types.ts'
import { factsOf } from '../../src/sql/facts.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { CorpusCatalog } from './corpus-catalog.ts'
import type { Labelled } from './corpus-catalog.ts'

const file = join(import.meta.dirname, '../../../shared/corpus/statements.jsonl')
const absent = !existsSync(file)

interface Judged {
  readonly labelled: Labelled
  readonly byText: Facts
  readonly judged: Facts
}

const bare = (sql: string): string =>
  sql
    .replaceAll(/--.*\n/g, '')
    .replaceAll(/\s+/g, ' ')
    .trim()

/** Every statement as it would have been judged at its time, in its database. */
function judgeAll(server: CatalogSnapshot, rules: CatalogRules): Judged[] {
  const databases = new Map<string, CorpusCatalog>()
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => {
      const labelled = JSON.parse(line) as Labelled
      // The suites have one database each, and so has every contrib module.
      const database = labelled.src
        .split('/')
        .slice(0, labelled.src.startsWith('contrib/') ? 2 : 1)
        .join('/')
      const known = databases.get(database) ?? new CorpusCatalog(server)
      databases.set(database, known)
      const byText = factsOf(labelled.sql)
      const catalog = new Catalog({ readOnly: [], writing: [] }, builtInEffect, rules)
      catalog.learn(known.before(labelled, byText), catalog.version)
      if (labelled.label !== 'error') known.ran(labelled)
      return { labelled, byText, judged: catalog.judge(byText) }
    })
}

/** A standby has refused it because it is one: then it is run again on the primary. */
const refusedByStandby = ({ code = '', message }: { code?: string; message: string }): boolean =>
  code === '25006' || (['0A000', '55000', 'XX000'].includes(code) && /recovery|standby|read-only/.test(message))

describe.skipIf(absent)('labelled statements and a catalog (needs ../shared/corpus/statements.jsonl)', () => {
  let server: CatalogSnapshot
  let database: Database
  let standby: Client
  let byDefault: Judged[]

  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl'), replicaUrls: inject('replicaUrls').slice(0, 1) })
    const types = { getTypeParser: () => String } as never
    const primary = new Client({ connectionString: database.url, types })
    await primary.connect()
    server = await readCatalog(async (sql) => (await primary.query<Record<string, unknown>>(sql)).rows)
    await primary.end()
    const [replicaUrl] = database.replicaUrls
    standby = new Client({ connectionString: replicaUrl ?? database.url, options: '-c statement_timeout=5s' })
    await standby.connect()
    byDefault = judgeAll(server, { systemCatalogs: 'primary' })
  })

  afterAll(async () => {
    await standby.end()
    await database.drop()
  })

  const labelled = (all: readonly Judged[], ...labels: string[]): Judged[] =>
    all.filter((one) => labels.includes(one.labelled.label))
  const offloaded = (all: readonly Judged[]): Judged[] => all.filter(({ judged }) => judged.safeOnReplica)

  /** What goes to a replica although its label says primary: the texts, and the share that goes rightly. */
  function levels(all: readonly Judged[], called: string): { wrong: string[]; share: number } {
    const must = labelled(all, 'primary', 'server_effect')
    const could = labelled(all, 'replica')
    const wrong = offloaded(must).map((one) => bare(one.labelled.sql))
    const right = offloaded(could).length
    const share = right / could.length
    console.log(
      `${called}: sent to a replica wrongly ${wrong.length} of ${must.length}, rightly ${right} of ${could.length},` +
        ` ${(100 * share).toFixed(2)} %${wrong.map((sql) => `\n  ${sql}`).join('')}`,
    )
    return { wrong, share }
  }

  // Neither does anything anywhere. They were labelled by what their text says: one compares two numbers that were
  // read by the statement before it, the other asks for a right to a function that it names and does not call.
  const COMPARES = 'SELECT 15127 <= 15127'
  const ASKS =
    "SELECT has_function_privilege('regress_log_memory', 'pg_log_backend_memory_contexts(integer)', 'EXECUTE')"

  test('no statement that a standby would refuse is sent there, and six of seven that it could run are', () => {
    const { wrong, share } = levels(byDefault, 'with a catalog')
    expect(wrong).toEqual([COMPARES])
    expect(share).toBeGreaterThanOrEqual(0.86)
  })

  test('with the system’s own tables read anywhere, more than nine of ten that it could run are sent there', () => {
    const { wrong, share } = levels(judgeAll(server, { systemCatalogs: 'anywhere' }), 'and system tables anywhere')
    expect(wrong.toSorted()).toEqual([COMPARES, ASKS])
    expect(share).toBeGreaterThanOrEqual(0.92)
  })

  test('what a session’s own tables are needed for is not sent away any more', () => {
    const stateful = labelled(byDefault, 'stateful')
    const before = stateful.filter(({ byText }) => byText.safeOnReplica).length
    const after = offloaded(stateful)
    console.log(`need their session and are sent to a replica: ${before} by the text, ${after.length} with a catalog`)
    expect(after.length).toBeLessThan(before / 2)
    // Each of them failed on the standby for want of what the session had: none changed anything.
    expect(after.filter((one) => one.labelled.standby === undefined)).toEqual([])
  })

  test('what is lifted leaves nothing behind, and may be run twice', () => {
    const lifted = offloaded(byDefault).filter(({ byText }) => !byText.safeOnReplica)
    expect(lifted.length).toBeGreaterThan(1_500)
    for (const { judged } of lifted) {
      expect(judged).toMatchObject({ stateful: false, writes: false, lockWaiter: false, retrySafe: true })
    }
  })

  test('what the text alone sends wrongly, a standby refuses in a way that is known', async () => {
    const wrong = labelled(byDefault, 'primary', 'server_effect').filter(({ byText }) => byText.safeOnReplica)
    expect(wrong.length).toBeGreaterThan(5)
    const refused = wrong.filter((one) => one.labelled.standby !== undefined)
    expect(wrong.length - refused.length).toBe(1)
    const codes = new Set(refused.map((one) => one.labelled.standby))
    expect(codes).toEqual(new Set(['0A000', '25006']))
    await expect(standby.query(COMPARES)).resolves.toMatchObject({ rowCount: 1 })
  })

  const needsNoTable = ({ labelled: { udf, rels, kind }, judged }: Judged): boolean =>
    kind === 'SelectStmt' && judged.tablesRead.length === 0 && udf === undefined && rels === undefined

  test.skipIf(inject('replicaUrls').length === 0)('a real standby runs what was judged to be safe', async () => {
    const safe = offloaded(labelled(byDefault, 'replica')).filter(needsNoTable)
    const sample = safe.filter((_, i) => i % Math.ceil(safe.length / 400) === 0)
    expect(sample.length).toBeGreaterThan(300)
    const refused: string[] = []
    let ran = 0
    for (const one of sample) {
      await standby.query(one.labelled.sql).then(
        () => ran++,
        (error: Error) =>
          refusedByStandby(error) ? refused.push(`${bare(one.labelled.sql)}: ${error.message}`) : null,
      )
    }
    expect(refused).toEqual([])
    // The others need a type or a setting of their suite.
    expect(ran).toBeGreaterThan(sample.length / 2)
  })

  test.skipIf(inject('replicaUrls').length === 0)('what it refuses was kept on the primary', async () => {
    const must = labelled(byDefault, 'primary').filter(needsNoTable)
    let refused = 0
    for (const {
      labelled: { sql },
      judged,
    } of must) {
      const error = await standby.query(sql).then(
        () => null,
        (caught: Error) => caught,
      )
      if (error === null || !refusedByStandby(error)) continue
      refused++
      expect(judged.safeOnReplica, sql).toBe(false)
    }
    expect(refused).toBeGreaterThan(20)
  })
})
