// Every statement of every caller carries a stamp, which tells the judge whose it is and where it belongs. A stamp
// looks like `c2.7:3@tx`: the third statement of the seventh thing that caller 2 does, and it belongs into a transaction.

export type Stamp = string

export function stampOf(operation: string, n: number, place: 'alone' | 'in a transaction'): Stamp {
  return `${operation}:${n}${place === 'alone' ? '' : '@tx'}`
}

/** What one caller does at one time: `c2.7`. */
export function operationOf(stamp: Stamp): string {
  return stamp.slice(0, stamp.indexOf(':'))
}

export function belongsInTransaction(stamp: Stamp): boolean {
  return stamp.endsWith('@tx')
}

/** All stamps in what is written to a socket. */
export function stampsIn(bytes: Buffer): Stamp[] {
  return bytes.toString('latin1').match(/c\d+\.\d+:\d+(?:@tx)?/g) ?? []
}
