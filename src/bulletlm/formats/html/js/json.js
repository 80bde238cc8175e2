/* A strict parser for the header of a model file, which may come from anyone: rules J1 to J6 of docs/bullet-format.md. JSON.parse accepts a
 * key twice, cannot tell 1 from 1.0, and rounds large numbers. */

import { BulletError } from "./errors.js";

const MAX_DEPTH = 32;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PART_OF_STRING = /[^"\\]*/y;
const SPACE = /[ \t\r\n]*/y;
const WORD = /true|false|null/y;
const WORDS = { true: true, false: false, null: null };

/** A number that was written with a fraction or an exponent. */
export class Real {
  constructor(value) {
    this.value = value;
  }
}

/**
 * Parse a JSON object. Objects become Maps; whole numbers become numbers, and others become Real.
 * Throws BulletError for everything that the format forbids.
 */
export function parseHeader(bytes) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BulletError("the header is not UTF-8");
  }
  let at = 0;

  function fail(what) {
    throw new BulletError(`the header is not valid JSON: ${what} at character ${at}`);
  }
  function match(pattern) {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at = pattern.lastIndex;
    return found;
  }
  function readString() {
    if (text[at] !== '"') fail("no text");
    const start = at++;
    for (match(PART_OF_STRING); text[at] === "\\"; match(PART_OF_STRING)) at += 2;
    at++;
    let value;
    try {
      value = JSON.parse(text.slice(start, at));
    } catch {
      fail("no valid text");
    }
    if (hasLoneSurrogate(value)) throw new BulletError("the header holds half of a surrogate pair");
    return value;
  }
  function readNumber(found) {
    const value = Number(found[0]);
    if (!Number.isFinite(value)) throw new BulletError("a number in the header is too large");
    if (found[1] !== undefined || found[2] !== undefined) return new Real(value);
    const whole = BigInt(found[0]);
    if (BigInt.asIntN(64, whole) !== whole) throw new BulletError("a whole number in the header does not fit into 64 bits");
    return value;
  }
  function readItems(close, depth, readItem) {
    if (depth === 0) throw new BulletError(`the header is nested deeper than ${MAX_DEPTH}`);
    at++;
    match(SPACE);
    if (text[at] === close) return void at++;
    for (;;) {
      readItem();
      match(SPACE);
      if (text[at] === close) return void at++;
      if (text[at] !== ",") fail("no comma");
      at++;
      match(SPACE);
    }
  }
  function readValue(depth) {
    match(SPACE);
    if (text[at] === "{") {
      const object = new Map();
      readItems("}", depth, () => {
        const key = readString();
        if (object.has(key)) throw new BulletError(`the key ${show(key)} is given twice in one object of the header`);
        match(SPACE);
        if (text[at] !== ":") fail("no colon");
        at++;
        object.set(key, readValue(depth - 1));
      });
      return object;
    }
    if (text[at] === "[") {
      const list = [];
      readItems("]", depth, () => list.push(readValue(depth - 1)));
      return list;
    }
    if (text[at] === '"') return readString();
    const word = match(WORD);
    if (word) return WORDS[word[0]];
    const number = match(NUMBER);
    return number ? readNumber(number) : fail("no value");
  }

  const value = readValue(MAX_DEPTH);
  match(SPACE);
  if (at !== text.length) fail("something follows");
  if (!(value instanceof Map)) throw new BulletError("the header must be a JSON object");
  return value;
}

/** Whether a text holds half of a surrogate pair. */
export function hasLoneSurrogate(text) {
  return /[\ud800-\udfff]/u.test(text);
}

/** A value of the header for a message: short, one line. */
export function show(value) {
  const text = JSON.stringify(plain(value)).replace(/[^ -~]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  return text.length > 60 ? text.slice(0, 57) + "..." : text;
}

/** The header as ordinary objects and numbers, for display. */
export function plain(value) {
  if (value instanceof Real) return value.value;
  if (Array.isArray(value)) return value.map(plain);
  if (!(value instanceof Map)) return value;
  const object = Object.create(null);
  for (const [key, item] of value) object[key] = plain(item);
  return object;
}
