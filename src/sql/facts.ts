// Judges SQL text: what kind of statement it is, whether a standby may run it, what it leaves behind. The rule
// is "positively recognised, else unknown": an unknown statement goes to the primary, on a session of its own,
// and is never sent twice. Whatever is decided has its reason in `because`.

import type { Facts, FactsReason, QueryKind } from '../core/types.ts'
import { fingerprintOf } from './fingerprint.ts'
import { effectOf, UNKNOWN_EFFECT } from './functions.ts'
import { words } from './keywords.ts'
import { partText, readQuery } from './query.ts'
import type { QueryNotes } from './query.ts'
import { Kind, scan, scanBriefly } from './scan.ts'
import type { Tokens } from './scan.ts'

export function factsOf(sql: string): Facts {
  return new JudgedText(judgeText(scanBriefly(sql)), sql)
}

export function judge(tokens: Tokens): Facts {
  return new JudgedText(judgeText(tokens), tokens)
}

function judgeText(tokens: Tokens): Draft {
  // Most texts are one statement, and nothing need be split.
  const end = tokens.texts.length - (tokens.semicolons === 1 && endsWithSemicolon(tokens) ? 1 : 0)
  const single = tokens.semicolons === tokens.texts.length - end
  if (tokens.doubt === null && single && end > 0) return judgeOne(tokens, 0, end)
  const statements = split(tokens)
  if (tokens.doubt !== null) {
    const verb = verbAt(tokens, 0, tokens.texts.length)
    const multiple = statements.length > 1
    return { ...UNKNOWN, because: 'unclear text', multiple, verb, label: LABELS.get(verb)! }
  }
  if (statements.length === 0) return { ...NOTHING, because: 'empty' }
  const first = statements[0]!
  if (statements.length > MOST_STATEMENTS) {
    return { ...UNKNOWN, because: 'several statements', multiple: true }
  }
  if (statements.length === 1) return judgeOne(tokens, first.from, first.to)
  return together(statements.map(({ from, to }) => judgeOne(tokens, from, to)))
}

const endsWithSemicolon = ({ kinds, texts }: Tokens): boolean => kinds[texts.length - 1] === Kind.semicolon

interface Range {
  readonly from: number
  readonly to: number
}

/** A text with more statements is a script: to look at each of them would tell nothing new. */
const MOST_STATEMENTS = 1_000

/** The statements between semicolons; empty ones do not count. */
function split(tokens: Tokens): Range[] {
  const statements: Range[] = []
  let from = 0
  let depth = 0
  const end = tokens.texts.length
  if (tokens.semicolons === 0) return end === 0 ? [] : [{ from, to: end }]
  for (let at = 0; at <= end; at++) {
    const kind = at === end ? Kind.semicolon : tokens.kinds[at]
    if (kind === Kind.open) depth++
    else if (kind === Kind.close) depth--
    // A text whose parentheses do not match is refused by the server; its end still ends a statement.
    if (kind !== Kind.semicolon || (depth > 0 && at < end)) continue
    if (at > from) statements.push({ from, to: at })
    from = at + 1
  }
  return statements
}

/** The facts before they are frozen; `label` becomes the summary together with the tables. */
interface Draft {
  kind: QueryKind
  verb: string
  label: string
  because: FactsReason
  safe: boolean
  stateful: boolean
  waits: boolean
  writes: boolean
  preparable: boolean
  multiple: boolean
  read: ReadonlySet<string>
  written: ReadonlySet<string>
  functions: ReadonlySet<string>
}

const NO_NAMES: ReadonlySet<string> = new Set()

const NOTHING: Draft = {
  kind: 'unknown',
  verb: '',
  label: '',
  because: 'not recognised',
  safe: false,
  stateful: false,
  waits: false,
  writes: false,
  preparable: false,
  multiple: false,
  read: NO_NAMES,
  written: NO_NAMES,
  functions: NO_NAMES,
}

const UNKNOWN: Draft = { ...NOTHING, stateful: true, waits: true, writes: true }
const DDL: Draft = { ...NOTHING, kind: 'ddl', because: 'ddl', waits: true, writes: true }
const TRANSACTION: Draft = { ...NOTHING, kind: 'transaction', because: 'transaction' }
const SESSION: Draft = { ...NOTHING, because: 'session', stateful: true }

const SUMMARY_LENGTH = 120

const NONE: readonly string[] = Object.freeze([])

