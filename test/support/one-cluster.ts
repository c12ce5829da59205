// One PostgreSQL cluster for the whole run: every project with a database names this file as its global setup,
// the first of them starts the cluster, and its coordinates are provided to all. A run without such a project
// (`vitest run test/core`) starts none.

import type { TestProject } from 'vitest/node'
import startCluster from './global-setup.ts'

// Each project loads this file anew, so that what they share cannot live in the module.
const shared = globalThis as { kyselySmartPgCluster?: 'started' }

export default async function oneCluster(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  if (shared.kyselySmartPgCluster === 'started') return undefined
  shared.kyselySmartPgCluster = 'started'
  return startCluster(project.vitest.getRootProject())
}
