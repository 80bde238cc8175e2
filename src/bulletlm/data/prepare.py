"""The data stage: text files -> train.jsonl, val.jsonl, rejected.jsonl, clean-report.json.

Memory holds a few numbers per document and never the text. The steps: each document is cleaned on its own (clean_corpus.py,
results kept beside the data folder); documents are compared by their numbers (dedup.py); the validation set is chosen and
training text that repeats it is removed; the rest is mixed and written in shuffled order; the finished files are checked.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.augment import augment_training
from bulletlm.data.clean_corpus import PARALLEL_FROM_BYTES, Cleaned, clean_files, content_hash, key_of_paragraphs, to_document
from bulletlm.data.dedup import CHARACTERS_PER_TOKEN, REASONS, Verdict, find_repeats
from bulletlm.data.leaks import Index, check_leaks, find_copies, load_index, read_blocks
from bulletlm.data.log import Log, Rejected, characters_of, loss_table
from bulletlm.data.mixture import Cells, copies, mixture_table, rates
from bulletlm.data.readers.raw import BadRow
from bulletlm.data.readers.whatsapp import PRIVATE
from bulletlm.data.reading import read_documents
from bulletlm.data.rules import REPEAT_CHARACTERS, clean_text
from bulletlm.data.sources import SourceFile, find_files, held_out_files, shown_source
from bulletlm.data.split import LARGEST_SHARE, choose_validation
from bulletlm.data.structure import DOCUMENT_CHARACTERS
from bulletlm.data.summary import not_read_lines, summary_lines
from bulletlm.data.workers import cores, ordered_map
from bulletlm.errors import DataError
from bulletlm.files import atomic_folder, write_json
from bulletlm.progress import Progress
from bulletlm.text.documents import Document, texts_of, to_line
from bulletlm.text.documents import read_documents as read_rows

if TYPE_CHECKING:
    from bulletlm.config.schema import AugmentConfig, DataConfig

CLEANED = "cleaned"
"""Folder beside the data folder, with the documents before deduplication."""

SMALL_VALIDATION_TOKENS = 500
"""The loss on fewer tokens than this is not a reliable measure."""

FILES = ("train.jsonl", "val.jsonl", "rejected.jsonl", "clean-report.json")
"""The files that `prepare_data` writes."""

AUGMENT_CACHE = "augment-cache"
"""Folder beside the data folder that contains the cached answers of models."""

LONG_CHARACTERS = 3 * DOCUMENT_CHARACTERS // 2
PART_CHARACTERS = 2_000
"""Size of the parts of a longer document of which only a part is held out or goes into the mixture."""

_REPEATED = {"copy_of_validation": "validation text", "held_out": "text of data.held_out"}
"""Rule -> the text that a rejected row repeats."""

_SHUFFLE = 1
"""Stream number of the random generator."""

_BLOCK_BYTES = 1 << 20
_MANY_COPIES = 0.02

Ints = npt.NDArray[np.int64]


def prepare_data(
    config: "DataConfig",
    seed: int,
    out_dir: Path,
    progress: Progress,
    augment: "AugmentConfig | None" = None,
    trained: Path | None = None,
) -> dict[str, Any]:
    """Read and clean all sources, split off the validation set, mix, augment, write the four files; return the report.

    The bytes written depend only on the contents of the sources, the settings and the seed. A folder `cleaned` beside
    `out_dir` keeps the cleaned documents for the next run.

    Args:
        config: sources, cleaning and mixture.
        seed: of the validation set, the mixture and the order.
        out_dir: the data folder.
        progress: shows bars and messages.
        augment: augmentation of the training text; None for none.
        trained: train.jsonl of a run that is continued with more text: nothing that is in it becomes validation text.

    Raises:
        DataError: a source is missing or damaged; no text, or too little for a validation set, is left; validation
            text is found in training.
        BulletError: the disk is full.
    """
    files, skipped = find_files(config)
    cleaned = clean_files(files, config.clean, seed, out_dir.with_name(CLEANED), config.workers, progress)
    log = cleaned.log
    with atomic_folder(out_dir, FILES) as folder, _Store(cleaned, folder) as store, open(folder / "rejected.jsonl", "wb") as rejected:
        with open(cleaned.folder / "rejected.jsonl", "rb") as earlier:
            for block in iter(lambda: earlier.read(_BLOCK_BYTES), b""):
                rejected.write(block)
        log.write = rejected.write
        store.take_out_repeats(find_repeats(cleaned, config.clean), files, log, progress)
        left_out = [{"file": item.name, "reason": item.reason} for item in (*skipped, *cleaned.skipped)]
        if not len(store.documents):
            for line in not_read_lines(left_out):
                progress.log(line)
            raise DataError(_nothing_left(files, cleaned.rows, log))
        workers = (config.workers or cores()) if store.size >= PARALLEL_FROM_BYTES else 1
        held_out = Index(_held_out_texts(config, seed), strict=True)
        if len(held_out.passages.document):
            store.take_out_held_out(held_out, log, workers, progress)
            if not len(store.documents):
                raise DataError("all text of data.sources is also in data.held_out: name other files in one of the two")
        known = _texts_in(store, trained) if trained else np.zeros(len(store.documents), dtype=bool)
        splits = _write_splits(store, config, seed, files, folder, log, workers, progress, known)
        augmentation = augment_training(augment, seed, folder, out_dir.with_name(AUGMENT_CACHE), progress)
        leaks = _check(folder, load_index(folder / "val.jsonl"), "copy_of_validation", log, splits, workers, progress)
        if len(held_out.passages.document):
            leaks["held_out"] = _check(folder, held_out, "held_out", log, splits, workers, progress)
        report = {
            "settings": config.model_dump(mode="json"),
            "seed": seed,
            "sources": [
                {
                    "source": file.name,
                    "label": file.label,
                    "taken_for": cleaned.taken_for.get(file.name, "nothing: it could not be read"),
                    "private": cleaned.taken_for.get(file.name, "").startswith(PRIVATE),
                    **splits.of_source(file.name),
                    "rows_in": cleaned.rows[file.name],
                    "rows_out": splits.rows[file.name],
                    "characters_in": cleaned.characters[file.name],
                    "characters_out": splits.characters[file.name],
                    **log.of_source(file.name),
                }
                for file in files
            ],
            "private_messages": [file.name for file in files if cleaned.taken_for.get(file.name, "").startswith(PRIVATE)],
            "skipped_files": left_out,
            "rules": log.report(),
            **splits.report,
            "augmentation": augmentation,
            "leaks": leaks,
        }
        store.close()
        write_json(folder / "clean-report.json", report)
    own = [file.name for file in files if file.source < len(config.sources)]
    kept, seen = sum(splits.rows[name] for name in own), sum(cleaned.rows[name] for name in own)
    train, val = report["train"], report["validation"]
    progress.log(
        f"data: {kept:,} of {seen:,} paragraphs and conversations kept; {train['characters']:,} characters to train on, "
        f"{val['characters']:,} for validation"
    )
    progress.log(f"data: training text is {_in_shares(report['mixture'])}")
    named = [row for row, file in zip(report["sources"], files, strict=True) if file.source < len(config.sources)]
    for line in summary_lines(named, report["skipped_files"]):
        progress.log(line)
    if len(named) < len(files):
        general = sum(row["characters_out"] for row in report["sources"]) - sum(row["characters_out"] for row in named)
        progress.log(f"data: general text of the package: {general:,} characters of {len(files) - len(named)} files (data.mix.general)")
    own_files = [file for file in files if file.source < len(config.sources)]
    for line in loss_table(own_files, [shown_source(source.path) for source in config.sources], cleaned.characters, splits.characters, log):
        progress.log(line)
    return report


class _Store:
    """The remaining documents, in the cleaned file or, if they have lost paragraphs, in a temporary file.

    Attributes:
        documents: DOCUMENT records; `offset` is negative (-1 - offset) in the temporary file.
        long_keys: sorted keys of all paragraphs of 30 characters or more.
    """

    def __init__(self, cleaned: Cleaned, folder: Path) -> None:
        self.cleaned = cleaned
        self.documents = cleaned.documents
        self.long_keys: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._path = folder / "changed.tmp"
        self._whole = open(cleaned.folder / "documents.jsonl", "rb")  # noqa: SIM115
        self._changed = open(self._path, "w+b")  # noqa: SIM115

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._whole.close()
        self._changed.close()

    def close(self) -> None:
        """Close both files and remove the temporary one."""
        self.__exit__()
        self._path.unlink()

    @property
    def size(self) -> int:
        """Number of bytes of all rows."""
        return int(self.documents["length"].sum())

    def line(self, number: int) -> bytes:
        """The row of a document."""
        offset, length = int(self.documents["offset"][number]), int(self.documents["length"][number])
        file = self._whole if offset >= 0 else self._changed
        file.seek(offset if offset >= 0 else -1 - offset)
        return file.read(length)

    def read(self, number: int) -> Document:
        """A document."""
        document: Document = json.loads(self.line(number))
        return document

    def rejected(self, number: int, reason: str) -> Rejected:
        """A document as a row of rejected.jsonl; `line` is its first line in its file."""
        document = self.read(number)
        return Rejected(document["source"], int(self.documents["line"][number]), reason, "\n".join(texts_of(document)), _rows(document))

    def shorten(self, number: int, document: Document, keep: npt.NDArray[np.bool_]) -> None:
        """Keep only some paragraphs of a document."""
        paragraphs = [paragraph for paragraph, kept in zip(document["text"].split("\n"), keep, strict=True) if kept]
        part = part_of(document, paragraphs)
        line = to_line(part)
        self._changed.seek(0, 2)
        record = self.documents[number]
        if record["group"] == record["key"]:
            record["group"] = int(part["id"], 16)
        record["offset"], record["length"] = -1 - self._changed.tell(), len(line)
        record["key"], record["rows"], record["characters"] = int(part["id"], 16), len(paragraphs), len(part["text"])
        record["line_ends"] = len(paragraphs) - 1
        self._changed.write(line)

    def cut(self, number: int, limit: int) -> int:
        """Cut a long text into documents of about `limit` characters; return their number. The first one keeps the position of the text."""
        paragraphs = self.read(number)["text"].split("\n")
        ends = _part_ends([len(paragraph) for paragraph in paragraphs], limit)
        if len(ends) < 2:
            return 0
        document, first = self.read(number), len(self.documents)
        self.documents = np.concatenate([self.documents, np.repeat(self.documents[number : number + 1], len(ends) - 1)])
        for place, begin, end in zip([number, *range(first, len(self.documents))], [0, *ends], ends, strict=False):
            self.shorten(place, document, (np.arange(len(paragraphs)) >= begin) & (np.arange(len(paragraphs)) < end))
        return len(ends) - 1

    def take_out_repeats(self, verdict: Verdict, files: list[SourceFile], log: Log, progress: Progress) -> None:
        """Log and remove duplicates of earlier text."""
        alive = verdict.alive()
        touched = (verdict.documents > 0) | (np.bincount(verdict.owner[verdict.paragraphs > 0], minlength=len(alive)) > 0)
        lines = self.cleaned.paragraphs["line"]
        with progress.task("data: repetitions", int(touched.sum())) as task:
            for number in np.flatnonzero(touched).tolist():
                task.advance()
                document, record = self.read(number), self.documents[number]
                name = files[record["file"]].name
                first = int(verdict.first[number])
                if "messages" in document:
                    text = "\n".join(texts_of(document))
                    log.reject(Rejected(name, int(record["line"]), REASONS[verdict.documents[number]], text))
                    continue
                reasons = verdict.paragraphs[first : int(verdict.first[number + 1])]
                paragraphs = document["text"].split("\n")
                for at in np.flatnonzero(reasons).tolist():
                    log.reject(Rejected(name, int(lines[first + at]), REASONS[reasons[at]], paragraphs[at]))
                left = [paragraph for paragraph, reason in zip(paragraphs, reasons, strict=True) if not reason]
                if verdict.documents[number]:
                    reason = REASONS[verdict.documents[number]]
                    log.reject(Rejected(name, int(record["line"]), reason, "\n".join(left), len(left)))
                elif left:
                    self.shorten(number, document, reasons == 0)
        self.documents = self.documents[alive]
        records = self.cleaned.paragraphs
        kept = (verdict.paragraphs == 0) & alive[verdict.owner] & (records["characters"] >= REPEAT_CHARACTERS)
        self.long_keys = np.sort(records["key"][kept])

    def take_out_held_out(self, index: Index, log: Log, workers: int, progress: Progress) -> None:
        """Remove what repeats the texts of data.held_out."""
        gone, lost = _take_out_copies(
            self, np.arange(len(self.documents)), index, ("held_out", "held_out"), "data: held-out texts", log, workers, progress
        )
        self.documents = self.documents[~gone]
        progress.log(f"data: {lost:,} characters that repeat texts of data.held_out are left out; see rejected.jsonl")

    def occurrences(self, keys: npt.NDArray[np.uint64]) -> Ints:
        """[n] how often each long paragraph occurs in all documents."""
        counts: Ints = np.searchsorted(self.long_keys, keys, "right") - np.searchsorted(self.long_keys, keys, "left")
        return counts


def part_of(document: Document, paragraphs: list[str]) -> Document:
    """Some paragraphs of a document as a separate document."""
    keys = np.array([content_hash(paragraph) for paragraph in paragraphs], dtype=np.uint64)
    part = to_document(key_of_paragraphs(keys), document["source"], document["language"])
    part["text"] = "\n".join(paragraphs)
    return part


def _part_ends(sizes: list[int], limit: int) -> list[int]:
    """The ends of documents of about `limit` characters, as paragraph indices."""
    ends: list[int] = []
    size = 0
    for number, own in enumerate(sizes, 1):
        size += own
        if size >= limit:
            ends.append(number)
            size = 0
    return ends if ends and ends[-1] == len(sizes) else [*ends, len(sizes)]


def _parts(document: Document) -> list[Document]:
    """Split a validation document into enough rows to estimate the variance of the loss; only long texts are cut."""
    if "messages" in document or len(document["text"]) <= LONG_CHARACTERS:
        return [document]
    paragraphs = document["text"].split("\n")
    ends = _part_ends([len(paragraph) for paragraph in paragraphs], PART_CHARACTERS)
    return [part_of(document, paragraphs[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


@dataclass
class _Splits:
    """The contents of the two files: distinct rows and their characters by source, and their part of the report."""

    rows: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    languages: dict[str, Counter[str]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def count(self, document: Document, sign: int = 1) -> None:
        """Count a row; with `sign` -1, subtract it again."""
        size = sum(map(characters_of, texts_of(document)))
        self.add(document["source"], document["language"], "messages" in document, sign * _rows(document), sign * size, sign)

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


def _write_splits(
    store: _Store,
    config: "DataConfig",
    seed: int,
    files: list[SourceFile],
    folder: Path,
    log: Log,
    workers: int,
    progress: Progress,
    known: npt.NDArray[np.bool_],
) -> _Splits:
    """Choose the validation set, remove copies of it from the training text, mix the rest, and write both files.

    Args:
        known: [documents] which must not be chosen because a model was trained on them before.
    """
    splits = _Splits()
    ranks = _ranks(store.documents["group"], seed)
    own = np.array([file.source < len(config.sources) for file in files])[store.documents["file"]]
    if not (own & ~known).any():
        raise DataError(
            "the added text is too little to hold out text that the model has not been trained on: add more, or train again with --restart"
        )
    own &= ~known
    chosen, target = _choose(store, files, ranks, config.val_tokens, own)
    validation = _write_validation(store, chosen, folder, splits, log)
    in_training = _beside_validation(store, ranks, chosen, log)
    reasons = ("copy_of_validation", "near_copy_of_validation")
    index = load_index(folder / "val.jsonl")
    gone, lost = _take_out_copies(store, np.flatnonzero(in_training), index, reasons, "data: copies of validation", log, workers, progress)
    if lost > _MANY_COPIES * store.documents["characters"].sum():
        progress.log(f"data: {lost:,} characters repeat validation text and are not trained on; see rejected.jsonl")
    in_training &= ~gone
    numbers = np.flatnonzero(in_training)
    if not len(numbers):
        raise DataError("no training text is left after the validation set was held out: lower data.val_tokens or add text to data.sources")
    if _takes_parts(config):
        # A share of one long document consists of some of its parts.
        long = numbers[~store.documents["conversation"][numbers] & (store.documents["characters"][numbers] > LONG_CHARACTERS)]
        before = len(store.documents)
        for number in long.tolist():
            store.cut(number, PART_CHARACTERS)
        numbers = np.concatenate([numbers, np.arange(before, len(store.documents))])
        ranks = np.concatenate([ranks, _ranks(store.documents["key"][before:], seed)])
    taken, table = _mix(store.documents[numbers], files, ranks[numbers], config)
    for number in numbers[taken == 0].tolist():
        log.reject(store.rejected(number, "left_out_by_mix"))
    train = _write_training(store, np.repeat(numbers, taken), seed, files, folder, splits, progress)
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


def _texts_in(store: _Store, path: Path) -> npt.NDArray[np.bool_]:
    """[documents] which are in a train.jsonl, or share a line of 30 characters or more with it."""
    ids: set[str] = set()
    lines: set[int] = set()
    for document in read_rows(path):
        ids.add(document["id"])
        lines.update(_long_keys(document))
    found = np.zeros(len(store.documents), dtype=bool)
    for number in range(len(found)):
        document = store.read(number)
        found[number] = document["id"] in ids or not lines.isdisjoint(_long_keys(document))
    return found


def _takes_parts(config: "DataConfig") -> bool:
    """Whether the mixture uses text at rates that are not whole numbers."""
    mix = config.mix
    uneven = any(source.tokens is not None or source.weight != int(source.weight) for source in config.sources) or bool(mix.general)
    return uneven or mix.tokens is not None or mix.temperature > 1 or bool(mix.languages) or mix.conversations is not None


def _write_validation(store: _Store, chosen: dict[int, int], folder: Path, splits: _Splits, log: Log) -> "_Totals":
    """Write val.jsonl; a document of which only the end was chosen keeps its beginning for training.

    A line that also occurs in training text, such as a refrain, is left out of validation text: otherwise training would lose
    every copy of it. A document end that consists mostly of such lines returns to training and is removed from `chosen`.
    """
    documents: dict[int, Document] = {}
    for number, first in chosen.items():
        document = store.read(number)
        documents[number] = part_of(document, document["text"].split("\n")[first:]) if first else document
    own = Counter(key for document in documents.values() for key in _long_keys(document))
    counts = store.occurrences(np.array(list(own), dtype=np.uint64)).tolist()
    shared = {key for key, count in zip(own, counts, strict=True) if count > own[key]}
    repeated = {number: sum(len(text) for text in _texts_of_keys(document, shared)) for number, document in documents.items()}
    back = [number for number, size in repeated.items() if chosen[number] and 2 * size > len(documents[number]["text"])]
    if len(back) < len(documents):
        for number in back:
            del chosen[number], documents[number]
    totals = _Totals()
    with open(folder / "val.jsonl", "wb") as file:
        for number, document in documents.items():
            if chosen[number]:
                whole = store.read(number)
                store.shorten(number, whole, np.arange(whole["text"].count("\n") + 1) < chosen[number])
            if repeated[number] and 2 * repeated[number] <= len(document["text"]):
                for text in _texts_of_keys(document, shared):
                    log.reject(Rejected(document["source"], int(store.documents["line"][number]), "shared_with_training", text))
                document = part_of(document, [text for text in document["text"].split("\n") if content_hash(text) not in shared])
            for part in _parts(document):
                size = sum(map(len, texts_of(part)))
                file.write(to_line(part))
                splits.count(part)
                totals.add(part, size)
    return totals


def _texts_of_keys(document: Document, keys: set[int]) -> list[str]:
    """The paragraphs of a document whose key is in `keys`."""
    return [text for text in document.get("text", "").split("\n") if len(text) >= REPEAT_CHARACTERS and content_hash(text) in keys]


def _long_keys(document: Document) -> list[int]:
    paragraphs = [] if "messages" in document else document["text"].split("\n")
    return [content_hash(paragraph) for paragraph in paragraphs if len(paragraph) >= REPEAT_CHARACTERS]


def _beside_validation(store: _Store, ranks: npt.NDArray[np.uint64], chosen: dict[int, int], log: Log) -> npt.NDArray[np.bool_]:
    """[documents] which may go into training: not in validation, and not in the group of a validation document (other translations)."""
    whole = np.zeros(len(ranks), dtype=bool)
    whole[[number for number, first in chosen.items() if not first]] = True
    same_group = np.isin(ranks, ranks[whole]) & ~whole
    for number in np.flatnonzero(same_group).tolist():
        log.reject(store.rejected(number, "copy_of_validation"))
    beside: npt.NDArray[np.bool_] = ~whole & ~same_group
    return beside


def _write_training(
    store: _Store, stream: Ints, seed: int, files: list[SourceFile], folder: Path, splits: _Splits, progress: Progress
) -> "_Totals":
    """Write train.jsonl: the documents of `stream`, as often as they occur in it, shuffled."""
    order = stream[np.random.default_rng([seed, _SHUFFLE]).permutation(len(stream))]
    totals = _Totals()
    counted = np.zeros(len(store.documents), dtype=bool)
    with progress.task("data: writing", len(order)) as task, open(folder / "train.jsonl", "wb") as file:
        for number in order.tolist():
            file.write(store.line(number))
            record = store.documents[number]
            totals.add_record(record)
            if not counted[number]:
                counted[number] = True
                name = files[record["file"]].name
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


def _choose(
    store: _Store, files: list[SourceFile], ranks: npt.NDArray[np.uint64], val_tokens: int, own: npt.NDArray[np.bool_]
) -> tuple[dict[int, int], int]:
    """Validation documents, each with the first paragraph that belongs to validation; and the number of characters wanted.

    Args:
        own: [documents] which may be chosen: all except the general text of data.mix.general.
    """
    numbers = np.flatnonzero(own)
    documents = store.documents[numbers]
    characters = documents["characters"]
    target = _validation_characters(int(characters.sum()), val_tokens)

    def paragraphs_of(place: int) -> list[int]:
        row = store.read(int(numbers[place]))
        return [len(paragraph) for paragraph in row["text"].split("\n")] if "text" in row else []

    cells = _cells(documents, files, with_kind=False)
    found = choose_validation(characters, cells.of, ranks[numbers], target, paragraphs_of) if len(numbers) else {}
    chosen = {int(numbers[place]): first for place, first in found.items()}
    if not chosen:
        raise DataError(
            f"the sources contain one paragraph of {int(characters.sum()):,} characters, of which nothing can be held out for validation: "
            "add text to data.sources"
        )
    return chosen, target


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


def _mix(
    documents: npt.NDArray[np.void], files: list[SourceFile], ranks: npt.NDArray[np.uint64], config: "DataConfig"
) -> tuple[Ints, list[dict[str, Any]]]:
    """How often each document is used, and the table of the mixture."""
    cells = _cells(documents, files)
    source_of = {file.name: file.source for file in files}
    taken = copies(cells, documents["characters"], ranks, rates(cells, config.all_sources, source_of, config.mix, len(config.sources)))
    if not taken.any():
        raise DataError("the mixture leaves nothing to train on: raise the weights in data.sources or the shares in data.mix")
    return taken, mixture_table(cells, documents["characters"], taken)


def _held_out_texts(config: "DataConfig", seed: int) -> list[Document]:
    """The texts of data.held_out, cleaned as the sources are. A request for a translation contains a text that its answer repeats."""
    texts: list[Document] = []
    for file in held_out_files(config):
        for raw in read_documents(file, seed, advance=lambda _: None, note=lambda _: None):
            if isinstance(raw, BadRow):
                continue
            messages = [message["content"] for message in raw.messages if message["role"] == "assistant" or not raw.group]
            for text in messages or raw.paragraphs:
                document = to_document(0, file.name, "und")
                document["text"] = "\n".join(clean_text(line, config.clean, [])[0] for line in text.split("\n"))
                texts.append(document)
    return texts


def _take_out_copies(
    store: _Store,
    numbers: Ints,
    index: Index,
    reasons: tuple[str, str],
    title: str,
    log: Log,
    workers: int,
    progress: Progress,
) -> tuple[npt.NDArray[np.bool_], int]:
    """Remove passages that repeat the texts of `index` from documents.

    Args:
        numbers: the documents to look at.
        reasons: the rules to log for equal and for similar text.

    Returns:
        [documents] whether nothing is left of a document, and the number of characters lost.
    """
    gone = np.zeros(len(store.documents), dtype=bool)
    lost = 0
    while len(numbers):  # the rest of a shortened document may in turn be equal to a text of the index
        found: dict[int, list[tuple[int, bool]]] = {}
        with progress.task(title, len(numbers)) as task:
            for (batch, _), copied in ordered_map(_find_copies, index, _batches(store, numbers), workers):
                for row, part, same in copied:
                    found.setdefault(batch[row], []).append((part, same))
                task.advance(len(batch))
        shortened: list[int] = []
        for number, parts in found.items():
            lost += _take_out_parts(store, number, parts, reasons, log, gone)
            if not gone[number]:
                shortened.append(number)
        numbers = np.array(shortened, dtype=np.int64)
    return gone, lost


def _take_out_parts(
    store: _Store, number: int, parts: list[tuple[int, bool]], reasons: tuple[str, str], log: Log, gone: npt.NDArray[np.bool_]
) -> int:
    """Remove parts (-1: all) of a document that are copies, or mark it as gone; return the number of characters lost."""
    equal, similar = reasons
    document = store.read(number)
    whole = [same for part, same in parts if part < 0]
    if "messages" in document or whole:
        same = any(same for _, same in parts) if "messages" in document else any(whole)
        log.reject(store.rejected(number, equal if same else similar))
        gone[number] = True
        return int(store.documents["characters"][number])
    lost = 0
    paragraphs = document["text"].split("\n")
    keep = np.ones(len(paragraphs), dtype=bool)
    for part, same in parts:
        keep[part] = False
        lost += len(paragraphs[part])
        line = int(store.documents["line"][number])
        log.reject(Rejected(document["source"], line, equal if same else similar, paragraphs[part]))
    if keep.any():
        store.shorten(number, document, keep)
    else:
        gone[number] = True
    return lost


def _batches(store: _Store, numbers: Ints) -> Iterator[tuple[list[int], bytes]]:
    """Batches of rows of about a megabyte, with the numbers of their documents."""
    batch: list[int] = []
    lines: list[bytes] = []
    size = 0
    for number in numbers.tolist():
        line = store.line(number)
        batch.append(number)
        lines.append(line)
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield batch, b"".join(lines)
            batch, lines, size = [], [], 0
    if batch:
        yield batch, b"".join(lines)


def _find_copies(index: Index, batch: tuple[list[int], bytes]) -> list[tuple[int, int, bool]]:
    return find_copies(index, batch[1])


def _check(folder: Path, index: Index, reason: str, log: Log, splits: _Splits, workers: int, progress: Progress) -> dict[str, Any]:
    """Read the finished train.jsonl and remove rows that repeat a text of `index`; return the counts.

    The text has been compared before, so only rows that augmentation added can be found here.
    """
    counts = Counter[str]()
    leaking: set[bytes] = set()
    path = folder / "train.jsonl"
    with progress.task("data: leak check", path.stat().st_size) as task, open(path, "rb") as file:
        for lines, (found, rows) in ordered_map(check_leaks, index, read_blocks(file), workers):
            counts += found
            all_rows = lines.splitlines(keepends=True)
            leaking.update(all_rows[row] for row in rows)
            task.advance(len(lines))
    if leaking:
        _drop_rows(path, leaking, reason, log, splits)
        progress.log(f"data: {len(leaking):,} rows of training text repeated {_REPEATED[reason]} and were taken out")
    kinds = ("passages", "exact", "ngrams", "near", *(["contained"] if index.strict else []))
    return {**{kind: counts[kind] for kind in kinds}, "rows_taken_out": len(leaking)}


def _drop_rows(path: Path, leaking: set[bytes], reason: str, log: Log, splits: _Splits) -> None:
    """Rewrite train.jsonl without the leaking rows."""
    kept = path.with_suffix(".kept")
    with open(path, "rb") as old, open(kept, "wb") as new:
        new.writelines(line for line in old if line not in leaking)
    kept.replace(path)
    for line in sorted(leaking):
        document: Document = json.loads(line)
        if document["source"] in splits.rows:  # augmented rows have separate source names
            log.reject(Rejected(document["source"], 0, reason, "\n".join(texts_of(document)), _rows(document)))
            splits.count(document, -1)


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


def _in_shares(mixture: list[dict[str, Any]]) -> str:
    """A one-line summary of the mixture: "mr 61 %, en 39 %; conversations 20 %"."""
    languages = Counter[str]()
    for row in mixture:
        languages[row["language"]] += row["share"]
    conversations = sum(row["share"] for row in mixture if row["kind"] == "conversations")
    return ", ".join(f"{language} {share:.0%}" for language, share in languages.most_common()) + f"; conversations {conversations:.0%}"


def _rows(document: Document) -> int:
    """The number of paragraphs, or 1 for a conversation."""
    return 1 if "messages" in document else document["text"].count("\n") + 1


def _validation_characters(total: int, val_tokens: int) -> int:
    return min(val_tokens * CHARACTERS_PER_TOKEN, int(total * LARGEST_SHARE))


def _nothing_left(files: list[SourceFile], rows: Counter[str], log: Log) -> str:
    names = ", ".join(file.name for file in files[:3]) + (" ..." if len(files) > 3 else "")
    if not rows.total():
        return f"there is no text in {names}: the files are empty; name others in data.sources"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in log.counts.most_common(3))
    return f"nothing is left of {rows.total():,} rows in {names} ({reasons}): check that the files are what their names say"
