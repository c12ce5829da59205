// The plan of the house, kept by force: which room may import which, which packages each may name, and the few
// habits of every file. The picture for people stands in docs/architecture.md.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const src = join(root, 'src')

interface Room {
  /** Rooms whose values it may import. */
  readonly rooms: readonly string[]
  /** Rooms of which it may know the types alone. */
  readonly types?: readonly string[]
  readonly packages?: readonly string[]
  readonly packageTypes?: readonly string[]
  readonly node?: boolean
}

const everyRoom = ['core', 'sql', 'config', 'wire', 'engine', 'telemetry', 'kysely']

/** The allowed arrows. The two files at the root are rooms of their own: they wire, so they know all. */
const plan: Record<string, Room> = {
  core: { rooms: ['core'], packages: ['lru-cache'] },
  sql: { rooms: ['sql', 'core'], packages: ['lru-cache'] },
  config: { rooms: ['config', 'core'], packageTypes: ['prom-client'], node: true },
  wire: { rooms: ['wire', 'core'], types: ['config'], packages: ['pg', 'lru-cache'], node: true },
  engine: { rooms: ['engine', 'core', 'sql'], types: ['config'], packages: ['lru-cache'], node: true },
  telemetry: { rooms: ['telemetry', 'core'], types: ['config'], packages: ['prom-client'], node: true },
  kysely: { rooms: ['kysely', 'engine', 'core', 'config', 'sql'], packages: ['kysely'], node: true },
  'dialect.ts': { rooms: everyRoom, packages: ['kysely'], packageTypes: ['prom-client'], node: true },
  'index.ts': { rooms: [...everyRoom, 'dialect.ts'], packages: ['prom-client'] },
}

/** The one file that may read the time and draw chance. */
const clock = join('engine', 'clock.ts')

interface Import {
  readonly from: string
  readonly typeOnly: boolean
  readonly reexport: boolean
}

function importsOf(code: string): Import[] {
  const found: Import[] = []
  const statement =
    /^(import|export)\s+(type\s)?\s*(?:(?:[\w$]+\s*,\s*)?(?:\*(?:\s+as\s+[\w$]+)?|\{[^}]*\}|[\w$]+)\s*from\s*)?['"]([^'"]+)['"]/gm
  for (const [, keyword, type, from] of code.matchAll(statement)) {
    found.push({ from: from!, typeOnly: type !== undefined, reexport: keyword === 'export' })
  }
  for (const [, from] of code.matchAll(/\b(?:import|require)\(\s*['"]([^'"]+)['"]/g)) {
    found.push({ from: from!, typeOnly: false, reexport: false })
  }
  return found
}

