// docs/configuration.md says what the code does, because its tables are made from the rules.

import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { inStep, page } from '../../scripts/docs-config.ts'
import { optionPaths } from '../../src/config/rules.ts'

const markdown = readFileSync(page, 'utf8')

test('the tables are in step with the rules (else run `node scripts/docs-config.ts`)', () => {
  expect(markdown).toBe(inStep(markdown))
})

test('every option stands in the page', () => {
  expect(optionPaths.filter((path) => !markdown.includes(`| \`${path}\` |`))).toEqual([])
})

test('a page without its markers is not overwritten in silence', () => {
  expect(() => inStep('# Configuration')).toThrow("no pair of markers for 'options'")
})
