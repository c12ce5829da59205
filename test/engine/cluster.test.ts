// Who serves a read while replicas lag, die, come back, and while this process writes. The monitor's questions are
// answered by a scripted write-ahead log, so that each of these is a line of the test.

import { describe, expect, test } from 'vitest'
import { NotExecutedError } from '../../src/core/errors.ts'
import { newTestEngine, probes, rejection, seconds, sent, startedEngine, watched } from '../support/engine.ts'
import type { TestEngine } from '../support/engine.ts'
import { networkError, serverError } from '../support/scripted-server.ts'

/** Where a read goes now; `nobody` when it finds no one at once. */
async function readsFrom({ run, events, clock }: TestEngine): Promise<string> {
  const read = watched(run('select a from t'))
  await clock.advance(0)
  return read.state === 'resolved' ? events.query.at(-1)!.node : 'nobody'
}

/** Why the last one went there. */
const lastReason = ({ events }: TestEngine): string => events.query.at(-1)!.reason

describe('reads and writes', () => {
  test('reads go to replicas, writes to the primary', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { readYourWrites: 'off' } })
    await engine.run('insert into t values (1)')
    expect(await readsFrom(engine)).toBe('replica-1')
    expect(sent(engine.primary)).toEqual(['insert into t values (1)'])
  })

  test('reads are shared among the replicas by their work under way', async () => {
    const routing = { strategy: 'least-connections' } as const
    const engine = await startedEngine({ replicas: 3, pool: { max: 10 }, routing })
    for (const replica of engine.replicas) replica.on('slow', { delayMs: 100 })
    for (let i = 0; i < 9; i++) watched(engine.run('select slow'))
    await engine.clock.advance(0)
    expect(engine.replicas.map((replica) => sent(replica).length)).toEqual([3, 3, 3])
  })

  test.each([
    ['a read that locks', 'select a from t for update'],
    ['a function nobody knows', 'select surprise()'],
    ['two statements in one text', 'select 1; select 2'],
    ['a sequence', "select nextval('s')"],
  ])('%s stays on the primary', async (_, sql) => {
    const { run, primary, replicas } = await startedEngine({ replicas: 2 })
    await run(sql)
    expect(sent(primary)).toContain(sql)
    expect(replicas.flatMap((replica) => sent(replica))).toEqual([])
  })

  test('with readWriteSplit false everything stays on the primary', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { readWriteSplit: false } })
    expect(await readsFrom(engine)).toBe('primary')
    expect(lastReason(engine)).toBe('split-off')
  })

  test('every decision is counted with its reason', async () => {
    const engine = await startedEngine({ replicas: 1 })
    await readsFrom(engine)
    await engine.run('insert into t values (1)')
    await readsFrom(engine)
    const [primary, replica] = engine.engine.cluster.nodes.map(({ cells }) => cells.routed)
    expect(replica!.replica.read).toBe(1)
    expect(primary!.primary).toMatchObject({ write: 1, 'own-write': 1 })
  })
})

