// Those who use the database at the same time, each one thing after the other, drawn from a hat.

import { acts } from './acts.ts'
import { Doing } from './doing.ts'
import type { Caller, Db } from './doing.ts'
import { LOOKS } from './texts.ts'

const hat = Object.entries(acts).flatMap(([what, { weight }]) => Array.from({ length: weight }, () => what))

/** Does so many things, one after the other. */
export async function calls(caller: Caller, times: number, pauseMs: number): Promise<void> {
  const { dice, world, ledger, budgets, name } = caller
  for (let n = 1; n <= times; n++) {
    await world.pause(dice.between(0, pauseMs))
    const what = dice.oneOf(hat)
    const { statements, untimed = false, act } = acts[what]!
    const budgetMs = statements * budgets.statementMs + (untimed ? budgets.silenceMs : 0)
    const doing = new Doing(caller, `${name}.${n}`)
    await ledger.follow(doing.name, what, budgetMs, () => act(doing))
  }
}

/** One read, for whoever wants to know whether the database answers. */
export async function asks(caller: Caller, on: Db, n: number): Promise<void> {
  const doing = new Doing(caller, `${caller.name}.${n}`)
  await doing.run(on, LOOKS[0]!, doing.stamp())
}
