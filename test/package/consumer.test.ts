// The package as its users get it: packed, installed by npm into a project of its own, compiled there under the
// strictest settings, bundled, and run on the oldest and the newest Node.

import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { rolldown } from 'rolldown'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import manifest from '../../package.json' with { type: 'json' }

const root = join(import.meta.dirname, '..', '..')
const newest = manifest.devDependencies.kysely
const oldest = manifest.devDependencies['kysely-0.28'].replace('npm:kysely@', '')

/** Outside of the repository, so that nothing resolves by accident from its node_modules. */
const work = mkdtempSync(join(tmpdir(), 'kysely-smart-pg-consumer-'))
const strict = join(work, 'strict')
const aged = join(work, 'aged')
let packed: { filename: string; files: { path: string }[] }

beforeAll(async () => {
  const report = await done('npm', ['pack', '--json', '--pack-destination', work], root)
  packed = (JSON.parse(report) as (typeof packed)[])[0]!
  const { typescript, pg, '@types/node': nodeTypes } = manifest.devDependencies
  await install(strict, [`kysely@${newest}`, `pg@${pg}`, `typescript@${typescript}`, `@types/node@${nodeTypes}`])
  await install(aged, [`kysely@${oldest}`, `pg@${pg}`])
}, 180_000)

afterAll(() => rmSync(work, { recursive: true, force: true }))

describe('the tarball', () => {
  test('holds what was built and the papers, and nothing else', () => {
    const others = packed.files.map(({ path }) => path).filter((path) => !/^dist\/.*\.(js|js\.map|d\.ts)$/.test(path))
    expect(others.toSorted()).toEqual(['CHANGELOG.md', 'LICENSE', 'README.md', 'package.json'])
  })

  test('has declarations that import only files that are in it', () => {
    const dist = join(strict, 'node_modules', 'kysely-smart-pg', 'dist')
    const declarations = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.d.ts'),
    )
    expect(declarations).toContain('index.d.ts')
    const missing = declarations.flatMap((name) => {
      const text = readFileSync(join(dist, name), 'utf8')
      return Array.from(text.matchAll(/(?:from |import |import\()['"](\.[^'"]+)['"]/g), ([, from]) => from!)
        .filter((from) => !from.endsWith('.js') || !existsSync(join(dist, dirname(name), from)))
        .map((from) => `${name} imports ${from}`)
    })
    expect(missing).toEqual([])
  })
})

describe('a strict TypeScript project without @types/pg', () => {
  test('compiles the first example of the README as it stands', async () => {
    const readme = readFileSync(join(strict, 'node_modules', 'kysely-smart-pg', 'README.md'), 'utf8')
    const example = /```ts\n([^]*?)```/.exec(readme)?.[1]
    expect(example).toContain('SmartPgDialect')
    expect(await compile('readme', example!)).toBe('')
  }, 60_000)

  test.each([
    ['maxConections', "{ primary: 'postgres://localhost/app', pool: { maxConections: 5 } }"],
    ['replica', "{ primary: 'postgres://localhost/app', replica: [] }"],
    ['aplicationName', "{ primary: { host: 'localhost' }, aplicationName: 'app' }"],
  ])(
    'refuses the misspelt option %s',
    async (option, options) => {
      const source = `import { SmartPgDialect } from 'kysely-smart-pg'\nnew SmartPgDialect(${options})\n`
      const complaint = await compile(`misspelt-${option}`, source)
      expect(complaint).toContain(`misspelt-${option}.ts(2,`)
      expect(complaint).toContain(`'${option}'`)
    },
    60_000,
  )

  test('compiles a batch of fifty queries, each with the type of its own', async () => {
    const startedAt = performance.now()
    expect(await compile('fifty', batchOfFifty())).toBe('')
    console.log(`tsc on a batch of 50 queries: ${Math.round(performance.now() - startedAt)} ms, start-up included`)
  }, 60_000)
})

describe('importing the package', () => {
  test('starts nothing: the process ends by itself', async () => {
    const source = `
      import { Kysely } from 'kysely'
      import { SmartPgDialect } from 'kysely-smart-pg'
      new Kysely({ dialect: new SmartPgDialect('postgres://nobody@localhost:1/nothing') })
      console.log('reached the end')`
    expect(await run(process.execPath, strict, 'import.mjs', source)).toBe('reached the end')
  })

  test('works by require() too', async () => {
    const source = `
      const { SmartPgDialect, batch } = require('kysely-smart-pg')
      console.log(typeof SmartPgDialect, typeof batch)`
    expect(await run(process.execPath, strict, 'require.cjs', source)).toBe('function function')
  })

  test('leaves db.batch in a minified bundle whose unused code is shaken out', async () => {
    writeFileSync(join(strict, 'app.mjs'), smoke)
    const bundle = await rolldown({
      input: join(strict, 'app.mjs'),
      platform: 'node',
      external: ['pg-native'],
      treeshake: true,
    })
    const { output } = await bundle.generate({ minify: true, codeSplitting: false })
    await bundle.close()
    // In a folder without node_modules: the bundle holds all it needs.
    expect(await run(process.execPath, work, 'bundle.mjs', output[0].code)).toBe('[{"two":2}] [{"three":3}]')
  })
})

