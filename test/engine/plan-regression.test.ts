// A named statement whose plan has become bad, seen from the engine: who measures, who is told, and what happens to the
// name. What counts as bad is decided in core and tested there.

import { describe, expect, test } from 'vitest'
import type { Asker, OpenSession, Session, Statement } from '../../src/core/types.ts'
import { intercept, logged, newTestEngine } from '../support/engine.ts'
import type { TestEngine, TestEngineOptions } from '../support/engine.ts'
import type { Handler } from '../support/scripted-server.ts'

const BAD = 'select a from skewed where kind = 1'
const SLOW = 'select b from slow'

/** From one run to the next, milliseconds: longer than any of them takes. */
const BETWEEN = 50

interface Watching extends TestEngine {
  /** Runs a text so often, one after the other, each by itself. */
  readonly times: (sql: string, count: number) => Promise<void>
  /** The names under which a text was run, one for each run. */
  readonly names: (sql: string) => (string | undefined)[]
}

/** Sessions that count how often they have run a statement under its name, as those over a wire do. */
function counting(open: OpenSession): OpenSession {
  return async (how) => {
    const session = await open(how)
    const executions = new Map<string, number>()
    const counts = (statement: Statement, asker: Asker): Asker => {
      const { name } = statement
      if (name === undefined) return asker
      return {
        resolve: (rows) => {
          const count = (executions.get(name) ?? 0) + 1
          executions.set(name, count)
          asker.resolve({ ...rows, executions: count })
        },
        reject: (error) => asker.reject(error),
      }
    }
    const ask = session.ask.bind(session)
    const asks: Session['ask'] = (statement, asker) => ask(statement, counts(statement, asker))
    const sends: Session['send'] = (statement) => new Promise((resolve, reject) => asks(statement, { resolve, reject }))
    return Object.assign(session, { ask: asks, send: sends })
  }
}

async function watching(options: TestEngineOptions = {}): Promise<Watching> {
  const one = newTestEngine({ statements: { prepare: 'always' }, pool: { max: 1 }, queryTimeout: 0, ...options })
  for (const server of [one.primary, ...one.replicas]) intercept(server, counting(server.open))
  one.engine.start()
  await one.clock.advance(0)
  const times = async (sql: string, count: number): Promise<void> => {
    for (let run = 0; run < count; run++) {
      const answer = one.run(sql)
      await one.clock.advance(BETWEEN)
      await answer
    }
  }
  const names = (sql: string): (string | undefined)[] =>
    logged(one.primary)
      .filter((entry) => entry.sql === sql)
      .map(({ name }) => name)
  return { ...one, times, names }
}

/** One millisecond while it is planned for its parameters, `slowMs` with the plan for all; unnamed it is fast again. */
function turnsBad(slowMs = 40): Handler {
  let named = 0
  return ({ name }) => ({ delayMs: name === undefined || ++named <= 5 ? 1 : slowMs })
}

