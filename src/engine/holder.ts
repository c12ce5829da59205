// In whose transaction a caller stands. One who asks for a second connection while he holds the first may wait for
// himself: he is told so in the error, and nothing is refused for it.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { Hold } from './hold.ts'

const surrounding = new AsyncLocalStorage<Hold>()

// Where contexts are kept by async hooks, enterWith marks whoever runs in the same turn.
const TELLS_APART = Number(process.versions.node.split('.')[0]) >= 24

/** From here on the caller stands in the transaction of `hold`; to be called before anything is awaited. */
export function standsIn(hold: Hold): void {
  if (TELLS_APART) surrounding.enterWith(hold)
}

/** The lease around whoever calls, if there is one that has not let go. */
export function holderAround(): Hold | null {
  let hold = surrounding.getStore() ?? null
  while (hold?.ended === true) hold = hold.within
  return hold
}
