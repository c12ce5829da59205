// Houses that are broken on purpose, each in one way, through the ports alone: the judge must notice every one of them.
// They stand for mistakes that were made in clients like this one, or could be made here.

import { SmartPgError } from '../../src/core/errors.ts'
import { PING } from '../../src/core/statements.ts'
import type { Asker, Rows, Session, Statement } from '../../src/core/types.ts'
import type { Crime } from './ledger.ts'
import type { Mutant } from './house.ts'

export interface Planted extends Mutant {
  readonly name: string
  /** What it is found out by. */
  readonly found: Crime
}

/** Every statement of a session but those of its portals, on their way to the server and back. */
interface Intercept {
  /** What is sent instead; null: nothing, and it is answered with `answer`. */
  statement?: (statement: Statement) => Statement | null
  answer?: Rows
  asker?: (asker: Asker, statement: Statement) => Asker
}

function intercept(session: Session, { statement: change = same, answer = NOTHING, asker = same }: Intercept): void {
  const ask = session.ask.bind(session)
  const sendTogether = session.sendTogether.bind(session)
  session.ask = (statement, whoAsks, gathers) => {
    const changed = change(statement)
    if (changed === null) queueMicrotask(() => whoAsks.resolve(answer))
    else ask(changed, asker(whoAsks, statement), gathers)
  }
  session.send = (statement) => new Promise((resolve, reject) => session.ask(statement, { resolve, reject }))
  session.sendTogether = (statements) => {
    const changed = statements.map(change)
    const sent = sendTogether(changed.filter((one) => one !== null))
    const answers = changed.map((one) => (one === null ? Promise.resolve(answer) : sent.shift()!))
    return answers.map((one, i) => {
      return new Promise((resolve, reject) => {
        const told = asker({ resolve, reject }, statements[i]!)
        one.then(
          (rows) => told.resolve(rows),
          (error: Error) => told.reject(error),
        )
      })
    })
  }
}

const same = <T>(it: T): T => it
const NOTHING: Rows = { rows: [], command: 'BEGIN', count: null }

const isLost = (error: unknown): boolean =>
  ['SMARTPG_CONNECTION_LOST', 'ECONNRESET', '57P01'].includes((error as { code?: string }).code ?? '')

