// Some four hundred statements that are hard to place, each tried on a primary and on its standby. What the two servers
// do with it is its label; the facts, made from the text alone, are held against that.

import * as fc from 'fast-check'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest'
import { nextStep } from '../../src/core/retry.ts'
import type { Facts } from '../../src/core/types.ts'
import { factsOf } from '../../src/sql/facts.ts'
import { faultOf } from '../../src/wire/fault-of.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { BROKEN, HIDDEN, SCHEMA, STATEMENTS, STAYING } from './tricky-statements.ts'
import type { Tricky } from './tricky-statements.ts'

interface Answer {
  readonly rows?: string
  readonly error?: Error & { readonly code?: string }
}

/**
 * `primary`: the standby refuses it. `either`: both give the same rows. `neither`: it is refused by both. `differs`:
 * the standby gives other rows, time and again. `chance`: no two answers are alike, not even those of one server.
 */
type Label = 'primary' | 'either' | 'neither' | 'differs' | 'chance'

interface Labelled {
  readonly sql: string
  readonly label: Label
  readonly facts: Facts
  readonly standby: Answer
}

const url = inject('primaryUrl') as string | undefined
const replicaUrls = (inject('replicaUrls') as readonly string[] | undefined) ?? []

describe.skipIf(url === undefined || replicaUrls.length === 0)('against a primary and a standby (needs both)', () => {
  let database: Database
  let primary: Client
  let standby: Client
  let major = 0
  let labelled: Labelled[]

  beforeAll(async () => {
    database = await createDatabase({ url: url!, replicaUrls })
    primary = await connected(database.url)
    standby = await connected(database.replicaUrls[0]!)
    for (const sql of SCHEMA) await primary.query(sql)
    major = Math.floor(Number(await value(primary, "select current_setting('server_version_num')")) / 10_000)
    const written = await value(primary, 'select pg_current_wal_lsn()')
    const replayed = `select pg_last_wal_replay_lsn() >= '${String(written)}'::pg_lsn`
    await vi.waitUntil(() => value(standby, replayed), { timeout: 20_000 })
    // The standby first and all of them, so that it is asked about the schema and not about what was left of others.
    const wanted = all().filter(({ since = 0 }) => since <= major)
    const answers: Answer[] = []
    for (const statement of wanted) answers.push(await askInBlock(standby, statement))
    labelled = []
    for (const [at, statement] of wanted.entries()) {
      const { sql } = statement
      labelled.push({ sql, facts: factsOf(sql), standby: answers[at]!, label: await label(statement, answers[at]!) })
    }
  }, 120_000)

  afterAll(async () => {
    await primary?.end()
    await standby?.end()
    await database?.drop()
  })

  async function label(statement: Tricky, there: Answer): Promise<Label> {
    const here = await askInBlock(primary, statement)
    if (here.error !== undefined) return 'neither'
    if (there.error !== undefined) return 'primary'
    if (there.rows === here.rows) return 'either'
    return here.rows === (await askInBlock(primary, statement)).rows ? 'differs' : 'chance'
  }

  const those = (...labels: Label[]): Labelled[] => labelled.filter((one) => labels.includes(one.label))

  test('there are enough of them, and each means something to a server', () => {
    expect(all().length + STAYING.flatMap(({ statements }) => statements).length).toBeGreaterThan(450)
    expect(those('neither').map(told)).toEqual([])
    expect(those('primary').length).toBeGreaterThan(140)
    expect(those('either').length).toBeGreaterThan(180)
  })

  test('what a standby refuses is not sent to one', () => {
    expect(
      those('primary')
        .filter(({ facts }) => facts.safeOnReplica)
        .map(told),
    ).toEqual([])
  })

  test('what a standby answers otherwise than the primary is not sent to one', () => {
    expect(
      those('differs')
        .filter(({ facts }) => facts.safeOnReplica)
        .map(told),
    ).toEqual([])
  })

  test('of what both answer alike more than nine in ten are sent to a standby', () => {
    const alike = those('either')
    const kept = alike.filter(({ facts }) => !facts.safeOnReplica)
    const share = 1 - kept.length / alike.length
    console.log(`sent to a standby: ${alike.length - kept.length} of ${alike.length}; kept:${list(kept)}`)
    expect(share).toBeGreaterThanOrEqual(0.92)
  })

  test('every refusal of a standby is known for one, so that the statement may run on the primary', () => {
    expect(
      those('primary')
        .filter((one) => !runsOnPrimaryThen(one))
        .map(told),
    ).toEqual([])
  })

  test.each(HIDDEN)(
    '$because: nothing in the text tells, the standby refuses it, the primary runs it',
    async (group) => {
      for (const sql of group.statements) {
        if (major < 16 && sql.includes('pg_input_is_valid')) continue
        const facts = factsOf(sql)
        const there = await askInBlock(standby, { sql })
        expect((await askInBlock(primary, { sql })).error, sql).toBeUndefined()
        expect(there.error, sql).toBeDefined()
        expect(runsOnPrimaryThen({ facts, standby: there }), `${sql}: ${there.error?.message}`).toBe(true)
        expect(facts.safeOnReplica, `${sql} need not stand here, the text tells`).toBe(true)
      }
    },
  )

  test.each(STAYING)('$because', async ({ statements, notRun }) => {
    for (const sql of statements) {
      expect(factsOf(sql).safeOnReplica, sql).toBe(false)
      // What the standby refuses needs no reason of ours.
      if (notRun !== true) expect((await ask(standby, { sql })).error, sql).toBeUndefined()
    }
  })

  test('what is refused by both does not pass for a read', async () => {
    for (const sql of BROKEN) {
      expect(factsOf(sql).safeOnReplica, sql).toBe(false)
      expect((await ask(standby, { sql })).error, sql).toBeDefined()
      expect((await ask(primary, { sql })).error, sql).toBeDefined()
    }
  })

  test('whatever is made of them by mixing, none that passes for a read is refused or leaves something behind', async () => {
    const simple = all().filter(({ sql, parameters }) => parameters === undefined && !telling.test(sql))
    const pieces = simple.map(({ sql }) => piecesOf(sql))
    let ran = 0
    const mixing = fc.tuple(
      fc.constantFrom(...pieces),
      fc.constantFrom(...pieces),
      fc.array(fc.nat(60), { minLength: 4, maxLength: 4 }),
    )
    await fc.assert(
      fc.asyncProperty(mixing, async ([first, second, [at, out, from, taken]]) => {
        const mixed = [...first]
        mixed.splice(at! % (first.length + 1), out! % 4, ...second.slice(from! % second.length).slice(0, taken))
        const sql = mixed.join(' ')
        if (!factsOf(sql).safeOnReplica) return
        const { error } = await send(standby, { sql })
        if (error === undefined) {
          ran++
          expect(await value(standby, LEFT_BEHIND), sql).toBe('0')
        } else {
          expect(faultOf(error, 'query').retry, `${error.message}: ${sql}`).not.toBe('primary')
        }
        await clean(standby)
      }),
      // The same mixtures each time: what is found here is to be found again.
      { numRuns: 6_000, seed: 1 },
    )
    expect(ran).toBeGreaterThan(60)
  }, 60_000)
})

