"""Reads and replaces the pieces in a sentencepiece model file.

The file is a protocol buffer (sentencepiece_model.proto, message ModelProto). The few lines below change its list of
pieces without the protobuf package and a generated module.
"""

import struct
from collections.abc import Iterable, Iterator

from bulletlm.text.tokenizer import FIRST_PIECE

_PIECES, _TRAINER_SPEC, _TRAINER_VOCAB_SIZE = 1, 2, 4


def with_pieces(proto: bytes, pieces: Iterable[tuple[str, float]]) -> bytes:
    """`proto` with its pieces after the special and byte tokens replaced by these texts and scores."""
    out = [_field(number, 2, value) for number, value in _fields(proto) if number == _PIECES][:FIRST_PIECE]
    for text, score in pieces:
        out.append(_field(_PIECES, 2, _field(1, 2, text.encode()) + _field(2, 5, struct.pack("<f", score))))
    for number, value in _fields(proto):
        if number == _TRAINER_SPEC:
            value = _set_vocab_size(value, len(out))
        if number != _PIECES:
            out.append(_field(number, 2, value))
    return b"".join(out)


def _set_vocab_size(trainer_spec: bytes, size: int) -> bytes:
    key = _TRAINER_VOCAB_SIZE << 3
    at = 0
    while trainer_spec[at] != key:
        at = _skip(trainer_spec, at)
    return trainer_spec[: at + 1] + varint(size) + trainer_spec[_skip(trainer_spec, at) :]


def piece_texts(proto: bytes) -> list[str]:
    return [next(value for field, value in _fields(piece) if field == 1).decode() for number, piece in _fields(proto) if number == _PIECES]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each length-delimited field."""
    at = 0
    while at < len(message):
        key, start = _read_varint(message, at)
        end = _skip(message, at)
        if key & 7 == 2:
            _, start = _read_varint(message, start)
            yield key >> 3, message[start:end]
        at = end


def _skip(message: bytes, at: int) -> int:
    """Where the field that begins at `at` ends."""
    key, at = _read_varint(message, at)
    if key & 7 == 0:
        return _read_varint(message, at)[1]
    if key & 7 == 2:
        length, at = _read_varint(message, at)
        return at + length
    return at + (8 if key & 7 == 1 else 4)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def varint(value: int) -> bytes:
    """A number of a protocol buffer message, 0 or more, in as few bytes as it needs."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, wire_type: int, content: bytes) -> bytes:
    return varint(number << 3 | wire_type) + (varint(len(content)) if wire_type == 2 else b"") + content
