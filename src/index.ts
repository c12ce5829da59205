// The front door. Nothing else is public.

export { SmartPgDialect } from './dialect.ts'
export type { BreakerControl, LentClient, WithClientOptions } from './dialect.ts'
export type { Gap, ListenOptions, NotificationListener, NotificationSource } from './engine/channel.ts'
export type { Listening } from './engine/listen.ts'
export { registry } from './telemetry/metrics.ts'
export { batch, installBatch } from './kysely/batch.ts'
export { withTimeout } from './kysely/hints.ts'
export type { BatchItem, BatchOptions, BatchOutputs } from './kysely/batch.ts'
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
  GapEvent,
  LeakEvent,
  NodeEvent,
  PlanRegressionEvent,
  QueryEvent,
  RetryEvent,
} from './core/events.ts'
export type { BreakerStatus, Transition } from './core/breaker.ts'
export type { CircuitStatus } from './engine/node.ts'
export type {
  BreakerOptions,
  ConnectionConfig,
  ConnectionSource,
  ConnectionTarget,
  Duration,
  HookConnection,
  Logger,
  PoolOptions,
  ReplicaOptions,
  RetryOptions,
  RoutingOptions,
  SessionOptions,
  SmartPgOptions,
  StatementOptions,
  TypeParsers,
} from './config/options.ts'
