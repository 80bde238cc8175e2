/* Text normalization, the same for prompts as for the training text: the rules of text/normalize.py. */

import { SPACE_CHARACTERS, codeLines } from "./code.js";

const VIRAMA = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca";
const INDIC = /^[\u0900-\u0dff]/;
const JOINING = new RegExp(
  "^[\\u0600-\\u08ff\\ufb50-\\ufdff\\ufe70-\\ufefc" + // Arabic, Syriac, Thaana, N'Ko, Mandaic
    "\\u0f00-\\u109f\\u1780-\\u18af\\u1900-\\u1cff\\ua800-\\uabff" + // Tibetan, Myanmar, Khmer, Mongolian, scripts of South-East Asia
    "\\u{10a00}-\\u{11fff}\\u{1e900}-\\u{1e95f}]",
  "u",
);
const WITHOUT_SPACES = /^[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f]/;
const MONGOLIAN = /^[\u1800-\u18af]/;
const EMOJI = /^[\u2190-\u2bff\ufe0f\u{1f000}-\u{1faff}]/u;
const ZERO_WIDTH = /[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u200c\u200d]+/g;
const CONTROL = new RegExp("[\\x00-\\x08\\x0e-\\x1b\\x7f-\\x84\\x86-\\x9f\\ufff9-\\ufffb\\ufffe\\uffff]", "g");
const SPACES = /[ \t\n\v\f\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
const LINE_END = new RegExp("\\r\\n|[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]");
const SPACES_AT_END = new RegExp(`[${SPACE_CHARACTERS}]+$`);
const MOST_SIGNS = 30;

/** Two encodings of one Devanagari letter that NFC does not unify; the second is today's standard. */
const SPELLINGS = [
  ["\u0905\u0945", "\u0972"],
  ["\u0906\u0945", "\u0911"],
  ["\u0905\u093e", "\u0906"],
  ["\u0905\u094b", "\u0913"],
  ["\u0905\u094c", "\u0914"],
  ["\u0906\u0947", "\u0913"],
  ["\u0906\u0948", "\u0914"],
  ["\u090f\u0947", "\u0910"],
  ["\u093e\u0945", "\u0949"],
  ["\u093e\u0947", "\u094b"],
  ["\u093e\u0948", "\u094c"],
  ["\u0930\u094d\u200d", "\u0931\u094d"],
  ["\u0931\u094d\u200d", "\u0931\u094d"],
];

/** Normalize a text line by line; empty lines are left out. Code keeps its spaces, and between fences its empty lines. */
export function normalize(text) {
  const lines = text.split(LINE_END);
  if (lines.at(-1) === "") lines.pop();
  const code = codeLines(lines);
  const kept = [];
  lines.forEach((line, i) => {
    const after = code[i] ? normalizeLine(line, true).replace(SPACES_AT_END, "") : normalizeLine(line, false);
    if (after || (code[i] && kept.length)) kept.push(after);
  });
  return kept.join("\n");
}

function normalizeLine(text, keepSpaces) {
  for (;;) {
    // A second pass has an effect only on unusual strings of stacked marks.
    const start = text;
    text = removeZeroWidth(text.replaceAll("\ufeff", "").replace(CONTROL, ""));
    if (text.normalize("NFC") !== text) text = unstacked(text).normalize("NFC");
    for (const [written, standard] of SPELLINGS) text = text.replaceAll(written, standard);
    if (!keepSpaces) text = text.replace(SPACES, " ").replace(/^ +| +$/g, "");
    if (text === start) return text;
  }
}

/** At most MOST_SIGNS combining characters in a row: sorting them into canonical order takes quadratic time. */
function unstacked(text) {
  let signs = 0;
  return Array.from(text, (character) => {
    signs = combines(character) ? signs + 1 : 0;
    return signs <= MOST_SIGNS ? character : "";
  }).join("");
}

// Canonical combining classes are not available, but normalization sorts by them: U+0334 has class 1, U+3099 has 8, U+05B0 has 10 and
// U+0345 has 240, the highest.
const movesBefore = (mark, character) => !(mark + character).normalize("NFD").startsWith(mark);
const movesBehind = (mark, character) => (character + mark).normalize("NFD").startsWith(mark);

/** Whether a character has a canonical combining class, so that its place among others is not fixed. */
function combines(character) {
  return movesBefore("\u0345", character) || movesBehind("\u0334", character);
}

const viramas = new Map();

/** Whether a character is a virama, which joins a consonant to the next one: class 9. */
export function isVirama(character) {
  if (!viramas.has(character)) viramas.set(character, movesBehind("\u3099", character) && movesBefore("\u05b0", character));
  return viramas.get(character);
}

function removeZeroWidth(text) {
  return text.replace(ZERO_WIDTH, (run, at) => {
    const before = [...text.slice(Math.max(at - 2, 0), at)].pop() ?? "";
    const after = [...text.slice(at + run.length, at + run.length + 2)][0] ?? "";
    return [...run].filter((character) => meansSomething(character, before, after)).pop() ?? "";
  });
}

/** Whether an invisible character between two others changes a letter, an emoji or the end of a word. */
function meansSomething(character, before, after) {
  if (character === "\u200b") return WITHOUT_SPACES.test(before) && WITHOUT_SPACES.test(after);
  if (character === "\u180e") return MONGOLIAN.test(before) && MONGOLIAN.test(after);
  if (character !== "\u200c" && character !== "\u200d") return false;
  if (before && VIRAMA.includes(before)) return INDIC.test(after) || (character === "\u200d" && INDIC.test(before));
  if (after && VIRAMA.includes(after)) return INDIC.test(before);
  if (character === "\u200d" && EMOJI.test(before) && EMOJI.test(after)) return true;
  return JOINING.test(before) && JOINING.test(after);
}
