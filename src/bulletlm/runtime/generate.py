"""From a prompt to tokens, and from tokens to text that is whole at every moment."""

import codecs
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bulletlm.errors import BulletError
from bulletlm.runtime.engine import Engine, Model
from bulletlm.runtime.native import NativeEngine, NativeSampler
from bulletlm.runtime.sampling import Sampling, sample

RANDOM_STREAM = 5
"""Keeps the draws of generation apart from every other use of the same seed."""

STREAM_SECONDS = 0.01
"""The native engine draws as many tokens in one call as fit into this time: a call costs a microsecond or two."""

Draw = Callable[[list[int], Any, int], list[int]]

VIRAMA = 9
"""Canonical combining class of the viramas, which join a consonant to the next one."""

JOINERS = "\u200c\u200d"
ZERO_WIDTH_JOINER = "\u200d"


def generate(model: Model, prompt_ids: Sequence[int], sampling: Sampling, stop_ids: Collection[int]) -> Iterator[int]:
    """Continue `prompt_ids` token by token, until one of `stop_ids` (which is not given out) or sampling.max_tokens.

    When the model's context is full, the oldest half of it is dropped, but never its beginning (the first quarter
    of the context, as far as the prompt reaches: <s> and the first words); what remains is read again. A prompt
    longer than the context is shortened in the same way.

    Raises:
        BulletError: the prompt is empty, or the weights are damaged.
    """
    if not prompt_ids:
        raise BulletError("the prompt is empty: give the model at least one token to continue")
    window = model.shape.max_seq_len
    beginning = min(len(prompt_ids), window // 4)
    context = unread = list(prompt_ids)
    history = [token for token in prompt_ids if token not in stop_ids]  # or a chat would unlearn to end its turns
    draw = _drawing(model.engine, sampling, history, stop_ids)
    cache = model.engine.new_cache()
    left, at_once = sampling.max_tokens, 1
    while left:
        if len(context) > window:
            context = unread = _shortened(context, beginning, window)
            cache.length = 0
        started = time.monotonic()
        tokens = draw(unread, cache, min(at_once, left))
        at_once = 2 * at_once if time.monotonic() - started < STREAM_SECONDS / 2 else max(1, at_once // 2)
        for token in tokens:
            if token in stop_ids:
                return
            yield token
        unread = tokens[-1:]
        context += tokens
        left -= len(tokens)


def _drawing(engine: Engine | NativeEngine, sampling: Sampling, history: Sequence[int], stop_ids: Collection[int]) -> Draw:
    """The function that reads tokens into a cache and draws the next ones: up to a given number, at least one, up to a stop."""
    rng = np.random.default_rng([sampling.seed, RANDOM_STREAM])
    if isinstance(engine, NativeEngine):
        sampler = NativeSampler(sampling, rng, history, engine.shape.vocab_size)
        return lambda unread, cache, count: engine.generate(unread, cache, sampler, stop_ids, count)
    so_far = list(history)

    def draw_one(unread: list[int], cache: Any, count: int) -> list[int]:
        token = sample(engine.prefill(unread, cache), so_far, sampling, rng)
        so_far.append(token)
        return [token]

    return draw_one


def _shortened(context: list[int], beginning: int, window: int) -> list[int]:
    """The first `beginning` tokens and as many of the last as leave half of the rest of the window free."""
    recent = max(1, (window - beginning) // 2)
    return context[:beginning] + context[beginning:][-recent:]


def stream_text(model: Model, ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids` in pieces as they come, each made of whole letters.

    A letter is held back until the next one begins: a UTF-8 character may lack bytes, a Devanagari letter (or any
    other with combining signs) may still get a vowel sign, or a virama and another consonant. All pieces together are
    exactly `tokenizer.decode(ids)`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held = ""
    for token in ids:
        held += decoder.decode(model.tokenizer.decode_bytes([token]))
        start = _last_letter(held)
        if start:
            yield held[:start]
            held = held[start:]
    held += decoder.decode(b"", final=True)
    if held:
        yield held


def _last_letter(text: str) -> int:
    """Where the last letter of `text` begins; 0 for an empty text."""
    return next((i for i in range(len(text) - 1, 0, -1) if _begins_letter(text[i - 1], text[i])), 0)


def _begins_letter(before: str, character: str) -> bool:
    """Whether a new letter (an extended grapheme cluster, for our purposes) begins at `character`."""
    if unicodedata.category(character).startswith("M") or character in JOINERS:
        return False
    if before == ZERO_WIDTH_JOINER:
        return False
    joined = unicodedata.combining(before) == VIRAMA and character.isalpha()
    return not joined and (before, character) != ("\r", "\n")
