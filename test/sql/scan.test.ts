// The scanner against PostgreSQL's lexer: where strings, comments and names begin and end, and where it admits
// that servers differ.

import { describe, expect, test } from 'vitest'
import { Kind, scan } from '../../src/sql/scan.ts'

const names = Object.entries(Kind)
const nameOf = (kind: number): string => names.find(([, value]) => value === kind)![0]

/** `select word` for every token: its text when it has one, else its kind. */
function tokensOf(sql: string): string[] {
  const { kinds, texts } = scan(sql)
  return texts.map((text, at) => (text === '' ? nameOf(kinds[at]!) : `${nameOf(kinds[at]!)} ${text}`))
}

describe('strings', () => {
  test.each([
    ["'plain'"],
    ["'with '' a doubled quote'"],
    ["'with ; and -- and /* inside'"],
    ["'a backslash \\ is a character'"],
    ["'\\'"],
    ["E'with \\' an escaped quote'"],
    ["e'\\\\'"],
    ["E'doubled '' quote'"],
    ["E'ends in two \\\\'"],
    ["U&'d\\0061t\\+000061'"],
    ["u&'x'"],
    ["B'1010'"],
    ["x'1F'"],
    ["N'national'"],
    ['$$dollar$$'],
    ["$$it's $1 -- /* ; $$"],
    ['$tag$ $$ $other$ $ta$tag$'],
    ['$é1$ x $é1$'],
    ['$1'],
    ['$123'],
    ["E'one'\n'and \\' two'"],
    ["E'one' -- comment\n 'and \\' two'"],
  ])('%s is one literal', (sql) => {
    expect(scan(sql).doubt).toBe(null)
    expect(tokensOf(`a ${sql} b`)).toEqual(['word a', 'literal', 'word b'])
  })

  test('a string that goes on after a space alone is a second string', () => {
    expect(tokensOf("E'one' 'two'")).toEqual(['literal', 'literal'])
  })

  test('a letter that ends a longer word is no prefix of the string behind it', () => {
    expect(tokensOf("code'x'")).toEqual(['word code', 'literal'])
  })

  test('a dollar inside a word does not open a string', () => {
    expect(tokensOf('a$$b a$b$c')).toEqual(['word a$$b', 'word a$b$c'])
  })

  test('a parameter may stand right before a dollar quote', () => {
    expect(tokensOf('$1$$x$$')).toEqual(['literal', 'literal'])
  })
})

describe('names', () => {
  test('words are folded to lower case, quoted names are kept', () => {
    expect(tokensOf('Orders "Orders" "say ""hi""" _a1 été')).toEqual([
      'word orders',
      'quoted Orders',
      'quoted say "hi"',
      'word _a1',
      'word été',
    ])
  })

  test('only A to Z are folded, as the server does: the Kelvin sign is not a k', () => {
    expect(tokensOf('LOC\u212A Éa')).toEqual(['word loc\u212A', 'word Éa'])
  })

  test('a no-break space is a letter of a name, not a space', () => {
    expect(tokensOf('now\u00a0x')).toEqual(['word now\u00a0x'])
  })

  test('a name written with Unicode escapes says so', () => {
    expect(tokensOf('U&"d\\0061t" u & "x"')).toEqual(['unicodeName U&"d\\0061t"', 'word u', 'operator &', 'quoted x'])
  })
})

describe('comments', () => {
  test.each([
    ['-- to the end of the line\n'],
    ['-- a carriage return ends it too\r'],
    ['/* block */'],
    ['/* with a /* nested */ one */'],
    ['/*/ is not closed */'],
    ['/***/'],
    ['/* \' $$ " */'],
    ['-- \' $$ " /*\n'],
    ['\t\f\v\r\n'],
  ])('%j counts as white space', (comment) => {
    expect(scan(`a ${comment} b`).doubt).toBe(null)
    expect(tokensOf(`a${comment}b`)).toEqual(['word a', 'word b'])
  })

  test('a comment may begin inside a run of operator characters', () => {
    expect(tokensOf('1+--x\n2')).toEqual(['literal', 'operator +', 'literal'])
    expect(tokensOf('1*/*x*/2')).toEqual(['literal', 'operator *', 'literal'])
    expect(tokensOf('1-/*x*/-2')).toEqual(['literal', 'operator -', 'operator -', 'literal'])
  })
})

