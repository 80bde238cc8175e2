"""The data stage: files of text -> train.jsonl, val.jsonl, rejected.jsonl, clean-report.json.

Two passes, so that memory holds some numbers a document and never the text: the first reads, cleans and
deduplicates into one temporary file; the second, once the sizes of everything are known, writes the two splits
out of it, training documents in shuffled order.
"""

import hashlib
import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.clean import SHOWN_CHARACTERS, Clean, Log, Rejected, bad_row, clean_document
from bulletlm.data.dedup import Deduplicator, content_hash, hash_of
from bulletlm.data.documents import Document, texts_of, to_line
from bulletlm.data.language import detect
from bulletlm.data.sources import BadRow, Skipped, SourceFile, find_files, read_documents
from bulletlm.data.split import LARGEST_SHARE, choose_validation
from bulletlm.errors import DataError
from bulletlm.files import atomic_folder, write_json
from bulletlm.progress import Progress

if TYPE_CHECKING:
    from bulletlm.config import DataConfig

CHARACTERS_PER_TOKEN = 3
"""Of a vocabulary of 4000 pieces, in Marathi and in English: an estimate for what is counted before there is a tokenizer."""

SMALLEST_VALIDATION_TOKENS = 500
"""Less says nothing about a model."""

_SHUFFLE = 1
"""Purpose number of the random generator."""


@dataclass
class _Index:
    """What is remembered of each document in the temporary file; one number a list."""

    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    characters: "array[int]" = field(default_factory=lambda: array("q"))
    strata: "array[int]" = field(default_factory=lambda: array("q"))
    ranks: "array[int]" = field(default_factory=lambda: array("Q"))
    stratum_numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    end: int = 0

    def add(self, line: bytes, characters: int, stratum: tuple[str, str], rank: int) -> None:
        self.offsets.append(self.end)
        self.lengths.append(len(line))
        self.characters.append(characters)
        self.strata.append(self.stratum_numbers.setdefault(stratum, len(self.stratum_numbers)))
        self.ranks.append(rank)
        self.end += len(line)

    def sorted_strata(self) -> npt.NDArray[np.int64]:
        """The stratum of each document, numbered by language and source and not by what came first."""
        place = {stratum: n for n, stratum in enumerate(sorted(self.stratum_numbers))}
        renumber = np.array([place[stratum] for stratum in self.stratum_numbers], dtype=np.int64)
        return np.take(renumber, np.array(self.strata))


