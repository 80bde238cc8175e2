/* The library's interface: load a model, generate text with it. docs/browser.md has an example. */

import { chatPrompt, textPrompt } from "./chat.js";
import { Engine, hasSimd } from "./engine.js";
import { BulletError } from "./errors.js";
import { FOOTER_BYTES, MAX_FILE_BYTES, SAMPLING_LIMITS, readBullet } from "./reader.js";
import { Session } from "./session.js";
import { Tokenizer } from "./tokenizer.js";

/** The two modules as base64, { simd, scalar }; the build puts them here. */
const EMBEDDED_WASM = null;

/** The settings of a model whose file does not have them. */
const DEFAULTS = {
  temperature: 0.7,
  top_k: 40,
  top_p: 0.95,
  min_p: 0.05,
  repetition_penalty: 1.1,
  max_tokens: 96,
  seed: 0,
  presence_penalty: 0,
  frequency_penalty: 0,
};

/** Option of `generate` -> setting in the file. */
const SETTINGS = {
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  repetitionPenalty: "repetition_penalty",
  presencePenalty: "presence_penalty",
  frequencyPenalty: "frequency_penalty",
  maxTokens: "max_tokens",
  seed: "seed",
};

const LIMITS = { ...SAMPLING_LIMITS, seed: [true, 0, Number.MAX_SAFE_INTEGER], presence_penalty: [false, -2, 2], frequency_penalty: [false, -2, 2] };

/**
 * Load a .bullet file. Throws BulletError with one line that says what is wrong with it.
 *
 * model: its bytes, an ArrayBuffer or Uint8Array. options: verify compares the checksum (default false); simd and turbo choose the kernels;
 * wasm is { simd, scalar }, the bytes of the modules, for a build without them.
 */
export async function load(model, { verify = false, turbo = false, simd = hasSimd(), kernels, wasm = EMBEDDED_WASM } = {}) {
  if (!(model instanceof ArrayBuffer) && !ArrayBuffer.isView(model)) {
    throw new BulletError("the model must be an ArrayBuffer or a Uint8Array with the bytes of a .bullet file");
  }
  if (!wasm) throw new BulletError("this build of bulletlm has no engine: give its two modules as the option wasm");
  const file = model instanceof ArrayBuffer ? new Uint8Array(model) : new Uint8Array(model.buffer, model.byteOffset, model.byteLength);
  if (file.length > MAX_FILE_BYTES) throw new BulletError(`the file has ${file.length} bytes: a browser can load at most ${MAX_FILE_BYTES}`);
  const parsed = readBullet(file);
  const engine = await Engine.create(moduleBytes(wasm, simd));
  engine.newFile(file.length);
  engine.file.set(file);
  await loadFile(engine, parsed, { verify, kernels, turbo });
  return new Model(parsed, new Tokenizer(parsed.pieces), engine);
}

/** The bytes of one of the two modules. */
export function moduleBytes(wasm = EMBEDDED_WASM, simd = hasSimd()) {
  const module = simd ? wasm.simd : wasm.scalar;
  return typeof module === "string" ? bytesOfBase64(module) : module;
}

/** Load the model from the file that the engine holds. With `verify`, an error says first whether the checksum fits. */
export async function loadFile(engine, parsed, { verify, ...options }) {
  if (!verify) return engine.load(parsed, options);
  const [length, footer] = [engine.file.length - FOOTER_BYTES, engine.file.slice(-FOOTER_BYTES)];
  // The browser computes the checksum while the engine loads. It has no `subtle` in pages over plain HTTP; there the engine computes it.
  const subtle = globalThis.crypto?.subtle?.digest("SHA-256", engine.file.subarray(0, length));
  const digest = subtle ?? engine.sha256(length).buffer;
  try {
    engine.load(parsed, options);
  } finally {
    checkDigest(new Uint8Array(await digest), footer);
  }
}

/** A loaded model. */
export class Model {
  #engine;
  #tokenizer;
  #session;

