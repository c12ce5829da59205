// What the primary's catalog adds to what a text tells: which functions only read, which tables a view shows, which
// relations no standby has. It is read beside the traffic; while it is not known, the text alone decides, and what
// the user says of his functions holds at any time.

import { CatalogIndex, partsOf } from './catalog-index.ts'
import { Reach } from './catalog-reach.ts'
import type { Atlas } from './catalog-reach.ts'
import { keyOf } from './catalog-snapshot.ts'
import type { BuiltIn, CatalogRelation, CatalogSnapshot } from './catalog-snapshot.ts'
import type { Facts, FactsReason } from './types.ts'

export interface FunctionOverrides {
  readonly readOnly: readonly string[]
  readonly writing: readonly string[]
}

export interface CatalogRules {
  /**
   * Where the system's own tables may be read once the catalog is known. They are logged like any other table, and
   * such a read waits for every own write, definitions included. Default `primary`.
   */
  readonly systemCatalogs: 'primary' | 'anywhere'
}

/** Tables whose reach is remembered. */
const MOST_NAMES = 10_000

interface Judgement {
  readonly facts: Facts
  readonly tables: readonly string[] | null
}

export class Catalog {
  readonly #overrides: Overrides
  readonly #builtIn: BuiltIn
  readonly #rules: CatalogRules
  #snapshot: CatalogSnapshot | null = null
  #atlas: Atlas
  #version = 0
  /** By what the text tells, which is one object per text while the text is in its cache. */
  #judgements = new WeakMap<Facts, Judgement>()
  /** What was made last of each: others remember by it what a text has cost and how it is prepared. */
  readonly #made = new WeakMap<Facts, Facts>()
  readonly #written = new Map<string, readonly string[] | null>()

  constructor(overrides: FunctionOverrides, builtIn: BuiltIn, rules: CatalogRules = { systemCatalogs: 'primary' }) {
    this.#overrides = new Overrides(overrides)
    this.#builtIn = builtIn
    this.#rules = rules
    this.#atlas = this.#atlasOf(null)
  }

  /** Whether a snapshot has been read and nothing has changed it since. */
  get known(): boolean {
    return this.#snapshot !== null
  }

  /** Take it before the catalog is read, and hand it to `learn`. */
  get version(): number {
    return this.#version
  }

  /** What was learnt last, so that it need not be read again where nothing has changed. */
  get snapshot(): CatalogSnapshot | null {
    return this.#snapshot
  }

  /** What the catalog says, unless something has changed it meanwhile. */
  learn(snapshot: CatalogSnapshot, version: number): void {
    if (version !== this.#version || snapshot === this.#snapshot) return
    this.#becomes(snapshot)
  }

  /** Something may have changed the catalog: nothing is known of it until it is read again. */
  forget(): void {
    this.#version++
    if (this.#snapshot !== null) this.#becomes(null)
  }

  /** The facts with what the catalog adds or takes; the same object where it changes nothing. */
  judge(facts: Facts): Facts {
    return this.#judgementOf(facts).facts
  }

  /** The keys of every base table whose rows such a read may show; null when they cannot be told. */
  tablesRead(facts: Facts): readonly string[] | null {
    return this.#judgementOf(facts).tables
  }

  /** The keys of every base table that a write to these may change; null when they cannot be told. */
  tablesWritten(tables: Iterable<string>): readonly string[] | null {
    const keys = new Set<string>()
    for (const table of tables) {
      const reached = this.#writtenBy(table)
      if (reached === null) return null
      for (const key of reached) keys.add(key)
    }
    return keys.size === 0 ? null : [...keys]
  }

  #becomes(snapshot: CatalogSnapshot | null): void {
    this.#snapshot = snapshot
    this.#atlas = this.#atlasOf(snapshot)
    this.#judgements = new WeakMap()
    this.#written.clear()
  }

  #atlasOf(snapshot: CatalogSnapshot | null): Atlas {
    return {
      functions: snapshot?.functions ?? new CatalogIndex(),
      relations: snapshot?.relations ?? new CatalogIndex(),
      whole: snapshot?.whole ?? false,
      builtIn: this.#builtIn,
      systemAnywhere: snapshot !== null && this.#rules.systemCatalogs === 'anywhere',
      said: (name) => this.#overrides.of(name),
    }
  }

  #judgementOf(facts: Facts): Judgement {
    const known = this.#judgements.get(facts)
    if (known !== undefined) return known
    const judgement = this.#judge(facts)
    this.#judgements.set(facts, judgement)
    return judgement
  }

  #judge(facts: Facts): Judgement {
    const { kind, multiple } = facts
    const readable = !multiple && kind !== 'unknown' && kind !== 'ddl' && kind !== 'transaction'
    if (!readable || (this.#snapshot === null && this.#overrides.none)) return { facts, tables: null }
    const planned = facts.verb === 'explain' && (facts.because === 'plan' || facts.because === 'unknown function')
    const reach = new Reach(this.#atlas)
    reach.statement(facts, planned)
    const judged = this.#sameAsBefore(facts, added(facts, reach, planned))
    return { facts: judged, tables: reach.tables }
  }

  #sameAsBefore(facts: Facts, made: Facts): Facts {
    const before = this.#made.get(facts)
    if (sameJudgement(made, facts)) return facts
    if (before !== undefined && sameJudgement(made, before)) return before
    this.#made.set(facts, made)
    return made
  }

  #writtenBy(table: string): readonly string[] | null {
    let reached = this.#written.get(table)
    if (reached !== undefined) return reached
    // Names may be made by a program.
    if (this.#written.size >= MOST_NAMES) this.#written.clear()
    this.#written.set(table, (reached = writtenBy(table, this.#atlas)))
    return reached
  }
}

