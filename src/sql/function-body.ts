// Reads the source of a function the way a statement is read: what is not positively recognised as reading is not.
// SQL bodies are statements and are judged as such. PL/pgSQL is followed token by token: nothing in it may begin a
// statement but what the language itself controls, a query, or an assignment, and every name before a parenthesis is
// a call. What the calls do is not asked here: the source names them, the catalog knows them.

import type { FunctionBody } from '../core/catalog-snapshot.ts'
import type { Facts } from '../core/types.ts'
import { judge } from './facts.ts'
import { RESERVED, SYNTAX_CALLS, words } from './keywords.ts'
import { partText } from './query.ts'
import { Kind, scan } from './scan.ts'
import type { Tokens } from './scan.ts'

const UNREADABLE: FunctionBody = { reading: false, calls: [], reads: null }

/** The body of a function in SQL: a text of statements, `RETURN …`, or `BEGIN ATOMIC … END`. */
export function readSqlBody(source: string): FunctionBody {
  const tokens = scan(source)
  if (tokens.doubt !== null) return UNREADABLE
  const statements = statementsOf(tokens)
  const calls = new Set<string>()
  const reads = new Set<string>()
  let reading = true
  for (const facts of statements) {
    reading &&= onlyReads(facts)
    for (const name of facts.functions) calls.add(name)
    for (const name of facts.tablesRead) reads.add(name)
  }
  return { reading, calls: [...calls], reads: reading ? [...reads] : null }
}

/** An expression: what a policy asks, what stands for an argument that is left out. */
export function readExpressions(expressions: string): Facts {
  return judge(selecting(scan(expressions)))
}

/** It reads, whatever it calls. */
function onlyReads({ kind, safeOnReplica, because }: Facts): boolean {
  if (kind !== 'read_simple' && kind !== 'read_complex') return false
  return safeOnReplica || because === 'unknown function' || because === 'function stays on the primary'
}

function statementsOf(tokens: Tokens): Facts[] {
  const first = textAt(tokens, 0)
  if (first === 'return') return [judge(selecting(slice(tokens, 1, tokens.texts.length)))]
  const atomic = first === 'begin' && textAt(tokens, 1) === 'atomic'
  const last = tokens.texts.length - (atomic && textAt(tokens, tokens.texts.length - 1) === 'end' ? 1 : 0)
  const statements: Facts[] = []
  let from = atomic ? 2 : 0
  let depth = 0
  for (let at = from; at <= last; at++) {
    const kind = at === last ? Kind.semicolon : tokens.kinds[at]
    if (kind === Kind.open) depth++
    else if (kind === Kind.close) depth--
    if (kind !== Kind.semicolon || (depth > 0 && at < last)) continue
    if (at > from) statements.push(judge(slice(tokens, from, at)))
    from = at + 1
  }
  return statements
}

function slice({ kinds, texts }: Tokens, from: number, to: number): Tokens {
  const some = new Uint8Array(to - from + 1)
  some.set(kinds.subarray(from, to))
  return { kinds: some, texts: texts.slice(from, to), semicolons: 0, doubt: null }
}

function selecting({ kinds, texts, doubt }: Tokens): Tokens {
  const more = new Uint8Array(texts.length + 2)
  more[0] = Kind.word
  more.set(kinds.subarray(0, texts.length), 1)
  return { kinds: more, texts: ['select', ...texts], semicolons: 0, doubt }
}

function textAt({ kinds, texts }: Tokens, at: number): string {
  return kinds[at] === Kind.word ? texts[at]! : ''
}

/** The body of a function in PL/pgSQL. */
export function readPlpgsqlBody(source: string): FunctionBody {
  const tokens = scan(source)
  return tokens.doubt === null ? new PlpgsqlReader(tokens).read() : UNREADABLE
}

/** What a statement of the language may begin with; all else that begins one is SQL or an assignment. */
const CONTROL: ReadonlySet<string> = new Set(
  words(`assert begin case continue declare else elseif elsif end exception exit for foreach get if loop null perform
    raise return select values when while with`),
)

