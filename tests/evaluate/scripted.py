"""A language model that knows a list of texts: the next token is the one after the longest end of the context that the list has."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bulletlm.runtime import Model, Sampling
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer

LONGEST = 16


class ScriptedCache:
    """The tokens so far; see `runtime.engine.Cache`."""

    nbytes = 0

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.tokens: list[int] = []


class ScriptedEngine:
    """An engine (`runtime.engine.Engine`) that continues what it finds in `texts`: token ids of whole documents, and their weights."""

    part = 256

    def __init__(self, shape: ModelShape, texts: Sequence[tuple[Sequence[int], int]]) -> None:
        self.shape = shape
        self.next: dict[tuple[int, ...], Counter[int]] = {}
        for text, weight in texts:
            for at in range(1, len(text)):
                for size in range(1, min(at, LONGEST) + 1):
                    self.next.setdefault(tuple(text[at - size : at]), Counter())[text[at]] += weight

    def new_cache(self, capacity: int | None = None) -> ScriptedCache:
        return ScriptedCache(capacity or self.shape.max_seq_len)

    def _logits(self, context: list[int]) -> np.ndarray:
        found = next((self.next[key] for n in range(LONGEST, 0, -1) if (key := tuple(context[-n:])) in self.next), Counter())
        probability = np.full(self.shape.vocab_size, 0.05 / self.shape.vocab_size)
        for token, count in found.items():
            probability[token] += 0.95 * count / found.total()
        return np.log(probability).astype(np.float32)

    def forward(self, tokens: Sequence[int], cache: ScriptedCache) -> np.ndarray:
        del cache.tokens[cache.length :]
        rows = []
        for token in tokens:
            cache.tokens.append(int(token))
            rows.append(self._logits(cache.tokens))
        cache.length = len(cache.tokens)
        return np.stack(rows)

    def prefill(self, tokens: Sequence[int], cache: ScriptedCache) -> np.ndarray:
        return self.forward(tokens, cache)[-1]

    def score(self, tokens: np.ndarray) -> np.ndarray:
        return np.stack([self.forward(row, self.new_cache()) for row in tokens])


def scripted_model(tokenizer: Tokenizer, shape: ModelShape, texts: Sequence[tuple[Sequence[int], int]]) -> Model:
    return Model(ScriptedEngine(shape, texts), tokenizer, shape, Sampling(), {})  # type: ignore[arg-type]
