"""Writing a `.bullet` file: the same inputs give the same bytes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
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


def write_bullet(
    path: Path,
    shape: ModelShape,
    tensors: Mapping[str, npt.NDArray[np.float32] | Quantized],
    types: Mapping[str, str],
    tokenizer_proto: bytes,
    pieces: Sequence[tuple[str, float, int]],
    metadata: Mapping[str, Any],
) -> None:
    """Write a model file, atomically.

    Args:
        path: where the file appears once it is complete.
        shape: says which tensors there must be.
        tensors: float32 arrays, rounded here to their type by ggml's rule, or tensors that are on their grid already.
        types: the weight type of every tensor; `layout.standard_types` gives the usual ones.
        tokenizer_proto: the sentencepiece model.
        pieces: its vocabulary: (text, score, type) in the order of the ids.
        metadata: further keys of the header, for people and for the runtime: name, license, languages,
            chat_template, sampling, training, and whatever else; JSON values.

    Raises:
        FormatError: a tensor is missing, of the wrong shape or type, or holds numbers that its type cannot;
            or the metadata is not JSON or takes a name of the format's own.
        BulletError: the disk is full or the folder is not writable.
    """
    _check_tensors(shape, tensors, types)
    sections = {PIECES_SECTION: encode_pieces(pieces), SENTENCEPIECE_SECTION: tokenizer_proto}
    text = _header_text(shape, types, pieces, sections, metadata)
    header = read_header(text)
    decode_pieces(sections[PIECES_SECTION], shape.vocab_size, header.special)
    with atomic_file(path) as file:
        out = _HashedFile(file)
        out.write(text + HEADER_END)
        for name, region in header.tensors.items():
            out.pad()
            out.write(_encode(name, tensors[name], region.type))
        for content in sections.values():
            out.pad()
            out.write(content)
        out.pad()
        file.write(out.digest() + END)


class _HashedFile:
    """A file that remembers its length and the hash of what was written."""

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


def _header_text(
    shape: ModelShape,
    types: Mapping[str, str],
    pieces: Sequence[tuple[str, float, int]],
    sections: Mapping[str, bytes],
    metadata: Mapping[str, Any],
) -> bytes:
    """The JSON. Offsets count from the start of the file, so its own length decides what it says: repeat until that settles."""
    for key in metadata:
        if key in RESERVED:
            raise FormatError(f"metadata cannot be called {key}: the header uses that name itself")
    special = {SPECIAL_PIECES[text]: i for i, (text, _, type) in enumerate(pieces) if type in (UNKNOWN, CONTROL) and text in SPECIAL_PIECES}
    first = {"bullet_version": VERSION, "architecture": ARCHITECTURE, "shape": shape.to_dict(), **metadata}
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
    """JSON with one line a key, and one line an entry of a list of objects, so that `head` shows what the file is."""
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
