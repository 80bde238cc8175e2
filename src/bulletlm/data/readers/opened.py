"""Opens a file for reading: decompression, members of a .zip, encoding detection, and the limit on decompressed size."""

import bz2
import codecs
import gzip
import lzma
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, cast

from bulletlm.data.code_pages import is_iscii, marked_encoding, old_encoding, wide_encoding
from bulletlm.data.readers.raw import NotReadError
from bulletlm.data.sources import SourceFile
from bulletlm.files import open_regular

PIECE_BYTES = 1 << 16
"""Bytes read at a time."""

LOOK_AT_BYTES = 1 << 18
"""Bytes at the beginning of a file that decide what it is."""

SCANNED_BYTES = 64 << 20
"""Unpacked bytes that are looked through for the encoding."""

FREE_BYTES = 16 << 20
LARGEST_RATIO = 100
"""A packed file may give `FREE_BYTES` and this many times its own size: text of people packs to a third or a tenth of its size."""

DAMAGE = (NotReadError, EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, NotImplementedError)
"""What a packed or unreadable file raises; gzip.BadGzipFile is an OSError."""

_FEW_LINES = 0.1
"""Fewer lines than this share that are neither UTF-8 nor of a known code page are rejected one by one."""

_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))


def explain(error: Exception) -> str:
    """What is wrong with a file, as a sentence without its end."""
    if isinstance(error, NotReadError):
        return str(error)
    if isinstance(error, EOFError):
        return "the packed file is cut off"
    if isinstance(error, (gzip.BadGzipFile, lzma.LZMAError, zlib.error, zipfile.BadZipFile)):
        return f"the packed file is damaged ({one_line(error)})"
    if isinstance(error, NotImplementedError):
        return f"the packed file uses a method that is not supported ({one_line(error)})"
    return f"cannot be read ({getattr(error, 'strerror', None) or one_line(error)})"


