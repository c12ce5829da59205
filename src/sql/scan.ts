// Cuts SQL text into tokens exactly as PostgreSQL's own lexer does, because everything decided later rests on
// knowing what is code and what is a string, a comment or a quoted name. One pass, each character looked at a
// bounded number of times, nothing ever thrown. Where servers of different versions or settings would cut the
// text differently, the scanner does not guess: it stops and says why in `doubt`.

/** Kinds of tokens. Numbers, because a megabyte of SQL has a million of them. */
export const Kind = {
  end: 0,
  word: 1,
  quoted: 2,
  unicodeName: 3,
  literal: 4,
  operator: 5,
  open: 6,
  close: 7,
  openBracket: 8,
  closeBracket: 9,
  comma: 10,
  semicolon: 11,
  dot: 12,
  colon: 13,
  cast: 14,
} as const

export type TokenKind = (typeof Kind)[keyof typeof Kind]

export type Doubt = 'nul' | 'unfinished' | 'backslash-quote' | 'number-joined-to-word' | 'strange-character'

export interface Tokens {
  /** A `Kind` for each of `texts`; what follows them is `Kind.end`. */
  readonly kinds: Readonly<Uint8Array>
  /** Words folded to lower case, quoted names without their quotes, operators as written, else `''`. */
  readonly texts: readonly string[]
  readonly semicolons: number
  /** Why PostgreSQL may read the text otherwise; the tokens end where the doubt began. */
  readonly doubt: Doubt | null
}

export function scan(sql: string): Tokens {
  return new Scanner(sql, new Uint8Array(sql.length + 1)).run()
}

/** The same, for whoever is done with the tokens before the next text is scanned. */
export function scanBriefly(sql: string): Tokens {
  if (sql.length >= BRIEF) return scan(sql)
  const tokens = new Scanner(sql, shared).run()
  // Nobody looks further ahead than this.
  shared.fill(Kind.end, tokens.texts.length, tokens.texts.length + AHEAD)
  return tokens
}

const BRIEF = 4_096
const AHEAD = 8
const shared = new Uint8Array(BRIEF + AHEAD)

const QUOTE = 0x27
const DOUBLE_QUOTE = 0x22
const BACKSLASH = 0x5c
const DOLLAR = 0x24
const DOT = 0x2e
const PLUS = 0x2b
const MINUS = 0x2d
const SLASH = 0x2f
const STAR = 0x2a
const COLON = 0x3a
const SEMICOLON = 0x3b
const NEWLINE = 0x0a
const RETURN = 0x0d

// Classes of the ASCII characters, after scan.l: space, ident_start, decdigit, op_chars, self.
const OTHER = 0
const SPACE = 1
const LETTER = 2
const DIGIT = 3
const OPERATOR = 4
const SELF = 5
/** A character of `SELF` that is a token whatever follows it. */
const MARK = 6
const CLASSES = new Uint8Array(128)
for (const [members, value] of [
  [' \t\n\r\f\v', SPACE],
  ['ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_', LETTER],
  ['0123456789', DIGIT],
  ['~!@#^&|`?+-*/%<>=', OPERATOR],
  [';.:', SELF],
  ['()[],', MARK],
] as const) {
  for (const member of members) CLASSES[member.charCodeAt(0)] = value
}

// Bytes ≥ 0x80 are letters to PostgreSQL, the no-break space included.
const classOf = (code: number): number => (code >= 128 ? LETTER : (CLASSES[code] ?? OTHER))

/** One of these in it, and an operator may end in `+` or `-`. */
const LETS_SIGN_END = new Uint8Array(128)
for (const character of '~!@#^&|`?%') LETS_SIGN_END[character.charCodeAt(0)] = 1

// What may stand in a word: letters, digits, `_` and `$`; and which of it must be folded.
const LOWER_PART = 1
const UPPER = 2
const BEYOND_ASCII = 4
const WORD_PARTS = CLASSES.map((kind) => (kind === LETTER || kind === DIGIT ? LOWER_PART : 0))
WORD_PARTS[DOLLAR] = LOWER_PART
WORD_PARTS.fill(UPPER, 0x41, 0x5b)

