// What may be said of a server beside its address: where it stands, its share of the reads, its turn, its tags.
// All of it is ours, for the choice among replicas; pg never hears of it.

import type { Traits } from '../core/standing.ts'
import type { ConfigFault } from '../core/errors.ts'
import { isLabel } from './check.ts'
import { kindOf, pathOf, shown } from './describe.ts'
import { itemsOf } from './own.ts'

export const traitNames = ['zone', 'weight', 'priority', 'tags'] as const

/** Of a server of which nothing was said. */
export const noTraits: Traits = Object.freeze({ zone: undefined, weight: 1, priority: 1, tags: Object.freeze([]) })

/** As an option's name: 63 bytes are what PostgreSQL gives to its own. */
const longestLabel = 63
const isName = (value: unknown) => typeof value === 'string' && isLabel(value, longestLabel)
const nameForm = `text of 1 to ${longestLabel} bytes that is no URL`

const isNumber = (value: unknown, most: number) => typeof value === 'number' && value > 0 && value <= most

/** Each trait's check, beside the tags, of which each has one of its own. */
const traitRules = {
  zone: [isName, nameForm],
  weight: [(value: unknown) => isNumber(value, 1000), 'a number above 0, at most 1000'],
  priority: [(value: unknown) => isNumber(value, 100) && Number.isInteger(value), 'a whole number from 1 to 100'],
} as const

/** With a fault for each that is wrong. */
export function checkTraits(
  entries: readonly (readonly [string, unknown])[],
  path: string,
  faults: ConfigFault[],
): Traits {
  const said = entries.filter(([key, value]) => value !== undefined && isTrait(key))
  const kept = said.map(([key, value]) => [key, checkTrait(key as Trait, value, pathOf(path, key), faults)])
  return Object.freeze({ ...noTraits, ...(Object.fromEntries(kept) as Partial<Traits>) })
}

type Trait = (typeof traitNames)[number]
const isTrait = (key: string) => traitNames.some((name) => name === key)

function checkTrait(trait: Trait, value: unknown, path: string, faults: ConfigFault[]): unknown {
  if (trait === 'tags') return checkTags(value, path, faults)
  const [accepts, expected] = traitRules[trait]
  if (!accepts(value)) faults.push({ path, received: shown(value), expected })
  return value
}

/** Each is looked for in each replica at each read that asks for tags. */
const mostTags = 32

function checkTags(value: unknown, path: string, faults: ConfigFault[]): readonly unknown[] {
  if (!Array.isArray(value) || value.length > mostTags) {
    const received = Array.isArray(value) ? `${value.length} tags` : kindOf(value)
    faults.push({ path, received, expected: `an array of at most ${mostTags} tags` })
    return []
  }
  const tags = itemsOf(value)
  for (const [index, tag] of tags.entries()) {
    const twice = tags.indexOf(tag) < index
    if (isName(tag) && !twice) continue
    faults.push({ path: pathOf(path, index), received: shown(tag), expected: twice ? 'each tag once' : nameForm })
  }
  return Object.freeze(tags)
}
