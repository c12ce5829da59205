// What is said about TLS (words of a URL, the option `ssl`, PGSSLMODE), and what follows from it. Every sslmode has
// one meaning, with which docs/tls.md begins, and what contradicts itself is a fault, never a guess. pg would let the
// library that reads its URLs decide, whose answers change with its versions.

import type { ConfigFault } from './errors.ts'

/** A URL without its words about TLS, and these. */
export interface SplitUrl {
  readonly rest: string
  readonly words: TlsWords
}
export type TlsWords = { readonly [word: string]: string }

const known = new Set([
  'ssl',
  'sslmode',
  'uselibpqcompat',
  'sslrootcert',
  'sslcert',
  'sslkey',
  'sslpassword',
  'sslcrl',
  'sslnegotiation',
  'ssl_min_protocol_version',
  'channel_binding',
])

/** Takes the words about TLS out of a connection string, so that nobody else acts on them. */
export function splitTlsWords(url: string): SplitUrl {
  const from = url.indexOf('?')
  if (from < 0) return { rest: url, words: {} }
  const to = url.indexOf('#', from) < 0 ? url.length : url.indexOf('#', from)
  const words: Record<string, string> = {}
  const others: string[] = []
  for (const part of url.slice(from + 1, to).split('&')) {
    // Whoever parses a URL leaves these out.
    const [key = '', ...value] = part.replaceAll(/[\t\n\r]/g, '').split('=')
    const word = decoded(key)
    if (known.has(word)) words[word] = decoded(value.join('='))
    else others.push(part)
  }
  const query = others.length === 0 ? '' : `?${others.join('&')}`
  return { rest: `${url.slice(0, from)}${query}${url.slice(to)}`, words }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return text
  }
}

/** Who counts as the server: who has a certificate for its name, one of our CA for any name, or anybody. */
export type Trust = 'name' | 'authority' | 'anybody'

export type TlsPlan =
  | { readonly at: 'unsaid' }
  | { readonly at: 'off' }
  | {
      readonly at: 'on'
      /** null: as the options say, which a user has written by hand. */
      readonly trust: Trust | null
      /** Options of node:tls. */
      readonly options: object
      /** Names of options and the files to read them from. */
      readonly files: { readonly [option: string]: string }
      readonly passphrase: string | undefined
      readonly minVersion: string | undefined
      /** TLS from the first byte on, without asking for it. */
      readonly direct: boolean
      readonly binding: 'disable' | 'prefer' | 'require'
    }

export interface TlsSaid {
  readonly words: TlsWords
  /** `ssl` of this node, beside the URL. */
  readonly own?: boolean | object | undefined
  /** `ssl` for all nodes that say nothing of their own. */
  readonly shared?: boolean | object | undefined
  /** PGSSLMODE. */
  readonly environment?: string | undefined
}

/** What is to be done; faults are added under `path`, and then the plan is nobody's to follow. */
export function planTls({ words, own, shared, environment }: TlsSaid, path: string, faults: ConfigFault[]): TlsPlan {
  const fault = (word: string, received: string, expected: string): void => {
    faults.push({ path: `${path}?${word}`, received, expected })
  }
  const binding = choiceOf(words, 'channel_binding', ['disable', 'prefer', 'require'], fault) ?? 'prefer'
  const direct = choiceOf(words, 'sslnegotiation', ['postgres', 'direct'], fault) === 'direct'
  const minVersion = choiceOf(words, 'ssl_min_protocol_version', versions, fault)
  const said = trustSaid(words, direct, fault)
  if (said === 'off' && direct) fault('sslnegotiation', 'direct, beside no TLS', 'TLS, which begins at once then')
  if (said === 'off') {
    if (own !== undefined && own !== false) fault('sslmode', 'no TLS, beside `ssl`', 'one of them')
    if (binding === 'require') fault('channel_binding', 'require, beside no TLS', 'TLS, to which it binds')
    return { at: 'off' }
  }
  const option = own ?? shared
  if (said === null && option === false) {
    if (binding === 'require') fault('channel_binding', 'require, beside `ssl: false`', 'TLS, to which it binds')
    return { at: 'off' }
  }
  const trust = said ?? (option === undefined ? ofEnvironment(environment, faults) : null)
  if (trust === 'off') return { at: 'off' }
  if (trust === null && option === undefined) {
    if (binding === 'require') fault('channel_binding', 'require, and nothing about TLS', '`sslmode=verify-full`, too')
    return { at: 'unsaid' }
  }
  checkOwn(own, trust, fault)
  return {
    at: 'on',
    trust: trust ?? (option === true ? 'name' : null),
    options: typeof option === 'object' ? option : {},
    files: filesOf(words),
    passphrase: words['sslpassword'],
    minVersion,
    direct,
    binding,
  }
}

