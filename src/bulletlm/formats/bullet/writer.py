"""Writes a `.bullet` file: the same inputs give the same bytes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError, FormatError
from bulletlm.files import atomic_file
from bulletlm.formats.bullet.header import RESERVED, read_header
from bulletlm.formats.bullet.layout import (
    ARCHITECTURE,
    END,
    HEADER_END,
    PIECES_SECTION,
    SENTENCEPIECE_SECTION,
    TOKENIZER_KIND,
    VERSION,
    aligned,
    decode_pieces,
    encode_pieces,
)
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8, scales_of
from bulletlm.quant.types import tensor_bytes
from bulletlm.shape import ModelShape
from bulletlm.text.pieces import CONTROL, SPECIAL_PIECES, UNKNOWN


@dataclass(frozen=True, kw_only=True)
class ModelContents:
    """The contents of a `.bullet` file.

    Attributes:
        shape: the model's shape; it says which tensors there must be.
        tensors: by name: float32 arrays, which are rounded to their type by ggml's rule, or quantized tensors.
        types: the weight type of every tensor; `quant.types.standard_types` gives the usual ones.
        tokenizer_proto: the sentencepiece model.
        pieces: its vocabulary: (text, score, type) in the order of the ids.
        metadata: further keys of the header, JSON values: name, license, languages, chat_template, sampling, training
            and others.
    """

    shape: ModelShape
    tensors: Mapping[str, npt.NDArray[np.float32] | Quantized]
    types: Mapping[str, str]
    tokenizer_proto: bytes
    pieces: Sequence[tuple[str, float, int]]
    metadata: Mapping[str, Any]


def write_bullet(path: Path, model: ModelContents) -> None:
    """Write a model file, atomically; the same contents give the same bytes.

    Args:
        path: where the file appears once it is complete; an older file there is replaced.
        model: the contents of the file.

    Raises:
        FormatError: a tensor is missing, of the wrong shape or type, or holds numbers that its type cannot store;
            or the metadata is not JSON or uses a reserved key.
        BulletError: the disk is full or the folder is not writable.
    """
    _check_tensors(model.shape, model.tensors, model.types)
    sections = {PIECES_SECTION: encode_pieces(model.pieces), SENTENCEPIECE_SECTION: model.tokenizer_proto}
    text = _header_text(model, sections)
    header = read_header(text)
    decode_pieces(sections[PIECES_SECTION], model.shape.vocab_size, header.special)
    with atomic_file(path) as file:
        out = _HashedFile(file)
        out.write(text + HEADER_END)
        for name, entry in header.tensors.items():
            out.pad()
            out.write(_encode(name, model.tensors[name], entry.type))
        for content in sections.values():
            out.pad()
            out.write(content)
        out.pad()
        file.write(out.digest() + END)


class _HashedFile:
    """An open file with the length and the SHA-256 of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self._length = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self._length += len(content)

    def pad(self) -> None:
        self.write(bytes(aligned(self._length) - self._length))

    def digest(self) -> bytes:
        return self._hash.digest()


def _check_tensors(shape: ModelShape, tensors: Mapping[str, Any], types: Mapping[str, str]) -> None:
    expected = shape.tensors()
    for name in tensors:
        if name not in expected:
            raise FormatError(f"the tensor {name} does not belong to a model of this shape")
    for name, extents in expected.items():
        if name not in tensors:
            raise FormatError(f"the tensor {name} is missing")
        if tuple(tensors[name].shape) != extents:
            raise FormatError(f"the tensor {name} has shape {list(tensors[name].shape)}, but the model's shape implies {list(extents)}")
        given = tensors[name]
        if isinstance(given, Quantized) and given.type != types[name]:
            raise FormatError(f"the tensor {name} is already {given.type} and cannot be written as {types[name]}")


def _encode(name: str, tensor: npt.NDArray[np.float32] | Quantized, type: str) -> bytes:
    """The bytes of one tensor in the file."""
    try:
        if isinstance(tensor, Quantized):
            if not np.isfinite(scales_of(tensor.blocks)).all():
                raise BulletError(f"a {type} scale is NaN or infinite")
            return tensor.blocks.tobytes()
        if type == "BQ4":
            return quantize_bq4(tensor).tobytes()
        if type == "BQ8":
            return quantize_bq8(tensor).tobytes()
        with np.errstate(over="ignore"):
            numbers = tensor.astype("<f2" if type == "F16" else "<f4")
        if not np.isfinite(numbers).all():
            raise BulletError(f"a weight is NaN, infinite or too large for {type}")
        return numbers.tobytes()
    except BulletError as error:
        raise FormatError(f"the tensor {name} cannot be written: {error}") from None


def _header_text(model: ModelContents, sections: Mapping[str, bytes]) -> bytes:
    """The JSON. Offsets count from the start of the file and so depend on the length of the JSON: repeat until it stays the same."""
    shape, types, pieces = model.shape, model.types, model.pieces
    for key in model.metadata:
        if key in RESERVED:
            raise FormatError(f"the metadata has the key {key}, which the header uses itself: choose another name")
    special = {SPECIAL_PIECES[text]: i for i, (text, _, type) in enumerate(pieces) if type in (UNKNOWN, CONTROL) and text in SPECIAL_PIECES}
    first = {"bullet_version": VERSION, "architecture": ARCHITECTURE, "shape": shape.to_dict(), **model.metadata}
    tokenizer = {"kind": TOKENIZER_KIND, "special": special}
    length = 0
    while True:
        offset = length + len(HEADER_END)
        tensor_rows, section_rows = [], []
        for name, extents in shape.tensors().items():
            offset = aligned(offset)
            size = tensor_bytes(types[name], extents)
            tensor_rows.append({"name": name, "type": types[name], "shape": extents, "offset": offset, "bytes": size})
            offset += size
        for name, content in sections.items():
            offset = aligned(offset)
            section_rows.append({"name": name, "offset": offset, "bytes": len(content)})
            offset += len(content)
        text = _readable({**first, "tokenizer": tokenizer, "tensors": tensor_rows, "sections": section_rows})
        if len(text) == length:
            return text
        length = len(text)


def _readable(header: Mapping[str, Any]) -> bytes:
    """JSON with one line per key, and one line per entry of a list of objects, so that `head` shows what the file is."""
    lines = []
    try:
        for key, value in header.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines.append(f"{_json(key)}: [\n  " + ",\n  ".join(_json(row) for row in value) + "\n ]")
            else:
                lines.append(f"{_json(key)}: {_json(value)}")
        return ("{\n " + ",\n ".join(lines) + "\n}").encode()
    except (TypeError, ValueError) as error:
        raise FormatError(f"metadata is not JSON in UTF-8: {error}") from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