  constructor({ header, shape }, tokenizer, engine) {
    this.#engine = engine;
    this.#tokenizer = tokenizer;
    /** The header of the file: name, license, languages, training ... */
    this.header = header;
    /** Sizes of the model: vocab_size, dim, n_layers ... */
    this.shape = shape;
    /** The default settings of generate, with the file's own. */
    this.sampling = { ...DEFAULTS };
    for (const name of Object.keys(SAMPLING_LIMITS)) if (header.sampling?.[name] !== undefined) this.sampling[name] = header.sampling[name];
    /** The instruction set that computes: "simd128" or "portable". */
    this.kernels = engine.kernels;
  }

  /** Bytes of the memory of WebAssembly: weights, cache and scratch memory. */
  get memoryBytes() {
    return this.#engine.memoryBytes;
  }

  /** Token ids of a text. Text that looks like a special token stays text. */
  tokenize(text) {
    return this.#tokenizer.encode(text);
  }

  /** The text of token ids. */
  detokenize(ids) {
    this.#checkIds(ids);
    return this.#tokenizer.decode(ids);
  }

  /** The prompt of messages [{ role, content }] or of a text: { ids, keep, omittedMessages, omittedTokens }. */
  prompt(input, maxTokens = this.sampling.max_tokens) {
    const make = typeof input === "string" ? textPrompt : chatPrompt;
    return make(this.#tokenizer, this.shape.max_seq_len, input, maxTokens);
  }

  /** Logits after the last of `ids`, or after each of them, as a Float32Array. */
  logits(ids, all = false) {
    this.#checkIds(ids);
    const cache = this.#engine.newCache();
    try {
      return this.#engine.forward(cache, ids, all);
    } finally {
      this.#engine.freeCache(cache);
    }
  }

  /** A sequence of its own, for several conversations at once. */
  newSession() {
    return new Session(this.#engine, this.#tokenizer);
  }

  /**
   * Generate an answer to messages [{ role, content }], continue a text, or continue token ids: an async iterator of { id, text }.
   * Leave the loop or abort `signal` to stop. Settings that are left out come from the file.
   */
  async *generate(input, { stop, signal, session, keep, ...settings } = {}) {
    const sampling = this.#settings(settings);
    let prompt;
    if (typeof input !== "string" && typeof input[0] === "number") {
      this.#checkIds(input);
      prompt = { ids: input, keep: keep ?? Math.min(input.length, this.shape.max_seq_len >> 2) };
    } else {
      prompt = this.prompt(input, sampling.max_tokens);
    }
    session ??= this.#session ??= this.newSession();
    yield* session.generate(prompt.ids, sampling, { stop, signal, keep: keep ?? prompt.keep });
  }

  /** Free the memory of the model. Its own session cannot be used after this; close other sessions first. */
  close() {
    this.#session?.close();
    this.#engine.freeModel();
  }

  #settings(given) {
    const sampling = { ...this.sampling };
    for (const [option, value] of Object.entries(given)) {
      const name = Object.hasOwn(SETTINGS, option) ? SETTINGS[option] : undefined;
      if (!name) throw new BulletError(`there is no option ${option}`);
      if (value === undefined) continue;
      const [isWhole, low, high] = LIMITS[name];
      if (typeof value !== "number" || !(value >= low && value <= high) || (isWhole && !Number.isInteger(value))) {
        throw new BulletError(`${option} is ${value}: it must be ${isWhole ? "whole, " : ""}from ${low} to ${high}`);
      }
      sampling[name] = value;
    }
    return sampling;
  }

  #checkIds(ids) {
    const last = this.shape.vocab_size - 1;
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id > last) throw new BulletError(`token ids must be from 0 to ${last}, and this is ${id}`);
    }
  }
}

function checkDigest(digest, footer) {
  if (!digest.every((byte, i) => byte === footer[i])) {
    throw new BulletError("the checksum does not fit: the model was damaged or changed after it was written");
  }
}

function bytesOfBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
