"""Writes and reads safetensors files of numpy arrays: the weights in a Hugging Face folder.

8 bytes        length of the header, unsigned, little-endian
header         JSON: tensor -> dtype, shape, and the two ends of its bytes in the data; "__metadata__" -> texts for people
data           the tensors one after the other, without gaps

The package `safetensors` does the same, for more types. Its 1.4 MB are not in the plain installation; training uses it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bulletlm.errors import FormatError
from bulletlm.formats.bullet.header import parse_json
from bulletlm.formats.stored import Floats, brief

_ALIGNMENT = 8
"""The header ends at a multiple of this many bytes, filled up with spaces."""

_MOST_HEADER_BYTES = 100_000_000
"""A longer header is refused, as the package does."""

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

_METADATA = "__metadata__"


def write_safetensors(path: Path, tensors: Mapping[str, Floats], metadata: Mapping[str, str]) -> None:
    """Write float32 arrays in the order of their names. The bytes are those that the package `safetensors` writes."""
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.size * _ITEM_BYTES["F32"]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            file.write(np.ascontiguousarray(tensor, dtype="<f4").data)


def parse_safetensors(content: bytes, where: str) -> dict[str, Floats]:
    """Name -> float32 array of the tensors in the bytes of a file: F32, F16 or BF16.

    Args:
        where: the name of the file in messages.

    Raises:
        FormatError: the file is cut, its header is damaged, the tensors overlap or leave gaps, or one has another type.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _MOST_HEADER_BYTES):
        raise FormatError(f"{where} is not a whole safetensors file (its header is cut)")
    try:
        header = parse_json(content[8 : 8 + length], "its header")
    except FormatError as error:
        raise FormatError(f"{where} is not a whole safetensors file ({brief(str(error))})") from None
    header.pop(_METADATA, None)
    entries = {name: _read_entry(name, entry, where) for name, entry in header.items()}
    data, expected = memoryview(content)[8 + length :], 0
    tensors = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].ends):
        if entry.kind not in _ITEM_BYTES:
            raise FormatError(f"{where}: {brief(name)} is of type {brief(entry.kind)}: only F32, F16 and BF16 are supported")
        start, expected = expected, expected + math.prod(entry.shape) * _ITEM_BYTES[entry.kind]
        if entry.ends != (start, expected) or expected > len(data):
            raise FormatError(f"{where} is not a whole safetensors file ({brief(name)} does not have bytes {start} to {expected})")
        tensors[name] = _as_floats(data[start:expected], entry.kind).reshape(entry.shape)
    if expected != len(data):
        raise FormatError(f"{where} is not a whole safetensors file (its tensors have {expected} bytes, and it has {len(data)})")
    return tensors


class _Entry(NamedTuple):
    """What the header says about a tensor: its type, its shape, and the ends of its bytes in the data."""

    kind: str
    shape: tuple[int, ...]
    ends: tuple[int, int]


def _read_entry(name: str, entry: Any, where: str) -> _Entry:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [start, end]}:
            if all(type(number) is int and number >= 0 for number in (*shape, start, end)):
                return _Entry(kind, tuple(shape), (start, end))
    raise FormatError(f"{where} is not a whole safetensors file (its header does not say where {brief(name)} is)")


def _as_floats(data: memoryview, kind: str) -> Floats:
    if kind == "BF16":  # the upper half of a binary32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, "<f4" if kind == "F32" else "<f2").astype(np.float32, copy=False)
