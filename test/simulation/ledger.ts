// The books of one run: what callers asked for and were told, what left the process, what the server ran and for whom.
// What can be seen to be wrong at once is written down at once; the rest is for the judge.

import { BatchError, OutcomeUnknownError } from '../../src/core/errors.ts'
import type { Backend } from './backend.ts'
import type { Books } from './server.ts'
import { belongsInTransaction, operationOf, stampsIn } from './stamps.ts'
import type { Stamp } from './stamps.ts'
import type { World } from './world.ts'

/** Everything that a run can be guilty of. */
export const CRIMES = [
  'an acknowledged write is lost',
  'a write was executed twice',
  'a transaction is torn',
  'a sum has changed',
  'what was said not to be executed was',
  'an outcome is called unknown that is known',
  "an answer is somebody else's",
  'a stream is short',
  'an innocent statement was cancelled',
  "a statement ran in a stranger's transaction",
  'a statement ran outside of its transaction',
  "a statement ran in a stranger's session",
  'a promise is late',
  'a promise never settles',
  'a failure without a fault',
  'the circuit stays open',
  'capacity is lost',
  'destroy hangs',
  'sessions are left on the server',
  'a timer is left',
  'a rejection is unhandled',
  'an exception is uncaught',
] as const

export type Crime = (typeof CRIMES)[number]

export interface Complaint {
  readonly crime: Crime
  readonly details: string
}

/** Writes that stand or fall together, and what their caller was told of them. */
export interface Unit {
  readonly stamps: readonly Stamp[]
  readonly told: Told
  /** In the order of the ledger. */
  readonly at: number
  readonly error?: unknown
}

/** `nothing`: certainly none of it remains. `anything`: he does not care to know (he went away). */
export type Told = 'acknowledged' | 'nothing' | 'unknown' | 'anything'

/** What an error tells of the writes that it is about. */
export function toldBy(error: unknown, signal?: AbortSignal): Told {
  const cause = error instanceof BatchError ? error.cause : error
  if (cause instanceof OutcomeUnknownError) return 'unknown'
  return signal?.aborted === true && isReasonOf(error, signal) ? 'anything' : 'nothing'
}

function isReasonOf(error: unknown, signal: AbortSignal): boolean {
  return error === signal.reason || (error instanceof Error && error.cause === signal.reason)
}

/** One thing that a caller does. */
export interface Operation {
  readonly name: string
  readonly what: string
  readonly startedAt: number
  readonly budgetMs: number
  settled: boolean
  error?: unknown
}

export class Ledger implements Books {
  readonly complaints: Complaint[] = []
  readonly units: Unit[] = []
  readonly operations: Operation[] = []
  /** In the order in which it happened. */
  readonly writtenAt = new Map<Stamp, number>()
  readonly answeredAt = new Map<Stamp, number>()
  #order = 0
  readonly #world: World

  constructor(world: World) {
    this.#world = world
  }

  complain(crime: Crime, details: string): void {
    this.complaints.push({ crime, details })
    this.#world.note('JUDGE', `${crime}: ${details}`)
  }

  /** Follows one thing that a caller does to its end; what it fails with is his affair. */
  async follow(name: string, what: string, budgetMs: number, work: () => Promise<void>): Promise<void> {
    const { process } = this.#world
    const startedAt = process.now()
    const busyMs = process.busyMs
    const operation: Operation = { name, what, startedAt, budgetMs, settled: false }
    this.operations.push(operation)
    this.#world.note(name, what)
    try {
      await work()
      this.#world.note(name, 'is done')
    } catch (error) {
      operation.error = error
      this.#world.note(name, `fails: ${describe(error)}`)
    }
    const { error } = operation
    operation.settled = true
    // Whoever ran into his deadline is told so, and whoever went away hears nothing.
    if ((error as { code?: string } | undefined)?.code === '57014') {
      this.complain('an innocent statement was cancelled', `${name} (${what})`)
    }
    // A process that is blocked settles nothing.
    const ms = process.now() - startedAt - (process.busyMs - busyMs)
    if (ms > budgetMs) {
      const end = error === undefined ? '' : `, and failed: ${describe(error)}`
      this.complain('a promise is late', `${name} (${what}) took ${ms.toFixed(0)} ms of ${budgetMs}${end}`)
    }
  }

  tell(stamps: readonly Stamp[], told: Told, error?: unknown): void {
    this.units.push({ stamps, told, at: ++this.#order, error })
  }

  // What the server sees.

  written(bytes: Buffer): void {
    for (const stamp of stampsIn(bytes)) this.writtenAt.set(stamp, ++this.#order)
  }

  answered(stamps: readonly Stamp[]): void {
    for (const stamp of stamps) this.answeredAt.set(stamp, ++this.#order)
  }

  runs(backend: Backend, stamp: Stamp): void {
    const operation = operationOf(stamp)
    for (const [trace, owner] of backend.traces) {
      if (owner === operation) continue
      this.complain("a statement ran in a stranger's session", `${stamp} met ${trace} of ${owner}`)
    }
    if (backend.block === 'none') {
      if (belongsInTransaction(stamp)) this.complain('a statement ran outside of its transaction', stamp)
      return
    }
    backend.owner ??= operation
    if (backend.owner !== operation || !belongsInTransaction(stamp)) {
      this.complain("a statement ran in a stranger's transaction", `${stamp} in that of ${backend.owner}`)
    }
  }
}

/** Name, code and words, and the same of what lies behind it. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code } = error as { code?: string }
  const cause = error.cause === undefined ? '' : ` < ${describe(error.cause)}`
  return `${error.name}${code === undefined ? '' : ` ${code}`}: ${error.message.split('\n')[0]}${cause}`
}
