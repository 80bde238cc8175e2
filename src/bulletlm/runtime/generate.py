"""From a prompt to tokens, and from tokens to text that is whole at every moment."""

import codecs
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from bulletlm.errors import BulletError
from bulletlm.runtime.engine import Model
from bulletlm.runtime.sampling import Sampling, sample

RANDOM_STREAM = 5
"""Keeps the draws of generation apart from every other use of the same seed."""

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
    rng = np.random.default_rng([sampling.seed, RANDOM_STREAM])
    window = model.shape.max_seq_len
    beginning = min(len(prompt_ids), window // 4)
    context = unread = list(prompt_ids)
    history = [token for token in prompt_ids if token not in stop_ids]  # or a chat would unlearn to end its turns
    cache = model.engine.new_cache()
    for _ in range(sampling.max_tokens):
        if len(context) > window:
            context = unread = _shortened(context, beginning, window)
            cache.length = 0
        token = sample(model.engine.prefill(unread, cache), history, sampling, rng)
        if token in stop_ids:
            return
        yield token
        unread = [token]
        context.append(token)
        history.append(token)


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
