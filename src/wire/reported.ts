// What the server reports by itself (ParameterStatus). Most is of the session's settings: TimeZone, DateStyle, role by
// way of is_superuser, since version 18 search_path. A view, a trigger or a function may change them behind a statement
// that looks harmless; then the session is not what it was, and this is how one finds out. One is of the server:
// whether it is a standby. After a promotion it comes with the first answer to whatever was asked.

/** Of the server, and not of the session. */
const OF_THE_SERVER = 'in_hot_standby'

export class ReportedSettings {
  readonly #now = new Map<string, string>()
  #kept: ReadonlyMap<string, string> = new Map()
  readonly #differing = new Set<string>()
  readonly #standbyListeners: ((standby: boolean) => void)[] = []
  #standby: boolean | null = null

  report(name: string, value: string): void {
    if (name === OF_THE_SERVER) {
      this.#reportStandby(value === 'on')
      return
    }
    this.#now.set(name, value)
    // There and back again is what SET LOCAL looks like.
    if (this.#kept.get(name) === value) this.#differing.delete(name)
    else this.#differing.add(name)
  }

  /** As they are now they shall be. */
  keep(): void {
    this.#kept = new Map(this.#now)
    this.#differing.clear()
  }

  get drifted(): boolean {
    return this.#differing.size > 0
  }

  /** As it has said last; null: it has not. */
  get standby(): boolean | null {
    return this.#standby
  }

  onStandby(listener: (standby: boolean) => void): void {
    this.#standbyListeners.push(listener)
  }

  #reportStandby(standby: boolean): void {
    if (standby === this.#standby) return
    this.#standby = standby
    for (const listener of this.#standbyListeners) listener(standby)
  }
}
