"""Tests that every reader refuses named pipes, sockets and devices in place of a model, tensor or tokenizer, without waiting."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulletlm.errors import BulletError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.version1 import read_v1
from bulletlm.formats.convert import ConvertOptions, convert
from bulletlm.formats.gguf import read_gguf
from bulletlm.formats.npy import read_npy
from bulletlm.runtime import load
from bulletlm.text.tokenizer import Tokenizer


@contextmanager
def special(path: Path, kind: str) -> Iterator[None]:
    """Put a file of this kind at `path`; opening it would wait for a writer, or reading it would never end."""
    if kind == "named pipe":
        os.mkfifo(path)
        yield
    elif kind == "device":
        path.symlink_to("/dev/zero")
        yield
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(path.parent)  # the name of a socket may have only about 100 characters
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)
            yield


KINDS = ["named pipe", "socket", "device"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", [open_bullet, read_gguf, read_v1, load, Tokenizer.load])
def test_a_file(tmp_path: Path, reader: Callable[[Path], object], kind: str) -> None:
    with special(tmp_path / "model.bullet", kind), pytest.raises(BulletError, match=f"it is a {kind}, not a regular file"):
        reader(tmp_path / "model.bullet")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.model", "final_norm.weight.npy"])
def test_a_part_of_an_npy_folder(micro_run: Path, tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / "npy"
    shutil.copytree(micro_run / "export" / "npy", folder)
    (folder / name).unlink()
    for reader in (read_npy, load):
        with special(folder / name, kind), pytest.raises(BulletError, match=f"it is a {kind}, not a regular file"):
            reader(folder)
        (folder / name).unlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.gguf", "a.bullet", "a.safetensors", "like.bullet"])
def test_a_source_of_convert(micro_run: Path, tmp_path: Path, name: str, kind: str) -> None:
    with special(tmp_path / name, kind), pytest.raises(BulletError, match=f"it is a {kind}, not a regular file"):
        if name == "like.bullet":
            (tmp_path / "old.bullet").write_bytes(b"BQ4F" + bytes(100))
            convert(tmp_path / "old.bullet", tmp_path / "out.bullet", ConvertOptions(like=tmp_path / name))
        else:
            convert(tmp_path / name, tmp_path / "out.bullet")
    assert not (tmp_path / "out.bullet").exists()
