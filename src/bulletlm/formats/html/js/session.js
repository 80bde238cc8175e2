/* Generates answers from prompts: the rules of runtime/session.py. */

import { PART_TOKENS } from "./engine.js";
import { BulletError } from "./errors.js";
import { seeded } from "./random.js";
import { TextStream } from "./stream.js";
import { END, EOS } from "./tokenizer.js";

/** Keeps the draws of generation apart from every other use of the same seed. */
const RANDOM_STREAM = 5;

/** Milliseconds that one call of the engine may take, so that a worker can receive messages in between. */
const STREAM_MILLISECONDS = 10;

const STOP_IDS = [END, EOS];

/** Let the program receive events. A timer would wait for 4 ms. */
const pause =
  typeof setImmediate === "function"
    ? () => new Promise((resolve) => setImmediate(resolve))
    : () =>
        new Promise((resolve) => {
          const { port1, port2 } = new MessageChannel();
          port1.onmessage = () => {
            port1.close();
            resolve();
          };
          port2.postMessage(null);
        });

/** One sequence with its keys and values. It generates one answer at a time. */
export class Session {
  /** Why the last answer ended: "stop" (a stop token or string), "length" (maxTokens) or "abort"; null while it has not ended. */
  finishReason = null;
  /** Tokens of the last prompt, and how many of them did not have to be read again. */
  promptTokens = 0;
  reusedTokens = 0;
  #engine;
  #tokenizer;
  #cache;
  #read = []; // the cache holds the first tokens of this list, which may be longer
  #busy = false;

  constructor(engine, tokenizer) {
    this.#engine = engine;
    this.#tokenizer = tokenizer;
    this.#cache = engine.newCache();
  }

  /** Free the memory of the keys and values. */
  close() {
    if (this.#cache) this.#engine.freeCache(this.#cache);
    this.#cache = 0;
  }

  /**
   * Continue `prompt` (token ids) token by token: yields { id, text }, the text in whole letters. `sampling` has every setting in
   * snake_case. When the context is full, the first `keep` tokens and the later half of the others stay.
   */
  async *generate(prompt, sampling, { stop = [], keep = 0, signal } = {}) {
    if (this.#busy) throw new BulletError("this session is generating another answer: wait for it, or use a session of its own");
    if (!this.#cache) throw new BulletError("this session is closed");
    if (!prompt.length) throw new BulletError("the prompt is empty: give the model at least one token to continue");
    if (stop.some((text) => !text)) throw new BulletError("a stop string is empty: leave it out");
    this.#busy = true;
    this.finishReason = null;
    this.promptTokens = prompt.length;
    let context = this.#shortened([...prompt], keep);
    this.reusedTokens = this.#inCommon(context);
    const history = prompt.filter((token) => !STOP_IDS.includes(token)); // a penalty on these would keep a chat from ending its turns
    const sampler = this.#engine.newSampler(sampling, seeded([sampling.seed, RANDOM_STREAM]), history);
    const text = new TextStream(this.#tokenizer, [...new Set([...stop, ...stop.map((text) => text.normalize("NFC"))])]); // models write NFC
    // `last` is held back until it is known whether it is the last token, because the last one gets the remaining text.
    let last = null;
    let left = sampling.max_tokens;
    let atOnce = 1;
    let paused = performance.now();
    try {
      for (let unread; (unread = this.#unread(context)).length > PART_TOKENS; ) {
        this.#engine.read(this.#cache, unread.slice(0, PART_TOKENS));
        await pause();
        if (signal?.aborted) return void (this.finishReason = "abort");
      }
      while (left) {
        context = this.#shortened(context, keep);
        const started = performance.now();
        const ids = this.#engine.generate(this.#cache, this.#unread(context), sampler, STOP_IDS, Math.min(atOnce, left));
        atOnce = performance.now() - started < STREAM_MILLISECONDS / 2 ? 2 * atOnce : Math.max(1, atOnce >> 1);
        context.push(...ids); // this is the same list as this.#read
        left -= ids.length;
        for (const id of ids) {
          if (STOP_IDS.includes(id)) {
            yield* this.#end("stop", last, text.finish());
            return;
          }
          const before = text.held.length;
          const part = text.add(id);
          if (text.stopped && part.length <= before) {
            // All of this token belongs to the stop string.
            yield* this.#end("stop", last, part);
            return;
          }
          if (last) yield last;
          last = { id, text: part };
          if (text.stopped) {
            yield* this.#end("stop", last, "");
            return;
          }
        }
        if (performance.now() - paused > STREAM_MILLISECONDS / 2) {
          await pause();
          paused = performance.now();
        }
        if (signal?.aborted) {
          yield* this.#end("abort", last, text.finish());
          return;
        }
      }
      yield* this.#end("length", last, text.finish());
    } finally {
      this.#engine.freeSampler(sampler);
      this.#busy = false;
    }
  }

  *#end(reason, last, text) {
    this.finishReason = reason;
    if (last) yield { id: last.id, text: last.text + text };
  }

  /** The number of tokens of `context` that are in the cache, without the last one, whose logits are needed. */
  #inCommon(context) {
    const most = Math.min(this.#engine.cacheLength(this.#cache), this.#read.length, context.length - 1);
    if (this.#read === context) return most;
    let same = 0;
    while (same < most && this.#read[same] === context[same]) same++;
    return same;
  }

  /** Shorten the cache to the prefix that it shares with `context`, and return the tokens that must be read. */
  #unread(context) {
    const reused = this.#inCommon(context);
    if (this.#engine.cacheLength(this.#cache) > reused) this.#engine.truncate(this.#cache, reused);
    this.#read = context;
    return context.slice(reused);
  }

  /** `context` if the model has room for it; else its first `keep` tokens and as many of the last as leave half free. */
  #shortened(context, keep) {
    const window = this.#engine.window;
    if (context.length <= window) return context;
    const kept = Math.min(keep, window >> 1);
    const recent = Math.max(1, (window - kept) >> 1);
    return [...context.slice(0, kept), ...context.slice(kept).slice(-recent)];
  }
}
