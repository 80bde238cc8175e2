/* The worker of the page: it holds the model, so that typing never waits for it. The library comes before this text (bundle.py). */

/** The characters of base 85 in the order of their values: those of RFC 1924 with `,` for `<` and `.` for `&`, which mean something in HTML. */
const BASE85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";

/**
 * The first `bytes` bytes of ASCII text in base 85: five characters for four bytes, the last ones filled up with zeros. They take the place
 * of the text in its array, so that the model is never in memory twice here.
 */
function decodeBase85(text, bytes) {
  const damaged = () => new BulletError("the model in this page is damaged: it holds characters that do not belong there");
  const values = new Uint8Array(256).fill(255);
  for (let value = 0; value < 85; value++) values[BASE85.charCodeAt(value)] = value;
  let size = 0;
  let word = 0;
  let digits = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === 10 || text[i] === 13) continue;
    const value = values[text[i]];
    if (value === 255) throw damaged();
    word = word * 85 + value;
    if (++digits < 5) continue;
    if (word > 0xffffffff) throw damaged();
    text[size] = word >>> 24;
    text[size + 1] = word >>> 16;
    text[size + 2] = word >>> 8;
    text[size + 3] = word;
    size += 4;
    word = digits = 0;
  }
  if (size < bytes || digits) throw new BulletError("the model in this page is cut short: the page was not copied or downloaded completely");
  return text.subarray(0, bytes);
}

let model;
let stopper;

async function start({ text, bytes, simd }) {
  if (typeof WebAssembly !== "object") throw new BulletError("this browser has no WebAssembly, or it is switched off: the model cannot run");
  model = await load(decodeBase85(text, bytes), { verify: true, ...(simd === undefined ? {} : { simd }) });
  text.buffer.transfer?.(0); // frees its memory now, where browsers have this; the garbage collector may wait long
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
