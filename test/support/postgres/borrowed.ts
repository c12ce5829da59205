// Servers that are not ours: the one TEST_DATABASE_URL names, or one in a container. They can be asked, but not
// stopped, killed or promoted; tests that need that are skipped when `cluster.owned` is false.

import { ask, type Server } from './server.ts'

export function borrowedServer(url: string): Server {
  return {
    url,
    port: Number(new URL(url).port || 5432),
    pid: undefined,
    query: <R>(sql: string, parameters?: readonly unknown[]) => ask<R>(url, sql, parameters),
    stop: refuse,
    start: refuse,
    kill9: refuse,
    promote: refuse,
    freeze: refuseNow,
    thaw: refuseNow,
  }
}

/** What every operation on a borrowed server answers. */
export async function refuse(): Promise<never> {
  return refuseNow()
}

function refuseNow(): never {
  throw new Error('this server is not ours to change (unset TEST_DATABASE_URL and TEST_PG)')
}

/** PostgreSQL in a container (image TEST_PG_IMAGE, default postgres:18); the container goes with `stop`. */
export async function containedServer(
  settings: Record<string, string>,
): Promise<{ server: Server; stop: () => Promise<void> }> {
  const { PostgreSqlContainer } = await testcontainers()
  const container = await new PostgreSqlContainer(process.env['TEST_PG_IMAGE'] ?? 'postgres:18')
    .withDatabase('postgres')
    .withUsername('postgres')
    .withCommand(['postgres', ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])])
    .start()
  return {
    server: borrowedServer(container.getConnectionUri()),
    stop: async () => {
      await container.stop()
    },
  }
}

// Imported only here and by a name TypeScript does not resolve: whoever does not use containers need not install it.
async function testcontainers(): Promise<Testcontainers> {
  const name = '@testcontainers/postgresql'
  try {
    return (await import(name)) as Testcontainers
  } catch (cause) {
    throw new Error(`TEST_PG=testcontainers needs the package ${name}: npm install --no-save ${name}`, { cause })
  }
}

/** The part of @testcontainers/postgresql used here. */
interface Testcontainers {
  PostgreSqlContainer: new (image: string) => Container
}
interface Container {
  withDatabase(name: string): this
  withUsername(name: string): this
  withCommand(command: string[]): this
  start(): Promise<{ getConnectionUri(): string; stop(): Promise<unknown> }>
}
