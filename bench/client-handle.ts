// A client's process as main.ts sees it: open, rounds, close.

import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Answer, Ask } from './client-process.ts'
import type { OpenOptions } from './clients/contract.ts'
import type { Participant } from './participant.ts'
import type { Round, RoundPlan } from './round.ts'

/** Ten thousand callers with 10 connections behind a slow network need two minutes; a client that hangs, for ever. */
const patienceMs = 300_000

export class ClientHandle implements Participant {
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

  async open(options: OpenOptions): Promise<void> {
    await this.#ask({ do: 'open', client: this.#client, options })
  }

  async round(plan: RoundPlan): Promise<Round> {
    const answer = await this.#ask({ do: 'round', plan })
    if (answer.is !== 'round') throw new Error(`${this.label} answered ${answer.is} to a round`)
    return answer.round
  }

  async close(): Promise<void> {
    if (this.#gone) return
    const ended = once(this.#process, 'exit')
    // One that cannot close ends without.
    await this.#ask({ do: 'close' }).catch((error: unknown) => console.error(String(error)))
    if (this.#process.connected) this.#process.disconnect()
    await ended
  }

  get #gone(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null
  }

  #ask(ask: Ask): Promise<Answer> {
    if (this.#gone) return Promise.reject(new Error('the process has ended'))
    return new Promise((resolve, reject) => {
      const settle = (answer: Answer): void => {
        clearTimeout(patience)
        this.#process.off('exit', onExit).off('message', settle)
        if (answer.is === 'failed') reject(new Error(answer.why))
        else resolve(answer)
      }
      const onExit = (code: number | null): void => settle({ is: 'failed', why: `the process ended: ${code}` })
      const patience = setTimeout(() => {
        this.#process.kill('SIGKILL')
        settle({ is: 'failed', why: `no answer to ${ask.do} within ${patienceMs / 1000} s` })
      }, patienceMs)
      this.#process.once('exit', onExit).once('message', settle)
      this.#process.send(ask)
    })
  }
}
