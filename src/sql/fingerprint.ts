// One digest for all texts that ask the same: literals and parameters count as `?`, a list of them as one, and white
// space, comments and the case of plain words not at all (the idea of pg_stat_statements and libpg_query). It is made
// from the tokens, in which no literal is left, so that none can be read out of it or guessed from it.
//
// The digest is made here, two multiplications to a character, and not by node:crypto: a call there costs more than
// judging the whole statement does. It only has to keep statements apart that nobody wrote to collide.

import { NOT_OPERANDS } from './keywords.ts'
import { Kind } from './scan.ts'
import type { TokenKind, Tokens } from './scan.ts'

/** Sixteen hexadecimal digits: 64 bits. */
export function fingerprintOf(tokens: Tokens): string {
  return new Fingerprint(tokens).digest()
}

/** A list whose elements count once while they follow each other and read the same. */
interface List {
  /** The depth at which its commas stand. */
  readonly depth: number
  /** Rows of VALUES stand in parentheses of their own, and nothing closes the list. */
  readonly rows: boolean
  /** The digest up to here, its elements so far included. */
  a: number
  b: number
  /** The element before. */
  lastA: number
  lastB: number
}

// Two different odd multipliers with good bits (golden ratio; xxHash's second prime) and two different rotations, so
// that what collides in one half does not in the other.
const TIMES_A = 0x9e3779b1
const TIMES_B = 0x85ebca77
const START_A = 0x2545f491
const START_B = 0x6c078965

/** Lists deeper in lists are counted in full: state stays bounded. */
const MAX_DEPTH = 1_000

/** No kind of token, for a text that the scanner has not read to its end. */
const CUT_OFF = 31

class Fingerprint {
  readonly #kinds: Tokens['kinds']
  readonly #texts: readonly string[]
  readonly #cutOff: boolean
  readonly #lists: List[] = []
  #list: List | undefined
  #depth = 0
  #a = START_A
  #b = START_B

  constructor(tokens: Tokens) {
    this.#kinds = tokens.kinds
    this.#texts = tokens.texts
    this.#cutOff = tokens.doubt !== null
  }

