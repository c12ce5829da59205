// A primary and its standbys, scripted: who is in recovery, on which timeline, how far the log is, who is gone. What the
// engine asks of roles and positions is answered by that, writes are refused where a standby would refuse them, and what
// was written where is kept, so that a test can promote, kill and bring back as an operator does.
//
//     const cluster = await startedCluster({ replicas: 2 })
//     cluster.kill('primary')
//     cluster.promote('replica-1')

import { formatLsn } from '../../src/core/freshness.ts'
import { IDENTITY } from '../../src/core/identity.ts'
import { NODE_SQL } from '../../src/core/node-sample.ts'
import { POSITION } from '../../src/core/token.ts'
import type { WriteToken } from '../../src/core/token.ts'
import type { Row } from '../../src/core/types.ts'
import type { ReadSession } from '../../src/engine/read-session.ts'
import { FINGERPRINT } from '../../src/engine/catalog-queries.ts'
import { newTestEngine, watched } from './engine.ts'
import type { TestEngine, TestEngineOptions } from './engine.ts'
import type { Answer } from './scripted-server.ts'
import { ScriptedServer, networkError, serverError } from './scripted-server.ts'

/** What one server is, as it would say itself. */
export interface Member {
  readonly name: string
  readonly server: ScriptedServer
  recovering: boolean
  timeline: number
  /** Of a standby: it receives the log. */
  receiving: boolean
  /** The end of its log: written by a primary, replayed by a standby. */
  lsn: bigint
  systemIdentifier: string | null
  startedAt: string
  /** It tells whose cluster it is of, and its timeline. */
  telling: boolean
  /** It takes what it is sent and says nothing. */
  frozen: boolean
  /** How long a write takes until it is answered. */
  writeMs: number
}

/** A write that was run: on which server, and what that was when it ran it. */
export interface Written {
  readonly node: string
  readonly sql: string
  readonly recovering: boolean
  readonly timeline: number
  /** Where its log ended behind it. */
  readonly lsn: bigint
}

export interface TestCluster extends TestEngine {
  readonly members: readonly Member[]
  /** In the order in which the servers ran them. */
  readonly writes: readonly Written[]
  member(name: string): Member
  /** One more standby, that no engine knows of. */
  standby(name: string): Member
  /** The log of the primary grows by that, and no standby has replayed it. */
  write(bytes?: bigint): void
  /** Every standby that receives the log, or this one alone, has replayed all there is. */
  replay(name?: string): void
  promote(name: string): void
  /** Its connections are lost, and it lets nobody in. */
  kill(name: string): void
  /** As what it was when it was killed, or as a standby of the primary of now. */
  comeBack(name: string, as?: 'it was' | 'standby'): void
  /** From now on it takes everything and answers nothing. */
  freeze(name: string): void
  /** What it was sent meanwhile is lost with its connections. */
  thaw(name: string): void
  /** Where a read goes now; `nobody` if nobody takes it at once. */
  readsFrom(sql?: string): Promise<string>
}

const WRITES = /^\s*(insert|update|delete|merge|truncate|create|alter|drop)\b|nextval|writes_in_secret/i
const SYSTEM = '7000000000000000001'
const BEGINNING = 0x100_0000n