describe('a text that becomes slow under its name', () => {
  test('is told of once, with node and summary and numbers, and runs unnamed from then on', async () => {
    const one = await watching()
    one.primary.on('skewed', turnsBad())
    await one.times(BAD, 200)
    expect(one.events['plan-regression']).toHaveLength(1)
    const [told] = one.events['plan-regression']
    expect(told).toMatchObject({ node: 'primary', summary: 'SELECT skewed' })
    expect(told!.nowMs).toBeGreaterThan(5 * told!.baselineMs)
    const names = one.names(BAD)
    const last = names.findLastIndex((name) => name !== undefined)
    expect(last).toBeLessThan(150)
    expect(new Set(names.slice(0, last + 1)).size).toBe(1)
    expect(names.slice(last + 1).every((name) => name === undefined)).toBe(true)
  })

  test('is also told of with prepare: auto, and then never named again', async () => {
    const one = await watching({ statements: { prepare: 'auto' } })
    one.primary.on('skewed', turnsBad())
    await one.times(BAD, 300)
    expect(one.events['plan-regression']).toHaveLength(1)
    expect(one.names(BAD).at(-1)).toBeUndefined()
  })

  test('keeps no other text from its name', async () => {
    const one = await watching()
    one.primary.on('skewed', turnsBad()).on('select b', { delayMs: 1 })
    for (let round = 0; round < 200; round++) {
      await one.times(BAD, 1)
      await one.times('select b from t', 1)
    }
    expect(one.events['plan-regression']).toHaveLength(1)
    expect(one.names('select b from t').every((name) => name !== undefined)).toBe(true)
  })

  test('is found out in transactions and on connections of their own as well', async () => {
    const one = await watching({ pool: { max: 1, lanes: false } })
    one.primary.on('skewed', turnsBad())
    for (let round = 0; round < 120; round++) {
      const lease = one.lease()
      await lease.begin()
      const answer = lease.run(BAD)
      await one.clock.advance(BETWEEN)
      await answer
      await lease.run('commit')
      lease.release()
      await one.clock.advance(0)
    }
    expect(one.events['plan-regression']).toHaveLength(1)
    expect(one.names(BAD).at(-1)).toBeUndefined()
  })

  test('on one node loses its name on all of them, because the name is the dialect’s', async () => {
    const one = await watching({ replicas: 1 })
    one.replicas[0]!.on('skewed', turnsBad())
    await one.times(BAD, 120)
    expect(one.events['plan-regression']).toMatchObject([{ node: 'replica-1' }])
    const lease = one.lease()
    await lease.begin()
    const answer = lease.run(BAD)
    await one.clock.advance(BETWEEN)
    await answer
    lease.release()
    expect(one.names(BAD)).toEqual([undefined])
  })
})

describe('a text keeps its name', () => {
  test('when it was slow from the beginning', async () => {
    const one = await watching()
    one.primary.on('skewed', { delayMs: 40 })
    await one.times(BAD, 200)
    expect(one.events['plan-regression']).toEqual([])
    expect(one.names(BAD).at(-1)).toBeDefined()
  })

  test('when it waits for locks', async () => {
    const one = await watching()
    const locks = `${BAD} for update`
    one.primary.on('skewed', turnsBad())
    await one.times(locks, 200)
    expect(one.events['plan-regression']).toEqual([])
    expect(one.names(locks).at(-1)).toBeDefined()
  })

  test.for([
    ['before others', [SLOW, BAD, SLOW]],
    ['as the last', [SLOW, BAD]],
  ] as const)('when it waited behind others of its own lease: %s', async ([, texts]) => {
    const one = await watching({ pool: { max: 1, lanes: false } })
    one.primary.on('skewed', { delayMs: 1 }).on(SLOW, { delayMs: 40 })
    await one.times(BAD, 6)
    for (let round = 0; round < 120; round++) {
      const lease = one.lease()
      await lease.begin()
      const answers = texts.map((sql) => lease.run(sql))
      await one.clock.advance(4 * BETWEEN)
      await Promise.all(answers)
      await lease.run('rollback')
      lease.release()
      await one.clock.advance(0)
    }
    expect(one.events['plan-regression']).toEqual([])
  })

  test('when it fails, however slowly', async () => {
    const one = await watching()
    let runs = 0
    const error = Object.assign(new Error('division by zero'), { code: '22012', severity: 'ERROR' })
    one.primary.on('skewed', () => (++runs <= 6 ? { delayMs: 1 } : { error, delayMs: 40 }))
    await one.times(BAD, 6)
    for (let round = 0; round < 120; round++) {
      const failed = one.run(BAD).catch((reason: unknown) => reason)
      await one.clock.advance(BETWEEN)
      expect(await failed).toBe(error)
    }
    expect(one.events['plan-regression']).toEqual([])
  })
})

describe('statements.never', () => {
  test.for([BAD, /skewed/])('keeps a text from ever getting a name: %s', async (never) => {
    for (const prepare of ['auto', 'always'] as const) {
      const one = await watching({ statements: { prepare, never: [never] } })
      await one.times(BAD, 5)
      await one.times('select b from t', 5)
      expect(one.names(BAD)).toEqual(Array(5).fill(undefined))
      expect(one.names('select b from t').at(-1)).toBeDefined()
    }
  })
})
