// The tables that stand for themselves: a write to one changes no other, a read of one reads no other. No view, no
// trigger, no rule, no inheritance, no partition, no foreign key that cascades. Only for these own writes are
// remembered one by one. A name counts without its schema, since the search path may leave that out; it is plain
// only if every relation of that name is.

/** The names, as the primary's catalog has them. */
export const PLAIN_TABLES_SQL = `select c.relname::text as name from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  group by c.relname
  having bool_and(c.relkind = 'r' and c.relpersistence = 'p' and not c.relhasrules and not c.relispartition
    and not exists (select from pg_inherits i where c.oid in (i.inhrelid, i.inhparent))
    and not exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal)
    and not exists (select from pg_constraint k where k.confrelid = c.oid and k.contype = 'f'
      and (k.confupdtype in ('c', 'n', 'd') or k.confdeltype in ('c', 'n', 'd'))))
  limit 10000`

export class PlainTables {
  #names: ReadonlySet<string> = new Set()
  #version = 0

  /** Take it before the catalog is read, and hand it to `learn`. */
  get version(): number {
    return this.#version
  }

  /** What the catalog says, unless something has changed it meanwhile. */
  learn(names: Iterable<string>, version: number): void {
    if (version === this.#version) this.#names = new Set(names)
  }

  /** Something may have changed the catalog: no table is known to be plain until it is read again. */
  forget(): void {
    this.#version++
    this.#names = new Set()
  }

  /** Whether anything is known. */
  get known(): boolean {
    return this.#names.size > 0
  }

  /** The keys of these tables, or null when one of them is not known to be plain, or none is named. */
  keysOf(tables: readonly string[]): readonly string[] | null {
    if (tables.length === 0) return null
    const keys = tables.map((table) => table.slice(table.lastIndexOf('.') + 1))
    return keys.every((key) => this.#names.has(key)) ? keys : null
  }
}
