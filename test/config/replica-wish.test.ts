// What `db.onReplica({ … })` takes, and what it says of what is wrong: as of an option.

import { describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/core/errors.ts'
import type { ConfigFault } from '../../src/core/errors.ts'
import type { Wish } from '../../src/core/route.ts'
import { replicaWish, settingsWith } from '../../src/kysely/wish.ts'
import type { ReplicaWish } from '../../src/kysely/wish.ts'

function faultsOf(options: unknown): readonly ConfigFault[] {
  try {
    replicaWish(options as ReplicaWish)
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
  return []
}

describe('a wish for a replica', () => {
  test.each<[string, ReplicaWish | undefined, Wish]>([
    ['nothing: any', undefined, { target: 'replica' }],
    ['an empty object: any', {}, { target: 'replica' }],
    ['a duration: how long behind', { maxLag: '5s' }, { target: 'replica', maxLagMs: 5000 }],
    ['milliseconds', { maxLag: 250 }, { target: 'replica', maxLagMs: 250 }],
    ['no lag at all', { maxLag: 0 }, { target: 'replica', maxLagMs: 0 }],
    ['one limit by name', { maxLag: { bytes: 1024 } }, { target: 'replica', maxLagBytes: 1024 }],
    [
      'both limits',
      { maxLag: { ms: '1s', bytes: 0 }, name: 'eu-2', tags: ['reports', 'big'] },
      { target: 'replica', maxLagMs: 1000, maxLagBytes: 0, name: 'eu-2', tags: ['reports', 'big'] },
    ],
    ['what is undefined says nothing', { maxLag: undefined, name: undefined, tags: undefined }, { target: 'replica' }],
    ['nor inside', { maxLag: { ms: undefined } }, { target: 'replica' }],
  ])('%s', (_, options, wish) => {
    expect(replicaWish(options)).toEqual(wish)
  })

  test('is its own: what its caller does to his object later changes nothing', () => {
    const options = { name: 'eu-2', tags: ['reports'] }
    const wish = replicaWish(options)
    options.tags.push('big')
    expect(wish.tags).toEqual(['reports'])
    expect(Object.isFrozen(wish) && Object.isFrozen(wish.tags)).toBe(true)
  })
})

describe('a wrong wish is refused', () => {
  test.each<[string, unknown, Partial<ConfigFault>]>([
    ['no object', 'eu-2', { path: 'onReplica(options)', received: 'text' }],
    ['null', null, { path: 'onReplica(options)', received: 'null', expected: 'an object of maxLag, name, tags' }],
    ['misspelt', { maxlag: 1 }, { path: 'onReplica.maxlag', received: 'a number', nearest: 'onReplica.maxLag' }],
    ['unknown', { colour: 1 }, { path: 'onReplica.colour', expected: 'one of maxLag, name, tags' }],
    ['no duration', { maxLag: 'soon' }, { path: 'onReplica.maxLag', received: `'soon'` }],
    ['a negative lag', { maxLag: -1 }, { path: 'onReplica.maxLag', received: '-1' }],
    ['null as lag', { maxLag: null }, { path: 'onReplica.maxLag', received: 'null' }],
    ['misspelt inside', { maxLag: { byte: 1 } }, { path: 'onReplica.maxLag.byte', nearest: 'onReplica.maxLag.bytes' }],
    ['half a byte', { maxLag: { bytes: 0.5 } }, { path: 'onReplica.maxLag.bytes', received: '0.5' }],
    ['a duration in bytes', { maxLag: { bytes: '1s' } }, { path: 'onReplica.maxLag.bytes', received: `'1s'` }],
    ['an empty name', { name: '' }, { path: 'onReplica.name', received: 'empty text' }],
    ['a name that is none', { name: 2 }, { path: 'onReplica.name', received: '2' }],
    ['one tag', { tags: 'reports' }, { path: 'onReplica.tags', received: 'text' }],
    ['no text as tag', { tags: ['reports', 1] }, { path: 'onReplica.tags[1]', received: '1' }],
  ])('%s', (_, options, fault) => {
    expect(faultsOf(options)).toEqual([expect.objectContaining(fault)])
  })

  test('with all that is wrong, at once', () => {
    const faults = faultsOf({ maxLag: { ms: 'soon', bytes: -1 }, name: '', tags: [1], near: true })
    expect(faults.map(({ path }) => path)).toEqual([
      'onReplica.near',
      'onReplica.maxLag.ms',
      'onReplica.maxLag.bytes',
      'onReplica.name',
      'onReplica.tags[0]',
    ])
  })
})

describe('a transaction on a replica', () => {
  const wish = replicaWish(undefined)

  test('only reads, without being told', () => {
    expect(settingsWith(wish, {})).toEqual({ accessMode: 'read only' })
    const repeatable = { isolationLevel: 'repeatable read', accessMode: 'read only' } as const
    expect(settingsWith(wish, repeatable)).toEqual(repeatable)
  })

  test.each([
    [{ accessMode: 'read write' }, 'read write'],
    [{ isolationLevel: 'serializable' }, 'isolation level serializable'],
    [{ isolationLevel: 'serializable', accessMode: 'read only' }, 'isolation level serializable'],
  ] as const)('is refused as %o', (settings, what) => {
    expect(() => settingsWith(wish, settings)).toThrow(
      expect.objectContaining({
        code: 'SMARTPG_INVALID_QUERY',
        phase: 'begin',
        message: `A transaction on a replica cannot be ${what}.`,
      }),
    )
  })

  test('is as it was asked for everywhere else', () => {
    const settings = { isolationLevel: 'serializable' } as const
    expect(settingsWith(undefined, settings)).toBe(settings)
    expect(settingsWith({ target: 'primary' }, settings)).toBe(settings)
  })
})
