// How an option's value is named in a fault. Options hold passwords, keys and URLs, and they end up in places
// they were not meant for (a URL as `name`), so nothing is shown that could be one of them.

/** Stands for a property whose getter threw; no check accepts a symbol. */
export const unreadable: unique symbol = Symbol('unreadable')

/** What kind of value it is, and nothing of the value itself. For secret places and unknown options. */
export function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (value === unreadable) return 'a property that cannot be read'
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : 'an array'
  if (typeof value === 'string') return value === '' ? 'empty text' : 'text'
  if (typeof value === 'object') return 'an object'
  return `a ${typeof value}`
}

/** Short text without the characters that make a URL, a key in PEM or an escape sequence. */
const harmless = /^(?!.*:\/\/)[\w .:,+%/-]{1,40}$/

/** The value as it may be shown: numbers, booleans and short plain text; of the rest only the kind. */
export function shown(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  if (typeof value !== 'string' || value === '') return kindOf(value)
  return harmless.test(value) ? `'${value}'` : `text of ${value.length} characters`
}

/** `pool` and `max` → `pool.max`; a key that is no plain word is quoted, one that may be a secret is left out. */
export function pathOf(parent: string, key: string | number): string {
  if (typeof key === 'number') return `${parent}[${key}]`
  if (/^[A-Za-z_$][\w$]{0,62}$/.test(key)) return parent === '' ? key : `${parent}.${key}`
  return harmless.test(key) ? `${parent}['${key}']` : `${parent}['…']`
}
