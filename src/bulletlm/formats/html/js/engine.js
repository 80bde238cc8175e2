/* Calls the C engine, compiled to WebAssembly; it mirrors runtime/native/bullet.h, as runtime/native.py does. */

import { BulletError } from "./errors.js";

const TOKEN = -1;
const FULL = -2;
const MEMORY = -3;
const NAN = -6;

/** Size of struct bullet_shape, bullet_tensor and bullet_sampler with 32-bit pointers, and of the recent tokens in the last. */
const SHAPE_BYTES = 48;
const TENSOR_BYTES = 24;
const SAMPLER_BYTES = 368;
const RECENT = 64;

/** Room for the name of the kernels. */
const NAME_BYTES = 64;

const SHAPE_FIELDS = ["vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len"];

/** The best number of tokens per call for a long prompt. */
export const PART_TOKENS = 192;

/** Whether this browser has 128-bit vectors: a module with one function that makes a vector and drops it. */
export function hasSimd() {
  const code = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11];
  return WebAssembly.validate(Uint8Array.from(code));
}

/** A model in the memory of WebAssembly. */
export class Engine {
  #c;
  #file = null; // its place and size
  #model = 0;
  #vocabSize;

  /** An engine without a model. wasm: the bytes of the module. */
  static async create(wasm) {
    return new Engine(await WebAssembly.compile(wasm));
  }

  /** module: a compiled WebAssembly.Module. */
  constructor(module) {
    this.#c = new WebAssembly.Instance(module).exports;
  }

  /** Bytes of the memory of WebAssembly. It never shrinks. */
  get memoryBytes() {
    return this.#c.memory.buffer.byteLength;
  }

  kernelNames() {
    const names = [];
    for (let name; (name = this.#c.bullet_kernels(names.length)); ) names.push(this.#text(name));
    return names;
  }

  newCache() {
    return this.#output((out) => this.#c.bullet_cache_new(this.#model, BigInt(this.window), out));
  }

  freeCache(cache) {
    this.#c.bullet_cache_free(cache);
  }

  freeModel() {
    this.#c.bullet_model_free(this.#model);
    this.#model = 0;
  }

  cacheLength(cache) {
    return Number(this.#c.bullet_cache_length(cache));
  }

  truncate(cache, length) {
    this.#check(this.#c.bullet_cache_truncate(cache, BigInt(length)));
  }

  /** Append tokens to the sequence in a cache; returns the logits after the last one, or after each one, as a Float32Array. */
  forward(cache, tokens, all = false) {
    const count = this.#vocabSize * (all ? tokens.length : 1);
    return this.#scratch([4 * tokens.length, 4 * count], ([ids, logits]) => {
      this.#integers(ids, tokens);
      this.#check(this.#call(() => this.#c.bullet_forward(cache, ids, BigInt(tokens.length), Number(all), 1, logits)));
      return new Float32Array(this.#c.memory.buffer, logits, count).slice();
    });
  }

  /** Append tokens, without their logits. */
  read(cache, tokens) {
    this.#scratch([4 * tokens.length, 4 * this.#vocabSize], ([ids, logits]) => {
      this.#integers(ids, tokens);
      this.#check(this.#call(() => this.#c.bullet_forward(cache, ids, BigInt(tokens.length), 0, 1, logits)));
    });
  }

