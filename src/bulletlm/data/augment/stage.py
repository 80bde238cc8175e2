"""The augmentation stage: rewrites sentences of training documents and adds the copies that pass the filters to the training set."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bulletlm.data.augment.cache import Cache
from bulletlm.data.augment.filters import RULES, Filters, ValidationGuard, hash_of
from bulletlm.data.augment.rewriters import Models, Pairs, Rewriter, open_backends, open_rewriters
from bulletlm.data.augment.sentences import split_sentences, words_only
from bulletlm.files import expand_home, sha256_of_file
from bulletlm.progress import Progress, Task
from bulletlm.text.documents import Document, read_documents, texts_of, to_line

if TYPE_CHECKING:
    from bulletlm.config.schema import AugmentConfig

SMALLEST_CHANGE = 0.3
"""Minimum share of changed text; a copy with less change is not added."""

SHORTEST = 2
"""Minimum number of words; a single word ("Yes.") cannot be paraphrased."""

EXAMPLES = 3
_DOCUMENTS_AT_ONCE = 256
_NO_EFFECT_ON_RESULT = {"cache", "endpoint_timeout", "endpoint_key_variable"}


def is_on(config: "AugmentConfig") -> bool:
    """Whether the configuration names pairs or models for augmentation."""
    return bool(config.paraphrase_pairs or config.paraphrase_models or config.translation_models)


def reproducibility_fields(config: "AugmentConfig") -> dict[str, Any] | None:
    """All inputs that determine the result, including the contents of pair files and models; None if augmentation is off.

    Raises:
        ConfigError: a named file or folder is missing or of the wrong kind.
    """
    if not is_on(config):
        return None
    return {
        "settings": config.model_dump(mode="json", exclude=_NO_EFFECT_ON_RESULT),
        "pairs": [sha256_of_file(path) if (path := expand_home(file)).is_file() else None for file in config.paraphrase_pairs],
        "models": {where: backend.identity for where, backend in open_backends(config).items()},
    }


def augment_training(config: "AugmentConfig | None", seed: int, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
    """Append paraphrased copies of documents to `folder`/train.jsonl and return the report. Does nothing if augmentation is off.

    Only rows of train.jsonl are rewritten. A sentence that is equal or nearly equal to one in `folder`/val.jsonl is not added.
    The same rows, settings, models and seed give the same bytes.

    Args:
        folder: contains train.jsonl and val.jsonl. The caller replaces both files together, so rows are appended to train.jsonl.
        cache: folder of the answer cache, unless the configuration names one.

    Raises:
        ConfigError: a named file or folder is missing or of the wrong kind.
        BulletError: a package is missing, or a model cannot be loaded or reached; all answers so far are in the cache.
    """
    report: dict[str, Any] = {"documents_added": 0, "characters_added": 0, "methods": []}
    if config is None or not is_on(config):
        return report
    train = folder / "train.jsonl"
    guard = ValidationGuard(text for document in read_documents(folder / "val.jsonl") for text in texts_of(document))
    documents = {_key(document) for document in read_documents(train)}
    with Cache(expand_home(config.cache) if config.cache else cache) as answers, open(folder / "augmented.tmp", "w+b") as added:
        for rewriter in open_rewriters(config, seed, open_backends(config), answers):
            part = _Method(rewriter, Filters(config, guard), config.max_sentence_chars).run(train, seed, documents, added, progress)
            report["methods"].append(part)
            report["documents_added"] += part["documents_added"]
            report["characters_added"] += part["characters_added"]
        added.seek(0)
        with open(train, "ab") as file:
            shutil.copyfileobj(added, file)
    (folder / "augmented.tmp").unlink()
    return report


class _Method:
    """One pass of one rewriter over the training documents, and its part of the report."""

    def __init__(self, rewriter: Rewriter, filters: Filters, longest: int) -> None:
        self._rewriter, self._filters, self._longest = rewriter, filters, longest
        self._dropped = Counter[str]()
        self._examples: dict[str, list[dict[str, str]]] = {}
        self._totals = Counter[str]()

    def run(self, train: Path, seed: int, documents: set[int], added: IO[bytes], progress: Progress) -> dict[str, Any]:
        """Write the new documents to `added` and their keys to `documents`; return the report."""
        name, language = self._rewriter.name, self._rewriter.language
        chosen = sum(1 for _ in self._chosen(train, seed))
        with progress.task(f"augment: {name}" + (f" {language}" if language else ""), chosen) as task:
            rest = self._chosen(train, seed)
            while chunk := list(islice(rest, _DOCUMENTS_AT_ONCE)):
                new = self._new_sentences(chunk, task)
                for document in chunk:
                    self._add(document, new, documents, added)
        report = self._report(chosen)
        from_cache = f", {self._rewriter.from_cache:,} answers were in the cache" if isinstance(self._rewriter, Models) else ""
        progress.log(
            f"augment: {name} of {language or 'all languages'}: {report['kept']:,} of {report['sentences']:,} sentences pass the filters, "
            f"{report['documents_added']:,} documents added{from_cache}"
        )
        if isinstance(self._rewriter, Pairs) and not report["sentences"]:
            progress.log(
                "augment: no sentence of the paraphrase pairs is in the training text; to train on the pairs, add them to data.sources"
            )
        return report

    def _chosen(self, train: Path, seed: int) -> Iterator[Document]:
        """The documents for this method, chosen by a hash so that the choice does not depend on other documents."""
        limit = int(self._rewriter.share * 2**64)
        for document in read_documents(train):
            right_language = self._rewriter.language in (None, document["language"])
            if right_language and hash_of(f"{seed} {self._rewriter.name} {document['id']}") < limit:
                yield document

    def _new_sentences(self, chunk: Sequence[Document], task: Task) -> dict[str, str]:
        """Return old sentence -> new one, for new sentences that pass the filters."""
        sentences = dict.fromkeys(
            sentence
            for document in chunk
            for text in _rewritable(document)
            for sentence in split_sentences(text)[::2]
            if self._fits(sentence)
        )
        kept = {}
        for old, new in self._rewriter.rewrite(list(sentences), lambda part: task.advance(part * len(chunk))).items():
            objection = self._filters.objection(old, new)
            self._totals["sentences"] += 1
            if objection is None:
                kept[old] = new
            else:
                self._dropped[objection] += 1
            self._example(objection or "kept", old, new)
        return kept

    def _fits(self, sentence: str) -> bool:
        return len(sentence) <= self._longest and len(words_only(sentence).split()) >= SHORTEST

    def _example(self, rule: str, old: str, new: str) -> None:
        examples = self._examples.setdefault(rule, [])
        if len(examples) < EXAMPLES:
            examples.append({"before": old, "after": new})

    def _add(self, document: Document, new: dict[str, str], documents: set[int], added: IO[bytes]) -> None:
        changed = sum(len(s) for text in _rewritable(document) for s in split_sentences(text)[::2] if s in new)
        if changed < SMALLEST_CHANGE * sum(map(len, _rewritable(document))) or not changed:
            self._totals["too_little_changed"] += 1
            return
        copy = _rewritten(document, new, self._rewriter.name)
        key = _key(copy)
        if key in documents:
            self._totals["repeats_a_document"] += 1
            return
        documents.add(key)
        copy["id"] = f"{key:016x}"
        added.write(to_line(copy))
        self._totals["documents"] += 1
        self._totals["characters"] += sum(map(len, texts_of(copy)))

    def _report(self, chosen: int) -> dict[str, Any]:
        left = self._totals["sentences"]
        filters = []
        for rule, description in RULES.items():
            left -= self._dropped[rule]
            filters.append({"filter": rule, "description": description, "dropped": self._dropped[rule], "left": left})
        report: dict[str, Any] = {
            "method": self._rewriter.name,
            "language": self._rewriter.language,
            "models": self._rewriter.models,
            "documents": chosen,
            "sentences": self._totals["sentences"],
            "filters": filters,
            "kept": left,
            "too_little_changed": self._totals["too_little_changed"],
            "repeats_a_document": self._totals["repeats_a_document"],
            "documents_added": self._totals["documents"],
            "characters_added": self._totals["characters"],
            "examples": self._examples,
        }
        if isinstance(self._rewriter, Pairs):
            report["lines_skipped"] = self._rewriter.lines_skipped
        return report


def _rewritable(document: Document) -> list[str]:
    """The texts of a document that may change; in a conversation only the answers, because a request often quotes other text."""
    if "messages" in document:
        return [message["content"] for message in document["messages"] if message["role"] == "assistant"]
    return [document["text"]]


def _rewritten(document: Document, new: dict[str, str], method: str) -> Document:
    copy: Document = {"id": "", "source": f"{document['source']} ({method})", "language": document["language"]}
    if "messages" in document:
        copy["messages"] = [
            {
                "role": message["role"],
                "content": _replace(message["content"], new) if message["role"] == "assistant" else message["content"],
            }
            for message in document["messages"]
        ]
    else:
        copy["text"] = _replace(document["text"], new)
    return copy


def _replace(text: str, new: dict[str, str]) -> str:
    return "".join(new.get(piece, piece) for piece in split_sentences(text))


def _key(document: Document) -> int:
    """A hash that is equal for documents with the same words."""
    return hash_of(json.dumps([words_only(text) for text in texts_of(document)], ensure_ascii=False))
