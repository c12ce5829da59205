// One line that tells what is going on: rewritten in place on a terminal, a line for each step elsewhere.

export class Progress {
  readonly #out: NodeJS.WriteStream
  #step = ''

  constructor(out: NodeJS.WriteStream) {
    this.#out = out
  }

  /** A new step has begun. */
  step(text: string): void {
    this.#step = text
    if (this.#out.isTTY) this.#rewrite(text)
    else this.#out.write(`${text}\n`)
  }

  /** More about the step under way; only where a line can be rewritten. */
  detail(text: string): void {
    if (this.#out.isTTY) this.#rewrite(`${this.#step}  ${text}`)
  }

  /** Clears the line for what is written next. */
  done(): void {
    if (this.#out.isTTY) this.#out.write('\r\x1b[K')
  }

  #rewrite(text: string): void {
    this.#out.write(`\r\x1b[K${text.slice(0, (this.#out.columns || 80) - 1)}`)
  }
}
