"""Chooses the validation set, mixes the rest, and writes train.jsonl and val.jsonl."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.clean_corpus import content_hash
from bulletlm.data.copies import remove_copies
from bulletlm.data.dedup import CHARACTERS_PER_TOKEN
from bulletlm.data.leaks import load_index
from bulletlm.data.log import Log, Rejected, characters_of
from bulletlm.data.mixture import Cells, copies, mixture_table, rates
from bulletlm.data.rules import REPEAT_CHARACTERS
from bulletlm.data.sources import SourceFile
from bulletlm.data.split import LARGEST_SHARE, choose_validation
from bulletlm.data.store import DataJob, DocumentStore, Ints, long_keys, part_ends, part_of, row_count
from bulletlm.data.structure import DOCUMENT_CHARACTERS
from bulletlm.errors import DataError
from bulletlm.text.documents import Document, read_documents, texts_of, to_line

if TYPE_CHECKING:
    from bulletlm.config.schema import DataConfig

SMALL_VALIDATION_TOKENS = 500
"""The loss on fewer tokens than this is not a reliable measure."""

LONG_CHARACTERS = 3 * DOCUMENT_CHARACTERS // 2
"""Characters above which a document is cut where only a part of it is held out or goes into the mixture."""

PART_CHARACTERS = 2_000
"""Characters of such a part."""

_SHUFFLE = 1
"""Stream number of the random generator."""

_MANY_COPIES = 0.02
"""Share of the text above which what repeats validation text is reported on the screen."""


@dataclass
class Splits:
    """The contents of the two files: distinct rows and their characters by source, and their part of the report."""

    rows: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    languages: dict[str, Counter[str]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def count(self, document: Document, sign: int = 1) -> None:
        """Count a row; with `sign` -1, subtract it again."""
        size = sum(map(characters_of, texts_of(document)))
        self.add(document["source"], document["language"], "messages" in document, sign * row_count(document), sign * size, sign)

    def add(self, source: str, language: str, conversation: bool, rows: int, characters: int, sign: int = 1) -> None:
        """Count a document of `rows` rows and `characters` characters."""
        self.rows[source] += rows
        self.characters[source] += characters
        self.kinds.setdefault(source, Counter())["conversations" if conversation else "documents"] += sign
        self.languages.setdefault(source, Counter())[language] += characters

    def of_source(self, source: str) -> dict[str, Any]:
        """The result of a source: documents, conversations, and the characters of each language."""
        kinds = self.kinds.get(source, Counter())
        languages = {language: count for language, count in sorted(self.languages.get(source, Counter()).items()) if count}
        return {"documents": kinds["documents"], "conversations": kinds["conversations"], "languages": languages}


@dataclass
class _Totals:
    """Documents, conversations and characters of one split, also by language."""

    characters: int = 0
    languages: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, document: Document, characters: int) -> None:
        self._add(document["language"], "messages" in document, characters)

    def add_record(self, record: np.void) -> None:
        self._add(record["language"].decode(), bool(record["conversation"]), int(record["characters"]))

    def _add(self, language: str, conversation: bool, characters: int) -> None:
        counts = self.languages.setdefault(language, Counter())
        counts["conversations" if conversation else "documents"] += 1
        counts["characters"] += characters
        self.characters += characters

    def report(self) -> dict[str, Any]:
        by_language = {language: dict(sorted(counts.items())) for language, counts in sorted(self.languages.items())}
        return {
            "documents": sum(counts["documents"] for counts in self.languages.values()),
            "conversations": sum(counts["conversations"] for counts in self.languages.values()),
            "characters": self.characters,
            "by_language": by_language,
        }


def write_splits(store: DocumentStore, job: DataJob, known: npt.NDArray[np.bool_]) -> Splits:
    """Choose the validation set, remove copies of it from the training text, mix the rest, and write train.jsonl and val.jsonl.

    Args:
        store: the documents; those of which a part is held out become shorter in it.
        job: receives rejected text in its log.
        known: [documents] which must not be chosen because a model was trained on them before.

    Raises:
        DataError: too little text for a validation set, or no training text is left beside it.
    """
    config, progress = job.config, job.progress
    splits = Splits()
    ranks = _ranks(store.documents["group"], job.seed)
    chosen, target = _choose(store, job, ranks, known)
    validation = _write_validation(store, job, chosen, splits)
    numbers = _training_documents(store, job, ranks, chosen)
    if _takes_parts(config):
        before = len(store.documents)
        _cut_long_documents(store, numbers)
        numbers = np.concatenate([numbers, np.arange(before, len(store.documents))])
        ranks = np.concatenate([ranks, _ranks(store.documents["key"][before:], job.seed)])
    taken, table = _mixture(store.documents[numbers], job.files, ranks[numbers], config)
    for number in numbers[taken == 0].tolist():
        job.log.reject(store.rejected(number, "left_out_by_mix"))
    train = _write_training(store, job, np.repeat(numbers, taken), splits)
    limited = target < config.val_tokens * CHARACTERS_PER_TOKEN
    splits.report = {
        "train": train.report(),
        "validation": {
            "asked_for_tokens": config.val_tokens,
            "characters_wanted": target,
            "limited_to_a_tenth_of_the_data": limited,
            "estimated_tokens": validation.characters // CHARACTERS_PER_TOKEN,
            **validation.report(),
        },
        "mixture": table,
    }
    if limited:
        size = target // CHARACTERS_PER_TOKEN
        little = " Its loss is not a reliable measure of the model: add text to data.sources." if size < SMALL_VALIDATION_TOKENS else ""
        progress.log(f"data: the validation set is a tenth of the text, about {size:,} tokens instead of {config.val_tokens:,}.{little}")
    return splits


def _training_documents(store: DocumentStore, job: DataJob, ranks: npt.NDArray[np.uint64], chosen: dict[int, int]) -> Ints:
    """The numbers of the documents to train on: those outside validation, without the passages that repeat it."""
    outside = _outside_validation(store, ranks, chosen, job.log)
    reasons = ("copy_of_validation", "near_copy_of_validation")
    index = load_index(job.folder / "val.jsonl")
    gone, lost = remove_copies(store, job, np.flatnonzero(outside), index, reasons, "data: copies of validation")
    if lost > _MANY_COPIES * store.documents["characters"].sum():
        job.progress.log(f"data: {lost:,} characters repeat validation text and are not trained on; see rejected.jsonl")
    numbers = np.flatnonzero(outside & ~gone)
    if not len(numbers):
        raise DataError("no training text is left after the validation set was held out: lower data.val_tokens or add text to data.sources")
    return numbers


def _cut_long_documents(store: DocumentStore, numbers: Ints) -> None:
    """Cut long texts among the documents `numbers`, so that a share of one consists of some of its parts."""
    long = ~store.documents["conversation"][numbers] & (store.documents["characters"][numbers] > LONG_CHARACTERS)
    for number in numbers[long].tolist():
        store.cut(number, PART_CHARACTERS)


def trained_documents(store: DocumentStore, path: Path) -> npt.NDArray[np.bool_]:
    """[documents] which are in a train.jsonl, or share a line of 30 characters or more with it."""
    trained = TrainedText(path)
    return np.array([store.read(number) in trained for number in range(len(store.documents))], dtype=bool)


class TrainedText:
    """The documents of a train.jsonl. A document is in it if it is one of them, or shares a line of 30 characters or more with one.

    Parts of a document are in train.jsonl where the mixture took a share of it, or where its end was held out.
    """

    def __init__(self, path: Path) -> None:
        self._ids: set[str] = set()
        self._lines: set[int] = set()
        for document in read_documents(path):
            self._ids.add(document["id"])
            self._lines.update(long_keys(document))

    def __contains__(self, document: Document) -> bool:
        return document["id"] in self._ids or not self._lines.isdisjoint(long_keys(document))


def _takes_parts(config: "DataConfig") -> bool:
    """Whether the mixture uses text at rates that are not whole numbers."""
    mix = config.mix
    uneven = any(source.tokens is not None or source.weight != int(source.weight) for source in config.sources) or bool(mix.general)
    return uneven or mix.tokens is not None or mix.temperature > 1 or bool(mix.languages) or mix.conversations is not None


def _write_validation(store: DocumentStore, job: DataJob, chosen: dict[int, int], splits: Splits) -> _Totals:
    """Write val.jsonl; a document of which only the end was chosen keeps its beginning for training.

    A line that also occurs in training text, such as a refrain, is left out of validation text: otherwise training would lose
    every copy of it. A document end that consists mostly of such lines returns to training and is removed from `chosen`.
    """
    documents: dict[int, Document] = {}
    for number, first in chosen.items():
        document = store.read(number)
        documents[number] = part_of(document, document["text"].split("\n")[first:]) if first else document
    shared = _shared_with_training(store, documents.values())
    repeated = {number: sum(len(text) for text in _texts_of_keys(document, shared)) for number, document in documents.items()}
    back = [number for number, size in repeated.items() if chosen[number] and 2 * size > len(documents[number]["text"])]
    if len(back) < len(documents):
        for number in back:
            del chosen[number], documents[number]
    totals = _Totals()
    with open(job.folder / "val.jsonl", "wb") as file:
        for number, document in documents.items():
            if chosen[number]:
                whole = store.read(number)
                store.shorten(number, whole, np.arange(whole["text"].count("\n") + 1) < chosen[number])
            if repeated[number] and 2 * repeated[number] <= len(document["text"]):
                for text in _texts_of_keys(document, shared):
                    job.log.reject(Rejected(document["source"], int(store.documents["line"][number]), "shared_with_training", text))
                document = part_of(document, [text for text in document["text"].split("\n") if content_hash(text) not in shared])
            for part in _parts(document):
                size = sum(map(len, texts_of(part)))
                file.write(to_line(part))
                splits.count(part)
                totals.add(part, size)
    return totals


def _shared_with_training(store: DocumentStore, documents: Iterable[Document]) -> set[int]:
    """The keys of the long lines of `documents`, chosen for validation, that other documents have too."""
    own = Counter(key for document in documents for key in long_keys(document))
    counts = store.occurrences(np.array(list(own), dtype=np.uint64)).tolist()
    return {key for key, count in zip(own, counts, strict=True) if count > own[key]}


def _parts(document: Document) -> list[Document]:
    """Split a validation document into enough rows to estimate the variance of the loss; only long texts are cut."""
    if "messages" in document or len(document["text"]) <= LONG_CHARACTERS:
        return [document]
    paragraphs = document["text"].split("\n")
    ends = part_ends([len(paragraph) for paragraph in paragraphs], PART_CHARACTERS)
    return [part_of(document, paragraphs[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def _texts_of_keys(document: Document, keys: set[int]) -> list[str]:
    """The paragraphs of a document whose key is in `keys`."""
    return [text for text in document.get("text", "").split("\n") if len(text) >= REPEAT_CHARACTERS and content_hash(text) in keys]


def _outside_validation(store: DocumentStore, ranks: npt.NDArray[np.uint64], chosen: dict[int, int], log: Log) -> npt.NDArray[np.bool_]:
    """[documents] which may go into training: not in validation, and not in the group of a validation document (other translations)."""
    whole = np.zeros(len(ranks), dtype=bool)
    whole[[number for number, first in chosen.items() if not first]] = True
    same_group = np.isin(ranks, ranks[whole]) & ~whole
    for number in np.flatnonzero(same_group).tolist():
        log.reject(store.rejected(number, "copy_of_validation"))
    beside: npt.NDArray[np.bool_] = ~whole & ~same_group
    return beside


def _write_training(store: DocumentStore, job: DataJob, stream: Ints, splits: Splits) -> _Totals:
    """Write train.jsonl: the documents of `stream`, as often as they occur in it, shuffled."""
    order = stream[np.random.default_rng([job.seed, _SHUFFLE]).permutation(len(stream))]
    totals = _Totals()
    counted = np.zeros(len(store.documents), dtype=bool)
    with job.progress.task("data: writing", len(order)) as task, open(job.folder / "train.jsonl", "wb") as file:
        for number in order.tolist():
            file.write(store.line(number))
            record = store.documents[number]
            totals.add_record(record)
            if not counted[number]:
                counted[number] = True
                name = job.files[record["file"]].name
                size = int(record["characters"]) - int(record["line_ends"])
                splits.add(name, record["language"].decode(), bool(record["conversation"]), int(record["rows"]), size)
            task.advance()
    return totals


def _ranks(groups: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """[n] pseudo-random ranks of groups: a 64-bit bijection (splitmix64), so that different groups have different ranks."""
    state = groups + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    ranks: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return ranks


def _choose(store: DocumentStore, job: DataJob, ranks: npt.NDArray[np.uint64], known: npt.NDArray[np.bool_]) -> tuple[dict[int, int], int]:
    """Validation documents, each with the first paragraph that belongs to validation; and the number of characters wanted.

    The general text of data.mix.general, and the documents in `known`, are not chosen.
    """
    own = np.array([file.source < len(job.config.sources) for file in job.files])[store.documents["file"]] & ~known
    if not own.any():
        raise DataError(
            "the added text is too little to hold out text that the model has not been trained on: add more, or train again with --restart"
        )
    numbers = np.flatnonzero(own)
    documents = store.documents[numbers]
    characters = documents["characters"]
    target = _validation_characters(int(characters.sum()), job.config.val_tokens)

    def paragraphs_of(place: int) -> list[int]:
        row = store.read(int(numbers[place]))
        return [len(paragraph) for paragraph in row["text"].split("\n")] if "text" in row else []

    cells = _cells(documents, job.files, with_kind=False)
    found = choose_validation(characters, cells.of, ranks[numbers], target, paragraphs_of)
    chosen = {int(numbers[place]): first for place, first in found.items()}
    if not chosen:
        raise DataError(
            f"the sources contain one paragraph of {int(characters.sum()):,} characters, of which nothing can be held out for validation: "
            "add text to data.sources"
        )
    return chosen, target


def _validation_characters(total: int, val_tokens: int) -> int:
    """Characters of the validation set of a text of `total` characters."""
    return min(val_tokens * CHARACTERS_PER_TOKEN, int(total * LARGEST_SHARE))


def _cells(documents: npt.NDArray[np.void], files: list[SourceFile], with_kind: bool = True) -> Cells:
    """Documents by language, file and kind; cells are in this order, which depends neither on names nor on the order of the documents."""
    kinds = documents["conversation"] if with_kind else np.zeros(len(documents), dtype=bool)
    combined = np.empty(len(documents), dtype=[("language", "S15"), ("file", "<i4"), ("conversation", "?")])
    combined["language"], combined["file"], combined["conversation"] = documents["language"], documents["file"], kinds
    values, of = np.unique(combined, return_inverse=True)
    keys = [(files[value["file"]].name, value["language"].decode(), bool(value["conversation"])) for value in values]
    of = of.reshape(-1)
    sizes = np.bincount(of, weights=documents["characters"], minlength=len(keys)).astype(np.float64)
    return Cells(keys, of, sizes)


def _mixture(
    documents: npt.NDArray[np.void], files: list[SourceFile], ranks: npt.NDArray[np.uint64], config: "DataConfig"
) -> tuple[Ints, list[dict[str, Any]]]:
    """How often each document is used, and the table of the mixture."""
    cells = _cells(documents, files)
    source_of = {file.name: file.source for file in files}
    taken = copies(cells, documents["characters"], ranks, rates(cells, config.all_sources, source_of, config.mix, len(config.sources)))
    if not taken.any():
        raise DataError("the mixture leaves nothing to train on: raise the weights in data.sources or the shares in data.mix")
    return taken, mixture_table(cells, documents["characters"], taken)
