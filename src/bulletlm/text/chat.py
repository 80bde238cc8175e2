"""The chat template: how documents and conversations become tokens (docs/chat-template.md).

    document       <s> text </s>
    conversation   <s> <|user|> text <|end|> <|assistant|> text <|end|> ... </s>
    prompt         <s> <|user|> text <|end|> ... <|assistant|>

The marks are single tokens that ordinary text cannot produce. This module needs neither torch nor pydantic.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from bulletlm.errors import DataError
from bulletlm.text.documents import Document, Message, texts_of
from bulletlm.text.normalize import normalize
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, EOS, SPECIAL_TOKENS, USER, Tokenizer

ROLES = {"user": USER, "assistant": ASSISTANT}

CHAT_TEMPLATE = r"""{%- set ns = namespace(system='', role='') -%}
{%- for message in messages if message['role'] == 'system' -%}
{%- set ns.system = ns.system + (message['content'] | trim) + '\n' -%}
{%- endfor -%}
{{- bos_token -}}
{%- for message in messages if message['role'] != 'system' -%}
{%- if message['role'] == ns.role -%}
{{- '\n' -}}
{%- else -%}
{%- if ns.role -%}{{- '<|end|>' -}}{%- endif -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if ns.system and message['role'] == 'user' -%}
{{- ns.system + '\n' -}}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endif -%}
{{- message['content'] | trim -}}
{%- set ns.role = message['role'] -%}
{%- endfor -%}
{%- if ns.role -%}{{- '<|end|>' -}}{%- endif -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""
"""`encode_prompt` as a Jinja template, for programs that read a model in other formats (llama.cpp, transformers).

These programs search the text for marks, so a mark that a user types is treated as a mark. The final </s> is left out,
because these programs compare a conversation with its continuation.
"""


def in_order(messages: Sequence[Mapping[str, object]]) -> list[Message]:
    """Messages in the form that the template needs, with text normalized like the training text: `arrange` after `normalize`.

    Raises:
        DataError: unknown role, missing or empty content, an answer before any question.
    """
    normalized = []
    for number, message in enumerate(messages, 1):
        content = message.get("content")
        if not isinstance(content, str):
            raise DataError(f'message {number} has no text: it needs {{"role": "user", "content": "..."}}')
        content = normalize(content)
        if not content:
            raise DataError(f"message {number} is empty: write something")
        normalized.append({"role": message.get("role"), "content": content})
    return arrange(normalized)


def arrange(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages with content, alternating between user and assistant, beginning with the user.

    A system message goes before the first user text, with a blank line between; consecutive messages of one role
    become one message, one line each.

    Raises:
        DataError: unknown role, an answer before any question.
    """
    turns: list[Message] = []
    system: list[str] = []
    for number, message in enumerate(messages, 1):
        role, content = message["role"], message["content"]
        if role == "system":
            system.append(content)
        elif role not in ROLES:
            raise DataError(f"message {number} has the role {role!r}: use system, user or assistant")
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n" + content
        else:
            turns.append({"role": str(role), "content": content})
    if not turns or turns[0]["role"] != "user":
        raise DataError("a conversation begins with a message of the user: add one")
    if system:
        turns[0]["content"] = "\n".join(system) + "\n\n" + turns[0]["content"]
    return turns


def encode_document(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[bool]]:
    """Token ids of a row of train.jsonl, and for each token whether it counts in the loss with loss_on = "answers".

    In a conversation, the assistant's texts and the marks that end them count; in a text, all tokens.
    """
    return encode_documents(tokenizer, [document])[0]


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[tuple[list[int], list[bool]]]:
    """`encode_document` for many rows at once, which is several times faster."""
    encoded = iter(tokenizer.encode_batch([text for document in documents for text in texts_of(document)]))
    rows = []
    for document in documents:
        if "messages" not in document:
            ids = [BOS, *next(encoded), EOS]
            rows.append((ids, [True] * len(ids)))
            continue
        ids, learn = [BOS], [False]
        for message in document["messages"]:
            text = next(encoded)
            ids += [ROLES[message["role"]], *text, END]
            learn += [False, *[message["role"] == "assistant"] * (len(text) + 1)]
        rows.append(([*ids, EOS], [*learn, True]))
    return rows


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Mapping[str, object]]) -> list[int]:
    """Token ids of a conversation that waits for an answer; generation stops at END or EOS.

    Raises:
        DataError: as `in_order`; or the last message is not the user's.
    """
    turns = in_order(messages)
    if turns[-1]["role"] != "user":
        raise DataError("the last message must be the user's: the model writes the answer")
    ids = [BOS]
    for turn, text in zip(turns, tokenizer.encode_batch([turn["content"] for turn in turns]), strict=True):
        ids += [ROLES[turn["role"]], *text, END]
    return [*ids, ASSISTANT]


class FittedPrompt(NamedTuple):
    """A prompt shortened to the available number of tokens.

    Attributes:
        ids: token ids.
        omitted: number of messages at the beginning of the conversation that were left out.
    """

    ids: list[int]
    omitted: int


class _Turn(NamedTuple):
    """Consecutive messages of one role: their text and their number."""

    role: str
    text: str
    messages: int


def fit_prompt(tokenizer: Tokenizer, messages: Sequence[Mapping[str, object]], room: int) -> FittedPrompt:
    """Token ids of a conversation as programs send it; the oldest turns are left out if it has more than `room` tokens.

    A conversation that `encode_prompt` accepts gives the same ids. In addition:

    - Messages without text are left out, except the last one if it is the user's.
    - The conversation may begin with an answer.
    - If it ends with text of the assistant, the model continues that text.
    - The role "developer" means "system". Without a message of the user, the system text takes its place.

    System text and the last turn of the user are always kept, so the result may have more than `room` tokens.

    Raises:
        DataError: an unknown role, no text at all, or an empty last message of the user.
    """
    system, turns = _open_turns(messages)
    texts = tokenizer.encode_batch([turn.text for turn in turns])
    sizes = [len(ids) + 2 for ids in texts]  # the mark before it, and <|end|>
    sizes[-1] += 1 if turns[-1].role == "user" else -1  # <|assistant|> follows, or no <|end|>
    remaining = [*accumulate(reversed(sizes))][::-1]  # tokens from each turn to the end
    users = [number for number, turn in enumerate(turns) if turn.role == "user"]

    def first_of_user(start: int) -> int:
        return next((number for number in users if number >= start), -1)

    def with_system(number: int) -> list[int]:
        return tokenizer.encode(f"{system}\n\n{turns[number].text}") if system else texts[number]

    def fits(start: int) -> bool:
        user = first_of_user(start)
        longer = len(with_system(user)) - len(texts[user]) if system else 0
        return 1 + remaining[start] + longer <= room

    starts = [0, *(number for number in users if number > 0)]
    # A system text that leaves no room at all is not encoded again and again with each of the questions.
    hopeless = system and len(tokenizer.encode(system)) >= room
    start = starts[-1 if hopeless else min(bisect_left(starts, True, key=fits), len(starts) - 1)]
    user = first_of_user(start)
    ids = [BOS]
    for number in range(start, len(turns)):
        ids += [ROLES[turns[number].role], *(with_system(number) if number == user else texts[number]), END]
    omitted = sum(turn.messages for turn in turns[:start])
    return FittedPrompt([*ids, ASSISTANT] if turns[-1].role == "user" else ids[:-1], omitted)


def system_and_last_user(messages: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    """The normalized system text of a conversation ("" if there is none), and the text of the user's last turn, as `fit_prompt` sees them.

    Raises:
        DataError: as `fit_prompt`.
    """
    system, turns = _open_turns(messages)
    return system, next((turn.text for turn in reversed(turns) if turn.role == "user"), "")


def _open_turns(messages: Sequence[Mapping[str, object]]) -> tuple[str, list[_Turn]]:
    """The normalized system text, and the turns of user and assistant, at least one: see `fit_prompt`."""
    system, turns = list[str](), list[_Turn]()
    skipped = 0  # messages without text, which are counted with the next turn
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "developer", *ROLES):
            raise DataError(f"message {number} has the role {role!r}: use system, user or assistant")
        text = normalize(content) if isinstance(content, str) else ""
        if role in ("system", "developer"):
            system += [text] if text else []
        elif not text:
            if role == "user" and number == len(messages):
                raise DataError(f"message {number} is empty: write something")
            skipped += 1
        elif turns and turns[-1].role == role:
            turns[-1] = _Turn(str(role), f"{turns[-1].text}\n{text}", turns[-1].messages + skipped + 1)
            skipped = 0
        else:
            turns.append(_Turn(str(role), text, skipped + 1))
            skipped = 0
    text = "\n".join(system)
    if any(turn.role == "user" for turn in turns):
        return text, turns
    if text:
        return "", [_Turn("user", text, 0), *turns]
    if turns:
        return "", turns
    raise DataError("the conversation has no text: add a message of the user")


def render(messages: Sequence[Mapping[str, object]]) -> str:
    """The template of `messages` in readable form; `encode_prompt` gives the tokens."""
    turns = in_order(messages)
    text = "".join(f"<|{turn['role']}|>{turn['content']}<|end|>\n" for turn in turns)
    return SPECIAL_TOKENS[BOS] + text + ("<|assistant|>" if turns[-1]["role"] == "user" else SPECIAL_TOKENS[EOS])
