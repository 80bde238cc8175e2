"""The data stage: text files -> train.jsonl, val.jsonl, rejected.jsonl, clean-report.json.

Memory holds a few numbers per document and never the text. The steps: each document is cleaned on its own (clean_corpus.py,
results kept beside the data folder); documents are compared by their numbers (dedup.py), and repeats are removed (store.py); the
validation set is chosen, training text that repeats it is removed (copies.py), and the rest is mixed and written in shuffled order
(train_val.py); the finished files are checked.
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bulletlm.data.augment import augment_training
from bulletlm.data.clean_corpus import PARALLEL_FROM_BYTES, Cleaned, clean_files
from bulletlm.data.copies import held_out_texts, remove_held_out
from bulletlm.data.dedup import find_repeats
from bulletlm.data.leaks import Index, check_leaks, load_index, read_blocks
from bulletlm.data.log import Log, Rejected, loss_table
from bulletlm.data.readers.whatsapp import PRIVATE
from bulletlm.data.sources import SourceFile, find_files, shown_source
from bulletlm.data.store import BLOCK_BYTES, DataJob, DocumentStore, row_count
from bulletlm.data.summary import not_read_lines, summary_lines
from bulletlm.data.train_val import Splits, trained_documents, write_splits
from bulletlm.data.workers import cores, ordered_map
from bulletlm.errors import DataError
from bulletlm.files import atomic_folder, write_json
from bulletlm.progress import Progress
from bulletlm.text.documents import Document, texts_of

if TYPE_CHECKING:
    from bulletlm.config.schema import AugmentConfig, DataConfig

CLEANED = "cleaned"
"""Folder beside the data folder, with the documents before deduplication."""

FILES = ("train.jsonl", "val.jsonl", "rejected.jsonl", "clean-report.json")
"""The files that `prepare_data` writes."""

AUGMENT_CACHE = "augment-cache"
"""Folder beside the data folder that contains the cached answers of models."""

_REPEATED = {"copy_of_validation": "validation text", "held_out": "text of data.held_out"}
"""Rule -> the text that a rejected row repeats."""


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
    left_out = [{"file": item.name, "reason": item.reason} for item in (*skipped, *cleaned.skipped)]
    with (
        atomic_folder(out_dir, FILES) as folder,
        DocumentStore(cleaned, folder) as store,
        open(folder / "rejected.jsonl", "wb") as rejected,
    ):
        with open(cleaned.folder / "rejected.jsonl", "rb") as earlier:
            for block in iter(lambda: earlier.read(BLOCK_BYTES), b""):
                rejected.write(block)
        log.write = rejected.write
        store.remove_repeats(find_repeats(cleaned, config.clean), files, log, progress)
        if not len(store.documents):
            for line in not_read_lines(left_out):
                progress.log(line)
            raise DataError(_nothing_left(files, cleaned.rows, log))
        workers = (config.workers or cores()) if store.size >= PARALLEL_FROM_BYTES else 1
        job = DataJob(config=config, seed=seed, files=files, folder=folder, log=log, workers=workers, progress=progress)
        held_out = Index(held_out_texts(config, seed, progress), strict=True)
        has_held_out = len(held_out.passages.document) > 0
        if has_held_out:
            remove_held_out(store, job, held_out)
        known = trained_documents(store, trained) if trained else np.zeros(len(store.documents), dtype=bool)
        splits = write_splits(store, job, known)
        augmentation = augment_training(augment, seed, folder, out_dir.with_name(AUGMENT_CACHE), progress)
        leaks = remove_leaks(job, load_index(folder / "val.jsonl"), "copy_of_validation", splits)
        if has_held_out:
            leaks["held_out"] = remove_leaks(job, held_out, "held_out", splits)
        report = {
            "settings": config.model_dump(mode="json"),
            "seed": seed,
            "sources": [_source_row(file, cleaned, splits) for file in files],
            "private_messages": [file.name for file in files if _is_private(file, cleaned)],
            "skipped_files": left_out,
            "rules": log.report(),
            **splits.report,
            "augmentation": augmentation,
            "leaks": leaks,
        }
        store.close()
        write_json(folder / "clean-report.json", report)
    _log_summary(report, config, files, cleaned, splits, progress)
    return report


def _is_private(file: SourceFile, cleaned: Cleaned) -> bool:
    """Whether a file holds private messages."""
    return cleaned.taken_for.get(file.name, "").startswith(PRIVATE)


def _source_row(file: SourceFile, cleaned: Cleaned, splits: Splits) -> dict[str, Any]:
    """What clean-report.json says about a source file."""
    return {
        "source": file.name,
        "label": file.label,
        "taken_for": cleaned.taken_for.get(file.name, "nothing: it could not be read"),
        "private": _is_private(file, cleaned),
        **splits.of_source(file.name),
        "rows_in": cleaned.rows[file.name],
        "rows_out": splits.rows[file.name],
        "characters_in": cleaned.characters[file.name],
        "characters_out": splits.characters[file.name],
        **cleaned.log.of_source(file.name),
    }


def _log_summary(
    report: dict[str, Any], config: "DataConfig", files: list[SourceFile], cleaned: Cleaned, splits: Splits, progress: Progress
) -> None:
    """Show what the finished report says: sizes, mixture, each source, and what was lost."""
    own = [file for file in files if file.source < len(config.sources)]
    kept, seen = sum(splits.rows[file.name] for file in own), sum(cleaned.rows[file.name] for file in own)
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
    for line in loss_table(
        own, [shown_source(source.path) for source in config.sources], cleaned.characters, splits.characters, cleaned.log
    ):
        progress.log(line)


def remove_leaks(job: DataJob, index: Index, reason: str, splits: Splits) -> dict[str, Any]:
    """Read the finished train.jsonl and remove rows that repeat a text of `index`.

    The text has been compared before, so only rows that augmentation added can be found here.

    Args:
        reason: the rule to log, a key of _REPEATED.
        splits: the counts, from which the removed rows are subtracted.

    Returns:
        The number of repeated passages by kind, and "rows_taken_out".
    """
    counts = Counter[str]()
    leaking: set[bytes] = set()
    path = job.folder / "train.jsonl"
    with job.progress.task("data: leak check", path.stat().st_size) as task, open(path, "rb") as file:
        for lines, (found, rows) in ordered_map(check_leaks, index, read_blocks(file), job.workers):
            counts += found
            all_rows = lines.splitlines(keepends=True)
            leaking.update(all_rows[row] for row in rows)
            task.advance(len(lines))
    if leaking:
        _remove_rows(path, leaking, reason, job.log, splits)
        job.progress.log(f"data: {len(leaking):,} rows of training text repeated {_REPEATED[reason]} and were taken out")
    kinds = ("passages", "exact", "ngrams", "near", *(["contained"] if index.strict else []))
    return {**{kind: counts[kind] for kind in kinds}, "rows_taken_out": len(leaking)}


def _remove_rows(path: Path, leaking: set[bytes], reason: str, log: Log, splits: Splits) -> None:
    """Rewrite train.jsonl without the leaking rows."""
    kept = path.with_suffix(".kept")
    with open(path, "rb") as old, open(kept, "wb") as new:
        new.writelines(line for line in old if line not in leaking)
    kept.replace(path)
    for line in sorted(leaking):
        document: Document = json.loads(line)
        if document["source"] in splits.rows:  # augmented rows have separate source names
            log.reject(Rejected(document["source"], 0, reason, "\n".join(texts_of(document)), row_count(document)))
            splits.count(document, -1)


def _in_shares(mixture: list[dict[str, Any]]) -> str:
    """A one-line summary of the mixture: "mr 61 %, en 39 %; conversations 20 %"."""
    languages = Counter[str]()
    for row in mixture:
        languages[row["language"]] += row["share"]
    conversations = sum(row["share"] for row in mixture if row["kind"] == "conversations")
    return ", ".join(f"{language} {share:.0%}" for language, share in languages.most_common()) + f"; conversations {conversations:.0%}"


def _nothing_left(files: list[SourceFile], rows: Counter[str], log: Log) -> str:
    """The message for sources of which no text is left."""
    names = ", ".join(file.name for file in files[:3]) + (" ..." if len(files) > 3 else "")
    if not rows.total():
        return f"there is no text in {names}: the files are empty; name others in data.sources"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in log.counts.most_common(3))
    return f"nothing is left of {rows.total():,} rows in {names} ({reasons}): check that the files are what their names say"