describe('operators', () => {
  test.each([
    ['a=-1', ['=', '-']],
    ['a<>+-1', ['<>', '+', '-']],
    ['a+-+1', ['+', '-', '+']],
    ['a*-+b', ['*', '-', '+']],
    // These may be operators of their own, since they hold what SQL does not know.
    ['a@-1', ['@-']],
    ['a!=-1', ['!=-']],
    ['a-@-1', ['-@-']],
    ['a#-+b', ['#-+']],
    ['a->>b', ['->>']],
    ['a-/**/-b', ['-', '-']],
  ])('%s', (sql, operators) => {
    expect(tokensOf(sql).filter((token) => token.startsWith('operator'))).toEqual(
      operators.map((text) => `operator ${text}`),
    )
  })
})

test.each([
  ["a'x'", ['word a', 'literal']],
  ["É'x'", ['word É', 'literal']],
  ['a&b', ['word a', 'operator &', 'word b']],
  ['U&b', ['word u', 'operator &', 'word b']],
  ["A&'x'", ['word a', 'operator &', 'literal']],
  ["eE'x'", ['word ee', 'literal']],
  ['e"x"', ['word e', 'quoted x']],
])('a single letter that only looks like a prefix is a word: %s', (sql, tokens) => {
  expect(tokensOf(sql)).toEqual(tokens)
})

test('the tokens of a long text are the tokens of its parts', () => {
  const part = `select "a b", Fé, 'x'::text[1] from t; `
  const tokens = tokensOf(part)
  for (const times of [10, 20, 2_000]) {
    expect(tokensOf(part.repeat(times))).toEqual(Array.from({ length: times }, () => tokens).flat())
  }
})

describe('numbers', () => {
  test.each(['1', '1.5', '.5', '5.', '1e10', '1E-5', '1.5e+3', '0x1F', '0o17', '0b11', '1_000', '1_000.5'])(
    '%s is one literal',
    (number) => {
      expect(scan(number).doubt).toBe(null)
      expect(tokensOf(`${number},`)).toEqual(['literal', 'comma'])
    },
  )

  test('a minus after a hexadecimal e is an operator', () => {
    expect(tokensOf('0xe-1')).toEqual(['literal', 'operator -', 'literal'])
  })
})

describe('doubts', () => {
  test.each([
    ["select 'open", 'unfinished'],
    ['select "open', 'unfinished'],
    ["select E'open\\'", 'unfinished'],
    ['select $$open', 'unfinished'],
    ['select $a$open$b$', 'unfinished'],
    ['select /* open', 'unfinished'],
    ['select /* open /* */', 'unfinished'],
    // Read by a server with standard_conforming_strings = off, these strings end elsewhere.
    ["select 'a\\' , nextval(''s'') --'", 'backslash-quote'],
    ["select 'it\\''s'", 'backslash-quote'],
    // Two tokens for a server before version 15, an error afterwards.
    ['select 1for update', 'number-joined-to-word'],
    ['select $1for update', 'number-joined-to-word'],
    ['select 0x1G', 'number-joined-to-word'],
    ['select 1; \\copy t', 'strange-character'],
    ['select {fn now()}', 'strange-character'],
    ['select $', 'strange-character'],
    ['select \u0001', 'strange-character'],
    ['select 1\0, nextval(1)', 'nul'],
    ["select 'a\0b'", 'nul'],
    ["select E'a\0b'", 'nul'],
    ['select "a\0b"', 'nul'],
    ['select $$a\0b$$', 'nul'],
    ['select /* \0 */ 1', 'nul'],
    ['select -- \0\n 1', 'nul'],
    ["select '\0", 'nul'],
  ])('%j is left undecided: %s', (sql, doubt) => {
    expect(scan(sql).doubt).toBe(doubt)
  })
})
