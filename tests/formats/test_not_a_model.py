"""Tests that files which are not models are named for what they are, in every command that opens one."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bulletlm.cli.app import main
from bulletlm.formats.not_a_model import what_kind
from bulletlm.text.tokenizer import Tokenizer


def packed(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "application/epub+zip" if name == "mimetype" else "x")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


KINDS = {
    "a PDF document": b"%PDF-1.7\n\xff",
    "a picture (PNG)": b"\x89PNG\r\n\x1a\n\0\0",
    "a document of Microsoft Office": packed("[Content_Types].xml", "word/document.xml"),
    "an EPUB book": packed("mimetype"),
    "a checkpoint of PyTorch": packed("archive/data.pkl", "archive/data/0"),
    "a ZIP archive": packed("a.txt"),
    "one array of numpy": array(),
    "a safetensors file": save({"weight": np.zeros((2, 2), np.float32)}),
    "a text file": "एक लहान गोष्ट.\n".encode() * 400,
    "a JSON file": json.dumps({"dim": 64}).encode(),
    "gzip": b"\x1f\x8b\x08\0",
    "a program or library": b"\x7fELF\x02\x01",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(KINDS[kind])
    for words in (["chat"], ["info"], ["verify"], ["generate", "-p", "x"]):
        with pytest.raises(SystemExit) as caught:
            main([words[0], str(path), *words[1:]])
        error = capsys.readouterr().err
        assert caught.value.code == 1 and len(error.splitlines()) == 1
        assert kind in error, error


def test_a_tokenizer_and_bytes_of_no_kind(tokenizer: Tokenizer) -> None:
    assert "tokenizer" in (what_kind(tokenizer.proto[:4096]) or "")
    assert what_kind(b"") is None
    assert what_kind(bytes(range(256))) is None
    text = ("क" * 2000).encode()
    assert all("a text file" in (what_kind(text[:end]) or "") for end in (4094, 4095, 4096)), "a character is cut at the end"
