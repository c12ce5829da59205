// From whatever was thrown to a fault: pg's DatabaseError, Node's system and TLS errors, the client errors to which
// pg gives no code, our own errors with a cause, or no error at all. What each code then means stands in core/fault.ts.

import { isSmartPgError } from '../core/errors.ts'
import { classify } from '../core/fault.ts'
import type { Evidence, Fault } from '../core/fault.ts'

/** What an error means; anything may be handed in. */
export function faultOf(error: unknown, during: 'connect' | 'query'): Fault {
  return classify(evidenceOf(error, during))
}

/** What is known of an error; anything may be handed in. */
export function evidenceOf(error: unknown, during: 'connect' | 'query'): Evidence {
  return evidenceAt(error, during, 0)
}

// A chain of causes longer than this, or a circle, tells nothing more.
const deepestCause = 8

function evidenceAt(error: unknown, during: 'connect' | 'query', depth: number): Evidence {
  if (typeof error !== 'object' || error === null) return { message: textOf(error), during }
  if (isSmartPgError(error)) return evidenceOfOurs(error, during, depth)
  const thrown = error as Thrown
  const message = typeof thrown.message === 'string' ? thrown.message : textOf(error)
  const inner = innerCodesOf(thrown)
  return {
    code: codeOf(thrown, message) ?? inner?.[0],
    severity: textOrNothing(thrown.severity),
    message,
    routine: textOrNothing(thrown.routine),
    during,
    innerCodes: inner,
  }
}

/** Any object: duck-typed, because several copies of pg may live in one process. */
interface Thrown {
  readonly message?: unknown
  readonly name?: unknown
  readonly code?: unknown
  readonly severity?: unknown
  readonly routine?: unknown
  readonly errors?: unknown
  readonly cause?: unknown
}

function evidenceOfOurs(error: Error & { code: string }, during: 'connect' | 'query', depth: number): Evidence {
  const phase = error.code === 'SMARTPG_CONNECT_FAILED' ? 'connect' : during
  const own: Evidence = { code: error.code, message: error.message, during: phase }
  if (error.cause === undefined || error.cause === null || depth >= deepestCause) return own
  const cause = evidenceAt(error.cause, phase, depth + 1)
  if (causeSaysMore(error.code, cause)) return cause
  return { ...own, innerCodes: cause.code === undefined ? undefined : [cause.code] }
}

function causeSaysMore(code: string, cause: Evidence): boolean {
  if (cause.code === undefined) return false
  switch (code) {
    case 'SMARTPG_CONNECT_FAILED':
    case 'SMARTPG_NOT_EXECUTED':
    case 'SMARTPG_BATCH':
      return true
    // 57P05 or ECONNRESET say why it was lost; a cause that does not lose a connection is not the whole story.
    case 'SMARTPG_CONNECTION_LOST':
      return cause.code !== 'SMARTPG_QUERY_TIMEOUT' && classify(cause).dropsConnection
    default:
      return false
  }
}

function codeOf(error: Thrown, message: string): string | undefined {
  if (typeof error.code === 'string' && error.code !== '') return error.code
  // DOMException has a number for its code; a caller's AbortSignal.timeout is his abort, not our deadline.
  if (error.name === 'AbortError' || error.name === 'TimeoutError') return 'ABORT_ERR'
  return pgSays.find(([words]) => words.test(message))?.[1]
}

// pg 8.23's client errors without a code, and those of pg-pool for whoever brings one.
const pgSays: readonly (readonly [words: RegExp, code: string])[] = [
  [/^Connection terminated due to connection timeout/, 'ETIMEDOUT'],
  [/^Connection terminated/, 'SMARTPG_CONNECTION_LOST'],
  [/^Client was closed and is not queryable/, 'SMARTPG_CONNECTION_LOST'],
  [/^Client has encountered a connection error and is not queryable/, 'SMARTPG_CONNECTION_LOST'],
  [/^Received unexpected \w+ message from backend/, 'SMARTPG_CONNECTION_LOST'],
  [/^(?:timeout expired|timeout exceeded when trying to connect)$/, 'ETIMEDOUT'],
  [/^Query read timeout$/, 'SMARTPG_QUERY_TIMEOUT'],
  [/^The server does not support SSL connections|^Unknown authenticationOk message type/, 'SMARTPG_CONFIG'],
  // The code with which a server would say the same.
  [/^SASL:|^SASL channel binding:|^Password must be a string/, '28P01'],
  // An 'E' instead of 'S' or 'N': the server could not start a backend.
  [/^There was an error establishing an SSL connection/, 'SMARTPG_CONNECT_FAILED'],
  [/^A query must have either text or a name|^Query values must be an array/, 'SMARTPG_INVALID_QUERY'],
  [/^Prepared statements must be unique|^circular reference detected/, 'SMARTPG_INVALID_QUERY'],
]

// AggregateError: Node tries every address of a name, and each fails in its own way.
function innerCodesOf({ errors }: Thrown): string[] | undefined {
  if (!Array.isArray(errors)) return undefined
  return errors
    .map((inner: unknown) => (typeof inner === 'object' && inner !== null ? (inner as Thrown).code : undefined))
    .filter((code): code is string => typeof code === 'string')
}

function textOrNothing(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function textOf(value: unknown): string {
  try {
    return String(value)
  } catch {
    return 'something that cannot be shown was thrown'
  }
}
