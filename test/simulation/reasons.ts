// Why a caller's work may fail: for reasons of his own, or for those that are nobody's fault; and for which it may not.

/** Thrown by a caller's own code in the middle of a transaction. */
export class ChangedMind extends Error {}

/** The reason of whoever goes away. */
export class GoneAway extends Error {}

/** A failure that the caller has brought about himself. */
export function isWanted(error: unknown): boolean {
  if (error instanceof ChangedMind || error instanceof GoneAway) return true
  const { cause, code } = error as { cause?: unknown; code?: string }
  return code === '22012' || (cause instanceof Error && isWanted(cause))
}

/** Two transfers that have waited for each other. */
export function isDeadlock(error: unknown): boolean {
  return (error as { code?: string }).code === '40P01'
}

/** A failure of our own making: a lock timeout that no caller has set, a name that the server has lost. */
export function isOurs(what: string, error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { code?: string } }
  if (code === '55P03') return true
  // A transaction may fail once when a table has changed under it.
  const heals = what !== 'a transfer' && what !== 'a mishap'
  return heals && STALE_NAMES.has(code === 'SMARTPG_BATCH' ? (cause?.code ?? '') : (code ?? ''))
}
const STALE_NAMES = new Set(['26000', '42P05', '0A000'])
