// What an error means, in one table. Everything that goes wrong arrives here as evidence (a code, a severity, a
// message) and leaves as a fault: is the connection gone, does it count against the server, which metric counts it,
// and what may be tried next. The words of the libraries are translated to codes before (`wire/fault-of.ts`).

export type FaultClass =
  | 'unreachable'
  | 'starting'
  | 'too-many-connections'
  /** Credentials, TLS, or a setting that the server will not accept at connect: trying again changes nothing. */
  | 'authentication'
  | 'connection-lost'
  | 'outcome-unknown'
  | 'rolled-back'
  | 'lock-not-available'
  | 'cancelled'
  | 'server-resources'
  | 'read-only'
  | 'recovery-conflict'
  | 'prepared-statement'
  | 'query'
  | 'internal'
  /** Refused by this package itself, before anything was sent: queue full, breaker open, closed. */
  | 'refused'

/** What is known of an error. `code` is a SQLSTATE, a Node error code or one of our own. */
export interface Evidence {
  readonly code?: string
  /** Only servers and poolers send one. pg hands over the translated word where lc_messages is not English. */
  readonly severity?: string
  readonly message: string
  /** The server's C function, never translated. */
  readonly routine?: string
  readonly during: 'connect' | 'query'
  /** Codes of the errors inside: of an AggregateError's, or of the causes. */
  readonly innerCodes?: readonly string[]
}

/**
 * What a breaker makes of it. `failure` counts against the server. `lost` does, too: a connection that cannot be had
 * or is gone, which many learn of at once. `soft` is the same of a server that is alive and says that it will be back, so
 * the breaker stays open for its shortest time. `slow`: no answer in time, which may be the statement's fault. `success`:
 * the server answered. `ignore`: it says nothing about the server's health (our own aborts, 53300).
 */
export type BreakerVerdict = 'failure' | 'lost' | 'soft' | 'slow' | 'success' | 'ignore'

/** The closed set of `query_errors_by_category_total`. */
export type ErrorCategory =
  | 'connection_timeout'
  | 'connection_refused'
  | 'authentication_failed'
  | 'query_timeout'
  | 'query_error'
  | 'pool_exhausted'
  | 'circuit_open'
  | 'connection_lost'
  | 'serialization_failure'
  | 'deadlock'
  | 'cancelled'

/**
 * What could help, if running the statement again is safe at all (`core/retry.ts` decides that).
 * `elsewhere`: another node, or this one later. `same`: this node, later. `primary`: a standby refused.
 * `transaction`: the whole transaction again. `once-prepared`: prepare anew. `once-credentials`: ask for the
 * password anew. `never`: the answer would be the same.
 */
export type RetryAdvice =
  'never' | 'elsewhere' | 'same' | 'primary' | 'transaction' | 'once-prepared' | 'once-credentials'

export interface Fault {
  readonly class: FaultClass
  readonly code: string | undefined
  /** The connection is gone or must go. Always true of a connect. */
  readonly dropsConnection: boolean
  readonly breaker: BreakerVerdict
  /** Which of a node's two breakers learns of it. */
  readonly tells: 'connect' | 'query'
  readonly category: ErrorCategory
  readonly retry: RetryAdvice
}

type Row = readonly [
  faultClass: FaultClass,
  during: 'connect' | 'query' | 'both',
  drops: boolean,
  breaker: BreakerVerdict,
  category: ErrorCategory,
  retry: RetryAdvice,
  codes: string,
]

