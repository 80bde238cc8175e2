/* The worker of the page: it holds the model, so that typing never waits for it. The library comes before this text (bundle.py). */

/** The characters of base 85 in the order of their values: those of RFC 1924 with `,` for `<` and `.` for `&`, which mean something in HTML. */
const BASE85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";

/** The bytes of a text in base 85: five characters for four bytes, the last ones filled up with zeros; `bytes` are wanted. */
function bytesOfBase85(text, bytes) {
  const values = new Uint8Array(128).fill(255);
  [...BASE85].forEach((character, value) => (values[character.charCodeAt(0)] = value));
  const out = new Uint8Array(Math.ceil(bytes / 4) * 4);
  let size = 0;
  let word = 0;
  let digits = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 10 || code === 13) continue;
    const value = code < 128 ? values[code] : 255;
    if (value === 255) throw new BulletError("the model in this page is damaged: it holds characters that do not belong there");
    word = word * 85 + value;
    if (++digits < 5) continue;
    if (word > 0xffffffff) throw new BulletError("the model in this page is damaged: it holds characters that do not belong there");
    if (size < out.length) {
      out[size] = word >>> 24;
      out[size + 1] = word >>> 16;
      out[size + 2] = word >>> 8;
      out[size + 3] = word;
    }
    size += 4;
    word = digits = 0;
  }
  if (size < bytes || digits) throw new BulletError("the model in this page is cut short: the page was not copied or downloaded completely");
  return out.subarray(0, bytes);
}

let model;
let stopper;

async function start({ text, bytes, simd }) {
  if (typeof WebAssembly !== "object") throw new BulletError("this browser has no WebAssembly, or it is switched off: the model cannot run");
  model = await load(bytesOfBase85(text, bytes), { verify: true, ...(simd === undefined ? {} : { simd }) });
  const { header, shape, sampling, kernels } = model;
  // Read a few tokens, so that the browser has compiled the engine before the first question.
  model.logits(Array.from({ length: Math.min(24, shape.max_seq_len) }, (_, i) => i % shape.vocab_size));
  postMessage({ type: "ready", header, shape, sampling, kernels });
}

async function answer({ messages, settings }) {
  stopper = new AbortController();
  const session = (model.pageSession ??= model.newSession());
  const { omittedMessages, omittedTokens } = model.prompt(messages, settings.maxTokens);
  let tokens = 0;
  let first = 0;
  let sent = performance.now();
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

onmessage = async ({ data }) => {
  if (data.type === "stop") return void stopper?.abort();
  try {
    await (data.type === "start" ? start(data) : answer(data));
  } catch (error) {
    const known = error instanceof BulletError;
    const memory = error instanceof RangeError && /memory|allocation/i.test(error.message);
    const message = known ? error.message : memory ? "there is not enough memory for this model" : `the model cannot run in this browser: ${error.message}`;
    postMessage({ type: "error", message });
  }
};
