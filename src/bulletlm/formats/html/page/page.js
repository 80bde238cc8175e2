/* The page: the conversation, its controls, and the worker that holds the model. Everything from the model is inserted as text. */
"use strict";

/** Bytes of the model file, and where its first tensor and its first section begin. */
const [MODEL_BYTES, FIRST_TENSOR, FIRST_SECTION] = ["{{bytes}}", "{{first_tensor}}", "{{first_section}}"].map(Number);
const MODEL_KEY = "bulletlm:{{digest}}";

const WORDS = {
  en: {
    other: "मराठी",
    otherCode: "mr",
    skip: "To the question",
    about: "About the model",
    question: "Your question",
    placeholder: "Write something …",
    send: "Send",
    stop: "Stop",
    again: "Regenerate",
    save: "Save",
    new: "New conversation",
    settings: "Settings",
    system: "System text (stays in force for the whole conversation)",
    temperature: "Temperature",
    topK: "Top k",
    topP: "Top p",
    minP: "Min p",
    repetitionPenalty: "Repetition penalty",
    maxTokens: "Maximum tokens",
    seed: "Seed",
    remember: "Remember the conversation on this device",
    copy: "Copy",
    copied: "Copied",
    close: "Close",
    you: "You",
    model: "Model",
    loading: "The model is loading …",
    ready: "Ready",
    writing: "The model is writing …",
    tokens: (n, speed) => (n === 1 ? "1 token" : `${n} tokens`) + (speed ? `, ${speed} tokens/s` : ""),
    stopped: "stopped",
    tooLong: "the answer reached the limit of tokens",
    omittedMessages: (n) => (n === 1 ? "The context is full: the oldest message was left out." : `The context is full: the ${n} oldest messages were left out.`),
    omittedTokens: (n) => (n === 1 ? "The text is too long: its first token was left out." : `The text is too long: its first ${n} tokens were left out.`),
    offline: "This page holds the whole model. It works without a network, and sends nothing anywhere.",
    confirmNew: "Delete this conversation?",
    notSaved: "This browser does not let the page remember anything.",
    problems: {
      pageCutShort: "this page is cut short: it was not copied or downloaded completely",
      cutShort: "the model in this page is cut short: the page was not copied or downloaded completely",
      damaged: "the model in this page is damaged: the page was changed after it was written",
      memory: "there is not enough memory for this model",
    },
    suggestions: "Suggestions",
    facts: {
      name: "Name",
      license: "Licence",
      attribution: "Based on",
      note: "Note",
      private: "Trained on private messages: share this page only with people who may read them.",
      languages: "Languages",
      parameters: "Parameters",
      shape: "Shape",
      file: "Size",
      training: "Training",
      texts: "Texts",
      quality: "Quality, measured on held-out text",
      engine: "Engine",
      notGiven: "not given",
      layers: (s) => `${s.n_layers} layers, width ${s.dim}, ${s.n_heads} heads, context of ${s.max_seq_len} tokens, vocabulary of ${s.vocab_size}`,
      mb: (bytes) => `${(bytes / 1e6).toFixed(2)} MB`,
      perplexity: "perplexity",
      bits: "bits per byte",
      change: (bits) => `change by ${bits}-bit weights`,
      steps: "steps",
      seen: "tokens seen",
      loss: "validation loss",
    },
    suggestionsOf: {
      mr: ["मैत्री म्हणजे काय?", "मला एक छोटी गोष्ट सांग.", "पाऊस कसा पडतो?"],
      en: ["What is friendship?", "Tell me a short story.", "Why does it rain?"],
    },
  },
  mr: {
    other: "English",
    otherCode: "en",
    skip: "प्रश्नाकडे जा",
    about: "मॉडेलविषयी",
    question: "तुमचा प्रश्न",
    placeholder: "काहीतरी लिहा …",
    send: "पाठवा",
    stop: "थांबवा",
    again: "पुन्हा उत्तर द्या",
    save: "जतन करा",
    new: "नवीन संवाद",
    settings: "सेटिंग्ज",
    system: "सूचना (संपूर्ण संवादात लागू राहते)",
    temperature: "तापमान (temperature)",
    topK: "Top k",
    topP: "Top p",
    minP: "Min p",
    repetitionPenalty: "पुनरावृत्ती टाळणे",
    maxTokens: "जास्तीत जास्त टोकन",
    seed: "बीज (seed)",
    remember: "हा संवाद या उपकरणावर लक्षात ठेवा",
    copy: "कॉपी करा",
    copied: "कॉपी झाले",
    close: "बंद करा",
    you: "तुम्ही",
    model: "मॉडेल",
    loading: "मॉडेल सुरू होत आहे …",
    ready: "तयार",
    writing: "मॉडेल लिहीत आहे …",
    tokens: (n, speed) => `${n} टोकन` + (speed ? `, सेकंदाला ${speed} टोकन` : ""),
    stopped: "थांबवले",
    tooLong: "उत्तराची मर्यादा संपली",
    omittedMessages: (n) => (n === 1 ? "संदर्भ भरला आहे: सर्वांत जुना संदेश वगळला." : `संदर्भ भरला आहे: सर्वांत जुने ${n} संदेश वगळले.`),
    omittedTokens: (n) => `मजकूर फार मोठा आहे: सुरुवातीचे ${n} टोकन वगळले.`,
    offline: "संपूर्ण मॉडेल या पानातच आहे. ते नेटवर्कशिवाय चालते आणि कुठेही काही पाठवत नाही.",
    confirmNew: "हा संवाद पुसून टाकायचा?",
    notSaved: "हा ब्राउझर पानाला काहीही लक्षात ठेवू देत नाही.",
    problems: {
      pageCutShort: "हे पान अपूर्ण आहे: ते पूर्ण कॉपी किंवा डाउनलोड झालेले नाही.",
      cutShort: "या पानातले मॉडेल अपूर्ण आहे: पान पूर्ण कॉपी किंवा डाउनलोड झालेले नाही.",
      damaged: "या पानातले मॉडेल खराब झाले आहे: पान बनवल्यानंतर त्यात बदल झाला आहे.",
      memory: "या मॉडेलसाठी या उपकरणात पुरेशी मेमरी नाही.",
    },
    suggestions: "सूचना",
    facts: {
      name: "नाव",
      license: "परवाना",
      attribution: "आधार",
      note: "टीप",
      private: "खाजगी संदेशांवर प्रशिक्षित: ते वाचण्याचा हक्क असलेल्यांनाच हे पान द्या.",
      languages: "भाषा",
      parameters: "पॅरामीटर",
      shape: "रचना",
      file: "आकार",
      training: "प्रशिक्षण",
      texts: "मजकूर",
      quality: "गुणवत्ता, वेगळ्या ठेवलेल्या मजकुरावर मोजलेली",
      engine: "इंजिन",
      notGiven: "दिलेले नाही",
      layers: (s) => `${s.n_layers} थर, रुंदी ${s.dim}, ${s.n_heads} हेड, ${s.max_seq_len} टोकनचा संदर्भ, ${s.vocab_size} टोकनचा शब्दसंग्रह`,
      mb: (bytes) => `${(bytes / 1e6).toFixed(2)} MB`,
      perplexity: "perplexity",
      bits: "bits per byte",
      change: (bits) => `${bits}-बिट भारांमुळे बदल`,
      steps: "पायऱ्या",
      seen: "वाचलेले टोकन",
      loss: "validation loss",
    },
    suggestionsOf: {
      mr: ["मैत्री म्हणजे काय?", "मला एक छोटी गोष्ट सांग.", "पाऊस कसा पडतो?"],
      en: ["What is friendship?", "Tell me a short story.", "Why does it rain?"],
    },
  },
};

