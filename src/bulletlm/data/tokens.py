"""Token files: the training and validation text as flat arrays that training maps into memory.

train.bin val.bin              token ids of all documents one after another, little endian
train.learn.bin val.learn.bin  one byte per token: 1 if the token counts in the loss (only with loss_on = "answers")
train.sources.bin              two uint32 per document, little endian: its token count, and the index of its source in index.json
index.json                     sizes, and for the validation set the position of each document
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError
from bulletlm.files import atomic_folder, read_json, write_json
from bulletlm.progress import Progress, Task
from bulletlm.text.chat import encode_documents
from bulletlm.text.documents import Document, read_documents, texts_of
from bulletlm.text.tokenizer import Tokenizer

SPLITS = ("train", "val")

FILES = (*(f"{split}{suffix}" for split in SPLITS for suffix in (".bin", ".learn.bin", ".sources.bin")), "index.json")
"""The files of a tokens folder; not every split has all of them."""

_DOCUMENTS_AT_ONCE = 512


class LanguageCounts(TypedDict):
    """Tokens, UTF-8 bytes of text and documents of one language in a split."""

    tokens: int
    bytes: int
    documents: int


class DocumentRange(TypedDict):
    """The position of a validation document: tokens `start` to `end`, and the number of UTF-8 bytes of its text."""

    start: int
    end: int
    bytes: int
    language: str
    source: str


class SplitIndex(TypedDict, total=False):
    """The entry of a split in index.json; token files from other programs may have fewer fields.

    Attributes:
        bytes: UTF-8 size of the text without special tokens; loss in bits divided by it is bits per byte.
        learned_bytes: UTF-8 size of the answers, if only answers count in the loss.
        documents: number of documents (training), or the range of each document (validation).
        sources: names of the sources, training only.
    """

    tokens: int
    bytes: int
    by_language: dict[str, LanguageCounts]
    learned_bytes: int
    documents: int | list[DocumentRange]
    sources: list[str]


class TokenIndex(TypedDict):
    """index.json: the contents of the token files."""

    dtype: str
    vocab_size: int
    loss_on: str
    train: SplitIndex
    val: SplitIndex


@dataclass(frozen=True)
class TokenFile:
    """The token arrays of a split.

    Attributes:
        tokens: uint16 or uint32 [n].
        learn: uint8 [n], or None if every token counts in the loss.
        info: the split's entry in index.json.
        sources: uint32 [documents, 2], the token count of each document and the index of its source; None if unknown.
    """

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    learn: npt.NDArray[np.uint8] | None
    info: SplitIndex
    sources: npt.NDArray[np.uint32] | None = None

    @property
    def documents(self) -> list[DocumentRange]:
        """The range of each document in the validation split; empty for the training split."""
        ranges = self.info["documents"]
        return ranges if isinstance(ranges, list) else []


def write_tokens(data_dir: Path, tokenizer: Tokenizer, loss_on: str, out_dir: Path, progress: Progress) -> TokenIndex:
    """Encode train.jsonl and val.jsonl of `data_dir` into `out_dir`; return the content of index.json.

    Raises:
        BulletError: the rows are missing or damaged, or the disk is full.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_535 else "<u4")
    answers_only = loss_on == "answers"
    paths = {split: Path(data_dir) / f"{split}.jsonl" for split in SPLITS}
    total = sum(path.stat().st_size for path in paths.values() if path.exists())
    with atomic_folder(out_dir, FILES) as folder, progress.task("tokens", total) as task:
        train, val = (_write_split(path, tokenizer, dtype, answers_only, folder / split, task) for split, path in paths.items())
        index: TokenIndex = {"dtype": dtype.name, "vocab_size": tokenizer.vocab_size, "loss_on": loss_on, "train": train, "val": val}
        write_json(folder / "index.json", index)
    return index


