"""The chat template: how documents and conversations become tokens (docs/chat-template.md).

    document       <s> text </s>
    conversation   <s> <|user|> text <|end|> <|assistant|> text <|end|> ... </s>
    prompt         <s> <|user|> text <|end|> ... <|assistant|>

The marks are single tokens and cannot be written as text. Needs neither torch nor pydantic.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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

There the marks are found in the text, so a mark that somebody types counts as one. The final </s> is left out: those
programs compare a conversation with its continuation.
"""


def in_order(messages: Sequence[Mapping[str, object]]) -> list[Message]:
    """Messages as the template wants them, their text normalised as the training text was: `arrange` after `normalize`.

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
    """Messages with content as user and assistant in turn, beginning with the user.

    A system message goes before the first user text, with a blank line between; messages of one role in a row
    become one, a line each.

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
    """Token ids of a row of train.jsonl, and for each token whether answers-only training learns to predict it.

    In a conversation those are the assistant's texts and the marks that end them; in a text, all tokens.
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


def render(messages: Sequence[Mapping[str, object]]) -> str:
    """The template of `messages` as people read it; the tokens themselves come from `encode_prompt`."""
    turns = in_order(messages)
    text = "".join(f"<|{turn['role']}|>{turn['content']}<|end|>\n" for turn in turns)
    return SPECIAL_TOKENS[BOS] + text + ("<|assistant|>" if turns[-1]["role"] == "user" else SPECIAL_TOKENS[EOS])
