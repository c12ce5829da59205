// The front door: what is exported by name is a promise to users. Adding to this list is a decision to be made
// on purpose, taking from it a breaking change.

import { expect, test } from 'vitest'
import * as packageExports from '../src/index.ts'
import manifest from '../package.json' with { type: 'json' }

test('the package exports these names and no others', () => {
  expect(Object.keys(packageExports).toSorted()).toEqual([
    'AcquireTimeoutError',
    'BatchError',
    'CircuitOpenError',
    'ConfigError',
    'NotExecutedError',
    'OutcomeUnknownError',
    'QueueFullError',
    'SmartPgDialect',
    'SmartPgError',
    'batch',
    'explainRoute',
    'installBatch',
    'isSmartPgError',
    'onPrimary',
    'onReplica',
    'registry',
    'retryTransaction',
    'withTimeout',
  ])
})

test('the package can be entered by these paths and no others', () => {
  expect(Object.keys(manifest.exports)).toEqual(['.', './package.json'])
})

test('installing the package runs nothing of it', () => {
  const scripts = Object.keys(manifest.scripts)
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) expect(scripts).not.toContain(name)
})
