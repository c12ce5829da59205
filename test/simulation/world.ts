// Everything that a run shares: one clock, one seed, one list of what happened. Time passes only where somebody waits,
// and chance comes from the seed alone, so a run is the same every time it is run.

import type { Chance } from '../../src/core/types.ts'
import { seededChance } from '../support/chance.ts'
import { VirtualProcess, usualMachines } from '../support/virtual-postgres.ts'

/** Something that will happen outside of the process, unless it is cancelled. */
export interface Coming {
  cancelled: boolean
}

/** A run takes a few thousand. */
const MOST_STEPS = 1_000_000
/** So often somebody looks whether it is so. */
const LOOK_MS = 25

export class World {
  readonly seed: number
  /** The client's process and its event loop. */
  readonly process: VirtualProcess
  readonly trace: string[] = []
  /** The time of what happens outside of the process just now. */
  #happensAt: number | null = null
  #streams = 0

  constructor(seed: number) {
    this.seed = seed
    this.process = new VirtualProcess(usualMachines, this.newChance())
    this.process.mostSteps = MOST_STEPS
  }

  /** Milliseconds since the beginning. */
  get now(): number {
    return this.#happensAt ?? this.process.now()
  }

  /** Numbers of its own for each part, so that one more question here changes no answer there. */
  newChance(): Dice {
    return diceOf(seededChance(Math.imul(this.seed + 1, 0x9e3779b1) + this.#streams++ * 0x85ebca6b))
  }

  /** Outside of the process: on the network, at the server. */
  after(ms: number, run: () => void): Coming {
    const at = this.now + Math.max(0, ms)
    return this.process.outside.add(at, () => {
      this.#happensAt = at
      run()
      this.#happensAt = null
    })
  }

  /** Somebody in the process waits. */
  pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.process.setTimeout(resolve, ms))
  }

  /** Lets time pass until it is so; false: `ms` have passed and it is not. */
  async until(isSo: () => boolean, ms: number): Promise<boolean> {
    const end = this.process.now() + ms
    while (!isSo() && this.process.now() < end) await this.process.run(Math.min(end, this.process.now() + LOOK_MS))
    return isSo()
  }

  note(who: string, what: string): void {
    this.trace.push(`${this.now.toFixed(2).padStart(9)}  ${who.padEnd(10)} ${what}`)
  }
}

/** Chance in the ways in which it is asked for. */
export interface Dice extends Chance {
  between(least: number, most: number): number
  /** A whole number, both ends included. */
  whole(least: number, most: number): number
  /** With this probability. */
  happens(probability: number): boolean
  oneOf<T>(all: readonly T[]): T
}

export function diceOf(chance: Chance): Dice {
  const between = (least: number, most: number): number => least + (most - least) * chance()
  return Object.assign((): number => chance(), {
    between,
    whole: (least: number, most: number): number => Math.floor(between(least, most + 1)),
    happens: (probability: number): boolean => chance() < probability,
    oneOf: <T>(all: readonly T[]): T => all[Math.floor(chance() * all.length)]!,
  })
}