describe('own writes', () => {
  test('are always seen: reads go to the primary until a replica has replayed them', async () => {
    const engine = await startedEngine({ replicas: 1 })
    const { run, wal, clock } = engine
    expect(await readsFrom(engine)).toBe('replica-1')
    wal.write()
    await run('insert into t values (1)')
    expect(await readsFrom(engine)).toBe('primary')
    expect(lastReason(engine)).toBe('own-write')
    await clock.advance(50)
    expect(await readsFrom(engine)).toBe('primary')
    wal.replay()
    await clock.advance(200)
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('of a prepared transaction are ours when we commit it', async () => {
    const engine = await startedEngine({ replicas: 1 })
    expect(await readsFrom(engine)).toBe('replica-1')
    engine.wal.write()
    await engine.run("commit prepared 'order-7'")
    expect(await readsFrom(engine)).toBe('primary')
  })

  test('are looked for within milliseconds, not at the next second', async () => {
    const engine = await startedEngine({ replicas: 1 })
    engine.wal.write()
    await engine.run('insert into t values (1)')
    engine.wal.replay()
    await readsFrom(engine)
    await engine.clock.advance(5)
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('go to the replica that has replayed them, while the other has not', async () => {
    const engine = await startedEngine({ replicas: 2 })
    engine.wal.write()
    await engine.run('insert into t values (1)')
    engine.wal.replay(1)
    await readsFrom(engine)
    await engine.clock.advance(20)
    for (let i = 0; i < 5; i++) expect(await readsFrom(engine)).toBe('replica-2')
  })

  test('count when they end, not when they are sent: a write that is under way is awaited anew', async () => {
    const engine = await startedEngine({ replicas: 1 })
    const { wal, clock, lease } = engine
    const transaction = lease()
    await transaction.begin()
    await transaction.run('insert into t values (1)')
    // Nobody can see it yet, so nobody needs to wait for it.
    expect(await readsFrom(engine)).toBe('replica-1')
    wal.write()
    await transaction.run('commit')
    transaction.release()
    expect(await readsFrom(engine)).toBe('primary')
    wal.replay()
    await clock.advance(200)
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('count even if their outcome is not known: they may be there', async () => {
    const engine = await startedEngine({ replicas: 1 })
    const { primary, wal, clock } = engine
    primary.on('insert', { drops: networkError('ECONNRESET') })
    wal.write()
    const write = watched(engine.run('insert into t values (1)'))
    await clock.advance(0)
    expect(write.error).toMatchObject({ code: 'SMARTPG_OUTCOME_UNKNOWN' })
    expect(await readsFrom(engine)).toBe('primary')
  })

  test('do not count when the transaction was rolled back by the pool: nobody can see them ever', async () => {
    const engine = await startedEngine({ replicas: 1 })
    const forgetful = engine.lease()
    await forgetful.begin()
    await forgetful.run('insert into t values (1)')
    forgetful.release()
    await engine.clock.advance(0)
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('are no concern with readYourWrites off', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { readYourWrites: 'off' } })
    engine.wal.write()
    await engine.run('insert into t values (1)')
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('that pause give replicas back even if the primary stands behind a page header they never reach', async () => {
    const engine = await startedEngine({ replicas: 1 })
    const { wal, clock } = engine
    // 24 bytes of header at the start of a page, and nothing on it: an idle replica stays before them.
    wal.position = 0x4000n
    wal.replay()
    wal.position += 24n
    await engine.run('insert into t values (1)')
    await readsFrom(engine)
    await clock.advance(500)
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('of one who writes all the time do not make the monitor ask all the time', async () => {
    const engine = await startedEngine({ replicas: 1 })
    const { run, wal, clock, replicas } = engine
    const before = probes(replicas[0]!)
    for (let ms = 0; ms < 2_000; ms += 5) {
      wal.write()
      await run('insert into t values (1)')
      await readsFrom(engine)
      await clock.advance(5)
    }
    expect(probes(replicas[0]!) - before).toBeLessThan(100)
  })
})

describe('a replica', () => {
  test('that lags too many bytes behind gets no reads, and gets them again when it has caught up', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { maxLag: { bytes: 1_000 } } })
    engine.wal.write(1_001n)
    await readsFrom(engine)
    await engine.clock.advance(1_000)
    expect(await readsFrom(engine)).toBe('primary')
    expect(lastReason(engine)).toBe('stale-replicas')
    engine.wal.replay()
    await engine.clock.advance(1_000)
    expect(await readsFrom(engine)).toBe('replica-1')
    expect(engine.events.node).toMatchObject([
      { node: 'replica-1', up: false, because: 'too many bytes behind' },
      { node: 'replica-1', up: true },
    ])
  })

  test('that lags too long behind gets no reads', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { maxLag: { ms: '2s' } } })
    engine.wal.write()
    for (let i = 0; i < 5; i++) {
      await readsFrom(engine)
      await engine.clock.advance(1_000)
    }
    expect(await readsFrom(engine)).toBe('primary')
    expect(engine.events.node.at(-1)).toMatchObject({ because: 'too long behind' })
  })

  test('that is idle with its primary is not behind, however long nothing was written', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { maxLag: { ms: '2s' } } })
    for (let i = 0; i < 30; i++) {
      expect(await readsFrom(engine)).toBe('replica-1')
      await engine.clock.advance(1_000)
    }
  })

  test('that is cut off from its primary gets no reads although it looks caught up', async () => {
    const engine = await startedEngine({ replicas: 1 })
    engine.wal.replicas[0]!.receiving = false
    await readsFrom(engine)
    await engine.clock.advance(1_000)
    expect(await readsFrom(engine)).toBe('primary')
    expect(engine.events.node.at(-1)).toMatchObject({ up: false, because: 'no WAL receiver' })
  })

  test('that is none any more gets no reads', async () => {
    const engine = await startedEngine({ replicas: 2 })
    engine.wal.replicas[0]!.recovering = false
    await readsFrom(engine)
    await engine.clock.advance(1_000)
    for (let i = 0; i < 5; i++) expect(await readsFrom(engine)).toBe('replica-2')
    expect(engine.events.node.at(-1)).toMatchObject({ node: 'replica-1', up: false, because: 'not in recovery' })
  })

  test('that dies is left out at once, not at the next look', async () => {
    const engine = await startedEngine({ replicas: 2 })
    await readsFrom(engine)
    engine.replicas[0]!.goDown(networkError('ECONNREFUSED'), 'sessions')
    expect(engine.events.node).toMatchObject([{ node: 'replica-1', role: 'replica', up: false }])
    for (let i = 0; i < 5; i++) expect(await readsFrom(engine)).toBe('replica-2')
    expect(engine.events.query.every(({ ok, attempts }) => ok && attempts === 1)).toBe(true)
  })

  test('that comes back gets reads again within a second', async () => {
    const engine = await startedEngine({ replicas: 1 })
    await readsFrom(engine)
    engine.replicas[0]!.goDown(networkError('ECONNREFUSED'), 'sessions')
    for (let i = 0; i < 5; i++) {
      expect(await readsFrom(engine)).toBe('primary')
      await engine.clock.advance(1_000)
    }
    engine.replicas[0]!.comeUp()
    await engine.clock.advance(1_000)
    expect(await readsFrom(engine)).toBe('replica-1')
    expect(engine.events.node.map(({ up }) => up)).toEqual([false, true])
  })

  test('that answers no probe is left out after two seconds, and stops nobody', async () => {
    const engine = await startedEngine({ replicas: 2 })
    engine.replicas[0]!.on('pg_is_in_recovery', 'never')
    await readsFrom(engine)
    await engine.clock.advance(4_000)
    expect(engine.events.node).toMatchObject([{ node: 'replica-1', up: false }])
    for (let i = 0; i < 5; i++) expect(await readsFrom(engine)).toBe('replica-2')
  })

  test('whose probe hangs does not keep the others from being looked at', async () => {
    const engine = await startedEngine({ replicas: 2, routing: { maxLag: { bytes: 10 } } })
    engine.replicas[0]!.on('pg_is_in_recovery', 'never')
    engine.wal.write()
    await readsFrom(engine)
    await engine.clock.advance(4_000)
    expect(engine.events.node.map(({ node }) => node).toSorted()).toEqual(['replica-1', 'replica-2'])
  })

  test('that has no connection free is not taken for dead: it is asked on a connection of its own', async () => {
    const engine = await startedEngine({ replicas: 1, pool: { max: 1 } })
    engine.replicas[0]!.on('slow', { delayMs: 20_000 })
    watched(engine.run('select slow'))
    for (let i = 0; i < 10; i++) {
      await engine.clock.advance(500)
      watched(engine.run('select b from t'))
    }
    expect(engine.events.node).toEqual([])
  })

  test('that answers its probe but lets no other connection in costs no caller anything', async () => {
    const engine = await startedEngine({ replicas: 1 })
    engine.replicas[0]!.goDown(networkError('ECONNREFUSED'))
    for (let i = 0; i < 20; i++) {
      expect(await readsFrom(engine)).toBe('primary')
      // Each is answered at once; the replica is tried again when its pool has rested.
      await engine.clock.advance(250)
    }
    expect(engine.events.breaker[0]).toMatchObject({ node: 'replica-1', to: 'open' })
    expect(lastReason(engine)).toBe('fallback')
  })

  test('of which nothing is known yet gets no reads', async () => {
    const engine = newTestEngine({ replicas: 1 })
    engine.replicas[0]!.connectDelayMs = 300
    engine.engine.start()
    expect(await readsFrom(engine)).toBe('primary')
    await engine.clock.advance(300)
    engine.replicas[0]!.connectDelayMs = 0
    expect(await readsFrom(engine)).toBe('replica-1')
  })
})

