import type { Facts } from '../core/types.ts'
import { READ_FACTS, RESET_FACTS, BEGIN_FACTS } from '../core/statements.ts'
export class FactsCache {
  #m = new Map<string, Facts>()
  of(sql: string): Facts {
    let f = this.#m.get(sql)
    if (f) return f
    const v = /^\s*(\w*)/.exec(sql)![1]!.toLowerCase()
    if (v === 'select') f = { ...READ_FACTS, preparable: true }
    else if (['insert','update','delete'].includes(v)) f = { ...RESET_FACTS, kind: 'write_simple', writes: true, preparable: true, verb: v, summary: v }
    else if (['begin','commit','rollback','start','savepoint','release'].includes(v)) f = { ...BEGIN_FACTS, verb: v, retrySafe: false }
    else f = { ...RESET_FACTS, writes: true, stateful: true, verb: v, summary: v }
    this.#m.set(sql, f)
    return f
  }
}
