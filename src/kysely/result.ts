// Rows as the server gave them → QueryResult as Kysely wants it.

import type { QueryResult } from 'kysely'
import type { Rows } from '../core/types.ts'

export function toResult<R>(answer: Rows): QueryResult<R> {
  const { rows, command, count } = answer
  if (count !== null && (command === 'INSERT' || command === 'UPDATE' || command === 'DELETE' || command === 'MERGE')) {
    return { numAffectedRows: BigInt(count), rows: rows as R[] }
  }
  return { rows: rows as R[] }
}

/** Frames between the driver and the caller's file; V8 keeps ten, of which Kysely needs most. */
const FRAMES = 30

/** Adds the caller's frames below the server's, so that the last line names the file that asked. */
export function withCallerStack(error: unknown): unknown {
  const usual = Error.stackTraceLimit
  Error.stackTraceLimit = FRAMES
  const caller = new Error()
  Error.stackTraceLimit = usual
  if (!(error instanceof Error) || caller.stack === undefined) return error
  const frames = caller.stack.slice(caller.stack.indexOf('\n') + 1)
  const last = frames.slice(frames.lastIndexOf('\n') + 1)
  if (error.stack?.endsWith(last) !== true) error.stack = `${error.stack ?? String(error)}\n${frames}`
  return error
}