/** Nobody has started it. */
export function newTestCluster(options: TestEngineOptions = {}): TestCluster {
  const test = newTestEngine(options)
  const writes: Written[] = []
  const members: Member[] = []
  let started = 0
  /** The timeline that was begun last, wherever that was. */
  let newest = 1
  const join = (name: string, server: ScriptedServer, recovering: boolean): Member => {
    const member: Member = {
      name,
      server,
      recovering,
      timeline: 1,
      receiving: true,
      lsn: members[0]?.lsn ?? BEGINNING,
      systemIdentifier: SYSTEM,
      startedAt: `170000000${++started}.5`,
      telling: true,
      frozen: false,
      writeMs: 0,
    }
    members.push(member)
    script(member, members, writes)
    return member
  }
  const names = test.engine.cluster.nodes.map(({ name }) => name)
  for (const replica of test.replicas) replica.on(FINGERPRINT, { error: new Error('the catalog is not known') })
  names.forEach((name, i) => join(name, i === 0 ? test.primary : test.replicas[i - 1]!, i > 0))
  const member = (name: string): Member => members.find((one) => one.name === name)!
  /** The one that writes, of several the newest. */
  const primary = (): Member | undefined =>
    members.filter(({ recovering }) => !recovering).toSorted((a, b) => b.timeline - a.timeline)[0]
  return {
    ...test,
    members,
    writes,
    member,
    standby: (name) => {
      const one = join(name, new ScriptedServer(test.clock), true)
      one.lsn = primary()!.lsn
      one.timeline = primary()!.timeline
      return one
    },
    write: (bytes = 0x100n) => {
      primary()!.lsn += bytes
    },
    replay: (name) => {
      const from = primary()
      for (const one of members) {
        const follows = one.recovering && one.receiving && (name === undefined || one.name === name)
        if (follows && from !== undefined) Object.assign(one, { lsn: from.lsn, timeline: from.timeline })
      }
    },
    promote: (name) => {
      const one = member(name)
      Object.assign(one, { recovering: false, timeline: ++newest, lsn: one.lsn + 0x80n })
    },
    kill: (name) => member(name).server.goDown(networkError('ECONNREFUSED'), 'sessions'),
    comeBack: (name, as = 'it was') => {
      const one = member(name)
      one.startedAt = `170000000${++started}.5`
      const follows = primary()
      if (as === 'standby') Object.assign(one, { recovering: true, timeline: follows!.timeline, lsn: follows!.lsn })
      one.server.comeUp()
    },
    freeze: (name) => {
      member(name).frozen = true
      // Longer than anybody waits for a connect.
      member(name).server.connectDelayMs = 3_600_000
    },
    thaw: (name) => {
      const { server } = member(name)
      member(name).frozen = false
      server.connectDelayMs = 0
      server.killAll()
    },
    readsFrom: async (sql = 'select a from t') => {
      const read = watched(test.run(sql))
      await test.clock.advance(0)
      return read.state === 'resolved' ? test.events.query.at(-1)!.node : 'nobody'
    },
  }
}

/** The same, started; every node has been looked at. */
export async function startedCluster(options: TestEngineOptions = {}): Promise<TestCluster> {
  const cluster = newTestCluster(options)
  cluster.engine.start()
  await cluster.clock.advance(0)
  return cluster
}

/** The same, where own writes of the process are no concern: what a read sees is its session's doing. */
export function startedForSessions(options: TestEngineOptions = {}): Promise<TestCluster> {
  return startedCluster({ replicas: 1, ...options, routing: { readYourWrites: 'session', ...options.routing } })
}

/** `fn` as `dialect.session` runs it. */
export function inSession<T>(
  { engine }: TestCluster,
  fn: (session: ReadSession) => T,
  token: WriteToken | null = null,
): T {
  return engine.sessions.run(token, () => fn(engine.sessions.current!))
}

function script(one: Member, members: readonly Member[], writes: Written[]): void {
  const { server } = one
  const sizes = { block: '8192', segment: '16777216' }
  const timeline = (): string => one.timeline.toString(16).padStart(8, '0').toUpperCase()
  const identity = (): Row => ({
    server: one.startedAt,
    recovering: `${one.recovering}`,
    system: one.telling ? one.systemIdentifier : null,
    timeline: one.recovering || !one.telling ? null : timeline(),
  })
  const primaries = (): Row => ({ ...identity(), ...sizes, lsn: formatLsn(one.lsn) })
  const standbys = (): Row => {
    const end = members.reduce((most, { lsn, recovering }) => (!recovering && lsn > most ? lsn : most), one.lsn)
    const log = { received: formatLsn(end), replayed: formatLsn(one.lsn), receiving: `${one.receiving}` }
    return { ...identity(), ...sizes, ...log }
  }
  server.on(WRITES, ({ sql }): Answer => {
    const { recovering, name } = one
    if (recovering) {
      const verb = /[a-z]+/i.exec(sql)![0].toUpperCase()
      return { error: serverError('25006', `cannot execute ${verb} in a read-only transaction`) }
    }
    one.lsn += 0x100n
    writes.push({ node: name, sql, recovering, timeline: one.timeline, lsn: one.lsn })
    return { delayMs: one.writeMs }
  })
  server.on(NODE_SQL, () => ({ rows: [one.recovering ? standbys() : primaries()] }))
  server.on(IDENTITY.sql, () => ({ rows: [identity()] }))
  server.on(POSITION.sql, () => ({
    rows: [
      one.recovering
        ? { lsn: null, timeline: null, ...sizes }
        : { lsn: formatLsn(one.lsn), timeline: timeline(), ...sizes },
    ],
  }))
  const answer = server.answerTo.bind(server)
  server.answerTo = (statement, session) => {
    if (!one.frozen) return answer(statement, session)
    const { sql, parameters, name } = statement
    server.log.push({ pid: session.pid, sql, parameters, name, status: session.status, at: server.clock.now() })
    return 'never'
  }
}
