// Finds what a name in a statement may mean. The search path is not known here, so a name without its schema means
// all of that name.

interface Named {
  readonly schema: string
  readonly name: string
}

const NONE: readonly never[] = []

export class CatalogIndex<T extends Named> {
  readonly #byName = new Map<string, T[]>()
  #size = 0

  constructor(all: Iterable<T> = NONE) {
    for (const one of all) this.add(one)
  }

  get size(): number {
    return this.#size
  }

  add(one: T): void {
    this.#size++
    const same = this.#byName.get(one.name)
    if (same === undefined) this.#byName.set(one.name, [one])
    else same.push(one)
  }

  /** All that `a`, `schema.a` or `database.schema.a` may mean. */
  find(name: string): readonly T[] {
    const { schema, last } = partsOf(name)
    const same = this.#byName.get(last)
    if (same === undefined) return NONE
    return schema === null ? same : same.filter((one) => one.schema === schema)
  }
}

/** The last part of a name and its schema, both as facts write them; the schema is null where none is named. */
export function partsOf(name: string): { readonly schema: string | null; readonly last: string } {
  const dot = lastDot(name, name.length)
  if (dot < 0) return { schema: null, last: name }
  const before = lastDot(name, dot)
  return { schema: name.slice(before + 1, dot), last: name.slice(dot + 1) }
}

/** A part with a dot in it stands in quotes. */
function lastDot(name: string, end: number): number {
  if (name.charCodeAt(end - 1) !== 0x22) return name.lastIndexOf('.', end - 1)
  const opening = name.lastIndexOf('"', end - 2)
  return name.lastIndexOf('.', opening)
}
