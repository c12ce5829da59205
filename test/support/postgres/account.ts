// PostgreSQL refuses to run as root. Where the tests do (containers, CI), the servers run under the account
// `postgres` or `nobody`; a uid without an entry in the password file would not do, PostgreSQL looks it up.

import { chownSync, lchownSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Account {
  readonly uid: number
  readonly gid: number
}

/** Who the servers run as, or undefined when they run as the caller. */
export function serverAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined
  const entries = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody']) {
    const entry = entries.find(([account]) => account === name)
    if (entry) return { uid: Number(entry[2]), gid: Number(entry[3]) }
  }
  throw new Error('PostgreSQL does not run as root, and there is neither an account postgres nor nobody to run it as')
}

/** Gives a folder and all in it to the account; nothing to do when the servers run as the caller. */
export function giveTo(account: Account | undefined, folder: string): void {
  if (!account) return
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    // The link itself: following it could leave the folder.
    lchownSync(join(entry.parentPath, entry.name), account.uid, account.gid)
  }
  chownSync(folder, account.uid, account.gid)
}
