// One value against its rule. A wrong value is refused with a fault and never corrected; `undefined` comes back
// for it, which no right value is.

import { types } from 'node:util'
import type { ConfigFault } from '../core/errors.ts'
import { checkSsl } from './connection.ts'
import { kindOf, pathOf, shown } from './describe.ts'
import { durationForms, durationMs, durationText } from './duration.ts'
import { nearestName } from './nearest.ts'
import type { Kind, NodeValues, Rule } from './rules.ts'
import { hasMethod, isObject, itemsOf, ownEntries, safeEntries } from './own.ts'

/** Checks a value that is the same for every node. Nodes' addresses are checked in nodes.ts. */
export function checkValue(rule: Rule, path: string, value: unknown, faults: ConfigFault[]): unknown {
  if (rule.kind === 'settings') return checkSettings(value, path, faults)
  if (rule.kind === 'ssl') return checkSsl(value, path, faults)
  if (rule.kind === 'texts') return checkTexts(value, path, faults)
  if (rule.kind === 'functions') return checkFunctions(value, path, faults)
  const accepted = accept[rule.kind as SimpleKind](value, rule)
  if (accepted === undefined) faults.push({ path, received: received(rule.kind, value), expected: expectedOf(rule) })
  return accepted
}

/** Checks a number, or an object of numbers per node name; `nodes` is null when their names are not known. */
export function checkPerNode(
  rule: Rule,
  path: string,
  value: unknown,
  nodes: readonly string[] | null,
  faults: ConfigFault[],
): NodeValues | undefined {
  const before = faults.length
  const entries: [string, unknown][] = isObject(value) ? ownEntries(value) : [['default', value]]
  const values = new Map<string, number>()
  for (const [node, given] of entries) {
    const at = isObject(value) ? pathOf(path, node) : path
    if (node !== 'default' && nodes !== null && !nodes.includes(node)) {
      const nearest = nearestName(node, ['default', ...nodes])
      const expected = `the name of a node (${nodes.join(', ')}) or 'default'`
      faults.push({ path: at, received: kindOf(given), expected, ...(nearest === undefined ? {} : { nearest }) })
    } else if (given !== undefined) {
      const accepted = checkValue(rule, at, given, faults)
      if (accepted !== undefined) values.set(node, accepted as number)
    }
  }
  return faults.length > before ? undefined : values
}

/** In a fault the forms of a duration are spelled out; in a table they would stand in every row. */
function expectedOf(rule: Rule): string {
  return rule.kind === 'duration' ? `${expectation(rule)}: ${durationForms}` : expectation(rule)
}

type SimpleKind = Exclude<Kind, 'settings' | 'ssl' | 'texts' | 'functions' | 'connection' | 'replicas'>

/** What an object of a stranger must be able to do; more is not asked, so that any logger will do. */
const methodsOf = {
  logger: ['debug', 'info', 'warn', 'error'],
  parsers: ['getTypeParser'],
  registry: ['registerMetric', 'metrics'],
} as const

const within = (value: number, rule: Rule) => value >= rule.min! && value <= rule.max!
const wholeNumber = (value: unknown, rule: Rule) =>
  Number.isSafeInteger(value) && within(value as number, rule) ? value : undefined
const called = (value: unknown) => (typeof value === 'function' ? value : undefined)
const able = (value: unknown, rule: Rule) => (missing(value, rule.kind).length === 0 ? value : undefined)

/** The value as the house keeps it, or undefined when it is not right. */
const accept: { readonly [K in SimpleKind]: (value: unknown, rule: Rule) => unknown } = {
  duration: (value, rule) => {
    const ms = durationMs(value)
    return ms !== null && within(ms, rule) ? ms : undefined
  },
  integer: wholeNumber,
  bytes: wholeNumber,
  share: (value, rule) => (typeof value === 'number' && within(value, rule) ? value : undefined),
  boolean: (value) => (typeof value === 'boolean' ? value : undefined),
  choice: (value, rule) => rule.choices!.find((choice) => choice === value),
  name: (value, rule) => (typeof value === 'string' && isLabel(value, rule.max!) ? value : undefined),
  hook: called,
  lookup: called,
  init: (value) => (isSql(value) ? value : called(value)),
  parsers: able,
  registry: able,
  logger: able,
}

const isSql = (value: unknown) => typeof value === 'string' && value.trim() !== '' && !value.includes('\0')

/** A URL as a name would carry its password into every metric and log line. */
export function isLabel(value: string, maxBytes: number): boolean {
  return value.trim() !== '' && Buffer.byteLength(value) <= maxBytes && !/\0|:\/\//.test(value)
}

function missing(value: unknown, kind: Kind): readonly string[] {
  return methodsOf[kind as keyof typeof methodsOf].filter((method) => !hasMethod(value, method))
}

/** SQL and what strangers' objects hold may be secret: of them only the kind is told. */
function received(kind: Kind, value: unknown): string {
  if (kind === 'init' || kind === 'hook') return kindOf(value)
  const isCandidate = isObject(value) || typeof value === 'function'
  return kind in methodsOf && isCandidate ? `${kindOf(value)} without ${missing(value, kind).join(', ')}` : shown(value)
}

