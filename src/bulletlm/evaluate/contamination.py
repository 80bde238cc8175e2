"""How much of the validation text stands in the training text: a loss on text that the model was trained on says nothing about new text.

A sequence of tokens that both texts have is not a copy by itself. With a small vocabulary, 24 tokens can be five words; they may be a name,
the words of the chat template between two documents, or a formula of official language, which comes back in every document. So shared
sequences only name the training documents to look at, and those are compared word by word, by the rules of the data stage, which removes
copies of validation text (data/leaks.py), and for excerpts that are too short for those rules.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.leaks import Index, Passages
from bulletlm.evaluate.report_types import ContaminationValues
from bulletlm.text.documents import Document, Message
from bulletlm.text.tokenizer import ASSISTANT, BOS, FIRST_BYTE, USER, Tokenizer

SEQUENCE = 24
"""Tokens of a sequence that is looked up in the training text."""

_CHUNK = 1 << 22
_TOKENS_AT_ONCE = 1 << 18
_FACTOR = 0x9E3779B97F4A7C15
_ROLES = {USER: "user", ASSISTANT: "assistant"}

Tokens = npt.NDArray[np.integer[Any]]


def find_contamination(train: Tokens, val: Tokens, tokenizer: Tokenizer, sequence: int = SEQUENCE) -> ContaminationValues:
    """Measure how much of the validation text the training text repeats.

    Args:
        train, val: token ids [n] of documents, one after another.
        tokenizer: of both.
        sequence: tokens of a sequence that is looked up.
    """
    in_val, places = _shared_sequences(train, val, sequence)
    found: ContaminationValues = {"share": 0.0, "removable": 0.0, "phrases": 0.0, "tokens": len(val), "sequence": sequence}
    if not len(places):
        return found
    covered = np.zeros(len(val) + 1, dtype=np.int64)
    np.add.at(covered, in_val, 1)
    np.add.at(covered, in_val + sequence, -1)
    found["phrases"] = float((np.cumsum(covered)[:-1] > 0).mean())
    index = Index([_document(val[start:end], tokenizer) for start, end in _ranges(val)])
    copies, runs = (np.zeros(index.word_count, dtype=bool) for _ in range(2))
    for documents in _batches(train, places, tokenizer):
        passages = Passages.of(documents)
        copies |= index.repeated_words(passages)
        runs |= index.repeated_runs(passages)
    if len(copies):
        found["removable"], found["share"] = float(copies.mean()), float((copies | runs).mean())
    return found


def _shared_sequences(train: Tokens, val: Tokens, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where sequences of `length` tokens begin that both have: in `val`, and in `train`."""
    wanted = _hashes(val, length)
    known = np.unique(wanted)
    found = np.zeros(len(known), dtype=bool)
    places: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(train) if len(known) else 0, _CHUNK):
        hashes = _hashes(train[start : start + _CHUNK + length - 1], length)
        at = np.searchsorted(known, hashes)
        at[at == len(known)] = 0
        hits = np.flatnonzero(known[at] == hashes)
        found[at[hits]] = True
        places.append(start + hits)
    if not places:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.flatnonzero(found[np.searchsorted(known, wanted)]), np.concatenate(places)


def _hashes(tokens: Tokens, length: int) -> npt.NDArray[np.uint64]:
    """A hash of every sequence of `length` tokens: sums of the tokens times powers of an odd number, modulo 2^64."""
    if len(tokens) < length:
        return np.zeros(0, dtype=np.uint64)
    powers, back = _powers(_FACTOR, len(tokens)), _powers(pow(_FACTOR, -1, 1 << 64), len(tokens) - length + 1)
    mixed = (np.asarray(tokens, dtype=np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers, dtype=np.uint64)])
    hashes: npt.NDArray[np.uint64] = (sums[length:] - sums[:-length]) * back
    return hashes


def _powers(factor: int, count: int) -> npt.NDArray[np.uint64]:
    """1, factor, factor^2, ... modulo 2^64, uint64[count] with count >= 1."""
    factors = np.full(count, factor, dtype=np.uint64)
    factors[0] = 1
    powers: npt.NDArray[np.uint64] = np.cumprod(factors, dtype=np.uint64)
    return powers


def _ranges(tokens: Tokens) -> npt.NDArray[np.int64]:
    """[documents, 2] where each document begins and ends."""
    starts = np.flatnonzero(np.asarray(tokens) == BOS)
    starts = starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])
    return np.stack([starts, np.append(starts[1:], len(tokens))], axis=1)


def _batches(train: Tokens, places: npt.NDArray[np.int64], tokenizer: Tokenizer) -> Iterator[list[Document]]:
    """The different training documents in which sequences begin or end at `places`, some at a time. A mixture repeats documents."""
    ranges = _ranges(train)
    first = np.searchsorted(ranges[:, 0], places, side="right") - 1
    last = np.searchsorted(ranges[:, 0], places + SEQUENCE - 1, side="right") - 1
    seen: set[bytes] = set()
    batch: list[Document] = []
    size = 0
    for start, end in ranges[np.unique(np.concatenate([first, last]))].tolist():
        tokens = np.asarray(train[start:end])
        key = blake2b(tokens.tobytes(), digest_size=16).digest()
        if key in seen:
            continue
        seen.add(key)
        batch.append(_document(tokens, tokenizer))
        size += len(tokens)
        if size >= _TOKENS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _document(tokens: Tokens, tokenizer: Tokenizer) -> Document:
    """The document in the form of data/train.jsonl that was encoded as `tokens` (text/chat.py)."""
    ids = np.asarray(tokens)
    marks = np.flatnonzero(ids < FIRST_BYTE)
    messages: list[Message] = [
        {"role": _ROLES[int(ids[mark])], "content": tokenizer.decode(ids[mark + 1 : end].tolist())}
        for mark, end in pairwise([*marks.tolist(), len(ids)])
        if int(ids[mark]) in _ROLES
    ]
    document: Document = {"id": "", "source": "", "language": ""}
    if messages:
        document["messages"] = messages
    else:
        document["text"] = tokenizer.decode(ids.tolist())
    return document
