"""The byte layout of a `.bullet` file, version 2; docs/bullet-format.md is the specification.

    JSON header, four NUL bytes | tensors | sections | SHA-256 of all that, "END!"

Everything is little-endian, and each part begins at a multiple of 64 bytes; the padding is zeros.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate

from bulletlm.errors import FormatError
from bulletlm.text.pieces import BYTE, CONTROL, PIECE_TYPES, SPECIAL_PIECES, UNKNOWN, Piece

VERSION = "2.0"
ARCHITECTURE = "llama"
ALIGNMENT = 64
HEADER_END = b"\0\0\0\0"
HEADER_MAX_BYTES = 1 << 20
"""Bytes of JSON at most: enough for 1000 layers, and small enough to be parsed safely."""

END = b"END!"
FOOTER_BYTES = 32 + len(END)

TOKENIZER_KIND = "sentencepiece-bpe"
PIECES_SECTION = "tokenizer.pieces"
SENTENCEPIECE_SECTION = "tokenizer.sentencepiece"


def aligned(offset: int) -> int:
    """The next multiple of 64 at or after `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def encode_pieces(pieces: Sequence[tuple[str, float, int]]) -> bytes:
    """The tokenizer.pieces section: u32 count, u32 ends[count], f32 scores[count], u8 types[count], UTF-8 text."""
    texts = [text.encode() for text, _, _ in pieces]
    count = len(pieces)
    ends = struct.pack(f"<I{count}I", count, *accumulate(len(text) for text in texts))
    scores = struct.pack(f"<{count}f", *(score for _, score, _ in pieces))
    return b"".join([ends, scores, bytes(type for _, _, type in pieces), *texts])


def decode_pieces(section: bytes, vocab_size: int, special: Mapping[str, int]) -> list[Piece]:
    """The inverse of `encode_pieces`, with every rule about pieces and special ids checked.

    Raises:
        FormatError: the section breaks a rule; the message names the field.
    """
    where = f"section {PIECES_SECTION}"
    if len(section) < 4:
        raise FormatError(f"{where}: {len(section)} bytes cannot hold the number of pieces")
    count = int.from_bytes(section[:4], "little")
    if count != vocab_size:
        raise FormatError(f"{where}: count is {count}, but shape.vocab_size is {vocab_size}")
    if len(section) < 4 + 9 * count:
        raise FormatError(f"{where}: {len(section)} bytes cannot hold {count} pieces")
    ends = struct.unpack_from(f"<{count}I", section, 4)
    scores = struct.unpack_from(f"<{count}f", section, 4 + 4 * count)
    types = section[4 + 8 * count : 4 + 9 * count]
    text = section[4 + 9 * count :]
    if ends[-1] != len(text):
        raise FormatError(f"{where}: the last of ends is {ends[-1]}, but the text has {len(text)} bytes")
    rows = []
    for i, (start, end, score, type) in enumerate(zip((0, *ends), ends, scores, types, strict=False)):
        if end <= start:
            raise FormatError(f"{where}: ends[{i}] is not above the end before it")
        if not math.isfinite(score):
            raise FormatError(f"{where}: scores[{i}] is NaN or infinite")
        if type not in PIECE_TYPES:
            raise FormatError(f"{where}: types[{i}] is {type}, which is not a piece type")
        try:
            rows.append(Piece(text[start:end].decode(), score, type))
        except UnicodeDecodeError:
            raise FormatError(f"{where}: the text of piece {i} is not UTF-8") from None
    _check_vocabulary(rows, where)
    texts = {name: text for text, name in SPECIAL_PIECES.items()}
    for name, i in special.items():
        wanted = UNKNOWN if name == "unk" else CONTROL
        if rows[i].type != wanted:
            raise FormatError(f"tokenizer.special.{name} is {i}, but piece {i} is of type {rows[i].type}, not {wanted}")
        if rows[i].text != texts[name]:
            raise FormatError(f"tokenizer.special.{name} is {i}, but piece {i} is {rows[i].text[:20]!r}, not {texts[name]!r}")
    return rows


def _check_vocabulary(rows: Sequence[Piece], where: str) -> None:
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        if first.setdefault(row.text, i) != i:
            raise FormatError(f"{where}: piece {i} has the same text as piece {first[row.text]}")
    unknown = sum(row.type == UNKNOWN for row in rows)
    if unknown != 1:
        raise FormatError(f"{where}: {unknown} pieces are of type {UNKNOWN} (unknown), and there must be one")
    found = {row.text for row in rows if row.type == BYTE}
    wanted = {f"<0x{byte:02X}>" for byte in range(256)}
    if found != wanted:
        odd = min(found ^ wanted)
        state = "extra" if odd in found else "missing"
        raise FormatError(f"{where}: the pieces of type {BYTE} (byte) must be <0x00> to <0xFF>, and {odd[:20]!r} is {state}")
