// The options in layers: what the user wrote, the breaker preset, the preset, the defaults. A value is looked for
// from the first to the last; a number that has a bound is compared with it once all layers are there.

import type { ConfigFault } from '../core/errors.ts'
import { checkPerNode, checkValue } from './check.ts'
import { kindOf, pathOf } from './describe.ts'
import { durationText } from './duration.ts'
import { nearestName } from './nearest.ts'
import { isObject, ownEntries } from './own.ts'
import { breakerPresets, presets } from './presets.ts'
import { isOptionPath, optionPaths, ruleOf, rules, sections } from './rules.ts'
import type { Checked, NodeValues, OptionPath } from './rules.ts'

export type Given = Map<OptionPath, unknown>

/** What was given, option by option. Each property is read once. */
export function gather(options: unknown, faults: ConfigFault[]): Given | undefined {
  if (!isObject(options)) {
    faults.push({ path: 'options', received: kindOf(options), expected: 'an object of options or a connection string' })
    return undefined
  }
  const given: Given = new Map()
  gatherSection(options, '', given, faults)
  return given
}

function gatherSection(section: object, parent: string, given: Given, faults: ConfigFault[]): void {
  for (const [key, value] of ownEntries(section)) {
    const path = parent === '' ? key : `${parent}.${key}`
    if (!sections.get(parent)!.has(key)) faults.push(unknownOption(parent, key, value))
    else if (sections.has(path) && isObject(value)) gatherSection(value, path, given, faults)
    else if (value === undefined) continue
    else if (isOptionPath(path)) given.set(path, value)
    else faults.push({ path, received: kindOf(value), expected: 'an object' })
  }
}

/** The nearest name of the same section; else an option of that very name elsewhere (`max` is `pool.max`). */
function unknownOption(parent: string, key: string, value: unknown): ConfigFault {
  const sibling = nearestName(key, sections.get(parent)!)
  const elsewhere = optionPaths.find((path) => path.endsWith(`.${key}`))
  const nearest = sibling === undefined ? elsewhere : pathOf(parent, sibling)
  const fault = { path: pathOf(parent, key), received: kindOf(value), expected: 'a known option' }
  return nearest === undefined ? fault : { ...fault, nearest }
}

/** Checked values of one origin. */
type Layer = Partial<Record<OptionPath, unknown>>

export interface Layers {
  readonly own: Layer
  /** Own values first, defaults last. */
  readonly all: readonly Layer[]
  /** Options whose own value was refused: nothing is compared with the default that stands in for them. */
  readonly refused: ReadonlySet<OptionPath>
}

export function layersOf(given: Given, nodes: readonly string[] | null, faults: ConfigFault[]): Layers {
  const own = checkAll(given, nodes, faults)
  const refused = new Set([...given.keys()].filter((path) => own[path] === undefined))
  const fromPatch = (patch: object) => checkAll(gather(patch, [])!, nodes, [])
  const preset = fromPatch(presets[(own.preset as Checked<'preset'>) ?? rules.preset.default])
  const breaker = typeof own.breaker === 'string' ? breakerPresets[own.breaker as keyof typeof breakerPresets] : {}
  return { own, all: [own, fromPatch({ breaker }), preset, defaults], refused }
}

const defaults: Layer = checkAll(
  new Map(optionPaths.map((path) => [path, ruleOf(path).default ?? undefined])),
  null,
  [],
)

function checkAll(
  given: ReadonlyMap<OptionPath, unknown>,
  nodes: readonly string[] | null,
  faults: ConfigFault[],
): Layer {
  const layer: Layer = {}
  for (const [path, value] of given) {
    const rule = ruleOf(path)
    if (value === undefined || rule.kind === 'connection' || rule.kind === 'replicas') continue
    const check = rule.perNode ? checkPerNode(rule, path, value, nodes, faults) : checkValue(rule, path, value, faults)
    if (check !== undefined) layer[path] = check
  }
  return layer
}

/** An option's value: never undefined for one that has a default. */
type Found<P extends OptionPath> = (typeof rules)[P] extends { default: null } ? Checked<P> | undefined : Checked<P>

export function valueOf<P extends OptionPath>(layers: Layers, path: P): Found<P> {
  return layers.all.find((layer) => layer[path] !== undefined)?.[path] as Found<P>
}

/** A number's value on one node. */
export function numberOn(node: string, path: OptionPath, layers: readonly Layer[]): number | undefined {
  for (const layer of layers) {
    const held = layer[path] as number | NodeValues | undefined
    const value = typeof held === 'object' ? (held.get(node) ?? held.get('default')) : held
    if (value !== undefined) return value
  }
  return undefined
}

/** A user's own value must respect its bound. A default gives way instead: `max: 1` alone is right. */
export function checkOrder(layers: Layers, nodes: readonly string[], faults: ConfigFault[]): void {
  const reported = new Set<string>()
  for (const path of optionPaths) {
    const { atMost, perNode, kind } = ruleOf(path)
    if (atMost === undefined || layers.refused.has(atMost)) continue
    const text = kind === 'duration' ? durationText : String
    for (const node of perNode ? nodes : ['default']) {
      const value = numberOn(node, path, [layers.own])
      const bound = numberOn(node, atMost, layers.all)!
      if (value === undefined || value <= bound) continue
      const at = perNode && (layers.own[path] as NodeValues).has(node) ? pathOf(path, node) : path
      if (!reported.has(at))
        faults.push({ path: at, received: text(value), expected: `at most ${atMost} (${text(bound)})` })
      reported.add(at)
    }
  }
}
