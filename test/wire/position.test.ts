// The position behind a write, of a real server: a replica that has replayed it shows the write, and every replica gets
// there although nobody writes any more.

import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { parseLsn } from '../../src/core/freshness.ts'
import { POSITION, positionOf } from '../../src/core/token.ts'
import type { WriteToken } from '../../src/core/token.ts'
import type { Session } from '../../src/core/types.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import { column, open, run } from './sessions.ts'

const position = async (session: Session): Promise<WriteToken | null> => {
  const { rows } = await session.send(POSITION)
  return positionOf(rows[0]!)
}
const lsnBy = async (session: Session, expression: string): Promise<bigint> =>
  parseLsn((await column(session, `select ${expression}::text`))[0] as string)
const replayed = (session: Session): Promise<bigint> => lsnBy(session, 'pg_last_wal_replay_lsn()')

const replicaUrl = inject('replicaUrls')[0]

describe.skipIf(replicaUrl === undefined)('the position behind a write (needs a replica)', () => {
  // Where the server does not wait for its disk, a standby hears of a write a fifth of a second later.
  test.each([
    ['on', 40],
    ['off', 4],
  ])('is reached by a replica that shows the write, with synchronous_commit %s', async (setting, writes) => {
    const database = await createDatabase({ url: inject('primaryUrl'), replicaUrls: inject('replicaUrls') })
    onTestFinished(() => database.drop())
    const primary = await open({ settings: { synchronous_commit: setting } }, database.url)
    const replica = await open({}, database.replicaUrls[0])
    await run(primary, 'create table counted (n int)')
    for (let n = 1; n <= writes; n++) {
      // Both leave in one write: nothing waits for the first answer.
      const [, token] = await Promise.all([run(primary, 'insert into counted values ($1)', [n]), position(primary)])
      while ((await replayed(replica)) < token!.lsn) await sleep(1)
      expect(await column(replica, 'select max(n) from counted')).toEqual([n])
    }
  })

  test('is reached by an idle replica although it stands behind the header of an empty page', async () => {
    // A log in which nobody else writes.
    const cluster = await startCluster({ replicas: 1 })
    onTestFinished(() => cluster.close())
    const primary = await open({}, cluster.primary.url)
    const replica = await open({}, cluster.replicas[0]!.url)
    const insertLsn = (): Promise<bigint> => lsnBy(primary, 'pg_current_wal_insert_lsn()')
    const emit = (bytes: number): Promise<unknown> =>
      run(primary, "select pg_logical_emit_message(false, '', repeat('x', $1::int))", [bytes])
    // What a message takes beside its text, so that one can be made that ends with its page.
    const around = async (bytes: number): Promise<bigint> => {
      const before = await insertLsn()
      await emit(bytes)
      return (await insertLsn()) - before - BigInt(bytes)
    }
    const headers = new Set<bigint>()
    let lsn = 0n
    // The server itself may write in between: once more then.
    for (let tries = 0; tries < 1000 && lsn % 8192n !== 24n; tries++) {
      headers.add(await around(1000))
      const least = [...headers].reduce((one, other) => (other < one ? other : one))
      const left = 8192n - ((await insertLsn()) % 8192n)
      const bytes = Number(left - least)
      if (bytes >= 512) await emit(bytes)
      lsn = await insertLsn()
    }
    expect(lsn % 8192n).toBe(24n)
    const token = await position(primary)
    expect(token!.lsn % 8192n).not.toBe(24n)
    await expect.poll(async () => (await replayed(replica)) >= token!.lsn).toBe(true)
  })

  test('is none of a standby', async () => {
    expect(await position(await open({}, replicaUrl))).toBeNull()
  })

  test('may be asked for under a name, since it is asked for as often as something is written', async () => {
    const session = await open()
    const named = { ...POSITION, name: 's_position' }
    const first = positionOf((await session.send(named)).rows[0]!)
    await run(session, "select pg_logical_emit_message(false, '', 'x')")
    const second = positionOf((await session.send(named)).rows[0]!)
    expect(second!.lsn > first!.lsn).toBe(true)
    expect(second!.timeline).toBe(first!.timeline)
  })
})
