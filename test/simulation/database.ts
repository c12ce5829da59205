// What the virtual server has on its disk, and what the judge asks afterwards: which writes were committed, how often,
// and which of them together. Rows that are written are locked until the transaction ends.

import type { Stamp } from './stamps.ts'

/** What a statement writes. */
export interface Write {
  readonly stamp: Stamp
  /** Adds this to the balance of an account. */
  readonly account?: number
  readonly amount?: number
}

/** Who holds locks. */
export interface Holder {
  waitsFor: string | null
}

interface Lock {
  holder: Holder
  readonly waiting: { readonly holder: Holder; readonly granted: () => void }[]
}

export const ACCOUNTS = 3
export const BALANCE_AT_FIRST = 1000

export class Database {
  /** The number of every transaction that has kept a write. */
  readonly commitsOf = new Map<Stamp, number[]>()
  readonly balances: number[] = Array.from({ length: ACCOUNTS }, () => BALANCE_AT_FIRST)
  readonly #fates: ('in progress' | 'committed' | 'aborted')[] = []
  readonly #locks = new Map<string, Lock>()

  /** The id of a transaction that writes. */
  newTransaction(): string {
    return `${this.#fates.push('in progress')}`
  }

  fateOf(xid: string): string {
    return this.#fates[Number(xid) - 1]!
  }

  abort(xid: string): void {
    this.#fates[Number(xid) - 1] = 'aborted'
  }

  commit(writes: readonly Write[], xid: string): void {
    const number = Number(xid)
    this.#fates[number - 1] = 'committed'
    for (const { stamp, account, amount = 0 } of writes) {
      const commits = this.commitsOf.get(stamp)
      if (commits === undefined) this.commitsOf.set(stamp, [number])
      else commits.push(number)
      if (account !== undefined) this.balances[account]! += amount
    }
  }

  /** `now`: it is his; `waits`: `granted` is called; `deadlock`: whoever holds it waits for him. */
  lock(row: string, holder: Holder, granted: () => void): 'now' | 'waits' | 'deadlock' {
    const lock = this.#locks.get(row)
    if (lock === undefined) {
      this.#locks.set(row, { holder, waiting: [] })
      return 'now'
    }
    if (lock.holder === holder) return 'now'
    for (let next: Holder | undefined = lock.holder; next !== undefined; next = this.#holderOf(next.waitsFor)) {
      if (next === holder) return 'deadlock'
    }
    holder.waitsFor = row
    lock.waiting.push({ holder, granted })
    return 'waits'
  }

  /** He waits no longer. */
  giveUp(holder: Holder): void {
    const lock = holder.waitsFor === null ? undefined : this.#locks.get(holder.waitsFor)
    holder.waitsFor = null
    if (lock === undefined) return
    const at = lock.waiting.findIndex((one) => one.holder === holder)
    if (at >= 0) lock.waiting.splice(at, 1)
  }

  /** His transaction has ended. */
  unlockAll(holder: Holder): void {
    for (const [row, lock] of this.#locks) {
      if (lock.holder !== holder) continue
      const next = lock.waiting.shift()
      if (next === undefined) this.#locks.delete(row)
      else {
        lock.holder = next.holder
        next.holder.waitsFor = null
        next.granted()
      }
    }
  }

  #holderOf(row: string | null): Holder | undefined {
    return row === null ? undefined : this.#locks.get(row)?.holder
  }
}
