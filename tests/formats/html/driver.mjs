/* Answers requests of the tests about the JavaScript library: one JSON object a line on stdin, one a line on stdout. */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const html = new URL("../../../src/bulletlm/formats/html/", import.meta.url);
const wasm = { simd: readFileSync(new URL("bullet-simd.wasm", html)), scalar: readFileSync(new URL("bullet-scalar.wasm", html)) };
const js = (name) => import(new URL(`js/${name}.js`, html).href);
const { load } = await js("model");
const { normalize } = await js("normalize");
const { Tokenizer } = await js("tokenizer");
const { TextStream } = await js("stream");
const { readBullet } = await js("reader");
const { seeded } = await js("random");
const { BulletError } = await js("errors");

const models = new Map();
const base64 = (floats) => Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength).toString("base64");

const commands = {
  async load({ name, path, options = {} }) {
    models.get(name)?.close();
    const model = await load(readFileSync(path), { wasm, ...options });
    models.set(name, model);
    return { kernels: model.kernels, shape: model.shape, sampling: model.sampling, memory: model.memoryBytes };
  },
  tokenizer({ name, path }) {
    models.set(name, new Tokenizer(readBullet(readFileSync(path)).pieces));
  },
  encode: ({ name, texts }) => texts.map((text) => models.get(name).encode(text)),
  decode: ({ name, lists }) => lists.map((ids) => models.get(name).decode(ids)),
  stream({ name, ids, stop }) {
    const stream = new TextStream(models.get(name), stop);
    const parts = ids.map((id) => (stream.stopped ? "" : stream.add(id)));
    return [...parts, stream.finish()];
  },
  normalize: ({ texts }) => texts.map(normalize),
  seeded: ({ seeds }) => seeded(seeds).map(String),
  prompt: ({ name, input, maxTokens }) => models.get(name).prompt(input, maxTokens),
  logits: ({ name, ids, all }) => base64(models.get(name).logits(ids, all)),
  async generate({ name, input, options = {}, session = false, after }) {
    const model = models.get(name);
    const own = session ? undefined : model.newSession();
    const stopper = new AbortController();
    const ids = [];
    let text = "";
    for await (const token of model.generate(input, { ...options, session: own, signal: stopper.signal })) {
      ids.push(token.id);
      text += token.text;
      if (ids.length === after) stopper.abort();
    }
    const finish = own?.finishReason;
    own?.close();
    return { ids, text, finish };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await commands[request.do](request)) ?? null };
  } catch (error) {
    answer = { error: error.message, known: error instanceof BulletError, stack: error.stack };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
