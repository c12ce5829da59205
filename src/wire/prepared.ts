// The named statements that one connection holds on the server, as far as we know: the longest unused makes room,
// and what the server shall no longer keep is closed with the next statement.

import { LRUCache } from 'lru-cache'
import type { Description } from './decode.ts'

export interface Prepared {
  readonly name: string
  /** `asked`: the server has been sent it and has not yet said that it took it. */
  state: 'new' | 'asked' | 'held'
  /** As the server described it when it was parsed; undefined while that is not known. */
  description: Description | null | undefined
}

export class PreparedStatements {
  readonly #known: LRUCache<string, Prepared>
  #leaving: string[] = []

  constructor(max: number) {
    this.#known = new LRUCache<string, Prepared>({
      max,
      dispose: (_, name, reason) => {
        if (reason === 'evict') this.#leaving.push(name)
      },
    })
  }

  /** It counts as used now. Undefined while nobody knows whether the server took it: then it runs unnamed. */
  use(name: string): Prepared | undefined {
    const known = this.#known.get(name)
    if (known !== undefined) return known.state === 'asked' ? undefined : known
    const fresh: Prepared = { name, state: 'new', description: undefined }
    this.#known.set(name, fresh)
    return fresh
  }

  /** What the server shall close before anything else; it is not told a second time. */
  leaving(): readonly string[] {
    if (this.#leaving.length === 0) return NONE
    const names = this.#leaving
    this.#leaving = []
    return names
  }

  /** The server does not hold it. */
  gone(prepared: Prepared): void {
    prepared.state = 'new'
    prepared.description = undefined
    if (this.#known.peek(prepared.name) === prepared) this.#known.delete(prepared.name)
  }

  /** The row type of one has changed: any other may be next. */
  renew(because: Prepared): void {
    // Somebody who was sent at the same time has found out before.
    if (this.#known.peek(because.name) !== because) return
    this.#leaving.push(...this.#known.keys())
    this.#known.clear()
  }

  /** The server holds none of them any more. */
  forget(): void {
    this.#known.clear()
    this.#leaving = []
  }
}

const NONE: readonly string[] = []
