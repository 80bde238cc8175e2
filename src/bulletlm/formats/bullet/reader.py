"""Reads a `.bullet` file: the file is memory-mapped, and every rule is checked before a tensor is used.

numpy and hashlib are imported where they are needed: generating text with the native engine needs neither.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.errors import BulletError, FormatError
from bulletlm.files import open_regular
from bulletlm.formats.bullet.header import RESERVED, Header, SectionEntry, TensorEntry, read_header
from bulletlm.formats.bullet.layout import (
    END,
    FOOTER_BYTES,
    HEADER_END,
    HEADER_MAX_BYTES,
    PIECES_SECTION,
    SENTENCEPIECE_SECTION,
    aligned,
    decode_pieces,
)
from bulletlm.formats.not_a_model import what_kind, what_was_downloaded
from bulletlm.shape import ModelShape
from bulletlm.text.pieces import Piece
from bulletlm.text.sentencepiece_rules import check_model_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bulletlm.formats.stored import EncodedTensor
    from bulletlm.text.tokenizer import Tokenizer

_SECOND_VERSION = re.compile(rb'\{[ \t\r\n]*"bullet_version"[ \t\r\n]*:[ \t\r\n]*"2\.')
FIRST_VERSION = re.compile(rb'"bullet_version"[ \t\r\n]*:[ \t\r\n]*"?1\b')
PICKLE = "this is a Python pickle (version 1, dialect D): loading one can run any program, so it is refused; export the model again"


def open_bullet(path: Path) -> BulletFile:
    """Map a file and check its structure: header, sizes, offsets, padding, vocabulary and tokenizer; not yet the numbers.

    Raises:
        BulletError: the file cannot be opened.
        FormatError: the file breaks a rule of docs/bullet-format.md; the message names the field.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{path}: the file is empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # a view must be writable for ctypes to take its address
    except OSError as error:
        raise BulletError(f"cannot open {path} ({error.strerror}): name a .bullet file") from None
    try:
        return BulletFile(Path(path), data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


class BulletFile:
    """An open model file. The arrays that it returns keep the mapping alive.

    Attributes:
        path: where the file is.
        header: the JSON header of the file, with unknown keys.
        shape: the model's shape.
        metadata: the keys of the header that are not the format's own: license, languages, sampling, training ...
        special: name -> id of the special tokens: unk, bos, eos and, in chat models, user, assistant, end.
        pieces: the vocabulary, (text, score, type) in the order of the ids.
        tokenizer_proto: the sentencepiece model; it has been checked against `pieces`.
        size: bytes of the whole file.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self._data = data
        self.size = len(data)
        self._header = _check_structure(data)
        self.header: dict[str, Any] = self._header.values
        self.shape: ModelShape = self._header.shape
        self.special: dict[str, int] = self._header.special
        self.metadata = {key: value for key, value in self.header.items() if key not in RESERVED}
        self.pieces: list[Piece] = decode_pieces(self._section(PIECES_SECTION), self.shape.vocab_size, self.special)
        self.tokenizer_proto: bytes = self._section(SENTENCEPIECE_SECTION)
        try:
            check_model_file(self.tokenizer_proto, self.pieces)
        except FormatError as error:
            raise FormatError(f"section {SENTENCEPIECE_SECTION}: {error}") from None

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Name -> (name, type, shape, offset, size) of every tensor, in the order of the file."""
        return self._header.tensors

    def type(self, name: str) -> str:
        """The weight type of a tensor: BQ4, BQ8, F16 or F32."""
        return self.tensors[name].type

    def read_bytes(self, name: str) -> memoryview:
        """The bytes of a tensor, without a copy; numbers that are NaN or infinite are not refused."""
        entry = self.tensors[name]
        return memoryview(self._data)[entry.offset : entry.offset + entry.size]

    def read_blocks(self, name: str) -> EncodedTensor:
        """A tensor in its stored form, read-only and without a copy.

        Returns:
            Blocks for BQ4 and BQ8; float16 or float32 of the tensor's own shape for F16 and F32.

        Raises:
            FormatError: the tensor holds a number (or a scale) that is NaN or infinite.
        """
        import numpy as np

        from bulletlm.formats.stored import check_finite, view_tensor

        entry = self.tensors[name]
        tensor = view_tensor(np.frombuffer(self.read_bytes(name).toreadonly(), np.uint8), entry.type, entry.shape)
        check_finite(tensor, f"{self.path}: tensor {name}")
        return tensor

    def dequantize(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32; read-only where it is stored so.

        Raises:
            FormatError: it holds a number that is NaN or infinite.
        """
        from bulletlm.formats.stored import as_floats

        return as_floats(self.read_blocks(name))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the file, with the sentencepiece library.

        Raises:
            FormatError: the library cannot read the sentencepiece model.
        """
        from bulletlm.text.tokenizer import Tokenizer

        try:
            return Tokenizer(self.tokenizer_proto)
        except FormatError as error:
            raise FormatError(f"{self.path}: section {SENTENCEPIECE_SECTION}: {error}") from None

    def verify(self) -> None:
        """Check what opening does not: the SHA-256, every number of every tensor, and the tokenizer.

        Raises:
            FormatError: something is damaged; the message says what.
        """
        import hashlib

        with memoryview(self._data) as view:
            digest = hashlib.sha256(view[: self.size - FOOTER_BYTES]).digest()
        if digest != self._data[self.size - FOOTER_BYTES : self.size - len(END)]:
            raise FormatError(f"{self.path}: the SHA-256 at the end does not fit: the file was damaged or changed after it was written")
        for name in self.tensors:
            self.read_blocks(name)
        self.tokenizer()

    def _section(self, name: str) -> bytes:
        entry = self._header.sections[name]
        return self._data[entry.offset : entry.offset + entry.size]


def _check_structure(data: mmap.mmap) -> Header:
    if not _SECOND_VERSION.match(data):
        raise FormatError(_what_it_is(data))
    length = data.find(HEADER_END, 0, HEADER_MAX_BYTES + len(HEADER_END))
    if length < 0:
        raise FormatError(f"the header does not end: no four NUL bytes in its first {HEADER_MAX_BYTES} bytes")
    header = read_header(data[:length])
    if len(data) != header.file_size:
        state = "it is cut short" if len(data) < header.file_size else "something follows its end"
        raise FormatError(f"the file has {len(data)} bytes, but its header describes {header.file_size}: {state}")
    end = length + len(HEADER_END)
    entries: list[TensorEntry | SectionEntry] = [*header.tensors.values(), *header.sections.values()]
    for entry in entries:
        _check_padding(data, end, entry.offset)
        end = entry.offset + entry.size
    _check_padding(data, end, aligned(end))
    if data[-len(END) :] != END:
        raise FormatError('the file does not end in "END!"')
    return header


def _check_padding(data: mmap.mmap, start: int, end: int) -> None:
    if any(data[start:end]):
        raise FormatError(f"the padding from byte {start} to {end} is not all zeros")


def _what_it_is(data: mmap.mmap) -> str:
    """Return one sentence that describes a file that is not a `.bullet` of version 2."""
    head = data[:4096]
    if found := what_was_downloaded(head):
        return found
    if head.startswith(b"\x80"):
        return PICKLE
    if head.startswith(b"BQ4F"):
        return "this is a version 1 file (dialect C, BQ4F): convert it with bullet convert OLD NEW --like MODEL"
    if FIRST_VERSION.search(head):
        dialect = "B, Python writer" if data[-14:] == b"BULLET_ENDEND!" else "A, C++ builder"
        return f"this is a version 1 file (dialect {dialect}): convert it with bullet convert OLD NEW"
    if head.startswith(b"GGUF"):
        return "this is a GGUF file, not a .bullet: convert it with bullet convert FILE.gguf NEW.bullet"
    if head.startswith(b"{") and b'"bullet_version"' in head:
        return 'the header must begin with {"bullet_version": "2.x": this is not a .bullet file of version 2'
    return what_kind(head) or 'this is not a .bullet file: it does not begin with {"bullet_version"'