// An exact code goes before a prefix (`23*`); what stands nowhere is judged by the four rows below the table.
// prettier-ignore
const table: readonly Row[] = [
  // class                 during     drops  breaker    category                 retry               codes
  ['unreachable',          'both',    true,  'lost',    'connection_refused',    'elsewhere',        'ECONNREFUSED ENOTFOUND EAI_AGAIN SMARTPG_CONNECT_FAILED'],
  ['unreachable',          'connect', true,  'lost',    'connection_refused',    'elsewhere',        'EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN ECONNRESET ECONNABORTED EPIPE ENOENT EACCES'],
  ['unreachable',          'connect', true,  'lost',    'connection_refused',    'elsewhere',        '08* 57P01 57P02 57P04 SMARTPG_CONNECTION_LOST ERR_STREAM_* ERR_SOCKET_CLOSED XX*'],
  ['unreachable',          'connect', true,  'lost',    'connection_timeout',    'elsewhere',        'ETIMEDOUT ERR_SOCKET_CONNECTION_TIMEOUT 57014'],
  // Our own process or machine has run out of descriptors or ports.
  ['unreachable',          'both',    true,  'ignore',  'connection_refused',    'same',             'EMFILE ENFILE ENOBUFS EADDRNOTAVAIL'],
  ['starting',             'both',    true,  'soft',    'connection_refused',    'elsewhere',        '57P03'],
  ['too-many-connections', 'both',    true,  'ignore',  'connection_refused',    'same',             '53300'],
  ['authentication',       'connect', true,  'ignore',  'authentication_failed', 'once-credentials', '28*'],
  ['authentication',       'connect', true,  'ignore',  'authentication_failed', 'never',            '3D000 42501 SMARTPG_CONFIG'],
  ['authentication',       'connect', true,  'ignore',  'authentication_failed', 'never',            'CERT_* ERR_TLS_* ERR_SSL_* ERR_OSSL_* EPROTO DEPTH_ZERO_SELF_SIGNED_CERT SELF_SIGNED_CERT_IN_CHAIN UNABLE_TO_* HOSTNAME_MISMATCH INVALID_CA INVALID_PURPOSE PATH_LENGTH_EXCEEDED'],
  ['connection-lost',      'query',   true,  'lost',    'connection_lost',       'elsewhere',        '08* 57P01 57P02 57P04 SMARTPG_CONNECTION_LOST'],
  ['connection-lost',      'query',   true,  'lost',    'connection_lost',       'elsewhere',        'ECONNRESET ECONNABORTED EPIPE ETIMEDOUT EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN EPROTO ERR_STREAM_* ERR_SOCKET_CLOSED ERR_SSL_*'],
  // Ended by a limit that someone set on idle or long sessions.
  ['connection-lost',      'both',    true,  'ignore',  'connection_lost',       'elsewhere',        '57P05 25P03 25P04'],
  ['outcome-unknown',      'both',    true,  'lost',    'connection_lost',       'never',            '08007 40003 SMARTPG_OUTCOME_UNKNOWN'],
  ['rolled-back',          'query',   false, 'success', 'serialization_failure', 'transaction',      '40001'],
  ['rolled-back',          'query',   false, 'success', 'deadlock',              'transaction',      '40P01'],
  // Only functions of users raise these two, and would again.
  ['rolled-back',          'query',   false, 'success', 'query_error',           'never',            '40000 40002'],
  ['lock-not-available',   'query',   false, 'success', 'query_error',           'never',            '55P03 55006'],
  // User, statement_timeout or administrator: the message is translated, so our own record tells them apart.
  ['cancelled',            'query',   false, 'ignore',  'cancelled',             'never',            '57014'],
  ['cancelled',            'both',    false, 'ignore',  'cancelled',             'never',            'ABORT_ERR'],
  ['cancelled',            'both',    true,  'slow',    'query_timeout',         'never',            'SMARTPG_QUERY_TIMEOUT'],
  ['server-resources',     'both',    false, 'failure', 'query_error',           'elsewhere',        '53000 53100 53200 53400 58000 58030'],
  ['read-only',            'query',   false, 'success', 'query_error',           'primary',          '25006'],
  ['prepared-statement',   'query',   false, 'success', 'query_error',           'once-prepared',    '26000 42P05'],
  ['query',                'query',   false, 'success', 'query_error',           'never',            '0A* 21* 22* 23* 25P02 2B* 2D* 34* 3D* 3F* 42* 44* 54* P0*'],
  ['query',                'both',    false, 'ignore',  'query_error',           'never',            'SMARTPG_INVALID_QUERY SMARTPG_RELEASED SMARTPG_BATCH'],
  ['internal',             'query',   false, 'ignore',  'query_error',           'never',            'XX*'],
  ['refused',              'both',    false, 'ignore',  'pool_exhausted',        'never',            'SMARTPG_ACQUIRE_TIMEOUT SMARTPG_QUEUE_FULL'],
  ['refused',              'both',    false, 'ignore',  'circuit_open',          'elsewhere',        'SMARTPG_CIRCUIT_OPEN'],
  ['refused',              'both',    false, 'ignore',  'cancelled',             'never',            'SMARTPG_CLOSED'],
  ['refused',              'both',    false, 'ignore',  'connection_lost',       'never',            'SMARTPG_NOT_EXECUTED'],
]