/** Frozen. What nobody asks for at once is made when somebody does. */
class JudgedText implements Facts {
  readonly kind: QueryKind
  readonly verb: string
  readonly safeOnReplica: boolean
  readonly stateful: boolean
  readonly lockWaiter: boolean
  readonly retrySafe: boolean
  readonly writes: boolean
  readonly multiple: boolean
  readonly preparable: boolean
  readonly tablesRead: readonly string[]
  readonly tablesWritten: readonly string[]
  readonly functions: readonly string[]
  readonly summary: string
  readonly because: FactsReason
  /** What was judged; nobody sees it, since raw text may hold literals. */
  readonly #source: string | Tokens
  #fingerprint: string | null = null

  constructor(draft: Draft, source: string | Tokens) {
    this.kind = draft.kind
    this.verb = draft.verb
    this.safeOnReplica = draft.safe
    this.stateful = draft.stateful
    this.lockWaiter = draft.waits
    this.retrySafe = draft.safe
    this.writes = draft.writes
    this.multiple = draft.multiple
    this.preparable = draft.preparable
    this.tablesRead = listed(draft.read)
    this.tablesWritten = listed(draft.written)
    this.functions = listed(draft.functions)
    this.summary = summarise(draft.label, this.tablesWritten, this.tablesRead)
    this.because = draft.because
    this.#source = source
    Object.freeze(this)
  }