const NUMBERS = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "maxTokens", "seed"];
const FILE_NAMES = { topK: "top_k", topP: "top_p", minP: "min_p", repetitionPenalty: "repetition_penalty", maxTokens: "max_tokens" };

const BITS = { BQ4: 4, BQ8: 8, F16: 16, F32: 32 }; // of a weight type

const DEVANAGARI = ["mr", "hi", "ne", "kok", "mai", "sa"]; // languages that are written in it

const $ = (id) => document.getElementById(id);
let words = WORDS.en;
let messages = []; // { role, content }
let model = null; // what the worker says about it
let worker = null;
let writing = null; // the element of the answer that is being written
let status = { kind: "loading" };
let problem = ""; // what showProblem shows

/* Texts of the interface */

function showLanguage(code) {
  words = WORDS[code];
  document.documentElement.lang = code;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = words[element.dataset.text];
  $("language").textContent = words.other;
  $("language").lang = words.otherCode;
  $("question").placeholder = words.placeholder;
  $("suggestions").setAttribute("aria-label", words.suggestions);
  for (const element of document.querySelectorAll(".who")) element.textContent = words[element.dataset.who];
  for (const element of document.querySelectorAll(".copy")) element.textContent = words.copy;
  showProblem(problem);
  showState();
}

/** Show what the page does now, and what the user can do. A button that disappears gives the focus to what takes its place. */
function showState() {
  const focused = document.activeElement;
  showStatus();
  showButtons();
  showSuggestions();
  if (focused && (focused.hidden || !focused.isConnected)) (writing ? $("stop") : $("question")).focus();
}

