import { expect, test } from 'vitest'
import { PlainTables } from '../../src/core/plain-tables.ts'

function knowing(...names: string[]): PlainTables {
  const tables = new PlainTables()
  tables.learn(names, tables.version)
  return tables
}

test('nothing is known to be plain before the catalog has been read', () => {
  expect(new PlainTables().keysOf(['orders'])).toBeNull()
  expect(new PlainTables().known).toBe(false)
})

test('a statement is known by its tables only if all of them are plain', () => {
  const tables = knowing('orders', 'products')
  expect(tables.keysOf(['orders', 'products'])).toEqual(['orders', 'products'])
  expect(tables.keysOf(['orders', 'a_view'])).toBeNull()
  expect(tables.keysOf([])).toBeNull()
})

test('a table is the same with its schema and without, since the search path may leave that out', () => {
  const tables = knowing('orders')
  expect(tables.keysOf(['public.orders'])).toEqual(tables.keysOf(['orders']))
})

test('a catalog that was read before a definition changed is not believed', () => {
  const tables = knowing('orders')
  const { version } = tables
  tables.forget()
  expect(tables.keysOf(['orders'])).toBeNull()
  tables.learn(['orders'], version)
  expect(tables.keysOf(['orders'])).toBeNull()
  tables.learn(['orders'], tables.version)
  expect(tables.keysOf(['orders'])).toEqual(['orders'])
})
