// Events that people should see, to the user's logger; without one, what needs a hand becomes a process warning.

import type { Logger } from '../config/options.ts'
import type { EventName, Events } from '../core/events.ts'

interface Source {
  on<Name extends EventName>(name: Name, listener: (event: Events[Name]) => void): Disposable
}

/** Tells `logger` of leaks, breakers, nodes and background failures; with none, leaks go to `process.emitWarning`. */
export function logTo(logger: Logger | undefined, source: Source): void {
  if (logger === undefined) {
    source.on('leak', ({ node, heldMs, summary, stack }) => {
      const doing = summary === '' ? 'nothing' : summary
      process.emitWarning(
        `A connection to node '${node}' has been held for ${Math.round(heldMs)} ms (last ran: ${doing}).`,
        {
          type: 'SmartPgWarning',
          code: 'SMARTPG_LEAK',
          detail: stack,
        },
      )
    })
    return
  }
  source.on('leak', (event) => logger.warn(event, 'a connection is held for too long'))
  source.on('breaker', (event) => logger.warn(event, `circuit breaker of node '${event.node}' is ${event.to}`))
  source.on('node', (event) =>
    logger.warn(event, `node '${event.node}' ${event.up ? 'serves reads again' : 'is left out'}`),
  )
  source.on('failover', (event) =>
    logger.warn(event, event.to === null ? 'no server is the primary' : `node '${event.to}' is the primary now`),
  )
  source.on('rerun', (event) => logger.debug(event, `a replica refused what the primary then ran: ${event.summary}`))
  source.on('gap', (event) => logger.warn(event, `notifications on channel '${event.channel}' may have been missed`))
  source.on('plan-regression', (event) => logger.warn(event, `a prepared statement became slow: ${event.summary}`))
  source.on('retry', (event) => logger.debug(event, 'a statement is tried again'))
  source.on('error', ({ node, during, error }) =>
    logger.warn({ node, during, error: told(error) }, `background failure: ${during}`),
  )
}

/** Somebody on the way to this node could read or answer: to `logger`, or to `process.emitWarning`. */
export function warnOfInsecure(logger: Logger | undefined, node: string, message: string): void {
  const code = 'SMARTPG_INSECURE'
  if (logger === undefined) process.emitWarning(message, { type: 'SmartPgWarning', code })
  else logger.warn({ node, code }, message)
}

/** Code and message of our own errors; of others only the code, since their words may quote values. */
function told(error: unknown): { name: string; code?: unknown } {
  if (!(error instanceof Error)) return { name: typeof error }
  return { name: error.name, code: 'code' in error ? error.code : undefined }
}
