// Faults that wait for one message of a server and then happen once: the connection ends inside it, it is damaged,
// or it is the beginning of an answer that never arrives.

import { HEADER } from './messages.ts'
import type { Piece } from './messages.ts'

/** Which message: the first that fits, of those that begin from now on. */
export interface MessageChoice {
  /** The k-th that fits on one connection, from 1. Default 1. */
  readonly message?: number
  /** Only messages of this type are counted: 'D' is a row, 'C' a command's completion. */
  readonly type?: string
  /** Only what answers a statement of this text is counted. */
  readonly to?: RegExp
}

/**
 * `type`: its first byte is one that no server sends. `length`: its length bytes promise 2 GiB.
 * `truncate`: its content ends in the middle, and its length says so. `gap`: the second half of its content is
 * missing and its length does not say so, so that what follows is taken for it.
 */
export type Damage = 'type' | 'length' | 'truncate' | 'gap'

export type Harm =
  | { readonly do: 'reset'; readonly afterBytes: number }
  | { readonly do: 'damage'; readonly kind: Damage; readonly as: number | undefined }
  | { readonly do: 'lose' }

/** A fault that was asked for; `happened` once it has struck. */
export interface Armed {
  readonly happened: boolean
}

export class Trap implements Armed {
  happened = false
  readonly harm: Harm
  readonly #choice: MessageChoice
  /** Messages that fitted so far, by connection. */
  readonly #seen = new WeakMap<object, number>()

  constructor(harm: Harm, choice: MessageChoice) {
    this.harm = harm
    this.#choice = choice
  }

  /** Whether a message that begins on `connection` is the one; then the trap is spent. */
  catches(connection: object, type: string, answering: readonly string[]): boolean {
    const { message = 1, to } = this.#choice
    if (this.happened || (this.#choice.type ?? type) !== type) return false
    if (to !== undefined && !answering.some((text) => text.search(to) >= 0)) return false
    const seen = (this.#seen.get(connection) ?? 0) + 1
    this.#seen.set(connection, seen)
    this.happened = seen === message
    return this.happened
  }
}

const NO_TYPE = 0x7f
const TOO_LONG = 0x7fff_ffff

/** What is left of a piece of a damaged message. */
export function damaged({ at, bytes, size }: Piece, kind: Damage, as: number | undefined): Buffer {
  const copy = Buffer.from(bytes)
  if (kind === 'type' || kind === 'length') {
    if (at > 0) return copy
    if (kind === 'type') copy[0] = as ?? NO_TYPE
    else copy.writeUInt32BE(as ?? TOO_LONG, 1)
    return copy
  }
  const kept = HEADER + Math.floor((size - HEADER) / 2)
  if (kind === 'truncate' && at === 0) copy.writeUInt32BE(kept - 1, 1)
  return copy.subarray(0, Math.max(0, kept - at))
}
