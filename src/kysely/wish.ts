// Where a caller wants his statements: what `db.onReplica({ … })` takes, checked as options are (a wrong one is refused by
// name and never corrected), and what becomes of a transaction there.

import type { TransactionSettings } from 'kysely'
import { checkValue } from '../config/check.ts'
import { kindOf, pathOf } from '../config/describe.ts'
import { nearestName } from '../config/nearest.ts'
import type { Duration } from '../config/options.ts'
import { isObject, ownEntries } from '../config/own.ts'
import { ruleOf } from '../config/rules.ts'
import { checkTraits } from '../config/traits.ts'
import { ConfigError, SmartPgError } from '../core/errors.ts'
import type { ConfigFault } from '../core/errors.ts'
import type { Wish } from '../core/route.ts'

/** Which replica will do, for `db.onReplica()`. */
export interface ReplicaWish {
  /** Instead of all of `routing.maxLag`: a duration, or limits by name, of which one that is not named does not count. */
  maxLag?: Duration | { ms?: Duration; bytes?: number }
  /** That replica and no other. */
  name?: string
  /** Only replicas with all of these tags. */
  tags?: readonly string[]
}

type Draft = { -readonly [K in keyof Wish]: Wish[K] }

const OPTIONS = ['maxLag', 'name', 'tags'] as const satisfies readonly (keyof ReplicaWish)[]
const LIMITS = ['ms', 'bytes'] as const

export const PRIMARY: Wish = Object.freeze({ target: 'primary' })

const ANY_REPLICA: Wish = Object.freeze({ target: 'replica' })

/** Throws ConfigError with every fault of the options. */
export function replicaWish(options: ReplicaWish | undefined): Wish {
  if (options === undefined) return ANY_REPLICA
  if (!isObject(options)) {
    const expected = `an object of ${OPTIONS.join(', ')}`
    throw new ConfigError([{ path: 'onReplica(options)', received: kindOf(options), expected }])
  }
  const faults: ConfigFault[] = []
  const wish: Draft = { target: 'replica' }
  for (const [option, value] of namedEntries(options, 'onReplica', OPTIONS, faults)) {
    const path = pathOf('onReplica', option)
    if (option === 'maxLag') readMaxLag(value, path, wish, faults)
    else if (option === 'name') wish.name = checkValue(ruleOf('name'), path, value, faults) as string
    else wish.tags = checkTraits([['tags', value]], 'onReplica', faults).tags
  }
  if (faults.length > 0) throw new ConfigError(faults)
  return Object.freeze(wish)
}

/** A transaction on a replica only reads. Throws SmartPgError for one that no standby can have. */
export function settingsWith(wish: Wish | undefined, settings: TransactionSettings): TransactionSettings {
  if (wish?.target !== 'replica') return settings
  const { accessMode, isolationLevel } = settings
  const refused =
    accessMode === 'read write' ? accessMode : isolationLevel === 'serializable' ? 'isolation level serializable' : null
  if (refused === null) return { ...settings, accessMode: 'read only' }
  throw new SmartPgError('SMARTPG_INVALID_QUERY', `A transaction on a replica cannot be ${refused}.`, {
    phase: 'begin',
    hint: 'Nothing was sent. A replica has transactions that only read, up to repeatable read.',
  })
}

function readMaxLag(value: unknown, path: string, wish: Draft, faults: ConfigFault[]): void {
  const limits = isObject(value) ? namedEntries(value, path, LIMITS, faults) : [['ms', value] as const]
  for (const [limit, given] of limits) {
    const at = isObject(value) ? pathOf(path, limit) : path
    const accepted = checkValue(ruleOf(`routing.maxLag.${limit}`), at, given, faults) as number
    if (limit === 'ms') wish.maxLagMs = accepted
    else wish.maxLagBytes = accepted
  }
}

/** The entries that say something, under one of these names; each other one is a fault. */
function namedEntries<Name extends string>(
  value: object,
  path: string,
  names: readonly Name[],
  faults: ConfigFault[],
): [Name, unknown][] {
  return ownEntries(value).filter((entry): entry is [Name, unknown] => {
    const [key, given] = entry
    if (names.some((name) => name === key)) return given !== undefined
    const nearest = nearestName(key, names)
    const fault = { path: pathOf(path, key), received: kindOf(given), expected: `one of ${names.join(', ')}` }
    faults.push(nearest === undefined ? fault : { ...fault, nearest: pathOf(path, nearest) })
    return false
  })
}
