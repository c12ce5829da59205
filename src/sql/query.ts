// Reads one query (SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE) token by token and notes what it
// names: tables, functions, and everything that keeps it off a standby. It is no parser: it follows parentheses
// and clauses just well enough to tell a table from a column and a call from a column list. The notes that decide
// about safety do not lean on that: an UPDATE, an INTO or a catalog name counts wherever it stands, and a name
// before a parenthesis is a function unless it is certain that it is not.

import { AGGREGATES } from './functions.ts'
import { INFIX, RESERVED, SYNTAX_CALLS } from './keywords.ts'
import type { TokenKind, Tokens } from './scan.ts'

export interface QueryNotes {
  /** `select`, `insert`, `update`, `delete`, `merge`; `''` when no statement was recognised. */
  verb: string
  readonly tablesRead: Set<string>
  readonly tablesWritten: Set<string>
  readonly functions: Set<string>
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

type Clause = 'none' | 'with' | 'list' | 'from' | 'group' | 'values' | 'target' | 'other'

/** In a WITH list: before a name, after it, in its body, after its body. */
type Cte = 'no' | 'name' | 'as' | 'body' | 'after'

/** What stood before a parenthesis; OVER and FILTER may follow only a call or another such clause. */
type Opener = 'call' | 'plain'

interface Frame {
  readonly opener: Opener
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
  readonly #kinds: readonly TokenKind[]
  readonly #texts: readonly string[]
  readonly #from: number
  readonly #to: number
  readonly #stack: Frame[] = []
  #frame: Frame = newFrame('plain')
  /** Common table expressions in sight, counted because the same name may be in sight twice. */
  readonly #ctes = new Map<string, number>()
  #lastClosed: Opener = 'plain'
  #selects = 0
  readonly #notes: QueryNotes = {
    verb: '',
    tablesRead: new Set(),
    tablesWritten: new Set(),
    functions: new Set(),
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
    switch (this.#kind(at)) {
      case '(':
        this.#open('plain')
        return at + 1
      case ')':
        this.#close()
        return at + 1
      case ',':
        this.#comma(at)
        return at + 1
      case '::':
        return this.#afterType(at + 1)
      case 'word':
        return this.#word(at)
      case 'quoted':
      case 'unicode-name':
        return this.#name(at)
      default:
        return at + 1
    }
  }

