// What the server reports of a session's settings (ParameterStatus): TimeZone, DateStyle, role by way of is_superuser,
// since version 18 search_path. A view, a trigger or a function may change them behind a statement that looks harmless;
// then the session is not what it was, and this is how one finds out.

/** Of the server, and not of the session. */
const NOT_OURS = 'in_hot_standby'

export class ReportedSettings {
  readonly #now = new Map<string, string>()
  #kept: ReadonlyMap<string, string> = new Map()
  readonly #differing = new Set<string>()

  report(name: string, value: string): void {
    if (name === NOT_OURS) return
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
}
