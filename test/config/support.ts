// Shared by the tests of the options: what resolves, and which faults come back for what does not.

import { ConfigError } from '../../src/core/errors.ts'
import type { ConfigFault } from '../../src/core/errors.ts'
import type { Config } from '../../src/config/options.ts'
import { resolveConfig } from '../../src/config/resolve.ts'

export const primary = 'postgres://app@db/orders'

/** The Config with a primary that is right, so that a test names only what it is about. */
export const configWith = (options: object): Config => resolveConfig({ primary, ...options })

export function errorOf(options: unknown): ConfigError {
  try {
    resolveConfig(options)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error('these options resolved without a fault')
}

export const faultsOf = (options: unknown): readonly ConfigFault[] => errorOf(options).faults
export const faultsWith = (options: object): readonly ConfigFault[] => faultsOf({ primary, ...options })

/** The option at a dotted path, as a user would nest it. */
export function at(path: string, value: unknown): object {
  return path.split('.').reduceRight<unknown>((inner, key) => ({ [key]: inner }), value) as object
}