function showStatus() {
  const { kind, tokens, speed, reason } = status;
  const parts = kind === "done" ? [words.tokens(tokens, speed && Math.round(speed).toLocaleString("en"))] : [words[kind] ?? ""];
  if (reason === "abort") parts.push(words.stopped);
  if (reason === "length") parts.push(words.tooLong);
  $("status").textContent = parts.join("; ");
}

function showButtons() {
  const busy = writing !== null;
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("send").disabled = !model;
  $("again").hidden = busy || messages.at(-1)?.role !== "assistant";
  $("save").hidden = $("new").hidden = busy || !messages.length;
}

/** Prompts in the languages of the model, that of the page first, until there is a conversation. */
function showSuggestions() {
  const mine = document.documentElement.lang;
  const languages = (model?.header.languages ?? []).filter((code) => Object.hasOwn(words.suggestionsOf, code)).sort((a, b) => (b === mine) - (a === mine));
  const texts = messages.length || !model ? [] : (languages.length ? languages : ["en"]).flatMap((code) => words.suggestionsOf[code].slice(0, languages.length > 1 ? 2 : 3).map((text) => [code, text]));
  $("suggestions").replaceChildren(
    ...texts.map(([code, text]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.lang = code;
      button.textContent = text;
      button.onclick = () => ask(text);
      return button;
    }),
  );
}

/** Show a message, or one of words.problems by its name; "" hides the last one. */
function showProblem(given) {
  problem = given;
  $("problem").textContent = Object.hasOwn(words.problems, given) ? words.problems[given] : given;
  $("problem").hidden = !given;
}

/* The conversation */

function addMessage(role, content) {
  const element = document.createElement("section");
  element.className = `message ${role}`;
  const who = document.createElement("p");
  who.className = "who";
  who.dataset.who = role === "user" ? "you" : "model";
  who.textContent = words[who.dataset.who];
  const text = document.createElement("p");
  text.className = "text";
  text.dir = "auto";
  showText(text, content);
  element.append(who, text);
  $("talk").append(element);
  toEnd(true);
  return element;
}

/** Show a text with its language: screen readers choose their voice by it, and fonts the Marathi or Hindi shapes of some letters. */
function showText(element, text) {
  element.textContent = text;
  element.lang = languageOf(text);
}

/** The language of the model that has the letters of a text. */
function languageOf(text) {
  const languages = model?.header.languages ?? [];
  if (/\p{Script=Devanagari}/u.test(text)) return languages.find((code) => DEVANAGARI.includes(code)) ?? "mr";
  return languages.find((code) => !DEVANAGARI.includes(code)) ?? "en";
}

function addCopyButton(element) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = words.copy;
  button.onclick = async () => {
    await copy(element.querySelector(".text").textContent);
    button.textContent = words.copied;
    setTimeout(() => (button.textContent = words.copy), 1500);
  };
  element.append(button);
}

/** Copy a text; a page from a file may not have the clipboard of `navigator`. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function addNote(element, text) {
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = text;
  element.append(note);
}

/** Scroll to the end of the conversation; while an answer is written only if the end is in view. */
function toEnd(always) {
  const main = document.querySelector("main");
  if (always || main.scrollHeight - main.scrollTop - main.clientHeight < 120) main.scrollTop = main.scrollHeight;
}

function ask(text) {
  if (!model || writing || !text.trim()) return;
  const question = { role: "user", content: text };
  if (!requestAnswer([...messages, question])) return;
  messages.push(question);
  addMessage("user", text);
  $("question").value = "";
  fitQuestion();
  beginAnswer();
}

/** Write the last answer again, with the next seed: the same seed would give the same answer. */
function regenerate() {
  if (writing || messages.at(-1)?.role !== "assistant") return;
  $("seed").value = String(Number($("seed").value || 0) + 1);
  if (!requestAnswer(messages.slice(0, -1))) return;
  messages.pop();
  $("talk").lastElementChild.remove();
  beginAnswer();
}

/**
 * Send a conversation to the worker; false if a setting is out of range. This comes before the page shows the question: the worker
 * computes while the browser looks for the fonts of a language that is new on the page.
 */
function requestAnswer(conversation) {
  showProblem("");
  const settings = readSettings();
  if (settings) worker.postMessage({ type: "answer", messages: withSystemText(conversation), settings });
  return settings !== null;
}

