// Where a server is, as a user may say it: a URL, a socket path, an object of coordinates, or a function that
// returns one of them at each connect. What is right is kept in a closure alone, so that no inspection and no
// JSON of the Config can reach a password; what is wrong is named without being shown.

import { ConfigError } from '../core/errors.ts'
import type { ConfigFault } from '../core/errors.ts'
import { planTls, splitTlsWords } from '../core/tls.ts'
import { kindOf, pathOf, shown } from './describe.ts'
import { nearestName } from './nearest.ts'
import type { ConnectionConfig, ConnectionTarget, NodeConfig, SslOptions } from './options.ts'
import { isObject, ownEntries, safeEntries } from './own.ts'

/** A node's address, checked; `database` is null when only the server or a function knows it. */
export interface Source {
  readonly target: NodeConfig['target']
  readonly database: string | null
}

type Entries = readonly (readonly [string, unknown])[]

export const addressForms =
  'a postgres:// or postgresql:// URL, a socket: URL, a socket path such as /var/run/postgresql, ' +
  'an object of coordinates, or a function returning one of them'

const readable =
  'a URL with one host, a port from 1 to 65535, and special characters of user and password percent-encoded'

export function checkSource(value: unknown, path: string, faults: ConfigFault[]): Source | undefined {
  if (typeof value === 'function') return askedEachTime(value as () => unknown, path)
  return settled(checkTarget(value, path, faults))
}

/** Checks the coordinates that stand in an object; `alsoKnown` are other right keys, for the nearest name. */
export function checkCoordinates(
  entries: Entries,
  path: string,
  faults: ConfigFault[],
  alsoKnown: readonly string[] = [],
): Source | undefined {
  return settled(coordinates(entries, path, faults, alsoKnown))
}

/** A function as address: what it returns is checked at each connect, for nobody can check it before. */
export function askedEachTime(ask: () => unknown, path: string): Source {
  const target = async () => {
    const faults: ConfigFault[] = []
    const answer = checkTarget(await ask(), `${path}()`, faults)
    if (answer === undefined) throw new ConfigError(faults)
    return answer
  }
  return { target, database: null }
}

function settled(target: ConnectionTarget | undefined): Source | undefined {
  return target === undefined ? undefined : { target: () => target, database: databaseOf(target) }
}

function checkTarget(value: unknown, path: string, faults: ConfigFault[]): ConnectionTarget | undefined {
  if (typeof value === 'string') return checkUrl(value, path, faults)
  if (isObject(value)) return coordinates(ownEntries(value), path, faults)
  faults.push({ path, received: kindOf(value), expected: addressForms })
  return undefined
}

function checkUrl(text: string, path: string, faults: ConfigFault[], ssl?: SslOptions): string | undefined {
  if (readUrl(text) !== null) {
    const before = faults.length
    planTls({ words: splitTlsWords(text).words, own: ssl }, path, faults)
    return faults.length > before ? undefined : text
  }
  const ours = urlForm.test(text)
  faults.push({
    path,
    received: ours ? 'a URL that cannot be read' : notOurs(text),
    expected: ours ? readable : addressForms,
  })
  return undefined
}

/** A scheme of letters alone is shown: `mysql` explains much, and a password rarely stands before `://`. */
function notOurs(text: string): string {
  const scheme = /^([a-z]{2,15}):\/\//i.exec(text)
  if (scheme !== null) return `a URL of scheme ${scheme[1]!.toLowerCase()}`
  return text === '' ? 'empty text' : 'text that is no URL'
}

const urlForm = /^(?:postgres(?:ql)?:\/\/|socket:\/|\/)/i

/** User and database of a URL as pg will read it, or null when pg could not. */
function readUrl(text: string): { user: string; database: string } | null {
  if (!urlForm.test(text) || text.includes('\0')) return null
  if (text.startsWith('/')) return { user: '', database: text.split(' ')[1] ?? '' }
  try {
    const url = parseUrl(text)
    const port = url.searchParams.get('port') || url.port
    if (port !== '' && !isPort(Number(port))) return null
    decodeURIComponent(url.password)
    const user = url.searchParams.get('user') || decodeURIComponent(url.username)
    const database = url.protocol === 'socket:' ? (url.searchParams.get('db') ?? '') : decodeURI(url.pathname.slice(1))
    return `${user}${database}`.includes('\0') ? null : { user, database }
  } catch {
    return null
  }
}

/** As pg-connection-string does: stray `%` and spaces are encoded, and a user without a host is right. */
function parseUrl(text: string): URL {
  const stray = / |%[^a-f0-9]|%[a-f0-9][^a-f0-9]/i.test(text)
  const encoded = stray ? encodeURI(text).replaceAll(/%25(\d\d)/g, '%$1') : text
  return new URL(URL.canParse(encoded) ? encoded : encoded.replace('@/', '@nohost/'))
}