describe('when no replica will do', () => {
  test('reads go to the primary', async () => {
    const engine = await startedEngine({ replicas: 2 })
    for (const replica of engine.replicas) replica.goDown(networkError('ECONNREFUSED'), 'sessions')
    expect(await readsFrom(engine)).toBe('primary')
    expect(lastReason(engine)).toBe('fallback')
  })

  test('and fallbackToPrimary is false, reads fail with a reason for each replica, and nothing was run', async () => {
    const engine = await startedEngine({ replicas: 2, routing: { fallbackToPrimary: false } })
    for (const replica of engine.replicas) replica.goDown(networkError('ECONNREFUSED'), 'sessions')
    const error = await rejection(engine.run('select a from t'))
    expect(error).toBeInstanceOf(NotExecutedError)
    expect(error).toMatchObject({ code: 'SMARTPG_NOT_EXECUTED', retryable: true })
    expect(error.message).toContain('replica-1: ')
    expect(error.message).toContain('replica-2: ')
    expect(sent(engine.primary)).toEqual([])
  })

  test('and fallbackToPrimary is false, what the replica said stands in the error’s cause', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { fallbackToPrimary: false } })
    engine.replicas[0]!.on('select a', { error: serverError('40001', 'conflict with recovery') })
    const read = watched(engine.run('select a from t'))
    await engine.clock.advance(seconds(5))
    expect(read.state).toBe('rejected')
    const told = [read.error, (read.error as Error).cause]
    expect(told).toContainEqual(expect.objectContaining({ code: '40001' }))
  })

  test('our own writes are still seen: they are read on the primary, whatever fallbackToPrimary says', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { fallbackToPrimary: false } })
    engine.wal.write()
    await engine.run('insert into t values (1)')
    expect(await readsFrom(engine)).toBe('primary')
    expect(lastReason(engine)).toBe('own-write')
  })
})

