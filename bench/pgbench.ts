// PostgreSQL's own load generator, written in C: what a client could reach at most that has one statement under way on
// each connection. It checks no answers, decodes none, and tells a mean instead of percentiles.

import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { endedChildrenCpuUs } from './cpu.ts'
import type { Participant } from './participant.ts'
import type { Round, RoundPlan } from './round.ts'
import type { PgbenchScript } from './workloads/contract.ts'

const run = promisify(execFile)

/** Where it is: Debian's packages, the newest first, then PATH. */
export function findPgbench(): string | undefined {
  const debian = '/usr/lib/postgresql'
  const versions = existsSync(debian) ? readdirSync(debian).toSorted((a, b) => Number(b) - Number(a)) : []
  const folders = [
    ...versions.map((version) => join(debian, version, 'bin')),
    ...(process.env['PATH'] ?? '').split(delimiter),
  ]
  return folders.map((folder) => join(folder, 'pgbench')).find((program) => existsSync(program))
}

export class Pgbench implements Participant {
  readonly label = 'pgbench'
  readonly #program: string
  readonly #url: string
  readonly #connections: number
  readonly #folder = mkdtempSync(join(tmpdir(), 'smartpg-pgbench-'))
  readonly #scripts: readonly string[]

  constructor(program: string, url: string, connections: number, scripts: readonly PgbenchScript[]) {
    this.#program = program
    this.#url = url
    this.#connections = connections
    this.#scripts = scripts.map(({ text, weight }, i) => {
      const file = join(this.#folder, `${i}.sql`)
      writeFileSync(file, text)
      return `${file}@${weight}`
    })
  }

  async round({ callers, measuredMs }: RoundPlan): Promise<Round> {
    // Its clients are its connections.
    const clients = String(Math.max(1, Math.min(callers, this.#connections)))
    const seconds = String(Math.max(1, Math.round(measuredMs / 1000)))
    const scripts = this.#scripts.flatMap((script) => ['-f', script])
    const before = endedChildrenCpuUs(process.pid)
    const { stdout } = await run(this.#program, [
      ...['-n', '-M', 'prepared', '-c', clients, '-j', '1', '-T', seconds],
      ...scripts,
      this.#url,
    ])
    const operations = numberIn(stdout, /transactions actually processed: (\d+)/)
    const errors = numberIn(stdout, /failed transactions: (\d+)/, 0)
    return {
      groups: [
        {
          name: 'transactions',
          rate: numberIn(stdout, /tps = ([\d.]+) \((?:without|excluding)/),
          meanMs: numberIn(stdout, /latency average = ([\d.]+) ms/),
          p50Ms: Number.NaN,
          p95Ms: Number.NaN,
          p99Ms: Number.NaN,
          late: Number.NaN,
        },
      ],
      cpuUs: (endedChildrenCpuUs(process.pid) - before) / operations,
      operations,
      errors,
      ...(errors > 0 ? { firstError: 'pgbench counts failed transactions' } : {}),
      counted: {},
    }
  }

  async close(): Promise<void> {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

function numberIn(output: string, pattern: RegExp, otherwise = Number.NaN): number {
  return Number(pattern.exec(output)?.[1] ?? otherwise)
}
