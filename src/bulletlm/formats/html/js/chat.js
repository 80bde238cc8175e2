/* From a conversation to the tokens that the model reads: the rules of text/chat.py and runtime/prompt.py. */

import { BulletError } from "./errors.js";
import { normalize } from "./normalize.js";
import { ASSISTANT, BOS, END, USER } from "./tokenizer.js";

const ROLES = { user: USER, assistant: ASSISTANT };

/**
 * The prompt for an answer to `messages`, [{ role, content }]: { ids, keep, omittedMessages, omittedTokens }.
 *
 * What does not fit into the context together with half of the answer is left out in this order: the oldest turns; then, if the last message
 * of the user alone is too long, its beginning. The marks of the roles and the system text, the first `keep` tokens, always stay.
 */
export function chatPrompt(tokenizer, window, messages, maxTokens) {
  const room = roomFor(window, maxTokens);
  const { system, turns } = openTurns(messages);
  const fitted = fitPrompt(tokenizer, system, turns, room);
  const head = [BOS, USER, ...(system ? tokenizer.encode(`${system}\n\n`) : [])];
  if (fitted.ids.length <= window) {
    return { ids: fitted.ids, keep: Math.min(head.length, fitted.ids.length), omittedMessages: fitted.omitted, omittedTokens: 0 };
  }
  const text = turns.findLast((turn) => turn.role === "user")?.text ?? "";
  const ids = tokenizer.encode(text);
  const left = room - head.length - 2;
  if (left < 1) {
    throw new BulletError(
      `the system text has ${head.length - 2} tokens, but the context of this model has ${window} and must also hold a question and an ` +
        `answer: shorten it`,
    );
  }
  const kept = lastTokens(tokenizer, ids, left);
  return {
    ids: [...head, ...kept, END, ASSISTANT],
    keep: head.length,
    omittedMessages: fitted.omitted,
    omittedTokens: ids.length - kept.length,
  };
}

/** The prompt for a continuation of a text. If it is longer than the context, its beginning is left out. */
export function textPrompt(tokenizer, window, text, maxTokens) {
  const ids = tokenizer.encode(normalize(text));
  if (ids.length + 1 <= window) return { ids: [BOS, ...ids], keep: 1, omittedMessages: 0, omittedTokens: 0 };
  const kept = lastTokens(tokenizer, ids, roomFor(window, maxTokens) - 1);
  return { ids: [BOS, ...kept], keep: 1, omittedMessages: 0, omittedTokens: ids.length - kept.length };
}

/** The system text, and the turns of user and assistant with normalized text; consecutive messages of one role are one turn. */
function openTurns(messages) {
  const system = [];
  const turns = [];
  let skipped = 0; // messages without text, which are counted with the next turn
  messages.forEach(({ role, content }, i) => {
    if (role !== "system" && role !== "developer" && !Object.hasOwn(ROLES, role)) {
      throw new BulletError(`message ${i + 1} has the role ${JSON.stringify(role)}: use system, user or assistant`);
    }
    const text = typeof content === "string" ? normalize(content) : "";
    if (role === "system" || role === "developer") {
      if (text) system.push(text);
    } else if (!text) {
      if (role === "user" && i + 1 === messages.length) throw new BulletError(`message ${i + 1} is empty: write something`);
      skipped++;
    } else if (turns.at(-1)?.role === role) {
      turns.at(-1).text += `\n${text}`;
      turns.at(-1).messages += skipped + 1;
      skipped = 0;
    } else {
      turns.push({ role, text, messages: skipped + 1 });
      skipped = 0;
    }
  });
  const text = system.join("\n");
  if (turns.some((turn) => turn.role === "user")) return { system: text, turns };
  if (text) return { system: "", turns: [{ role: "user", text, messages: 0 }, ...turns] };
  if (turns.length) return { system: "", turns };
  throw new BulletError("the conversation has no text: add a message of the user");
}

/** Token ids of a conversation; the oldest turns are left out if it has more than `room` tokens. */
function fitPrompt(tokenizer, system, turns, room) {
  const texts = turns.map((turn) => tokenizer.encode(turn.text));
  const sizes = texts.map((ids) => ids.length + 2); // the mark before it, and <|end|>
  sizes[sizes.length - 1] += turns.at(-1).role === "user" ? 1 : -1; // <|assistant|> follows, or no <|end|>
  const remaining = [...sizes];
  for (let i = remaining.length - 2; i >= 0; i--) remaining[i] += remaining[i + 1];
  const users = turns.flatMap((turn, number) => (turn.role === "user" ? [number] : []));
  const firstOfUser = (start) => users.find((number) => number >= start) ?? -1;
  const withSystem = (number) => (system ? tokenizer.encode(`${system}\n\n${turns[number].text}`) : texts[number]);
  const fits = (start) => {
    const user = firstOfUser(start);
    const longer = system ? withSystem(user).length - texts[user].length : 0;
    return 1 + remaining[start] + longer <= room;
  };
  const starts = [0, ...users.filter((number) => number > 0)];
  // A system text that leaves no room at all is not encoded again and again with each of the questions.
  const hopeless = system && tokenizer.encode(system).length >= room;
  let low = hopeless ? starts.length - 1 : 0;
  for (let high = starts.length - 1; low < high; ) {
    const middle = (low + high) >> 1;
    if (fits(starts[middle])) high = middle;
    else low = middle + 1;
  }
  const start = starts[low];
  const user = firstOfUser(start);
  const ids = [BOS];
  for (let number = start; number < turns.length; number++) {
    ids.push(ROLES[turns[number].role], ...(number === user ? withSystem(number) : texts[number]), END);
  }
  const omitted = turns.slice(0, start).reduce((sum, turn) => sum + turn.messages, 0);
  return { ids: turns.at(-1).role === "user" ? [...ids, ASSISTANT] : ids.slice(0, -1), omitted };
}

/** The largest number of prompt tokens that leaves room for half of the answer. */
function roomFor(window, maxTokens) {
  return window - Math.floor(Math.min(maxTokens, window) / 2);
}

/** The last `count` tokens or a few less, so that they begin with a whole letter. */
function lastTokens(tokenizer, ids, count) {
  const kept = count > 0 ? ids.slice(-count) : ids;
  for (let skipped = 0; skipped < Math.min(kept.length, 16); skipped++) {
    const first = [...tokenizer.decode(kept.slice(skipped, skipped + 8))][0] ?? " ";
    if (!/[\ufffd\p{M}\u200c\u200d]/u.test(first)) return kept.slice(skipped);
  }
  return kept;
}
