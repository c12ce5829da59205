// One server process: the transaction it stands in, what was left behind in its session, the statements it has been
// taught by name. A statement takes its time, may wait for a row, and can be cancelled until it has done its work.

import type { Database, Holder, Write } from './database.ts'
import type { Refusal } from './messages.ts'
import { textOf } from './texts.ts'
import type { Result, Text } from './texts.ts'
import type { Coming, Dice, World } from './world.ts'

/** Somebody who watches what the server does. */
export interface Witness {
  /** A caller's statement begins on this backend. */
  runs(backend: Backend, stamp: string): void
}

/** The server, as far as one process of it needs it. */
export interface Postmaster {
  readonly world: World
  readonly dice: Dice
  readonly database: Database
  readonly witness: Witness
  /** Statements take so much longer than usual. */
  slowness: number
  /** How often the columns of a text's result have changed. */
  shapeOf(sql: string): number
  /** Writes of this backend are on the disk now, and nobody has been told. */
  committed(backend: Backend): void
  refusesBegin(): boolean
  /** When it was started last, as it says itself. */
  readonly startedAt: string
  readonly backends: readonly Backend[]
}

/** A statement under a name. */
export interface Taught {
  readonly sql: string
  readonly shape: number
}

type Done = (outcome: Result | Refusal) => void

interface Running {
  readonly done: Done
  coming: Coming | null
  /** Its work is done: it can no longer be cancelled. */
  committing: boolean
}

export class Backend implements Holder {
  readonly pid: number
  block: 'none' | 'open' | 'failed' = 'none'
  /** Whose transaction it is. */
  owner: string | null = null
  /** What was left behind, and by whom. */
  readonly traces = new Map<string, string>()
  readonly taught = new Map<string, Taught>()
  lockTimeoutMs = 0
  waitsFor: string | null = null
  /** Of its transaction, once that has written. */
  xid: string | null = null
  gone = false
  readonly #postmaster: Postmaster
  #written: Write[] = []
  #running: Running | null = null
  #commitAsked = false
  /** How much had been written at the savepoint. */
  #savepoint: number | null = null

  constructor(postmaster: Postmaster, pid: number) {
    this.#postmaster = postmaster
    this.pid = pid
  }

  get status(): 'I' | 'T' | 'E' {
    return this.block === 'none' ? 'I' : this.block === 'open' ? 'T' : 'E'
  }

  refusesInFailedBlock(sql: string): boolean {
    return this.block === 'failed' && !ENDS_FAILED_BLOCK.test(sql)
  }