// Without a row: a server's own answer to a query is the query's fault; to a connect it is a setting or a name that
// will not do. Without a server: our own or the user's code threw, which tells nothing of any server.
// prettier-ignore
const otherwise = {
  answeredQuery:   ['query',          'query',   false, 'success', 'query_error',           'never', ''],
  answeredConnect: ['authentication', 'connect', true,  'ignore',  'authentication_failed', 'never', ''],
  thrownInQuery:   ['query',          'query',   false, 'ignore',  'query_error',           'never', ''],
  thrownInConnect: ['internal',       'connect', true,  'ignore',  'query_error',           'never', ''],
} as const satisfies Record<string, Row>

// The same codes with another meaning, which only severity, message or routine can tell.
// prettier-ignore
const special = {
  recoveryConflict: ['recovery-conflict',  'query', false, 'success', 'serialization_failure', 'elsewhere',     ''],
  refusedByStandby: ['read-only',          'query', false, 'success', 'query_error',           'primary',       ''],
  stalePlan:        ['prepared-statement', 'query', false, 'success', 'query_error',           'once-prepared', ''],
  hungUp:           ['connection-lost',    'query', true,  'ignore',  'connection_lost',       'elsewhere',     ''],
  // PgBouncer's ways of saying 53300: to who connects, and to whoever waited for one of its server connections.
  poolerIsFull:     ['too-many-connections', 'connect', true, 'ignore', 'connection_refused',  'same',          ''],
  poolerKeptIt:     ['too-many-connections', 'query', true, 'ignore',  'connection_lost',       'elsewhere',     ''],
} as const satisfies Record<string, Row>

interface Lookup {
  readonly exact: Map<string, Row>
  readonly prefixes: [prefix: string, row: Row][]
}
const lookups = { connect: lookupFor('connect'), query: lookupFor('query') }

function lookupFor(during: 'connect' | 'query'): Lookup {
  const lookup: Lookup = { exact: new Map(), prefixes: [] }
  for (const row of table) {
    if (row[1] !== during && row[1] !== 'both') continue
    for (const code of row[6].split(' ')) {
      if (code.endsWith('*')) lookup.prefixes.push([code.slice(0, -1), row])
      else lookup.exact.set(code, row)
    }
  }
  return lookup
}

function rowFor(code: string, during: 'connect' | 'query'): Row | undefined {
  const { exact, prefixes } = lookups[during]
  return exact.get(code) ?? prefixes.find(([prefix]) => code.startsWith(prefix))?.[1]
}

/** Decides what an error means. */
export function classify(evidence: Evidence): Fault {
  const { during } = evidence
  const known = knownCode(evidence)
  const row = meaningOf(evidence, known)
  const timeoutAnswered = known === 'SMARTPG_QUERY_TIMEOUT' && evidence.innerCodes?.includes('57014') === true
  return {
    class: row[0],
    code: known,
    // A statement that timed out and whose cancel the server has answered leaves a sound connection behind.
    dropsConnection: during === 'connect' || isFatal(evidence) || (row[2] && !timeoutAnswered),
    // A PANIC takes the whole server down, whatever its code.
    breaker: evidence.severity === 'PANIC' ? 'lost' : row[3],
    tells: row[0] === 'unreachable' ? 'connect' : during,
    category: row[4],
    retry: row[5],
  }
}

