// Follows what a statement names through the catalog: views to the relations they read and the functions they call,
// functions into their bodies, tables to their partitions, row-level security to what its policies ask. What is found
// on the way is added up; nothing is decided here.

import { keyOf } from './catalog-snapshot.ts'
import type { BuiltIn, CatalogFunction, CatalogRelation, FunctionBody, FunctionEffect } from './catalog-snapshot.ts'
import type { CatalogIndex } from './catalog-index.ts'
import type { Facts, FactsReason } from './types.ts'

/** What can be asked on the way. */
export interface Atlas {
  readonly functions: CatalogIndex<CatalogFunction>
  readonly relations: CatalogIndex<CatalogRelation>
  readonly whole: boolean
  readonly builtIn: BuiltIn
  /** The system's own tables are the same everywhere, and may be read anywhere. */
  readonly systemAnywhere: boolean
  /** What the user says of a function, as it is called or as it is defined; null: nothing. */
  readonly said: (name: string) => 'readOnly' | 'writing' | null
}

/** How a call is met: in a statement; or in something of which it is said that it only reads, and that is believed. */
type Trust = 'none' | 'declared'

export class Reach {
  /** A function that may do anything, or of which nothing is known. */
  unknownFunction = false
  stateful = false
  writes = false
  waits = false
  /** What keeps a read of these relations on the primary. */
  obstacle: FactsReason | null = null
  readonly #tables = new Set<string>()
  /** Rows of other tables may show as well. */
  #others = false
  readonly #atlas: Atlas
  readonly #seen = new Set<object | string>()

  constructor(atlas: Atlas) {
    this.#atlas = atlas
  }

  /** The base tables that were reached; null when there may be others. */
  get tables(): readonly string[] | null {
    return this.#others ? null : [...this.#tables]
  }

  /** `planned`: EXPLAIN calls nothing of what is built in and stays on the primary. */
  statement(facts: Facts, planned: boolean): void {
    if (facts.because === 'system catalog' && !this.#systemTables(facts)) this.obstacle = 'system catalog'
    for (const name of facts.functions) {
      if (planned && this.#staying(name) !== null) this.#others = true
      else this.#call(name, 'none')
    }
    for (const name of facts.tablesRead) {
      const found = this.#relation(name)
      // Not in this database for all who look: some session's own, or newer than what is known.
      if (!found && this.#atlas.whole && !ofTheSystem(name)) this.obstacle ??= 'temporary table'
    }
  }

  /** Whether all it names of the system are tables: what is behind a view may be the asked server's own. */
  #systemTables({ tablesRead }: Facts): boolean {
    const named = tablesRead.filter(ofTheSystem)
    return (
      this.#atlas.systemAnywhere &&
      named.length > 0 &&
      named.every((name) => this.#atlas.relations.find(name).length > 0)
    )
  }

  functions(names: Iterable<string>): void {
    for (const name of names) this.#call(name, 'none')
  }

  #staying(name: string): FunctionEffect | null {
    const effect = this.#atlas.builtIn(name)
    return effect === null || effect.anywhere ? null : effect
  }

  #call(name: string, trust: Trust): void {
    const seen = trust === 'none' ? name : `${name}()`
    if (this.#seen.has(seen)) return
    this.#seen.add(seen)
    const said = this.#atlas.said(name)
    if (said === 'writing') this.#writesAsSaid()
    const effect = this.#atlas.builtIn(name)
    // That a built-in one takes a lock or a number is known better here.
    const staying =
      effect !== null && (effect.stateful || effect.writes || effect.waits || (said === null && !effect.anywhere))
    if (staying) return this.#stays(effect)
    if (said !== null) return this.#readsOf(name)
    const all = this.#atlas.functions.find(name)
    if (effect === null && all.length === 0) {
      this.#others = true
      if (trust === 'none') this.unknownFunction = true
    }
    for (const one of all) {
      // A built-in function of these arguments is found first.
      if (one.hidden && !name.includes('.')) continue
      this.#function(one)
    }
  }

  /** Its user says that it writes: then nobody can vouch for it. */
  #writesAsSaid(): void {
    this.unknownFunction = true
    this.writes = true
    this.obstacle ??= 'function stays on the primary'
  }

  #stays(effect: FunctionEffect): void {
    this.stateful ||= effect.stateful
    this.writes ||= effect.writes
    this.waits ||= effect.waits
    const anywhere = effect.because === OF_THE_CATALOG && this.#atlas.systemAnywhere
    if (!anywhere) this.obstacle ??= 'function stays on the primary'
    this.#others = true
  }

