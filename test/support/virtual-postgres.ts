// A client process, a network and a PostgreSQL server of which nothing is real but the order of things: time passes
// only where the model says that somebody works or waits, so a second of ten connections is the same in every run.
// The client has one thread, as node has: whoever runs on it keeps everybody else from reading what has arrived. The
// server has a backend per connection, which answers in order, and a few cores that the running backends share.

import { setImmediate } from 'node:timers/promises'
import type {
  Asker,
  Chance,
  Clock,
  Facts,
  Portal,
  Rows,
  Session,
  Statement,
  Timer,
  TransactionStatus,
} from '../../src/core/types.ts'

/** What things cost, milliseconds. */
export interface Machines {
  readonly roundTripMs: number
  /** A packet takes up to this much longer, each way; none overtakes another of its connection. */
  readonly jitterMs: number
  readonly cores: number
  /** Of the server, to wake the backend that a packet comes for when it sleeps. */
  readonly wakeMs: number
  /** Of the client: to read a socket, to write one, to send a statement (its caller included), to take an answer. */
  readonly readMs: number
  readonly writeMs: number
  readonly askMs: number
  readonly answerMs: number
}

export const usualMachines: Machines = {
  roundTripMs: 0,
  jitterMs: 0,
  cores: 4,
  wakeMs: 0.03,
  readMs: 0.008,
  writeMs: 0.012,
  askMs: 0.012,
  answerMs: 0.008,
}

/** A statement's text and what the server has to do for it. */
export interface Text {
  readonly sql: string
  readonly facts: Facts
  /** Time on a core. */
  readonly workMs: (chance: Chance) => number
  /** Time without one: pg_sleep, or the disk that a commit waits for. */
  readonly sleepMs?: number
  /** The row that it locks, until its transaction ends. */
  readonly row?: string
}

/** What the engine itself sends. */
const SETTING: Pick<Text, 'workMs' | 'sleepMs' | 'row'> = { workMs: () => 0.02 }

const NO_ROWS: Rows = { rows: [], command: 'SELECT', count: 0 }

interface Event {
  readonly at: number
  readonly order: number
  readonly run: () => void
  cancelled: boolean
}

/** Events in the order of their times; of two for the same moment the elder comes first. */
class Agenda {
  readonly #heap: Event[] = []
  #count = 0

  get nextAt(): number {
    while (this.#heap[0]?.cancelled === true) this.#pop()
    return this.#heap[0]?.at ?? Infinity
  }

  add(at: number, run: () => void): Event {
    const event = { at, order: this.#count++, run, cancelled: false }
    const heap = this.#heap
    let i = heap.length
    heap.push(event)
    for (let up = (i - 1) >> 1; i > 0 && before(event, heap[up]!); i = up, up = (i - 1) >> 1) {
      heap[i] = heap[up]!
      heap[up] = event
    }
    return event
  }

  /** Only when `nextAt` is not Infinity. */
  take(): Event {
    return this.#pop()
  }

  #pop(): Event {
    const heap = this.#heap
    const first = heap[0]!
    const last = heap.pop()!
    if (heap.length === 0) return first
    let i = 0
    for (let down = 1; down < heap.length; down = 2 * i + 1) {
      if (down + 1 < heap.length && before(heap[down + 1]!, heap[down]!)) down++
      if (!before(heap[down]!, last)) break
      heap[i] = heap[down]!
      i = down
    }
    heap[i] = last
    return first
  }
}

function before(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}

/** What has something for the process to read. */
export interface Readable {
  read(): void
}

/** The client process: its time, and its event loop as libuv runs it (timers, sockets, immediates). */
export class VirtualProcess implements Clock {
  readonly machines: Machines
  readonly chance: Chance
  /** What happens outside of the process. */
  readonly outside = new Agenda()
  readonly #timers = new Agenda()
  #immediates: (() => void)[] = []
  readonly #readable: Readable[] = []
  readonly #unwritten: VirtualSession[] = []
  #now = 0
  /** Time spent working. */
  busyMs = 0
  reads = 0
  /** Whatever does more than this goes round in a circle. */
  mostSteps = Infinity
  #steps = 0

  constructor(machines: Machines, chance: Chance) {
    this.machines = machines
    this.chance = chance
  }

  now(): number {
    return this.#now
  }

  /** Timers set and neither run nor cleared. */
  get waitsForTimers(): boolean {
    return this.#timers.nextAt !== Infinity
  }

  setTimeout(run: () => void, ms: number): Timer {
    return this.#timers.add(this.#now + Math.max(0, ms), run)
  }

  clearTimeout(timer: Timer): void {
    if (timer !== null && timer !== undefined) (timer as Event).cancelled = true
  }

  nextTurn(run: () => void): void {
    this.#immediates.push(run)
  }

