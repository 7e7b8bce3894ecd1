/**
 * Whether the process stays awake for a moment after a chunk of requests. A client that asks one thing after another asks
 * again as soon as it is answered. On an idle machine to be put to sleep and woken up then takes several times as long as
 * a request; on a busy one it costs little, and who stays awake takes the processor from the client. Which of the two it
 * is shows in the time until the next chunk, which is kept for both ways: the better one is taken, and the other is tried now
 * and then.
 */

/** How long it stays awake after a chunk. */
const AWAKE_MS = 0.05;
/** A longer time until the next chunk says nothing: nobody asked. */
const GAP_MAX_MS = 5;
/** Of so many chunks, one in a row of `TRIED` takes the way that is worse so far. */
const ROUND = 64;
const TRIED = 4;
/** Share of a new gap in the mean. */
const NEW = 1 / 32;

/** The clock in milliseconds, and what runs `look` once the loop has looked for input. */
export interface Loop {
  now(): number;
  next(look: () => void): void;
}

export class Awake {
  readonly #loop: Loop;
  /** Mean time until the next chunk: asleep, awake. */
  readonly #meanMs: [number, number] = [0, 0];
  #way: 0 | 1 = 0;
  #chunks = 0;
  #doneAt = -Infinity;
  #until = 0;
  #looking = false;

  constructor(loop: Loop) {
    this.#loop = loop;
  }

  /** A chunk has come. */
  onChunk(): void {
    const gapMs = this.#loop.now() - this.#doneAt;
    if (gapMs > GAP_MAX_MS) return;
    const mean = this.#meanMs[this.#way];
    this.#meanMs[this.#way] = mean === 0 ? gapMs : mean + (gapMs - mean) * NEW;
  }

  /** What it caused was sent. */
  onDone(): void {
    const [asleep, awake] = this.#meanMs;
    const better = awake < asleep ? 1 : 0;
    this.#chunks = (this.#chunks + 1) % ROUND;
    this.#way = this.#chunks < TRIED ? (better === 1 ? 0 : 1) : better;
    this.#doneAt = this.#loop.now();
    if (this.#way === 0) this.#until = 0;
    else {
      this.#until = this.#doneAt + AWAKE_MS;
      if (!this.#looking) this.#look();
    }
  }

  #look(): void {
    this.#looking = true;
    this.#loop.next(() => {
      if (this.#loop.now() < this.#until) this.#look();
      else this.#looking = false;
    });
  }
}
