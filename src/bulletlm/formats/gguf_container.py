"""Writes the container of GGUF, version 3: keys with typed values, then tensors.

The layout is that of ggml's docs/gguf.md, in little-endian order. A test compares the bytes with those of the package gguf, which
BulletLM does not use itself, because it brings more than it saves here.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy.typing as npt

ALIGNMENT = 32
"""Every tensor begins at a multiple of this, in bytes from the first."""

_CODES = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?")}
_STRING, _ARRAY = 8, 9


class Typed(NamedTuple):
    """A value of a key.

    Attributes:
        kind: u32, i32, f32, bool or string.
        value: of this kind, or a list of such values.
    """

    kind: str
    value: Any


class Tensor(NamedTuple):
    """A tensor to write.

    Attributes:
        name: its name in the file.
        shape: its extents in elements, in the order of numpy.
        type: its number in ggml.
        data: its bytes, as a contiguous array.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    data: npt.NDArray[Any]


def write_container(file: BinaryIO, values: Mapping[str, Typed], tensors: Iterable[Tensor]) -> None:
    """Write a whole GGUF file. A key with an empty list or text is left out, as other writers do.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = list(tensors)
    kept = {key: value for key, value in values.items() if value.value not in ([], "")}
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kept)))
    for key, (kind, value) in kept.items():
        head += _string(key)
        if isinstance(value, list):
            head += struct.pack("<IIQ", _ARRAY, _code(kind), len(value)) + b"".join(_item(kind, each) for each in value)
        else:
            head += struct.pack("<I", _code(kind)) + _item(kind, value)
    place = 0
    for tensor in tensors:
        head += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += b"".join(struct.pack("<Q", extent) for extent in reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.type, place)
        place += tensor.data.nbytes + _padding(tensor.data.nbytes)
    file.write(head + bytes(_padding(len(head))))
    for tensor in tensors:
        file.write(tensor.data.data)
        file.write(bytes(_padding(tensor.data.nbytes)))


def _code(kind: str) -> int:
    return _STRING if kind == "string" else _CODES[kind][0]


def _item(kind: str, value: Any) -> bytes:
    return _string(value) if kind == "string" else struct.pack(_CODES[kind][1], value)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padding(size: int) -> int:
    return -size % ALIGNMENT
