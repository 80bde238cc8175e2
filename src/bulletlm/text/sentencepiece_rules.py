"""Checks that a sentencepiece model file encodes text as docs/bullet-format.md defines.

The sentencepiece library applies every option in the file: it matches pieces of the type "user-defined" in typed text, a
normalizer changes the text, a dummy prefix adds a space in front. A BulletLM tokenizer does none of these, so a file with such an
option is refused. The parser here needs neither the library nor the protobuf package, and validates every length in the file.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from bulletlm.errors import FormatError
from bulletlm.text.pieces import BYTE, CONTROL, NORMAL, UNKNOWN, Piece
from bulletlm.text.sentencepiece_proto import varint
from bulletlm.text.tokenizer import FIRST_BYTE, FIRST_PIECE, SPECIAL_TOKENS, USER, type_of_id

TYPE_NAMES = {NORMAL: "normal", UNKNOWN: "unknown", CONTROL: "control", 4: "user-defined", 5: "unused", BYTE: "byte"}

# Field numbers of sentencepiece_model.proto: ModelProto, SentencePiece, TrainerSpec, NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX_SPACE, _BYTE_FALLBACK = 3, 24, 35
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5
_BPE = 2

_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


class _Field(NamedTuple):
    number: int
    wire_type: int
    value: int | bytes


def check_model_file(proto: bytes, pieces: Sequence[Piece]) -> None:
    """Check that a sentencepiece model has exactly these pieces, and settings that keep text as it is.

    Args:
        proto: the model file.
        pieces: text, score and type in the order of the ids.

    Raises:
        FormatError: the file is damaged, or breaks one of the rules; the message says which.
    """
    canonical = b"".join(map(_encoded, pieces))
    fields = _fields(proto[len(canonical) :]) if proto.startswith(canonical) else None
    if fields is None or any(field.number == _PIECES for field in fields):
        fields = _fields(proto)
        found = _pieces(fields)
        if len(found) != len(pieces):
            raise FormatError(f"it has {len(found)} pieces, not {len(pieces)}")
        for i, (given, wanted) in enumerate(zip(found, pieces, strict=True)):
            _check_piece(i, given, wanted)
    _check_settings(fields)


def read_model_file(proto: bytes) -> list[Piece]:
    """The pieces of a sentencepiece model of BulletLM, in the order of their ids.

    Raises:
        FormatError: the file is damaged, has other special or byte pieces than BulletLM's, or breaks a rule.
    """
    fields = _fields(proto)
    pieces = _pieces(fields)
    for i, piece in enumerate(pieces):
        _check_piece(i, piece, piece._replace(text=fixed_text(i) or piece.text, type=type_of_id(i)))
    if len(pieces) < FIRST_PIECE:
        raise FormatError(f"it has {len(pieces)} pieces: {FIRST_PIECE} special and byte pieces come first")
    _check_settings(fields)
    return pieces


def lacks_marks(proto: bytes) -> bool:
    """Whether a sentencepiece model has the bytes directly after <unk> <s> </s>, where BulletLM's models have the chat marks.

    Raises:
        FormatError: the file is damaged.
    """
    pieces = _pieces(_fields(proto))
    return len(pieces) > USER and pieces[USER].text == "<0x00>"


def pieces_without_marks(proto: bytes) -> list[tuple[str, float]]:
    """Text and score of the learned pieces of a model that lacks the chat marks and otherwise follows the rules.

    Raises:
        FormatError: the file is damaged or breaks another rule.
    """
    fields = _fields(proto)
    pieces = _pieces(fields)
    marks = FIRST_BYTE - USER
    if len(pieces) <= FIRST_PIECE - marks:
        raise FormatError(f"it has {len(pieces)} pieces: {FIRST_PIECE - marks} special and byte pieces come first")
    for i, piece in enumerate(pieces):
        place = i if i < USER else i + marks
        _check_piece(i, piece, piece._replace(text=fixed_text(place) or piece.text, type=type_of_id(place)))
    _check_settings(fields)
    return [(piece.text, piece.score) for piece in pieces[FIRST_PIECE - marks :]]


def fixed_text(i: int) -> str | None:
    """The text of token `i` where it is the same in every vocabulary, as for special and byte pieces; else None."""
    if i < len(SPECIAL_TOKENS):
        return SPECIAL_TOKENS[i]
    return f"<0x{i - len(SPECIAL_TOKENS):02X}>" if i < FIRST_PIECE else None


def _check_piece(i: int, given: Piece, wanted: Piece) -> None:
    if given.text != wanted.text:
        raise FormatError(f"piece {i} is {given.text[:20]!r}, but must be {wanted.text[:20]!r}")
    if given.type != wanted.type:
        name = TYPE_NAMES.get(given.type, "unknown to us")
        raise FormatError(
            f"piece {i} ({given.text[:20]!r}) is of type {given.type} ({name}), but must be {wanted.type} ({TYPE_NAMES[wanted.type]})"
        )
    if given.score != wanted.score:
        raise FormatError(f"piece {i} ({given.text[:20]!r}) has the score {given.score:g}, but must have {wanted.score:g}")


def _check_settings(fields: Sequence[_Field]) -> None:
    trainer, normalizer, denormalizer = (_message(fields, number) for number in (_TRAINER, _NORMALIZER, _DENORMALIZER))
    if _number(trainer, _MODEL_TYPE, 1) != _BPE:
        raise FormatError("its model_type is not BPE")
    if not _number(trainer, _BYTE_FALLBACK, 0):
        raise FormatError("it does not spell unknown characters in bytes (byte_fallback is false)")
    if _number(trainer, _SUFFIX_SPACE, 0):
        raise FormatError("it changes text: it puts spaces at the end of words (treat_whitespace_as_suffix)")
    if _number(normalizer, _DUMMY_PREFIX, 1):
        raise FormatError("it changes text: it puts a space in front (add_dummy_prefix)")
    if _number(normalizer, _REMOVE_SPACES, 1):
        raise FormatError("it changes text: it removes spaces (remove_extra_whitespaces)")
    if not _number(normalizer, _ESCAPE_SPACES, 1):
        raise FormatError("it does not write spaces as U+2581 (escape_whitespaces is false)")
    for name, message in (("normalizer", normalizer), ("denormalizer", denormalizer)):
        if any(field.number == _CHARSMAP and field.value for field in message):
            raise FormatError(f"it changes text: it has a {name} (precompiled_charsmap)")


def _pieces(fields: Sequence[_Field]) -> list[Piece]:
    found = list[Piece]()
    for field in fields:
        if not (field.number == _PIECES and field.wire_type == _DELIMITED and isinstance(field.value, bytes)):
            continue
        text, score, kind = b"", 0.0, NORMAL
        for number, wire_type, value in _fields(field.value):
            if number == _TEXT and wire_type == _DELIMITED and isinstance(value, bytes):
                text = value
            elif number == _SCORE and wire_type == _FOUR_BYTES and isinstance(value, bytes):
                score = struct.unpack("<f", value)[0]
            elif number == _TYPE and wire_type == _VARINT and isinstance(value, int):
                kind = value
        i = len(found)
        try:
            found.append(Piece(text.decode(), score, kind))
        except UnicodeDecodeError:
            raise FormatError(f"the text of piece {i} is not UTF-8") from None
        if not text:
            raise FormatError(f"piece {i} is empty")
        if not math.isfinite(score):
            raise FormatError(f"the score of piece {i} is NaN or infinite")
    return found


def _message(fields: Sequence[_Field], number: int) -> list[_Field]:
    """The fields of an embedded message; if it occurs twice, the protocol merges the fields."""
    found = list[_Field]()
    for field in fields:
        if field.number == number and field.wire_type == _DELIMITED and isinstance(field.value, bytes):
            found += _fields(field.value)
    return found


def _number(message: Sequence[_Field], number: int, default: int) -> int:
    """The last value of an integer field; a field of another wire type does not count, as in the library."""
    values = [field.value for field in message if field.number == number and isinstance(field.value, int)]
    return values[-1] if values else default


def _encoded(piece: Piece) -> bytes:
    """A piece as the library writes it."""
    text = piece.text.encode()
    body = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", piece.score)
    if piece.type != NORMAL:
        body += b"\x18" + varint(piece.type)
    return b"\x0a" + varint(len(body)) + body


def _fields(message: bytes) -> list[_Field]:
    """The fields of a protocol buffer message.

    Raises:
        FormatError: the message is truncated or invalid.
    """
    found, at = list[_Field](), 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, wire_type = key >> 3, key & 7
        value: int | bytes
        if wire_type == _VARINT:
            value, at = _read_varint(message, at)
        else:
            if wire_type == _DELIMITED:
                size, at = _read_varint(message, at)
            elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
                size = 8 if wire_type == _EIGHT_BYTES else 4
            else:
                raise FormatError(f"it is damaged: byte {at} begins a field of the unknown wire type {wire_type}")
            value, at = message[at : at + size], at + size
        if number == 0 or at > len(message):
            raise FormatError("it is damaged or cut short")
        found.append(_Field(number, wire_type, value))
    return found


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise FormatError("it is damaged or cut short: a number does not end")
