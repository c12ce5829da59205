// A client's process as main.ts sees it: open, rounds, close.

import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type { Answer, Ask } from './client-process.ts'
import type { Round, RoundPlan } from './round.ts'

export class ClientHandle {
  /** How it is called in the report. */
  readonly label: string
  readonly #client: string
  readonly #process: ChildProcess

  /** With `profiles`, a folder, the process writes a CPU profile there when it ends. */
  constructor(label: string, client: string, profiles: string | undefined) {
    this.label = label
    this.#client = client
    const execArgv = profiles === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profiles}`]
    this.#process = fork(join(import.meta.dirname, 'client-process.ts'), { execArgv })
  }

  async open(url: string, connections: number): Promise<void> {
    await this.#ask({ do: 'open', client: this.#client, url, connections })
  }

  async round(plan: RoundPlan): Promise<Round> {
    const answer = await this.#ask({ do: 'round', plan })
    if (answer.is !== 'round') throw new Error(`${this.label} answered ${answer.is} to a round`)
    return answer.round
  }

  async close(): Promise<void> {
    if (this.#process.exitCode !== null || !this.#process.connected) return
    const ended = new Promise((resolve) => this.#process.once('exit', resolve))
    await this.#ask({ do: 'close' })
    this.#process.disconnect()
    await ended
  }

  #ask(ask: Ask): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const onExit = (code: number | null): void => reject(new Error(`the process of ${this.label} ended: ${code}`))
      this.#process.once('exit', onExit)
      this.#process.once('message', (answer: Answer) => {
        this.#process.off('exit', onExit)
        if (answer.is === 'failed') reject(new Error(`${this.label}: ${answer.why}`))
        else resolve(answer)
      })
      this.#process.send(ask)
    })
  }
}
