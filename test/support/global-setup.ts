// One cluster for the whole test run: a primary and two standbys. Test files get its urls from vitest and make a
// database of their own on it:
//
//     const database = await createDatabase({ url: inject('primaryUrl'), replicaUrls: inject('replicaUrls') })
//
// Tests that stop, kill or promote servers start a cluster of their own.

import type { TestProject } from 'vitest/node'
import { startCluster } from './postgres/cluster.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    primaryUrl: string
    /** Empty when TEST_DATABASE_URL is given without TEST_REPLICA_URLS. */
    replicaUrls: readonly string[]
  }
}

export default async function globalSetup(project: TestProject): Promise<() => Promise<void>> {
  const cluster = await startCluster({ replicas: 2 })
  project.provide('primaryUrl', cluster.url)
  project.provide('replicaUrls', cluster.replicaUrls)
  return () => cluster.close()
}
