// Reads the primary's catalog beside the traffic and makes a snapshot of it. What sources and definitions say is
// found out when a statement first comes to them, since of ten thousand functions a program calls ten.

import { CatalogIndex } from '../core/catalog-index.ts'
import { keyOf } from '../core/catalog-snapshot.ts'
import type {
  CatalogFunction,
  CatalogRelation,
  CatalogSnapshot,
  FunctionBody,
  FunctionEffect,
} from '../core/catalog-snapshot.ts'
import type { Facts, Row } from '../core/types.ts'
import { factsOf } from '../sql/facts.ts'
import { readExpressions, readPlpgsqlBody, readSqlBody } from '../sql/function-body.ts'
import { effectOf, UNKNOWN_EFFECT } from '../sql/functions.ts'
import { partText } from '../sql/query.ts'
import {
  AGGREGATES,
  DEFINITIONS,
  FINGERPRINT,
  FUNCTION_NAMES,
  functionSources,
  LIMITS,
  otherRelations,
  PLAIN_TABLES,
} from './catalog-queries.ts'

type Ask = (sql: string) => Promise<Row[]>

/** What is known of a built-in function; null: nothing is. */
export function builtInEffect(name: string): FunctionEffect | null {
  const effect = effectOf(name)
  return effect === UNKNOWN_EFFECT ? null : effect
}

/**
 * A snapshot of the catalog; `ask` runs one statement on the primary and gives every value as text. Where `previous`
 * still holds it is handed back, after one question.
 */
export async function readCatalog(ask: Ask, previous: CatalogSnapshot | null = null): Promise<CatalogSnapshot> {
  // Before the rest: what changes meanwhile makes the next one differ.
  const [row] = await ask(FINGERPRINT)
  const fingerprint = textOf(row?.['fingerprint'])
  if (previous !== null && fingerprint !== null && previous.fingerprint === fingerprint) return previous
  const definitions = await definitionsOf(ask)
  const functions = await functionsOf(ask, definitions)
  const { relations, whole } = await relationsOf(ask, definitions)
  return { functions, relations, whole, fingerprint: definitions === null ? null : fingerprint }
}

async function functionsOf(ask: Ask, definitions: Definitions | null): Promise<CatalogIndex<CatalogFunction>> {
  const functions = new CatalogIndex<CatalogFunction>()
  for (const row of await ask(FUNCTION_NAMES)) addNamedFunctions(functions, row)
  for (const row of await ask(AGGREGATES)) functions.add(aggregate(row))
  let room = LIMITS.sources
  await pages(
    (after) => ask(functionSources(after, room)),
    (row) => {
      room -= textOf(row['source'])?.length ?? 0
      functions.add(new SourcedFunction(row, definitions?.bodies ?? new Map()))
    },
  )
  return functions
}

async function relationsOf(
  ask: Ask,
  definitions: Definitions | null,
): Promise<{ relations: CatalogIndex<CatalogRelation>; whole: boolean }> {
  const relations = new CatalogIndex<CatalogRelation>()
  for (const row of await ask(PLAIN_TABLES)) {
    const schema = partText(String(row['schema']))
    for (const name of listed(row['names'])) relations.add({ ...PLAIN, schema, name: partText(name) })
  }
  const whole = await pages(
    (after) => ask(otherRelations(after)),
    (row) => relations.add(new Relation(row, definitions)),
  )
  return { relations, whole }
}

/** Whether the end was reached. */
async function pages(askFor: (after: string) => Promise<Row[]>, take: (row: Row) => void): Promise<boolean> {
  let after = '0'
  for (let page = 0; page < LIMITS.pages; page++) {
    const rows = await askFor(after)
    for (const row of rows) take(row)
    if (rows.length < LIMITS.page) return true
    // An oid of the server, and of nobody else.
    after = String(Number(rows.at(-1)!['oid']))
  }
  return false
}

interface Definitions {
  readonly views: ReadonlyMap<string, string>
  readonly policies: ReadonlyMap<string, readonly string[]>
  /** By oid of the function. */
  readonly bodies: ReadonlyMap<string, string>
}

/** null when somebody is altering what one of them names: the next time will tell. */
async function definitionsOf(ask: Ask): Promise<Definitions | null> {
  let rows: Row[]
  try {
    rows = await ask(DEFINITIONS)
  } catch (error) {
    if ((error as { code?: unknown }).code === LOCK_NOT_AVAILABLE) return null
    throw error
  }
  const views = new Map<string, string>()
  const policies = new Map<string, string[]>()
  const bodies = new Map<string, string>()
  for (const row of rows) {
    const text = textOf(row['text']) ?? ''
    if (row['what'] === 'function') bodies.set(String(row['oid']), text)
    else if (row['what'] === 'view') views.set(keyOf(named(row)), text)
    else policies.set(keyOf(named(row)), [...(policies.get(keyOf(named(row))) ?? []), text])
  }
  return { views, policies, bodies }
}

const LOCK_NOT_AVAILABLE = '55P03'

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}

function named(row: Row): { schema: string; name: string } {
  return { schema: partText(String(row['schema'])), name: partText(String(row['name'])) }
}

