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
  const scanner = new Scanner(sql)
  scanner.run()
  return scanner
}

const QUOTE = 0x27
const DOUBLE_QUOTE = 0x22
const DOLLAR = 0x24
const DOT = 0x2e
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
const CLASSES = new Uint8Array(128)
for (const [members, value] of [
  [' \t\n\r\f\v', SPACE],
  ['ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_', LETTER],
  ['0123456789', DIGIT],
  ['~!@#^&|`?+-*/%<>=', OPERATOR],
  ['()[],;.:', SELF],
] as const) {
  for (const member of members) CLASSES[member.charCodeAt(0)] = value
}

// Bytes ≥ 0x80 are letters to PostgreSQL, the no-break space included.
const classOf = (code: number): number => (code >= 128 ? LETTER : (CLASSES[code] ?? OTHER))

const SELF_KINDS = new Uint8Array(128)
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
  SELF_KINDS[member.charCodeAt(0)] = kind
}

const NUMBER = /^(?:0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|[0-9._]+(?:[eE][+-]?[0-9_]+)?)$/

class Scanner implements Tokens {
  readonly kinds: Uint8Array
  readonly texts: string[] = []
  semicolons = 0
  doubt: Doubt | null = null
  readonly #sql: string
  #at = 0

  constructor(sql: string) {
    this.#sql = sql
    this.kinds = new Uint8Array(sql.length + 1)
  }

  run(): void {
    const sql = this.#sql
    while (this.#at < sql.length && this.doubt === null) {
      const code = sql.charCodeAt(this.#at)
      switch (classOf(code)) {
        case SPACE:
          this.#at++
          break
        case LETTER:
          this.#word(code)
          break
        case DIGIT:
          this.#number()
          break
        case OPERATOR:
          this.#operatorOrComment(code)
          break
        case SELF:
          this.#self(code)
          break
        default:
          this.#other(code)
      }
    }
  }

  #push(kind: TokenKind, text: string): void {
    this.kinds[this.texts.length] = kind
    this.texts.push(text)
  }

  #word(first: number): void {
    const sql = this.#sql
    const start = this.#at
    const next = sql.charCodeAt(start + 1)
    if (next === QUOTE && this.#prefixedString(first)) return
    if (next === 0x26 && (first | 0x20) === 0x75 && this.#unicodeQuoted()) return
    let at = start
    let plain = true
    let upper = false
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code >= 128) plain = false
      else if (code >= 0x41 && code <= 0x5a) upper = true
      else if (!isWordPart(code)) break
    }
    this.#at = at
    this.#push(Kind.word, upper ? fold(sql.slice(start, at), plain) : sql.slice(start, at))
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

  #unicodeQuoted(): boolean {
    const quote = this.#sql.charCodeAt(this.#at + 2)
    if (quote !== QUOTE && quote !== DOUBLE_QUOTE) return false
    this.#at += 2
    if (quote === QUOTE) this.#plainString()
    else this.#quotedName(Kind.unicodeName)
    return true
  }

  #plainString(): void {
    const start = this.#at + 1
    const end = this.#endOfQuoted(start, "'")
    if (end < 0) return
    // Under standard_conforming_strings = off, `\'` does not end the string. `'\'` alone is let through:
    // it is the usual ESCAPE clause, and with the setting off it leaves the text unfinished.
    if (end - start > 1 && this.#sql.slice(start, end + 1).includes("\\'")) this.doubt = 'backslash-quote'
    this.#push(Kind.literal, '')
    this.#at = end + 1
  }

  #quotedName(kind: typeof Kind.quoted | typeof Kind.unicodeName): void {
    const start = this.#at + 1
    const end = this.#endOfQuoted(start, '"')
    if (end < 0) return
    const body = this.#sql.slice(start, end)
    // Not decoded, and marked so that it is taken for no other name.
    if (kind === Kind.unicodeName) this.#push(kind, `U&"${body}"`)
    else this.#push(kind, body.includes('"') ? body.replaceAll('""', '"') : body)
    this.#at = end + 1
  }

  /** Index of the closing quote, a doubled quote being part of the text. */
  #endOfQuoted(start: number, quote: string): number {
    const code = quote.charCodeAt(0)
    for (let at = start; ; at += 2) {
      at = this.#sql.indexOf(quote, at)
      if (at < 0) return this.#unfinished()
      if (this.#sql.charCodeAt(at + 1) !== code) return this.#withoutNul(start, at)
    }
  }

  #escapeString(): void {
    const sql = this.#sql
    const start = this.#at
    let at = start + 1
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code === 0x5c) at++
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
      if (code === 0) this.doubt = 'nul'
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
      const sign = (code === 0x2b || code === MINUS) && isExponent(sql, start, at)
      if (kind !== LETTER && code !== DOT && !sign) break
      digits = false
    }
    // Until version 14, `1for` was `1 for`; a number that runs into letters is read by no two servers alike.
    if (!digits && !NUMBER.test(sql.slice(start, at))) this.doubt = 'number-joined-to-word'
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
    let at = start + 1
    for (; at < sql.length; at++) {
      const code = sql.charCodeAt(at)
      if (code >= 128 || CLASSES[code] !== OPERATOR) break
      const next = sql.charCodeAt(at + 1)
      if ((code === MINUS && next === MINUS) || (code === SLASH && next === STAR)) break
    }
    this.#push(Kind.operator, sql.slice(start, at))
    this.#at = at
  }

  #blockComment(): void {
    const sql = this.#sql
    let depth = 1
    let at = this.#at + 2
    for (; at < sql.length && depth > 0; at++) {
      const code = sql.charCodeAt(at)
      if (code === 0) this.doubt = 'nul'
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
    if (code === SEMICOLON) this.semicolons++
    this.#push(SELF_KINDS[code] as TokenKind, '')
    this.#at += 1
  }

  #other(code: number): void {
    if (code === QUOTE) this.#plainString()
    else if (code === DOUBLE_QUOTE) this.#quotedName(Kind.quoted)
    else if (code === DOLLAR) this.#dollar()
    else this.doubt = code === 0 ? 'nul' : 'strange-character'
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
      if (at < sql.length && classOf(sql.charCodeAt(at)) === LETTER) this.doubt = 'number-joined-to-word'
      this.#push(Kind.literal, '')
      this.#at = at
      return
    }
    if (sql.charCodeAt(at) !== DOLLAR) {
      this.doubt = 'strange-character'
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
    this.doubt ??= this.#sql.includes('\0', this.#at) ? 'nul' : 'unfinished'
    return -1
  }

  #withoutNul(start: number, end: number): number {
    if (!this.#sql.slice(start, end).includes('\0')) return end
    this.doubt = 'nul'
    return -1
  }
}

function isWordPart(code: number): boolean {
  return (code >= 0x61 && code <= 0x7a) || (code >= 0x30 && code <= 0x39) || code === 0x5f || code === DOLLAR
}

/** A sign belongs to a number right after the `e` of a decimal one, when a digit follows. */
function isExponent(sql: string, start: number, at: number): boolean {
  const decimal = (sql.charCodeAt(start + 1) | 0x20) !== 0x78
  return decimal && (sql.charCodeAt(at - 1) | 0x20) === 0x65 && classOf(sql.charCodeAt(at + 1)) === DIGIT
}

/** As the server folds in UTF-8: A to Z only. JavaScript would turn the Kelvin sign into a k. */
function fold(word: string, plain: boolean): string {
  return plain ? word.toLowerCase() : word.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase())
}