  /** Append tokens, then sample up to `count`; returns their ids. It ends early after one of `stops`, which is included. */
  generate(cache, tokens, sampler, stops, count) {
    return this.#scratch([4 * tokens.length, 4 * stops.length, 4 * count], ([ids, stopIds, out]) => {
      this.#integers(ids, tokens);
      this.#integers(stopIds, stops);
      const [n, nStops] = [BigInt(tokens.length), BigInt(stops.length)];
      const written = Number(this.#call(() => this.#c.bullet_generate(cache, ids, n, sampler, stopIds, nStops, 1, out, BigInt(count))));
      this.#check(written);
      return Array.from(new Int32Array(this.#c.memory.buffer, out, written));
    });
  }

  /** A sampler with these settings (snake_case, as in the file); `state` and `step` are those of PCG64, `history` the earlier tokens. */
  newSampler(settings, [state, step], history) {
    const sampler = this.#malloc(SAMPLER_BYTES);
    this.#bytes(sampler, SAMPLER_BYTES).fill(0);
    const view = new DataView(this.#c.memory.buffer, sampler, SAMPLER_BYTES);
    const names = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"];
    names.forEach((name, i) => view.setFloat64(8 + 8 * i, settings[name], true));
    const halves = [state, step].flatMap((number) => [number >> 64n, number & 0xffffffffffffffffn]);
    halves.forEach((half, i) => view.setBigUint64(56 + 8 * i, half, true));
    const recent = history.slice(-RECENT);
    view.setInt32(88, settings.top_k, true);
    view.setInt32(92, recent.length, true);
    recent.forEach((token, i) => view.setInt32(96 + 4 * i, token, true));
    return sampler;
  }

  freeSampler(sampler) {
    this.#c.free(sampler);
  }

  /** Memory for a model file of `size` bytes, which `load` reads. */
  newFile(size) {
    this.#file = { at: this.#malloc(size), size };
  }

  /** The model file. It is a new array after each call that may allocate memory, because the old one is empty then. */
  get file() {
    return this.#bytes(this.#file.at, this.#file.size);
  }

  /** Write a text in base 85 to the file, to the bytes from `start` to before `end`. Returns the end of what it wrote, or -1 if it is wrong. */
  writeBase85(text, start, end) {
    return this.#scratch([text.length], ([at]) => {
      const { read, written } = new TextEncoder().encodeInto(text, this.#bytes(at, text.length));
      if (read < text.length) return -1; // other characters than ASCII
      const bytes = this.#c.bullet_base85(at, written, this.#file.at + start, end - start);
      return bytes < 0 ? -1 : start + bytes;
    });
  }

  /** The SHA-256 of the first `length` bytes of the file. */
  sha256(length) {
    return this.#scratch([32], ([out]) => {
      this.#c.bullet_sha256(this.#file.at, length, out);
      return this.#bytes(out, 32).slice();
    });
  }

  /**
   * Load the model from the file, which is freed then. parsed: what readBullet returned for it.
   * kernels: one of kernelNames(), by default the fastest. turbo: activations of 8 bits.
   */
  load({ shape, tensors }, { kernels, turbo = false } = {}) {
    this.#vocabSize = shape.vocab_size;
    this.window = shape.max_seq_len;
    try {
      this.#scratch([SHAPE_BYTES, TENSOR_BYTES * tensors.length, NAME_BYTES], ([shapeAt, rows, nameAt]) => {
        const view = new DataView(this.#c.memory.buffer);
        SHAPE_FIELDS.forEach((name, i) => view.setInt32(shapeAt + 4 * i, shape[name], true));
        view.setInt32(shapeAt + 28, Number(shape.tied_embeddings), true);
        view.setFloat64(shapeAt + 32, shape.rope_theta, true);
        view.setFloat64(shapeAt + 40, shape.norm_eps, true);
        tensors.forEach(({ type, offset, bytes }, i) => {
          const at = rows + TENSOR_BYTES * i;
          view.setUint32(at, this.#file.at + offset, true);
          view.setBigUint64(at + 8, BigInt(bytes), true);
          view.setInt32(at + 16, type, true);
          view.setInt32(at + 20, 0, true);
        });
        this.kernels = kernels ?? this.kernelNames()[0];
        if (!this.kernelNames().includes(this.kernels)) throw new BulletError(`there are no kernels ${this.kernels} here`);
        this.#bytes(nameAt, NAME_BYTES).fill(0).set(new TextEncoder().encode(this.kernels));
        this.#model = this.#output((out) => {
          const result = this.#call(() => this.#c.bullet_model_new(shapeAt, rows, tensors.length, nameAt, Number(turbo), out));
          if (result === NAN) throw new BulletError("a weight of this model is NaN or infinite: the file is damaged");
          return result;
        });
      });
    } finally {
      this.#c.free(this.#file.at);
      this.#file = null;
    }
  }

  /** The pointer that a call writes to `out`. */
  #output(call) {
    return this.#scratch([4], ([out]) => {
      this.#check(call(out));
      return new DataView(this.#c.memory.buffer).getUint32(out, true);
    });
  }

  #scratch(sizes, use) {
    const memory = [];
    try {
      for (const size of sizes) memory.push(this.#malloc(size));
      return use(memory);
    } finally {
      memory.forEach((at) => this.#c.free(at));
    }
  }

  #malloc(bytes) {
    const memory = this.#c.malloc(Math.max(bytes, 1)) >>> 0;
    if (!memory) this.#check(MEMORY);
    return memory;
  }

  #bytes(at, length) {
    return new Uint8Array(this.#c.memory.buffer, at, length);
  }

  #integers(at, values) {
    new Int32Array(this.#c.memory.buffer, at, values.length).set(values);
  }

  #text(at) {
    const bytes = new Uint8Array(this.#c.memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  /** A trap, such as a division by zero, must reach the user as one line. */
  #call(call) {
    try {
      return call();
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      throw new BulletError(`the engine stopped (${error.message}): the model is damaged`);
    }
  }

  #check(result) {
    if (result >= 0) return;
    if (result === MEMORY) throw new BulletError("there is not enough memory for this model");
    if (result === NAN) throw new BulletError("the model's output is not a number: its weights are damaged");
    if (result === TOKEN) throw new BulletError(`token ids must be from 0 to ${this.#vocabSize - 1}, and at least one`);
    if (result === FULL) throw new BulletError(`the tokens do not fit into a context of ${this.window}`);
    throw new BulletError(`the engine refused its arguments (${result})`);
  }
}
