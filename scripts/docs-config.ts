// Writes the tables of docs/configuration.md from the rules and presets, so that the page cannot say anything else
// than the code. `node scripts/docs-config.ts` rewrites the page; a test fails when it was forgotten.

import { readFileSync, writeFileSync } from 'node:fs'
import { expectation } from '../src/config/check.ts'
import { resolveConfig } from '../src/config/resolve.ts'
import { breakerPresets, presets } from '../src/config/presets.ts'
import { optionPaths, ruleOf } from '../src/config/rules.ts'
import type { Rule } from '../src/config/rules.ts'

export const page = new URL('../docs/configuration.md', import.meta.url)

/** The page with its tables as the code has them now; the prose between them stays. */
export function inStep(markdown: string): string {
  return Object.entries({ options: optionTable(), presets: presetTable(), breaker: breakerTable() }).reduce(
    (text, [name, rows]) => {
      const [start, end] = [`<!-- ${name}:start -->`, `<!-- ${name}:end -->`]
      const [from, to] = [text.indexOf(start), text.indexOf(end)]
      if (from < 0 || to < from) throw new Error(`docs/configuration.md has no pair of markers for '${name}'`)
      return `${text.slice(0, from)}${start}\n<!-- prettier-ignore-start -->\n\n${rows}\n<!-- prettier-ignore-end -->\n${text.slice(to)}`
    },
    markdown,
  )
}

function optionTable(): string {
  const rows = optionPaths.map((path) => {
    const rule = ruleOf(path)
    const accepted = rule.atMost === undefined ? expectation(rule) : `${expectation(rule)}; at most \`${rule.atMost}\``
    return [`\`${path}\``, defaultText(rule), accepted, rule.doc]
  })
  return table(['Option', 'Default', 'Accepted', ''], rows)
}

function defaultText(rule: Rule): string {
  if (rule.default === null) return rule.derived ?? ''
  return `\`${typeof rule.default === 'string' ? `'${rule.default}'` : rule.default}\``
}

/** Only what differs from `production`, which is the defaults. */
function presetTable(): string {
  const names = Object.keys(presets) as (keyof typeof presets)[]
  const leaves = names.map((name) => new Map(leavesOf(presets[name])))
  const paths = optionPaths.filter((path) => leaves.some((leaf) => leaf.has(path)))
  const rows = paths.map((path) => [
    `\`${path}\``,
    ...leaves.map((leaf) => (leaf.has(path) ? code(leaf.get(path)) : defaultText(ruleOf(path)))),
  ])
  return table(['Option', ...names.map((name) => `\`'${name}'\``)], rows)
}

function leavesOf(patch: object, parent = ''): [string, unknown][] {
  return Object.entries(patch).flatMap(([key, value]): [string, unknown][] =>
    typeof value === 'object' ? leavesOf(value as object, `${parent}${key}.`) : [[`${parent}${key}`, value]],
  )
}

function breakerTable(): string {
  const rows = (Object.keys(breakerPresets) as (keyof typeof breakerPresets)[]).map((name) => {
    const { breaker } = resolveConfig({ primary: 'postgres://db/app', breaker: name })
    const { failureThreshold, errorRate, recoveryMaxMs } = breaker!
    return [`\`'${name}'\``, `${failureThreshold}`, `${errorRate}`, `${recoveryMaxMs / 1000} s`]
  })
  return table(['Preset', '`failureThreshold`', '`errorRate`', '`recoveryTimeout.max`'], rows)
}

const code = (value: unknown) => `\`${typeof value === 'string' ? `'${value}'` : String(value)}\``

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return line(head) + line(head.map(() => '---')) + rows.map(line).join('')
}

function line(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`
}

if (import.meta.main) writeFileSync(page, inStep(readFileSync(page, 'utf8')))