const MARK_KINDS = new Uint8Array(128)
for (const [member, kind] of [
  ['(', Kind.open],
  [')', Kind.close],
  ['[', Kind.openBracket],
  [']', Kind.closeBracket],
  [',', Kind.comma],
  [';', Kind.semicolon],
  ['.', Kind.dot],
  [':', Kind.colon],
] as const) {
  MARK_KINDS[member.charCodeAt(0)] = kind
}

const NUMBER = /^(?:0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|[0-9._]+(?:[eE][+-]?[0-9_]+)?)$/

// An array that grows as tokens come costs as much as finding them. A long text gets room for as many tokens as it has
// characters at once, one as programs send them for half as many, which is hardly ever too few.
const SHORT = 512
const LONG = 64 * 1024

class Scanner {
  readonly #sql: string
  readonly #kinds: Uint8Array
  readonly #texts: string[]
  #count = 0
  #semicolons = 0
  #doubt: Doubt | null = null
  #at = 0

  constructor(sql: string, kinds: Uint8Array) {
    this.#sql = sql
    this.#kinds = kinds
    // eslint-disable-next-line unicorn/no-new-array -- the other ways fill it
    this.#texts = sql.length < SHORT ? [] : new Array<string>(sql.length < LONG ? sql.length >> 1 : sql.length)
  }

  /** What most texts are made of is read here, in variables of this function; the rest has methods of its own. */
  run(): Tokens {
    const sql = this.#sql
    const kinds = this.#kinds
    const texts = this.#texts
    let at = 0
    let count = 0
    while (at < sql.length && this.#doubt === null) {
      const code = sql.charCodeAt(at)
      const kind = code >= 128 ? LETTER : CLASSES[code]!
      if (kind === SPACE) {
        at++
      } else if (kind === MARK) {
        kinds[count] = MARK_KINDS[code]!
        texts[count++] = ''
        at++
      } else if (kind === LETTER && !mayOpenString(sql.charCodeAt(at + 1))) {
        const start = at
        let parts = 0
        for (; at < sql.length; at++) {
          const part = sql.charCodeAt(at)
          const known = part >= 128 ? BEYOND_ASCII : WORD_PARTS[part]!
          if (known === 0) break
          parts |= known
        }
        const word = sql.slice(start, at)
        kinds[count] = Kind.word
        texts[count++] = (parts & UPPER) === 0 ? word : fold(word, (parts & BEYOND_ASCII) === 0)
      } else {
        this.#at = at
        this.#count = count
        this.#rare(kind, code)
        at = this.#at
        count = this.#count
      }
    }
    if (texts.length > count) texts.length = count
    return { kinds, texts, semicolons: this.#semicolons, doubt: this.#doubt }
  }

  #rare(kind: number, code: number): void {
    switch (kind) {
      case LETTER:
        return this.#prefixed(code)
      case DIGIT:
        return this.#number()
      case OPERATOR:
        return this.#operatorOrComment(code)
      case SELF:
        return this.#self(code)
      default:
        return this.#other(code)
    }
  }

