// The virtual PostgreSQL: who may connect, and what befalls the server as a whole. It may stand behind a pooler in
// transaction mode, which lends one of a few backends to a client for one transaction at a time.

import { Backend } from './backend.ts'
import type { Postmaster, Witness } from './backend.ts'
import { Connection } from './connection.ts'
import type { Database } from './database.ts'
import { Line } from './line.ts'
import type { VirtualSocket, Weather } from './line.ts'
import type { Refusal } from './messages.ts'
import { LOOKS } from './texts.ts'
import type { Stamp } from './stamps.ts'
import type { Dice, World } from './world.ts'

/** Who keeps account of what was written to a socket, and of what was answered. */
export interface Books extends Witness {
  written(bytes: Buffer): void
  answered(stamps: readonly Stamp[]): void
}

export class VirtualPostgres implements Postmaster {
  readonly world: World
  readonly dice: Dice
  readonly database: Database
  readonly witness: Books
  /** What it is like when nothing is wrong: steady or not, near or far. */
  readonly usualWeather: Readonly<Weather>
  readonly weather: Weather
  readonly connections = new Set<Connection>()
  readonly usualSlowness: number
  slowness: number
  /** To start a backend, longer than usual. */
  slowStartMs = 0
  accepts: 'all' | 'refuses' | 'deaf' | 'starting' = 'all'
  maxConnections = Infinity
  /** So many of the next answers to writes are lost, although the writes are on the disk. */
  answersToLose = 0
  /** The same of COMMIT. */
  commitAnswersToLose = 0
  /** So many of the next COMMITs cut their line when they begin to run. */
  commitsToCut = 0
  beginsToRefuse = 0
  /** The next statement of a caller takes so much longer. */
  hangMs = 0
  startedAt = '0'
  #justCommitted: Backend | null = null
  readonly #shapes = new Map<string, number>()
  /** The backends of a pooler; null: every client has one of its own. */
  readonly #pooled: Backend[] | null
  readonly #lent = new Set<Backend>()
  readonly #waiting: Connection[] = []
  #pids = 100
  #lineCount = 0

  constructor(world: World, database: Database, books: Books, behindPooler: boolean) {
    this.world = world
    this.dice = world.newChance()
    const least = this.dice.oneOf([0.05, 0.1, 2])
    this.usualWeather = { least, most: least + this.dice.oneOf([0.02, 2]) }
    this.weather = { ...this.usualWeather }
    this.usualSlowness = this.dice.oneOf([0.1, 1])
    this.slowness = this.usualSlowness
    this.database = database
    this.witness = books
    this.#pooled = behindPooler ? [] : null
  }

