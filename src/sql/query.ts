// Reads one query (SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE) token by token and notes what it
// names: tables, functions, and everything that keeps it off a standby. It is no parser: it follows parentheses
// and clauses just well enough to tell a table from a column and a call from a column list. The notes that decide
// about safety do not lean on that: an UPDATE, an INTO or a catalog name counts wherever it stands, and a name
// before a parenthesis is a function unless it is certain that it is not.

import { AGGREGATES, CALLED_BY_DOT } from './functions.ts'
import { INFIX, NOT_OPERANDS, RESERVED, SYNTAX_CALLS, words } from './keywords.ts'
import { Kind } from './scan.ts'
import type { TokenKind, Tokens } from './scan.ts'

export interface QueryNotes {
  /** `select`, `insert`, `update`, `delete`, `merge`; `''` when no statement was recognised. */
  verb: string
  tablesRead: ReadonlySet<string>
  tablesWritten: ReadonlySet<string>
  functions: ReadonlySet<string>
  /** Joins, aggregates, set operations, CTEs, windows, subqueries. */
  complex: boolean
  /** Several rows of VALUES, or INSERT … SELECT. */
  bulk: boolean
  /** FOR UPDATE, NO KEY UPDATE, SHARE, KEY SHARE, at any depth. */
  locksRows: boolean
  /** INTO anywhere: in a select it makes a table. */
  into: boolean
  /** INSERT, UPDATE, DELETE or MERGE anywhere, be it as a name. */
  modifies: boolean
  /** A relation of pg_catalog, information_schema or named pg_…. */
  catalog: boolean
  migrationTable: boolean
  /** A `U&"…"` name, which is not decoded here. */
  unicodeName: boolean
  /** pg_temp, or SELECT INTO TEMP. */
  temporary: boolean
  /** Parentheses that do not match, or deeper than anyone writes. */
  unclear: boolean
}

/** Deeper nesting is left to the server: no query of a program goes there, and state stays bounded. */
const MAX_DEPTH = 1_000

export function readQuery(tokens: Tokens, from: number, to: number): QueryNotes {
  return new QueryReader(tokens, from, to).read()
}

/** Where we stand in a list of relations: not in one, before an item, after its name, after its alias. */
type Item = 'no' | 'expected' | 'target' | 'named' | 'aliased'

type Clause = 'none' | 'with' | 'list' | 'from' | 'group' | 'values' | 'target' | 'columns' | 'other'

/** In a WITH list: before a name, after it, after AS, in the body, after the body. */
type Cte = 'no' | 'name' | 'named' | 'as' | 'body' | 'after'

/** What stood before a parenthesis; OVER and FILTER may follow only a call or another such clause. */
type Opener = 'call' | 'plain'

interface Frame {
  opener: Opener
  verb: string
  clause: Clause
  item: Item
  cte: Cte
  recursive: boolean
  /** Name of the CTE whose body is being read. */
  pending: string
  /** Names to forget when the frame closes. */
  names: string[] | null
  started: boolean
  usingSeen: boolean
}

