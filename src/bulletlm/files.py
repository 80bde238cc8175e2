"""Writing files so that a crash, a full disk or a pulled plug never leaves half of one."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bulletlm.errors import BulletError

_TEMPORARY = ".partial"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears under `path` only once it is completely on disk.

    The bytes go to `path` + ".partial", are fsynced and renamed; on any exception the partial file is
    removed and an older file at `path` stays as it was.

    Raises:
        BulletError: the disk is full or the folder is not writable.
    """
    path = Path(path)
    partial = path.with_name(path.name + _TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise BulletError(_explain(error, path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` once every file in it is on disk.

    On Linux the two change places in one step, on most file systems. Elsewhere it takes two renames; should the program be killed
    between these, the next call for the same `path` begins by moving the older folder back.

    Raises:
        BulletError: the disk is full or the folder is not writable.
    """
    path = Path(path)
    partial = path.with_name(path.name + _TEMPORARY)
    replaced = path.with_name(path.name + ".replaced" + _TEMPORARY)
    try:
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                _sync(file)
        _sync_folder(partial)
        if not path.exists():
            os.replace(partial, path)
        elif not _exchange(partial, path):
            _replace_in_two_steps(partial, path, replaced)
        _sync_folder(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise BulletError(_explain(error, path)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # the older folder, where they have changed places


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    at_current_folder, rename_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # not every C library has it
        return False
    return bool(renameat2(at_current_folder, os.fsencode(a), at_current_folder, os.fsencode(b), rename_exchange) == 0)


def _replace_in_two_steps(new: Path, path: Path, replaced: Path) -> None:
    """Move `path` to `replaced` and `new` to `path`; if that fails, `path` is what it was."""
    shutil.rmtree(replaced, ignore_errors=True)
    os.replace(path, replaced)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(replaced, path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented, human-readable UTF-8 JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this program wrote.

    Raises:
        BulletError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BulletError(f"{path} is missing: run the stage that writes it again") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BulletError(f"{path} is damaged ({error}): delete it and run the stage again") from None


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical spelling (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename durable; some systems (Windows) cannot open a folder, and do not need it."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explain(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    return f"cannot write {path}: {reason}; free some space or choose another folder, then run again"
