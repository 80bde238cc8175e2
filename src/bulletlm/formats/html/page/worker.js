/* The worker of the page: it holds the model, so that typing never waits for it. The library comes before this text (bundle.py). */

/** The characters of base 85 in the order of their values: those of RFC 1924 with `,` for `<` and `.` for `&`, which mean something in HTML. */
const BASE85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";

/* The messages "damaged", "cutShort" and "memory" are names in words.problems of page.js, which has them in the user's language. */

/** Joins the pieces of the model, ASCII texts in base 85: five characters for four bytes, the last ones filled up with zeros. */
class Decoder {
  #bytes;
  #size = 0;
  #values = new Uint8Array(256).fill(255);

  /** bytes: the size of the model. */
  constructor(bytes) {
    this.#bytes = new Uint8Array(bytes);
    for (let value = 0; value < 85; value++) this.#values[BASE85.charCodeAt(value)] = value;
  }

  /** Decode a piece. Returns the model after the last one, and null before. */
  add(text) {
    const [bytes, values, start] = [this.#bytes, this.#values, this.#size];
    let at = start; // writing past the end of `bytes` does nothing
    let word = 0;
    let digits = 0;
    let valid = true;
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code === 10 || code === 13) continue;
      const value = code < 256 ? values[code] : 255;
      valid &&= value !== 255;
      word = word * 85 + value;
      if (++digits < 5) continue;
      valid &&= word <= 0xffffffff;
      bytes[at] = word >>> 24;
      bytes[at + 1] = word >>> 16;
      bytes[at + 2] = word >>> 8;
      bytes[at + 3] = word;
      at += 4;
      word = digits = 0;
    }
    if (!valid || digits || at - bytes.length > 3) throw new BulletError("damaged");
    this.#size = at;
    return at >= bytes.length ? bytes : null;
  }
}

let decoder = null;
let model = null;
let stopper;

async function start(file) {
  model = await load(file, { verify: true });
  const { header, shape, sampling, kernels } = model;
  postMessage({ type: "ready", header, shape, sampling, kernels });
}

async function answer({ messages, settings }) {
  stopper = new AbortController();
  const session = (model.pageSession ??= model.newSession());
  const { omittedMessages, omittedTokens } = model.prompt(messages, settings.maxTokens);
  let tokens = 0;
  let first = 0;
  let sent = -Infinity; // the first text is sent at once
  let text = "";
  for await (const token of model.generate(messages, { ...settings, session, signal: stopper.signal })) {
    const now = performance.now();
    if (tokens++ === 0) first = now;
    text += token.text;
    if (text && now - sent > 15) {
      postMessage({ type: "text", text });
      text = "";
      sent = now;
    }
  }
  const seconds = (performance.now() - first) / 1000;
  const speed = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null;
  postMessage({ type: "done", text, tokens, speed, reason: session.finishReason, omittedMessages, omittedTokens });
}

/** What to do for each message of the page. */
const actions = {
  start({ bytes }) {
    if (typeof WebAssembly !== "object") throw new BulletError("this browser has no WebAssembly, or it is switched off: the model cannot run");
    decoder = new Decoder(bytes);
  },
  piece({ text }) {
    const file = decoder?.add(text);
    if (!file) return;
    decoder = null;
    return start(file);
  },
  end() {
    if (decoder) throw new BulletError("cutShort");
  },
  answer,
  stop: () => stopper?.abort(),
};

onmessage = async ({ data }) => {
  try {
    await actions[data.type](data);
  } catch (error) {
    if (!model) decoder = null; // nothing that follows says more
    const known = error instanceof BulletError;
    const memory = error instanceof RangeError && /memory|allocation/i.test(error.message);
    const message = known ? error.message : memory ? "memory" : `the model cannot run in this browser: ${error.message}`;
    postMessage({ type: "error", message });
  }
};
