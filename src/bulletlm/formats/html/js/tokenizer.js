/* The tokenizer: byte pair encoding with the pieces of a model file, the same ids as text/bpe.py gives. */

import { BulletError } from "./errors.js";
import { hasLoneSurrogate } from "./json.js";
import { BYTE, NORMAL, SPECIAL_TOKENS } from "./reader.js";

export const BOS = 1;
export const EOS = 2;
export const USER = 3;
export const ASSISTANT = 4;
export const END = 5;
const FIRST_BYTE = SPECIAL_TOKENS.length;

/** A piece writes a space as this character, so the character itself is written as its bytes. */
const SPACE_MARK = "\u2581";

export class Tokenizer {
  #ids = new Map();
  #scores;
  #pieces;
  #bytes = []; // of the tokens that were needed
  #byWords = true;
  #encoder = new TextEncoder();

  /** pieces: [{ text, score, type }] in the order of the ids, as readBullet returns them. */
  constructor(pieces) {
    this.vocabSize = pieces.length;
    this.#scores = Float32Array.from(pieces, (piece) => piece.score);
    this.#pieces = pieces;
    pieces.forEach(({ text, type }, i) => {
      if (type !== NORMAL) return;
      this.#ids.set(text, i);
      // If spaces occur only at the beginning of pieces, each word can be encoded separately.
      if (text.includes(SPACE_MARK, 1)) this.#byWords = false;
    });
  }

  /** Token ids of a text, without special tokens. Text that looks like a special token ("<|user|>") stays text. */
  encode(text) {
    if (hasLoneSurrogate(text)) throw new BulletError("the text holds half of a surrogate pair, which no encoding can store: remove it");
    const ids = [];
    text.split(SPACE_MARK).forEach((part, n) => {
      if (n) this.#spell(SPACE_MARK, ids);
      const words = this.#byWords ? part.split(" ") : [part.replaceAll(" ", SPACE_MARK)];
      words.forEach((word, i) => {
        for (const symbol of this.#join([...(i ? SPACE_MARK + word : word)])) {
          const id = this.#ids.get(symbol);
          if (id === undefined) this.#spell(symbol, ids);
          else ids.push(id);
        }
      });
    });
    return ids;
  }

  /** The UTF-8 bytes of one token, which may begin or end inside a character. Special tokens have none. */
  tokenBytes(id) {
    return (this.#bytes[id] ??= this.#bytesOf(id));
  }

  /** The text of tokens; bytes that are not a whole character become U+FFFD. */
  decode(ids) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    let text = "";
    for (const id of ids) text += decoder.decode(this.tokenBytes(id), { stream: true });
    return text + decoder.decode();
  }

  #bytesOf(id) {
    const { text, type } = this.#pieces[id];
    if (type === BYTE) return Uint8Array.of(id - FIRST_BYTE);
    return type === NORMAL ? this.#encoder.encode(text.replaceAll(SPACE_MARK, " ")) : new Uint8Array();
  }

  #spell(symbol, ids) {
    for (const byte of this.#encoder.encode(symbol)) ids.push(FIRST_BYTE + byte);
  }

  /** Merge characters to pieces, the pair with the highest score first, the leftmost of equal pairs; n log n steps. */
  #join(symbols) {
    const count = symbols.length;
    const before = symbols.map((_, i) => i - 1);
    const after = symbols.map((_, i) => i + 1);
    const heap = [];
    const isBefore = (a, b) => a.score > b.score || (a.score === b.score && a.left < b.left);
    const propose = (left, right) => {
      if (left < 0 || right >= count) return;
      const pair = symbols[left] + symbols[right];
      const id = this.#ids.get(pair);
      if (id !== undefined) push(heap, { score: this.#scores[id], left, pair }, isBefore);
    };
    for (let left = 0; left + 1 < count; left++) propose(left, left + 1);
    while (heap.length) {
      const { left, pair } = pop(heap, isBefore);
      const right = after[left];
      // One of the two may have been merged with another symbol.
      if (!symbols[left] || right >= count || symbols[left] + symbols[right] !== pair) continue;
      symbols[left] = pair;
      symbols[right] = "";
      after[left] = after[right];
      if (after[left] < count) before[after[left]] = left;
      propose(before[left], left);
      propose(left, after[left]);
    }
    return symbols.filter((symbol) => symbol);
  }
}

function push(heap, item, isBefore) {
  let i = heap.push(item) - 1;
  for (let parent; i > 0 && isBefore(item, heap[(parent = (i - 1) >> 1)]); i = parent) heap[i] = heap[parent];
  heap[i] = item;
}

function pop(heap, isBefore) {
  const top = heap[0];
  const item = heap.pop();
  if (!heap.length) return top;
  let i = 0;
  for (let child; (child = 2 * i + 1) < heap.length; i = child) {
    if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child++;
    if (!isBefore(heap[child], item)) break;
    heap[i] = heap[child];
  }
  heap[i] = item;
  return top;
}