/** Mixed with others, these would come to be what only a catalog knows. */
const telling = /spot|mark_seen|counted|draft|next_plate|guarded|side\./

/** What a statement may leave in its session: locks, names, settings. */
const LEFT_BEHIND = `select (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
  + (select count(*) from pg_prepared_statements) + (select count(*) from pg_settings where source = 'session')`

function piecesOf(sql: string): string[] {
  return sql.match(/'(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|::|[^\s\w]/g) ?? []
}

function all(): Tricky[] {
  return Object.values(STATEMENTS)
    .flat()
    .map((entry) => (typeof entry === 'string' ? { sql: entry } : entry))
}

function runsOnPrimaryThen({ facts, standby }: Pick<Labelled, 'facts' | 'standby'>): boolean {
  const next = nextStep(
    {
      ...{ fault: faultOf(standby.error, 'query'), sent: true, facts, onReplica: true, triedElsewhere: false },
      ...{ inTransaction: false, committing: false, attempt: 1, attempts: 1, baseMs: 1, maxMs: 1 },
    },
    () => 0,
  )
  return next.do === 'retry' && next.where === 'primary'
}

const told = ({ sql, label, facts, standby }: Labelled): string =>
  `${label}, ${facts.because}: ${sql} ${standby.error?.message ?? ''}`

const list = (statements: readonly Labelled[]): string =>
  statements.map(({ sql, facts }) => `\n  ${facts.because}: ${sql}`).join('')

async function connected(connectionString: string): Promise<Client> {
  const client = new Client({ connectionString, options: '-c statement_timeout=10s' })
  await client.connect()
  return client
}

async function value(client: Client, sql: string): Promise<unknown> {
  const { rows } = await client.query<unknown[]>({ text: sql, rowMode: 'array' })
  return rows[0]![0]
}

/** In a transaction that is taken back, or without one where the server wants none. */
async function askInBlock(client: Client, statement: Tricky): Promise<Answer> {
  await client.query('begin')
  const answer = await ask(client, statement)
  return answer.error?.code === '25001' ? ask(client, statement) : answer
}

async function ask(client: Client, statement: Tricky): Promise<Answer> {
  const answer = await send(client, statement)
  await clean(client)
  return answer
}

async function send(client: Client, { sql, parameters }: Tricky): Promise<Answer> {
  try {
    const values = parameters === undefined ? {} : { values: [...parameters] }
    const results = await client.query<unknown[]>({ text: sql, rowMode: 'array', ...values })
    return { rows: JSON.stringify([results].flat().map(({ rows }) => rows)) }
  } catch (error) {
    return { error: error as Error & { code?: string } }
  }
}

async function clean(client: Client): Promise<void> {
  await client.query('rollback')
  await client.query('discard all')
}