def prepare_data(config: "DataConfig", seed: int, out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Read and clean all sources, split off the validation set, write the four files; give the report.

    The bytes written depend only on the contents of the sources, the settings and the seed.

    Raises:
        DataError: a source is missing or damaged; nothing, or too little for a validation set, is left.
        BulletError: the disk is full.
    """
    files, skipped = find_files(config)
    log = Log()
    with (
        atomic_folder(out_dir) as folder,
        open(folder / "documents.tmp", "w+b") as spool,
        open(folder / "rejected.jsonl", "wb") as rejected,
    ):
        log.write = lambda row: _write_rejected(row, rejected)
        index, rows, characters_in = _read_all(files, skipped, config, seed, spool, log, progress)
        if not len(index.ranks):
            raise DataError(_nothing_left(files, rows, log))
        spool.flush()
        splits = _write_splits(index, spool, seed, config.val_tokens, folder, log, progress)
        report = {
            "settings": config.model_dump(mode="json"),
            "seed": seed,
            "sources": [
                {
                    "source": file.name,
                    "rows_in": rows[file.name],
                    "rows_out": splits.rows[file.name],
                    "characters_in": characters_in[file.name],
                    "characters_out": splits.characters[file.name],
                }
                for file in files
            ],
            "skipped_files": [{"file": item.name, "reason": item.reason} for item in skipped],
            "rules": log.report(),
            **splits.report,
        }
        (folder / "documents.tmp").unlink()
        write_json(folder / "clean-report.json", report)
    kept, seen = sum(splits.rows.values()), sum(rows.values())
    train, val = report["train"], report["validation"]
    progress.say(
        f"data: {kept:,} of {seen:,} paragraphs and conversations kept; {train['characters']:,} characters to train on, "
        f"{val['characters']:,} for validation"
    )
    return report


def _read_all(
    files: list[SourceFile], skipped: list[Skipped], config: "DataConfig", seed: int, spool: IO[bytes], log: Log, progress: Progress
) -> tuple[_Index, Counter[str], Counter[str]]:
    """Clean and deduplicate every document into `spool`; count rows and characters read by source."""
    index = _Index()
    rows, characters = Counter[str](), Counter[str]()
    dedup = Deduplicator() if config.clean.duplicates else None
    with progress.task("data: cleaning", sum(file.path.stat().st_size for file in files)) as task:
        for file in files:

            def note(problem: str, file: SourceFile = file) -> None:
                skipped.append(Skipped(file.name, problem))
                progress.say(f"{file.path}: {problem}")

            for raw in read_documents(file, seed, task.advance, note):
                if isinstance(raw, BadRow):
                    rows[file.name] += 1
                    characters[file.name] += len(raw.text)
                    bad_row(raw, log)
                    continue
                rows[file.name] += len(raw.paragraphs) if not raw.messages else 1
                texts = ["\n".join(raw.paragraphs)] if raw.paragraphs else [message["content"] for message in raw.messages]
                characters[file.name] += sum(map(len, texts))
                document = clean_document(raw, config.clean.min_chars, config.clean.max_chars, log)
                if document and (dedup is None or dedup.is_new(document, log)):
                    _add(document, seed, index, spool)
    return index, rows, characters


def _add(clean: Clean, seed: int, index: _Index, spool: IO[bytes]) -> None:
    answers = [message["content"] for message in clean.messages if message["role"] == "assistant"]
    language = clean.language if clean.language != "auto" else detect("\n".join(answers or clean.paragraphs))
    key = hash_of(clean)
    document = _document(key, clean.source, language)
    if clean.messages:
        document["messages"] = clean.messages
    else:
        document["text"] = "\n".join(clean.paragraphs)
    line = to_line(document)
    spool.write(line)
    group = content_hash(clean.group) if clean.group else key
    index.add(line, sum(map(len, texts_of(document))), (language, clean.source), _rank(group, seed))


def _document(key: int, source: str, language: str) -> Document:
    return {"id": f"{key:016x}", "source": source, "language": language}


def _rank(key: int, seed: int) -> int:
    digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


@dataclass
class _Splits:
    """What went into the two files: rows and characters by source, and the report's part on them."""

    rows: Counter[str]
    characters: Counter[str]
    report: dict[str, Any]


def _write_splits(index: _Index, spool: IO[bytes], seed: int, val_tokens: int, folder: Path, log: Log, progress: Progress) -> _Splits:
    characters, ranks = np.array(index.characters), np.array(index.ranks, dtype=np.uint64)
    total = int(characters.sum())
    target = _validation_characters(total, val_tokens)

    def read(number: int) -> tuple[bytes, Document]:
        spool.seek(index.offsets[number])
        line = spool.read(index.lengths[number])
        return line, json.loads(line)

    def paragraphs_of(number: int) -> list[int]:
        row = read(number)[1]
        return [len(paragraph) for paragraph in row["text"].split("\n")] if "text" in row else []

    chosen = choose_validation(characters, index.sorted_strata(), ranks, target, paragraphs_of)
    is_chosen = np.zeros(len(ranks), dtype=bool)
    is_chosen[list(chosen)] = True
    copies = np.isin(ranks, ranks[is_chosen]) & ~is_chosen
    order = np.random.default_rng([seed, _SHUFFLE]).permutation(len(ranks)).tolist()
    rows, out_characters = Counter[str](), Counter[str]()
    train, val = _Totals(), _Totals()

    def write(line: bytes, document: Document, file: IO[bytes], totals: _Totals) -> None:
        file.write(line)
        rows[document["source"]] += _rows(document)
        size = sum(map(len, texts_of(document)))
        out_characters[document["source"]] += size
        totals.add(document, size)

    with progress.task("data: writing", index.end) as task:
        with open(folder / "val.jsonl", "wb") as file:
            for number, first in chosen.items():
                line, document = read(number)
                write(*(_part(document, slice(first, None)) if first else (line, document)), file, val)
        with open(folder / "train.jsonl", "wb") as file:
            for number in order:
                task.advance(index.lengths[number])
                line, document = read(number)
                if copies[number]:
                    log.reject(_copy_of_validation(document))
                elif number not in chosen:
                    write(line, document, file, train)
                elif chosen[number]:
                    write(*_part(document, slice(chosen[number])), file, train)
    asked = val_tokens * CHARACTERS_PER_TOKEN
    report = {
        "train": train.report(),
        "validation": {
            "asked_for_tokens": val_tokens,
            "characters_wanted": target,
            "limited_to_a_tenth_of_the_data": target < asked,
            "estimated_tokens": val.characters // CHARACTERS_PER_TOKEN,
            **val.report(),
        },
    }
    if target < asked:
        progress.say(
            f"data: the validation set is a tenth of the text, about {target // CHARACTERS_PER_TOKEN:,} tokens instead of {val_tokens:,}"
        )
    return _Splits(rows, out_characters, report)


@dataclass
class _Totals:
    """Documents, conversations and characters of one split, also by language."""

    characters: int = 0
    languages: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, document: Document, characters: int) -> None:
        counts = self.languages.setdefault(document["language"], Counter())
        counts["conversations" if "messages" in document else "documents"] += 1
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


def _part(document: Document, which: slice) -> tuple[bytes, Document]:
    """Some paragraphs of a document as a document of its own, and its line."""
    paragraphs = document["text"].split("\n")[which]
    part = _document(content_hash(*paragraphs), document["source"], document["language"])
    part["text"] = "\n".join(paragraphs)
    return to_line(part), part


def _copy_of_validation(document: Document) -> Rejected:
    texts = texts_of(document)
    return Rejected(document["source"], 0, "copy_of_validation", "\n".join(texts), _rows(document))


def _rows(document: Document) -> int:
    """Paragraphs, or 1 for a conversation."""
    return 1 if "messages" in document else document["text"].count("\n") + 1


def _validation_characters(total: int, val_tokens: int) -> int:
    needed = round(SMALLEST_VALIDATION_TOKENS * CHARACTERS_PER_TOKEN / LARGEST_SHARE)
    if total < needed:
        raise DataError(
            f"the sources hold {total:,} characters after cleaning, and at least {needed:,} are needed, so that a tenth of them "
            "can be the validation set: add text to data.sources"
        )
    return min(val_tokens * CHARACTERS_PER_TOKEN, int(total * LARGEST_SHARE))


def _write_rejected(row: Rejected, file: IO[bytes]) -> None:
    shown = row.text[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode()
    value = {"reason": row.reason, "source": row.source, "line": row.line, "characters": len(row.text), "text": shown}
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def _nothing_left(files: list[SourceFile], rows: Counter[str], log: Log) -> str:
    names = ", ".join(file.name for file in files[:3]) + (" ..." if len(files) > 3 else "")
    if not rows.total():
        return f"there is no text in {names}: the files are empty; name others in data.sources"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in log.counts.most_common(3))
    return f"nothing is left of {rows.total():,} rows in {names} ({reasons}): check that the files are what their names say"