  get state(): string {
    if (this.#running !== null) return 'active'
    if (this.block === 'none') return 'idle'
    return this.block === 'open' ? 'idle in transaction' : 'idle in transaction (aborted)'
  }

  get serverStartedAt(): string {
    return this.#postmaster.startedAt
  }

  /** `done` is called once, with what becomes of it; never when the process ends before. */
  execute(sql: string, values: readonly (string | null)[], delayMs: number, done: Done): void {
    const { dice, slowness, database, witness } = this.#postmaster
    const text = textOf(sql)
    const [least, most] = text.workMs
    if (this.refusesInFailedBlock(sql)) {
      this.#begins(done, 0, () => IN_FAILED_BLOCK)
      return
    }
    if (text.stamped) witness.runs(this, values[0]!)
    const work = dice.between(least, most) * slowness + delayMs
    const row = text.row?.(values)
    const goOn = (): void => this.#begins(done, work, () => this.#run(text, values))
    if (row === undefined) {
      goOn()
      return
    }
    this.#running = { done, coming: null, committing: false }
    const state = database.lock(row, this, goOn)
    if (state === 'now') goOn()
    else if (state === 'deadlock') this.#begins(done, 1, () => DEADLOCK)
    else if (this.lockTimeoutMs > 0) {
      this.#running.coming = this.#postmaster.world.after(this.lockTimeoutMs, () => this.#ends(LOCK_TIMEOUT))
    }
  }

  /** The end of what stands under one Sync: outside of a block it is committed here. */
  endOfGroup(failed: boolean, done: () => void): void {
    if (this.block !== 'none') {
      done()
      return
    }
    if (failed) {
      this.#forgetTransaction()
      done()
    } else this.#commit(done)
  }

  /** Something failed: nothing that its transaction has done remains, but for what stands before a savepoint. */
  failed(): void {
    if (this.block === 'open') this.block = 'failed'
    if (this.#savepoint === null) this.#rollBack()
  }

  /** CancelRequest: what runs fails; nothing happens when nothing runs. */
  cancel(): void {
    if (this.#running !== null && !this.#running.committing) this.#ends(CANCELLED)
  }

  /** The process ends. What it was about to write to the disk may get there all the same. */
  end(finishesCommit: boolean): void {
    if (this.gone) return
    const running = this.#running
    if (running?.coming) running.coming.cancelled = true
    if (running?.committing && finishesCommit) this.#toDisk()
    this.gone = true
    this.#running = null
    this.#forgetTransaction()
    this.#postmaster.database.giveUp(this)
  }

  // What texts do.

  writes(write: Write): void {
    this.xid ??= this.#postmaster.database.newTransaction()
    this.#written.push(write)
  }

  /** What has become of a transaction. */
  fateOf(xid: string): string {
    return this.#postmaster.database.fateOf(xid)
  }

  /** Every process of the server, and what it does. */
  activity(): { readonly pid: number; readonly state: string }[] {
    return this.#postmaster.backends.map((backend) => ({ pid: backend.pid, state: backend.state }))
  }

  begin(): Result | Refusal {
    if (this.#postmaster.refusesBegin()) return OUT_OF_MEMORY
    if (this.block === 'none') this.block = 'open'
    return { rows: [], tag: 'BEGIN' }
  }

  commits(): Result {
    if (this.block === 'failed') return this.rollback()
    this.#commitAsked = true
    return { rows: [], tag: 'COMMIT' }
  }

  rollback(): Result {
    this.#forgetTransaction()
    return { rows: [], tag: 'ROLLBACK' }
  }

  savepoint(): Result {
    this.#savepoint = this.#written.length
    return { rows: [], tag: 'SAVEPOINT' }
  }

  rollbackToSavepoint(): Result | Refusal {
    if (this.#savepoint === null) return { code: '3B001', message: 'savepoint does not exist' }
    this.#written.length = this.#savepoint
    this.block = 'open'
    return { rows: [], tag: 'ROLLBACK' }
  }

  discardAll(): Result | Refusal {
    if (this.block !== 'none') return { code: '25001', message: 'DISCARD ALL cannot run inside a transaction block' }
    this.traces.clear()
    this.taught.clear()
    this.lockTimeoutMs = 0
    return { rows: [], tag: 'DISCARD ALL' }
  }

  #begins(done: Done, ms: number, run: () => Result | Refusal): void {
    const coming = this.#postmaster.world.after(ms, () => {
      const outcome = run()
      if (this.#commitAsked) {
        this.#commitAsked = false
        this.#commit(() => done(outcome))
      } else this.#ends(outcome)
    })
    if (this.#running?.coming) this.#running.coming.cancelled = true
    this.#running = { done, coming, committing: false }
  }

  #run(text: Text, values: readonly (string | null)[]): Result | Refusal {
    return text.run(this, values)
  }

  #ends(outcome: Result | Refusal): void {
    const { done, coming } = this.#running!
    if (coming !== null) coming.cancelled = true
    this.#running = null
    this.#postmaster.database.giveUp(this)
    if ('code' in outcome) this.failed()
    done(outcome)
  }

  #commit(done: () => void): void {
    if (this.#written.length === 0) {
      this.#running = null
      this.#forgetTransaction()
      done()
      return
    }
    const { world, dice } = this.#postmaster
    const coming = world.after(dice.between(0.2, 2), () => {
      this.#toDisk()
      this.#running = null
      this.#forgetTransaction()
      this.#postmaster.committed(this)
      done()
    })
    this.#running = { done: () => undefined, coming, committing: true }
  }

  #toDisk(): void {
    this.#postmaster.database.commit(this.#written, this.xid!)
    this.#written = []
    this.xid = null
  }

  #forgetTransaction(): void {
    this.block = 'none'
    this.owner = null
    this.#savepoint = null
    this.#rollBack()
  }

  #rollBack(): void {
    if (this.xid !== null) this.#postmaster.database.abort(this.xid)
    this.xid = null
    this.#written = []
    this.#postmaster.database.unlockAll(this)
  }
}

const ENDS_FAILED_BLOCK = /^(commit|rollback( to "\w+")?)$/
export const IN_FAILED_BLOCK: Refusal = {
  code: '25P02',
  message: 'current transaction is aborted, commands ignored until end of transaction block',
}
const OUT_OF_MEMORY: Refusal = { code: '53200', message: 'out of memory' }
const DEADLOCK: Refusal = { code: '40P01', message: 'deadlock detected' }
const CANCELLED: Refusal = { code: '57014', message: 'canceling statement due to user request' }
const LOCK_TIMEOUT: Refusal = {
  code: '55P03',
  message: 'canceling statement due to lock timeout',
  routine: 'ProcessInterrupts',
}
