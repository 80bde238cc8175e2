"""Generates tokens and text from a prompt."""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from bulletlm.errors import BulletError, ConfigError
from bulletlm.runtime.model import Model
from bulletlm.runtime.native import NativeEngine, NativeSampler
from bulletlm.runtime.random import seeded
from bulletlm.runtime.sampling import LetterRules, Sampling, sample
from bulletlm.text.akshara import akshara_rules
from bulletlm.text.stream import TextStream
from bulletlm.text.tokenizer import END, EOS

if TYPE_CHECKING:
    from bulletlm.runtime.engine import Cache, Engine, Floats

RANDOM_STREAM = 5
"""Keeps the draws of generation apart from every other use of the same seed."""

STREAM_SECONDS = 0.01
"""Seconds that one call of the native engine may take; a call has an overhead of one or two microseconds."""

MAX_LOGITS = 1 << 22
"""Logits in memory at the same time when a prompt is scored: 16 MiB."""

Score = tuple[float | None, tuple[tuple[int, float], ...]]
"""Log-probability of a token, and the likeliest ones with theirs."""

Draw = Callable[[list[int], Any, int], tuple[list[int], list[Score] | None]]
"""Tokens to read, the cache they go into, tokens to draw at most -> the tokens drawn, with scores if wanted."""

NO_SCORE: Score = (None, ())


