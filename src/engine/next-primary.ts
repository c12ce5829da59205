// A statement came to the primary, and was refused because that is a standby: it was not executed, and goes to whoever is
// the primary now, or will be soon. A write in the user's own read-only transaction is refused with the same code; that
// is his error, and stays.

import type { Run } from './run.ts'
import { tell } from './settle.ts'

/** Between two looks at a single server that has become a standby: its name may soon lead to another one. */
const LOOK_AGAIN_MS = 100

/** Settles when there is another primary to try; rejects with the refusal when there is none. */
export async function nextPrimary(run: Run, refusal: unknown): Promise<void> {
  const { engine, hold, signal } = run
  const { clock, config, roles } = engine
  const node = hold.node!
  const startedAt = clock.now()
  // However often it comes to a server that is none.
  const deadline = startedAt + config.failover.timeoutMs - run.searchedMs
  run.demoted = false
  run.demotions++
  if (roles.replicas.length === 0) {
    // Where the server has not said so by itself it is asked.
    if (!run.saidStandby && !(await engine.isStandby(node))) throw given(run, refusal)
    while (await engine.isStandby(node)) {
      if (clock.now() >= deadline) throw given(run, refusal)
      await roles.pause(LOOK_AGAIN_MS, signal)
    }
    // What is open still leads to the standby.
    node.pool.retireAll()
    run.searchedMs += clock.now() - startedAt
    return
  }
  await engine.makeSure()
  if (!run.saidStandby && node === roles.primary && !roles.vacant) throw given(run, refusal)
  const found = await roles.primaryFound(deadline - clock.now(), signal)
  run.searchedMs += clock.now() - startedAt
  if (!found) throw given(run, roles.noPrimary(run.searchedMs, refusal))
}

/** What its caller is told, told to those who listen as well. */
function given({ engine, hold, statement, ...times }: Run, error: unknown): unknown {
  hold.settled++
  tell(engine, hold, statement, times, engine.faultOf(error, 'query'))
  return error
}
