// The words the rooms share: what a statement is, what a server answers, and the two ports through which
// the engine reaches a server (`OpenSession`) and time (`Clock`). No room behind a port is known here.

/** What the SQL text alone tells about a statement; produced by `sql/`, cached by text. */
export interface Facts {
  /** The seven query types. `unknown` is everything that was not positively recognised. */
  readonly kind: QueryKind
  /** First keyword in lower case, `''` when there is none; a closed set in metrics is made from `kind`. */
  readonly verb: string
  /** A standby would run it, with the same meaning, and nothing is lost if it runs twice. */
  readonly safeOnReplica: boolean
  /** It may leave something behind in the session: SET, temp tables, advisory locks, unknown functions. */
  readonly stateful: boolean
  /** It may wait for another transaction's lock. */
  readonly lockWaiter: boolean
  /** Running it a second time changes nothing. */
  readonly retrySafe: boolean
  /** It may have changed data (or may call something that does). */
  readonly writes: boolean
  /** More than one statement in the text. */
  readonly multiple: boolean
  /** One plannable statement, so that a named prepared statement can hold it. */
  readonly preparable: boolean
  /** Tables named for reading and for writing, lower case unless quoted, schema kept when given. */
  readonly tablesRead: readonly string[]
  readonly tablesWritten: readonly string[]
  /** Functions called, lower case unless quoted. */
  readonly functions: readonly string[]
  /** `SELECT orders customers`: verb and tables, for spans and logs; never a literal. */
  readonly summary: string
  /**
   * 16 hexadecimal digits, equal for texts that differ only in literals, parameters, white space, comments, the case of
   * unquoted words and the length of their lists of constants; nothing of a literal is in it.
   */
  readonly fingerprint: string
  /** Why the statement may run anywhere (`read`, `plan`), or why it stays on the primary. */
  readonly because: FactsReason
}

export type FactsReason =
  | 'read'
  | 'plan'
  | 'write'
  | 'ddl'
  | 'transaction'
  | 'session'
  | 'locks rows'
  | 'makes a table'
  | 'unknown function'
  | 'function stays on the primary'
  | 'system catalog'
  | 'migration table'
  | 'temporary table'
  | 'unlogged table'
  | 'unicode name'
  | 'server answers for itself'
  | 'several statements'
  | 'unclear text'
  | 'not recognised'
  | 'empty'

export type QueryKind =
  'read_simple' | 'read_complex' | 'write_simple' | 'write_bulk' | 'ddl' | 'transaction' | 'unknown'

/** One statement on its way to a server. `name` is set when it runs as a named prepared statement. */
export interface Statement {
  readonly sql: string
  readonly parameters: readonly unknown[]
  readonly facts: Facts
  readonly name?: string
}

export type Row = Record<string, unknown>

/** One answer. Several statements in one text answer with no rows and the last command tag. */
export interface Rows {
  readonly rows: Row[]
  /** `SELECT`, `INSERT`, `COMMIT` … as the server tagged it; null for an empty query. */
  readonly command: string | null
  /** The number in the command tag; null when the tag has none. */
  readonly count: number | null
  /** How often this connection has run the statement under its name, this time included; absent when it ran unnamed. */
  readonly executions?: number
}

/** Who asked and hears how it ended: one of the two, once. */
export interface Asker {
  resolve(rows: Rows): void
  reject(error: Error): void
}

/** ReadyForQuery's status byte in words. */
export type TransactionStatus = 'idle' | 'open' | 'failed'

/** One physical connection, authenticated. All that the engine knows of a server. */
export interface Session {
  /** Backend process id. */
  readonly pid: number
  /** Status after the last ReadyForQuery. */
  readonly status: TransactionStatus
  /** Statements sent and not yet answered by ReadyForQuery. */
  readonly unanswered: number
  /** Why the connection is gone, or null while it lives. */
  readonly lost: Error | null
  /** Whether more may be sent before an answer has come; where not, statements wait for each other here. */
  readonly pipelines: boolean
  /** Statements that will leave with the one write of this turn of the event loop. */
  readonly unflushed: number
  /** Bytes of the statements that are not answered yet. */
  readonly bytesUnanswered: number
  /** Bytes heard since it was opened. */
  readonly bytesRead: number
  /** Settles only after ReadyForQuery, or when the connection is gone. */
  send(statement: Statement): Promise<Rows>
  /**
   * The same for somebody who needs no promise: `asker` hears of it within the read that brought the answer.
   * `gathers` above 0: others are under way, and answers that lie in the sockets will bring more statements before the
   * event loop has come round: all of them leave in one write then, not each at the end of what runs now. Above 1: up
   * to so many such statements, pure reads all of them, may stand under one Sync; one that fails takes nobody along.
   */
  ask(statement: Statement, asker: Asker, gathers?: number): void
  /**
   * All in one write and under one Sync: of what stands behind a failed one nothing is executed, and it rejects with
   * NotExecutedError; what stood before it resolves all the same, although outside a transaction the server takes it
   * back. Every promise settles when all have ended. Only where `pipelines`; one statement to a text.
   */
  sendTogether(statements: readonly Statement[]): Promise<Rows>[]
  /** Called after every read that brought at least one answer, when all its answers have been told. */
  onRead(listener: () => void): void
  /** A portal of its own for streams; must stand in a transaction. */
  openPortal(statement: Statement): Portal
  /** Asks the server to cancel what runs now, by the wire's CancelRequest on a channel of its own. */
  cancel(timeoutMs: number): Promise<void>
  /** Whether the server is a standby, as it has reported last (in_hot_standby, since version 14); null: it has not. */
  readonly standby: boolean | null
  /** Called when it reports something else than before: with the first answer after a promotion, ahead of it. */
  onStandby(listener: (standby: boolean) => void): void
  /** What the server reports of the session's settings is not what it was when `keepSettings` was called last. */
  readonly drifted: boolean
  keepSettings(): void
  /** Forgets every named statement that the server no longer holds (after DEALLOCATE ALL). */
  forgetStatements(): void
  /** Says goodbye and closes; the socket is destroyed after `graceMs`. Settles when the socket is closed. */
  close(graceMs: number): Promise<void>
  /** Destroys the socket now. */
  destroy(reason: Error): void
  /** Called once when the connection is gone, with the reason. */
  onLost(listener: (reason: Error) => void): void
  /** Called for every NOTIFY, with the process id of the backend that sent it. */
  onNotification(listener: (channel: string, payload: string, processId?: number) => void): void
  /** The open socket keeps the process alive (as when it was opened), or no longer does. */
  ref(): void
  unref(): void
  /** The library's own client object, for hooks that expect one. */
  readonly raw: unknown
}

export interface Portal {
  /** At most `count` rows; an empty array means the end. */
  read(count: number): Promise<Row[]>
  close(): Promise<void>
}

/** Opens and authenticates one connection, or rejects within `timeoutMs`. */
export type OpenSession = (options: { timeoutMs: number; signal?: AbortSignal }) => Promise<Session>

/**
 * Time as a port. `now` is monotonic milliseconds. A timer keeps the process alive only where somebody waits for
 * what it does (`awaited`): housekeeping never does.
 */
export interface Clock {
  now(): number
  setTimeout(run: () => void, ms: number, awaited?: 'awaited'): Timer
  /** Runs when the event loop has come round: what lay in the sockets has been read by then. */
  nextTurn(run: () => void): void
  clearTimeout(timer: Timer): void
}
/** What setTimeout gave; clearing nothing is no fault. */
export type Timer = object | number | null | undefined

/** A number in [0, 1). */
export type Chance = () => number

export type Role = 'primary' | 'replica'
