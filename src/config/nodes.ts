// The servers of a configuration: the primary, which is called `primary`, and the replicas, which have the names
// they were given or `replica-1`, `replica-2` … Where roles are found out all are hosts: `host-1`, `host-2` … No two
// nodes have one name, none is called `default`, which stands for the rest where an option has a value per node, and
// no replica or host is called `primary`: as name it would outlive the role.

import type { ConfigFault } from '../core/errors.ts'
import type { Traits } from '../core/standing.ts'
import { addressForms, askedEachTime, checkCoordinates, checkSource } from './connection.ts'
import type { Source } from './connection.ts'
import { kindOf, pathOf, shown } from './describe.ts'
import type { Given } from './layers.ts'
import { isObject, itemsOf, ownEntries } from './own.ts'
import { checkTraits, noTraits, traitNames } from './traits.ts'

/** One server, checked. */
export interface Server {
  readonly name: string
  readonly source: Source
  readonly traits: Traits
}

export interface Servers {
  /** Known even of servers whose address is wrong, so that one mistake is one fault; null: not to be known. */
  readonly names: readonly string[] | null
  /** The primary first, or what is taken for it until the roles are known. */
  readonly sources: readonly Server[]
  readonly rolesUnknown: boolean
}

export function checkServers(given: Given, faults: ConfigFault[]): Servers {
  if (!given.has('hosts')) return checkRoles(given, faults)
  const beside = (['primary', 'replicas'] as const).filter((path) => given.has(path))
  if (beside.length === 0) return { ...checkList(given.get('hosts'), 'hosts', faults), rolesUnknown: true }
  const others = beside.map((path) => `\`${path}\``).join(' and ')
  const expected = `\`hosts\` alone, with every server in it: drop ${others}; or drop \`hosts\` where roles are known`
  faults.push({ path: 'hosts', received: `a value beside ${others}`, expected })
  return { names: null, sources: [], rolesUnknown: true }
}

function checkRoles(given: Given, faults: ConfigFault[]): Servers {
  const primary = checkPrimary(given.get('primary'), faults)
  const replicas = checkList(given.has('replicas') ? given.get('replicas') : [], 'replicas', faults)
  const sources = primary === undefined ? [] : [{ name: 'primary', source: primary, traits: noTraits }]
  return {
    names: replicas.names && ['primary', ...replicas.names],
    sources: [...sources, ...replicas.sources],
    rolesUnknown: false,
  }
}

function checkPrimary(value: unknown, faults: ConfigFault[]): Source | undefined {
  if (value !== undefined) return checkSource(value, 'primary', faults)
  const expected = `${addressForms}; or \`hosts\` instead, an array of servers whose roles are found out`
  faults.push({ path: 'primary', received: kindOf(value), expected })
  return undefined
}

const kindOfList = { replicas: 'replica', hosts: 'host' } as const

function checkList(
  value: unknown,
  path: 'replicas' | 'hosts',
  faults: ConfigFault[],
): Pick<Servers, 'names' | 'sources'> {
  if (!Array.isArray(value) || (path === 'hosts' && value.length === 0)) {
    const expected = path === 'hosts' ? 'an array of one server or more' : 'an array'
    faults.push({ path, received: kindOf(value), expected })
    return { names: null, sources: [] }
  }
  const names: string[] = []
  const sources: Server[] = []
  for (const [index, item] of itemsOf(value).entries()) {
    const unnamed = `${kindOfList[path]}-${index + 1}`
    const { name, server } = checkServer(item, unnamed, names, pathOf(path, index), faults)
    names.push(name)
    if (server !== undefined) sources.push(server)
  }
  return { names, sources }
}

/** A server that comes later: without a name it gets the first number that is free among `taken`. */
export function checkAdded(
  value: unknown,
  kind: 'replica' | 'host',
  taken: readonly string[],
  faults: ConfigFault[],
): Server | undefined {
  let number = 1
  while (taken.includes(`${kind}-${number}`)) number++
  return checkServer(value, `${kind}-${number}`, taken, 'addReplica(replica)', faults).server
}

function checkServer(
  value: unknown,
  unnamed: string,
  taken: readonly string[],
  path: string,
  faults: ConfigFault[],
): { readonly name: string; readonly server: Server | undefined } {
  const entries = isObject(value) ? ownEntries(value) : []
  const name = checkName(entries, unnamed, taken, path, faults)
  const traits = checkTraits(entries, path, faults)
  const source = isObject(value) ? checkAddress(entries, path, faults) : checkSource(value, path, faults)
  return { name, server: source && { name, source, traits } }
}

type Entries = readonly (readonly [string, unknown])[]

const valueOf = (entries: Entries, key: string) => entries.find(([name]) => name === key)?.[1]

/** A label in metrics and a key in objects, hence the narrow alphabet. */
const nodeName = /^[A-Za-z0-9][\w.-]{0,62}$/

function checkName(
  entries: Entries,
  unnamed: string,
  taken: readonly string[],
  path: string,
  faults: ConfigFault[],
): string {
  const given = valueOf(entries, 'name')
  const name = given === undefined ? unnamed : given
  const at = given === undefined ? path : pathOf(path, 'name')
  if (typeof name !== 'string' || !nodeName.test(name)) {
    const expected = 'a name of 1 to 63 letters, digits, `_`, `.` and `-`, the first a letter or digit'
    faults.push({ path: at, received: shown(given), expected })
    return unnamed
  }
  if (name === 'default' || name === 'primary' || taken.includes(name)) {
    faults.push({ path: at, received: shown(name), expected: 'a name that no other node has' })
  }
  return name
}

/** What is ours goes no further: pg would not know it. */
const ours: readonly string[] = ['name', 'connect', ...traitNames]

function checkAddress(entries: Entries, path: string, faults: ConfigFault[]): Source | undefined {
  const connect = valueOf(entries, 'connect')
  const rest = entries.filter(([key]) => !ours.includes(key))
  const source = checkCoordinates(rest, path, faults, ours)
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