type Fault = (word: string, received: string, expected: string) => void

const versions = ['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'] as const

function choiceOf<T extends string>(words: TlsWords, word: string, choices: readonly T[], fault: Fault): T | undefined {
  const given = words[word]
  if (given === undefined || given === '') return undefined
  const choice = choices.find((one) => one === given)
  // Whatever stands there may be a secret that has lost its way.
  if (choice === undefined) fault(word, 'another word', `one of ${choices.join(', ')}`)
  return choice
}

const modes = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full', 'no-verify'] as const
type Mode = (typeof modes)[number]

// Nobody can see from a client whether `prefer` and `allow` ended up in the clear, so both mean TLS here, as they do
// to pg; and `require` and `verify-ca` check the name, too. Stricter than libpq, never laxer.
const meaning: { readonly [M in Mode]: Trust | 'off' } = {
  disable: 'off',
  allow: 'name',
  prefer: 'name',
  require: 'name',
  'verify-ca': 'name',
  'verify-full': 'name',
  'no-verify': 'anybody',
}

/** What the URL asks for; null when it asks for nothing. */
function trustSaid(words: TlsWords, direct: boolean, fault: Fault): Trust | 'off' | null {
  const mode = choiceOf(words, 'sslmode', modes, fault)
  const compatible = words['uselibpqcompat'] === 'true'
  if (mode !== undefined) return compatible ? asLibpq(mode, words, fault) : meaning[mode]
  const ssl = choiceOf(words, 'ssl', ['true', '1', 'false', '0', 'no-verify'], fault)
  if (ssl === 'no-verify') return 'anybody'
  if (ssl === 'false' || ssl === '0') return 'off'
  return ssl !== undefined || direct || Object.keys(filesOf(words)).length > 0 ? 'name' : null
}

/** With `uselibpqcompat=true`, as pg-connection-string has it: libpq's meaning, but never without TLS. */
function asLibpq(mode: Mode, words: TlsWords, fault: Fault): Trust | 'off' {
  if (mode === 'prefer') return 'anybody'
  if (mode === 'require') return words['sslrootcert'] ? 'authority' : 'anybody'
  if (mode !== 'verify-ca') return meaning[mode]
  if (!words['sslrootcert']) fault('sslmode', 'verify-ca without `sslrootcert`', '`sslrootcert`, or verify-full')
  return 'authority'
}

/** PGSSLMODE, where nothing else is said; null when it is not set. */
function ofEnvironment(environment: string | undefined, faults: ConfigFault[]): Trust | 'off' | null {
  const fault: Fault = (_, received, expected) => faults.push({ path: 'PGSSLMODE', received, expected })
  const mode = choiceOf({ sslmode: environment ?? '' }, 'sslmode', modes, fault)
  return mode === undefined ? null : meaning[mode]
}

/** A node's own `ssl` beside its URL: it may add a CA, and must not say the contrary. */
function checkOwn(own: boolean | object | undefined, trust: Trust | null, fault: Fault): void {
  if (trust === null) return
  if (own === false) fault('sslmode', 'TLS, beside `ssl: false`', 'one of them')
  const unchecked = typeof own === 'object' && (own as { rejectUnauthorized?: unknown }).rejectUnauthorized === false
  if (unchecked && trust !== 'anybody') {
    fault('sslmode', 'a check of the server, beside `ssl.rejectUnauthorized: false`', '`ssl: { ca }`, or no-verify')
  }
}

const fileOptions = { sslrootcert: 'ca', sslcert: 'cert', sslkey: 'key', sslcrl: 'crl' } as const

function filesOf(words: TlsWords): Record<string, string> {
  const files: Record<string, string> = {}
  for (const [word, option] of Object.entries(fileOptions)) if (words[word]) files[option] = words[word]
  return files
}

/** Whether what is sent there stays on this machine: an address, a name, or the path of a Unix socket. */
export function isLoopback(host: string): boolean {
  return /^(?:\/.*|(?:::ffff:)?127(?:\.\d+){3}|::1|localhost|)$/i.test(host)
}
