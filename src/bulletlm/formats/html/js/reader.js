/* Reads a .bullet file: every rule of docs/bullet-format.md is checked before a tensor is used, with the words of the Python reader. */

import { BulletError } from "./errors.js";
import { Real, parseHeader, plain, show } from "./json.js";

const ALIGNMENT = 64;
const HEADER_MAX_BYTES = 1 << 20;
const HEADER_END_BYTES = 4;
/** The SHA-256 of what comes before, and "END!". */
export const FOOTER_BYTES = 36;
const PIECES = "tokenizer.pieces";
const SENTENCEPIECE = "tokenizer.sentencepiece";

/** The largest file that is loaded: with its repacked weights and the cache it must fit into the 4 GB of WebAssembly. */
export const MAX_FILE_BYTES = 1 << 30;

const SHAPE_LIMITS = {
  vocab_size: 1 << 20,
  dim: 1 << 16,
  n_layers: 1 << 10,
  n_heads: 1 << 12,
  n_kv_heads: 1 << 12,
  hidden_dim: 1 << 18,
  max_seq_len: 1 << 20,
};

/** Weight type -> number in bullet.h, weights in a block, bytes of a block. */
const WEIGHT_TYPES = { BQ4: [0, 32, 18], BQ8: [1, 32, 34], F16: [2, 1, 2], F32: [3, 1, 4] };

/** Name -> whether it is a whole number, lowest and highest value. */
export const SAMPLING_LIMITS = {
  temperature: [false, 0, 10],
  top_k: [true, 0, 1 << 20],
  top_p: [false, 0, 1],
  min_p: [false, 0, 1],
  repetition_penalty: [false, 1e-6, 10],
  max_tokens: [true, 1, 1 << 20],
};

const METADATA_KINDS = {
  name: ["string", "text"],
  license: ["string", "text"],
  languages: ["list", "a list"],
  chat_template: ["string", "text"],
  sampling: ["object", "an object"],
  training: ["object", "an object"],
  quantised: ["object", "an object"],
  parents: ["list", "a list"],
};

export const NORMAL = 1;
export const BYTE = 6;
const UNKNOWN = 2;
const CONTROL = 3;
export const SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"];
const SPECIAL_NAMES = ["unk", "bos", "eos", "user", "assistant", "end"];

const aligned = (offset) => Math.ceil(offset / ALIGNMENT) * ALIGNMENT;
const kindOf = (value) => (value instanceof Map ? "object" : Array.isArray(value) ? "list" : typeof value);

/**
 * Check a file and find its parts.
 * Returns { header, shape, tensors: [{ type, offset, bytes }], pieces: [{ text, score, type }] }. Throws BulletError naming the field.
 */
export function readBullet(bytes) {
  const parsed = readHeader(bytes, bytes.length);
  checkPadding(bytes, parsed);
  return { ...parsed, pieces: readPieces(bytes, parsed) };
}

/**
 * Check the header of a file of `size` bytes. bytes: the beginning of the file, at least to the end of the header.
 * Returns { header, shape, special, tensors, sections, headerBytes }.
 */
