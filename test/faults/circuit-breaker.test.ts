// The circuit breaker before a real server: open when the server is gone, closed by itself when it is back, and in
// the hands of whoever operates it.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { CircuitOpenError } from '../../src/index.ts'
import type { BreakerEvent, SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { borrowed, failure, heldAtOnce, metric, open, ownOnly } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  numbers: { n: number }
}

const select = ({ db }: Opened<Tables>): Promise<unknown> => db.selectFrom('numbers').selectAll().execute()
const stateOf = ({ dialect }: Opened<Tables>): string => dialect.breaker('primary').status().state

describe.skipIf(borrowed)(`the circuit breaker ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster()
    await cluster.primary.query('create table numbers as select 1 as n')
  })
  afterAll(() => cluster.close())
  afterEach(async () => {
    if (cluster.primary.pid === undefined) await cluster.primary.start()
  })

  const breaker = { recoveryTimeout: { min: '2s', max: '4s' } } as const
  const pool = { max: 10, acquireTimeout: '20s' } as const
  const connected = (options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open({ primary: cluster.url, pool, breaker, ...options })

  test('opens when the server is gone, refuses ten thousand callers with the cause, and closes by itself', async () => {
    const opened = connected()
    const changes: BreakerEvent[] = []
    opened.dialect.on('breaker', (event) => changes.push(event))
    await opened.dialect.ready()
    await select(opened)
    await cluster.primary.stop('immediate')
    // They may wait as long as their acquire timeout, and are answered in the end.
    const early = Array.from({ length: 5 }, () => select(opened).then(() => 'answered', (error: Error) => error)) // prettier-ignore
    // Not in the last moments before it lets a trial through.
    await expect.poll(() => opened.dialect.breaker('primary').status().retry_after_ms).toBeGreaterThan(1_500)
    const waitingBefore = await metric(opened.dialect, 'pending_acquires')
    const callers = Array.from({ length: 10_000 }, () => failure(select(opened)))
    const errors = await Promise.all(callers)
    expect(new Set(errors.map(({ name }) => name))).toEqual(new Set(['CircuitOpenError']))
    const error: unknown = errors[0]
    if (!(error instanceof CircuitOpenError)) throw new Error('instanceof knows it, too')
    expect(error).toMatchObject({ node: 'primary', retryable: true, cause: { code: 'SMARTPG_CONNECT_FAILED' } })
    expect(error.retryAfterMs).toBeGreaterThan(0)
    expect(error.retryAfterMs).toBeLessThanOrEqual(2_400 * 2)
    expect(error.message).toContain("'primary'")
    expect(await metric(opened.dialect, 'pending_acquires')).toBeLessThanOrEqual(waitingBefore)

    await cluster.primary.start()
    await expect.poll(() => select(opened).catch(() => 'refused')).toEqual([{ n: 1 }])
    await expect.poll(async () => (await select(opened).catch(() => 'refused'), stateOf(opened))).toBe('closed')
    expect(await Promise.all(early)).toEqual(Array(5).fill('answered'))
    const steps = changes.map(({ from, to }) => `${from} → ${to}`)
    expect(steps[0]).toBe('closed → open')
    expect(steps.slice(-2)).toEqual(['open → half-open', 'half-open → closed'])
    expect((await heldAtOnce(opened.db as never, 10)).size).toBe(10)
  }, 40_000)

  test('a server that was never there is told apart by its cause', async () => {
    const opened = connected({ pool: { ...pool, acquireTimeout: '500ms' } })
    await cluster.primary.stop()
    try {
      const codes = []
      for (let n = 0; n < 10; n++) codes.push((await failure(select(opened)))['code'])
      expect(codes.at(-1)).toBe('SMARTPG_CIRCUIT_OPEN')
    } finally {
      await cluster.primary.start()
    }
    await expect.poll(() => select(opened).catch(() => 'refused')).toEqual([{ n: 1 }])
  })

  test('forceOpen keeps everything away until forceClose', async () => {
    const opened = connected()
    await select(opened)
    const hand = opened.dialect.breaker('primary')
    hand.forceOpen('maintenance at noon')
    const error = (await failure(select(opened))) as CircuitOpenError & Record<string, unknown>
    expect(error).toBeInstanceOf(CircuitOpenError)
    expect(error.retryAfterMs).toBeNull()
    expect(error.message).toContain('maintenance at noon')
    expect(hand.status()).toMatchObject({ state: 'open', forced: true, retry_after_ms: null })
    await expect(
      opened.db.transaction().execute((trx) => trx.selectFrom('numbers').selectAll().execute()),
    ).rejects.toThrow(CircuitOpenError)
    await expect(opened.db.batch([opened.db.selectFrom('numbers').selectAll()])).rejects.toMatchObject({
      cause: { code: 'SMARTPG_CIRCUIT_OPEN' },
    })
    hand.forceClose('it is over')
    expect(await select(opened)).toEqual([{ n: 1 }])
    expect(stateOf(opened)).toBe('closed')
    expect(hand.status().transitions.at(-1)?.because).toContain('it is over')
  })

  test('a transaction that was open before goes on to its end', async () => {
    const opened = connected()
    const rows = await opened.db.transaction().execute(async (trx) => {
      await trx.selectFrom('numbers').selectAll().execute()
      opened.dialect.breaker('primary').forceOpen('maintenance')
      return trx.selectFrom('numbers').selectAll().execute()
    })
    expect(rows).toEqual([{ n: 1 }])
    expect(await failure(select(opened))).toBeInstanceOf(CircuitOpenError)
  })

  test('errors of queries never open it', async () => {
    const opened = connected()
    const { db } = opened
    const wrong = () =>
      failure(
        db
          .selectFrom('no_such_table' as never)
          .selectAll()
          .execute(),
      )
    for (let n = 0; n < 50; n++) expect((await wrong())['code']).toBe('42P01')
    expect(stateOf(opened)).toBe('closed')
    expect(await select(opened)).toEqual([{ n: 1 }])
  })

  test('false: nobody is ever refused by it', async () => {
    const opened = connected({ breaker: false, pool: { ...pool, acquireTimeout: 100 } })
    await cluster.primary.stop()
    try {
      for (let n = 0; n < 8; n++) expect((await failure(select(opened)))['code']).toBe('SMARTPG_ACQUIRE_TIMEOUT')
    } finally {
      await cluster.primary.start()
    }
    await expect.poll(() => select(opened).catch(() => 'refused')).toEqual([{ n: 1 }])
  })
})
