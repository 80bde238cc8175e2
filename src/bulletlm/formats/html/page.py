"""Writes a model as one HTML file: a chat page, the engine as WebAssembly, and the model itself, without a request to any host."""

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bulletlm.errors import ConfigError
from bulletlm.files import atomic_file
from bulletlm.formats.bullet.header import read_header
from bulletlm.formats.bullet.layout import END, FOOTER_BYTES, HEADER_END
from bulletlm.formats.html.bundle import HERE, library_source

MAX_MODEL_BYTES = 400_000_000
"""The page is a quarter larger, and browsers hold a page that they read in memory, beside the model."""

ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~"
"""The digits of base 85: those of RFC 1924, except that `,` stands for `<` and `.` for `&`, which mean something in HTML.

Base 85 takes 1.25 characters per byte, base64 1.33. Raw bytes would take 1.02, but only survive where no server and no editor declares
another encoding for the page than the page itself.
"""

LINE_GROUPS = 200
"""Groups of five characters in a line; editors and mail programs handle lines of 1,000 characters."""

PIECE_LINES = 512
"""Lines in a piece, half a megabyte: the worker of the page decodes one piece while the browser reads the next one.

The page has the parts of the model in another order than the file: the header, the sections and the checksum, then the tensors. So the
worker reads the header and builds the tokenizer while the browser still reads the tensors, which are nearly all of the page.
"""

PIECE_BEGIN, PIECE_END = b'<script type="text/plain">\n', b"\n</script>\n"

NEXT = "takePart();"
"""The script after each part of the page, a function in page.js."""


def write_page(target: Path, model: bytes, metadata: Mapping[str, Any]) -> None:
    """Write the page of a model.

    Args:
        target: the HTML file; it appears when it is complete.
        model: the bytes of a `.bullet` file, version 2.
        metadata: the metadata of its header; the page's title is the name in it.

    Raises:
        ConfigError: the model is too large for a page.
        FormatError: the header of the model breaks a rule.
        BulletError: the disk is full, or the installation is incomplete.
    """
    if len(model) > MAX_MODEL_BYTES:
        raise ConfigError(f"the model has {len(model):,} bytes: a page can hold at most {MAX_MODEL_BYTES:,}")
    digest = model[-FOOTER_BYTES : -len(END)].hex()
    style = _asset("page.css")
    first_tensor, first_section = _places(model)
    script = _filled(
        _asset("page.js"),
        {"bytes": str(len(model)), "first_tensor": str(first_tensor), "first_section": str(first_section), "digest": digest},
    )
    worker = library_source() + "\n" + _asset("worker.js")
    for name, text in (("page.css", style), ("page.js", script), ("worker.js", worker)):
        assert not re.search("</(script|style)", text, re.IGNORECASE) and "<!--" not in text, f"{name} would end its element"
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)} {_hash(NEXT)} 'wasm-unsafe-eval'",
            f"style-src {_hash(style)}",
            "worker-src blob:",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    values = {
        "csp": policy,
        "title": html.escape(str(metadata.get("name") or "BulletLM")),
        "style": style,
        "script": script,
        "worker": worker,
        "next": NEXT,
    }
    before, after = _asset("page.html").split("{{model}}")
    with atomic_file(target) as file:
        file.write(_filled(before, values).encode())
        for piece in _pieces_of_file(model):
            file.write(PIECE_BEGIN + piece + PIECE_END + f"<script>{NEXT}</script>\n".encode())
        file.write(after.encode())


def holds_model(page: bytes, model: bytes) -> bool:
    """Whether the bytes of a page hold exactly this model."""
    found = page.split(PIECE_BEGIN)[1:]
    return [piece.partition(PIECE_END)[0] for piece in found] == list(_pieces_of_file(model))


def base85(data: bytes) -> bytes:
    """Four bytes as five digits of ALPHABET, the highest first; the last bytes are filled up with zeros. Lines end in a newline."""
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4")
    digits = np.empty((len(words), 5), np.uint8)
    table = np.frombuffer(ALPHABET, np.uint8)
    for place in range(4, -1, -1):
        words, digit = np.divmod(words, np.uint32(85))
        digits[:, place] = table[digit]
    lines = [digits[at : at + LINE_GROUPS].tobytes() for at in range(0, len(digits), LINE_GROUPS)]
    return b"\n".join(lines)


def pieces(data: bytes) -> Iterator[bytes]:
    """Bytes in base 85, in pieces of PIECE_LINES lines."""
    size = PIECE_LINES * LINE_GROUPS * 4
    for start in range(0, len(data), size):
        yield base85(data[start : start + size])


def _pieces_of_file(model: bytes) -> Iterator[bytes]:
    """The pieces of a model file in the order of the page: the header, the sections and the checksum, the tensors."""
    first_tensor, first_section = _places(model)
    for part in (slice(0, first_tensor), slice(first_section, None), slice(first_tensor, first_section)):
        yield from pieces(model[part])


def _places(model: bytes) -> tuple[int, int]:
    """Where the first tensor and the first section begin."""
    header = read_header(model[: model.index(HEADER_END)])
    return next(iter(header.tensors.values())).offset, next(iter(header.sections.values())).offset


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Replace each {{name}} by its value, in one pass, so that braces in a value stay as they are."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _asset(name: str) -> str:
    return (HERE / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source of an inline element in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
