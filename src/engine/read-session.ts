// What `dialect.session(fn)` keeps: how far the log was when the last write within it had ended. A read within it waits
// for a replica that has replayed that, or goes to the primary. It travels with the calls (AsyncLocalStorage), and from
// one process to another as text.

import { AsyncLocalStorage } from 'node:async_hooks'
import { newerToken } from '../core/token.ts'
import type { WriteToken } from '../core/token.ts'

export class ReadSession {
  #token: WriteToken | null
  readonly #around: ReadSession | undefined
  /** Writes within it of which nobody knows yet where they stand in the log. */
  #unplaced = 0

  constructor(token: WriteToken | null, around: ReadSession | undefined) {
    const inherited = around?.token ?? null
    this.#token = token === null || inherited === null ? (token ?? inherited) : newerToken(token, inherited)
    this.#around = around
  }

  /** What its reads must see; null: nothing in particular. */
  get token(): WriteToken | null {
    return this.#token
  }

  /** It has written something, and no replica can be said to show it. */
  get unplaced(): boolean {
    return this.#unplaced > 0 || (this.#around?.unplaced ?? false)
  }

  /** A write within it has ended there; null: nobody knows where. */
  wrote(token: WriteToken | null): void {
    if (token === null) this.#unplaced++
    else this.#token = this.#token === null ? token : newerToken(this.#token, token)
    this.#around?.wrote(token)
  }
}

/** Those of one dialect: positions in another cluster's log mean nothing here. */
export class ReadSessions {
  readonly #storage = new AsyncLocalStorage<ReadSession>()
  /** Most programs never begin one. */
  #any = false

  /** The one that the caller stands in. */
  get current(): ReadSession | undefined {
    return this.#any ? this.#storage.getStore() : undefined
  }

  /** Runs `fn` in a session of its own, which knows what the one around it has written. */
  run<T>(token: WriteToken | null, fn: () => T): T {
    this.#any = true
    return this.#storage.run(new ReadSession(token, this.current), fn)
  }
}