const withoutComments = (text: string): string => text.replace(/\/\*[^]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1')

const roomOf = (file: string): string => file.split(/[\\/]/)[0]!

const packageOf = (from: string): string => from.split('/', from.startsWith('@') ? 2 : 1).join('/')

/** `file` is relative to src. Empty when the file keeps every rule. */
function faultsOf(file: string, text: string): string[] {
  const room = plan[roomOf(file)]
  if (room === undefined) return [`${file}: the plan has no room of this name`]
  const code = withoutComments(text)
  const imports = importsOf(code)
  return [...imports.flatMap((one) => faultOfImport(file, room, one)), ...faultsOfHabit(file, text, code, imports)].map(
    (fault) => `${file}: ${fault}`,
  )
}

function faultOfImport(file: string, room: Room, { from, typeOnly }: Import): string[] {
  if (from.startsWith('.')) {
    const target = relative(src, join(src, dirname(file), from))
    const allowed = typeOnly ? [...room.rooms, ...(room.types ?? [])] : room.rooms
    if (!from.endsWith('.ts')) return [`'${from}' must name the file with its ending`]
    return allowed.includes(roomOf(target)) ? [] : [`may not import ${typeOnly ? 'types of ' : ''}'${from}'`]
  }
  if (from.startsWith('node:')) return room.node === true ? [] : [`may not import '${from}'`]
  const allowed = typeOnly ? [...(room.packages ?? []), ...(room.packageTypes ?? [])] : (room.packages ?? [])
  return allowed.includes(packageOf(from)) ? [] : [`may not import ${typeOnly ? 'types of ' : ''}'${from}'`]
}

function faultsOfHabit(file: string, text: string, code: string, imports: readonly Import[]): string[] {
  const faults: string[] = []
  const name = file.split(/[\\/]/).at(-1)!
  if (!/^[a-z0-9]+(-[a-z0-9]+)*(\.d)?\.ts$/.test(name)) faults.push('is not named in kebab-case')
  if (!/^(\/\/ \S|\/\*\*? ?\S|\/\*\*?\n)/.test(text)) faults.push('does not open with a paragraph for a newcomer')
  if (/^export\s+default\b|\bas\s+default\b/m.test(code)) faults.push('has a default export')
  if (file !== 'index.ts' && imports.some((one) => one.reexport)) faults.push('hands on what another file exports')
  if (file !== clock) {
    const time = /\bDate\.now\b|\bnew Date\(\s*\)|\bperformance\.\w+|\bprocess\.hrtime\b|\bMath\.random\b/.exec(code)
    // What has a type behind its first parameter is declared, not called.
    const timer = /(?<![\w.#])(?:globalThis\.)?(?:setTimeout|setInterval|setImmediate)\s*\((?!\w+: )/.exec(code)
    if (time !== null) faults.push(`reads '${time[0]}' instead of being told`)
    if (timer !== null) faults.push(`calls '${timer[0]}' instead of its Clock`)
  }
  return faults
}

/** The first circle of files that import each other, or null. */
function circleIn(graph: ReadonlyMap<string, readonly string[]>): string[] | null {
  const done = new Set<string>()
  const walk = (file: string, path: readonly string[]): string[] | null => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
    if (done.has(file)) return null
    for (const next of graph.get(file) ?? []) {
      const circle = walk(next, [...path, file])
      if (circle !== null) return circle
    }
    done.add(file)
    return null
  }
  for (const file of graph.keys()) {
    const circle = walk(file, [])
    if (circle !== null) return circle
  }
  return null
}

const sources = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
const read = (file: string): string => readFileSync(join(src, file), 'utf8')

describe('the plan of the house', () => {
  test('every file of src keeps to its room and to the habits of the house', () => {
    expect(sources).toContain(clock)
    expect(sources.flatMap((file) => faultsOf(file, read(file)))).toEqual([])
  })

  test('every import of src names a file that is there, and no two files import each other in a circle', () => {
    const graph = new Map(
      sources.map((file) => {
        const own = importsOf(withoutComments(read(file))).filter(({ from }) => from.startsWith('.'))
        return [file, own.map(({ from }) => relative(src, join(src, dirname(file), from)))]
      }),
    )
    const missing = [...graph].flatMap(([file, targets]) =>
      targets.filter((target) => !existsSync(join(src, target))).map((target) => `${file} → ${target}`),
    )
    expect(missing).toEqual([])
    expect(graph.get(clock)).toContain(join('core', 'types.ts'))
    expect(circleIn(graph)).toBeNull()
  })

  test('no test file is left out of the projects that `npm test` runs', () => {
    const config = readFileSync(join(root, 'vitest.config.ts'), 'utf8')
    const folders = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.test.ts') && dirname(file) !== '.')
      .map(roomOf)
    const leftOut = [...new Set(folders)].filter((folder) => !new RegExp(`\\b${folder}\\b`).test(config))
    expect(leftOut).toEqual([])
  })
})

describe('the watchman sees', () => {
  const opening = '// What this file is for.\n'

  test.each([
    ['a decision that looks into the engine', 'core/retry.ts', "import { Pool } from '../engine/pool.ts'"],
    ['an engine that knows the wire', 'engine/pool.ts', "import type { PgSession } from '../wire/pg-session.ts'"],
    ['an engine that takes values from the config', 'engine/pool.ts', "import { resolve } from '../config/resolve.ts'"],
    ['pg outside the wire', 'engine/pool.ts', "import { Client } from 'pg'"],
    ['a part of pg outside the wire', 'kysely/lease.ts', "import { prepareValue } from 'pg/lib/utils.js'"],
    ['kysely outside its room', 'engine/batch.ts', "import { Kysely } from 'kysely'"],
    ['a metrics library on the hot path', 'engine/execute.ts', "import { Counter } from 'prom-client'"],
    ['more than a type of it in the config', 'config/options.ts', "import { Registry } from 'prom-client'"],
    ['Node itself in a decision', 'core/route.ts', "import { hostname } from 'node:os'"],
    ['an import that is loaded later', 'core/route.ts', "const pool = await import('../engine/pool.ts')"],
    ['an import over several lines', 'core/route.ts', "import {\n  Pool,\n  Node,\n} from '../engine/pool.ts'"],
    ['an import without the ending', 'core/route.ts', "import { lag } from './freshness'"],
    ['a room that is not in the plan', 'helpers/misc.ts', 'export const one = 1'],
    ['a barrel', 'core/all.ts', "export * from './types.ts'"],
    ['a default export', 'core/route.ts', 'export default function route() {}'],
    ['the time read outside the clock', 'core/lane.ts', 'export const at = Date.now()'],
    ['a timer set outside the clock', 'engine/pool.ts', 'setTimeout(close, 10)'],
    ['chance drawn outside the clock', 'core/retry.ts', 'export const jitter = Math.random()'],
    ['a name that is not in kebab-case', 'core/poolPlan.ts', 'export const one = 1'],
  ])('%s', (_, file, code) => {
    expect(faultsOf(file, `${opening}${code}\n`)).toHaveLength(1)
  })

  test('a file without an opening paragraph', () => {
    expect(faultsOf('core/route.ts', 'export const one = 1\n')).toHaveLength(1)
  })

  test('a circle, however long', () => {
    const graph = new Map([
      ['a', ['b', 'd']],
      ['b', ['c']],
      ['c', ['b']],
      ['d', []],
    ])
    expect(circleIn(graph)).toEqual(['b', 'c', 'b'])
  })

  test('nothing where all is well', () => {
    const code = [
      "import { LRUCache } from 'lru-cache'",
      "import type { Clock } from './types.ts'",
      '// Date.now() is only mentioned here',
      'export const wait = (clock: Clock) => clock.setTimeout(run, 10)',
    ]
    expect(faultsOf('core/lane.ts', `${opening}${code.join('\n')}\n`)).toEqual([])
  })
})
