// The named statements that one connection holds on the server, as far as we know: the longest unused makes room,
// and what the server shall no longer keep is closed with the next statement.

import { LRUCache } from 'lru-cache'
import type { Description } from './decode.ts'

export interface Prepared {
  readonly name: string
  /** `asked`: the server has been sent it and has not yet said that it took it. */
  state: 'new' | 'asked' | 'held'
  /** Who asked, while it is asked. */
  askedBy: object | null
  /** As the server described it when it was parsed; undefined while that is not known. */
  description: Description | null | undefined
  /** How often this connection has run it since it was parsed. */
  executions: number
  /** The server may ask it for data; undefined while nobody has looked. */
  mayCopy: boolean | undefined
}

export class PreparedStatements {
  readonly #known: LRUCache<string, Prepared>
  #leaving: string[] = []
  /** The one that was used last, so that a text which comes again and again is not looked up. */
  #last: Prepared | undefined

  constructor(max: number) {
    this.#known = new LRUCache<string, Prepared>({
      max,
      dispose: (_, name, reason) => {
        if (reason === 'evict') this.#leaving.push(name)
      },
    })
  }

  /**
   * It counts as used now. Undefined while nobody knows whether the server took it, unless `by` itself has asked and
   * fails as a whole when it did not; and while it is still to be closed. Then it runs unnamed.
   */
  use(name: string, by: object): Prepared | undefined {
    let known = this.#last
    if (known === undefined || known.name !== name) {
      known = this.#known.get(name)
      if (known === undefined) {
        if (this.#leaving.length > 0 && this.#leaving.includes(name)) return undefined
        known = {
          name,
          state: 'new',
          askedBy: null,
          description: undefined,
          executions: 0,
          mayCopy: undefined,
        }
        this.#known.set(name, known)
      }
      this.#last = known
    }
    return known.state === 'asked' && known.askedBy !== by ? undefined : known
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
    prepared.askedBy = null
    prepared.description = undefined
    prepared.executions = 0
    if (this.#last === prepared) this.#last = undefined
    if (this.#known.peek(prepared.name) === prepared) this.#known.delete(prepared.name)
  }

  /** The row type of one has changed: any other may be next. */
  renew(because: Prepared): void {
    // Somebody who was sent at the same time has found out before.
    if (this.#known.peek(because.name) !== because) return
    this.#leaving.push(...this.#known.keys())
    this.#known.clear()
    this.#last = undefined
  }

  /** The server holds none of them any more. */
  forget(): void {
    this.#known.clear()
    this.#leaving = []
    this.#last = undefined
  }
}

const NONE: readonly string[] = []