/** What SQL may begin with, and does not only read. */
const COMMANDS: ReadonlySet<string> = new Set(
  words(`abort alter analyse analyze call checkpoint close cluster comment commit copy create deallocate delete discard
    do drop execute explain fetch grant import insert listen load lock merge move notify open prepare reassign refresh
    reindex release reset revoke rollback savepoint security set show start truncate unlisten update vacuum`),
)

/** Wherever they stand: EXECUTE runs a text that nobody sees, the others change rows, in WITH as well. */
const NOWHERE: ReadonlySet<string> = new Set(words('delete execute insert merge update'))

/** Words after which a statement of the language begins; in CASE also a value. */
const BEFORE_STATEMENT: ReadonlySet<string> = new Set(words('begin declare else loop then'))

/** Words of a clause that ends a list of relations. */
const AFTER_RELATIONS: ReadonlySet<string> = new Set(
  words(`where group order limit offset having union intersect except fetch for loop then window returning select`),
)

const CALLS_OF_THE_LANGUAGE: ReadonlySet<string> = new Set(words('elseif elsif if perform return while'))

class PlpgsqlReader {
  readonly #kinds: Tokens['kinds']
  readonly #texts: readonly string[]
  readonly #calls = new Set<string>()
  readonly #reads = new Set<string>()
  #reading = true
  #declaring = false
  /** By depth of parentheses: between FROM and the next clause, and whether a relation is to come. */
  #relations: ('none' | 'coming' | 'named')[] = ['none']

  constructor({ kinds, texts }: Tokens) {
    this.#kinds = kinds
    this.#texts = texts
  }

  read(): FunctionBody {
    let at = 0
    while (at < this.#texts.length) at = this.#take(at)
    return { reading: this.#reading, calls: [...this.#calls], reads: this.#reading ? [...this.#reads] : null }
  }

  #take(at: number): number {
    switch (this.#kinds[at]) {
      case Kind.open:
        this.#relations.push(this.#comes() ? 'coming' : 'none')
        return at + 1
      case Kind.close:
        if (this.#relations.length > 1) this.#relations.pop()
        if (this.#comes()) this.#is('named')
        return at + 1
      case Kind.comma:
        if (this.#relations.at(-1) === 'named') this.#is('coming')
        return at + 1
      case Kind.semicolon:
        this.#relations = ['none']
        return at + 1
      case Kind.cast:
        return this.#type(at + 1)
      case Kind.word:
      case Kind.quoted:
      case Kind.unicodeName:
        return this.#name(at)
      default:
        return at + 1
    }
  }

  #comes(): boolean {
    return this.#relations.at(-1) === 'coming'
  }

  #is(state: 'none' | 'coming' | 'named'): void {
    this.#relations[this.#relations.length - 1] = state
  }

  #isName(at: number): boolean {
    const kind = this.#kinds[at]
    return kind === Kind.word || kind === Kind.quoted || kind === Kind.unicodeName
  }

  #word(at: number): string {
    return at >= 0 && this.#kinds[at] === Kind.word ? this.#texts[at]! : ''
  }

