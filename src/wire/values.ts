// What goes wrong on a connection in this room's words, and values as the server takes them.

import { prepareValue } from 'pg/lib/utils.js'
import { SmartPgError } from '../core/errors.ts'

/** PostgreSQL counts parameters in 16 bits. */
const MAX_PARAMETERS = 65_535

/** Parameters as text or bytes. Throws SMARTPG_INVALID_QUERY before anything is sent. */
export function serialize(parameters: readonly unknown[], node: string): unknown[] {
  if (parameters.length > MAX_PARAMETERS) {
    throw new SmartPgError(
      'SMARTPG_INVALID_QUERY',
      `The query has ${parameters.length} parameters; PostgreSQL takes at most ${MAX_PARAMETERS}.`,
      { node, phase: 'send', hint: 'Split the statement, or pass one array and use unnest() or = any($1).' },
    )
  }
  const values: unknown[] = []
  for (let i = 0; i < parameters.length; i++) {
    const parameter = parameters[i]
    if (typeof parameter === 'string') {
      values.push(parameter)
      continue
    }
    try {
      // JSON.stringify may give nothing, which is null to PostgreSQL.
      values.push(prepareValue(parameter) ?? null)
    } catch (cause) {
      throw new SmartPgError(
        'SMARTPG_INVALID_QUERY',
        `Parameter $${i + 1} cannot be serialized: its conversion threw.`,
        {
          node,
          phase: 'send',
          hint: 'Nothing was sent. What the conversion threw stands in `cause`.',
          cause,
        },
      )
    }
  }
  return values
}

/** `phase: 'send'` says that not a byte of the statement has left. */
export function notSent(node: string, cause: unknown): SmartPgError {
  return new SmartPgError('SMARTPG_CONNECTION_LOST', `The connection to node '${node}' is gone; nothing was sent.`, {
    node,
    phase: 'send',
    retryable: true,
    cause,
  })
}

/** The connection ended while something was under way. */
export function connectionLost(node: string, cause?: unknown): SmartPgError {
  return new SmartPgError('SMARTPG_CONNECTION_LOST', `The connection to node '${node}' was lost.`, {
    node,
    phase: 'execute',
    cause,
  })
}

/** pg's messages for a client that is gone; they carry no code. */
const CODELESS = new Set([
  'Connection terminated',
  'Connection terminated unexpectedly',
  'Client was closed and is not queryable',
  'Client has encountered a connection error and is not queryable',
])

/** pg raises some failures without a code when the socket is gone, and the socket has words of its own: those get a typed error. */
export function coded(node: string, failure: Error): Error {
  const ofSocket = 'syscall' in failure || (CODELESS.has(failure.message) && !('code' in failure))
  return ofSocket ? connectionLost(node, failure) : failure
}
