// Presets are plain patches: what a user could have written. Own options win over them, and they over the
// defaults in rules.ts. `production` is the defaults themselves.

import type { BreakerOptions, BreakerPreset, Preset, SmartPgOptions } from './options.ts'

/** What a preset may set: nothing that names a server, and no breaker, which has presets of its own. */
export type Patch = Pick<SmartPgOptions, 'pool' | 'queryTimeout' | 'failover' | 'retry' | 'statements'>

export const presets: { readonly [P in Preset]: Patch } = {
  // One developer, one database: few connections, and a mistake shows within seconds.
  development: {
    pool: { min: 0, initial: 1, max: 5, minIdle: 0, acquireTimeout: '5s', connectTimeout: '5s', leakDetection: '60s' },
    queryTimeout: '10s',
  },
  // As production, on a server that is smaller.
  staging: { pool: { max: 20 } },
  production: {},
  // Many small processes that come and go: nothing is opened ahead, and an idle process goes silent soon, so
  // that a database that scales to zero may sleep (the usual ones do after five minutes without a connection).
  serverless: { pool: { min: 0, initial: 0, max: 2, minIdle: 0, idleTimeout: '30s', keepalive: 0 } },
}

export const breakerPresets: { readonly [P in BreakerPreset]: BreakerOptions } = {
  conservative: { failureThreshold: 3, errorRate: 0.1, recoveryTimeout: { max: '120s' } },
  balanced: { failureThreshold: 5, errorRate: 0.5, recoveryTimeout: { max: '60s' } },
  tolerant: { failureThreshold: 10, errorRate: 0.7, recoveryTimeout: { max: '30s' } },
}