class QueryReader {
  readonly #kinds: Tokens['kinds']
  readonly #texts: readonly string[]
  readonly #from: number
  readonly #to: number
  readonly #stack: Frame[] = []
  #frame: Frame = newFrame()
  /** Frames that were closed, to be used again: a text of a megabyte may open half a million. */
  readonly #spare: Frame[] = []
  /** Common table expressions in sight, counted because the same name may be in sight twice. */
  #ctes: Map<string, number> | null = null
  #lastClosed: Opener = 'plain'
  #selects = 0
  readonly #notes: QueryNotes = {
    verb: '',
    tablesRead: NO_NAMES,
    tablesWritten: NO_NAMES,
    functions: NO_NAMES,
    complex: false,
    bulk: false,
    locksRows: false,
    into: false,
    modifies: false,
    catalog: false,
    migrationTable: false,
    unicodeName: false,
    temporary: false,
    unclear: false,
  }

  constructor(tokens: Tokens, from: number, to: number) {
    this.#kinds = tokens.kinds
    this.#texts = tokens.texts
    this.#from = from
    this.#to = to
  }

  read(): QueryNotes {
    let at = this.#from
    while (at < this.#to && !this.#notes.unclear) at = this.#token(at)
    if (this.#stack.length > 0) this.#notes.unclear = true
    return this.#notes
  }

  /** Takes the token at `at` and what belongs to it; returns the index of the next one. */
  #token(at: number): number {
    const frame = this.#frame
    const next = this.#take(at)
    frame.started = true
    return next
  }

  #take(at: number): number {
    switch (this.#kind(at)) {
      case Kind.open:
      case Kind.openBracket:
        this.#open('plain')
        return at + 1
      case Kind.close:
      case Kind.closeBracket:
        this.#close()
        return at + 1
      case Kind.comma:
        this.#comma(at)
        return at + 1
      case Kind.cast:
        return this.#afterType(at + 1)
      case Kind.word:
        return this.#word(at)
      case Kind.quoted:
      case Kind.unicodeName:
        return this.#name(at)
      case Kind.dot:
        // `(t).into`: whatever stands behind a dot is a name. Names before a dot have taken theirs along.
        return this.#isName(at + 1) ? this.#name(at + 1) : at + 1
      default:
        // `FROM t *` is old SQL for t with its children; behind any other value there is no alias.
        if (this.#texts[at] !== '*') this.#noAlias()
        return at + 1
    }
  }

  #noAlias(): void {
    if (this.#frame.item === 'named') this.#frame.item = 'no'
  }

  #kind(at: number): TokenKind {
    return at >= this.#from && at < this.#to ? (this.#kinds[at] as TokenKind) : Kind.end
  }

  /** The folded word at `at`, or `''` when something else stands there. */
  #wordAt(at: number): string {
    return this.#kind(at) === Kind.word ? this.#texts[at]! : ''
  }

  #isName(at: number): boolean {
    const kind = this.#kind(at)
    return kind === Kind.word || kind === Kind.quoted || kind === Kind.unicodeName
  }

  #open(opener: Opener, clause: Clause = 'none'): void {
    const outer = this.#frame
    if (this.#stack.length >= MAX_DEPTH) {
      this.#notes.unclear = true
      return
    }
    const used = this.#spare.pop()
    const frame = used === undefined ? newFrame() : asNew(used)
    frame.opener = opener
    frame.clause = clause
    if (outer.item === 'expected') {
      outer.item = 'named'
      frame.item = 'expected'
      frame.clause = 'from'
    } else if (outer.item === 'target') {
      outer.item = 'no'
      frame.item = 'target'
    }
    if (outer.cte === 'as') outer.cte = 'body'
    this.#stack.push(outer)
    this.#frame = frame
  }

  #close(): void {
    const inner = this.#frame
    const outer = this.#stack.pop()
    if (outer === undefined) {
      this.#notes.unclear = true
      return
    }
    if (inner.names !== null) this.#hideCtes(inner.names)
    this.#frame = outer
    this.#lastClosed = inner.opener
    this.#spare.push(inner)
    if (outer.cte === 'body') {
      if (!outer.recursive) this.#showCte(outer.pending)
      outer.cte = 'after'
    }
  }

  #comma(at: number): void {
    const frame = this.#frame
    if (frame.cte === 'after' && frame.clause === 'with') {
      // SEARCH BY a, b and CYCLE a, b have commas of their own.
      if (this.#startsCte(at + 1)) frame.cte = 'name'
    } else if (frame.clause === 'from') {
      frame.item = 'expected'
      this.#notes.complex = true
    } else if (frame.clause === 'values' && this.#stack.length === 0 && this.#notes.verb === 'insert') {
      this.#notes.bulk = true
    }
  }

  #startsCte(at: number): boolean {
    return this.#isName(at) && (this.#wordAt(at + 1) === 'as' || this.#kind(at + 1) === Kind.open)
  }

  #showCte(name: string): void {
    this.#ctes ??= new Map()
    this.#ctes.set(name, (this.#ctes.get(name) ?? 0) + 1)
    ;(this.#frame.names ??= []).push(name)
  }

  #hideCtes(names: readonly string[]): void {
    for (const name of names) this.#ctes!.set(name, this.#ctes!.get(name)! - 1)
  }

  /** A statement may begin here: nothing came before in these parentheses but a WITH list. */
  #fresh(): boolean {
    return !this.#frame.started || this.#frame.cte === 'after'
  }

  #begin(verb: string): void {
    const frame = this.#frame
    if (frame.verb === '') frame.verb = verb
    if (this.#notes.verb === '' && this.#stack.every((outer) => outer.verb === '' && outer.cte !== 'body')) {
      this.#notes.verb = verb
    }
    frame.cte = 'no'
  }

  #clause(clause: Clause, item: Item = 'no'): void {
    this.#frame.clause = clause
    this.#frame.item = item
  }

  #word(at: number): number {
    const word = this.#texts[at]!
    if (this.#kind(at + 1) === Kind.dot || this.#frame.cte === 'name') {
      if (!(this.#frame.cte === 'name' && word === 'recursive' && !this.#afterNameOfCte(at))) return this.#name(at)
      this.#frame.recursive = true
      return at + 1
    }
    const keyword = KEYWORDS.get(word)
    const next = keyword === undefined ? -1 : this.#keyword(keyword, at)
    return next < 0 ? this.#name(at) : next
  }

  #afterNameOfCte(at: number): boolean {
    return this.#wordAt(at + 1) === 'as' || this.#kind(at + 1) === Kind.open
  }

  /** Index after the keyword, or -1 when the word is a name here. */
  #keyword(word: string, at: number): number {
    const frame = this.#frame
    const notes = this.#notes
    switch (word) {
      case 'select':
        if (++this.#selects > 1) notes.complex = true
        this.#insertedFrom()
        this.#begin('select')
        this.#clause('list')
        return at + 1
      case 'values':
        if (this.#kind(at + 1) !== Kind.open) return at + 1
        this.#begin('select')
        this.#clause('values')
        return at + 1
      case 'table':
        if (frame.item === 'target') return at + 1
        this.#insertedFrom()
        this.#begin('select')
        this.#clause('from', 'expected')
        return at + 1
      case 'with':
        return this.#with(at)
      case 'insert':
      case 'merge':
      case 'update':
      case 'delete':
        return this.#modification(word, at)
      case 'into':
        notes.into = true
        this.#clause('target', 'target')
        return at + 1
      case 'from':
        return this.#fromClause(at)
      case 'join':
        // In `ON join(a)` it is somebody's function.
        if (frame.clause !== 'from' || frame.item === 'expected' || !this.#afterOperand(at)) return -1
        notes.complex = true
        frame.item = 'expected'
        return at + 1
      case 'using':
        if ((frame.verb === 'delete' || frame.verb === 'merge') && !frame.usingSeen) {
          frame.usingSeen = true
          notes.complex = true
          this.#clause('from', 'expected')
        }
        return at + 1
      case 'on':
        if (frame.clause === 'from') frame.item = 'no'
        else frame.clause = frame.clause === 'values' ? 'other' : frame.clause
        return at + 1
      case 'union':
      case 'intersect':
      case 'except':
        notes.complex = true
        this.#clause('other')
        return at + 1
      case 'group':
        notes.complex = true
        if (this.#wordAt(at - 1) === 'within' && this.#kind(at + 1) === Kind.open) {
          this.#open('call')
          return at + 2
        }
        this.#clause('group')
        return at + 1
      case 'having':
      case 'window':
        notes.complex = true
        this.#clause('other')
        return at + 1
      case 'where':
      case 'order':
      case 'limit':
      case 'offset':
      case 'fetch':
      case 'returning':
      case 'for':
        // Calls have an ORDER BY of their own; only the statement's clauses end its lists.
        if (frame.verb !== '') this.#clause('other')
        return at + 1
      case 'when':
        // CASE has its WHEN too, in the middle of an ON.
        if (frame.verb === 'merge') this.#clause('other')
        return at + 1
      case 'rows':
        return frame.item === 'expected' && this.#wordAt(at + 1) === 'from' ? at + 2 : -1
      case 'set':
        if (frame.verb === '' || frame.verb === 'select') return -1
        this.#clause('other')
        return at + 1
      case 'share':
      case 'key':
      case 'no':
        if (this.#wordAt(at - 1) !== 'for') return -1
        notes.locksRows = true
        return at + 1
      case 'temp':
      case 'temporary':
        if (frame.item !== 'target' || frame.verb !== 'select') return -1
        notes.temporary = true
        return at + 1
      case 'unlogged':
      case 'local':
      case 'global':
        return frame.item === 'target' && frame.verb === 'select' ? at + 1 : -1
      case 'as':
        return this.#as(at)
      case 'operator':
        return this.#kind(at + 1) === Kind.open ? this.#operator(at) : -1
      default:
        return this.#otherKeyword(word, at)
    }
  }

  #otherKeyword(word: string, at: number): number {
    if (RESERVED.has(word)) {
      this.#noAlias()
      return at + 1
    }
    if (this.#kind(at + 1) === Kind.open || !INFIX.has(word)) return -1
    if (!BEFORE_JOIN.has(word)) this.#noAlias()
    return at + 1
  }

  #insertedFrom(): void {
    const outer = this.#stack.length === 0 ? this.#frame : this.#stack.length === 1 ? this.#stack[0]! : null
    if (outer?.verb === 'insert' && outer.clause === 'target') this.#notes.bulk = true
  }

  #with(at: number): number {
    const next = this.#wordAt(at + 1)
    if (next === 'ordinality' && this.#frame.clause === 'from') return at + 2
    const zone = next === 'time' && this.#wordAt(at + 2) === 'zone'
    if (zone || !(this.#startsCte(at + 1) || (next === 'recursive' && this.#startsCte(at + 2)))) return at + 1
    this.#notes.complex = true
    this.#frame.cte = 'name'
    this.#frame.recursive = false
    this.#insertedFrom()
    this.#clause('with')
    return at + 1
  }

  #modification(word: string, at: number): number {
    const notes = this.#notes
    const before = this.#wordAt(at - 1)
    if (word === 'update' && (before === 'for' || before === 'key')) {
      notes.locksRows = true
      return at + 1
    }
    // `delete(a, 'b')` is somebody's function, of hstore for one.
    if (this.#kind(at + 1) === Kind.open && before !== 'then') return -1
    notes.modifies = true
    if (this.#fresh()) {
      this.#begin(word)
      this.#clause('target', word === 'update' ? 'target' : 'no')
      return at + 1
    }
    // `WHEN NOT MATCHED THEN INSERT (a, b)` and `DO UPDATE`; anywhere else it is somebody's odd name.
    return before === 'then' || before === 'do' ? at + 1 : -1
  }

  #fromClause(at: number): number {
    const frame = this.#frame
    const before = this.#wordAt(at - 1)
    const distinct = before === 'distinct' && ['is', 'not'].includes(this.#wordAt(at - 2))
    if (distinct || frame.verb === '') return at + 1
    if (frame.verb === 'delete' && frame.clause === 'target') frame.item = 'target'
    else this.#clause('from', 'expected')
    return at + 1
  }

  /** After AS stands a label, an alias or a type, whatever keyword it looks like, or the body of a CTE. */
  #as(at: number): number {
    const frame = this.#frame
    if (frame.cte === 'named') {
      frame.cte = 'as'
      let next = at + 1
      if (this.#wordAt(next) === 'not') next++
      if (this.#wordAt(next) === 'materialized') next++
      return next
    }
    if (!this.#isName(at + 1)) return at + 1
    if (frame.item === 'named') frame.item = 'aliased'
    return this.#afterType(at + 1)
  }

  /** Skips a type or label with its dots and its modifier, none of which is a call. */
  #afterType(at: number): number {
    if (!this.#isName(at)) return at
    const end = this.#endOfChain(at)
    for (let part = at; part <= end; part++) this.#noteTemporary(part)
    if (this.#kind(end + 1) === Kind.open) {
      this.#open('plain')
      return end + 2
    }
    return end + 1
  }

  /** OPERATOR(pg_catalog.+); an operator of any other schema may be anybody's function. */
  #operator(at: number): number {
    let next = at + 2
    if (this.#wordAt(next) === 'pg_catalog' && this.#kind(next + 1) === Kind.dot) next += 2
    if (this.#kind(next) !== Kind.operator || this.#kind(next + 1) !== Kind.close) {
      this.#notes.functions = withName(this.#notes.functions, 'operator')
      return at + 1
    }
    return next + 2
  }

  /** Index of the last token of `a.b.c`. */
  #endOfChain(at: number): number {
    let end = at
    while (this.#kind(end + 1) === Kind.dot && this.#isName(end + 2)) end += 2
    return end
  }

  #name(at: number): number {
    const frame = this.#frame
    const end = this.#endOfChain(at)
    const called = this.#kind(end + 1) === Kind.open
    this.#noteNames(at, end, called)
    if (frame.cte === 'name') {
      this.#nameCte(at)
    } else if (frame.item === 'target') {
      this.#notes.tablesWritten = withName(this.#notes.tablesWritten, this.#chainText(at, end))
      frame.item = 'no'
    } else if (called && this.#isCall(at, end)) {
      this.#call(at, end)
      if (frame.item === 'expected') frame.item = 'named'
      this.#open('call')
      return end + 2
    } else if (frame.item === 'expected' && !called) {
      this.#relation(at, end)
    } else if (frame.item === 'named') {
      frame.item = 'aliased'
    }
    if (!called) return end + 1
    if (frame.item === 'expected') frame.item = 'named'
    const word = at === end ? this.#wordAt(at) : ''
    this.#open(SYNTAX_CALLS.has(word) || word === 'filter' ? 'call' : 'plain', CLAUSE_INSIDE.get(word))
    return end + 2
  }

  #nameCte(at: number): void {
    const frame = this.#frame
    frame.pending = this.#texts[at]!
    frame.cte = 'named'
    if (frame.recursive) this.#showCte(frame.pending)
  }

  #relation(at: number, end: number): void {
    this.#frame.item = 'named'
    const name = this.#chainText(at, end)
    if (end === at && (this.#ctes?.get(name) ?? 0) > 0) return
    this.#notes.tablesRead = withName(this.#notes.tablesRead, name)
  }

  #call(at: number, end: number): void {
    const name = this.#chainText(at, end)
    this.#notes.functions = withName(this.#notes.functions, name)
    if (AGGREGATES.has(this.#texts[end]!)) this.#notes.complex = true
  }

  #chainText(at: number, end: number): string {
    let text = partText(this.#texts[at]!)
    for (let part = at + 2; part <= end; part += 2) text += `.${partText(this.#texts[part]!)}`
    return text
  }

  /** Catalog and migration tables are known by their names, wherever a name may mean them. */
  #noteNames(at: number, end: number, called: boolean): void {
    for (let part = at; part <= end; part += 2) {
      const text = this.#texts[part]!
      if (this.#kind(part) === Kind.unicodeName) this.#noteUnicode(part)
      if (!called && part === end && this.#kind(part - 1) === Kind.dot && CALLED_BY_DOT.has(text)) {
        this.#notes.functions = withName(this.#notes.functions, text)
      }
      const first = text.charCodeAt(0)
      if (first === LETTER_I && text === 'information_schema') this.#notes.catalog = true
      if (first === LETTER_K && MIGRATION_TABLES.has(text)) this.#notes.migrationTable = true
      if (first !== LETTER_P || !text.startsWith('pg_')) continue
      this.#noteTemporary(part)
      const isFunction = called && part === end && this.#frame.item !== 'target'
      const qualifies = called && part === at && text === 'pg_catalog'
      const collates = this.#wordAt(at - 1) === 'collate'
      if (!isFunction && !qualifies && !collates) this.#notes.catalog = true
    }
  }

  #noteUnicode(part: number): void {
    this.#notes.unicodeName = true
    // An escape character of one's own: what the name is, and whether it is called, stands behind it.
    if (this.#wordAt(part + 1) === 'uescape') this.#notes.unclear = true
  }

  #noteTemporary(part: number): void {
    if (this.#isName(part) && this.#texts[part]!.startsWith('pg_temp')) this.#notes.temporary = true
  }

  /** False only where the grammar leaves no room for a function. */
  #isCall(at: number, end: number): boolean {
    if (end > at) return true
    if (this.#kind(at) !== Kind.word) return this.#frame.item !== 'named' || this.#wordAt(at - 1) === 'tablesample'
    const word = this.#texts[at]!
    if (SYNTAX_CALLS.has(word)) return false
    const before = this.#wordAt(at - 1)
    switch (word) {
      case 'by':
        return !['order', 'group', 'partition'].includes(before)
      case 'over':
        this.#notes.complex = true
        return !this.#afterCall(at)
      case 'filter':
        return !this.#afterCall(at)
      case 'like':
      case 'ilike':
      case 'overlaps':
        return !this.#afterOperand(at)
      case 'join':
        return true
      case 'sets':
        return before !== 'grouping'
      case 'cube':
      case 'rollup':
        return !this.#startsGroupingItem(at)
      case 'zone':
        return !(before === 'time' && this.#wordAt(at - 2) === 'at')
      case 'first':
      case 'next':
        return before !== 'fetch'
      case 'columns':
        return !(this.#frame.clause === 'columns' && this.#afterOperand(at))
      case 'second':
        // INTERVAL … DAY TO SECOND (3)
        return !(before === 'to' && ['day', 'hour', 'minute'].includes(this.#wordAt(at - 2)))
      case 'varying':
        return !['character', 'char', 'nchar', 'bit'].includes(before)
      case 'system':
      case 'bernoulli':
        return before !== 'tablesample'
      case 'repeatable':
        return !(this.#kind(at - 1) === Kind.close && this.#frame.clause === 'from')
      case 'conflict':
        return !(before === 'on' && this.#frame.verb === 'insert')
      default:
        return this.#frame.item !== 'named' || before === 'tablesample'
    }
  }

  /** OVER and FILTER follow a call; after DISTINCT ON (…) they would be names. */
  #afterCall(at: number): boolean {
    return this.#kind(at - 1) === Kind.close && this.#lastClosed === 'call'
  }

  #afterOperand(at: number): boolean {
    const before = this.#wordAt(at - 1) === 'not' ? at - 2 : at - 1
    const kind = this.#kind(before)
    if (kind === Kind.word) return this.#kind(before - 1) === Kind.dot || !NOT_OPERANDS.has(this.#texts[before]!)
    return kind === Kind.quoted || kind === Kind.literal || kind === Kind.close || kind === Kind.closeBracket
  }

  #startsGroupingItem(at: number): boolean {
    if (this.#frame.clause !== 'group') return false
    const kind = this.#kind(at - 1)
    const before = this.#wordAt(at - 1)
    // The parentheses of GROUPING SETS keep the clause; all others lose it, and CUBE in them is a function.
    return kind === Kind.comma || kind === Kind.open || before === 'by' || before === 'distinct' || before === 'all'
  }
}

const MIGRATION_TABLES: ReadonlySet<string> = new Set(['kysely_migration', 'kysely_migration_lock'])

// Almost no name begins like one of those that are looked for.
const LETTER_I = 0x69
const LETTER_K = 0x6b
const LETTER_P = 0x70

/**
 * All that `#keyword` knows, asked first because most words are plain names. The answer is the word once more, as the
 * key of an object, of which there is one copy: two such strings are told apart without reading them.
 */
const KEYWORDS: ReadonlyMap<string, string> = new Map(
  Object.keys(
    Object.fromEntries(
      [
        ...RESERVED,
        ...INFIX,
        ...words(
          `values insert merge update delete rows set share key no temp temporary unlogged local global operator`,
        ),
      ].map((word) => [word, word]),
    ),
  ).map((word) => [word, word]),
)

/** Words that mean something special inside these parentheses: CUBE in GROUPING SETS, COLUMNS in JSON_TABLE. */
const CLAUSE_INSIDE: ReadonlyMap<string, Clause> = new Map([
  // CUBE and ROLLUP hold expressions alone: inside them CUBE is a function.
  ['sets', 'group'],
  ['json_table', 'columns'],
  ['columns', 'columns'],
])

const BEFORE_JOIN: ReadonlySet<string> = new Set(words('cross full inner left natural outer right tablesample'))

/** One part of a name; quotes stay where a dot inside would pass for two parts. */
export function partText(text: string): string {
  return text.includes('.') ? `"${text}"` : text
}

const NO_NAMES: ReadonlySet<string> = new Set()

/** Most statements name nothing of most kinds: a set is made for the first name. */
function withName(names: ReadonlySet<string>, name: string): ReadonlySet<string> {
  if (names === NO_NAMES) return new Set([name])
  return (names as Set<string>).add(name)
}

function newFrame(): Frame {
  return {
    opener: 'plain',
    verb: '',
    clause: 'none',
    item: 'no',
    cte: 'no',
    recursive: false,
    pending: '',
    names: null,
    started: false,
    usingSeen: false,
  }
}

/** All but what is set where it begins to matter. */
function asNew(frame: Frame): Frame {
  frame.verb = ''
  frame.item = 'no'
  frame.cte = 'no'
  frame.names = null
  frame.started = false
  frame.usingSeen = false
  return frame
}
