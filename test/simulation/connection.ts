// The server's end of one line: it reads what the client says in the order in which it comes, has a backend do it, and
// answers at each Sync. Behind the first failure of a group everything is passed over until the Sync, as PostgreSQL does.

import { IN_FAILED_BLOCK } from './backend.ts'
import type { Backend } from './backend.ts'
import type { FarEnd, Line } from './line.ts'
import {
  Inbox,
  authenticated,
  backendKey,
  bindComplete,
  closeComplete,
  commandComplete,
  dataRow,
  errorResponse,
  noData,
  parseComplete,
  portalSuspended,
  readyForQuery,
  rowDescription,
} from './messages.ts'
import type { Message, Reader, Refusal } from './messages.ts'
import type { VirtualPostgres } from './server.ts'
import type { Stamp } from './stamps.ts'
import { textOf } from './texts.ts'
import type { Result } from './texts.ts'

interface Portal {
  readonly sql: string
  readonly values: readonly (string | null)[]
  /** What has not been read yet; null before it has run. */
  rest: Result | null
}

export class Connection implements FarEnd {
  readonly line: Line
  readonly pid: number
  /** Behind a pooler: only while it has one. */
  backend: Backend | null = null
  lastRun = ''
  /** The client is authenticated. */
  welcome = false
  readonly #server: VirtualPostgres
  readonly #inbox = new Inbox()
  readonly #received: Message[] = []
  readonly #portals = new Map<string, Portal>()
  #out: Buffer[] = []
  #answering: Stamp[] = []
  /** A message is being worked on. */
  #busy = false
  /** Something failed: what comes before the Sync is passed over. */
  #skipping = false
  #clientGone = false
  #over = false

  constructor(server: VirtualPostgres, line: Line, pid: number) {
    this.#server = server
    this.line = line
    this.pid = pid
  }

  /** Somebody waits for an answer, or stands in a transaction. */
  get busy(): boolean {
    return this.#busy || (this.backend !== null && this.backend.state !== 'idle')
  }

  received(bytes: Buffer): void {
    if (this.#over) return
    this.#received.push(...this.#inbox.push(bytes))
    this.#work()
  }

  /** The client is gone. A backend that works notices when it is done, or at once. */
  ended(): void {
    if (this.#over || this.#clientGone) return
    this.#clientGone = true
    if (this.#busy && this.#server.dice.happens(0.5)) return
    this.#end(this.#server.dice.happens(0.5))
  }

  /** An administrator ends it, or the server goes down in an orderly way. */
  terminate(refusal: Refusal): void {
    if (this.#over) return
    this.#answering = []
    this.#say(errorResponse({ severity: 'FATAL', ...refusal }))
    this.#flush()
    this.line.hangUp()
    this.#end(this.#server.dice.happens(0.5))
  }

  /** The process dies. */
  crash(): void {
    if (this.#over) return
    this.#end(false)
    this.line.reset('by a server that died')
  }

  /** Behind a pooler: it gets its turn on a backend. */
  attach(backend: Backend): void {
    this.backend = backend
    this.#work()
  }

  #end(finishesCommit: boolean): void {
    this.#over = true
    this.#server.left(this, finishesCommit)
  }

  #work(): void {
    while (!this.#busy && !this.#over) {
      const [next] = this.#received
      if (next === undefined) {
        if (this.#clientGone) this.#end(false)
        return
      }
      if (this.backend === null && this.welcome && next.type !== 'X' && !this.#server.attach(this)) return
      this.#received.shift()
      this.#handle(next)
    }
  }

  #handle({ type, body }: Message): void {
    if (type === 'startup') this.#start()
    else if (type === 'X') {
      this.line.hangUp()
      this.#end(false)
    } else if (type === 'S') this.#sync()
    else if (this.#skipping) return
    else if (type === 'Q') this.#query(body.text())
    else if (type === 'P') this.#parse(body)
    else if (type === 'B') this.#bind(body)
    else if (type === 'D') this.#describe(body)
    else if (type === 'E') this.#execute(body)
    else if (type === 'C') this.#close(body)
    else if (type !== 'H') throw new Error(`the virtual server knows no message '${type}'`)
  }

  #start(): void {
    this.#busy = true
    this.#server.welcome(this, (refusal) => {
      this.#busy = false
      if (this.#over) return
      if (refusal !== null) {
        this.terminate(refusal)
        return
      }
      this.welcome = true
      this.#say(authenticated, backendKey(this.pid), readyForQuery('I'))
      this.#flush()
      this.#work()
    })
  }

  #query(sql: string): void {
    this.#run(sql, [], (outcome) => {
      if ('code' in outcome) this.#sayRefusal(outcome)
      else {
        const { columns } = textOf(sql)
        if (columns.length > 0) this.#say(rowDescription(columns))
        this.#say(...outcome.rows.map(dataRow), commandComplete(outcome.tag))
      }
      this.#endOfGroup('code' in outcome)
    })
  }