  // Past the end there are no kinds and no texts, and nothing below asks for the difference.
  #kind(at: number): TokenKind | undefined {
    return at >= this.#from && at < this.#to ? this.#kinds[at] : undefined
  }

  /** The folded word at `at`, or `''` when something else stands there. */
  #wordAt(at: number): string {
    return this.#kind(at) === 'word' ? this.#texts[at]! : ''
  }

  #isName(at: number): boolean {
    const kind = this.#kind(at)
    return kind === 'word' || kind === 'quoted' || kind === 'unicode-name'
  }

  #open(opener: Opener): void {
    const outer = this.#frame
    if (this.#stack.length >= MAX_DEPTH) {
      this.#notes.unclear = true
      return
    }
    const frame = newFrame(opener)
    if (outer.item === 'expected') {
      outer.item = 'named'
      frame.item = 'expected'
      frame.clause = 'from'
    }
    if (outer.clause === 'group') frame.clause = 'group'
    if (outer.cte === 'as' && opener === 'plain' && outer.pending !== '' && outer.clause === 'with') outer.cte = 'body'
    this.#start(outer)
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
    for (const name of inner.names ?? []) this.#ctes.set(name, this.#ctes.get(name)! - 1)
    this.#frame = outer
    this.#lastClosed = inner.opener
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
    return this.#isName(at) && (this.#wordAt(at + 1) === 'as' || this.#kind(at + 1) === '(')
  }

  #showCte(name: string): void {
    this.#ctes.set(name, (this.#ctes.get(name) ?? 0) + 1)
    ;(this.#frame.names ??= []).push(name)
  }

  /** A statement may begin here: nothing came before in these parentheses but a WITH list. */
  #fresh(): boolean {
    return !this.#frame.started || this.#frame.cte === 'after'
  }

  #start(frame: Frame): void {
    frame.started = true
  }

  #begin(verb: string): void {
    const frame = this.#frame
    if (frame.verb === '') frame.verb = verb
    if (this.#notes.verb === '' && this.#stack.every((outer) => outer.verb === '' && outer.cte === 'no')) {
      this.#notes.verb = verb
    }
    frame.cte = 'no'
    this.#start(frame)
  }

  #clause(clause: Clause, item: Item = 'no'): void {
    this.#frame.clause = clause
    this.#frame.item = item
  }

  #word(at: number): number {
    const word = this.#texts[at]!
    if (this.#kind(at + 1) === '.' || this.#frame.cte === 'name') {
      if (!(this.#frame.cte === 'name' && word === 'recursive' && !this.#afterNameOfCte(at))) return this.#name(at)
      this.#frame.recursive = true
      return at + 1
    }
    const next = this.#keyword(word, at)
    if (next < 0) return this.#name(at)
    this.#start(this.#frame)
    return next
  }

  #afterNameOfCte(at: number): boolean {
    return this.#wordAt(at + 1) === 'as' || this.#kind(at + 1) === '('
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
        if (this.#wordAt(at - 1) === 'default') return at + 1
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
        if (frame.clause !== 'from' || frame.item === 'expected') return -1
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
      case 'when':
      case 'for':
        // CASE has its WHEN and calls have their ORDER BY: only a statement's own clauses end its lists.
        if (frame.verb !== '') this.#clause('other')
        return at + 1
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
        if (frame.item !== 'target') return -1
        notes.temporary = true
        return at + 1
      case 'unlogged':
      case 'local':
      case 'global':
        return frame.item === 'target' && this.#isName(at + 1) ? at + 1 : -1
      case 'as':
        return this.#as(at)
      case 'operator':
        return this.#kind(at + 1) === '(' ? this.#operator(at) : -1
      default:
        return RESERVED.has(word) || (INFIX.has(word) && this.#kind(at + 1) !== '(') ? at + 1 : -1
    }
  }

  #insertedFrom(): void {
    const outer = this.#stack.length === 0 ? this.#frame : this.#stack.length === 1 ? this.#stack[0]! : null
    if (outer?.verb === 'insert' && outer.clause === 'target') this.#notes.bulk = true
  }

  #with(at: number): number {
    const next = this.#wordAt(at + 1)
    const zone = next === 'time' && this.#wordAt(at + 2) === 'zone'
    if (zone || !(this.#startsCte(at + 1) || (next === 'recursive' && this.#startsCte(at + 2)))) return at + 1
    this.#notes.complex = true
    this.#frame.cte = 'name'
    this.#frame.recursive = false
    // INSERT INTO t WITH … SELECT keeps its clause, so that the select is seen to feed the insert.
    if (this.#frame.verb === 'insert') this.#insertedFrom()
    this.#frame.clause = 'with'
    this.#frame.item = 'no'
    return at + 1
  }

  #modification(word: string, at: number): number {
    const notes = this.#notes
    notes.modifies = true
    if (word === 'update' && this.#wordAt(at - 1) === 'for') {
      notes.locksRows = true
      return at + 1
    }
    if (word === 'update' && this.#wordAt(at - 1) === 'key') {
      notes.locksRows = true
      return at + 1
    }
    if (this.#fresh()) {
      this.#begin(word)
      this.#clause('target', word === 'update' ? 'target' : 'no')
      return at + 1
    }
    // `WHEN NOT MATCHED THEN INSERT (a, b)` and `DO UPDATE`; anywhere else it is somebody's odd name.
    const before = this.#wordAt(at - 1)
    return before === 'then' || before === 'do' ? at + 1 : -1
  }

  #fromClause(at: number): number {
    const frame = this.#frame
    const before = this.#wordAt(at - 1)
    const distinct = before === 'distinct' && ['is', 'not'].includes(this.#wordAt(at - 2))
    if (distinct || frame.verb === '') return at + 1
    if (before === 'rows' && frame.item === 'expected') return at + 1
    if (frame.verb === 'delete' && frame.clause === 'target') frame.item = 'target'
    else this.#clause('from', 'expected')
    return at + 1
  }

  /** After AS stands a label, an alias or a type, whatever keyword it looks like, or the body of a CTE. */
  #as(at: number): number {
    const frame = this.#frame
    if (frame.cte === 'as') {
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
    let end = this.#endOfChain(at)
    const word = this.#wordAt(at)
    const next = this.#wordAt(end + 1)
    if (
      (word === 'double' && next === 'precision') ||
      (next === 'varying' && ['character', 'char', 'nchar', 'bit'].includes(word)) ||
      (word === 'national' && (next === 'character' || next === 'char'))
    ) {
      end++
      if (word === 'national' && this.#wordAt(end + 1) === 'varying') end++
    }
    for (let part = at; part <= end; part++) this.#noteTemporary(part)
    if (this.#kind(end + 1) === '(') {
      this.#open('plain')
      return end + 2
    }
    return end + 1
  }

  /** OPERATOR(pg_catalog.+); an operator of any other schema may be anybody's function. */
  #operator(at: number): number {
    let next = at + 2
    if (this.#wordAt(next) === 'pg_catalog' && this.#kind(next + 1) === '.') next += 2
    if (this.#kind(next) !== 'operator' || this.#kind(next + 1) !== ')') {
      this.#notes.functions.add('operator')
      return at + 1
    }
    return next + 2
  }

  /** Index of the last token of `a.b.c`. */
  #endOfChain(at: number): number {
    let end = at
    while (this.#kind(end + 1) === '.' && this.#isName(end + 2)) end += 2
    return end
  }

  #name(at: number): number {
    const frame = this.#frame
    const end = this.#endOfChain(at)
    const called = this.#kind(end + 1) === '('
    this.#noteNames(at, end, called)
    if (frame.cte === 'name') {
      this.#nameCte(at)
    } else if (frame.item === 'target') {
      this.#notes.tablesWritten.add(this.#chainText(at, end))
      frame.item = 'no'
    } else if (called && this.#isCall(at, end)) {
      this.#call(at, end)
      if (frame.item === 'expected') frame.item = 'named'
      this.#start(frame)
      this.#open('call')
      return end + 2
    } else if (frame.item === 'expected' && !called) {
      this.#relation(at, end)
    } else if (frame.item === 'named') {
      frame.item = 'aliased'
    }
    this.#start(frame)
    if (!called) return end + 1
    this.#open(this.#opensCall(at, end) ? 'call' : 'plain')
    return end + 2
  }

  #nameCte(at: number): void {
    const frame = this.#frame
    frame.pending = this.#texts[at]!
    frame.cte = 'as'
    if (frame.recursive) this.#showCte(frame.pending)
  }

  #relation(at: number, end: number): void {
    this.#frame.item = 'named'
    const name = this.#chainText(at, end)
    if (end === at && (this.#ctes.get(name) ?? 0) > 0) return
    this.#notes.tablesRead.add(name)
  }

  #call(at: number, end: number): void {
    const name = this.#chainText(at, end)
    this.#notes.functions.add(name)
    if (AGGREGATES.has(this.#texts[end]!)) this.#notes.complex = true
  }

  #chainText(at: number, end: number): string {
    if (at === end) return this.#texts[at]!
    let text = this.#texts[at]!
    for (let part = at + 2; part <= end; part += 2) text += `.${this.#texts[part]!}`
    return text
  }

  /** Catalog and migration tables are known by their names, wherever a name may mean them. */
  #noteNames(at: number, end: number, called: boolean): void {
    for (let part = at; part <= end; part += 2) {
      const text = this.#texts[part]!
      if (this.#kind(part) === 'unicode-name') this.#notes.unicodeName = true
      if (text === 'information_schema') this.#notes.catalog = true
      if (text === 'kysely_migration' || text === 'kysely_migration_lock') this.#notes.migrationTable = true
      if (!text.startsWith('pg_')) continue
      this.#noteTemporary(part)
      const isFunction = called && part === end && this.#frame.item !== 'target'
      const qualifies = called && part === at && text === 'pg_catalog'
      const collates = this.#wordAt(at - 1) === 'collate'
      if (!isFunction && !qualifies && !collates) this.#notes.catalog = true
    }
  }

  #noteTemporary(part: number): void {
    if (this.#isName(part) && this.#texts[part]!.startsWith('pg_temp')) this.#notes.temporary = true
  }

  /** False only where the grammar leaves no room for a function. */
  #isCall(at: number, end: number): boolean {
    if (end > at || this.#kind(at) !== 'word') return this.#frame.item !== 'named'
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
        return this.#frame.item === 'expected' || this.#frame.clause !== 'from'
      case 'sets':
        return before !== 'grouping'
      case 'cube':
      case 'rollup':
        return !this.#startsGroupingItem(at)
      case 'zone':
        return !(before === 'time' && this.#wordAt(at - 2) === 'at')
      case 'varying':
        return !['character', 'char', 'nchar', 'bit'].includes(before)
      case 'system':
      case 'bernoulli':
        return before !== 'tablesample'
      case 'repeatable':
        return !(this.#kind(at - 1) === ')' && this.#frame.clause === 'from')
      case 'conflict':
        return !(before === 'on' && this.#frame.verb === 'insert')
      case 'insert':
        return before !== 'then'
      case 'set':
        return this.#frame.verb === '' || this.#frame.verb === 'select'
      default:
        return this.#frame.item !== 'named' || before === 'tablesample'
    }
  }

  /** Syntax like COALESCE(…), or FILTER and WITHIN GROUP, which OVER may follow. */
  #opensCall(at: number, end: number): boolean {
    return at === end && (SYNTAX_CALLS.has(this.#wordAt(at)) || this.#wordAt(at) === 'filter')
  }

  /** OVER and FILTER follow a call; after DISTINCT ON (…) they would be names. */
  #afterCall(at: number): boolean {
    return this.#kind(at - 1) === ')' && this.#lastClosed === 'call'
  }

  #afterOperand(at: number): boolean {
    const before = this.#wordAt(at - 1) === 'not' ? at - 2 : at - 1
    const kind = this.#kind(before)
    if (kind === 'word') return this.#kind(before - 1) === '.' || !NOT_OPERANDS.has(this.#texts[before]!)
    return kind === 'quoted' || kind === 'literal' || kind === ')' || kind === ']'
  }

  #startsGroupingItem(at: number): boolean {
    if (this.#frame.clause !== 'group') return false
    const kind = this.#kind(at - 1)
    const before = this.#wordAt(at - 1)
    return kind === ',' || kind === '(' || before === 'by' || before === 'distinct' || before === 'all'
  }
}

/** Words before LIKE that do not end a value: it may be a function's name behind them. */
const NOT_OPERANDS: ReadonlySet<string> = new Set([
  ...RESERVED,
  ...'at by escape filter key local over passing range rows value zone between'.split(' '),
])

function newFrame(opener: Opener): Frame {
  return {
    opener,
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
