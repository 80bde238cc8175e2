"""The tokenizer stage: trains the vocabulary on train.jsonl and reports how well it fits val.jsonl."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bulletlm.data.language import detect
from bulletlm.files import atomic_folder, write_json
from bulletlm.progress import Progress
from bulletlm.text.documents import Document, read_documents, texts_of
from bulletlm.text.tokenizer import FIRST_PIECE, SPACE_MARK, Tokenizer
from bulletlm.text.tokenizer_report import tokenizer_report
from bulletlm.text.train_tokenizer import train_tokenizer

if TYPE_CHECKING:
    from bulletlm.config.schema import TokenizerConfig

BALANCE = 0.5
"""Languages enter the sample in proportion to their size to this power: ten times as much text gives three times as much sample.

With 2,000,000 characters of Marathi and 200,000 of English this costs Marathi 4 % more tokens and saves English 10 %
(bench/tokenizer.py).
"""

SMALLEST_SHARE = 0.05
"""A language with a smaller share of the text than this does not reduce the shares of the others."""

FILES = ("tokenizer.model", "report.json", "compare.json")
"""The files of a tokenizer folder; compare.json comes from `bullet tokenizer --compare`."""

RARE = 20

SMALLEST_VOCABULARY = 400

MANY_UNUSED = 0.1
"""Share of unused learned pieces above which a smaller vocabulary is suggested."""

MANY_IN_BYTES = 0.05
"""Share of characters outside the vocabulary above which a vocabulary does not suit a text."""

OFTEN = 10
"""A piece that occurs less often than this is too rare for the model to learn."""

_COUNTED_CHARACTERS = 5_000_000


def prepare_tokenizer(
    config: "TokenizerConfig", seed: int, data_dir: Path, out_dir: Path, progress: Progress, given: bytes | None = None
) -> dict[str, Any]:
    """Train on the documents of `data_dir`/train.jsonl; write tokenizer.model and report.json; return the report.

    The figures of the report are measured on val.jsonl, text that the tokenizer has not seen; the rarest pieces on the first
    5 million characters of train.jsonl.

    A text with too few different words for `config.vocab_size` gets the largest vocabulary that it can fill.

    Args:
        given: a sentencepiece model to use instead of training one, because the model to start from has it.

    Raises:
        ConfigError: the vocabulary is too small. BulletError: the rows are missing or damaged.
    """
    train = data_dir / "train.jsonl"
    shares = balanced_shares(read_documents(train)) if given is None else {}
    proto = given or train_tokenizer(training_texts(train, shares), config.vocab_size, seed, progress, at_most=True)
    tokenizer = Tokenizer(proto)
    if given is None and tokenizer.vocab_size < config.vocab_size:
        progress.log(
            f"tokenizer: the vocabulary has {tokenizer.vocab_size:,} tokens instead of {config.vocab_size:,}, "
            "because this text has too few different words for more; a larger vocabulary needs more text"
        )
    report = {
        "measured_on": "val.jsonl",
        **tokenizer_report(tokenizer, held_out_texts(data_dir / "val.jsonl")),
        **_rarest(tokenizer, training_texts(train)),
        "trained_on_share": {language: round(share, 4) for language, share in shares.items()},
    }
    if given is not None:
        _warn_of_bytes(report, progress)
    unused = report["unused_pieces"]
    if given is None and unused > MANY_UNUSED * (tokenizer.vocab_size - FIRST_PIECE):
        progress.log(
            f"tokenizer: {unused:,} of {tokenizer.vocab_size:,} tokens never occur in the training text: "
            f"a vocabulary of {report['suggested_vocab_size']:,} fits it better (--tokenizer.vocab_size={report['suggested_vocab_size']})"
        )
    with atomic_folder(out_dir, FILES) as folder:
        (folder / "tokenizer.model").write_bytes(tokenizer.proto)
        write_json(folder / "report.json", report)
    return report


def _warn_of_bytes(report: dict[str, Any], progress: Progress) -> None:
    """Say if a vocabulary that was trained on other text does not have the letters of this text."""
    rows = report["languages"].values()
    share = sum(row["share_in_bytes"] * row["characters"] for row in rows) / max(1, sum(row["characters"] for row in rows))
    if share > MANY_IN_BYTES:
        progress.log(
            f"tokenizer: the vocabulary of the model to start from lacks {share:.0%} of the characters of this text, and spells each in up "
            "to four tokens: a model that was trained on this script, or random weights (--from none), will learn more"
        )


def balanced_shares(documents: Iterable[Document]) -> dict[str, float]:
    """For each language, the share of its text used to train the vocabulary; all text of the smallest language is used."""
    sizes = Counter[str]()
    for document in documents:
        sizes[document["language"]] += sum(map(len, texts_of(document)))
    smallest = min((size for size in sizes.values() if size >= SMALLEST_SHARE * sizes.total()), default=0)
    return {language: min(1.0, (smallest / max(size, 1)) ** (1 - BALANCE)) for language, size in sorted(sizes.items())}


def training_texts(path: Path, shares: dict[str, float] | None = None) -> Iterator[str]:
    """The texts of the rows, with the share of each language chosen by a hash of the row's id; all texts without `shares`."""
    for document in read_documents(path):
        if shares is None or _rank(document["id"]) < shares[document["language"]]:
            yield from texts_of(document)


def held_out_texts(path: Path) -> dict[str, list[str]]:
    """The texts of the rows by language; a translation request has two languages, one in each message."""
    texts: dict[str, list[str]] = {}
    for document in read_documents(path):
        for text in texts_of(document):
            language = detect(text) if "messages" in document else document["language"]
            texts.setdefault(language, []).append(text)
    return dict(sorted(texts.items()))


def _rank(identity: str) -> float:
    """A number from 0 to 1."""
    return int.from_bytes(hashlib.blake2b(b"vocabulary " + identity.encode(), digest_size=8).digest(), "little") / 2**64


def _rarest(tokenizer: Tokenizer, texts: Iterator[str]) -> dict[str, Any]:
    """The number of learned pieces that do not occur, and the rarest pieces."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    characters = 0
    for text in texts:
        counts += np.bincount(np.array(tokenizer.encode(text), dtype=np.int64), minlength=len(counts))
        characters += len(text)
        if characters >= _COUNTED_CHARACTERS:
            break
    pieces = tokenizer.pieces()
    used = [i for i in range(FIRST_PIECE, len(pieces)) if counts[i]]
    rarest = sorted(used, key=lambda i: (counts[i], pieces[i].text))[:RARE]
    often = sum(int(counts[i]) >= OFTEN for i in used)
    return {
        "unused_pieces": len(pieces) - FIRST_PIECE - len(used),
        "suggested_vocab_size": max(-(-(FIRST_PIECE + often) // 100) * 100, SMALLEST_VOCABULARY),
        "rarest_pieces": [{"piece": pieces[i].text.replace(SPACE_MARK, " "), "count": int(counts[i])} for i in rarest],
    }