/** What a user says of functions, with or without their schema. */
class Overrides {
  readonly none: boolean
  readonly #readOnly: ReadonlySet<string>
  readonly #writing: ReadonlySet<string>

  constructor({ readOnly, writing }: FunctionOverrides) {
    this.#readOnly = new Set(readOnly)
    this.#writing = new Set(writing)
    this.none = readOnly.length === 0 && writing.length === 0
  }

  of(name: string): 'readOnly' | 'writing' | null {
    if (this.none) return null
    const { last } = partsOf(name)
    if (this.#writing.has(name) || this.#writing.has(last)) return 'writing'
    return this.#readOnly.has(name) || this.#readOnly.has(last) ? 'readOnly' : null
  }
}

/** Reasons that are about functions, and so may be otherwise than the text alone tells. */
const ABOUT_FUNCTIONS: ReadonlySet<FactsReason> = new Set([
  'read',
  'plan',
  'unknown function',
  'function stays on the primary',
  'system catalog',
])

function added(facts: Facts, reach: Reach, planned: boolean): Facts {
  return facts.kind.startsWith('write_') ? addedToWrite(facts, reach) : addedToRead(facts, reach, planned)
}

/** A write stays where it is; but with functions that are known it leaves nothing behind in its session. */
function addedToWrite(facts: Facts, reach: Reach): Facts {
  const stateful = reach.unknownFunction || reach.stateful || ofTheSession(facts)
  return stateful === facts.stateful ? facts : otherwise(facts, { stateful })
}

function addedToRead(facts: Facts, reach: Reach, planned: boolean): Facts {
  // What locks rows or names a temporary table does so whatever its functions do.
  if (facts.because === 'locks rows' || facts.because === 'temporary table') return facts
  const unknown = reach.unknownFunction
  const acts = reach.stateful || reach.writes || reach.waits
  const settled = !ABOUT_FUNCTIONS.has(facts.because) || facts.because === reach.obstacle
  const because = !settled
    ? unknown
      ? // What is known to act must not hide behind what nobody knows.
        ((acts ? reach.obstacle : null) ?? 'unknown function')
      : (reach.obstacle ?? (planned ? 'plan' : 'read'))
    : facts.because
  const safeOnReplica = because === 'read' || because === 'plan'
  const stateful = unknown || reach.stateful
  const writes = unknown || reach.writes
  const lockWaiter = unknown || reach.waits
  const retrySafe = safeOnReplica || (facts.retrySafe && !stateful && !writes && !lockWaiter)
  return otherwise(facts, { because, safeOnReplica, stateful, writes, lockWaiter, retrySafe })
}

/** The fingerprint by name: it may be made only when it is asked for, and no copy takes that along. */
function otherwise(facts: Facts, what: Partial<Facts>): Facts {
  return Object.freeze({ ...facts, fingerprint: facts.fingerprint, ...what })
}

const ofTheSession = ({ tablesRead, tablesWritten }: Facts): boolean =>
  [...tablesRead, ...tablesWritten].some((name) => name.startsWith('pg_temp'))

function sameJudgement(one: Facts, other: Facts): boolean {
  return (
    one === other ||
    (one.because === other.because &&
      one.safeOnReplica === other.safeOnReplica &&
      one.stateful === other.stateful &&
      one.writes === other.writes &&
      one.lockWaiter === other.lockWaiter &&
      one.retrySafe === other.retrySafe)
  )
}

/** The table, its partitions, and what foreign keys change with it; null where anything may follow. */
function writtenBy(table: string, atlas: Atlas): readonly string[] | null {
  const reached = new Set<string>()
  const coming: CatalogRelation[] = [...atlas.relations.find(table)]
  if (coming.length === 0) return null
  for (let one = coming.pop(); one !== undefined; one = coming.pop()) {
    const key = keyOf(one)
    if (reached.has(key)) continue
    if (one.kind !== 'table' || one.ruled || !callsOnlyReaders(one, atlas)) return null
    reached.add(key)
    for (const next of [...one.children, ...one.cascades]) {
      const found = atlas.relations.find(next)
      if (found.length === 0) return null
      coming.push(...found)
    }
  }
  return [...reached]
}

function callsOnlyReaders({ onWrite }: CatalogRelation, atlas: Atlas): boolean {
  if (onWrite.length === 0) return true
  const reach = new Reach(atlas)
  reach.functions(onWrite)
  return !reach.unknownFunction && !reach.writes
}