def one_line(error: Exception) -> str:
    """A library's message, which may have several lines and characters that a terminal must not see."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:100].rstrip(" .:")


class _Bounded:
    """Unpacked bytes of a file; raises where a packed file gives far more than text can."""

    def __init__(self, raw: IO[bytes], packed: bool, size: int, position: Callable[[], int]) -> None:
        self._raw = raw
        self._left = FREE_BYTES + LARGEST_RATIO * size if packed else -1
        self.position = position

    def read1(self, size: int) -> bytes:
        # read1 gives what there is before a packed file breaks off; read would throw it away.
        piece = self._raw.read1(size)  # type: ignore[attr-defined]
        if self._left >= 0:
            self._left -= len(piece)
            if self._left < 0:
                raise NotReadError(f"the packed file gives more than {LARGEST_RATIO} times its size, which text does not")
        return cast(bytes, piece)


@contextmanager
def open_unpacked(file: SourceFile) -> Iterator[_Bounded]:
    """The unpacked bytes of a file or of a member of a .zip."""
    with open_regular(file.path) as outer:
        if not file.member:
            with _unpacked(outer, file.path.suffix.lower()) as text:
                packed = text is not outer
                yield _Bounded(text, packed, os.fstat(outer.fileno()).st_size, outer.tell)
            return
        with zipfile.ZipFile(outer) as archive:
            entry = archive.getinfo(file.member)
            if entry.flag_bits & 1:
                raise NotReadError("it is protected by a password: unpack it first")
            with archive.open(entry) as inner:
                text = _unpacked(inner, PurePosixPath(file.member).suffix.lower())
                yield _Bounded(text, True, entry.compress_size, lambda: 0)


def _unpacked(packed: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
    if suffix == ".xz":
        return cast(IO[bytes], lzma.LZMAFile(packed))
    if suffix == ".bz2":
        return cast(IO[bytes], bz2.BZ2File(packed))
    return packed


def read_whole(file: SourceFile, limit: int) -> bytes:
    """All bytes of a file.

    Raises:
        NotReadError: there are more than `limit`.
    """
    parts, size = [], 0
    with open_unpacked(file) as opened:
        while piece := opened.read1(1 << 20):
            size += len(piece)
            if size > limit:
                raise NotReadError(f"it is larger than {limit >> 20} MB, the most that is read of this kind: split it")
            parts.append(piece)
    return b"".join(parts)


def beginning_of(file: SourceFile, size: int = LOOK_AT_BYTES) -> bytes:
    """The first bytes of a file; fewer where it is shorter or damaged."""
    parts, left = [], size
    try:
        with open_unpacked(file) as opened:
            while left > 0 and (piece := opened.read1(min(left, PIECE_BYTES))):
                parts.append(piece)
                left -= len(piece)
    except DAMAGE:
        if not parts:
            raise
    return b"".join(parts)


def find_encoding(file: SourceFile) -> str:
    """The codec of a text file.

    UTF-8 unless most lines with other characters than ASCII are something else: a few damaged lines do not decide.

    Raises:
        NotReadError: it is no text, or in an encoding that cannot be detected with certainty.
    """
    first = beginning_of(file, PIECE_BYTES)
    marked = marked_encoding(first)
    if marked:
        return marked
    wide = wide_encoding(first)
    if wide:
        return wide
    if len(first.translate(None, _CONTROL_BYTES)) < 0.99 * len(first):
        raise NotReadError("this is a binary file, not text")
    lines, good, bad, sample = _scan(file)
    if bad <= good:
        return "utf-8"
    page = old_encoding(sample)
    if page is None and bad < _FEW_LINES * lines:
        return "utf-8"  # those lines are rejected one by one
    if page is None and is_iscii(sample):
        raise NotReadError("the text is in ISCII, an old 8-bit code: convert it with `uconv -f iscii-dev -t utf-8`")
    if page is None:
        raise NotReadError("the text is not UTF-8, and its encoding cannot be detected with certainty: save it as UTF-8")
    return page


def _scan(file: SourceFile) -> tuple[int, int, int, bytes]:
    """Lines, lines with other characters than ASCII that are UTF-8, lines that are not, and the first of these."""
    counts, sample, scanned, rest = Counter[str](), bytearray(), 0, b""
    try:
        with open_unpacked(file) as opened:
            while scanned < SCANNED_BYTES and (piece := opened.read1(PIECE_BYTES)):
                scanned += len(piece)
                rest += piece
                end = rest.rfind(b"\n") + 1
                if not end and len(rest) < LOOK_AT_BYTES:
                    continue
                end = end or len(rest)
                _count(rest[:end], counts, sample)
                rest = rest[end:]
    except DAMAGE:
        pass  # reported when the text itself is read
    _count(rest, counts, sample)
    return counts["lines"], counts["good"], counts["bad"], bytes(sample)


def _count(lines: bytes, counts: Counter[str], sample: bytearray) -> None:
    counts["lines"] += lines.count(b"\n") or lines.count(b"\r") or bool(lines)
    if lines.isascii():
        return
    for line in lines.replace(b"\r", b"\n").split(b"\n"):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            counts["good"] += 1
        except UnicodeDecodeError:
            counts["bad"] += 1
            if len(sample) < PIECE_BYTES:
                sample += line + b"\n"


def pieces(file: SourceFile, encoding: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The text of a file bit by bit, as UTF-8 with \\n at the end of lines."""
    done, held = 0, b""
    decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)("replace")
    with open_unpacked(file) as opened:
        while piece := opened.read1(PIECE_BYTES):
            position = opened.position()
            advance(position - done)
            done = position
            if decoder:
                piece = decoder.decode(piece).encode("utf-8", "surrogatepass")
            piece, held = held + piece, b""
            if piece.endswith(b"\r"):
                piece, held = piece[:-1], b"\r"
            yield piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in piece else piece
        if decoder:
            yield decoder.decode(b"", True).encode()
        if held:
            yield b"\n"


def beginning_as_text(file: SourceFile, encoding: str, size: int = LOOK_AT_BYTES) -> str:
    """The first part of a text file, whole lines of it where it has lines, with \\n at their ends."""
    text = beginning_of(file, size).decode(encoding, "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    end = text.rfind("\n") + 1
    return text[:end] if end and len(text) >= size // 4 else text
