// Every error this package makes. PostgreSQL's own errors pass through unchanged. `instanceof` works across
// copies of the package because each class asks for a brand instead of a prototype (as undici does).

export type SmartPgErrorCode =
  | 'SMARTPG_CONFIG'
  | 'SMARTPG_CONNECT_FAILED'
  | 'SMARTPG_CONNECTION_LOST'
  | 'SMARTPG_ACQUIRE_TIMEOUT'
  | 'SMARTPG_QUEUE_FULL'
  | 'SMARTPG_CIRCUIT_OPEN'
  | 'SMARTPG_QUERY_TIMEOUT'
  | 'SMARTPG_OUTCOME_UNKNOWN'
  | 'SMARTPG_NOT_EXECUTED'
  | 'SMARTPG_INVALID_QUERY'
  | 'SMARTPG_BATCH'
  | 'SMARTPG_RELEASED'
  | 'SMARTPG_CLOSED'

/** Where in a query's life it failed. */
export type Phase =
  'config' | 'acquire' | 'connect' | 'begin' | 'send' | 'execute' | 'commit' | 'rollback' | 'stream' | 'release'

export interface ErrorDetails {
  node?: string
  phase?: Phase
  attempts?: number
  retryable?: boolean
  hint?: string
  cause?: unknown
}

const brandSymbol = (name: string): symbol => Symbol.for(`kysely-smart-pg.${name}`)

/**
 * The base of every error made by this package; `code` is stable.
 * `retryable` says whether running the same statement again cannot run it twice.
 */
export class SmartPgError extends Error {
  readonly code: SmartPgErrorCode
  readonly node: string | undefined
  readonly phase: Phase | undefined
  readonly attempts: number
  readonly retryable: boolean
  readonly hint: string | undefined

  /** The class's name as written here, which minifiers cannot change. */
  static readonly brand: string = 'SmartPgError'

  static override [Symbol.hasInstance](value: unknown): boolean {
    return hasBrand(value, brandSymbol(this.brand))
  }

  constructor(code: SmartPgErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = new.target.brand
    this.code = code
    this.node = details.node
    this.phase = details.phase
    this.attempts = details.attempts ?? 1
    this.retryable = details.retryable ?? false
    this.hint = details.hint
    for (const name of new Set(['SmartPgError', new.target.brand])) {
      Object.defineProperty(this, brandSymbol(name), { value: true })
    }
  }
}

/** Thousands are refused in a bad moment: frames would cost more time and memory than all else. */
function withoutFrames(): number {
  const usual = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  return usual
}

function hasBrand(value: unknown, symbol: symbol): value is SmartPgError {
  return typeof value === 'object' && value !== null && symbol in value
}

/** True for an error of this package, of any copy of it; with `code`, only for that code. */
export function isSmartPgError(error: unknown, code?: SmartPgErrorCode): error is SmartPgError {
  return hasBrand(error, brandSymbol('SmartPgError')) && (code === undefined || error.code === code)
}

/** One fault of the options: what stood there, what was expected, and the nearest right name. */
export interface ConfigFault {
  readonly path: string
  readonly received: string
  readonly expected: string
  readonly nearest?: string
}

/** Options that cannot be used; `faults` lists every one of them, not only the first. */
export class ConfigError extends SmartPgError {
  static override readonly brand: string = 'ConfigError'
  readonly faults: readonly ConfigFault[]

  constructor(faults: readonly ConfigFault[], details: ErrorDetails = {}) {
    super('SMARTPG_CONFIG', describeFaults(faults), { phase: 'config', ...details })
    this.faults = faults
  }
}

function describeFaults(faults: readonly ConfigFault[]): string {
  const lines = faults.map((fault) => {
    const nearest = fault.nearest === undefined ? '' : ` Did you mean '${fault.nearest}'?`
    return `${fault.path}: expected ${fault.expected}, received ${fault.received}.${nearest}`
  })
  if (lines.length === 1) return `Option ${lines[0]!}`
  return `${lines.length} options cannot be used:\n  - ${lines.join('\n  - ')}`
}

/** The node's circuit breaker is open: nothing was sent. */
export class CircuitOpenError extends SmartPgError {
  static override readonly brand: string = 'CircuitOpenError'
  /** Milliseconds on the wall clock at which it opened. */
  readonly since: number
  /** Milliseconds until the breaker lets a trial call through; null when it was forced open. */
  readonly retryAfterMs: number | null

  constructor(node: string, since: number, retryAfterMs: number | null, because: string, cause?: unknown) {
    const usual = withoutFrames()
    const when = retryAfterMs === null ? 'until it is closed by hand' : `for ${Math.ceil(retryAfterMs)} ms more`
    super('SMARTPG_CIRCUIT_OPEN', `Circuit breaker of node '${node}' is open ${when}: ${because}.`, {
      node,
      phase: 'acquire',
      retryable: true,
      hint: 'Nothing was sent. The last fault of the server stands in `cause`.',
      cause,
    })
    Error.stackTraceLimit = usual
    this.since = since
    this.retryAfterMs = retryAfterMs
  }
}

