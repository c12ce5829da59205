// What is measured is the package as it is built. Where there is no build, one is made.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(import.meta.dirname, '..')

/** False: there is no build, and none could be made. */
export function ensureBuilt(): boolean {
  const entry = fileURLToPath(import.meta.resolve('kysely-smart-pg'))
  if (existsSync(entry)) {
    const built = statSync(entry).mtimeMs
    if (newestIn(join(root, 'src')) > built) console.error('src has changed since the build that is measured here.\n')
    return true
  }
  console.error('There is no build yet: npm run build …\n')
  return spawnSync(process.execPath, [join(root, 'scripts', 'build.ts')], { stdio: 'inherit' }).status === 0
}

function newestIn(folder: string): number {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
  return Math.max(
    ...files.filter((file) => file.isFile()).map((file) => statSync(join(file.parentPath, file.name)).mtimeMs),
  )
}