/** Whether the server said it, or a pooler in its place: then it answers, whatever it said. */
export function saidByServer({ code }: Pick<Fault, 'code'>): boolean {
  return code !== undefined && sqlState.test(code)
}

/** Whoever answered for the server did not pass the statement on to it. */
export function neverPassedOn(fault: Fault): boolean {
  return fault.class === 'too-many-connections'
}

/** The error's own code if it has a row, else the first of those inside that has one. */
function knownCode({ code, innerCodes, during }: Evidence): string | undefined {
  if (innerCodes === undefined || (code !== undefined && rowFor(code, during) !== undefined)) return code
  return innerCodes.find((inner) => rowFor(inner, during) !== undefined) ?? code
}

function meaningOf(evidence: Evidence, code: string | undefined): Row {
  const { during } = evidence
  const row = code === undefined ? undefined : rowFor(code, during)
  const answered = evidence.severity !== undefined || (code !== undefined && sqlState.test(code))
  if (during === 'connect') {
    if (code === '08P01' && poolerRefusesSetting.test(evidence.message)) return otherwise.answeredConnect
    if (code === '08P01' && poolerIsFull.test(evidence.message)) return special.poolerIsFull
    return row ?? (answered ? otherwise.answeredConnect : otherwise.thrownInConnect)
  }
  return specialMeaning(evidence, code, row) ?? row ?? (answered ? otherwise.answeredQuery : otherwise.thrownInQuery)
}

function specialMeaning(evidence: Evidence, code: string | undefined, row: Row | undefined): Row | undefined {
  if (code === '40001' && isRecoveryConflict(evidence)) return special.recoveryConflict
  if (code === 'SMARTPG_CONNECTION_LOST' && evidence.innerCodes?.some((inner) => ownWill.has(inner)) === true) {
    return special.hungUp
  }
  if (isFatal(evidence)) {
    if (code === '08P01' && poolerKeptIt.test(evidence.message)) return special.poolerKeptIt
    return row === undefined || row[0] === 'query' || row[0] === 'internal' ? special.hungUp : undefined
  }
  if (code === '0A000' && evidence.routine === 'RevalidateCachedQuery') return special.stalePlan
  if ((code === '0A000' || code === '55000' || code === 'XX000') && standbyRefusal.test(evidence.message)) {
    return special.refusedByStandby
  }
  // An ERROR leaves our connection standing, so it speaks of someone else's: of a foreign server behind dblink or
  // postgres_fdw, or (08P01) of a Bind with too few parameters.
  if (evidence.severity === 'ERROR' && row !== undefined && onlyFatal.has(row[0])) return otherwise.answeredQuery
  return undefined
}

// Where the severity is translated neither word matches; then the socket, which closes next, tells the same.
function isFatal({ severity }: Evidence): boolean {
  return severity === 'FATAL' || severity === 'PANIC'
}

// The routine serves where the message is translated; ProcessInterrupts raises 40001 for nothing else.
function isRecoveryConflict({ message, routine }: Evidence): boolean {
  return message.includes('conflict with recovery') || (routine !== undefined && conflictRoutine.test(routine))
}

// We closed the connection ourselves.
const ownWill: ReadonlySet<string> = new Set(['ABORT_ERR', 'SMARTPG_CLOSED'])
const onlyFatal: ReadonlySet<FaultClass> = new Set(['connection-lost', 'starting', 'too-many-connections'])
const conflictRoutine = /RecoveryConflict|^ProcessInterrupts$/i
const standbyRefusal = /recovery|standby|read-only/
// PgBouncer says 08P01 for a lost server (worth another try) as for what it will never accept.
const poolerRefusesSetting = /unsupported startup parameter|no such (?:database|user)|authentication failed/
const poolerIsFull = /no more connections allowed/
// Told to those alone whose statement it has not passed on.
const poolerKeptIt = /^query_wait_timeout|^server login has been failing|^pgbouncer cannot connect to server/
const sqlState = /^(?:\d[0-9A-Z]|[A-Z]\d|HV|XX)[0-9A-Z]{3}$/
