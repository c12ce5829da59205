// The circuit breaker before a real server: open when the server is gone, closed by itself when it is back, and in
// the hands of whoever operates it.

import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { CircuitOpenError } from '../../src/index.ts'
import type { BreakerEvent, SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { openBehindProxy } from './behind-proxy.ts'
import type { Behind } from './behind-proxy.ts'
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
    cluster = await startCluster({ replicas: 1 })
    await cluster.primary.query('create table numbers as select 1 as n')
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  afterEach(async () => {
    if (cluster.primary.pid === undefined) await cluster.primary.start()
  })

  const breaker = { failureThreshold: 2, recoveryTimeout: { min: '1s', max: '4s' } } as const
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
    await expect.poll(() => select(opened).catch(() => 'refused')).toContainEqual({ n: 1 })
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
    await expect.poll(() => select(opened).catch(() => 'refused')).toContainEqual({ n: 1 })
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
    expect(await select(opened)).toContainEqual({ n: 1 })
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
    expect(rows).toContainEqual({ n: 1 })
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
    expect(await select(opened)).toContainEqual({ n: 1 })
  })

  test('false: nobody is ever refused by it', async () => {
    const opened = connected({ breaker: false, pool: { ...pool, acquireTimeout: 100 } })
    await cluster.primary.stop()
    try {
      for (let n = 0; n < 8; n++) expect((await failure(select(opened)))['code']).toBe('SMARTPG_ACQUIRE_TIMEOUT')
    } finally {
      await cluster.primary.start()
    }
    await expect.poll(() => select(opened).catch(() => 'refused')).toContainEqual({ n: 1 })
  })

  describe('behind a proxy that refuses connections', () => {
    const behind = (options: Partial<SmartPgOptions> = {}): Promise<Behind<Tables>> =>
      openBehindProxy<Tables>(cluster.url, { pool: { max: 10, acquireTimeout: '20s' }, ...options })

    /** No connection is left, and none is to be had. */
    function goAway({ proxy }: Behind<Tables>): void {
      proxy.refuse()
      proxy.reset()
    }

    /** One call every 20 ms for `ms`; what each comes to. */
    async function asking(opened: Opened<Tables>, ms: number): Promise<Promise<string>[]> {
      const calls: Promise<string>[] = []
      for (const until = Date.now() + ms; Date.now() < until; await sleep(20)) {
        calls.push(
          select(opened).then(
            () => 'answered',
            ({ code }: { code: string }) => code,
          ),
        )
      }
      return calls
    }

    test('for three seconds: with default options nobody is turned away, and all are answered', async () => {
      const opened = await behind()
      const changes: BreakerEvent[] = []
      opened.dialect.on('breaker', (event) => changes.push(event))
      await select(opened)
      goAway(opened)
      const calls = await asking(opened, 3_000)
      await opened.proxy.accept()
      expect(new Set(await Promise.all(calls))).toEqual(new Set(['answered']))
      expect(calls.length).toBeGreaterThan(20)
      expect(changes).toEqual([])
    })

    test('for longer: callers fail at once, reads go to replicas, and a probe finds it back', async () => {
      const opened = await behind({
        replicas: [cluster.replicaUrls[0]!],
        routing: { readWriteSplit: true, maxLag: { ms: '60s' } },
      })
      const changes: BreakerEvent[] = []
      opened.dialect.on('breaker', (event) => changes.push(event))
      const write = (): Promise<unknown> => opened.db.insertInto('numbers').values({ n: 2 }).execute()
      await write()
      await cluster.caughtUp()
      await expect.poll(async () => (await select(opened), metric(opened.dialect, 'queries_total', 'replica-1'))).toBeGreaterThan(0) // prettier-ignore
      goAway(opened)
      // A write that was still sent may have been applied, and the replicas do not show it yet.
      await expect.poll(() => metric(opened.dialect, 'total_connections')).toBe(0)
      const waiting: Promise<unknown>[] = []
      while (stateOf(opened) !== 'open') {
        waiting.push(write().then(() => 'answered', ({ code }: { code: string }) => code)) // prettier-ignore
        await sleep(50)
      }
      // Until no trial may come between: a caller hears at once.
      await expect.poll(() => opened.dialect.breaker('primary').status().retry_after_ms).toBeGreaterThan(1_000)
      const error = await failure(write())
      expect(error).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN', cause: { code: 'SMARTPG_CONNECT_FAILED' } })
      expect(await select(opened)).toContainEqual({ n: 1 })
      expect(opened.dialect.breaker('primary').status()).toMatchObject({ circuit: 'connect', state: 'open' })
      const reads = await asking(opened, 500)
      expect(new Set(await Promise.all(reads))).toEqual(new Set(['answered']))

      await opened.proxy.accept()
      await expect.poll(() => write().then(() => 'answered', ({ code }: { code: string }) => code)).toBe('answered') // prettier-ignore
      // Whoever came in the very moment in which it opened may have been refused.
      expect(new Set((await Promise.all(waiting)).slice(0, -5))).toEqual(new Set(['answered']))
      await expect.poll(() => stateOf(opened)).toBe('closed')
      expect(changes[0]).toMatchObject({ node: 'primary', circuit: 'connect', from: 'closed', to: 'open' })
      expect(changes.at(-1)).toMatchObject({ node: 'primary', circuit: 'connect', to: 'closed' })
      expect(changes.map(({ because }) => because)).toContain('a probe was answered')
    }, 60_000)

    test('for metrics only: it opens, and callers wait as if there were none', async () => {
      const opened = await behind({
        breaker: { ...breaker, metricsOnly: true },
        pool: { max: 10, acquireTimeout: '300ms' },
      })
      goAway(opened)
      const codes = new Set<unknown>()
      await expect.poll(async () => (codes.add((await failure(select(opened)))['code']), stateOf(opened))).toBe('open')
      for (let n = 0; n < 3; n++) codes.add((await failure(select(opened)))['code'])
      expect(codes).not.toContain('SMARTPG_CIRCUIT_OPEN')
      expect(stateOf(opened)).toBe('open')
      await opened.proxy.accept()
      await expect.poll(() => select(opened).catch(() => 'late')).toBeInstanceOf(Array)
      await expect.poll(async () => (await select(opened).catch(() => 'late'), stateOf(opened))).toBe('closed')
    }, 40_000)
  })

  test('a server on which nearly every statement runs into its timeout is left alone for a while', async () => {
    const opened = connected({ queryTimeout: 100, breaker: { ...breaker, minimumCalls: 10 } })
    const sleeps = (): Promise<unknown> => sql`select pg_sleep(5)`.execute(opened.db)
    const codes = new Set<unknown>()
    for (let n = 0; n < 9; n++) codes.add((await failure(sleeps()))['code'])
    expect(opened.dialect.breaker('primary').status()).toMatchObject({
      circuit: 'query',
      state: 'closed',
      slow_rate: 1,
    })
    codes.add((await failure(sleeps()))['code'])
    expect(codes).toEqual(new Set(['SMARTPG_QUERY_TIMEOUT']))
    const error = (await failure(select(opened))) as CircuitOpenError & Record<string, unknown>
    expect(error).toBeInstanceOf(CircuitOpenError)
    expect(error.message).toContain('10 of 10 calls within 10 s were slow')
    await expect.poll(() => select(opened).catch(() => 'refused')).toBeInstanceOf(Array)
  })

  test('isolate keeps it out of service for the length of a block', async () => {
    const opened = connected()
    await select(opened)
    {
      using isolation = opened.dialect.breaker('primary').isolate('drill')
      expect(isolation).toBeDefined()
      const error = await failure(select(opened))
      expect(error).toBeInstanceOf(CircuitOpenError)
      expect(error.message).toContain('drill')
      expect(JSON.parse(JSON.stringify(opened.dialect.breaker('primary')))).toMatchObject({
        state: 'open',
        forced: true,
        rejections: 1,
      })
    }
    expect(await select(opened)).toBeInstanceOf(Array)
    expect(stateOf(opened)).toBe('closed')
  })
})
