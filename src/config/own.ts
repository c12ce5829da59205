// Reading what a stranger hands in: own enumerable keys only, each read once (a getter may answer differently
// the second time), and never through the prototype.

import type { ConfigFault } from '../core/errors.ts'
import { kindOf, pathOf, unreadable } from './describe.ts'

/** An object that is no array: class instances count by their own keys. */
export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function ownEntries(value: object): [string, unknown][] {
  return Object.keys(value).map((key) => [key, read(value, key)])
}

/** The items of an array, holes as undefined. */
export function itemsOf(value: readonly unknown[]): unknown[] {
  return Array.from({ length: value.length }, (_, index) => read(value, String(index)))
}

/** Names that JSON can carry and that would reach a prototype when somebody later assigns by name. */
const dangerous = new Set(['__proto__', 'constructor', 'prototype'])

/** The entries of an object whose keys are the user's own; those that would reach a prototype are faults. */
export function safeEntries(value: object, path: string, faults: ConfigFault[]): [string, unknown][] {
  return ownEntries(value).filter(([key, held]) => {
    if (!dangerous.has(key)) return true
    faults.push({ path: pathOf(path, key), received: kindOf(held), expected: 'another name' })
    return false
  })
}

export function hasMethod(value: unknown, name: string): boolean {
  const holds = (typeof value === 'object' && value !== null) || typeof value === 'function'
  return holds && typeof read(value, name) === 'function'
}

function read(value: object, key: string): unknown {
  try {
    return (value as Record<string, unknown>)[key]
  } catch {
    return unreadable
  }
}
