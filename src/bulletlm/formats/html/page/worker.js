/* The worker of the page: it holds the model, so that typing never waits for it. The library comes before this text (bundle.py). */

/* The messages "damaged", "cutShort" and "memory" are names in words.problems of page.js, which has them in the user's language. */

/**
 * Loads the model while the browser reads the page. The parts of the file come in the order of page.py: the header, the end with the
 * tokenizer, the tensors. So all that the weights are not needed for is done before the last of them arrives.
 */
class Loader {
  #engine = new Engine(new WebAssembly.Module(moduleBytes()));
  #parts;
  #at = 0; // where the next piece belongs
  #parsed = null;
  #tokenizer;

  /** size: bytes of the file; tensors and sections: where the first tensor and the first section begin. */
  constructor({ size, tensors, sections }) {
    this.#engine.newFile(size);
    this.#parts = [
      { start: 0, end: tensors, finish: () => this.#readHeader() },
      { start: sections, end: size, finish: () => this.#readTokenizer() },
      { start: tensors, end: sections, finish: () => this.#load() },
    ];
  }

  /** Add a piece, text in base 85 (base85.c). Returns a promise of the model after the last one. */
  add(text) {
    const [{ end, finish }, next] = this.#parts;
    this.#at = this.#engine.writeBase85(text, this.#at, end);
    if (this.#at < 0) throw new BulletError("damaged");
    if (this.#at < end) return undefined;
    this.#parts.shift();
    this.#at = next?.start;
    return finish();
  }

  #readHeader() {
    const { file } = this.#engine;
    this.#parsed = readHeader(file, file.length);
  }

  #readTokenizer() {
    this.#tokenizer = new Tokenizer(readPieces(this.#engine.file, this.#parsed));
  }

  async #load() {
    checkPadding(this.#engine.file, this.#parsed);
    await loadFile(this.#engine, this.#parsed, { verify: true });
    return new Model(this.#parsed, this.#tokenizer, this.#engine);
  }
}

let loader = null;
let model = null;
let stopper;

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
  start(places) {
    if (typeof WebAssembly !== "object") throw new BulletError("this browser has no WebAssembly, or it is switched off: the model cannot run");
    loader = new Loader(places);
  },
  async piece({ text }) {
    const loading = loader?.add(text);
    if (!loading) return;
    loader = null;
    model = await loading;
    const { header, shape, sampling, kernels } = model;
    postMessage({ type: "ready", header, shape, sampling, kernels });
  },
  end() {
    if (loader) throw new BulletError("cutShort");
  },
  answer,
  stop: () => stopper?.abort(),
};

onmessage = async ({ data }) => {
  try {
    await actions[data.type](data);
  } catch (error) {
    if (!model) loader = null; // nothing that follows says more
    const known = error instanceof BulletError;
    const memory = error instanceof RangeError && /memory|allocation/i.test(error.message);
    const message = known ? error.message : memory ? "memory" : `the model cannot run in this browser: ${error.message}`;
    postMessage({ type: "error", message });
  }
};