class Token(NamedTuple):
    """One generated token.

    Attributes:
        id: the token.
        text: the text that became final with it, in whole letters; often empty. All of them together are the answer.
        logprob: natural logarithm of the probability that the model gave it (before penalties, temperature and the rest), or
            None if not asked for.
        top: the likeliest tokens in its place with their log-probabilities, likeliest first.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class _Limits(NamedTuple):
    """The conditions that end an answer, and the number of tokens at the start of its prompt that stay when the context is full."""

    max_tokens: int
    stop: Sequence[str]
    stop_ids: Collection[int]
    keep: int
    give_stop: bool


class Session:
    """One sequence with its KV cache.

    A session belongs to one thread at a time, and generates one answer at a time. Many sessions of one model may run in
    different threads at once.

    Args:
        model: the loaded model.
        shift: when the context is full, discard the oldest tokens and continue; otherwise generation ends there.

    Attributes:
        finish_reason: why the last answer ended: "stop" (a stop token or stop string) or "length" (max_tokens, or the context
            is full); None while it has not ended.
        reused: tokens of the last prompt that did not have to be read again.
        prompt_tokens: length of the last prompt.
        completion_tokens: number of tokens generated since then.
        ahead: number of next tokens that are already computed.
    """

    def __init__(self, model: Model, *, shift: bool = True) -> None:
        self.model, self.shift = model, shift
        self.finish_reason: str | None = None
        self.reused = self.prompt_tokens = self.completion_tokens = self.ahead = 0
        self._cache: Cache = model.engine.new_cache()
        # The cache holds the first cache.length tokens of this list, which may be longer. This always holds, so an
        # answer can be cancelled at any point, also by Ctrl-C.
        self._read: list[int] = []
        self._to_read: list[int] = []  # the prompt, until the answer begins

    @property
    def nbytes(self) -> int:
        """Bytes that the cache takes."""
        return self._cache.nbytes

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        stop: Sequence[str] = (),
        stop_ids: Collection[int] = (END, EOS),
        logprobs: int | None = None,
        keep: int = 0,
        give_stop: bool = False,
    ) -> Iterator[Token]:
        """Continue `prompt` token by token; close the iterator to cancel.

        The tokens that this prompt has in common with what the session has read are not read again. When the context is
        full, the first `keep` tokens and the later half of the others stay and are read again; generation continues from them
        as from a new prompt. A prompt longer than the context is shortened in the same way.

        Args:
            prompt: token ids, at least one.
            sampling: how tokens are chosen, and the largest number of tokens.
            stop: strings that end the answer; they are not part of it. They are found in normalized text too (NFC).
            stop_ids: tokens that end the answer; they are not given out.
            logprobs: give log-probabilities, and those of this many likeliest tokens.
            keep: tokens at the beginning that are never dropped (the system text); at most half of the context.
            give_stop: also give out the token of `stop_ids` that ends the answer; it has no text.

        Raises:
            BulletError: the prompt is empty, has ids outside the vocabulary, or does not fit (with shift=False); later on, that
                the weights are damaged.
            ConfigError: a stop string is empty, logprobs is out of range, or logit_bias names a token that is not there.
        """
        vocabulary, window = self.model.shape.vocab_size, self.model.shape.max_seq_len
        if not prompt:
            raise BulletError("the prompt is empty: give the model at least one token to continue")
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise BulletError(f"the prompt has a token that is not in the vocabulary: ids are from 0 to {vocabulary - 1}")
        if len(prompt) > window and not self.shift:
            raise BulletError(f"the prompt has {len(prompt)} tokens, but the model's context is {window}: shorten it")
        if not all(stop):
            raise ConfigError("a stop string is empty: leave it out")
        if logprobs is not None and not 0 <= logprobs <= vocabulary:
            raise ConfigError(f"logprobs is {logprobs}: it must be from 0 to {vocabulary}")
        draw = _drawing(self.model, sampling, prompt, stop_ids, logprobs)
        self.finish_reason, self.prompt_tokens, self.completion_tokens = None, len(prompt), 0
        context = self._shortened(list(prompt), keep)
        self.reused, self.ahead, self._to_read = self._in_common(context), 0, context
        return self._answer(context, draw, _Limits(sampling.max_tokens, _spellings(stop), stop_ids, keep, give_stop))

    def read(self) -> bool:
        """Read one part of the prompt of `generate`, before its first token is requested. Return whether more parts are left.

        Without it, the whole prompt is read before the first token. A program that wants to do other work in between, or to
        stop, calls this until there are no more parts. The tokens are the same.
        """
        if not self._to_read:
            return False
        unread, part = self._unread(self._to_read), self.model.engine.part
        if len(unread) > part:
            self.model.engine.prefill(unread[:part], self._cache)
        return len(unread) > 2 * part

    def score(self, prompt: Sequence[int], top: int) -> Iterator[list[Token]]:
        """The log-probability of each token of `prompt` after those before it, one part of the prompt after the other.

        The first token has none, because nothing comes before it. The session has then read the prompt except its last token, so
        `generate` with the same prompt reads one token.

        Args:
            prompt: token ids, at least one and at most the model's context length.
            top: also give the likeliest tokens in each place, this many.

        Raises:
            BulletError: the prompt is empty or too long, or has ids outside the vocabulary.
            ConfigError: `top` is out of range.

        Reading the parts raises BulletError if the weights are damaged.
        """
        vocabulary, window = self.model.shape.vocab_size, self.model.shape.max_seq_len
        if not 1 <= len(prompt) <= window or not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise BulletError(f"a prompt must have 1 to {window} tokens with ids from 0 to {vocabulary - 1}")
        if not 0 <= top <= vocabulary:
            raise ConfigError(f"logprobs is {top}: it must be from 0 to {vocabulary}")
        return self._score(list(prompt), top)

    def _score(self, prompt: list[int], top: int) -> Iterator[list[Token]]:
        text, engine = TextStream(self.model.tokenizer, ()), self.model.engine
        size = max(1, min(engine.part, MAX_LOGITS // self.model.shape.vocab_size))
        self._cache.length, self._read = 0, prompt
        scores = [NO_SCORE]
        for at in range(0, len(prompt), size):
            unread = prompt[at : min(at + size, len(prompt) - 1)]
            if unread:
                logits = engine.forward(unread, self._cache)
                if not all(math.isfinite(row.max()) for row in logits):
                    raise BulletError("the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
                following = prompt[at + 1 : at + 1 + len(unread)]
                scores += [_score(row, token, top) for row, token in zip(logits, following, strict=True)]
            ids = prompt[at : at + size]
            tokens = [Token(token, text.add(token), *score) for token, score in zip(ids, scores, strict=False)]
            del scores[: len(ids)]
            if at + size >= len(prompt):
                tokens[-1] = tokens[-1]._replace(text=tokens[-1].text + text.finish())
            yield tokens

    def _answer(self, context: list[int], draw: Draw, limits: _Limits) -> Iterator[Token]:
        left, stop, stop_ids, keep, give_stop = limits
        self._to_read = []
        text = TextStream(self.model.tokenizer, stop)
        # `last` is held back until it is known whether it is the last token, because the last one gets the remaining text.
        last: Token | None = None
        window, at_once = self.model.shape.max_seq_len, 1
        while left and (len(context) <= window or self.shift):
            context = self._shortened(context, keep)
            started = time.monotonic()
            ids, scores = draw(self._unread(context), self._cache, min(at_once, left))
            at_once = 2 * at_once if time.monotonic() - started < STREAM_SECONDS / 2 else max(1, at_once // 2)
            context += ids  # this is the same list as self._read
            left -= len(ids)
            self.ahead = len(ids)
            for token, score in zip(ids, scores or repeat(NO_SCORE), strict=False):
                self.ahead -= 1
                if token in stop_ids:
                    yield from self._end("stop", last, text.finish())
                    if give_stop:
                        yield from self._end("stop", Token(token, "", *score), "")
                    return
                before = len(text.held)
                part = text.add(token)
                if text.stopped and len(part) <= before:  # all of this token belongs to the stop string
                    yield from self._end("stop", last, part)
                    return
                if last:
                    self.completion_tokens += 1
                    yield last
                last = Token(token, part, *score)
                if text.stopped:
                    yield from self._end("stop", last, "")
                    return
        yield from self._end("length", last, text.finish())

    def _end(self, reason: str, last: Token | None, text: str) -> Iterator[Token]:
        self.finish_reason = reason
        if last:
            self.completion_tokens += 1
            yield last._replace(text=last.text + text)

    def _in_common(self, context: Sequence[int]) -> int:
        """Return the number of tokens of `context` that are in the cache, without the last one, whose logits are needed."""
        most: int = min(self._cache.length, len(self._read), len(context) - 1)
        if self._read is context or self._read[:most] == context[:most]:
            return most
        return next(i for i in range(most) if self._read[i] != context[i])

    def _unread(self, context: list[int]) -> list[int]:
        """Shorten the cache to the prefix that it shares with `context`, and return the tokens that must be read."""
        reused = self._in_common(context)
        if self._cache.length > reused:
            self._cache.length = reused
        self._read = context
        return context[reused:]

    def _shortened(self, context: list[int], keep: int) -> list[int]:
        """`context` if the model has room for it; else its first `keep` tokens and as many of the last as leave half free."""
        window = self.model.shape.max_seq_len
        if len(context) <= window:
            return context
        keep = min(keep, window // 2)
        recent = max(1, (window - keep) // 2)
        return context[:keep] + context[keep:][-recent:]


def _spellings(stop: Sequence[str]) -> Sequence[str]:
    """Stop strings as they were given and in NFC, as models write: क़ may come as one character, and NFC has it as two."""
    return stop if all(map(str.isascii, stop)) else [*dict.fromkeys([*stop, *(unicodedata.normalize("NFC", text) for text in stop)])]


def generate(model: Model, prompt_ids: Sequence[int], sampling: Sampling, stop_ids: Collection[int] = (END, EOS)) -> Iterator[int]:
    """The ids that a new session generates; its prompt's beginning, up to a quarter of the context, is never forgotten.

    Raises:
        BulletError: see `Session.generate`.
    """
    keep = min(len(prompt_ids), model.shape.max_seq_len // 4)
    return (token.id for token in Session(model).generate(prompt_ids, sampling, stop_ids=stop_ids, keep=keep))


def _drawing(model: Model, sampling: Sampling, prompt: Sequence[int], stop_ids: Collection[int], logprobs: int | None) -> Draw:
    """The function that reads tokens into a cache and draws the next ones: up to a given number, at least one, up to a stop."""
    engine, vocabulary = model.engine, model.shape.vocab_size
    highest = max(sampling.logit_bias, default=0)
    if highest >= vocabulary:
        raise ConfigError(f"logit_bias names token {highest}, but the vocabulary ends at {vocabulary - 1}")
    history = [token for token in prompt if token not in stop_ids]  # a penalty on these would keep a chat from ending its turns
    letters = None
    if sampling.whole_letters:
        after, ends = akshara_rules(model.tokenizer)
        letters = LetterRules(after, ends, ends[prompt[-1]])
    if isinstance(engine, NativeEngine) and logprobs is None:
        sampler = NativeSampler(sampling, seeded([sampling.seed, RANDOM_STREAM]), history, vocabulary, letters)
        return lambda unread, cache, count: (engine.generate(unread, cache, sampler, stop_ids, count), None)
    return _drawing_one(engine, sampling, history, letters, logprobs)


def _drawing_one(engine: Engine[Any], sampling: Sampling, history: list[int], letters: LetterRules | None, logprobs: int | None) -> Draw:
    import numpy as np

    rng = np.random.default_rng([sampling.seed, RANDOM_STREAM])
    after, ends = (np.frombuffer(table, np.uint8) for table in (letters[:2] if letters else (b"", b"")))
    before = letters.before if letters else 0

    def draw_one(unread: list[int], cache: Any, count: int) -> tuple[list[int], list[Score] | None]:
        nonlocal before
        logits = engine.prefill(unread, cache)
        allowed = logits
        if letters:
            allowed = np.where((after == 0) | (after & before != 0), logits, np.float32(-np.inf))
        token = sample(allowed, history, sampling, rng)
        history.append(token)
        if letters:
            before = int(ends[token])
        return [token], None if logprobs is None else [_score(logits, token, logprobs)]

    return draw_one


def _score(logits: Floats, token: int, count: int) -> Score:
    import numpy as np

    wide = logits.astype(np.float64)
    logs = wide - wide.max()
    logs -= np.log(np.exp(logs).sum())
    if not count:
        return float(logs[token]), ()
    candidates = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    likeliest = candidates[np.argsort(-logits[candidates], kind="stable")][:count]
    return float(logs[token]), tuple((int(i), float(logs[i])) for i in likeliest)