  /** `::numeric(10, 2)` calls nothing. */
  #type(at: number): number {
    if (!this.#isName(at)) return at
    const end = this.#endOfChain(at)
    if (this.#kinds[end + 1] !== Kind.open) return end + 1
    this.#relations.push('none')
    return end + 2
  }

  #endOfChain(at: number): number {
    let end = at
    while (this.#kinds[end + 1] === Kind.dot && this.#isName(end + 2)) end += 2
    return end
  }

  #name(at: number): number {
    const end = this.#endOfChain(at)
    const word = at === end && this.#kinds[at - 1] !== Kind.dot ? this.#word(at) : ''
    if (this.#begins(at)) this.#statement(at, end)
    if (NOWHERE.has(word)) this.#reading = false
    this.#noteSystem(at, end)
    if (word !== '' && this.#clause(word, at)) return at + 1
    if (this.#kinds[end + 1] === Kind.open) {
      if (this.#isCall(at, end, word)) {
        this.#calls.add(this.#chain(at, end))
        if (this.#comes()) this.#is('named')
        this.#relations.push('none')
        return end + 2
      }
    } else if (this.#comes()) {
      this.#reads.add(this.#chain(at, end))
      this.#is('named')
    }
    return end + 1
  }

  #chain(at: number, end: number): string {
    let text = partText(this.#texts[at]!)
    for (let next = at + 2; next <= end; next += 2) text += `.${partText(this.#texts[next]!)}`
    return text
  }

  /** Whether a statement, or in CASE a value, begins here. */
  #begins(at: number): boolean {
    const before = this.#kinds[at - 1]
    if (at === 0 || before === Kind.semicolon) return true
    // The label of the loop that ends.
    if (this.#word(at - 1) === 'loop' && this.#word(at - 2) === 'end') return false
    return (before === Kind.operator && this.#texts[at - 1] === '>>') || BEFORE_STATEMENT.has(this.#word(at - 1))
  }

  #statement(at: number, end: number): void {
    const word = this.#word(at)
    if (word === 'begin') this.#declaring = false
    else if (word === 'declare') this.#declaring = true
    if (COMMANDS.has(word) && !this.#declaring) this.#reading = false
    // In CASE a value follows THEN and ELSE; of the rest all that is SQL has been named above.
    const inCase = ['then', 'else'].includes(this.#word(at - 1))
    if (this.#declaring || inCase || CONTROL.has(word)) return
    if (!this.#assigns(end + 1)) this.#reading = false
  }

  /** `a := 1`, `a.b = 1`, `a[1] := 2`, `a[1].b := 2`; also the label behind END. */
  #assigns(at: number): boolean {
    let next = at
    let depth = 0
    for (; next < this.#texts.length; next++) {
      const kind = this.#kinds[next]
      if (kind === Kind.openBracket) depth++
      else if (kind === Kind.closeBracket) depth--
      else if (depth === 0 && kind !== Kind.dot && !this.#isName(next)) break
      else if (depth === 0 && this.#isName(next) && this.#kinds[next - 1] !== Kind.dot) return false
    }
    if (this.#kinds[next] === Kind.colon) next++
    return this.#kinds[next] === Kind.operator && this.#texts[next] === '='
  }

  /** What the word does to the list of relations; true when it is nothing but that. */
  #clause(word: string, at: number): boolean {
    const called = this.#kinds[at + 1] === Kind.open
    switch (word) {
      case 'from':
        if (this.#word(at - 1) !== 'distinct') this.#is('coming')
        return true
      case 'join':
        this.#is('coming')
        return true
      case 'only':
      case 'lateral':
        return this.#comes()
      case 'table':
        this.#is('coming')
        return true
      case 'share':
        if (['for', 'key'].includes(this.#word(at - 1))) this.#reading = false
        return false
      default:
        if (AFTER_RELATIONS.has(word) && !(called && !RESERVED.has(word))) this.#is('none')
        return false
    }
  }

  #isCall(at: number, end: number, word: string): boolean {
    if (at < end || word === '') return true
    if (RESERVED.has(word) || SYNTAX_CALLS.has(word)) return false
    const before = this.#word(at - 1)
    if (CALLS_OF_THE_LANGUAGE.has(word)) return !this.#begins(at)
    if (word === 'query' || word === 'next') return before !== 'return'
    if (word === 'by') return !['order', 'group', 'partition'].includes(before)
    if (word === 'over' || word === 'filter') return this.#kinds[at - 1] !== Kind.close
    if (word === 'like' || word === 'ilike') return this.#begins(at)
    return true
  }

  /** Catalogs and migrations are read where they are written. */
  #noteSystem(at: number, end: number): void {
    for (let part = at; part <= end; part += 2) {
      const text = this.#texts[part]!
      const called = this.#kinds[end + 1] === Kind.open
      if (text.startsWith('kysely_migration') || text === 'information_schema') this.#reading = false
      if (text.startsWith('pg_') && !called && this.#word(at - 1) !== 'collate') this.#reading = false
    }
  }
}