export function readHeader(bytes, size) {
  if (size === 0) throw new BulletError("the file is empty");
  const start = latin1(bytes.subarray(0, 4096));
  if (!/^\{[ \t\r\n]*"bullet_version"[ \t\r\n]*:[ \t\r\n]*"2\./.test(start)) throw new BulletError(whatItIs(start));
  const length = endOfHeader(bytes);
  if (length < 0) throw new BulletError(`the header does not end: no four NUL bytes in its first ${HEADER_MAX_BYTES} bytes`);
  const values = parseHeader(bytes.subarray(0, length));
  const version = get(values, "bullet_version", "header");
  if (typeof version !== "string" || !/^2\.[0-9]{1,4}$/.test(version)) {
    throw new BulletError(`header.bullet_version is ${show(version)}: it must be "2." and a number`);
  }
  const architecture = get(values, "architecture", "header");
  if (architecture !== "llama") throw new BulletError(`header.architecture is ${show(architecture)}: only "llama" is known`);
  const shape = readShape(values);
  const special = readTokenizer(values, shape);
  const tensors = readTensors(values, shape);
  const sections = readSections(values);
  checkMetadata(values);

  const headerBytes = length + HEADER_END_BYTES;
  let end = headerBytes;
  for (const entry of [...tensors, ...sections]) {
    if (entry.offset !== aligned(end)) {
      throw new BulletError(`${entry.where}.offset is ${entry.offset}: it must be ${aligned(end)}, the first multiple of 64 after what comes before`);
    }
    end = entry.offset + entry.bytes;
  }
  const described = aligned(end) + FOOTER_BYTES;
  if (size !== described) {
    const state = size < described ? "it is cut short" : "something follows its end";
    throw new BulletError(`the file has ${size} bytes, but its header describes ${described}: ${state}`);
  }
  return { header: plain(values), shape, special, tensors, sections, headerBytes };
}

/** Check the bytes between the parts of a file, and its last four. */
export function checkPadding(bytes, { headerBytes, tensors, sections }) {
  let end = headerBytes;
  for (const entry of [...tensors, ...sections, { offset: bytes.length - FOOTER_BYTES, bytes: 0 }]) {
    if (bytes.subarray(end, entry.offset).some((byte) => byte !== 0)) {
      throw new BulletError(`the padding from byte ${end} to ${entry.offset} is not all zeros`);
    }
    end = entry.offset + entry.bytes;
  }
  if (latin1(bytes.subarray(-4)) !== "END!") throw new BulletError('the file does not end in "END!"');
}

/** The pieces of the tokenizer, [{ text, score, type }], in the order of their ids. */
export function readPieces(bytes, { shape, special, sections }) {
  const { offset, bytes: size } = sections.find((entry) => entry.name === PIECES);
  return decodePieces(bytes.subarray(offset, offset + size), shape.vocab_size, special);
}

/** Name and extents of every tensor, in the order of the file. */
function tensorShapes(shape) {
  const { vocab_size, dim, hidden_dim } = shape;
  const kv = (dim / shape.n_heads) * shape.n_kv_heads;
  const shapes = [["token_embedding.weight", [vocab_size, dim]]];
  for (let n = 0; n < shape.n_layers; n++) {
    const at = `layers.${n}.`;
    shapes.push(
      [at + "attention_norm.weight", [dim]],
      [at + "attention.q_proj.weight", [dim, dim]],
      [at + "attention.k_proj.weight", [kv, dim]],
      [at + "attention.v_proj.weight", [kv, dim]],
      [at + "attention.o_proj.weight", [dim, dim]],
      [at + "mlp_norm.weight", [dim]],
      [at + "mlp.gate_proj.weight", [hidden_dim, dim]],
      [at + "mlp.up_proj.weight", [hidden_dim, dim]],
      [at + "mlp.down_proj.weight", [dim, hidden_dim]],
    );
  }
  shapes.push(["final_norm.weight", [dim]]);
  if (!shape.tied_embeddings) shapes.push(["lm_head.weight", [vocab_size, dim]]);
  return shapes;
}

function readShape(values) {
  const fields = get(values, "shape", "header");
  if (!(fields instanceof Map)) throw new BulletError(`shape is ${show(fields)}: it must be an object`);
  const shape = {};
  for (const [name, limit] of Object.entries(SHAPE_LIMITS)) shape[name] = whole(fields, name, "shape", 1, limit);
  shape.tied_embeddings = get(fields, "tied_embeddings", "shape");
  if (typeof shape.tied_embeddings !== "boolean") {
    throw new BulletError(`shape.tied_embeddings is ${show(shape.tied_embeddings)}: it must be true or false`);
  }
  shape.rope_theta = real(fields, "rope_theta", "shape", 1e-6, 1e12);
  shape.norm_eps = real(fields, "norm_eps", "shape", 1e-30, 1);
  const { dim, hidden_dim, n_heads, n_kv_heads } = shape;
  if (dim % 32) throw new BulletError(`shape: dim ${dim} is not divisible by 32, the quantization block`);
  if (hidden_dim % 32) throw new BulletError(`shape: hidden_dim ${hidden_dim} is not divisible by 32`);
  if (dim % n_heads) throw new BulletError(`shape: dim ${dim} is not divisible by n_heads ${n_heads}`);
  if ((dim / n_heads) % 2) throw new BulletError(`shape: head_dim ${dim / n_heads} (dim / n_heads) is odd, but RoPE needs an even number`);
  if (n_heads % n_kv_heads) throw new BulletError(`shape: n_heads ${n_heads} is not divisible by n_kv_heads ${n_kv_heads}`);
  return shape;
}

function readTokenizer(values, shape) {
  const tokenizer = get(values, "tokenizer", "header");
  if (!(tokenizer instanceof Map)) throw new BulletError(`tokenizer is ${show(tokenizer)}: it must be an object`);
  const kind = get(tokenizer, "kind", "tokenizer");
  if (kind !== "sentencepiece-bpe") throw new BulletError(`tokenizer.kind is ${show(kind)}: only "sentencepiece-bpe" is known`);
  const special = get(tokenizer, "special", "tokenizer");
  if (!(special instanceof Map)) throw new BulletError(`tokenizer.special is ${show(special)}: it must be an object of ids`);
  const owner = new Map();
  for (const name of SPECIAL_NAMES) {
    if (!special.has(name) && !["unk", "bos", "eos"].includes(name)) continue;
    const id = whole(special, name, "tokenizer.special", 0, shape.vocab_size - 1);
    if (owner.has(id)) throw new BulletError(`tokenizer.special.${name} is ${id}, which tokenizer.special.${owner.get(id)} is already`);
    owner.set(id, name);
  }
  return owner;
}

function readTensors(values, shape) {
  const entries = list(values, "tensors");
  const names = uniqueNames(entries, "tensors");
  const expected = tensorShapes(shape);
  if (entries.length !== expected.length) {
    throw new BulletError(`tensors has ${entries.length} entries, but shape implies ${expected.length}`);
  }
  return entries.map((entry, i) => {
    const [name, extents] = expected[i];
    if (names[i] !== name) throw new BulletError(`tensors[${i}].name is ${show(names[i])}: shape implies "${name}" at this place`);
    const where = `tensors[${i}] (${name})`;
    const kind = get(entry, "type", where);
    if (typeof kind !== "string" || !Object.hasOwn(WEIGHT_TYPES, kind)) {
      throw new BulletError(`${where}.type is ${show(kind)}: it must be one of ${Object.keys(WEIGHT_TYPES).join(", ")}`);
    }
    if (extents.length === 1 && kind !== "F32") throw new BulletError(`${where}.type is "${kind}": norm gains must be F32`);
    const given = get(entry, "shape", where);
    const same = Array.isArray(given) && given.length === extents.length && given.every((extent, n) => extent === extents[n]);
    if (!same) throw new BulletError(`${where}.shape is ${show(given)}: shape implies [${extents.join(", ")}]`);
    const [type, block, blockBytes] = WEIGHT_TYPES[kind];
    const size = (extents.reduce((a, b) => a * b) / block) * blockBytes;
    const bytes = whole(entry, "bytes", where, 0, Infinity);
    if (bytes !== size) throw new BulletError(`${where}.bytes is ${bytes}: ${kind} of shape [${extents.join(", ")}] takes ${size}`);
    return { name, where, type, offset: whole(entry, "offset", where, 0, Infinity), bytes };
  });
}

function readSections(values) {
  const entries = list(values, "sections");
  const names = uniqueNames(entries, "sections");
  for (const needed of [PIECES, SENTENCEPIECE]) {
    if (!names.includes(needed)) throw new BulletError(`sections has no "${needed}", which every file needs`);
  }
  return entries.map((entry, i) => {
    const where = `sections[${i}]`;
    const [offset, bytes] = [whole(entry, "offset", where, 0, Infinity), whole(entry, "bytes", where, 1, Infinity)];
    return { name: names[i], where: `${where} (${show(names[i])})`, offset, bytes };
  });
}

function checkMetadata(values) {
  for (const [key, [kind, word]] of Object.entries(METADATA_KINDS)) {
    if (values.has(key) && kindOf(values.get(key)) !== kind) throw new BulletError(`${key} is ${show(values.get(key))}: it must be ${word}`);
  }
  (values.get("languages") ?? []).forEach((language, i) => {
    if (typeof language !== "string") throw new BulletError(`languages[${i}] is ${show(language)}: it must be text`);
  });
  const sampling = values.get("sampling") ?? new Map();
  for (const [key, [isWhole, low, high]] of Object.entries(SAMPLING_LIMITS)) {
    if (sampling.has(key)) (isWhole ? whole : real)(sampling, key, "sampling", low, high);
  }
}

/** The section tokenizer.pieces: u32 count, u32 ends[count], f32 scores[count], u8 types[count], UTF-8 text. */
function decodePieces(section, vocabSize, special) {
  const where = `section ${PIECES}`;
  const view = new DataView(section.buffer, section.byteOffset, section.byteLength);
  if (section.length < 4) throw new BulletError(`${where}: ${section.length} bytes cannot hold the number of pieces`);
  const count = view.getUint32(0, true);
  if (count !== vocabSize) throw new BulletError(`${where}: count is ${count}, but shape.vocab_size is ${vocabSize}`);
  const texts = 4 + 9 * count;
  if (section.length < texts) throw new BulletError(`${where}: ${section.length} bytes cannot hold ${count} pieces`);
  const size = section.length - texts;
  const last = view.getUint32(4 * count, true);
  if (last !== size) throw new BulletError(`${where}: the last of ends is ${last}, but the text has ${size} bytes`);
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const pieces = [];
  const first = new Map();
  const bytePieces = new Set();
  let unknown = 0;
  for (let i = 0, start = 0; i < count; i++) {
    const end = view.getUint32(4 + 4 * i, true);
    const score = view.getFloat32(4 + 4 * count + 4 * i, true);
    const type = section[4 + 8 * count + i];
    if (end <= start) throw new BulletError(`${where}: ends[${i}] is not above the end before it`);
    if (!Number.isFinite(score)) throw new BulletError(`${where}: scores[${i}] is NaN or infinite`);
    if (![NORMAL, UNKNOWN, CONTROL, BYTE].includes(type)) throw new BulletError(`${where}: types[${i}] is ${type}, which is not a piece type`);
    if (end > size) throw new BulletError(`${where}: ends[${i + 1 < count ? i + 1 : i}] is not above the end before it`);
    let text;
    try {
      text = decoder.decode(section.subarray(texts + start, texts + end));
    } catch {
      throw new BulletError(`${where}: the text of piece ${i} is not UTF-8`);
    }
    if (first.has(text)) throw new BulletError(`${where}: piece ${i} has the same text as piece ${first.get(text)}`);
    first.set(text, i);
    if (type === UNKNOWN) unknown++;
    if (type === BYTE) bytePieces.add(text);
    pieces.push({ text, score, type });
    start = end;
  }
  if (unknown !== 1) throw new BulletError(`${where}: ${unknown} pieces are of type ${UNKNOWN} (unknown), and there must be one`);
  const wanted = Array.from({ length: 256 }, (_, byte) => byteText(byte));
  const missing = wanted.find((text) => !bytePieces.has(text));
  const extra = [...bytePieces].find((text) => !wanted.includes(text));
  if (missing ?? extra) {
    const state = missing ? "missing" : "extra";
    throw new BulletError(`${where}: the pieces of type ${BYTE} (byte) must be <0x00> to <0xFF>, and ${show(missing ?? extra)} is ${state}`);
  }
  for (const [id, name] of special) {
    const kind = name === "unk" ? UNKNOWN : CONTROL;
    const text = SPECIAL_TOKENS[SPECIAL_NAMES.indexOf(name)];
    if (pieces[id].type !== kind) {
      throw new BulletError(`tokenizer.special.${name} is ${id}, but piece ${id} is of type ${pieces[id].type}, not ${kind}`);
    }
    if (pieces[id].text !== text) {
      throw new BulletError(`tokenizer.special.${name} is ${id}, but piece ${id} is ${show(pieces[id].text)}, not ${show(text)}`);
    }
  }
  [...SPECIAL_TOKENS, ...wanted].forEach((text, i) => {
    if (pieces[i]?.text !== text) throw new BulletError(`the tokenizer is not one of BulletLM: token ${i} should be ${text}`);
  });
  return pieces;
}

function byteText(byte) {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

function endOfHeader(bytes) {
  const limit = Math.min(bytes.length - 4, HEADER_MAX_BYTES);
  for (let at = bytes.indexOf(0); at >= 0 && at <= limit; at = bytes.indexOf(0, at + 1)) {
    if (!bytes[at + 1] && !bytes[at + 2] && !bytes[at + 3]) return at;
  }
  return -1;
}

function whatItIs(start) {
  if (/"bullet_version"[ \t\r\n]*:[ \t\r\n]*"?1\b/.test(start) || start.startsWith("BQ4F")) {
    return "this is a version 1 file: convert it with bullet convert OLD NEW";
  }
  if (start.startsWith("GGUF")) return "this is a GGUF file, not a .bullet: convert it with bullet convert FILE.gguf NEW.bullet";
  if (start.startsWith("{")) return 'the header must begin with {"bullet_version": "2.x": this is not a .bullet file of version 2';
  return 'this is not a .bullet file: it does not begin with {"bullet_version"';
}

function latin1(bytes) {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

function get(holder, key, where) {
  if (!holder.has(key)) throw new BulletError(`${where}.${key} is missing`);
  return holder.get(key);
}

function list(holder, key) {
  const value = get(holder, key, "header");
  if (!Array.isArray(value)) throw new BulletError(`header.${key} is ${show(value)}: it must be a list`);
  value.forEach((entry, i) => {
    if (!(entry instanceof Map)) throw new BulletError(`${key}[${i}] is ${show(entry)}: it must be an object`);
  });
  return value;
}

function uniqueNames(entries, where) {
  const first = new Map();
  return entries.map((entry, i) => {
    const name = get(entry, "name", `${where}[${i}]`);
    if (typeof name !== "string") throw new BulletError(`${where}[${i}].name is ${show(name)}: it must be text`);
    if (first.has(name)) throw new BulletError(`${where}[${i}].name is ${show(name)}, which ${where}[${first.get(name)}] is already`);
    first.set(name, i);
    return name;
  });
}

function whole(holder, key, where, low, high) {
  const value = get(holder, key, where);
  if (typeof value !== "number") throw new BulletError(`${where}.${key} is ${show(value)}: it must be a whole number`);
  if (value < low || value > high) {
    throw new BulletError(`${where}.${key} is ${value}: it must be ${low} or more` + (high < Infinity ? ` and at most ${high}` : ""));
  }
  return value;
}

function real(holder, key, where, low, high) {
  const given = get(holder, key, where);
  const value = given instanceof Real ? given.value : given;
  if (typeof value !== "number" || !(value >= low && value <= high)) {
    throw new BulletError(`${where}.${key} is ${show(given)}: it must be a number from ${low} to ${high}`);
  }
  return value;
}
