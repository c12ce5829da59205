// Asks the virtual database what really happened, and compares it with what the callers were told.

import { BALANCE_AT_FIRST } from './database.ts'
import type { Database } from './database.ts'
import { describe } from './ledger.ts'
import type { Ledger, Unit } from './ledger.ts'
import { belongsInTransaction } from './stamps.ts'

/** Every promise about writes. */
export function judgeWrites(ledger: Ledger, database: Database): void {
  for (const [stamp, commits] of database.commitsOf) {
    if (commits.length > 1) ledger.complain('a write was executed twice', `${stamp} ${commits.length} times`)
  }
  for (const unit of ledger.units) judgeUnit(unit, ledger, database)
  const sum = database.balances.reduce((total, balance) => total + balance, 0)
  const expected = BALANCE_AT_FIRST * database.balances.length
  if (sum !== expected) ledger.complain('a sum has changed', `${sum} instead of ${expected}`)
}

function judgeUnit(unit: Unit, ledger: Ledger, database: Database): void {
  const { stamps, told } = unit
  const commits = stamps.map((stamp) => database.commitsOf.get(stamp)?.[0] ?? null)
  if (new Set(commits).size > 1) ledger.complain('a transaction is torn', describeUnit(unit))
  const kept = commits.some((commit) => commit !== null)
  if (told === 'acknowledged' && !kept) ledger.complain('an acknowledged write is lost', describeUnit(unit))
  if (told === 'nothing' && kept) ledger.complain('what was said not to be executed was', describeUnit(unit))
  if (told === 'unknown') judgeUnknown(unit, ledger)
}

/** Unknown is what has left and has not been answered, and of a transaction only its COMMIT. */
function judgeUnknown(unit: Unit, ledger: Ledger): void {
  const { stamps, at } = unit
  const known = (why: string): void =>
    ledger.complain('an outcome is called unknown that is known', `${why}: ${describeUnit(unit)}`)
  if (!stamps.some((stamp) => ledger.writtenAt.has(stamp))) known('nothing had left')
  const [stamp] = stamps
  if (stamp === undefined || belongsInTransaction(stamp)) return
  const answeredAt = ledger.answeredAt.get(stamp) ?? Infinity
  if (answeredAt < at && answeredAt >= ledger.writtenAt.get(stamp)!) known('it had been answered')
}

function describeUnit({ stamps, error }: Unit): string {
  return `${stamps.join(', ')}${error === undefined ? '' : ` (${describe(error)})`}`
}

/** Every promise about promises. */
export function judgeSettling(ledger: Ledger): void {
  for (const { name, what, settled } of ledger.operations) {
    if (!settled) ledger.complain('a promise never settles', `${name} (${what})`)
  }
}