  digest(): string {
    const end = this.#texts.length
    let at = 0
    while (this.#kinds[at] === Kind.semicolon) at++
    for (; at < end; at++) this.#take(at)
    while (this.#list !== undefined) this.#endList()
    if (this.#cutOff) this.#mix(CUT_OFF)
    return hex(this.#a, this.#b)
  }

  #take(at: number): void {
    const kind = this.#kinds[at] as TokenKind
    const list = this.#list
    if (list?.rows === true && this.#depth === list.depth && this.#endsRows(at, kind)) this.#endList()
    switch (kind) {
      case Kind.literal:
        this.#literal(at)
        break
      case Kind.word:
        this.#word(at)
        break
      case Kind.quoted:
      case Kind.unicodeName:
        this.#name(kind, this.#texts[at]!)
        break
      case Kind.operator:
        if (!this.#isSign(at)) this.#name(kind, this.#texts[at]!)
        break
      case Kind.open:
        this.#mix(kind)
        this.#depth++
        if (this.#opensIn(at)) this.#beginList(false)
        break
      case Kind.openBracket:
        this.#mix(kind)
        this.#depth++
        this.#beginList(false)
        break
      case Kind.close:
      case Kind.closeBracket:
        this.#close(kind)
        break
      case Kind.comma:
        if (this.#list !== undefined && this.#list.depth === this.#depth) this.#endElement(this.#list)
        else this.#mix(kind)
        break
      case Kind.semicolon:
        if (this.#isBetween(at)) this.#mix(kind)
        break
      default:
        this.#mix(kind)
    }
  }

  /** Of several semicolons one counts, and none where nothing follows. */
  #isBetween(at: number): boolean {
    return at + 1 < this.#texts.length && this.#kinds[at + 1] !== Kind.semicolon
  }

  /** Strings written over several lines are one. */
  #literal(at: number): void {
    if (at === 0 || this.#kinds[at - 1] !== Kind.literal) this.#mix(Kind.literal)
  }

  #word(at: number): void {
    const text = this.#texts[at]!
    if (this.#isConstant(text, at)) return this.#literal(at)
    this.#name(Kind.word, text)
    if (text === 'values' && this.#kinds[at + 1] === Kind.open) this.#beginList(true)
  }

  /** NULL, TRUE and FALSE as values, DEFAULT in a row; `IS NULL` and `NOT NULL` say something else. */
  #isConstant(text: string, at: number): boolean {
    switch (text) {
      case 'null':
      case 'true':
      case 'false': {
        if (at === 0 || this.#kinds[at - 1] !== Kind.word) return this.#kinds[at - 1] !== Kind.dot
        const before = this.#texts[at - 1]!
        return before !== 'is' && before !== 'not'
      }
      case 'default':
        return this.#list?.rows === true && this.#depth === this.#list.depth + 1
      default:
        return false
    }
  }

  /** `-1` is a literal as 1 is; `a - 1` is not. */
  #isSign(at: number): boolean {
    const text = this.#texts[at]!
    if ((text !== '-' && text !== '+') || this.#kinds[at + 1] !== Kind.literal) return false
    if (at === 0) return true
    switch (this.#kinds[at - 1]) {
      case Kind.word:
        return NOT_OPERANDS.has(this.#texts[at - 1]!) && this.#kinds[at - 2] !== Kind.dot
      case Kind.quoted:
      case Kind.unicodeName:
      case Kind.literal:
      case Kind.close:
      case Kind.closeBracket:
        return false
      default:
        return true
    }
  }

  /** `IN (` before values; before a query it is no list. */
  #opensIn(at: number): boolean {
    if (at === 0 || this.#kinds[at - 1] !== Kind.word || this.#texts[at - 1] !== 'in') return false
    return this.#kinds[at + 1] !== Kind.word || !BEGINS_QUERY.has(this.#texts[at + 1]!)
  }

  #beginList(rows: boolean): void {
    if (this.#lists.length >= MAX_DEPTH) return
    if (this.#list !== undefined) this.#lists.push(this.#list)
    this.#list = { depth: this.#depth, rows, a: this.#a, b: this.#b, lastA: 0, lastB: 0 }
    this.#a = START_A
    this.#b = START_B
  }

  #endElement(list: List): void {
    const a = this.#a
    const b = this.#b
    if (a !== list.lastA || b !== list.lastB) {
      this.#a = list.a
      this.#b = list.b
      this.#mix(a)
      this.#mix(b)
      list.a = this.#a
      list.b = this.#b
      list.lastA = a
      list.lastB = b
    }
    this.#a = START_A
    this.#b = START_B
  }

  #endList(): void {
    const list = this.#list!
    this.#endElement(list)
    this.#a = list.a
    this.#b = list.b
    this.#list = this.#lists.pop()
  }

  /** Behind a row stands a comma, or something that is no longer VALUES. */
  #endsRows(at: number, kind: TokenKind): boolean {
    return this.#kinds[at - 1] === Kind.close && kind !== Kind.comma
  }

  #close(kind: TokenKind): void {
    // Parentheses that do not match: the lists inside end with what is around them.
    while (this.#list !== undefined && this.#list.depth >= this.#depth && !this.#insideRow(this.#list)) this.#endList()
    this.#depth--
    this.#mix(kind)
  }

  #insideRow(list: List): boolean {
    return list.rows && list.depth < this.#depth
  }

  #name(kind: TokenKind, text: string): void {
    const { length } = text
    let a = this.#a
    let b = this.#b
    // Two characters at a time: the multiplications wait for each other.
    for (let at = 0; at < length; at += 2) {
      const second = at + 1 < length ? text.charCodeAt(at + 1) << 16 : 0
      const pair = text.charCodeAt(at) | second
      a = Math.imul(((a << 5) | (a >>> 27)) ^ pair, TIMES_A)
      b = Math.imul(((b << 13) | (b >>> 19)) ^ pair, TIMES_B)
    }
    this.#a = a
    this.#b = b
    // The length ends it, so that `ab c` is not `a bc`.
    this.#mix((length << 5) | kind)
  }

  #mix(value: number): void {
    this.#a = Math.imul(((this.#a << 5) | (this.#a >>> 27)) ^ value, TIMES_A)
    this.#b = Math.imul(((this.#b << 13) | (this.#b >>> 19)) ^ value, TIMES_B)
  }
}

const BEGINS_QUERY: ReadonlySet<string> = new Set(['select', 'with', 'values', 'table'])

/** The halves stirred into each other (the finish of MurmurHash3), as one flat string. */
function hex(a: number, b: number): string {
  const high = stirred(a ^ Math.imul(b, TIMES_A))
  const low = stirred(b ^ Math.imul(high, TIMES_B))
  return String.fromCharCode(
    digit(high >>> 28),
    digit(high >>> 24),
    digit(high >>> 20),
    digit(high >>> 16),
    digit(high >>> 12),
    digit(high >>> 8),
    digit(high >>> 4),
    digit(high),
    digit(low >>> 28),
    digit(low >>> 24),
    digit(low >>> 20),
    digit(low >>> 16),
    digit(low >>> 12),
    digit(low >>> 8),
    digit(low >>> 4),
    digit(low),
  )
}

function stirred(half: number): number {
  let mixed = Math.imul(half ^ (half >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}

/** The character of the lowest four bits. */
function digit(bits: number): number {
  const four = bits & 15
  return four < 10 ? 48 + four : 87 + four
}
