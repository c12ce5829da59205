// What came out: every table printed as soon as it is there, every figure kept for `--json`, every error counted.

import { writeFileSync } from 'node:fs'
import { errorsOf, firstErrorOf } from './compare.ts'
import type { Series } from './compare.ts'
import type { Line } from './delay/line.ts'
import type { Flags } from './flags.ts'
import { ratioOf, tableOf, titleOf } from './report.ts'
import type { Workload } from './workloads/contract.ts'

/** On what it was measured. */
export interface Setting {
  readonly node: string
  readonly postgres: string
  readonly cores: number
}

export class Results {
  readonly #flags: Flags
  readonly #setting: Setting
  readonly #tables: object[] = []
  errors = 0

  constructor(flags: Flags, setting: Setting) {
    this.#flags = flags
    this.#setting = setting
  }

  add(workload: Workload, callers: number, line: Line, series: readonly Series[]): void {
    console.log(`${titleOf(workload, callers, line)}\n\n${tableOf(series, workload, line)}\n`)
    for (const one of series) {
      const errors = errorsOf(one)
      if (errors > 0) console.error(`${one.label}: ${errors} errors, the first ${firstErrorOf(one)}\n`)
      this.errors += errors
    }
    const groups = workload.groups(1).map(({ name }, i) => ({
      name,
      ratios: Object.fromEntries(series.map((one) => [one.label, ratioOf(one, series, i)])),
    }))
    const { delayMs, roundTripMs, addedMs } = line
    this.#tables.push({ workload: workload.name, callers, delayMs, roundTripMs, addedMs, groups, series })
    this.#write()
  }

  /** After every table, so that what is done is not lost when the rest fails. */
  #write(): void {
    if (this.#flags.json === undefined) return
    const all = { at: new Date().toISOString(), ...this.#setting, flags: this.#flags, tables: this.#tables }
    writeFileSync(this.#flags.json, `${JSON.stringify(all, null, 1)}\n`)
  }
}