/** Names as `json_agg` gives them. */
function listed(value: unknown): readonly string[] {
  return typeof value === 'string' ? (JSON.parse(value) as string[]) : []
}

function qualified(value: unknown): readonly string[] {
  if (typeof value !== 'string') return []
  const pairs = JSON.parse(value) as [string, string][]
  return pairs.map(([schema, name]) => `${partText(schema)}.${partText(name)}`)
}

const VOLATILITIES = { i: 'immutable', s: 'stable', v: 'volatile' } as const

const volatilityOf = (row: Row): CatalogFunction['volatility'] =>
  VOLATILITIES[String(row['volatility']) as keyof typeof VOLATILITIES] ?? 'volatile'

function addNamedFunctions(functions: CatalogIndex<CatalogFunction>, row: Row): void {
  const schema = partText(String(row['schema']))
  const hidden = row['hidden'] === 'true'
  const volatility = volatilityOf(row)
  const builtIn = schema === 'pg_catalog'
  for (const text of listed(row['names'])) {
    const name = partText(text)
    functions.add({ schema, name, hidden, volatility: builtIn ? ofBuiltIn(name, volatility) : volatility, body: null })
  }
}

/**
 * Of what is in our lists they tell. The rest is believed only when it always gives the same answer: much that is
 * STABLE speaks of the server that was asked.
 */
function ofBuiltIn(name: string, declared: CatalogFunction['volatility']): CatalogFunction['volatility'] {
  return declared === 'immutable' || builtInEffect(name) !== null ? 'immutable' : 'volatile'
}

class SourcedFunction implements CatalogFunction {
  readonly schema: string
  readonly name: string
  readonly hidden: boolean
  readonly volatility: CatalogFunction['volatility']
  readonly #language: unknown
  readonly #source: string | null
  readonly #defaults: string | null
  #body: FunctionBody | null | undefined

  constructor(row: Row, bodies: ReadonlyMap<string, string>) {
    const { schema, name } = named(row)
    this.schema = schema
    this.name = name
    this.hidden = row['hidden'] === 'true'
    this.volatility = volatilityOf(row)
    this.#language = row['language']
    this.#source = row['parsed'] === 'true' ? (bodies.get(String(row['oid'])) ?? null) : textOf(row['source'])
    this.#defaults = textOf(row['defaults'])
  }

  get body(): FunctionBody | null {
    return (this.#body ??= this.#read())
  }

  #read(): FunctionBody | null {
    if (this.#source === null) return null
    const body = this.#language === 'sql' ? readSqlBody(this.#source) : readPlpgsqlBody(this.#source)
    return this.#defaults === null ? body : withDefaults(body, readExpressions(this.#defaults))
  }
}

/** What stands for an argument that is left out is evaluated with the call. */
function withDefaults(body: FunctionBody, { kind, functions, tablesRead }: Facts): FunctionBody {
  return {
    reading: body.reading && kind !== 'unknown',
    calls: [...body.calls, ...functions],
    reads: body.reads === null ? null : [...body.reads, ...tablesRead],
  }
}

/** An aggregate does what its functions do. */
function aggregate(row: Row): CatalogFunction {
  const body = { reading: true, calls: qualified(row['calls']), reads: [] }
  return { ...named(row), hidden: row['hidden'] === 'true', volatility: 'volatile', body }
}

const PLAIN = {
  kind: 'table',
  unlogged: false,
  definition: null,
  policies: [],
  children: [],
  cascades: [],
  onWrite: [],
  ruled: false,
} as const

const KINDS: { readonly [relkind: string]: CatalogRelation['kind'] } = { v: 'view', f: 'foreign', S: 'sequence' }

class Relation implements CatalogRelation {
  readonly schema: string
  readonly name: string
  readonly kind: CatalogRelation['kind']
  readonly unlogged: boolean
  readonly children: readonly string[]
  readonly cascades: readonly string[]
  readonly onWrite: readonly string[]
  readonly ruled: boolean
  readonly #query: string | null
  readonly #conditions: readonly string[] | null
  #definition: Facts | undefined
  #policies: readonly Facts[] | undefined

  constructor(row: Row, definitions: Definitions | null) {
    const { schema, name } = named(row)
    this.schema = schema
    this.name = name
    this.kind = KINDS[String(row['kind'])] ?? 'table'
    this.unlogged = row['persistence'] === 'u'
    this.children = qualified(row['children'])
    this.cascades = qualified(row['cascades'])
    this.onWrite = qualified(row['calls'])
    this.ruled = row['ruled'] === 'true'
    const key = keyOf(this)
    this.#query = definitions?.views.get(key) ?? null
    const secured = row['secured'] === 'true'
    this.#conditions = !secured ? [] : definitions === null ? null : (definitions.policies.get(key) ?? [])
  }

  get definition(): Facts | null {
    return this.#query === null ? null : (this.#definition ??= factsOf(this.#query))
  }

  get policies(): readonly Facts[] | null {
    return this.#conditions === null ? null : (this.#policies ??= this.#conditions.map(readExpressions))
  }
}
