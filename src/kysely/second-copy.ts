// Two copies of Kysely in one process (a linked folder with its own node_modules, a CommonJS application on
// 0.28) look alike and are not: `db.batch` is installed on one and missing on the other.

import { createRequire } from 'node:module'
import { sep } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Warns when the application resolves another copy of Kysely than this package. */
export function warnOfSecondKysely(): void {
  const theirs = resolvedFrom(`${process.cwd()}${sep}index.js`)
  const ours = resolvedFrom(fileURLToPath(import.meta.url))
  if (theirs === null || ours === null || theirs === ours) return
  process.emitWarning(
    `Two copies of Kysely: the application resolves ${theirs}, kysely-smart-pg resolves ${ours}. ` +
      "What this package adds to db (batch, onPrimary, onReplica, withTimeout) is missing on the application's copy: " +
      'use the functions of the same names, as in batch(db, […]), or install Kysely once ' +
      '(npm dedupe; for a linked package npm install --install-links).',
    { type: 'SmartPgWarning', code: 'SMARTPG_SECOND_KYSELY' },
  )
}

function resolvedFrom(file: string): string | null {
  try {
    const path = createRequire(file).resolve('kysely')
    return path.slice(0, path.lastIndexOf(`${sep}kysely${sep}`) + `${sep}kysely`.length)
  } catch {
    return null
  }
}