function beginAnswer() {
  writing = addMessage("assistant", "");
  writing.classList.add("writing");
  status = { kind: "writing" };
  showState();
}

function withSystemText(conversation) {
  const content = $("system").value.trim();
  return content ? [{ role: "system", content }, ...conversation] : conversation;
}

function finishAnswer(answer) {
  const element = writing;
  element.classList.remove("writing");
  writing = null;
  const content = element.querySelector(".text").textContent;
  if (content) {
    showText(element.querySelector(".text"), content);
    messages.push({ role: "assistant", content });
    addCopyButton(element);
    showText($("announcement"), content);
  } else {
    element.remove();
  }
  if (answer) {
    status = { kind: "done", ...answer };
    if (answer.omittedTokens) addNote(element, words.omittedTokens(answer.omittedTokens));
    else if (answer.omittedMessages) addNote(element, words.omittedMessages(answer.omittedMessages));
  } else {
    status = { kind: "ready" };
  }
  showState();
  remember();
  toEnd(false);
}

function startAgain() {
  if (writing || !confirm(words.confirmNew)) return;
  messages = [];
  $("talk").replaceChildren();
  showProblem("");
  status = { kind: "ready" };
  showState();
  remember();
  $("question").focus();
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(withSystemText(messages), null, 2) + "\n"], { type: "application/json" }));
  link.download = "conversation.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/* Settings */

/** The settings as options of the library; null, with the field focused, if one is out of range. */
function readSettings() {
  const settings = {};
  for (const name of NUMBERS) {
    const input = $(name);
    const value = input.valueAsNumber;
    const low = name === "repetitionPenalty" ? 1e-6 : Number(input.min);
    const whole = input.step === "1";
    if (!(value >= low && value <= Number(input.max)) || (whole && !Number.isInteger(value))) {
      $("settings").open = true;
      showProblem(`${words[name]}: ${input.min} – ${input.max}`);
      input.focus();
      return null;
    }
    settings[name] = value;
  }
  return settings;
}

/** Keep the conversation in this browser if the user wants that, and delete it otherwise. */
function remember() {
  try {
    if ($("remember").checked) localStorage.setItem(MODEL_KEY, JSON.stringify({ messages, system: $("system").value }));
    else localStorage.removeItem(MODEL_KEY);
    return true;
  } catch {
    return false;
  }
}

function recall() {
  let stored = null;
  try {
    stored = JSON.parse(localStorage.getItem(MODEL_KEY) ?? "null");
  } catch {
    return;
  }
  const valid = (message) => (message?.role === "user" || message?.role === "assistant") && typeof message.content === "string";
  if (!Array.isArray(stored?.messages) || !stored.messages.every(valid)) return;
  $("remember").checked = true;
  if (typeof stored.system === "string") $("system").value = stored.system;
  messages = stored.messages.map(({ role, content }) => ({ role, content }));
  for (const { role, content } of messages) {
    const element = addMessage(role, content);
    if (role === "assistant") addCopyButton(element);
  }
}

/* The model card */

