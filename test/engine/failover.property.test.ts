// Whatever happens to the servers, in whatever order: servers die, are promoted, come back beside their successor, fall
// silent, lag; and all the while somebody reads, writes and alters tables.

import { array, assert, asyncProperty, constant, constantFrom, nat, oneof, tuple } from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NotExecutedError } from '../../src/core/errors.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { seconds, watched } from '../support/engine.ts'
import type { Watched } from '../support/engine.ts'
import { startedCluster } from '../support/scripted-cluster.ts'
import type { Member, TestCluster } from '../support/scripted-cluster.ts'

type Step = readonly [
  what:
    | 'write'
    | 'read'
    | 'in a session'
    | 'transaction'
    | 'definition'
    | 'kill'
    | 'promote'
    | 'demote'
    | 'come back'
    | 'rejoin'
    | 'freeze'
    | 'thaw'
    | 'cut off'
    | 'replay'
    | 'time',
  which: number,
]

const step = oneof(
  {
    weight: 6,
    arbitrary: tuple(constantFrom<Step[0][]>('write', 'read', 'in a session', 'transaction'), nat(2)),
  },
  { weight: 4, arbitrary: tuple(constant<Step[0]>('time'), nat(6)) },
  {
    weight: 5,
    arbitrary: tuple(
      constantFrom<Step[0][]>(
        'kill',
        'promote',
        'demote',
        'come back',
        'rejoin',
        'freeze',
        'thaw',
        'cut off',
        'replay',
      ),
      nat(2),
    ),
  },
  { weight: 1, arbitrary: tuple(constant<Step[0]>('definition'), nat(2)) },
)

const RUNS = 60
const TIMES = [0, 1, 20, 60, 300, 1_500, 12_000]

class Story {
  readonly cluster: TestCluster
  readonly writes = new Map<string, Watched<unknown>>()
  readonly others: Watched<unknown>[] = []
  /** What must never happen, and did. */
  readonly wrongs: string[] = []
  readonly #dead = new Set<Member>()
  /** The end of the log behind the last write that was answered; a read must see it that is begun afterwards. */
  #answered = { timeline: 0, lsn: 0n }
  readonly #mustSee = new Map<string, { timeline: number; lsn: bigint }>()
  #count = 0

  constructor(cluster: TestCluster) {
    this.cluster = cluster
    for (const member of cluster.members) {
      // It has run what it was sent, and says so a little later, if it is still there then.
      member.writeMs = 30
      this.#overhear(member)
    }
  }