  /** Whoever copies facts must copy it by name. */
  get fingerprint(): string {
    const source = this.#source
    return (this.#fingerprint ??= fingerprintOf(typeof source === 'string' ? scan(source) : source))
  }

  toJSON(): Facts {
    return Object.assign({}, this, { fingerprint: this.fingerprint })
  }
}

function listed(names: ReadonlySet<string>): readonly string[] {
  if (names.size === 0) return NONE
  // Mostly there is one, and spreading takes three times as long.
  if (names.size === 1) for (const name of names) return [name]
  return [...names]
}

/** `INSERT orders customers`: the written tables first. */
function summarise(label: string, written: readonly string[], read: readonly string[]): string {
  let summary = label === '' ? 'UNKNOWN' : label
  const all = written.length + read.length
  for (let at = 0; at < all; at++) {
    const name = at < written.length ? written[at]! : read[at - written.length]!
    if (at >= written.length && written.includes(name)) continue
    if (summary.length + 1 + name.length > SUMMARY_LENGTH) return `${summary} …`
    summary += ` ${inOneLine(name)}`
  }
  return summary
}

/** A quoted name may hold a line break, a log line may not. */
function inOneLine(name: string): string {
  for (let at = 0; at < name.length; at++) {
    const code = name.charCodeAt(at)
    // eslint-disable-next-line no-control-regex -- these are what is looked for
    if (code < 0x20 || code === 0x7f) return name.replaceAll(/[\u0000-\u001f\u007f]/g, ' ')
  }
  return name
}

/** Several statements in one text: everything that holds for one of them holds for all. */
function together(parts: readonly Draft[]): Draft {
  const kinds = new Set(parts.map((part) => part.kind))
  const [first] = parts
  return {
    kind: kinds.size === 1 ? first!.kind : 'unknown',
    verb: first!.verb,
    label: [...new Set(parts.slice(0, 5).map((part) => part.label || 'UNKNOWN'))].join('; '),
    because: 'several statements',
    safe: false,
    // BEGIN in the middle leaves the session inside a transaction.
    stateful: parts.some((part) => part.stateful || part.kind === 'transaction'),
    waits: parts.some((part) => part.waits),
    writes: parts.some((part) => part.writes),
    preparable: false,
    multiple: true,
    read: new Set(parts.flatMap((part) => [...part.read])),
    written: new Set(parts.flatMap((part) => [...part.written])),
    functions: new Set(parts.flatMap((part) => [...part.functions])),
  }
}

/** First keyword, parentheses before it skipped; `''` for a word that begins no statement. */
function verbAt(tokens: Tokens, from: number, to: number): string {
  let at = from
  while (at < to && tokens.kinds[at] === Kind.open) at++
  const word = at < to && tokens.kinds[at] === Kind.word ? tokens.texts[at]! : ''
  return LABELS.has(word) ? word : ''
}

function judgeOne(tokens: Tokens, from: number, to: number): Draft {
  const verb = verbAt(tokens, from, to)
  const draft = judgeVerb(tokens, from, to, verb)
  draft.verb = verb
  if (draft.label === '') draft.label = LABELS.get(verb)!
  return draft
}

function judgeVerb(tokens: Tokens, from: number, to: number, verb: string): Draft {
  if (QUERY_VERBS.has(verb)) return judgeQuery(readQuery(tokens, from, to))
  if (tokens.kinds[from] === Kind.open) return { ...UNKNOWN }
  if (DDL_VERBS.has(verb)) return judgeDdl(tokens, from, to)
  switch (verb) {
    case 'explain':
      return judgeExplain(tokens, from, to)
    case 'set':
      return judgeSet(tokens, from, to)
    case 'show':
      return { ...NOTHING, kind: 'read_simple', because: 'server answers for itself' }
    case 'begin':
    case 'commit':
    case 'end':
    case 'rollback':
    case 'abort':
    case 'savepoint':
    case 'release':
      return { ...TRANSACTION }
    case 'start':
      return wordAt(tokens, from + 1, to) === 'transaction' ? { ...TRANSACTION } : { ...UNKNOWN }
    case 'prepare': {
      // PREPARE TRANSACTION 'gid'; without the literal it is a statement that is called transaction.
      const twoPhase = wordAt(tokens, from + 1, to) === 'transaction' && tokens.kinds[from + 2] === Kind.literal
      return twoPhase ? { ...TRANSACTION } : { ...SESSION }
    }
    case 'reset':
    case 'discard':
    case 'deallocate':
    case 'listen':
    case 'unlisten':
    case 'close':
    case 'load':
      return { ...SESSION }
    case 'notify':
    case 'checkpoint':
      return { ...NOTHING, because: 'write', writes: true }
    case 'lock':
      return { ...NOTHING, because: 'locks rows', waits: true, writes: true }
    case 'copy':
      return judgeCopy(tokens, from, to)
    default:
      return { ...UNKNOWN }
  }
}

const QUERY_VERBS: ReadonlySet<string> = new Set(words('select with values table insert update delete merge'))

// Maintenance counts as DDL: it works on the structure, takes its locks and changes no row anyone sees.
const DDL_VERBS: ReadonlySet<string> = new Set(
  words(`create alter drop truncate comment grant revoke security reassign import
    refresh reindex cluster vacuum analyze analyse`),
)

/** Every word that begins a statement, and how a summary shows it. */
const LABELS: ReadonlyMap<string, string> = new Map(
  [
    '',
    ...QUERY_VERBS,
    ...DDL_VERBS,
    ...words(`explain set show begin commit end rollback abort savepoint release start prepare execute deallocate
      reset discard listen unlisten notify load lock declare fetch move close copy call do checkpoint`),
  ].map((verb) => [verb, verb.toUpperCase()]),
)

function wordAt(tokens: Tokens, at: number, to: number): string {
  return at < to && tokens.kinds[at] === Kind.word ? tokens.texts[at]! : ''
}

/** What the functions of a query do, all together. */
interface Calls {
  because: FactsReason | null
  unknown: boolean
  stateful: boolean
  writes: boolean
  waits: boolean
}

const NO_CALLS: Calls = { because: null, unknown: false, stateful: false, writes: false, waits: false }

function judgeCalls(functions: ReadonlySet<string>): Calls {
  if (functions.size === 0) return NO_CALLS
  const calls: Calls = { because: null, unknown: false, stateful: false, writes: false, waits: false }
  for (const name of functions) {
    const effect = effectOf(name)
    if (effect.anywhere) continue
    // A function that is known to stay is the better reason: no catalog can lift it.
    if (effect === UNKNOWN_EFFECT) calls.unknown = true
    else calls.because = 'function stays on the primary'
    calls.stateful ||= effect.stateful
    calls.writes ||= effect.writes
    calls.waits ||= effect.waits
  }
  if (calls.unknown) calls.because ??= 'unknown function'
  return calls
}

function judgeQuery(notes: QueryNotes): Draft {
  if (notes.unclear || notes.verb === '') return { ...UNKNOWN, because: 'unclear text' }
  const calls = judgeCalls(notes.functions)
  const draft = { ...NOTHING }
  draft.label = LABELS.get(notes.verb)!
  draft.preparable = true
  draft.read = notes.tablesRead
  draft.written = notes.tablesWritten
  draft.functions = notes.functions
  draft.stateful = calls.stateful || notes.temporary
  if (notes.verb !== 'select' || notes.modifies || notes.into) return modification(notes, draft)
  const because = obstacle(notes) ?? calls.because
  draft.kind = notes.complex ? 'read_complex' : 'read_simple'
  draft.because = because ?? 'read'
  draft.safe = because === null
  draft.waits = calls.waits || notes.locksRows
  draft.writes = calls.writes
  return draft
}

function modification(notes: QueryNotes, draft: Draft): Draft {
  // A data-modifying CTE under a select has its INTO too; only one without INSERT and the like makes a table.
  const table = notes.into && !notes.modifies
  draft.kind = table ? 'ddl' : notes.bulk ? 'write_bulk' : 'write_simple'
  draft.because = table ? 'makes a table' : 'write'
  draft.waits = true
  draft.writes = true
  draft.preparable = !table
  return draft
}

/** What keeps a select off a standby, its functions aside. */
function obstacle(notes: QueryNotes): FactsReason | null {
  if (notes.locksRows) return 'locks rows'
  if (notes.temporary) return 'temporary table'
  if (notes.migrationTable) return 'migration table'
  if (notes.catalog) return 'system catalog'
  if (notes.unicodeName) return 'unicode name'
  return null
}

const EXPLAIN_OPTIONS: ReadonlySet<string> = new Set(
  words(`analyze analyse verbose costs settings generic_plan buffers serialize wal timing summary memory format
    text xml json yaml none binary true false on off`),
)

const SWITCHED_OFF: ReadonlySet<string> = new Set(['off', 'false'])

const EXPLAIN_VALUES: ReadonlySet<number> = new Set([Kind.comma, Kind.literal, Kind.operator])

/** Planning an insert writes nothing; running one under ANALYZE does. */
function judgeExplain(tokens: Tokens, from: number, to: number): Draft {
  let at = from + 1
  let analyze = false
  const options = tokens.kinds[at] === Kind.open && !QUERY_VERBS.has(verbAt(tokens, at, to))
  if (options) {
    for (at++; at < to && tokens.kinds[at] !== Kind.close; at++) {
      const word = wordAt(tokens, at, to)
      // The last one counts.
      if (word === 'analyze' || word === 'analyse') analyze = !SWITCHED_OFF.has(wordAt(tokens, at + 1, to))
      // `("analyze")` is an option too, and it is not worth telling apart from others in quotes.
      if (word === '' ? !EXPLAIN_VALUES.has(tokens.kinds[at]!) : !EXPLAIN_OPTIONS.has(word)) return { ...UNKNOWN }
    }
    at++
  } else {
    if (['analyze', 'analyse'].includes(wordAt(tokens, at, to))) {
      analyze = true
      at++
    }
    if (wordAt(tokens, at, to) === 'verbose') at++
  }
  if (!QUERY_VERBS.has(verbAt(tokens, at, to))) return { ...UNKNOWN }
  const notes = readQuery(tokens, at, to)
  const inner = judgeQuery(notes)
  inner.label = `EXPLAIN ${inner.label}`
  inner.preparable = false
  return analyze || notes.unclear || notes.verb === '' ? inner : plan(notes, inner)
}

function plan(notes: QueryNotes, inner: Draft): Draft {
  // Locks, writes and built-in functions that write are not reached by the planner; a function that is unknown
  // may be, when somebody declared it stable.
  const { unknown } = judgeCalls(notes.functions)
  const because = obstacle({ ...notes, locksRows: false }) ?? (unknown ? 'unknown function' : null)
  return {
    ...inner,
    kind: 'read_simple',
    because: because ?? 'plan',
    safe: because === null,
    stateful: unknown || notes.temporary,
    waits: unknown,
    writes: unknown,
    read: new Set([...notes.tablesRead, ...notes.tablesWritten]),
    written: NO_NAMES,
  }
}

/**
 * SET LOCAL, SET TRANSACTION and SET CONSTRAINTS end with their transaction. `SET local.x = 1` is none of them:
 * a parameter of one's own may have such a name before its dot.
 */
function judgeSet(tokens: Tokens, from: number, to: number): Draft {
  const next = tokens.kinds[from + 2]
  const named = next === Kind.word && tokens.texts[from + 2] !== 'to'
  switch (wordAt(tokens, from + 1, to)) {
    case 'local':
      return named || next === Kind.quoted ? { ...TRANSACTION, label: 'SET LOCAL' } : { ...SESSION }
    case 'transaction':
      return named ? { ...TRANSACTION, label: 'SET TRANSACTION' } : { ...SESSION }
    case 'constraints':
      return named || next === Kind.quoted ? { ...TRANSACTION, label: 'SET CONSTRAINTS' } : { ...SESSION }
    default:
      return { ...SESSION }
  }
}

function judgeCopy(tokens: Tokens, from: number, to: number): Draft {
  const name = chain(tokens, from + 1, to)
  if (name.text === '') return { ...UNKNOWN }
  let at = name.next
  if (tokens.kinds[at] === Kind.open) while (at < to && tokens.kinds[at++] !== Kind.close);
  const direction = wordAt(tokens, at, to)
  if (direction === 'from') return { ...UNKNOWN, kind: 'write_bulk', because: 'write', written: new Set([name.text]) }
  return { ...UNKNOWN, read: direction === 'to' ? new Set([name.text]) : NO_NAMES }
}

const OBJECTS: ReadonlySet<string> = new Set(
  words(`table view index sequence function procedure trigger type schema extension domain role user database policy rule
  aggregate operator publication subscription statistics server collation conversion cast language tablespace`),
)

function judgeDdl(tokens: Tokens, from: number, to: number): Draft {
  const verb = tokens.texts[from]!
  const draft: Draft = { ...DDL }
  const object = objectAt(tokens, from, to)
  const word = object < 0 ? '' : tokens.texts[object]!
  draft.label = word === '' ? verb.toUpperCase() : `${verb} ${word}`.toUpperCase()
  draft.written = new Set(ddlTables(tokens, from, to, verb, object))
  // An extension's script may do anything, and whatever is temporary belongs to the session.
  draft.stateful = word === 'extension' || namesTemporary(tokens, from, to, verb)
  return verb === 'create' ? withQuery(tokens, object < 0 ? from : object, to, draft) : draft
}

/** Index of the word that says what is created, altered or dropped, or -1. */
function objectAt(tokens: Tokens, from: number, to: number): number {
  for (let at = from + 1; at < Math.min(to, from + 8); at++) {
    if (OBJECTS.has(wordAt(tokens, at, to))) return at
  }
  return -1
}

function namesTemporary(tokens: Tokens, from: number, to: number, verb: string): boolean {
  for (let at = from; at < to; at++) {
    const kind = tokens.kinds[at]
    const text = tokens.texts[at]!
    if ((kind === Kind.word || kind === Kind.quoted) && text.startsWith('pg_temp')) return true
    if (kind === Kind.word && verb === 'create' && (text === 'temp' || text === 'temporary')) return true
  }
  return false
}

function ddlTables(tokens: Tokens, from: number, to: number, verb: string, object: number): string[] {
  let at = object + 1
  const word = object < 0 ? '' : tokens.texts[object]!
  if (verb === 'truncate') at = word === 'table' && object === from + 1 ? object + 1 : from + 1
  else if (word === 'index' && verb === 'create') {
    while (at < to && wordAt(tokens, at, to) !== 'on') at++
    at++
  } else if (word !== 'table' && word !== 'view') return []
  const tables: string[] = []
  while (at < to) {
    while (SKIPPED_BEFORE_NAME.has(wordAt(tokens, at, to))) at++
    const name = chain(tokens, at, to)
    if (name.text === '') break
    tables.push(name.text)
    at = tokens.kinds[name.next] === Kind.operator ? name.next + 1 : name.next
    if ((verb !== 'drop' && verb !== 'truncate') || tokens.kinds[at] !== Kind.comma) break
    at++
  }
  return tables
}

const SKIPPED_BEFORE_NAME: ReadonlySet<string> = new Set(['if', 'not', 'exists', 'only', 'concurrently'])

/** CREATE TABLE … AS runs its query at once, and with it its functions. */
function withQuery(tokens: Tokens, object: number, to: number, draft: Draft): Draft {
  if (tokens.texts[object] !== 'table' && tokens.texts[object - 1] !== 'materialized') return draft
  let depth = 0
  for (let at = object; at < to; at++) {
    const kind = tokens.kinds[at]
    if (kind === Kind.open) depth++
    else if (kind === Kind.close) depth--
    else if (depth === 0 && wordAt(tokens, at, to) === 'as') {
      if (wordAt(tokens, at + 1, to) === 'execute') return { ...draft, stateful: true }
      if (!QUERY_VERBS.has(verbAt(tokens, at + 1, to))) continue
      const notes = readQuery(tokens, at + 1, to)
      const stateful = draft.stateful || notes.unclear || notes.temporary || judgeCalls(notes.functions).stateful
      return { ...draft, stateful, read: notes.tablesRead, functions: notes.functions }
    }
  }
  return draft
}

/** The name `a.b.c` at `at`, as it is kept in the facts, and the index after it. */
function chain(tokens: Tokens, at: number, to: number): { text: string; next: number } {
  if (at >= to || !isName(tokens, at)) return { text: '', next: at }
  let text = partText(tokens.texts[at]!)
  let next = at + 1
  while (next + 1 < to && tokens.kinds[next] === Kind.dot && isName(tokens, next + 1)) {
    text += `.${partText(tokens.texts[next + 1]!)}`
    next += 2
  }
  return { text, next }
}

function isName(tokens: Tokens, at: number): boolean {
  return tokens.kinds[at] === Kind.word || tokens.kinds[at] === Kind.quoted || tokens.kinds[at] === Kind.unicodeName
}
