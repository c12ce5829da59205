// Names of channels: whatever is let through means itself to PostgreSQL, and what would come to mean something else is
// refused.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { channelFault, listenSql, unlistenSql } from '../../src/core/channel.ts'

/** As PostgreSQL reads a quoted identifier: the text, and what stands behind it. */
function readQuoted(sql: string): { name: string; rest: string } {
  const [whole, inside] = /^"((?:[^"]|"")*)"/.exec(sql)!
  return { name: inside!.replaceAll('""', '"'), rest: sql.slice(whole.length) }
}

describe('the name of a channel', () => {
  test('that is let through is one identifier in the statement, and means itself', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (name) => {
        fc.pre(channelFault(name) === null)
        expect(readQuoted(listenSql(name).slice('listen '.length))).toEqual({ name, rest: '' })
        expect(readQuoted(unlistenSql(name).slice('unlisten '.length))).toEqual({ name, rest: '' })
        expect(Buffer.from(name).toString()).toBe(name)
      }),
    )
  })

  test.each([
    ['of 63 bytes', 'a'.repeat(63)],
    ['of 63 bytes in fewer characters', 'ü'.repeat(31) + 'u'],
    ['with quotes, spaces and semicolons', 'a "b"; drop table c --'],
    ['in upper case', 'Orders'],
    ['of characters beyond the first plane', '🐘'],
  ])('may be one %s', (_, name) => {
    expect(channelFault(name)).toBeNull()
  })

  test.each([
    ['of 64 bytes', 'a'.repeat(64), '64'],
    ['of 64 bytes in fewer characters', 'ü'.repeat(32), '64'],
    ['that is empty', '', 'empty'],
    ['with a zero character', 'a\0b', 'zero'],
    ['with half a character', 'a\ud83d', 'whole characters'],
    ['that is no text', 7, 'name of a channel'],
  ])('may not be one %s, and the refusal says so', (_, name, word) => {
    expect(channelFault(name)?.expected).toContain(word)
  })

  test('stands in its refusal', () => {
    expect(channelFault('a'.repeat(70))?.received).toBe(`"${'a'.repeat(70)}"`)
  })
})