  /** Nothing is sent where it is known that nothing must be. */
  #overhear(member: Member): void {
    const { server } = member
    const { roles, cluster } = this.cluster.engine
    const answer = server.answerTo.bind(server)
    server.answerTo = (statement, session) => {
      const { sql } = statement
      const node = cluster.node(member.name)!
      const refusal = roles.refusalOf(node)
      const single = session.status === 'idle' && /^(insert|select a)/.test(sql)
      if (single && refusal !== undefined) this.wrongs.push(`${sql} on ${member.name}, which is refused: ${refusal}`)
      if (single && sql.startsWith('insert') && node !== roles.primary) {
        this.wrongs.push(`${sql} on ${member.name}, which is not the primary (${roles.primary.name})`)
      }
      const must = this.#mustSee.get(sql)
      if (must !== undefined && must.timeline === member.timeline && member.lsn < must.lsn) {
        this.wrongs.push(`${sql} on ${member.name}, which does not show what was written before`)
      }
      return answer(statement, session)
    }
  }

  #read(): Promise<unknown> {
    const sql = `select a from t where b = ${++this.#count}`
    this.#mustSee.set(sql, this.#answered)
    return this.cluster.run(sql)
  }

  async play(steps: readonly Step[]): Promise<void> {
    for (const [what, which] of steps) {
      this.#play(what, this.cluster.members[which % 3]!)
      await this.cluster.clock.advance(what === 'time' ? TIMES[which]! : 0)
    }
  }

  #play(what: Step[0], member: Member): void {
    const { cluster } = this
    const dead = this.#dead.has(member)
    switch (what) {
      case 'write':
        this.#write((sql) => cluster.run(sql))
        break
      case 'in a session':
        cluster.engine.sessions.run(null, () => {
          this.#write(async (sql) => {
            await cluster.run(sql)
            this.#hasAnswered(sql)
            // Whatever becomes of that, the write was answered.
            await this.#read().catch(() => undefined)
          })
        })
        break
      case 'transaction':
        this.#write(async (sql) => {
          const lease = cluster.lease()
          try {
            await lease.begin()
            await lease.run(sql)
            await lease.run('commit')
          } finally {
            lease.release()
          }
        })
        break
      case 'read':
        this.others.push(watched(this.#read()))
        break
      case 'definition':
        this.others.push(watched(cluster.run(`create table t${this.#count++} ()`)))
        break
      case 'kill':
        this.#dead.add(member)
        cluster.kill(member.name)
        break
      case 'promote':
        if (!dead && member.recovering) cluster.promote(member.name)
        break
      case 'demote':
        if (!dead) member.recovering = true
        break
      case 'come back':
      case 'rejoin':
        if (dead)
          cluster.comeBack(
            member.name,
            what === 'rejoin' && ![member, undefined].includes(this.#primary) ? 'standby' : 'it was',
          )
        this.#dead.delete(member)
        break
      case 'freeze':
        if (!dead) cluster.freeze(member.name)
        break
      case 'thaw':
        if (member.frozen) cluster.thaw(member.name)
        break
      case 'cut off':
        member.receiving = !member.receiving
        break
      case 'replay':
        cluster.replay()
        break
      case 'time':
    }
  }

  get #primary(): Member | undefined {
    const writable = this.cluster.members.filter(({ recovering }) => !recovering)
    return writable.toSorted((a, b) => b.timeline - a.timeline)[0]
  }

  #write(run: (sql: string) => Promise<unknown>): void {
    const sql = `insert into t values (${++this.#count})`
    const answered = async (): Promise<void> => {
      await run(sql)
      this.#hasAnswered(sql)
    }
    this.writes.set(sql, watched(answered()))
  }

  #hasAnswered(sql: string): void {
    this.#answered = this.cluster.writes.find((write) => write.sql === sql)!
  }

  /** An operator mends it: one primary, two standbys that follow it. */
  async mend(): Promise<void> {
    const { cluster } = this
    const primary = this.#primary ?? cluster.members[0]!
    for (const member of cluster.members) {
      if (member.frozen) cluster.thaw(member.name)
      if (this.#dead.has(member)) cluster.comeBack(member.name)
      member.receiving = true
      if (member !== primary) {
        member.recovering = true
        member.server.killAll()
      }
    }
    // What any of them has ever been promoted to is older than this.
    cluster.promote(primary.name)
    cluster.replay()
    // The longest that anybody waits: queryTimeout, acquireTimeout and failover.timeout.
    await cluster.clock.advance(seconds(60))
    this.others.push(watched(this.#read()))
    await cluster.clock.advance(seconds(3))
  }
}

const played = async (steps: readonly Step[]): Promise<Story> => {
  const story = new Story(await startedCluster({ replicas: 2, pool: { max: 3 }, queryTimeout: '20s' }))
  await story.play(steps)
  await story.mend()
  return story
}

describe('whatever happens to the servers', () => {
  const always = (what: (story: Story) => void | Promise<void>): Promise<void> =>
    assert(
      asyncProperty(array(step, { minLength: 5, maxLength: 80 }), async (steps) => {
        await what(await played(steps))
      }),
      { numRuns: RUNS },
    )

  test('no write runs twice, one that was answered has run, and one that was not executed has not', async () => {
    await always(({ cluster, writes }) => {
      for (const [sql, { state, error }] of writes) {
        const ran = cluster.writes.filter((write) => write.sql === sql).length
        expect(ran, sql).toBeLessThanOrEqual(1)
        if (state === 'resolved') expect(ran, sql).toBe(1)
        if (error instanceof NotExecutedError) expect(ran, `${sql}: ${error.message}`).toBe(0)
      }
    })
  })

  test('nothing is sent to a server that is known to be no primary or none of ours, and no read misses a write before it', async () => {
    await always(({ wrongs }) => expect(wrongs).toEqual([]))
  })

  test('every statement settles, and writes and reads run again when the servers are mended', async () => {
    await always(async ({ cluster, writes, others }) => {
      const pending = [...writes.values(), ...others].filter(({ state }) => state === 'pending')
      expect(pending).toEqual([])
      expect(others.at(-1)!.error ?? others.at(-1)!.state).toBe('resolved')
      const write = watched(cluster.run('insert into t values (0)'))
      await cluster.clock.advance(seconds(3))
      expect(write.error ?? write.state).toBe('resolved')
      const { name } = cluster.engine.roles.primary
      expect(cluster.member(name).recovering).toBe(false)
    })
  })

  test('in the end every pool is whole, and after destroy() nothing is left', async () => {
    await always(async ({ cluster }) => {
      const { engine, clock, members } = cluster
      for (const { pool } of engine.cluster.nodes)
        expect(pool.counts()).toMatchObject({ active: 0, waiting: 0, connecting: 0 })
      expect(engine.fallbacks).toMatchObject({ inside: 0, waiting: 0 })
      const stopped = watched(engine.stop())
      await clock.advance(seconds(5))
      expect(stopped.state).toBe('resolved')
      expect(clock.pendingTimers).toBe(0)
      for (const { server } of members) expect(server.openSessions).toEqual([])
    })
  })

  test('a standby that was asked is believed: no read comes from a server before it was looked at in its role', async () => {
    await always(({ cluster }) => {
      for (const { server } of cluster.members) {
        const first = server.log.find(({ sql }) => sql.startsWith('select a from t'))
        if (first === undefined) continue
        const looked = server.log.find(({ sql }) => sql === NODE_SQL)
        expect(looked!.at).toBeLessThanOrEqual(first.at)
      }
    })
  })
})
