// Cancelling by the wire's CancelRequest, on a channel of its own.

import { describe, expect, inject, test } from 'vitest'
import { busy, column, failure, open, outside, road, run } from './sessions.ts'

describe('cancel', () => {
  test('ends what runs, and the connection serves on', async () => {
    const session = await open()
    const other = await outside()
    const sleeping = failure(run(session, 'select pg_sleep(60)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await session.cancel(5_000)
    expect((await sleeping)['code']).toBe('57014')
    expect(session.status).toBe('idle')
    expect(await column(session, 'select 1')).toEqual([1])
  })

  test('in a transaction leaves it failed, not gone', async () => {
    const session = await open()
    const other = await outside()
    await run(session, 'begin')
    const sleeping = failure(run(session, 'select pg_sleep(60)'))
    await expect.poll(() => busy(other, session.pid)).toBe(true)
    await session.cancel(5_000)
    await sleeping
    expect(session.status).toBe('failed')
    await run(session, 'rollback')
  })

  test('does nothing when nothing runs', async () => {
    const session = await open()
    await session.cancel(5_000)
    expect(await column(session, 'select 1')).toEqual([1])
    expect(session.status).toBe('idle')
  })

  test('of one session leaves another alone', async () => {
    const [first, second] = [await open(), await open()]
    const other = await outside()
    const cancelled = failure(run(first, 'select pg_sleep(60)'))
    const spared = run(second, "select pg_sleep(0.1)::text, 'spared' as n")
    await expect.poll(() => busy(other, first.pid)).toBe(true)
    await first.cancel(5_000)
    expect((await cancelled)['code']).toBe('57014')
    expect((await spared).rows).toMatchObject([{ n: 'spared' }])
  })

  test('gives up at its own deadline when nobody takes the request', async () => {
    const way = await road(inject('primaryUrl'))
    const session = await open({}, way.url)
    way.silence()
    const error = await failure(session.cancel(30))
    expect(error.message).toContain('30 ms')
    // The half-made channel is not left behind.
    await expect.poll(() => way.connections[1]?.open).toBe(false)
  })

  test('rejects when the server is not there any more', async () => {
    const way = await road(inject('primaryUrl'))
    const session = await open({}, way.url)
    session.onLost(() => undefined)
    await way.close()
    expect((await failure(session.cancel(5_000)))['code']).toBe('ECONNREFUSED')
  })

  test('sends the key of the session and nothing else', async () => {
    const way = await road(inject('primaryUrl'))
    const session = await open({}, way.url)
    await session.cancel(5_000)
    const request = way.connections[1]!.opening
    expect(request).toHaveLength(16)
    expect([request.readInt32BE(0), request.readInt32BE(4), request.readInt32BE(8)]).toEqual([
      16,
      80_877_102,
      session.pid,
    ])
  })
})