  #parse(body: Reader): void {
    const [name, sql] = [body.text(), body.text()]
    const { taught } = this.backend!
    if (this.backend!.refusesInFailedBlock(sql)) return this.#refuse(IN_FAILED_BLOCK)
    if (name !== '' && taught.has(name)) {
      return this.#refuse({ code: '42P05', message: `prepared statement "${name}" already exists` })
    }
    taught.set(name, { sql, shape: this.#server.shapeOf(sql) })
    this.#say(parseComplete)
  }

  #bind(body: Reader): void {
    const [portal, name] = [body.text(), body.text()]
    for (let formats = body.int16(); formats > 0; formats--) body.int16()
    const values = Array.from({ length: body.int16() }, () => body.value())
    const taught = this.backend!.taught.get(name)
    if (taught === undefined) {
      return this.#refuse({ code: '26000', message: `prepared statement "${name}" does not exist` })
    }
    const { sql, shape } = taught
    if (this.backend!.refusesInFailedBlock(sql)) return this.#refuse(IN_FAILED_BLOCK)
    if (textOf(sql).columns.length > 0 && shape !== this.#server.shapeOf(sql)) return this.#refuse(STALE_PLAN)
    this.#portals.set(portal, { sql, values, rest: null })
    this.#say(bindComplete)
  }

  #describe(body: Reader): void {
    if (body.byte() !== 'P') throw new Error('the virtual server describes portals alone')
    const { columns } = textOf(this.#portals.get(body.text())!.sql)
    this.#say(columns.length > 0 ? rowDescription(columns) : noData)
  }

  #execute(body: Reader): void {
    const [name, most] = [body.text(), body.int32()]
    const portal = this.#portals.get(name)
    if (portal === undefined) return this.#refuse({ code: '34000', message: `portal "${name}" does not exist` })
    if (portal.rest !== null) return this.#rows(portal, most)
    this.#run(portal.sql, portal.values, (outcome) => {
      if ('code' in outcome) this.#refuse(outcome)
      else {
        portal.rest = outcome
        this.#rows(portal, most)
      }
    })
  }

  #rows(portal: Portal, most: number): void {
    const { rows, tag } = portal.rest!
    const { columns } = textOf(portal.sql)
    const now = most === 0 ? rows : rows.slice(0, most)
    if (columns.length > 0) this.#say(...now.map(dataRow))
    portal.rest = { rows: rows.slice(now.length), tag }
    // As PostgreSQL: at exactly so many rows it does not know that it is at the end.
    this.#say(most > 0 && now.length === most ? portalSuspended : commandComplete(tag))
  }

  #close(body: Reader): void {
    const [kind, name] = [body.byte(), body.text()]
    if (kind === 'S') this.backend!.taught.delete(name)
    else this.#portals.delete(name)
    this.#say(closeComplete)
  }

  #sync(): void {
    const failed = this.#skipping
    this.#skipping = false
    this.#endOfGroup(failed)
  }

  #endOfGroup(failed: boolean): void {
    this.#busy = true
    this.backend!.endOfGroup(failed, () => {
      this.#busy = false
      if (this.#over) return
      const { status } = this.backend!
      if (status === 'I') this.#portals.clear()
      this.#say(readyForQuery(status))
      this.#flush()
      if (this.#over) return
      if (status === 'I') this.#server.detach(this)
      this.#work()
    })
  }

  #run(sql: string, values: readonly (string | null)[], then: (outcome: Result | Refusal) => void): void {
    this.#busy = true
    const [stamp] = values
    this.#server.world.note(`backend ${this.backend!.pid}`, `${sql.slice(0, 40)}${stamp ? `  ${stamp}` : ''}`)
    const { stamped } = textOf(sql)
    if (stamped) this.#answering.push(stamp!)
    this.lastRun = sql
    const delayMs = this.#server.delays(this, sql, stamped)
    this.backend?.execute(sql, values, delayMs, (outcome) => {
      this.#busy = false
      if (this.#over) return
      then(outcome)
      this.#work()
    })
  }

  #refuse(refusal: Refusal): void {
    this.#sayRefusal(refusal)
    this.backend!.failed()
    this.#skipping = true
  }

  #sayRefusal(refusal: Refusal): void {
    this.#server.world.note(`backend ${this.backend!.pid}`, `refuses: ${refusal.code} ${refusal.message}`)
    this.#say(errorResponse(refusal))
  }

  #say(...answers: readonly Buffer[]): void {
    this.#out.push(...answers)
  }

  #flush(): void {
    const bytes = Buffer.concat(this.#out)
    const stamps = this.#answering
    this.#out = []
    this.#answering = []
    const through = this.#server.losesAnswer(this) ? this.#server.dice.whole(0, bytes.length - 1) : bytes.length
    if (through > 0) {
      const whole = through === bytes.length
      this.line.answer(bytes.subarray(0, through), () => whole && this.#server.answered(stamps))
    }
    if (through < bytes.length) this.line.reset('before an answer has come')
  }
}

const STALE_PLAN: Refusal = {
  code: '0A000',
  message: 'cached plan must not change result type',
  routine: 'RevalidateCachedQuery',
}
