// The right name for a misspelt one, and none for what is no misspelling.

import { expect, test } from 'vitest'
import { nearestName } from '../../src/config/nearest.ts'

const names = ['min', 'max', 'minIdle', 'acquireTimeout', 'connectTimeout', 'idleTimeout', 'keepalive']

test.each([
  ['maxx', 'max'],
  ['mni', 'min'],
  ['aquireTimeout', 'acquireTimeout'],
  ['connect_timeout', 'connectTimeout'],
  ['IDLETIMEOUT', 'idleTimeout'],
  ['keepAlive', 'keepalive'],
  ['min_idle', 'minIdle'],
])('%s was meant to be %s', (written, meant) => {
  expect(nearestName(written, names)).toBe(meant)
})

test.each(['', 'nix', 'colour', 'poolSize', '__proto__', 'x'.repeat(100_000)])(
  'nothing is near to %.12j',
  (written) => {
    expect(nearestName(written, names)).toBeUndefined()
  },
)

test('of several near names the nearest is given', () => {
  expect(nearestName('maxIdle', ['minIdle', 'max', 'maxIdles'])).toBe('maxIdles')
})