/** The database's name as pg would choose it; the environment's PG… variables are not asked. */
function databaseOf(target: ConnectionTarget): string | null {
  const config: ConnectionConfig = typeof target === 'string' ? { connectionString: target } : target
  const url = config.connectionString === undefined ? null : readUrl(config.connectionString)
  return url?.database || config.database || url?.user || config.user || null
}

const isText = (value: unknown) => typeof value === 'string' && value !== '' && !value.includes('\0')
const isPort = (value: unknown) => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65535

/** Each coordinate's check, beside the URL and TLS, which say more than yes or no. */
const coordinateRules = {
  host: [isText, 'a host name, an address or a socket directory'],
  port: [isPort, 'a whole number from 1 to 65535'],
  user: [isText, 'text that is not empty'],
  password: [
    (value: unknown) => typeof value === 'function' || (typeof value === 'string' && !value.includes('\0')),
    'text or a function returning it',
  ],
  database: [isText, 'text that is not empty'],
  options: [isText, "text such as '-c geqo=off'"],
} as const

export const coordinateNames: readonly string[] = ['connectionString', 'ssl', ...Object.keys(coordinateRules)]

function coordinates(
  entries: Entries,
  path: string,
  faults: ConfigFault[],
  alsoKnown: readonly string[] = [],
): ConnectionConfig | undefined {
  const before = faults.length
  // Nobody writes that; it comes of environment variables that are not set, and pg would connect to its defaults.
  if (entries.length > 0 && entries.every(([key, value]) => value === undefined && coordinateNames.includes(key))) {
    faults.push({ path, received: 'an object of nothing but undefined', expected: addressForms })
    return undefined
  }
  const kept: [string, unknown][] = []
  for (const [key, value] of entries) {
    const at = pathOf(path, key)
    if (!coordinateNames.includes(key)) faults.push(unknownKey(at, path, key, value, alsoKnown))
    else if (value !== undefined && key !== 'connectionString') {
      kept.push([key, checkCoordinate(key, value, at, faults)])
    }
  }
  const url = entries.find(([key]) => key === 'connectionString')?.[1]
  if (url !== undefined) {
    const ssl = kept.find(([key]) => key === 'ssl')?.[1] as SslOptions | undefined
    kept.push(['connectionString', checkConnectionString(url, pathOf(path, 'connectionString'), faults, ssl)])
  }
  checkOverruled(
    kept.map(([key]) => key),
    path,
    faults,
  )
  if (faults.length > before) return undefined
  return Object.freeze(Object.fromEntries(kept))
}

/** pg lets a URL overrule these even where the URL is silent: a password function beside it is never asked. */
const overruled = new Set(['host', 'port', 'user', 'password', 'database'])

function checkOverruled(given: readonly string[], path: string, faults: ConfigFault[]): void {
  if (!given.includes('connectionString')) return
  const expected = 'either `connectionString` or separate coordinates, for pg would ignore this one'
  for (const key of given.filter((name) => overruled.has(name))) {
    faults.push({ path: pathOf(path, key), received: 'a value beside `connectionString`', expected })
  }
}

function unknownKey(at: string, path: string, key: string, value: unknown, alsoKnown: readonly string[]): ConfigFault {
  const nearest = nearestName(key, [...coordinateNames, ...alsoKnown])
  const fault = { path: at, received: kindOf(value), expected: 'a known coordinate of a connection' }
  return nearest === undefined ? fault : { ...fault, nearest: pathOf(path, nearest) }
}

/** What it says about TLS must fit with the `ssl` beside it. */
function checkConnectionString(
  value: unknown,
  path: string,
  faults: ConfigFault[],
  ssl: SslOptions | undefined,
): string | undefined {
  if (typeof value === 'string') return checkUrl(value, path, faults, ssl)
  faults.push({ path, received: kindOf(value), expected: 'a postgres:// or postgresql:// URL' })
  return undefined
}

function checkCoordinate(key: string, value: unknown, path: string, faults: ConfigFault[]): unknown {
  if (key === 'ssl') return checkSsl(value, path, faults)
  const [accepts, expected] = coordinateRules[key as keyof typeof coordinateRules]
  // Only a port may be shown: a number may be a password, too.
  if (!accepts(value)) faults.push({ path, received: key === 'port' ? shown(value) : kindOf(value), expected })
  return value
}

/** A copy, so that a later change of the user's object is not half obeyed. */
export function checkSsl(value: unknown, path: string, faults: ConfigFault[]): SslOptions | undefined {
  if (typeof value === 'boolean') return value
  if (isObject(value)) return Object.freeze(Object.fromEntries(safeEntries(value, path, faults)))
  faults.push({ path, received: kindOf(value), expected: 'true, false or an object of TLS options' })
  return undefined
}
