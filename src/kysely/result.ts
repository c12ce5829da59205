// Rows as the server gave them → QueryResult as Kysely wants it.

import type { QueryResult } from 'kysely'
import { CircuitOpenError, QueueFullError } from '../core/errors.ts'
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

/**
 * Adds the caller's frames below the server's, so that the last line names the file that asked. The text is made when
 * somebody reads it: to ten thousand callers who are refused at once their stacks would cost more than the refusal.
 */
export function withCallerStack(error: unknown): unknown {
  // Refusing must cost next to nothing.
  if (!(error instanceof Error) || error instanceof QueueFullError || error instanceof CircuitOpenError) return error
  const usual = Error.stackTraceLimit
  Error.stackTraceLimit = FRAMES
  const caller = new Error()
  Error.stackTraceLimit = usual
  const read = Reflect.get(Object.getOwnPropertyDescriptor(error, 'stack') ?? {}, 'get') as Read | undefined
  // Older versions of V8 make the text at once.
  if (read === undefined) keepStack(error, joined(error, error.stack, caller))
  else if (!lazyStacks.has(read)) readLater(error, read, caller)
  return error
}

/** Those made here: an error that many are told of has one stack, not one in another. */
const lazyStacks = new WeakSet<Read>()
type Read = (this: Error) => unknown

function readLater(error: Error, own: Read, caller: Error): void {
  const get = (): string => keepStack(error, joined(error, own.call(error) as string | undefined, caller))
  lazyStacks.add(get)
  const set = (stack: string): void => void keepStack(error, stack)
  Object.defineProperty(error, 'stack', { configurable: true, enumerable: false, get, set })
}

function keepStack(error: Error, value: string): string {
  Object.defineProperty(error, 'stack', { configurable: true, enumerable: false, writable: true, value })
  return value
}

function joined(error: Error, stack: string | undefined, caller: Error): string {
  const own = stack ?? String(error)
  if (caller.stack === undefined) return own
  const frames = caller.stack.slice(caller.stack.indexOf('\n') + 1)
  const last = frames.slice(frames.lastIndexOf('\n') + 1)
  return own.endsWith(last) ? own : `${own}\n${frames}`
}