/** What a rule accepts, in words; stands in faults and in docs/configuration.md. */
export function expectation(rule: Rule): string {
  const range = (show: (value: number) => string) => `from ${show(rule.min!)} to ${show(rule.max!)}`
  const words: { readonly [K in Kind]: () => string } = {
    duration: () => `a duration ${range(durationText)}`,
    integer: () => `a whole number ${range(String)}`,
    bytes: () => `a whole number of bytes, ${rule.min} or more`,
    share: () => `a number ${range(String)}`,
    boolean: () => 'true or false',
    choice: () => rule.choices!.map((choice) => (typeof choice === 'string' ? `'${choice}'` : choice)).join(', '),
    name: () => `text of 1 to ${rule.max} bytes that is no URL`,
    hook: () => 'a function',
    lookup: () => 'a function that is called as dns.lookup is',
    init: () => 'SQL or a function',
    texts: () => 'an array of SQL texts, compared exactly, and of RegExps without the flags g and y',
    functions: () => `an array of ${functionForm}`,
    settings: () => 'an object of setting names and values',
    ssl: () => 'true, false or an object of TLS options',
    parsers: () => `an object with the methods ${methodsOf.parsers.join(', ')}`,
    registry: () => `an object with the methods ${methodsOf.registry.join(', ')}`,
    logger: () => `an object with the methods ${methodsOf.logger.join(', ')}`,
    connection: () => 'a URL, a socket path, an object of coordinates, or a function returning one of them',
    replicas: () => 'an array of URLs, objects or functions',
  }
  const one = words[rule.kind]()
  return rule.section ? `${one} or an object` : rule.perNode ? `${one}, or one per node name` : one
}

function checkTexts(value: unknown, path: string, faults: ConfigFault[]): readonly (string | RegExp)[] | undefined {
  if (!Array.isArray(value)) {
    faults.push({ path, received: kindOf(value), expected: 'an array of SQL texts and RegExps' })
    return undefined
  }
  const before = faults.length
  const texts = itemsOf(value).map((item, index) => checkText(item, pathOf(path, index), faults))
  return faults.length > before ? undefined : Object.freeze(texts as (string | RegExp)[])
}

function checkText(value: unknown, path: string, faults: ConfigFault[]): string | RegExp | undefined {
  if (isSql(value)) return value as string
  if (!types.isRegExp(value)) {
    faults.push({ path, received: kindOf(value), expected: 'SQL or a RegExp' })
    return undefined
  }
  // A copy, so that nothing the user does to his own reaches us; its flags are what it was made with.
  const copy = new RegExp(value)
  const stateful = /[gy]/.exec(copy.flags)
  if (stateful === null) return Object.freeze(copy)
  const expected = 'a RegExp without the flags g and y, with which it answers differently each time it is asked'
  faults.push({ path, received: `a RegExp with the flag ${stateful[0]}`, expected })
  return undefined
}

const functionForm = "names as the catalog has them, with or without schema, such as 'app.price'"

/** No quotes and no parentheses, which would never match, and nothing of a URL. */
const functionName = /^[^\s"'().,:;/@\0]{1,63}(?:\.[^\s"'().,:;/@\0]{1,63})?$/

function checkFunctions(value: unknown, path: string, faults: ConfigFault[]): readonly string[] | undefined {
  if (!Array.isArray(value)) {
    faults.push({ path, received: kindOf(value), expected: `an array of ${functionForm}` })
    return undefined
  }
  const before = faults.length
  const names = itemsOf(value)
  for (const [index, name] of names.entries()) {
    if (typeof name === 'string' && functionName.test(name)) continue
    faults.push({ path: pathOf(path, index), received: shown(name), expected: functionForm })
  }
  return faults.length > before ? undefined : Object.freeze(names as string[])
}

/** The startup message's own keys, which are no settings, and two settings that options or pg already decide. */
const notSettings = new Set(['user', 'database', 'replication', 'options', 'client_encoding', 'application_name'])

function checkSettings(value: unknown, path: string, faults: ConfigFault[]): { [setting: string]: string } | undefined {
  if (!isObject(value)) {
    faults.push({ path, received: kindOf(value), expected: 'an object of setting names and values' })
    return undefined
  }
  const seen = new Map<string, string>()
  for (const [name, given] of safeEntries(value, path, faults)) {
    const at = pathOf(path, name)
    const text = settingText(given)
    if (given === undefined) continue
    if (!/^[a-z_][a-z0-9_.]*$/i.test(name) || notSettings.has(name.toLowerCase())) {
      faults.push({ path: at, received: kindOf(given), expected: 'the name of a server setting of the session' })
    } else if ([...seen.keys()].some((other) => other.toLowerCase() === name.toLowerCase())) {
      faults.push({ path: at, received: 'the same setting a second time', expected: 'each setting once' })
    } else if (text === null) {
      faults.push({ path: at, received: kindOf(given), expected: 'text, a finite number, true or false' })
    } else seen.set(name, text)
  }
  return Object.fromEntries(seen)
}

/** As the server reads it in the startup message. */
function settingText(value: unknown): string | null {
  if (typeof value === 'boolean') return value ? 'on' : 'off'
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : null
  return typeof value === 'string' && !value.includes('\0') ? value : null
}
