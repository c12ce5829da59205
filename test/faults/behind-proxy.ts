// A dialect whose only way to the server is a fault proxy, with a pool that does nothing by itself.

import { expect, onTestFinished } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { backends, heldAtOnce, open } from './dialects.ts'
import type { Opened } from './dialects.ts'

export interface Behind<Tables> extends Opened<Tables> {
  readonly proxy: FaultProxy
}

/** Nobody asks a connection whether it lives, and none is opened without need. */
export const still = { min: 0, minIdle: 0, initial: 1, max: 2, validateAfterIdle: '1h', keepalive: 0 } as const

export async function openBehindProxy<Tables>(
  serverUrl: string,
  options: Partial<SmartPgOptions> = {},
): Promise<Behind<Tables>> {
  const proxy = await startFaultProxy(serverUrl)
  onTestFinished(() => proxy.close())
  const opened = open<Tables>({ primary: proxy.url, pool: still, ...options })
  await opened.dialect.ready()
  return { ...opened, proxy }
}

/** As many connections as before, and nothing left on the server when it is over. */
export async function expectWholeBehind<Tables>(
  serverUrl: string,
  { db, applicationName, proxy }: Behind<Tables>,
): Promise<void> {
  expect((await heldAtOnce(db as never, still.max)).size).toBe(still.max)
  await db.destroy()
  await proxy.heal()
  await expect.poll(() => backends(serverUrl, applicationName)).toBe(0)
}