describe('fallbackToPrimary false', () => {
  test('the very first read waits for the first look instead of failing', async () => {
    const engine = newTestEngine({ replicas: 1, routing: { fallbackToPrimary: false } })
    engine.replicas[0]!.connectDelayMs = 20
    engine.engine.start()
    const read = watched(engine.run('select a from t'))
    await engine.clock.advance(100)
    expect(read.error).toBeUndefined()
    expect(read.state).toBe('resolved')
    expect(sent(engine.replicas[0]!)).toEqual(['select a from t'])
  })

  test('the first read after a quiet time waits for a look instead of failing', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { fallbackToPrimary: false } })
    await readsFrom(engine)
    await engine.clock.advance(seconds(120))
    const read = watched(engine.run('select a from t'))
    await engine.clock.advance(100)
    expect(read.error).toBeUndefined()
    expect(read.state).toBe('resolved')
  })
})

describe('when the primary is down', () => {
  test('reads that need not see it go on on the replicas, as long as their lag can be known', async () => {
    const engine = await startedEngine({ replicas: 1, routing: { maxLag: { ms: '10s' } } })
    await readsFrom(engine)
    engine.primary.goDown(networkError('ECONNREFUSED'), 'sessions')
    for (let i = 0; i < 4; i++) {
      await engine.clock.advance(1_000)
      expect(await readsFrom(engine)).toBe('replica-1')
    }
  })

  test('its open circuit turns no read away that a replica can answer', async () => {
    const engine = await startedEngine({ replicas: 1 })
    engine.engine.cluster.primary.forceOpen('maintenance')
    for (let i = 0; i < 3; i++) {
      expect(await readsFrom(engine)).toBe('replica-1')
      await engine.clock.advance(1_000)
    }
  })
})

