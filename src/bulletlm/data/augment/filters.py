"""Filters for generated sentences: drop those of low quality and those that repeat validation text."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from bulletlm.data.augment.sentences import split_sentences, words_only
from bulletlm.errors import BulletError
from bulletlm.extras import install_command

if TYPE_CHECKING:
    from bulletlm.config.schema import AugmentConfig

RULES = {
    "no_answer": "the model returned nothing, or only punctuation",
    "unchanged": "the same words as before",
    "other_script": "fewer letters in the script of the old sentence: another language, or partly untranslated",
    "other_numbers": "the digits differ from those of the old sentence",
    "length_ratio": "much shorter or much longer than the old sentence (augment.length_ratio)",
    "chrf_low": "shares too few letter sequences with the old sentence: probably has another meaning (augment.chrf)",
    "chrf_high": "almost equal to the old sentence (augment.chrf)",
    "repeated": "the model gave the same answer for another sentence",
    "validation": "equal or nearly equal to a sentence of the validation set, or with eight words in a row from it",
}
"""Reasons for dropping a sentence, in the order in which the rules are applied."""

SCRIPT_LOSS = 0.2
"""The share of letters in the old sentence's script may fall by this much."""

SHINGLE = 5
"""Characters in the overlapping pieces by which sentences are compared with the validation set."""

NEAR = 0.7
"""Minimum share of common pieces at which a sentence counts as a near copy of a validation sentence."""

LONG = 20
"""For sentences of this many pieces or more, a sentence that contains the other one counts as a near copy too."""

RUN = 8
"""A text that shares this many consecutive words with a validation text is refused."""


class ValidationGuard:
    """Refuses sentences that repeat the validation set.

    A sentence is refused if it has the same words as a validation sentence, if at least the share NEAR of the pieces of the longer
    one (for sentences of LONG pieces or more: of the shorter one) is in both, or if RUN consecutive words are in a validation text.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._same: set[str] = set()
        self._sizes: list[int] = []
        self._holders: dict[int, list[int]] = {}
        self._runs: set[int] = set()
        for text in texts:
            self._runs |= _runs(words_only(text))
            for sentence in split_sentences(text)[::2]:
                words = words_only(sentence)
                if not words or words in self._same:
                    continue
                self._same.add(words)
                pieces = _shingles(words)
                for piece in pieces:
                    self._holders.setdefault(piece, []).append(len(self._sizes))
                self._sizes.append(len(pieces))

    def refuses(self, sentence: str) -> bool:
        """Whether `sentence` is too similar to a validation sentence."""
        words = words_only(sentence)
        if words in self._same or not self._runs.isdisjoint(_runs(words)):
            return True
        pieces = _shingles(words)
        common = Counter(holder for piece in pieces for holder in self._holders.get(piece, ()))
        return any(_is_near(count, len(pieces), self._sizes[holder]) for holder, count in common.items())


def _is_near(common: int, a: int, b: int) -> bool:
    smaller, larger = sorted((a, b))
    return common >= NEAR * larger or (smaller >= LONG and common >= NEAR * smaller)


def _shingles(words: str) -> set[int]:
    return {hash_of(words[at : at + SHINGLE]) for at in range(max(len(words) - SHINGLE + 1, 1))}


def _runs(words: str) -> set[int]:
    each = words.split()
    return {hash_of(" ".join(each[at : at + RUN])) for at in range(len(each) - RUN + 1)}


def hash_of(text: str) -> int:
    """A 64-bit hash, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Filters:
    """The filters for the sentences of one method; they remember its sentences to find repetitions."""

    def __init__(self, config: "AugmentConfig", guard: ValidationGuard) -> None:
        self._ratio, self._chrf, self._guard = config.length_ratio, config.chrf, guard
        self._score = _chrf()
        self._said: dict[int, int] = {}

    def objection(self, old: str, new: str) -> str | None:
        """The first rule of RULES that rejects `new` as a replacement for `old`; None if no rule does."""
        words = words_only(new)
        if not words:
            return "no_answer"
        if words == words_only(old):
            return "unchanged"
        script, share = main_script(old)
        if _share_of(new, script) < share - SCRIPT_LOSS:
            return "other_script"
        if _digits(old) != _digits(new):
            return "other_numbers"
        if not self._ratio[0] <= len(new) / len(old) <= self._ratio[1]:
            return "length_ratio"
        score = self._score(new, old)
        if score < self._chrf[0]:
            return "chrf_low"
        if score > self._chrf[1]:
            return "chrf_high"
        if self._said.setdefault(hash_of(words), hash_of(old)) != hash_of(old):
            return "repeated"
        if self._guard.refuses(new):
            return "validation"
        return None


def _chrf() -> Callable[[str, str], float]:
    """sacrebleu's chrF2 of a sentence against another: 0 for no common letter sequences, 100 for the same text."""
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise BulletError(f"augmentation needs sacrebleu for chrF, which is not installed: {install_command('augment')}") from None
    metric: Any = CHRF()

    def score(new: str, old: str) -> float:
        value: float = metric.sentence_score(new, [old]).score
        return value

    return score


def main_script(text: str) -> tuple[str, float]:
    """The script with most letters, as Unicode names it ("DEVANAGARI"), and its share of the letters; "" and 0 without letters."""
    counts = Counter(script for character in text if (script := _script(character)))
    if not counts:
        return "", 0.0
    script, count = counts.most_common(1)[0]
    return script, count / counts.total()


def _share_of(text: str, script: str) -> float:
    scripts = [name for character in text if (name := _script(character))]
    return scripts.count(script) / len(scripts) if scripts else 0.0


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


def _digits(text: str) -> Counter[int]:
    """How often each digit occurs, in any script: १२ and 12 are the same."""
    return Counter(unicodedata.digit(character) for character in text if character.isdecimal())
