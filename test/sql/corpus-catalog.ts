// What a catalog would have said of each statement of the corpus at its time. The corpus tells, per statement, the
// volatility of the user functions it called (`udf`) and kind and persistence of its relations (`rels`), as the server
// had them; the sources of functions and the queries of views stand in the statements that made them. What it does
// not tell: other functions of the same name, so that overloads are not put to the test here; and when something was
// dropped, because a text that came twice is in it once: the last definition before a statement counts.

import { CatalogIndex } from '../../src/core/catalog-index.ts'
import type {
  CatalogFunction,
  CatalogRelation,
  CatalogSnapshot,
  FunctionBody,
} from '../../src/core/catalog-snapshot.ts'
import type { Facts } from '../../src/core/types.ts'
import { factsOf } from '../../src/sql/facts.ts'
import { readPlpgsqlBody, readSqlBody } from '../../src/sql/function-body.ts'

export interface Labelled {
  readonly sql: string
  readonly label: string
  readonly src: string
  /** Parse node, where the server's parser knew one. */
  readonly kind?: string
  /** SQLSTATE of the attempt on the standby. */
  readonly standby?: string
  /** Volatility of the user functions called: i, s, v. */
  readonly udf?: Readonly<Record<string, string>>
  /** Kind and persistence of relations, as pg_class writes them; permanent tables are left out. */
  readonly rels?: Readonly<Record<string, string>>
}

const VOLATILITIES = { i: 'immutable', s: 'stable', v: 'volatile' } as const
type Volatility = CatalogFunction['volatility']

interface Made {
  readonly volatility: Volatility
  readonly body: FunctionBody | null
}

/** Definitions of one database, as they stand after the statements so far. */
export class CorpusCatalog {
  readonly #functions = new Map<string, Made>()
  readonly #views = new Map<string, Facts>()
  /** Tables for all sessions: a temporary one of the same name is not in sight of others. */
  readonly #tables = new Set<string>()
  /** pg_catalog as a real server has it. */
  readonly #server: CatalogSnapshot

  constructor(server: CatalogSnapshot) {
    this.#server = server
  }

  /** A statement has run. */
  ran({ sql, kind }: Labelled): void {
    if (kind === 'CreateFunctionStmt') this.#defineFunction(sql)
    else if (kind === 'CreateStmt') this.#defineTable(sql)
    else if (kind === 'ViewStmt') this.#defineView(sql)
    else if (kind === 'DefineStmt') this.#defineAggregate(sql)
  }

  /** What a snapshot taken just before would have held of what the statement names. */
  before({ udf, rels }: Labelled, facts: Facts): CatalogSnapshot {
    const functions: CatalogFunction[] = []
    const relations: CatalogRelation[] = []
    const seen = new Set<string>()
    const add = (called: readonly string[], read: readonly string[]): void => {
      for (const name of called) addFunction(lastOf(name))
      for (const name of read) addRelation(name)
    }
    const addFunction = (name: string): void => {
      if (seen.has(`${name}()`)) return
      seen.add(`${name}()`)
      functions.push(...this.#server.functions.find(name))
      const made = this.#functions.get(name)
      const said = udf?.[name]
      if (made === undefined && said === undefined) return
      const volatility = VOLATILITIES[said as keyof typeof VOLATILITIES] ?? made?.volatility ?? 'volatile'
      const body = made?.body ?? null
      functions.push({ schema: 'public', name, hidden: false, volatility, body })
      if (body !== null) add(body.calls, body.reads ?? [])
    }
    const addRelation = (full: string): void => {
      const name = lastOf(full)
      if (seen.has(name)) return
      seen.add(name)
      if (/^(pg_|information_schema\.)/.test(full)) {
        relations.push(...this.#server.relations.find(full))
        return
      }
      const [kind = 'r', persistence = 'p'] = rels?.[name] ?? ''
      if (persistence === 't' && !this.#tables.has(name)) return
      const definition = kind === 'v' ? (this.#views.get(name) ?? null) : null
      const schema = full === name ? 'public' : full.slice(0, -name.length - 1)
      relations.push({
        ...PLAIN,
        schema,
        name,
        kind: persistence === 't' ? 'table' : (KINDS[kind] ?? 'table'),
        unlogged: persistence === 'u',
        definition,
      })
      if (definition !== null) add(definition.functions, definition.tablesRead)
    }
    add(facts.functions, facts.tablesRead)
    return {
      functions: new CatalogIndex(functions),
      relations: new CatalogIndex(relations),
      whole: true,
      fingerprint: null,
    }
  }

  #defineFunction(sql: string): void {
    const name = /\bfunction\s+([\w."]+)\s*\(/i.exec(sql)?.[1]
    if (name === undefined) return
    const { source, rest } = sourceOf(sql)
    const language = /\blanguage\s+'?(\w+)/i.exec(rest)?.[1]?.toLowerCase()
    const volatility = (/\b(immutable|stable)\b/i.exec(rest)?.[1]?.toLowerCase() ?? 'volatile') as Volatility
    const body =
      language === 'plpgsql' ? readPlpgsqlBody(source) : (language ?? 'sql') === 'sql' ? readSqlBody(source) : null
    this.#functions.set(nameOf(name), { volatility, body })
  }

  #defineTable(sql: string): void {
    const name = /\bcreate\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?([\w."]+)/i.exec(sql)?.[1]
    if (name !== undefined) this.#tables.add(nameOf(name))
  }

  #defineAggregate(sql: string): void {
    const name = /\baggregate\s+([\w."]+)\s*\(/i.exec(sql)?.[1]
    if (name === undefined) return
    const calls = [...sql.matchAll(/\b(?:sfunc1?|m?finalfunc|m?sfunc|minvfunc|combinefunc)\s*=\s*([\w."]+)/gi)]
    const body = { reading: true, calls: calls.map(([, called]) => nameOf(called!)), reads: [] }
    this.#functions.set(nameOf(name), { volatility: 'volatile', body })
  }

  #defineView(sql: string): void {
    const made = /\bview\s+([\w."]+)[^;]*?\bas\s+((?:with|select|values|table|\()[^]*)/i.exec(sql)
    if (made === null) return
    const [, name, query] = made
    this.#views.set(nameOf(name!), factsOf(query!.replace(/\bwith\s+(local\s+|cascaded\s+)?check\s+option\s*$/i, '')))
  }
}

const PLAIN = { policies: [], children: [], cascades: [], onWrite: [], ruled: false }
const KINDS: { readonly [relkind: string]: CatalogRelation['kind'] } = { v: 'view', f: 'foreign', S: 'sequence' }

const lastOf = (name: string): string => name.slice(name.lastIndexOf('.') + 1)

/** As facts write it, without its schema. */
function nameOf(written: string): string {
  const last = lastOf(written)
  return last.startsWith('"') ? last.slice(1, -1) : last.toLowerCase()
}

/** The body of a function, and the statement without it. */
function sourceOf(sql: string): { source: string; rest: string } {
  const quoted = /\bas\s+(?:(\$\w*\$)([^]*?)\1|'((?:[^']|'')*)')/i.exec(sql)
  if (quoted !== null) {
    const source = quoted[2] ?? quoted[3]!.replaceAll("''", "'")
    return { source, rest: sql.replace(quoted[0], ' ') }
  }
  const parsed = /\b(begin\s+atomic[^]*|return\s[^]*)$/i.exec(sql)
  return { source: parsed?.[0] ?? '', rest: sql.slice(0, parsed?.index ?? sql.length) }
}