  /** A socket that nobody has connected yet. */
  newSocket(): VirtualSocket {
    const line = new Line(this.world, this.dice, this.weather, ++this.#lineCount, (it) => this.#connects(it))
    line.onWritten = (bytes) => this.witness.written(bytes)
    return line.socket
  }

  /** A cancel request comes by a connection of its own. */
  cancel(pid: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const wayMs = (): number => this.dice.between(this.weather.least, this.weather.most)
      const startMs = this.dice.between(0.3, 5)
      this.world.after(wayMs() + wayMs() + wayMs() + startMs, () => {
        const taken = this.accepts === 'all'
        const connection = [...this.connections].find((one) => one.pid === pid)
        if (taken) connection?.backend?.cancel()
        this.world.process.arrives({ read: () => (taken ? resolve() : reject(new Error('nobody takes the cancel'))) })
      })
    })
  }

  // What its connections ask.

  welcome({ line }: Connection, then: (refusal: Refusal | null) => void): void {
    this.world.after(this.dice.between(0.5, 5) + this.slowStartMs, () => {
      const standing = [...this.connections].filter(({ welcome }) => welcome).length
      if (this.accepts !== 'all') then({ code: '57P03', message: 'the database system is starting up' })
      else if (standing >= this.maxConnections) then({ code: '53300', message: 'sorry, too many clients already' })
      else {
        this.world.note(`line ${line.id}`, 'is welcome')
        then(null)
      }
    })
  }

  /** Whether it has a backend now; otherwise it gets one later. */
  attach(connection: Connection): boolean {
    const backend = this.#pooled === null ? new Backend(this, connection.pid) : this.#toLend()
    if (backend === null) {
      if (!this.#waiting.includes(connection)) this.#waiting.push(connection)
      return false
    }
    connection.backend = backend
    return true
  }

  /** Its transaction has ended. */
  detach(connection: Connection): void {
    if (this.#pooled === null) return
    const backend = connection.backend!
    connection.backend = null
    this.#lent.delete(backend)
    this.#serveWaiting()
  }

  left(connection: Connection, finishesCommit: boolean): void {
    const { backend } = connection
    this.connections.delete(connection)
    if (backend === null) return
    connection.backend = null
    backend.end(finishesCommit)
    this.#lent.delete(backend)
    if (this.#pooled?.includes(backend)) this.#pooled.splice(this.#pooled.indexOf(backend), 1)
    this.#serveWaiting()
  }

  shapeOf(sql: string): number {
    return this.#shapes.get(sql) ?? 0
  }

  committed(backend: Backend): void {
    this.#justCommitted = backend
  }

  losesAnswer({ backend, lastRun }: Connection): boolean {
    const wrote = backend !== null && backend === this.#justCommitted
    this.#justCommitted = null
    if (!wrote) return false
    if (lastRun === 'commit' && this.commitAnswersToLose > 0) return this.commitAnswersToLose-- > 0
    return this.answersToLose > 0 && this.answersToLose-- > 0
  }

  /** A statement begins: how much longer it takes than usual. */
  delays(connection: Connection, sql: string, stamped: boolean): number {
    if (sql === 'commit' && this.commitsToCut > 0) {
      this.commitsToCut--
      connection.line.reset('while COMMIT is on its way')
      return this.dice.between(0, 200)
    }
    const ms = stamped ? this.hangMs : 0
    if (stamped) this.hangMs = 0
    return ms
  }

  refusesBegin(): boolean {
    return this.beginsToRefuse > 0 && this.beginsToRefuse-- > 0
  }

  answered(stamps: readonly Stamp[]): void {
    this.witness.answered(stamps)
  }

  get backends(): readonly Backend[] {
    return this.#pooled ?? [...this.connections].flatMap(({ backend }) => backend ?? [])
  }

  // What befalls it.

  /** The columns of one table change. */
  changesShape(): void {
    const sql = this.dice.oneOf(LOOKS)
    this.#shapes.set(sql, this.shapeOf(sql) + 1)
  }

  /** Every connection ends, in an orderly way or not. */
  goesDown(how: 'in an orderly way' | 'by a crash'): void {
    for (const connection of this.connections) {
      if (how === 'by a crash') connection.crash()
      else connection.terminate(SHUTDOWN)
    }
    for (const backend of this.#pooled?.splice(0) ?? []) backend.end(false)
    this.startedAt = `${this.world.now}`
  }

  terminate(connection: Connection): void {
    connection.terminate(SHUTDOWN)
  }

  #connects(line: Line): void {
    const { accepts } = this
    const { socket } = line
    this.world.after(2 * line.wayMs(), () => {
      if (accepts === 'deaf' || socket.destroyed) return
      if (accepts === 'refuses') {
        socket.fails('ECONNREFUSED', this.world)
        return
      }
      const connection = new Connection(this, line, ++this.#pids)
      line.far = connection
      this.connections.add(connection)
      socket.connected(this.world)
    })
  }

  /** A backend that nobody has, any of them. */
  #toLend(): Backend | null {
    const pooled = this.#pooled!
    const free = pooled.filter((backend) => !this.#lent.has(backend))
    if (free.length === 0 && pooled.length >= POOLED_BACKENDS) return null
    let backend: Backend
    if (free.length > 0 && (pooled.length >= POOLED_BACKENDS || this.dice.happens(0.7))) backend = this.dice.oneOf(free)
    else pooled.push((backend = new Backend(this, ++this.#pids)))
    this.#lent.add(backend)
    return backend
  }

  #serveWaiting(): void {
    for (;;) {
      const [next] = this.#waiting
      if (next === undefined) return
      if (!this.connections.has(next)) {
        this.#waiting.shift()
        continue
      }
      const backend = this.#toLend()
      if (backend === null) return
      this.#waiting.shift()
      next.attach(backend)
    }
  }
}

const POOLED_BACKENDS = 3
const SHUTDOWN: Refusal = { code: '57P01', message: 'terminating connection due to administrator command' }