def _write_split(path: Path, tokenizer: Tokenizer, dtype: np.dtype[Any], answers_only: bool, stem: Path, task: Task) -> SplitIndex:
    by_language: dict[str, LanguageCounts] = {}
    ranges: list[DocumentRange] = []
    sources: dict[str, int] = {}
    documents = at = size = learned = 0
    bytes_of = [len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)] if answers_only else []
    learn_path = stem.with_suffix(".learn.bin")
    sources_path = stem.with_suffix(".sources.bin")
    with open(stem.with_suffix(".bin"), "wb") as tokens_file, open(learn_path, "wb") as learn_file, open(sources_path, "wb") as source_file:
        for batch in _batches(read_documents(path, task.advance)):
            for document, (ids, learn) in zip(batch, encode_documents(tokenizer, batch), strict=True):
                tokens_file.write(np.array(ids, dtype=dtype).tobytes())
                if answers_only:
                    learn_file.write(np.array(learn, dtype=np.uint8).tobytes())
                    learned += sum(bytes_of[token] for token, counts in zip(ids, learn, strict=True) if counts)
                language, source = document["language"], document["source"]
                text_bytes = sum(len(text.encode()) for text in texts_of(document))
                row = by_language.setdefault(language, {"tokens": 0, "bytes": 0, "documents": 0})
                row["tokens"] += len(ids)
                row["bytes"] += text_bytes
                row["documents"] += 1
                if stem.name == "val":
                    ranges.append({"start": at, "end": at + len(ids), "bytes": text_bytes, "language": language, "source": source})
                else:
                    number = sources.setdefault(source, len(sources))
                    source_file.write(np.array([len(ids), number], "<u4").tobytes())
                documents += 1
                at += len(ids)
                size += text_bytes
    if not answers_only:
        learn_path.unlink()
    if stem.name == "val":
        sources_path.unlink()
    counts: dict[str, Any] = {"tokens": at, "bytes": size, "by_language": dict(sorted(by_language.items()))}
    if answers_only:
        counts["learned_bytes"] = learned
    if stem.name == "val":
        return cast(SplitIndex, {**counts, "documents": ranges})
    return cast(SplitIndex, {**counts, "documents": documents, "sources": list(sources)})


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        yield batch


def read_index(folder: Path) -> TokenIndex:
    """index.json of a tokens folder.

    Raises:
        BulletError: it is missing or damaged.
    """
    path = Path(folder) / "index.json"
    index = read_json(path)
    kinds = {"dtype": str, "vocab_size": int, "loss_on": str, "train": dict, "val": dict}
    whole = isinstance(index, dict) and all(type(index.get(name)) is kind for name, kind in kinds.items())
    for split in SPLITS:
        whole = whole and all(name in index[split] for name in ("tokens", "bytes", "by_language", "documents"))
    if not whole or index["dtype"] not in ("uint16", "uint32"):
        raise BulletError(f"{path} is damaged: delete its folder and run the tokens stage again")
    return cast("TokenIndex", index)


def vocabulary_size(folder: Path) -> int:
    """Size of the vocabulary with which a tokens folder was written: at most tokenizer.vocab_size, less if the text is short.

    Raises:
        BulletError: index.json is missing or damaged.
    """
    return read_index(folder)["vocab_size"]


def open_tokens(folder: Path, split: str) -> TokenFile:
    """Map a split ("train" or "val") into memory, read-only.

    Raises:
        BulletError: a file is missing, or its size is not what index.json says.
    """
    folder = Path(folder)
    index = read_index(folder)
    info = index["train"] if split == "train" else index["val"]
    tokens = _map(folder / f"{split}.bin", np.dtype(index["dtype"]).newbyteorder("<"), info["tokens"])
    learn = _map(folder / f"{split}.learn.bin", np.dtype(np.uint8), info["tokens"]) if index["loss_on"] == "answers" else None
    sources = None
    if isinstance(info["documents"], int) and "sources" in info:
        sources = _map(folder / f"{split}.sources.bin", np.dtype("<u4"), 2 * info["documents"]).reshape(-1, 2)
    return TokenFile(tokens, learn, info, sources)


def _map(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    expected = count * dtype.itemsize
    if not path.exists():
        raise BulletError(f"{path} is missing: delete its folder and run the stage again")
    if path.stat().st_size != expected:
        raise BulletError(
            f"{path} has {path.stat().st_size:,} bytes, index.json says {expected:,}: delete its folder and run the stage again"
        )
    if not count:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
