// A client's process as whoever injects faults sees it.

import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Command, LoadOrder, LoadReport, Message } from './load-process.ts'

export class LoadHandle {
  readonly #process: ChildProcess
  readonly #ended: Promise<number | null>
  #report: LoadReport | null = null
  readonly #reported: Promise<void>

  private constructor(child: ChildProcess) {
    this.#process = child
    this.#ended = once(child, 'exit').then(([code]) => code as number | null)
    this.#reported = new Promise((resolve) => {
      child.on('message', (message: Message) => {
        if (message.is !== 'report') return
        this.#report = message
        resolve()
      })
    })
  }

  /** Settles when its load has begun. */
  static async start(order: LoadOrder): Promise<LoadHandle> {
    const child = fork(join(import.meta.dirname, 'load-process.ts'), [JSON.stringify(order)])
    const handle = new LoadHandle(child)
    await Promise.race([once(child, 'message'), handle.#ended])
    return handle
  }

  tell(command: Command): void {
    if (this.#process.connected) this.#process.send(command)
  }

  /** Its log; the exit code of a process that is gone without one. */
  async finish(): Promise<LoadReport | { readonly exitCode: number | null }> {
    this.tell({ do: 'stop' })
    await Promise.race([this.#reported, this.#ended])
    this.close()
    const exitCode = await this.#ended
    return this.#report ?? { exitCode }
  }

  close(): void {
    this.#process.kill('SIGKILL')
  }
}