export const mutants: readonly Planted[] = [
  {
    name: 'a write that was lost with its connection is sent again',
    found: 'a write was executed twice',
    ports: (ports) => ({
      ...ports,
      faultOf: (error, during) => {
        const fault = ports.faultOf(error, during)
        if (during === 'connect' || fault.class !== 'connection-lost') return fault
        return { ...fault, class: 'rolled-back', code: '40001', dropsConnection: false, retry: 'transaction' }
      },
    }),
  },
  {
    name: 'statement names are counted instead of being digests',
    found: "an answer is somebody else's",
    ports: (ports) => ({
      ...ports,
      opener: (node, hooks) => {
        const open = ports.opener(node, hooks)
        const names = new Map<string, string>()
        const counted = (name: string): string => {
          if (!names.has(name)) names.set(name, `s_${names.size + 1}`)
          return names.get(name)!
        }
        return async (how) => {
          const session = await open(how)
          const statement = (it: Statement): Statement =>
            it.name === undefined ? it : { ...it, name: counted(it.name) }
          intercept(session, { statement })
          return session
        }
      },
    }),
  },
  {
    name: 'nobody looks whether a connection that comes back stands in a transaction',
    found: "a statement ran in a stranger's transaction",
    session: (session) => {
      Object.defineProperty(session, 'status', { get: () => 'idle', set() {} })
    },
  },
  {
    name: 'a connection is not given back once in a while',
    found: 'capacity is lost',
    engine: ({ cluster }, dice) => {
      const { pool } = cluster.primary
      const release = pool.release.bind(pool)
      pool.release = (pooled, because) => {
        if (!dice.happens(0.05)) release(pooled, because)
      }
    },
  },
  {
    name: 'what a lease left in its session stays there',
    found: "a statement ran in a stranger's session",
    session: (session) => intercept(session, { statement: (it) => (it.sql === 'discard all' ? null : it) }),
  },
  {
    name: 'a BEGIN is answered and never sent',
    found: 'a statement ran outside of its transaction',
    session: (session) => intercept(session, { statement: (it) => (it.sql === 'begin' ? null : it) }),
  },
  {
    name: 'a transaction loses one of its statements',
    found: 'a transaction is torn',
    session: (session, dice) => {
      const isLost = ({ facts }: Statement): boolean => facts.writes && session.status === 'open' && dice.happens(0.1)
      intercept(session, { statement: (it) => (isLost(it) ? null : it) })
    },
  },
  {
    name: 'half of a transfer is written twice',
    found: 'a sum has changed',
    session: (session, dice) =>
      intercept(session, {
        statement: (it) => {
          if (it.sql.includes('balance') && dice.happens(0.1)) session.ask(it, { resolve: () => 0, reject: () => 0 })
          return it
        },
      }),
  },
  {
    name: 'what was sent is said not to have been',
    found: 'what was said not to be executed was',
    session: (session) =>
      intercept(session, {
        asker: (asker) => ({
          resolve: (rows) => asker.resolve(rows),
          reject: (error) => {
            const unsent = new SmartPgError('SMARTPG_CONNECTION_LOST', 'not sent', { phase: 'send', cause: error })
            asker.reject(isLost(error) ? unsent : error)
          },
        }),
      }),
  },
  {
    name: 'a COMMIT that was lost is taken for a success',
    found: 'an acknowledged write is lost',
    session: (session) =>
      intercept(session, {
        asker: (asker, { facts }) => ({
          resolve: (rows) => asker.resolve(rows),
          reject: (error) => {
            if (facts.verb === 'commit' && isLost(error)) asker.resolve({ rows: [], command: 'COMMIT', count: null })
            else asker.reject(error)
          },
        }),
      }),
  },
  {
    name: 'two statements are told each other’s answers',
    found: "an answer is somebody else's",
    session: (session) => {
      let before: { asker: Asker } | null = null
      intercept(session, {
        asker: (asker) => {
          const own = { asker }
          if (before !== null && session.unanswered > 0) [before.asker, own.asker] = [own.asker, before.asker]
          before = own
          return { resolve: (rows) => own.asker.resolve(rows), reject: (error) => own.asker.reject(error) }
        },
      })
    },
  },
  {
    name: 'a cancel that comes too late for whom it was meant',
    found: 'an innocent statement was cancelled',
    session: (session) => {
      const cancel = session.cancel.bind(session)
      session.cancel = (ms) => {
        void session.send(PING).then(
          () => cancel(ms),
          () => undefined,
        )
        return Promise.resolve()
      }
    },
  },
  {
    name: 'a stream that takes a short chunk for the last',
    found: 'a stream is short',
    session: (session, dice) => {
      const openPortal = session.openPortal.bind(session)
      session.openPortal = (statement) => {
        const portal = openPortal(statement)
        const read = async (count: number): ReturnType<typeof portal.read> =>
          (await portal.read(count)).slice(0, dice.happens(0.1) ? -1 : count)
        return { read, close: () => portal.close() }
      }
    },
  },
  {
    name: 'a write is called unknown although it was answered',
    found: 'an outcome is called unknown that is known',
    session: (session, dice) =>
      intercept(session, {
        asker: (asker, { facts }) => ({
          resolve: (rows) => {
            if (!facts.writes || !dice.happens(0.1)) return asker.resolve(rows)
            const lost = new SmartPgError('SMARTPG_CONNECTION_LOST', 'lost', { phase: 'execute' })
            session.destroy(lost)
            return asker.reject(lost)
          },
          reject: (error) => asker.reject(error),
        }),
      }),
  },
  {
    name: 'a clock that loses timers',
    found: 'a promise never settles',
    ports: (ports, dice) => ({
      ...ports,
      clock: {
        now: () => ports.clock.now(),
        nextTurn: (run) => ports.clock.nextTurn(run),
        clearTimeout: (timer) => ports.clock.clearTimeout(timer),
        setTimeout: (run, ms) => (dice.happens(0.3) ? null : ports.clock.setTimeout(run, ms)),
      },
    }),
  },
  {
    name: 'deadlines that are ten times as long',
    found: 'a promise is late',
    ports: (ports) => ({
      ...ports,
      clock: {
        now: () => ports.clock.now() / 10,
        nextTurn: (run) => ports.clock.nextTurn(run),
        clearTimeout: (timer) => ports.clock.clearTimeout(timer),
        setTimeout: (run, ms) => ports.clock.setTimeout(run, ms * 10),
      },
    }),
  },
  {
    name: 'a timer that nobody clears',
    found: 'a timer is left',
    ports: (ports) => ({
      ...ports,
      clock: {
        now: () => ports.clock.now(),
        nextTurn: (run) => ports.clock.nextTurn(run),
        clearTimeout: () => undefined,
        setTimeout: (run, ms) => ports.clock.setTimeout(run, ms),
      },
    }),
  },
  {
    name: 'a circuit that never closes again',
    found: 'the circuit stays open',
    engine: ({ cluster: { primary } }) => {
      const admit = primary.admitQuery.bind(primary)
      let refusing = false
      primary.admitQuery = (now) => {
        const permit = refusing ? null : admit(now)
        refusing ||= permit === null
        return permit
      }
    },
  },
  {
    name: 'a goodbye that says nothing',
    found: 'sessions are left on the server',
    session: (session) => {
      session.close = () => Promise.resolve()
    },
  },
  {
    name: 'a goodbye that never ends',
    found: 'destroy hangs',
    session: (session) => {
      session.close = () => new Promise(() => undefined)
    },
  },
  {
    name: 'a failure that nobody takes care of',
    found: 'a rejection is unhandled',
    session: (session) => session.onLost((reason) => void Promise.reject(reason)),
  },
  {
    name: 'a listener that throws',
    found: 'an exception is uncaught',
    session: (session) =>
      session.onLost(() => {
        throw new Error('a listener threw')
      }),
  },
  {
    name: 'a server that is blamed for nothing',
    found: 'a failure without a fault',
    session: (session, dice) =>
      intercept(session, {
        asker: (asker) => ({
          resolve: (rows) => (dice.happens(0.02) ? asker.reject(new Error('no reason')) : asker.resolve(rows)),
          reject: (error) => asker.reject(error),
        }),
      }),
  },
]