  /** What a user vouches for may read tables all the same. */
  #readsOf(name: string): void {
    const all = this.#atlas.functions.find(name)
    if (all.length === 0) this.#others = true
    for (const { body } of all) this.#reads(body)
  }

  #function(one: CatalogFunction): void {
    if (this.#seen.has(one)) return
    this.#seen.add(one)
    const said = this.#atlas.said(keyOf(one))
    if (said === 'writing') this.#writesAsSaid()
    if (said !== null) return this.#reads(one.body)
    const declared = one.volatility !== 'volatile'
    if (!declared && !one.body?.reading) this.unknownFunction = true
    // What has no source to read and always gives the same answer looks at no table.
    if (one.body === null && one.volatility === 'immutable') return
    this.#reads(one.body)
    for (const name of one.body?.calls ?? []) this.#call(name, declared ? 'declared' : 'none')
  }

  #reads(body: FunctionBody | null): void {
    const tables = body === null ? null : body.reads
    if (tables === null) this.#others = true
    else for (const table of tables) this.#relation(table)
  }

  /** Whether there is any of that name. */
  #relation(name: string): boolean {
    const all = this.#atlas.relations.find(name)
    if (all.length === 0) this.#others = true
    for (const one of all) this.#read(one)
    return all.length > 0
  }

  #read(one: CatalogRelation): void {
    if (this.#seen.has(one)) return
    this.#seen.add(one)
    if (one.unlogged) this.obstacle ??= 'unlogged table'
    // A sequence is logged ahead: a standby shows a value that was not given out yet.
    if (one.kind === 'sequence') this.obstacle ??= 'server answers for itself'
    if (one.kind === 'view') return this.#view(one.definition)
    this.#tables.add(keyOf(one))
    // Its rows are somewhere else, perhaps in another table of this database; or any definition changes them.
    if (one.kind === 'foreign' || one.schema === 'pg_catalog') this.#others = true
    if (one.policies === null) this.#others = true
    for (const policy of one.policies ?? []) this.#policy(policy)
    for (const key of one.children) this.#relation(key)
  }

  #view(definition: Facts | null): void {
    if (definition === null) {
      this.#others = true
      return
    }
    const { because, kind, safeOnReplica } = definition
    if (kind === 'unknown') this.unknownFunction = true
    const followed = because === 'unknown function' || (because === 'system catalog' && this.#systemTables(definition))
    if (!safeOnReplica && !followed) this.obstacle ??= because
    // What its functions do is found by following them.
    if (because === 'locks rows') this.waits = true
    this.#named(definition)
  }

  #policy(facts: Facts): void {
    if (facts.kind === 'unknown') this.unknownFunction = true
    this.#named({
      tablesRead: facts.tablesRead,
      // Whoever sets a tenant sets it on every connection, wherever that leads.
      functions: facts.functions.filter((name) => !/^(pg_catalog\.)?current_setting$/.test(name)),
    })
  }

  #named({ functions, tablesRead }: Pick<Facts, 'functions' | 'tablesRead'>): void {
    for (const name of functions) this.#call(name, 'none')
    for (const name of tablesRead) this.#relation(name)
  }
}

/** Why a built-in function stays, where the catalog is all that it reads. */
const OF_THE_CATALOG = 'reads the system catalog'

const ofTheSystem = (name: string): boolean => /^(pg_|information_schema\.)/.test(name)