const smoke = `
  import { Kysely, sql } from 'kysely'
  import { SmartPgDialect } from 'kysely-smart-pg'
  const db = new Kysely({ dialect: new SmartPgDialect(process.env.DATABASE_URL) })
  const two = await sql\`select 1 + 1 as two\`.execute(db)
  const [three] = await db.batch([sql\`select 1 + 2 as three\`])
  await db.destroy()
  console.log(JSON.stringify(two.rows), JSON.stringify(three.rows))`

describe('against a real server', () => {
  test(`queries and batches run on Node ${process.versions.node} with Kysely ${newest}`, async () => {
    expect(await run(process.execPath, strict, 'smoke.mjs', smoke)).toBe('[{"two":2}] [{"three":3}]')
  })

  const node20 = findNode('v20.')
  const reason = node20 === null ? ' (skipped: no Node 20 on the PATH)' : ''
  test.skipIf(node20 === null)(`queries and batches run on Node 20 with Kysely ${oldest}${reason}`, async () => {
    expect(await run(node20!, aged, 'smoke.mjs', smoke)).toBe('[{"two":2}] [{"three":3}]')
  })
})

async function install(folder: string, packages: readonly string[]): Promise<void> {
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }))
  const flags = ['--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error']
  await done('npm', ['install', ...flags, join(work, packed.filename), ...packages], folder)
}

/** What tsc has to say; empty when it is content. */
async function compile(name: string, source: string): Promise<string> {
  const compilerOptions = {
    strict: true,
    skipLibCheck: false,
    module: 'nodenext',
    target: 'es2022',
    types: ['node'],
    noEmit: true,
  }
  writeFileSync(join(strict, `${name}.ts`), source)
  writeFileSync(join(strict, `tsconfig.${name}.json`), JSON.stringify({ compilerOptions, files: [`${name}.ts`] }))
  const tsc = join(strict, 'node_modules', 'typescript', 'bin', 'tsc')
  const { stdout, stderr } = await finished(process.execPath, [tsc, '-p', `tsconfig.${name}.json`], strict)
  return `${stdout}${stderr}`.trim()
}

async function run(node: string, folder: string, name: string, source: string): Promise<string> {
  writeFileSync(join(folder, name), source)
  return (await done(node, [name], folder)).trim()
}

async function done(command: string, args: readonly string[], cwd: string): Promise<string> {
  const { code, stdout, stderr } = await finished(command, args, cwd)
  if (code !== '0') throw new Error(`${command} ${args.join(' ')} ended with ${code}:\n${stdout}${stderr}`)
  return stdout
}

function finished(
  command: string,
  args: readonly string[],
  cwd: string,
): Promise<{ code: string; stdout: string; stderr: string }> {
  const env = { ...process.env, DATABASE_URL: inject('primaryUrl') }
  const shell = process.platform === 'win32' && command === 'npm'
  return new Promise((resolve) => {
    execFile(command, args, { cwd, env, shell, timeout: 120_000, encoding: 'utf8' }, (error, stdout, stderr) => {
      resolve({ code: String(error === null ? 0 : (error.code ?? error.signal)), stdout, stderr })
    })
  })
}

/** The first Node on the PATH of that version; those that npm packages put there do not count. */
function findNode(version: string): string | null {
  const name = process.platform === 'win32' ? 'node.exe' : 'node'
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => !folder.includes('node_modules'))
  const candidates = folders.map((folder) => join(folder, name)).filter((file) => existsSync(file))
  return candidates.find((file) => execFileSync(file, ['--version'], { encoding: 'utf8' }).startsWith(version)) ?? null
}

function batchOfFifty(): string {
  const tables = ['users', 'orders', 'items', 'events', 'stock']
  const columns = 'id: Generated<number>; name: string; amount: number | null; made_at: ColumnType<Date, string>'
  const queries = Array.from({ length: 50 }, (_, i) => {
    const table = tables[i % tables.length]!
    if (i % 3 === 0)
      return `db.insertInto('${table}').values({ name: 'n${i}', made_at: 'now' }).returning(['id', 'name'])`
    if (i % 3 === 1) return `db.updateTable('${table}').set({ amount: ${i} }).where('id', '=', ${i})`
    return `db.selectFrom('${table}').select(['id', 'made_at', 'amount as a${i}']).where('name', '=', 'n${i}')`
  })
  return `
    import { Kysely } from 'kysely'
    import type { ColumnType, Generated, UpdateResult } from 'kysely'
    import { SmartPgDialect } from 'kysely-smart-pg'
    interface Table { ${columns} }
    interface Database { ${tables.map((table) => `${table}: Table`).join('; ')} }
    const db = new Kysely<Database>({ dialect: new SmartPgDialect('postgres://localhost/app') })
    export const answers = await db.batch([
      ${queries.join(',\n      ')},
    ])
    export const inserted: { id: number; name: string }[] = answers[0]
    export const updated: UpdateResult[] = answers[1]
    export const selected: { id: number; made_at: Date; a47: number | null }[] = answers[47]
    // @ts-expect-error there is no fifty-first answer
    export const none = answers[50]
  `
}