function showCard() {
  const { header, shape, kernels } = model;
  const f = words.facts;
  const number = (value, digits) => (typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: digits }) : null);
  const text = (value) => (typeof value === "string" && value ? value : null);
  const joined = (rows) => rows.filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}`).join("\n") || null;
  const { training = {}, quantised = {} } = header;
  const facts = [
    [f.name, text(header.name)],
    [f.license, text(header.license) ?? f.notGiven],
    [f.attribution, attribution(header)],
    [f.note, header.private_messages === true ? f.private : null],
    [f.languages, (header.languages ?? []).join(", ") || null],
    [f.parameters, number(parameters(shape), 0)],
    [f.shape, f.layers(shape)],
    [f.file, f.mb(MODEL_BYTES)],
    [f.training, joined([[f.steps, number(training.steps ?? training.step, 0)], [f.seen, number(training.tokens ?? training.tokens_seen, 0)], [f.loss, number(training.val_loss, 4)]])],
    [f.texts, sources(header)],
    [f.quality, joined([[f.perplexity, number(quantised.perplexity, 2)], [f.bits, number(quantised.bits_per_byte, 4)], [f.change(Object.hasOwn(BITS, quantised.weights) ? BITS[quantised.weights] : BITS.BQ4), typeof quantised.perplexity_change === "number" ? `${(100 * quantised.perplexity_change).toFixed(2)} % ${f.perplexity}` : null]])],
    [f.engine, `WebAssembly, ${kernels}`],
  ];
  $("facts").replaceChildren(
    ...facts
      .filter(([, value]) => value !== null)
      .flatMap(([name, value]) => {
        const [term, description] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = name;
        description.textContent = value;
        return [term, description];
      }),
  );
}

/** The models that this one was trained from, with their licences. */
function attribution(header) {
  const parents = Array.isArray(header.parents) ? header.parents : [];
  const lines = parents.filter((parent) => typeof parent?.name === "string").map(({ name, license }) => (typeof license === "string" ? `${name} (${license})` : name));
  return lines.join("\n") || null;
}

/** The texts that the model was trained on, each with its licence and whom it names as its source. */
function sources({ training = {}, training_text: terms }) {
  const list = (value) => (Array.isArray(value) ? value.filter((entry) => typeof entry?.label === "string") : []);
  const labels = new Set([...list(terms), ...list(training.sources)].map((entry) => entry.label));
  const lines = [...labels].map((label) => {
    const { license, attribution } = list(terms).find((entry) => entry.label === label) ?? {};
    const parts = [license, attribution].filter((part) => typeof part === "string" && part);
    return parts.length ? `${label}: ${parts.join(", ")}` : label;
  });
  return lines.join("\n") || null;
}

/** Number of weights; tied embeddings count once. */
function parameters({ vocab_size, dim, n_layers, n_heads, n_kv_heads, hidden_dim, tied_embeddings }) {
  const kv = (dim / n_heads) * n_kv_heads;
  const layer = 2 * dim + 2 * dim * dim + 2 * kv * dim + 3 * hidden_dim * dim;
  return vocab_size * dim * (tied_embeddings ? 1 : 2) + n_layers * layer + dim;
}

/* Events */

function fitQuestion() {
  const area = $("question");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

function onWorker({ data }) {
  if (data.type === "ready") {
    model = data;
    for (const name of NUMBERS) $(name).value = String(model.sampling[FILE_NAMES[name] ?? name]);
    status = { kind: "ready" };
    for (const element of document.querySelectorAll(".text")) showText(element, element.textContent);
    showState();
    document.documentElement.dataset.ready = "true";
  } else if (data.type === "error") {
    if (writing) finishAnswer(null);
    else status = { kind: "" };
    showState();
    showProblem(data.message);
  } else if (writing) {
    const element = writing.querySelector(".text");
    if (data.text && !element.textContent) showText(element, data.text);
    else element.append(data.text);
    toEnd(false);
    if (data.type === "done") finishAnswer(data);
  }
}

function connect() {
  $("form").onsubmit = (event) => {
    event.preventDefault();
    ask($("question").value);
  };
  $("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask($("question").value);
  };
  $("question").oninput = fitQuestion;
  document.onkeydown = (event) => {
    if (event.key === "Escape" && writing && !$("card").open) stopAnswer();
  };
  $("stop").onclick = stopAnswer;
  $("again").onclick = regenerate;
  $("save").onclick = save;
  $("new").onclick = startAgain;
  $("about").onclick = () => {
    if (model) showCard();
    $("card").showModal();
  };
  $("language").onclick = () => showLanguage(words.otherCode);
  $("remember").onchange = () => {
    if (!remember()) showProblem(words.notSaved);
  };
  $("system").onchange = remember;
}

function stopAnswer() {
  worker.postMessage({ type: "stop" });
  $("question").focus();
}

/* The rest of the page: the source of the worker, then the model in pieces */

/** The page calls this after each part. The worker decodes one piece of the model while the browser reads the next one. */
function takePart() {
  const element = document.currentScript.previousElementSibling;
  const text = element.textContent;
  element.remove();
  document.currentScript.remove();
  if (element.id !== "worker") return worker?.postMessage({ type: "piece", text });
  startWorker(text);
  show();
}

function startWorker(source) {
  try {
    worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  } catch (error) {
    problem = `the model cannot run in this browser: ${error.message}`;
    return;
  }
  worker.onmessage = onWorker;
  worker.onerror = (event) => showProblem(`the model cannot run in this browser: ${event.message || "its worker did not start"}`);
  worker.postMessage({ type: "start", size: MODEL_BYTES, tensors: FIRST_TENSOR, sections: FIRST_SECTION });
}

/** Show the interface. The worker has begun to start before: that takes the browser longer. */
function show() {
  connect();
  recall();
  showLanguage((navigator.languages ?? []).some((code) => /^mr\b/i.test(code)) ? "mr" : "en");
}

document.addEventListener("DOMContentLoaded", () => {
  if (worker) return worker.postMessage({ type: "end" });
  if (problem) return;
  problem = "pageCutShort";
  show();
});
