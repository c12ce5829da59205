// Who listens to what the engine does. An event is only built when somebody listens (`heard`), and a
// listener that throws hurts neither the query nor the next listener.

import type { EventName, Events } from '../core/events.ts'

type Listener<Name extends EventName> = (event: Events[Name]) => void

export class Listeners {
  readonly #lists: { [Name in EventName]?: Listener<Name>[] } = {}

  heard(name: EventName): boolean {
    return this.#lists[name] !== undefined
  }

  /** Adds a listener; dispose what comes back to remove it. */
  on<Name extends EventName>(name: Name, listener: Listener<Name>): Disposable {
    const list = (this.#lists[name] ??= [] as never) as Listener<Name>[]
    list.push(listener)
    return { [Symbol.dispose]: () => this.#remove(name, listener) }
  }

  emit<Name extends EventName>(name: Name, event: Events[Name]): void {
    const list: Listener<Name>[] | undefined = this.#lists[name]
    if (list === undefined) return
    for (const listener of [...list]) {
      try {
        listener(event)
      } catch (error) {
        if (name !== 'error') this.emit('error', { during: `listener of '${name}'`, error })
      }
    }
  }

  #remove<Name extends EventName>(name: Name, listener: Listener<Name>): void {
    const list: Listener<Name>[] | undefined = this.#lists[name]
    const at = list?.indexOf(listener) ?? -1
    if (at >= 0) list!.splice(at, 1)
    if (list?.length === 0) delete this.#lists[name]
  }
}
