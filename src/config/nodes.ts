// The servers of a configuration: the primary, which is called `primary`, and the replicas, which have the
// names they were given or `replica-1`, `replica-2` … No two nodes have one name, and none is called `default`,
// which stands for the rest where an option has a value per node.

import type { ConfigFault } from '../core/errors.ts'
import { askedEachTime, checkCoordinates, checkSource } from './connection.ts'
import type { Source } from './connection.ts'
import { kindOf, pathOf, shown } from './describe.ts'
import { isObject, ownEntries } from './own.ts'

export interface NamedSource {
  readonly name: string
  readonly source: Source
}

/** The names are known even of nodes whose address is wrong, so that one mistake is one fault. */
export interface Replicas {
  readonly names: readonly string[] | null
  readonly sources: readonly NamedSource[]
}

export function checkReplicas(value: unknown, faults: ConfigFault[]): Replicas {
  if (value === undefined) return { names: [], sources: [] }
  if (!Array.isArray(value)) {
    faults.push({ path: 'replicas', received: kindOf(value), expected: 'an array' })
    return { names: null, sources: [] }
  }
  const names: string[] = []
  const sources: NamedSource[] = []
  for (const [index, replica] of value.entries()) {
    const path = pathOf('replicas', index)
    const entries = isObject(replica) ? ownEntries(replica) : []
    const name = checkName(entries, index, names, path, faults)
    const source = isObject(replica) ? checkReplica(entries, path, faults) : checkSource(replica, path, faults)
    names.push(name)
    if (source !== undefined) sources.push({ name, source })
  }
  return { names, sources }
}

type Entries = [string, unknown][]

const valueOf = (entries: Entries, key: string) => entries.find(([name]) => name === key)?.[1]

/** A label in metrics and a key in objects, hence the narrow alphabet. */
const nodeName = /^[A-Za-z0-9][\w.-]{0,62}$/

function checkName(entries: Entries, index: number, taken: string[], path: string, faults: ConfigFault[]): string {
  const given = valueOf(entries, 'name')
  const name = given ?? `replica-${index + 1}`
  const at = given === undefined ? path : pathOf(path, 'name')
  if (given === null || typeof name !== 'string' || !nodeName.test(name)) {
    const expected = 'a name of 1 to 63 letters, digits, `_`, `.` and `-`, the first a letter or digit'
    faults.push({ path: at, received: shown(given), expected })
    return `replica-${index + 1}`
  }
  if (name === 'default' || name === 'primary' || taken.includes(name)) {
    faults.push({ path: at, received: shown(name), expected: 'a name that no other node has' })
  }
  return name
}

/** `name` and `connect` are ours and go no further: pg would not know them. */
function checkReplica(entries: Entries, path: string, faults: ConfigFault[]): Source | undefined {
  const connect = valueOf(entries, 'connect')
  const rest = entries.filter(([key]) => key !== 'name' && key !== 'connect')
  const source = checkCoordinates(rest, path, faults, ['name', 'connect'])
  if (connect === undefined) return rest.length > 0 ? source : nowhere(path, faults)
  const at = pathOf(path, 'connect')
  if (typeof connect !== 'function') {
    faults.push({ path: at, received: kindOf(connect), expected: 'a function' })
    return undefined
  }
  if (rest.length > 0) {
    faults.push({ path: at, received: 'a function beside coordinates', expected: 'either `connect` or coordinates' })
  }
  return askedEachTime(connect as () => unknown, at)
}

function nowhere(path: string, faults: ConfigFault[]): undefined {
  faults.push({ path, received: 'an object without an address', expected: 'coordinates or `connect`' })
}
