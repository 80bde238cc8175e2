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
from bulletlm.formats.bullet.layout import END, FOOTER_BYTES
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
"""Lines in a piece, half a megabyte: the worker of the page decodes one piece while the browser reads the next one."""

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
        BulletError: the disk is full, or the installation is incomplete.
    """
    if len(model) > MAX_MODEL_BYTES:
        raise ConfigError(f"the model has {len(model):,} bytes: a page can hold at most {MAX_MODEL_BYTES:,}")
    digest = model[-FOOTER_BYTES : -len(END)].hex()
    style = _asset("page.css")
    script = _asset("page.js").replace("{{bytes}}", str(len(model))).replace("{{digest}}", digest)
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
    # In one pass, so that braces in a value stay as they are.
    before = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], before)
    with atomic_file(target) as file:
        file.write(before.encode())
        for piece in pieces(model):
            file.write(b'<script type="text/plain">\n%b\n</script>\n<script>%b</script>\n' % (piece, NEXT.encode()))
        file.write(after.encode())


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


def pieces(model: bytes) -> Iterator[bytes]:
    """A model in base 85, in pieces of PIECE_LINES lines."""
    size = PIECE_LINES * LINE_GROUPS * 4
    for start in range(0, len(model), size):
        yield base85(model[start : start + size])


def holds_model(page: bytes, model: bytes) -> bool:
    """Whether the bytes of a page hold exactly this model."""
    return re.findall(rb'<script type="text/plain">\n([^<]*)\n</script>', page) == list(pieces(model))


def _asset(name: str) -> str:
    return (HERE / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source of an inline element in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
