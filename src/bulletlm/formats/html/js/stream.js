/* Text from tokens in whole letters: the rules of text/stream.py. */

import { isVirama } from "./normalize.js";

/**
 * Decodes tokens one by one. A letter is held back until the next one begins: a character may lack bytes, and a Devanagari letter may still
 * get a vowel sign, or a virama and another consonant. Text that may become a stop string is held back too.
 */
export class TextStream {
  /** Text that has not been returned yet. */
  held = "";
  /** Whether a stop string was found; no more text is returned then. */
  stopped = false;
  #tokenizer;
  #stop;
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(tokenizer, stop = []) {
    this.#tokenizer = tokenizer;
    this.#stop = stop;
  }

  /** Add one token; returns the text that is complete now, often "". */
  add(token) {
    const held = this.held + this.#decoder.decode(this.#tokenizer.tokenBytes(token), { stream: true });
    const found = this.#stop.map((stop) => held.indexOf(stop)).filter((at) => at >= 0);
    if (found.length) {
      this.stopped = true;
      this.held = "";
      return held.slice(0, Math.min(...found));
    }
    const limit = Math.min(held.length - 1, ...this.#stop.map((stop) => held.length - overlap(held, stop)));
    const start = letterAtOrBefore(held, limit);
    this.held = held.slice(start);
    return held.slice(0, start);
  }

  /** The text that is still held back at the end of the tokens. Bytes of a character that is not whole are left out. */
  finish() {
    const held = this.held;
    this.held = "";
    return held;
  }
}

/** How many characters at the end of `text` are the beginning of `stop`. */
function overlap(text, stop) {
  for (let n = Math.min(stop.length, text.length); n > 0; n--) if (text.endsWith(stop.slice(0, n))) return n;
  return 0;
}

/** The last position up to `limit` at which a letter begins. */
function letterAtOrBefore(text, limit) {
  for (let i = limit; i > 0; i--) {
    const [before, character] = [[...text.slice(Math.max(i - 2, 0), i)].pop(), [...text.slice(i, i + 2)][0]];
    const insidePair = /[\udc00-\udfff]/.test(text[i]) && /[\ud800-\udbff]/.test(text[i - 1]);
    if (!insidePair && beginsLetter(before, character)) return i;
  }
  return 0;
}

function beginsLetter(before, character) {
  if (/[\p{M}\u200c\u200d]/u.test(character) || before === "\u200d") return false;
  const joined = isVirama(before) && /\p{L}/u.test(character);
  return !joined && !(before === "\r" && character === "\n");
}
