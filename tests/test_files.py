"""Atomic writing: whole or not at all, and the old file survives every failure."""

import errno
import os
from pathlib import Path

import pytest

from bulletlm.errors import BulletError
from bulletlm.files import atomic_file, atomic_folder, read_json, sha256_of_file, sha256_of_json, write_json


def test_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with atomic_file(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert os.listdir(path.parent) == ["a.bin"]


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_full_disk_is_one_clear_line_and_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(BulletError, match="No space left on device; free some space"), atomic_folder(folder) as temporary:
        (temporary / "a").write_text("new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (folder / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_really_full_disk(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "a.bin.partial").symlink_to("/dev/full")
    with pytest.raises(BulletError, match="No space left"), atomic_file(tmp_path / "a.bin") as file:
        file.write(b"x" * 100_000)
    assert not (tmp_path / "a.bin").exists()


def test_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "out") as temporary:
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"मराठी": [1, 2.5, None]})
    assert "मराठी" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"मराठी": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == {"मराठी": [1, 2.5, None]}
    with pytest.raises(BulletError, match="missing"):
        read_json(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(BulletError, match="damaged"):
        read_json(tmp_path / "b.json")


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_json({"b": 1, "a": [True]}) == sha256_of_json({"a": [True], "b": 1})
