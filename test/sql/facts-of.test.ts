// The cache of facts: the same text is read once, long texts are not kept, two caches share nothing.

import { expect, test } from 'vitest'
import { FactsCache } from '../../src/sql/facts-of.ts'

test('the same text gets the same facts again', () => {
  const cache = new FactsCache()
  const first = cache.of('select 1')
  expect(cache.of('select 1')).toBe(first)
  expect(cache.size).toBe(1)
})

test('the text used longest ago is forgotten first', () => {
  const cache = new FactsCache(2)
  const first = cache.of('select 1')
  cache.of('select 2')
  cache.of('select 1')
  cache.of('select 3')
  expect(cache.size).toBe(2)
  expect(cache.of('select 1')).toBe(first)
})

test('a text of more than 64 kB is judged and not kept', () => {
  const cache = new FactsCache()
  const long = `select ${' '.repeat(64 * 1024)}1`
  expect(cache.of(long).safeOnReplica).toBe(true)
  expect(cache.size).toBe(0)
})

test('long texts together cannot fill the memory', () => {
  const cache = new FactsCache(5_000)
  for (let at = 0; at < 400; at++) cache.of(`select ${at}${' '.repeat(60 * 1024)}`)
  expect(cache.size).toBeLessThan(300)
  expect(cache.size).toBeGreaterThan(200)
})

test('facts cannot be changed by who reads them', () => {
  expect(Object.isFrozen(new FactsCache().of('select 1'))).toBe(true)
})
