// An open-loop load: operations begin when they are due, whatever has become of those before, as callers from the
// internet do. The same seed draws the same operations. Every one is written down with what its caller was told.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Kysely } from 'kysely'
import { seededChance } from '../chance.ts'
import type { Abilities, Kind, Tables, Wrong } from './operations.ts'
import { perform } from './operations.ts'

/** Milliseconds on the wall clock, which the processes of a run share. */
export type Moment = number

/** `yes`: its caller was told so; `no`: certainly not; `maybe`: nobody said; `nothing`: a read. */
export type Wrote = 'yes' | 'no' | 'maybe' | 'nothing'

/** What became of one operation. */
export interface Entry {
  readonly kind: Kind
  readonly n: number
  readonly of: number | undefined
  /** Came with a crowd, beyond the usual rate. */
  readonly herd: boolean
  readonly due: Moment
  settled: Moment | null
  /** `ok`, the code or the words of its error, or `pending`. */
  told: string
  wrote: Wrote
  wrong: Wrong
}

/** What a caller can know from an error. */
export interface Told {
  readonly code: string
  /** Whether what it was to write may be there all the same. */
  readonly wrote: 'no' | 'maybe'
}

export interface LoadOptions {
  readonly seed: number
  /** Operations per second, on average. */
  readonly rate: number
  /** Nobody writes. */
  readonly readsOnly: boolean
  readonly abilities: Abilities
  readonly told: (error: unknown) => Told
}

type Mix = readonly (readonly [share: number, kind: Kind])[]

// prettier-ignore
const usual: Mix = [
  [0.20, 'insert'], [0.34, 'read'], [0.12, 'recall'], [0.14, 'transfer'], [0.10, 'own-write'], [0.06, 'batch'], [0.04, 'stream'],
]
const reading: Mix = [[0.05, 'stream'], [0.95, 'read']] // prettier-ignore

/** A recall asks for one of so many that were acknowledged last. */
const RECENT = 200

/** Nothing but that. */
export function isRead(kind: Kind): boolean {
  return kind === 'read' || kind === 'recall' || kind === 'stream'
}

const now = (): Moment => performance.timeOrigin + performance.now()

export class Load {
  readonly entries: Entry[] = []
  readonly #db: Kysely<Tables>
  readonly #options: LoadOptions
  readonly #chance: () => number
  /** Numbers of whole rows whose writers were told that they are there. */
  readonly #acknowledged: number[] = []
  #unsettled = 0
  #stopped = false
  #running: Promise<void> | null = null

  constructor(db: Kysely<Tables>, options: LoadOptions) {
    this.#db = db
    this.#options = options
    this.#chance = seededChance(options.seed)
  }

  start(): void {
    this.#running = this.#run()
  }

  /** So many more, all at once: half of them write. */
  herd(callers: number): void {
    const due = now()
    for (let i = 0; i < callers; i++) this.#begin(i % 2 === 0 ? 'insert' : 'read', due, true)
  }

  /** Nothing begins any more; settles when all have, or when the last has had `patienceMs`. */
  async stop(patienceMs: number): Promise<void> {
    this.#stopped = true
    await this.#running
    const until = now() + patienceMs
    while (this.#unsettled > 0 && now() < until) await sleep(10)
  }

  async #run(): Promise<void> {
    let due = now()
    while (!this.#stopped) {
      while (due <= now()) {
        this.#begin(this.#draw(), due, false)
        // As arrivals that know nothing of each other.
        due -= (Math.log(1 - this.#chance()) * 1_000) / this.#options.rate
      }
      await sleep(Math.max(1, due - now()))
    }
  }

  #draw(): Kind {
    let left = this.#chance()
    for (const [share, kind] of this.#options.readsOnly ? reading : usual) if ((left -= share) < 0) return kind
    return 'read'
  }

  #begin(drawn: Kind, due: Moment, herd: boolean): void {
    const choice = this.#chance()
    const of = drawn === 'recall' ? this.#recent(choice) : undefined
    const kind = drawn === 'recall' && of === undefined ? 'read' : drawn
    const n = this.entries.length + 1
    const writes = !isRead(kind)
    const entry: Entry = { kind, n, of, herd, due, settled: null, told: 'pending', wrote: writes ? 'maybe' : 'nothing', wrong: null } // prettier-ignore
    this.entries.push(entry)
    this.#unsettled++
    const wrote = (): void => {
      entry.wrote = 'yes'
      if (kind === 'insert' || kind === 'own-write') this.#acknowledged.push(n)
    }
    perform(this.#db, this.#options.abilities, { kind, n, choice, of }, wrote).then(
      (wrong) => this.#settle(entry, 'ok', wrong),
      (error: unknown) => {
        const { code, wrote: left } = this.#options.told(error)
        if (entry.wrote === 'maybe') entry.wrote = left
        this.#settle(entry, code, null)
      },
    )
  }

  #settle(entry: Entry, told: string, wrong: Wrong): void {
    entry.told = told
    entry.wrong = wrong
    entry.settled = now()
    this.#unsettled--
  }

  #recent(choice: number): number | undefined {
    const { length } = this.#acknowledged
    return this.#acknowledged[length - 1 - Math.floor(choice * Math.min(RECENT, length))]
  }
}
