"""Makes prompts that fit into a model's context, and reports what was left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bulletlm.errors import DataError
from bulletlm.runtime.model import Model
from bulletlm.text.chat import fit_prompt, system_and_last_user
from bulletlm.text.normalize import normalize
from bulletlm.text.stream import JOINERS
from bulletlm.text.tokenizer import ASSISTANT, BOS, END, USER, Tokenizer


class Prompt(NamedTuple):
    """The tokens that a model reads before it answers.

    Attributes:
        ids: token ids, not more than the context holds.
        keep: tokens at the beginning that must stay when the context is full: marks and system text (`Session.generate`).
        omitted_messages: the oldest messages, which were left out.
        omitted_tokens: tokens that were left out at the beginning of the last message of the user, or of the text.
    """

    ids: list[int]
    keep: int
    omitted_messages: int = 0
    omitted_tokens: int = 0

    def note(self, model: Model) -> str | None:
        """One line for the user about what was left out; None if nothing was."""
        window = model.shape.max_seq_len
        if self.omitted_tokens:
            what = f"the first {self.omitted_tokens:,} tokens of the text were left out"
        elif self.omitted_messages:
            count = self.omitted_messages
            what = f"the oldest {count} messages were left out" if count > 1 else "the oldest message was left out"
        else:
            return None
        return f"the prompt is longer than the context of this model ({window:,} tokens, which must also hold the answer): {what}"


def chat_prompt(model: Model, messages: Sequence[Mapping[str, object]], max_tokens: int) -> Prompt:
    """The prompt for an answer to `messages`, whose last one is the user's.

    Half of the answer has room in the context, too. What does not fit is left out in this order: the oldest turns; then, if the last
    message of the user alone is longer than the context, its beginning. The marks of the roles and the system text are always kept.

    Args:
        model: the loaded model.
        messages: role and content; see `text.chat.fit_prompt`.
        max_tokens: tokens of the answer at most.

    Raises:
        DataError: a message has an unknown role, there is no text, or the system text alone is longer than the context.
    """
    window, room, tokenizer = model.shape.max_seq_len, _room(model, max_tokens), model.tokenizer
    fitted = fit_prompt(tokenizer, messages, room)
    system, text = system_and_last_user(messages)
    head = [BOS, USER, *(tokenizer.encode(f"{system}\n\n") if system else ())]
    if len(fitted.ids) <= window:
        return Prompt(fitted.ids, min(len(head), len(fitted.ids)), fitted.omitted)
    tail = [END, ASSISTANT]
    ids = tokenizer.encode(text)
    left = room - len(head) - len(tail)
    if left < 1:
        raise DataError(
            f"the system text has {len(head) - 2:,} tokens, but the context of this model has {window:,} and must also hold a question and "
            f"an answer: shorten it"
        )
    kept = _last(tokenizer, ids, left)
    return Prompt([*head, *kept, *tail], len(head), fitted.omitted, len(ids) - len(kept))


def text_prompt(model: Model, text: str, max_tokens: int) -> Prompt:
    """The prompt for a continuation of `text`. If it is longer than the context, its beginning is left out."""
    ids = model.tokenizer.encode(normalize(text))
    if len(ids) + 1 <= model.shape.max_seq_len:
        return Prompt([BOS, *ids], 1)
    kept = _last(model.tokenizer, ids, _room(model, max_tokens) - 1)
    return Prompt([BOS, *kept], 1, 0, len(ids) - len(kept))


def _room(model: Model, max_tokens: int) -> int:
    """Return the largest number of prompt tokens that leaves room for half of the answer."""
    window = model.shape.max_seq_len
    return window - min(max_tokens, window) // 2


def _last(tokenizer: Tokenizer, ids: list[int], count: int) -> list[int]:
    """Return the last `count` tokens or a few less, so that they begin with a whole letter."""
    kept = ids[-count:]
    for skipped in range(min(len(kept), 16)):
        first = tokenizer.decode(kept[skipped : skipped + 8])[:1]
        if first != "\ufffd" and not unicodedata.category(first or " ").startswith("M") and first not in JOINERS:
            return kept[skipped:]
    return kept