  #push(kind: TokenKind, text: string): void {
    this.#kinds[this.#count] = kind
    this.#texts[this.#count++] = text
  }

  /** A letter before `'` or `&`: mostly, but not always, it says how to read a string. */
  #prefixed(letter: number): void {
    if (this.#sql.charCodeAt(this.#at + 1) === QUOTE ? this.#prefixedString(letter) : this.#unicodeQuoted(letter))
      return
    const letters = this.#sql.slice(this.#at, this.#at + 1)
    this.#at++
    this.#push(Kind.word, fold(letters, letter < 128))
  }

  /** E'…' knows backslashes; B'…', X'…' and N'…' end like plain strings. */
  #prefixedString(letter: number): boolean {
    switch (letter | 0x20) {
      case 0x65: // e
        this.#at += 1
        this.#escapeString()
        return true
      case 0x62: // b
      case 0x78: // x
      case 0x6e: // n
        this.#at += 1
        this.#plainString()
        return true
      default:
        return false
    }
  }

  #unicodeQuoted(letter: number): boolean {
    if ((letter | 0x20) !== 0x75) return false
    const quote = this.#sql.charCodeAt(this.#at + 2)
    if (quote !== QUOTE && quote !== DOUBLE_QUOTE) return false
    this.#at += 2
    if (quote === QUOTE) this.#plainString()
    else this.#quotedName(Kind.unicodeName)
    return true
  }

  #plainString(): void {
    const sql = this.#sql
    const start = this.#at + 1
    let last = 0
    let escaped = false
    for (let at = start; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code === QUOTE) {
        // Under standard_conforming_strings = off, `\'` does not end the string. `'\'` alone is let through:
        // it is the usual ESCAPE clause, and with the setting off it leaves the text unfinished.
        if (last === BACKSLASH) escaped = true
        if (sql.charCodeAt(at + 1) !== QUOTE) {
          if (escaped && at - start > 1) this.#doubt = 'backslash-quote'
          this.#push(Kind.literal, '')
          this.#at = at + 1
          return
        }
        at++
      } else if (code === 0) {
        this.#doubt = 'nul'
        return
      }
      last = code
    }
    this.#unfinished()
  }

  #quotedName(kind: typeof Kind.quoted | typeof Kind.unicodeName): void {
    const sql = this.#sql
    const start = this.#at + 1
    let doubled = false
    for (let at = start; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code === DOUBLE_QUOTE) {
        if (sql.charCodeAt(at + 1) !== DOUBLE_QUOTE) {
          const body = sql.slice(start, at)
          // Not decoded, and marked so that it is taken for no other name.
          if (kind === Kind.unicodeName) this.#push(kind, `U&"${body}"`)
          else this.#push(kind, doubled ? body.replaceAll('""', '"') : body)
          this.#at = at + 1
          return
        }
        doubled = true
        at++
      } else if (code === 0) {
        this.#doubt = 'nul'
        return
      }
    }
    this.#unfinished()
  }

  #escapeString(): void {
    const sql = this.#sql
    const start = this.#at
    let at = start + 1
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code === BACKSLASH) at++
      else if (code === QUOTE) {
        if (sql.charCodeAt(at + 1) === QUOTE) at++
        else {
          const again = this.#continuation(at + 1)
          if (again < 0) break
          at = again
        }
      }
    }
    if (at >= sql.length) return void this.#unfinished()
    if (this.#withoutNul(start, at) < 0) return
    this.#push(Kind.literal, '')
    this.#at = at + 1
  }

  /**
   * SQL joins strings that stand on different lines, and the second half of an E'…' string knows backslashes
   * too, though no E stands before it. Index of its opening quote, or -1.
   */
  #continuation(from: number): number {
    const sql = this.#sql
    let newline = false
    for (let at = from; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code === NEWLINE || code === RETURN) newline = true
      else if (code === MINUS && sql.charCodeAt(at + 1) === MINUS) at = this.#endOfLine(at) - 1
      else if (classOf(code) !== SPACE) return newline && code === QUOTE ? at : -1
    }
    return -1
  }

  #endOfLine(from: number): number {
    const sql = this.#sql
    let at = from
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code === NEWLINE || code === RETURN) break
      if (code === 0) this.#doubt = 'nul'
    }
    return at
  }

  #number(): void {
    const sql = this.#sql
    const start = this.#at
    let at = start
    let digits = true
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      const kind = classOf(code)
      if (kind === DIGIT) continue
      const sign = (code === PLUS || code === MINUS) && isExponent(sql, start, at)
      if (kind !== LETTER && code !== DOT && !sign) break
      digits = false
    }
    // Until version 14, `1for` was `1 for`; a number that runs into letters is read by no two servers alike.
    if (!digits && !NUMBER.test(sql.slice(start, at))) this.#doubt = 'number-joined-to-word'
    this.#push(Kind.literal, '')
    this.#at = at
  }

  #operatorOrComment(first: number): void {
    const sql = this.#sql
    const start = this.#at
    const second = sql.charCodeAt(start + 1)
    if (first === MINUS && second === MINUS) {
      this.#at = this.#endOfLine(start)
      return
    }
    if (first === SLASH && second === STAR) return this.#blockComment()
    let at = start
    /** Where a run of `+` and `-` began that lasts until here. */
    let signs = start
    let mayEndInSign = false
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code >= 128 || CLASSES[code] !== OPERATOR) break
      const next = sql.charCodeAt(at + 1)
      if ((code === MINUS && next === MINUS) || (code === SLASH && next === STAR)) break
      if (code === PLUS || code === MINUS) continue
      signs = at + 1
      mayEndInSign ||= LETS_SIGN_END[code] === 1
    }
    this.#at = at
    if (mayEndInSign) return this.#push(Kind.operator, sql.slice(start, at))
    // So that `a=-1` means `a = -1`, SQL lets only unusual operators end in a sign.
    if (signs > start) this.#push(Kind.operator, sql.slice(start, signs))
    for (let sign = signs; sign < at; sign++) this.#push(Kind.operator, sql.slice(sign, sign + 1))
  }

  #blockComment(): void {
    const sql = this.#sql
    let depth = 1
    let at = this.#at + 2
    for (; at < sql.length && depth > 0; at++) {
      const code = sql.charCodeAt(at)
      if (code === 0) this.#doubt = 'nul'
      if (code === SLASH && sql.charCodeAt(at + 1) === STAR) {
        depth++
        at++
      } else if (code === STAR && sql.charCodeAt(at + 1) === SLASH) {
        depth--
        at++
      }
    }
    this.#at = at
    if (depth > 0) this.#unfinished()
  }

  #self(code: number): void {
    const next = this.#sql.charCodeAt(this.#at + 1)
    if (code === DOT && classOf(next) === DIGIT) return this.#number()
    if (code === COLON && next === COLON) {
      this.#push(Kind.cast, '')
      this.#at += 2
      return
    }
    if (code === SEMICOLON) this.#semicolons++
    this.#push(MARK_KINDS[code] as TokenKind, '')
    this.#at += 1
  }

  #other(code: number): void {
    if (code === QUOTE) this.#plainString()
    else if (code === DOUBLE_QUOTE) this.#quotedName(Kind.quoted)
    else if (code === DOLLAR) this.#dollar()
    else this.#doubt = code === 0 ? 'nul' : 'strange-character'
  }

  /** `$1` or `$tag$ … $tag$`. */
  #dollar(): void {
    const sql = this.#sql
    const start = this.#at
    let at = start + 1
    const parameter = classOf(sql.charCodeAt(at)) === DIGIT
    for (; at < sql.length; at++) {
      const kind = classOf(sql.charCodeAt(at))
      if (kind !== DIGIT && (parameter || kind !== LETTER)) break
    }
    if (parameter) {
      if (at < sql.length && classOf(sql.charCodeAt(at)) === LETTER) this.#doubt = 'number-joined-to-word'
      this.#push(Kind.literal, '')
      this.#at = at
      return
    }
    if (sql.charCodeAt(at) !== DOLLAR) {
      this.#doubt = 'strange-character'
      return
    }
    const tag = sql.slice(start, at + 1)
    const end = sql.indexOf(tag, at + 1)
    if (end < 0) return void this.#unfinished()
    if (this.#withoutNul(at, end) < 0) return
    this.#push(Kind.literal, '')
    this.#at = end + tag.length
  }

  #unfinished(): -1 {
    // A NUL says more than the quote that is missing after it, and the server sees nothing behind it.
    this.#doubt ??= this.#sql.includes('\0', this.#at) ? 'nul' : 'unfinished'
    return -1
  }

  #withoutNul(start: number, end: number): number {
    if (!this.#sql.slice(start, end).includes('\0')) return end
    this.#doubt = 'nul'
    return -1
  }
}

const AMPERSAND = 0x26

function mayOpenString(second: number): boolean {
  return second === QUOTE || second === AMPERSAND
}

/** A sign belongs to a number right after the `e` of a decimal one, when a digit follows. */
function isExponent(sql: string, start: number, at: number): boolean {
  const decimal = (sql.charCodeAt(start + 1) | 0x20) !== 0x78
  return decimal && (sql.charCodeAt(at - 1) | 0x20) === 0x65 && classOf(sql.charCodeAt(at + 1)) === DIGIT
}

/** As the server folds in UTF-8: A to Z only. JavaScript would turn the Kelvin sign into a k. */
function fold(word: string, plain: boolean): string {
  if (plain) return word.toLowerCase()
  let folded = ''
  let from = 0
  for (let at = 0; at < word.length; at++) {
    const code = word.charCodeAt(at)
    if (code < 0x41 || code > 0x5a) continue
    folded += word.slice(from, at) + LOWER[code - 0x41]!
    from = at + 1
  }
  return folded + word.slice(from)
}

const LOWER = 'abcdefghijklmnopqrstuvwxyz'