  /** The thread works for `ms`. */
  spend(ms: number): void {
    this.#now += ms
    this.busyMs += ms
  }

  arrives(readable: Readable): void {
    this.#readable.push(readable)
  }

  writes(session: VirtualSession): void {
    this.#unwritten.push(session)
  }

  async run(until: number): Promise<void> {
    await this.#settle()
    while (this.#now < until) {
      while (this.#timers.nextAt <= this.#now) await this.#do(this.#timers.take().run)
      this.#catchUp()
      if (this.#readable.length === 0 && this.#immediates.length === 0) this.#sleep(until)
      // What becomes readable while these are read is for the next turn.
      for (const session of this.#readable.splice(0)) {
        await this.#do(() => {
          this.#catchUp()
          this.reads++
          session.read()
        })
      }
      const immediates = this.#immediates
      this.#immediates = []
      for (const run of immediates) await this.#do(run)
    }
  }

  /** Until something has arrived or a timer is due. */
  #sleep(until: number): void {
    while (this.#readable.length === 0) {
      const next = this.outside.nextAt
      const wake = Math.min(this.#timers.nextAt, until)
      if (next > wake) {
        this.#now = Math.max(this.#now, wake)
        return
      }
      this.#now = Math.max(this.#now, next)
      this.outside.take().run()
    }
  }

  #catchUp(): void {
    while (this.outside.nextAt <= this.#now) this.outside.take().run()
  }

  async #do(run: () => void): Promise<void> {
    if (++this.#steps > this.mostSteps) throw new Error(`more than ${this.mostSteps} steps within ${this.#now} ms`)
    run()
    await this.#settle()
  }

  /** The promises that were settled run to their ends; then what was sent leaves, one write for each connection. */
  async #settle(): Promise<void> {
    await setImmediate()
    for (const session of this.#unwritten.splice(0)) session.flush()
  }
}

interface Job {
  readonly endsAt: number
  readonly done: (at: number) => void
}

/** Cores that share their time evenly among those who run. */
class Cores {
  readonly #outside: Agenda
  readonly #count: number
  readonly #jobs: Job[] = []
  /** What one job has got so far. */
  #progress = 0
  #at = 0
  #next: Event | null = null
  busyMs = 0

  constructor(outside: Agenda, count: number) {
    this.#outside = outside
    this.#count = count
  }

  run(at: number, ms: number, done: (at: number) => void): void {
    this.#advance(at)
    this.#jobs.push({ endsAt: this.#progress + ms, done })
    this.#plan()
  }

  get #rate(): number {
    return Math.min(1, this.#count / this.#jobs.length)
  }

  #advance(at: number): void {
    if (this.#jobs.length > 0) {
      this.#progress += (at - this.#at) * this.#rate
      this.busyMs += (at - this.#at) * Math.min(this.#jobs.length, this.#count)
    }
    this.#at = at
  }

  #plan(): void {
    if (this.#next !== null) this.#next.cancelled = true
    this.#next = null
    let first: Job | null = null
    for (const job of this.#jobs) if (first === null || job.endsAt < first.endsAt) first = job
    if (first === null) return
    const job = first
    const at = this.#at + Math.max(0, job.endsAt - this.#progress) / this.#rate
    this.#next = this.#outside.add(at, () => {
      this.#next = null
      this.#advance(at)
      this.#jobs.splice(this.#jobs.indexOf(job), 1)
      this.#plan()
      job.done(at)
    })
  }
}

/** Who has locked a row, and who waits for it, first come first served. */
interface RowLock {
  holder: VirtualSession | null
  readonly waiting: { readonly session: VirtualSession; readonly granted: (at: number) => void }[]
}

export class VirtualServer {
  readonly process: VirtualProcess
  readonly cores: Cores
  readonly sessions: VirtualSession[] = []
  readonly texts = new Map<string, Text>()
  readonly #rows = new Map<string, RowLock>()

  constructor(process: VirtualProcess) {
    this.process = process
    this.cores = new Cores(process.outside, process.machines.cores)
  }

  /** Three round trips, and the server starts a process. */
  readonly open = (): Promise<VirtualSession> =>
    new Promise((resolve) => {
      this.process.setTimeout(() => resolve(this.opened()), 3 * this.process.machines.roundTripMs + 5)
    })

  /** A connection that stands already. */
  opened(): VirtualSession {
    const session = new VirtualSession(this, 100 + this.sessions.length)
    this.sessions.push(session)
    return session
  }

  statement(text: Text): Statement {
    this.texts.set(text.sql, text)
    return { sql: text.sql, parameters: [], facts: text.facts }
  }

  lock(row: string, session: VirtualSession, at: number, granted: (at: number) => void): void {
    let lock = this.#rows.get(row)
    if (lock === undefined) this.#rows.set(row, (lock = { holder: null, waiting: [] }))
    if (lock.holder === null || lock.holder === session) {
      lock.holder = session
      granted(at)
    } else lock.waiting.push({ session, granted })
  }

