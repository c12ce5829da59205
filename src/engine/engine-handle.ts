// An engine that several users share: Kysely instances of one dialect, and its own methods. The first start starts it, the
// last stop ends it, a later start makes a new one.

import { SmartPgError } from '../core/errors.ts'
import type { Engine } from './engine.ts'

export class EngineHandle {
  readonly #make: () => Engine
  readonly #onStart: (engine: Engine) => () => void
  readonly #users = new Set<object>()
  #engine: Engine | null = null
  #onStop: (() => void) | null = null
  #stopping: Promise<void> | null = null

  constructor(make: () => Engine, onStart: (engine: Engine) => () => void) {
    this.#make = make
    this.#onStart = onStart
  }

  /** The engine, started or not: made when first looked at, which opens nothing. */
  get engine(): Engine {
    return (this.#engine ??= this.#make())
  }

  /** The engine, for queries; throws when nobody has started it. */
  get running(): Engine {
    if (this.#engine !== null && this.#onStop !== null) return this.#engine
    throw new SmartPgError('SMARTPG_CLOSED', 'The dialect was destroyed.', { phase: 'acquire' })
  }

  /** Counts `user` in; starts the engine for the first one. */
  async start(user: object): Promise<Engine> {
    while (this.#stopping !== null) await this.#stopping
    this.#users.add(user)
    const { engine } = this
    if (this.#onStop !== null) return engine
    try {
      this.#onStop = this.#onStart(engine)
    } catch (error) {
      this.#users.delete(user)
      throw error
    }
    engine.start()
    return engine
  }

  /** Counts `user` out without stopping anything: the engine waits for its next user. */
  forget(user: object): void {
    this.#users.delete(user)
  }

  /** Counts `user` out; stops the engine after the last one. */
  async stop(user: object): Promise<void> {
    if (this.#users.delete(user) && this.#users.size === 0) await this.end()
  }

  /** Stops the engine whoever uses it. */
  async end(): Promise<void> {
    this.#users.clear()
    if (this.#stopping !== null) await this.#stopping
    if (this.#engine === null) return
    const engine = this.#engine
    const onStop = this.#onStop
    this.#engine = null
    this.#onStop = null
    this.#stopping = engine.stop().finally(() => {
      onStop?.()
      this.#stopping = null
    })
    await this.#stopping
  }
}
