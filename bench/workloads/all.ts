// The workloads by name, in the order in which they are run. To add one: a file like point.ts, and its line here.

import type { Workload } from './contract.ts'
import { headOfLine } from './head-of-line.ts'
import { hotRow } from './hot-row.ts'
import { insert } from './insert.ts'
import { mixed } from './mixed.ts'
import { point } from './point.ts'
import { rls } from './rls.ts'
import { rows } from './rows.ts'
import { transaction } from './transaction.ts'

export const workloads: readonly Workload[] = [point, rows, insert, mixed, headOfLine, hotRow, rls, transaction]

export function workloadOf(name: string): Workload {
  const found = workloads.find((workload) => workload.name === name)
  if (found === undefined) throw new Error(`there is no workload ${name}`)
  return found
}
