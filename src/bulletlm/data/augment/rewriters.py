"""Rewriters: sources of paraphrases (a file of pairs, a paraphrase model, or back-translation)."""

import gzip
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bulletlm.data.augment.backends import Backend, open_backend
from bulletlm.data.augment.cache import Cache, key_of
from bulletlm.data.augment.filters import hash_of
from bulletlm.data.augment.sentences import words_only
from bulletlm.errors import ConfigError
from bulletlm.files import expand_home
from bulletlm.text.normalize import normalize_line

if TYPE_CHECKING:
    from bulletlm.config.schema import AugmentConfig


class Rewriter(Protocol):
    """One method of paraphrasing sentences.

    Attributes:
        name: the name in rows and reports.
        language: the language that it supports; None for any.
        share: the share of the documents in that language that it receives.
        models: the locations of its models, as given in the configuration.
    """

    name: str
    language: str | None
    share: float
    models: list[str]

    def rewrite(self, sentences: Sequence[str], done: Callable[[float], None]) -> dict[str, str]:
        """Return old sentence -> new one, without sentences that have no paraphrase; `done` receives the completed share of the work."""


class Pairs:
    """Paraphrases from files of pairs, used in both directions; if a sentence has several, a hash chooses one.

    Raises:
        ConfigError: a file cannot be read, or contains no pair.
    """

    name = "paraphrase pairs"
    language: str | None = None
    share = 1.0

    def __init__(self, files: Sequence[str], seed: int) -> None:
        self.models = list(files)
        self.lines_skipped = 0
        self._seed = seed
        self._known: dict[str, list[str]] = {}
        for file in files:
            if not self._read(file):
                raise ConfigError(f"augment.paraphrase_pairs: {file} has no line with two columns, a sentence<TAB>its paraphrase")

    def _read(self, file: str) -> int:
        pairs = 0
        for line in _lines(expand_home(file)):
            columns = [normalize_line(column) for column in line.split("\t")]
            if len(columns) != 2 or not all(columns):
                self.lines_skipped += bool(line.strip())
                continue
            pairs += 1
            for old, new in (columns, columns[::-1]):
                known = self._known.setdefault(words_only(old), [])
                if new not in known:
                    known.append(new)
        return pairs

    def rewrite(self, sentences: Sequence[str], done: Callable[[float], None]) -> dict[str, str]:
        """See `Rewriter`."""
        found = {}
        for sentence in sentences:
            if known := self._known.get(words_only(sentence)):
                found[sentence] = known[hash_of(f"{self._seed} {sentence}") % len(known)]
        done(1.0)
        return found


def _lines(path: Path) -> Iterable[str]:
    openers: dict[str, Callable[..., Iterable[bytes]]] = {".gz": gzip.open, ".xz": lzma.open}
    try:
        with openers.get(path.suffix, open)(path, "rb") as file:
            for line in file:
                yield line.decode("utf-8").rstrip("\r\n")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"augment.paraphrase_pairs: cannot read {path} ({reason}): name a UTF-8 file of pairs") from None


@dataclass(frozen=True)
class Step:
    """One step of a chain: a model, and the languages of its input and output."""

    backend: Backend
    source: str
    target: str


class Models:
    """One model, or a chain of models; the answers of each batch are cached as soon as the batch is done."""

    def __init__(self, name: str, models: list[str], share: float, steps: list[Step], batch: int, cache: Cache) -> None:
        self.name, self.models, self.share = name, models, share
        self.language: str | None = steps[0].source
        self.from_cache = 0
        self._steps, self._batch, self._cache = steps, batch, cache

    def rewrite(self, sentences: Sequence[str], done: Callable[[float], None]) -> dict[str, str]:
        """See `Rewriter`."""
        current = {sentence: sentence for sentence in sentences}
        for step in self._steps:
            answers = self._answers(step, current.values(), lambda part: done(part / len(self._steps)))
            current = {old: answers[new] for old, new in current.items()}
        return current

    def _answers(self, step: Step, sentences: Iterable[str], done: Callable[[float], None]) -> dict[str, str]:
        answers = {"": ""}
        # Sentences of similar length are batched together to reduce padding. Batches do not depend on the contents of the cache.
        order = sorted({sentence for sentence in sentences if sentence}, key=lambda sentence: (len(sentence), sentence))
        for at in range(0, len(order), self._batch):
            batch = order[at : at + self._batch]
            keys = [key_of(step.backend.identity, step.source, step.target, sentence) for sentence in batch]
            known = self._cache.get(keys)
            self.from_cache += len(known)
            missing = [(key, sentence) for key, sentence in zip(keys, batch, strict=True) if key not in known]
            if missing:
                new = step.backend.rewrite([sentence for _, sentence in missing], step.source, step.target)
                fresh = {key: normalize_line(" ".join(answer.split())) for (key, _), answer in zip(missing, new, strict=True)}
                self._cache.put(fresh)
                known |= fresh
            answers |= {sentence: known[key] for key, sentence in zip(keys, batch, strict=True)}
            done(len(batch) / len(order))
        return answers


def open_backends(config: "AugmentConfig") -> dict[str, Backend]:
    """Open every model that the configuration names, by location; a model that is named twice is opened once.

    Raises:
        ConfigError: see `open_backend`.
    """
    named = {where: f"augment.paraphrase_models.{language}" for language, where in sorted(config.paraphrase_models.items())}
    named |= {where: f"augment.translation_models.{pair}" for pair, where in sorted(config.translation_models.items())}
    return {where: open_backend(where, config, setting) for where, setting in named.items()}


def open_rewriters(config: "AugmentConfig", seed: int, backends: Mapping[str, Backend], cache: Cache) -> list[Rewriter]:
    """Open every rewriter that the configuration names, in a fixed order.

    Raises:
        ConfigError: a file of pairs cannot be read.
    """
    rewriters: list[Rewriter] = [Pairs(config.paraphrase_pairs, seed)] if config.paraphrase_pairs else []
    for language, where in sorted(config.paraphrase_models.items()):
        steps = [Step(backends[where], language, language)]
        rewriters.append(Models("paraphrase", [where], config.share, steps, config.sentences_at_once, cache))
    for pair, there in sorted(config.translation_models.items()):
        language, other = pair.split("-")
        back = config.translation_models[f"{other}-{language}"]
        steps = [Step(backends[there], language, other), Step(backends[back], other, language)]
        rewriters.append(Models("back-translation", [there, back], config.share, steps, config.sentences_at_once, cache))
    return rewriters