describe('the monitor', () => {
  test('asks nobody when there is no replica', async () => {
    const { run, primary, clock } = await startedEngine()
    await run('select a from t')
    await clock.advance(seconds(60))
    expect(probes(primary)).toBe(0)
  })

  test('looks once a second while there are reads', async () => {
    const engine = await startedEngine({ replicas: 1 })
    for (let i = 0; i < 20; i++) {
      await readsFrom(engine)
      await engine.clock.advance(500)
    }
    expect(probes(engine.replicas[0]!)).toBeGreaterThanOrEqual(9)
    expect(probes(engine.replicas[0]!)).toBeLessThanOrEqual(12)
  })

  test('as often as failover.probeInterval says', async () => {
    const engine = await startedEngine({ replicas: 1, failover: { probeInterval: '5s' } })
    for (let i = 0; i < 20; i++) {
      await readsFrom(engine)
      await engine.clock.advance(1_000)
    }
    expect(probes(engine.replicas[0]!)).toBeLessThanOrEqual(5)
    // What was seen five seconds ago is relied upon until the next look.
    expect(engine.events.query.filter(({ node }) => node === 'replica-1')).toHaveLength(20)
  })

  test('rests when nobody reads', async () => {
    const engine = await startedEngine({ replicas: 1 })
    await readsFrom(engine)
    await engine.clock.advance(seconds(15))
    const asked = probes(engine.replicas[0]!)
    await engine.clock.advance(seconds(300))
    // Once, to be sure who the primary is, while no connection to it stands.
    expect(probes(engine.replicas[0]!)).toBeLessThanOrEqual(asked + 1)
  })

  test('rests when there are only writes', async () => {
    const engine = await startedEngine({ replicas: 1 })
    await engine.clock.advance(seconds(15))
    const asked = probes(engine.replicas[0]!)
    for (let i = 0; i < 30; i++) {
      await engine.run('insert into t values (1)')
      await engine.clock.advance(1_000)
    }
    // Once, to be sure who the primary is, while no connection to it stands.
    expect(probes(engine.replicas[0]!)).toBeLessThanOrEqual(asked + 1)
  })

  test('wakes with the next read, which goes to the primary while nothing is known', async () => {
    const engine = await startedEngine({ replicas: 1 })
    await readsFrom(engine)
    await engine.clock.advance(seconds(60))
    expect(await readsFrom(engine)).toBe('primary')
    await engine.clock.advance(10)
    expect(await readsFrom(engine)).toBe('replica-1')
  })

  test('tells of every failed look, and no caller hears of it', async () => {
    const engine = await startedEngine({ replicas: 1 })
    engine.replicas[0]!.on('pg_is_in_recovery', { error: serverError('42501', 'permission denied') })
    await readsFrom(engine)
    await engine.clock.advance(1_000)
    expect(engine.events.error).toMatchObject([{ node: 'replica-1', during: 'probe', error: { code: '42501' } }])
    expect(await readsFrom(engine)).toBe('primary')
  })

  test('keeps one connection to each node, also when ready looks at the same time', async () => {
    const { engine, clock, primary, replicas } = newTestEngine({ replicas: 2 })
    for (const server of [primary, ...replicas]) server.connectDelayMs = 10
    engine.start()
    const ready = watched(engine.ready(5_000))
    await clock.advance(100)
    expect(ready.state).toBe('resolved')
    expect([primary, ...replicas].map((server) => server.openSessions.length)).toEqual([1, 1, 1])
  })
})
