// Waiting for what a server says of itself.

import { setTimeout as sleep } from 'node:timers/promises'

const withinMs = 30_000

/** Settles when it holds; rejects with `otherwise` when it does not come to. */
export async function until(holds: () => Promise<boolean>, otherwise: string): Promise<void> {
  const deadline = performance.now() + withinMs
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${otherwise} within ${withinMs} ms`)
    await sleep(5)
  }
}
