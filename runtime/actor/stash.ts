// Messages that an actor put aside to handle later. They have given their room in the mailbox back, so the stash has its own bound.
import type { Letter } from './envelope.js'
import { ActorError } from './errors.js'
import { Queue } from './queue.js'

/** The life number of a letter that holds no credit. */
export const noCredit = -1

export class Stash {
  private held: Letter[] = []
  private readonly returned = new Queue<Letter>()

  constructor(
    private readonly path: string,
    private readonly limit: number,
  ) {}

  get size(): number {
    return this.held.length + this.returned.size
  }

  /** Messages that are back in turn. */
  get waiting(): number {
    return this.returned.size
  }

  /** Puts a letter aside. Throws `MAILBOX_FULL`. */
  hold(letter: Letter): void {
    if (this.size >= this.limit) {
      throw new ActorError(
        'MAILBOX_FULL',
        `stash: ${this.path}, expected at most ${this.limit} messages, got one more`,
        {
          actor: this.path,
          limit: this.limit,
        },
      )
    }
    this.held.push({ ...letter, life: noCredit })
  }

  /** Puts all that is held before everything that waits, in the order in which it was stashed. */
  unstash(): void {
    const before = this.held
    this.held = []
    for (let letter = this.returned.shift(); letter; letter = this.returned.shift()) before.push(letter)
    for (const letter of before) this.returned.push(letter)
  }

  take(): Letter | undefined {
    return this.returned.shift()
  }

  remove(matches: (letter: Letter) => boolean): void {
    this.held = this.held.filter((letter) => !matches(letter))
    this.returned.remove(matches)
  }

  /** Empties it. */
  drain(): Letter[] {
    this.unstash()
    const letters: Letter[] = []
    for (let letter = this.returned.shift(); letter; letter = this.returned.shift()) letters.push(letter)
    return letters
  }
}
