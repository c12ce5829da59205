// docs/reliability.md promises that each of its lines is shown by a test. Here it is held to that: every test that it
// names is there, under that name, and is not switched off, and no promise stands without one.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const page = readFileSync(join(root, 'docs/reliability.md'), 'utf8')

interface Named {
  readonly file: string
  readonly name: string
}

/** `test/…` › “name” */
function namedIn(text: string): Named[] {
  const found = text.matchAll(/`(test\/[^`]+\.test\.ts)` › “([^”]+)”/g)
  return [...found].map(([, file, name]) => ({ file: file!, name: name! }))
}

/** Why this file has no such test, or null. */
function missing(source: string | null, name: string): string | null {
  if (source === null) return 'no such file'
  const quoted = [`'${name}'`, `"${name}"`, `\`${name}\``].map((title) => source.indexOf(title))
  const at = Math.max(...quoted)
  if (at < 0) return 'no such test'
  // From the word that opens the call; between the two may stand a table, options, or nothing.
  const opened = source
    .slice(0, at)
    .match(/\b(?:test|describe)\b(?:\.\w+)*(?=[(`])/g)
    ?.at(-1)
  if (opened === undefined) return 'that is no name of a test'
  return /\.(?:skip|todo|fails)(?!\w)/.test(opened) ? `switched off: ${opened}` : null
}

const sourceOf = (file: string): string | null => {
  const path = join(root, file)
  return existsSync(path) ? readFileSync(path, 'utf8') : null
}

const promises = page
  .slice(0, page.indexOf('## How it is proved'))
  .split(/^### /m)
  .slice(1)
  .map((section) => ({ title: section.slice(0, section.indexOf('\n')), section }))

describe('docs/reliability.md', () => {
  test('names no test that is not there, or is switched off', () => {
    const faults = namedIn(page).map(({ file, name }) => ({ file, name, fault: missing(sourceOf(file), name) }))
    expect(faults.filter(({ fault }) => fault !== null)).toEqual([])
  })

  test('names every test in the one form that is looked for', () => {
    // What stands between › and the end of its quotation marks, however it begins.
    expect(page.match(/›/g)).toHaveLength(namedIn(page).length + 1)
  })

  test.each(promises)('shows: $title', ({ section }) => {
    const shown = section.split('\n').filter((line) => !line.startsWith('- Red '))
    expect(namedIn(shown.join('\n')).length).toBeGreaterThan(0)
  })

  test('has promises at all, and no longer says of a test that is there that it is to come', () => {
    expect(promises.length).toBeGreaterThan(30)
    const awaited = [...page.matchAll(/To come: `([^`]+)`/g)].map(([, file]) => file!)
    expect(awaited.filter((file) => existsSync(join(root, file)))).toEqual([])
  })
})

describe('a name that rots is noticed', () => {
  const source = `
    test('one that is there', () => {})
    test.fails('one that fails', () => {})
    test.each([1, 2])('one of %i', () => {})
    test.skipIf(true)(\`one in backticks\`, () => {})
    test.todo('one to do')
    const text = 'no name of a test'`

  test.each([
    ['one that is there', null],
    ['one of %i', null],
    ['one in backticks', null],
    ['one that was there', 'no such test'],
    ['one that fails', 'switched off: test.fails'],
    ['one to do', 'switched off: test.todo'],
  ])('%s', (name, expected) => {
    expect(missing(source, name)).toBe(expected)
    expect(missing(null, name)).toBe('no such file')
  })
})