/** The state of a pool at the moment an acquire failed. */
export interface PoolCounts {
  readonly total: number
  readonly active: number
  readonly idle: number
  readonly connecting: number
  readonly waiting: number
  readonly max: number
}

/** No connection came free within `pool.acquireTimeout`; nothing was sent. */
export class AcquireTimeoutError extends SmartPgError {
  static override readonly brand: string = 'AcquireTimeoutError'
  readonly pool: PoolCounts
  /** What the longest-held connections have been doing, and for how many milliseconds. */
  readonly holders: readonly { readonly heldMs: number; readonly summary: string }[]

  constructor(
    node: string,
    waitedMs: number,
    pool: PoolCounts,
    holders: AcquireTimeoutError['holders'],
    lastConnectError: unknown,
  ) {
    const held = holders.map((holder) => `${holder.summary || 'idle in lease'} for ${Math.round(holder.heldMs)} ms`)
    const connect = lastConnectError instanceof Error ? ` Last connect error: ${lastConnectError.message}.` : ''
    super(
      'SMARTPG_ACQUIRE_TIMEOUT',
      `No connection to node '${node}' came free within ${Math.round(waitedMs)} ms ` +
        `(total ${pool.total} of ${pool.max}, active ${pool.active}, idle ${pool.idle}, ` +
        `connecting ${pool.connecting}, waiting ${pool.waiting}).` +
        (held.length > 0 ? ` Held longest by: ${held.join('; ')}.` : '') +
        connect,
      {
        node,
        phase: 'acquire',
        retryable: true,
        hint: 'Raise `pool.max` or `pool.acquireTimeout`, or shorten what holds the connections.',
        cause: lastConnectError ?? undefined,
      },
    )
    this.pool = pool
    this.holders = holders
  }

  /** The caller is one of the holders. */
  waitsForItself(): void {
    const hint = 'The caller waits inside a transaction of its own that holds a connection: use `trx` there, not `db`.'
    Object.assign(this, { hint })
  }
}

/** `pool.maxWaiting` callers wait already; nothing was sent. */
export class QueueFullError extends SmartPgError {
  static override readonly brand: string = 'QueueFullError'
  readonly pool: PoolCounts

  constructor(node: string, pool: PoolCounts) {
    const usual = withoutFrames()
    super(
      'SMARTPG_QUEUE_FULL',
      `${pool.waiting} callers already wait for a connection to node '${node}' (pool.maxWaiting).`,
      { node, phase: 'acquire', retryable: true, hint: 'Shed load earlier, or raise `pool.maxWaiting`.' },
    )
    Error.stackTraceLimit = usual
    this.pool = pool
  }
}

/** A write was sent and the connection was lost before the answer: it may or may not have been applied. */
export class OutcomeUnknownError extends SmartPgError {
  static override readonly brand: string = 'OutcomeUnknownError'
  /** SQLSTATE transaction_resolution_unknown. */
  readonly sqlState: string = '08007'

  constructor(node: string, phase: Phase, cause: unknown) {
    super(
      'SMARTPG_OUTCOME_UNKNOWN',
      `${isSmartPgError(cause, 'SMARTPG_QUERY_TIMEOUT') ? `Node '${node}' did not answer in time` : `The connection to node '${node}' was lost`} ` +
        `${phase === 'commit' ? 'during COMMIT' : 'after a write was sent'}: ` +
        'whether it was applied is not known, so it was not sent again.',
      {
        node,
        phase,
        retryable: false,
        hint: 'Ask the database whether the write is there before repeating it.',
        cause,
      },
    )
  }
}

/** The statement certainly did not run, so the caller may run it again. */
export class NotExecutedError extends SmartPgError {
  static override readonly brand: string = 'NotExecutedError'
  constructor(node: string, message: string, phase: Phase, cause: unknown, attempts = 1) {
    super('SMARTPG_NOT_EXECUTED', message, { node, phase, retryable: true, cause, attempts })
  }
}

/** A batch failed as a whole; nothing of it was kept. */
export class BatchError extends SmartPgError {
  static override readonly brand: string = 'BatchError'
  /** Position of the query that failed; null when the commit itself failed. */
  readonly index: number | null

  constructor(index: number | null, phase: Phase, cause: unknown, node?: string) {
    const where = index === null ? `at ${phase}` : `at query ${index}`
    super('SMARTPG_BATCH', `Batch failed ${where}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      node,
      phase,
      cause,
      retryable: isSmartPgError(cause) && cause.retryable,
    })
    this.index = index
  }
}

/** Whether a statement failed without having been executed: it was not written, or it stood behind one that failed. */
export function neverRan(error: unknown): boolean {
  return error instanceof NotExecutedError || (isSmartPgError(error) && error.phase === 'send')
}

/** For whoever uses a connection whose transaction or callback is over. */
export function releasedError(): SmartPgError {
  return new SmartPgError('SMARTPG_RELEASED', 'This connection was released: its transaction or callback has ended.', {
    phase: 'send',
    hint: 'Await every query inside the callback, and use `db` after it.',
  })
}
