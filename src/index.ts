// The front door. Nothing else is public.

export { SmartPgDialect } from './dialect.ts'
export type { BreakerControl, LentClient, ReadSessionOptions, WithClientOptions } from './dialect.ts'
export type { Gap, ListenOptions, NotificationListener, NotificationSource } from './engine/channel.ts'
export type { Listening } from './engine/listen.ts'
export { registry } from './telemetry/metrics.ts'
export { batch, installBatch } from './kysely/batch.ts'
export { onPrimary, onReplica, withTimeout } from './kysely/hints.ts'
export { explainRoute } from './kysely/explain-route.ts'
export type { ReplicaWish } from './kysely/wish.ts'
export type {
  ReadOnlyBatchItem,
  ReadOnlyConnectionBuilder,
  ReadOnlyControlledTransaction,
  ReadOnlyControlledTransactionBuilder,
  ReadOnlyKysely,
  ReadOnlyQueryCreator,
  ReadOnlyTransactionBuilder,
} from './kysely/read-only.ts'
export type { BatchItem, BatchOptions, BatchOutputs } from './kysely/batch-item.ts'
export { retryTransaction } from './kysely/retry-transaction.ts'
export type { RetryTransactionOptions } from './kysely/retry-transaction.ts'
export {
  AcquireTimeoutError,
  BatchError,
  CircuitOpenError,
  ConfigError,
  NotExecutedError,
  OutcomeUnknownError,
  QueueFullError,
  SmartPgError,
  isSmartPgError,
} from './core/errors.ts'
export type { ConfigFault, Phase, PoolCounts, SmartPgErrorCode } from './core/errors.ts'
export type {
  BackgroundErrorEvent,
  BreakerEvent,
  CircuitName,
  EventName,
  Events,
  FailoverEvent,
  GapEvent,
  LeakEvent,
  NodeEvent,
  PlanRegressionEvent,
  QueryEvent,
  RerunEvent,
  RetryEvent,
} from './core/events.ts'
export type { BreakerStatus, Transition } from './core/breaker.ts'
export type { CandidateExplanation, RouteExplanation } from './core/explain.ts'
export type { HealthScore } from './core/standing.ts'
export type { BalanceStrategy } from './core/balance.ts'
export type { RouteReason } from './core/cells.ts'
export type { Facts, FactsReason, QueryKind, Role } from './core/types.ts'
export type { CircuitStatus } from './engine/node.ts'
export type {
  BreakerOptions,
  ConnectionConfig,
  ConnectionSource,
  ConnectionTarget,
  Duration,
  FailoverOptions,
  HookConnection,
  Logger,
  Lookup,
  PoolOptions,
  ReadYourWrites,
  ReplicaOptions,
  RetryOptions,
  RoutingOptions,
  SessionOptions,
  SmartPgOptions,
  StatementOptions,
  TypeParsers,
} from './config/options.ts'
