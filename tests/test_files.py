"""Tests atomic writing: a file is written completely or not at all, and the old file survives every failure."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulletlm import files
from bulletlm.errors import BulletError
from bulletlm.files import (
    atomic_file,
    atomic_folder,
    expand_home,
    open_regular,
    read_json,
    read_regular,
    remove_owned,
    sha256_of_file,
    sha256_of_json,
    write_json,
)


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
    with pytest.raises(BulletError, match="No space left on device; free some space"), atomic_folder(folder, ["a"]) as temporary:
        (temporary / "a").write_text("new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (folder / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_really_full_disk(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "a.bin.partial").symlink_to("/dev/full")
    with pytest.raises(BulletError, match="No space left"), atomic_file(tmp_path / "a.bin") as file:
        file.write(b"x" * 100_000)
    assert not (tmp_path / "a.bin").exists()


def test_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "out", ["old", "new"]) as temporary:
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_beside_it_is_nobody_s_business(tmp_path: Path) -> None:
    for name in ("out", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("old")
    with atomic_folder(tmp_path / "out", ["a"]) as temporary:
        (temporary / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "new" and (tmp_path / "out.old" / "a").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["out", "out.old"]


@pytest.mark.skipif(sys.platform != "linux", reason="folders can only be exchanged on Linux")
def test_there_is_no_moment_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the exchange of two names is allowed here: a plain rename would have to remove the older folder first."""
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "old").touch()
    (tmp_path / "other").mkdir()
    if not files._exchange(tmp_path / "out", tmp_path / "other"):
        pytest.skip("this file system cannot exchange two folders in one step")
    assert os.listdir(tmp_path / "other") == ["old"]
    monkeypatch.setattr(os, "replace", None)
    with atomic_folder(tmp_path / "other", ["old"]) as temporary:
        (temporary / "new").touch()
    assert os.listdir(tmp_path / "other") == ["new"] and sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_where_folders_cannot_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    test_folder_replaces_the_old_one(tmp_path)
    real = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == "out.partial":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BulletError, match="Input/output error"), atomic_folder(tmp_path / "out", ["new"]) as temporary:
        (temporary / "newer").touch()
    assert os.listdir(tmp_path / "out") == ["new"] and os.listdir(tmp_path) == ["out"]


KILLED_BETWEEN_THE_RENAMES = """
import os, signal, sys
from pathlib import Path
from bulletlm import files
files._exchange = lambda a, b: False
real = os.replace
def replace(source, target):
    real(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
with files.atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "newer").touch()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_between_the_renames_the_old_folder_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").touch()
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN_THE_RENAMES, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL and not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(path):
        assert os.listdir(path) == ["old"]
        raise ZeroDivisionError
    assert os.listdir(path) == ["old"] and os.listdir(tmp_path) == ["out"]


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


@pytest.fixture(params=["named pipe", "socket", "device", "folder"])
def special_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A path that `open` would wait at, or read without end; in a folder whose name is short enough for a socket."""
    if request.param == "device":
        yield Path("/dev/zero")
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as folder:
            server.bind(f"{folder}/s")
            yield Path(folder, "s")
    elif request.param == "folder":
        yield tmp_path
    else:
        os.mkfifo(tmp_path / "pipe")
        yield tmp_path / "pipe"


@pytest.mark.parametrize("through_link", [False, True])
@pytest.mark.parametrize("reader", [open_regular, read_regular, read_json, sha256_of_file])
def test_only_regular_files_are_opened(special_file: Path, reader: Callable[[Path], object], through_link: bool, tmp_path: Path) -> None:
    if through_link:
        (tmp_path / "link").symlink_to(special_file)
        special_file = tmp_path / "link"
    with pytest.raises((OSError, BulletError), match="it is a"):
        reader(special_file)


def test_regular_files_are_opened_through_links_and_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "link") == read_regular(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "a", 4)
    with open_regular(tmp_path / "a") as file:
        assert file.read(2) == b"12"


FOREIGN = ("notes.txt", "texts/मराठी.txt", "texts/deep/er/a.bin", "a.npy")


def put_foreign(folder: Path) -> None:
    """Files of all kinds that a user could have in a folder that a run writes."""
    for name in FOREIGN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (folder / "empty").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "linked").symlink_to(folder.parent, target_is_directory=True)


def check_foreign(folder: Path) -> None:
    for name in FOREIGN:
        assert (folder / name).read_bytes() == name.encode(), name
    assert (folder / "empty").is_dir()
    assert (folder / "dangling").readlink() == Path("nowhere") and (folder / "linked").is_symlink()


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_other_files_of_a_replaced_folder_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, links: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    out = tmp_path / "out"
    for content in ("old", "new"):
        with atomic_folder(out, ["train.*", "stale"]) as temporary:
            (temporary / "train.jsonl").write_text(content)
            if content == "old":
                (temporary / "stale").touch()
        if content == "old":
            put_foreign(out)
    check_foreign(out)
    assert (out / "train.jsonl").read_text() == "new" and not (out / "stale").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("mine")
    with pytest.raises(BulletError, match=r"out/report.json was not written by this program"), atomic_folder(out) as temporary:
        (temporary / "report.json").write_text("new")
    assert (out / "report.json").read_text() == "mine" and os.listdir(tmp_path) == ["out"]
    with pytest.raises(BulletError, match=r"report.json is a file, but a folder must be written there"), atomic_folder(out / "report.json"):
        pass
    assert (out / "report.json").read_text() == "mine"


def test_a_linked_folder_stays_linked(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk", target_is_directory=True)
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").touch()
    assert (tmp_path / "out").is_symlink() and os.listdir(tmp_path / "disk") == ["a"]


KILLED_AFTER_THE_EXCHANGE = """
import os, signal, sys
from pathlib import Path
from bulletlm import files
real = files._exchange
def exchange(a, b):
    done = real(a, b)
    os.kill(os.getpid(), signal.SIGKILL)
files._exchange = exchange
with files.atomic_folder(Path(sys.argv[1]), ["a"]) as temporary:
    (temporary / "a").write_text("new")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="folders can only be exchanged on Linux")
def test_a_kill_after_the_exchange_loses_no_other_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as temporary:
        (temporary / "a").write_text("old")
    put_foreign(out)
    subprocess.run([sys.executable, "-c", KILLED_AFTER_THE_EXCHANGE, str(out)], check=False)
    check_foreign(out)
    with atomic_folder(out, ["a"]) as temporary:
        (temporary / "a").write_text("newer")
    check_foreign(out)
    assert (out / "a").read_text() == "newer" and os.listdir(tmp_path) == ["out"]


def test_only_owned_files_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("step-1/model.bin", "step-1/state.json", "step-2/model.bin"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    owned = ["step-*/model.bin", "step-*/state.json"]
    (out / "step-2" / "mine.txt").touch()
    assert remove_owned(out, owned) == ["step-2/mine.txt"]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == ["step-2", "step-2/mine.txt"]
    (out / "step-2" / "mine.txt").unlink()
    assert remove_owned(tmp_path / "missing", owned) == []


def test_a_home_that_does_not_exist_stays_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/asha")
    assert expand_home("~/texts") == Path("/home/asha/texts")
    assert expand_home("~no-such-user/texts") == Path("~no-such-user/texts")
    assert expand_home("a~b") == Path("a~b")