  unlockAll(session: VirtualSession, at: number): void {
    for (const lock of this.#rows.values()) {
      if (lock.holder !== session) continue
      const next = lock.waiting.shift()
      lock.holder = next?.session ?? null
      next?.granted(at)
    }
  }
}

interface Sent {
  readonly statement: Statement
  readonly asker: Asker
}

/** One connection, both ends of it. */
export class VirtualSession implements Session {
  readonly pid: number
  readonly raw = null
  readonly pipelines = true
  readonly bytesUnanswered = 0
  readonly bytesRead = 0
  readonly lost = null
  status: TransactionStatus = 'idle'
  readonly #server: VirtualServer
  readonly #process: VirtualProcess
  readonly #readListeners: (() => void)[] = []
  #unflushed: Sent[] = []
  /** Answers that the socket holds, not read yet. */
  #answered: Sent[] = []
  unanswered = 0
  /** At the server, not begun. */
  readonly #inbox: Sent[] = []
  #running = false
  /** When the last packet arrives there, and here. */
  #thereAt = 0
  #hereAt = 0

  constructor(server: VirtualServer, pid: number) {
    this.#server = server
    this.#process = server.process
    this.pid = pid
  }

  get unflushed(): number {
    return this.#unflushed.length
  }

  ask(statement: Statement, asker: Asker): void {
    this.#process.spend(this.#process.machines.askMs)
    this.unanswered++
    if (this.#unflushed.push({ statement, asker }) === 1) this.#process.writes(this)
  }

  send(statement: Statement): Promise<Rows> {
    return new Promise((resolve, reject) => this.ask(statement, { resolve, reject }))
  }

  onRead(listener: () => void): void {
    this.#readListeners.push(listener)
  }

  flush(): void {
    const sent = this.#unflushed
    this.#unflushed = []
    this.#process.spend(this.#process.machines.writeMs)
    this.#thereAt = Math.max(this.#thereAt, this.#process.now() + this.#wayMs())
    const at = this.#thereAt
    this.#process.outside.add(at, () => {
      this.#inbox.push(...sent)
      if (!this.#running) this.#begin(at, this.#process.machines.wakeMs)
    })
  }

  read(): void {
    const { machines } = this.#process
    const answered = this.#answered
    this.#answered = []
    this.#process.spend(machines.readMs)
    for (const { asker } of answered) {
      this.#process.spend(machines.answerMs)
      this.unanswered--
      asker.resolve(NO_ROWS)
    }
    for (const listener of this.#readListeners) listener()
  }

  #wayMs(): number {
    const { roundTripMs, jitterMs } = this.#process.machines
    return roundTripMs / 2 + (jitterMs === 0 ? 0 : this.#process.chance() * jitterMs)
  }

  /** The backend takes up the next statement; `wakeMs`: it has slept. */
  #begin(at: number, wakeMs: number): void {
    const sent = this.#inbox.shift()
    this.#running = sent !== undefined
    if (sent === undefined) return
    const { workMs, sleepMs = 0, row } = this.#server.texts.get(sent.statement.sql) ?? SETTING
    const work = (from: number): void =>
      this.#server.cores.run(from, wakeMs + workMs(this.#process.chance), (worked) => {
        if (sleepMs === 0) this.#end(sent, worked)
        else this.#process.outside.add(worked + sleepMs, () => this.#end(sent, worked + sleepMs))
      })
    if (row === undefined) work(at)
    else this.#server.lock(row, this, at, work)
  }

  #end(sent: Sent, at: number): void {
    const { verb } = sent.statement.facts
    if (verb === 'begin') this.status = 'open'
    else if (verb === 'commit') this.status = 'idle'
    if (this.status === 'idle') this.#server.unlockAll(this, at)
    this.#hereAt = Math.max(this.#hereAt, at + this.#wayMs())
    this.#process.outside.add(this.#hereAt, () => {
      if (this.#answered.push(sent) === 1) this.#process.arrives(this)
    })
    this.#begin(at, 0)
  }

  // What no load of the model needs.

  sendTogether(): Promise<Rows>[] {
    throw new Error('the model has no batches')
  }

  openPortal(): Portal {
    throw new Error('the model has no streams')
  }

  cancel(): Promise<void> {
    return Promise.reject(new Error('the model cancels nothing'))
  }

  close(): Promise<void> {
    return Promise.resolve()
  }

  readonly standby = null
  onStandby(): void {}
  readonly drifted = false
  keepSettings(): void {}
  forgetStatements(): void {}
  destroy(): void {}
  onLost(): void {}
  onNotification(): void {}
  ref(): void {}
  unref(): void {}
}
