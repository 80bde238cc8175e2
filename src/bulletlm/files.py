"""Writing files so that a crash, a full disk or a power failure never leaves an incomplete file."""

import contextlib
import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from bulletlm.errors import BulletError, ConfigError
from bulletlm.terminal import printable

_TEMPORARY = ".partial"

REPLACED = ".replaced" + _TEMPORARY
"""End of the name of an older folder while `atomic_folder` replaces it in two steps."""

_FILE_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading bytes. Symbolic links are followed; opening and reading never wait for another program.

    A named pipe would wait until a program writes to it, and a device such as /dev/zero has no end.

    Raises:
        OSError: the file cannot be opened, or it is a folder, named pipe, socket or device; `strerror` says which.
    """
    _check_regular(Path(path).stat(), path)  # before opening: opening a device can have effects
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(handle), path)  # the file may have been exchanged since
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, max_bytes: int | None = None) -> bytes:
    """The bytes of a regular file; `max_bytes` limits the memory that a file of unknown origin can take.

    Raises:
        OSError: as `open_regular`; or the file is larger than `max_bytes`.
    """
    with open_regular(path) as file:
        content = file.read() if max_bytes is None else file.read(max_bytes + 1)
    if max_bytes is not None and len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return content


def _check_regular(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    kind = _FILE_KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
    raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears at `path` only when it is completely on disk.

    The bytes go to `path` + ".partial", which is fsynced and renamed. On any exception the partial file is removed, and an older
    file at `path` stays unchanged.

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
def atomic_folder(path: Path, owned: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` once every file in it is on disk.

    Files of an older folder at `path` are only removed if their name is in `owned`; all others stay in the folder, at every moment.
    Where folders can be exchanged in one step (most file systems on Linux), that is done. Elsewhere it takes two renames; if the
    program is killed between them, the next call for the same `path` begins by moving the older folder back (`bring_back_folder`).

    Args:
        path: the folder; a symbolic link to a folder stays, and the folder that it points to is replaced.
        owned: names of the files that this program writes into the folder, as `fnmatch` patterns of paths relative to it.

    Raises:
        BulletError: the disk is full or the folder is not writable; or a file that is not in `owned` has the name of a new file.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    partial = path.with_name(path.name + _TEMPORARY)
    replaced = path.with_name(path.name + REPLACED)
    try:
        bring_back_folder(path)
        if path.exists() and not path.is_dir():
            raise BulletError(f"{path} is a file, but a folder must be written there: move it to another place, then run again")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        mode = partial.stat().st_mode & 0o666  # as the umask wants it; some libraries write files that only the owner can read
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                if file.stat().st_mode & 0o777 != mode:
                    file.chmod(mode)
                _sync(file)
        if path.exists():
            _carry_over(path, partial, owned)
        _sync_folder(partial)
        if not path.exists():
            os.replace(partial, path)
        elif _exchange(partial, path):
            _carry_over(partial, path, owned, again=True)  # what was added to the older folder in the meantime
        else:
            _replace_in_two_steps(partial, path, replaced)
            _carry_over(replaced, path, owned, again=True)
        _sync_folder(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise BulletError(_explain(error, path)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after an exchange, this is the older folder


def bring_back_folder(path: Path) -> None:
    """Move the older folder back to `path` if the program was killed between the two renames of `atomic_folder`.

    Raises:
        OSError: the folder is not writable.
    """
    replaced = path.with_name(path.name + REPLACED)
    if replaced.exists() and not path.exists():
        os.replace(replaced, path)


def _carry_over(old: Path, new: Path, owned: Collection[str], again: bool = False) -> None:
    """Add to `new` every file and folder of `old` that is not in `owned`, as hard links, or as copies where links are not possible.

    Raises:
        BulletError: `new` already has a file of that name, unless this is done `again` to find what was added since the first time.
    """
    for source, name in foreign_files(old, owned):
        target = new / name
        if source.is_dir() and not source.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
            continue
        if target.exists() or target.is_symlink():
            if again:
                continue
            raise BulletError(f"{old / name} was not written by this program and has the name of a file that must be written: move it away")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(source, target, follow_symlinks=False)


def foreign_files(folder: Path, owned: Collection[str]) -> list[tuple[Path, str]]:
    """Files and empty folders in `folder` that are not in `owned` (`fnmatch` patterns): their paths, and names relative to it."""
    found: list[tuple[Path, str]] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        relative = Path(parent).relative_to(folder)
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            inside = (relative / name).as_posix()
            if not any(fnmatchcase(inside, pattern) for pattern in owned):
                found.append((Path(parent) / name, inside))
        if not folders and not names and relative != Path():
            found.append((Path(parent), relative.as_posix()))
    return found


def _raise(error: OSError) -> None:
    raise error


def remove_owned(folder: Path, owned: Collection[str]) -> list[str]:
    """Remove the files of `folder` that are in `owned`, then every folder that is empty; returns the names of the files that stay."""
    if not folder.exists():
        return []
    for parent, folders, names in os.walk(folder, topdown=False, onerror=_raise):
        for name in names:
            path = Path(parent) / name
            inside = path.relative_to(folder).as_posix()
            if any(fnmatchcase(inside, pattern) for pattern in owned):
                path.unlink()
        emptied = bool(names or folders) or Path(parent) == folder
        if emptied and not os.listdir(parent):
            Path(parent).rmdir()
    return [name for _, name in foreign_files(folder, ())] if folder.exists() else []


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step; returns False if the system or the file system does not support it."""
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
    """Move `path` to `replaced` and `new` to `path`; if the second step fails, the first is undone."""
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
    """Write `value` as indented UTF-8 JSON, atomically; raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def refuse_other_file(path: Path, mark: Callable[[bytes], bool], kind: str) -> None:
    """Refuse to write to `path` if something else than an earlier result is there.

    Args:
        path: where a result is to be written.
        mark: whether the first 4096 bytes of a file are those of such a result.
        kind: what the result is, for the message.

    Raises:
        ConfigError: there is another file, or something that cannot be read.
    """
    try:
        if not os.path.lexists(path):
            return
        with open_regular(path) as file:
            if mark(file.read(4096)):
                return
            problem = f"it is not a {kind}"
    except OSError as error:
        problem = error.strerror or str(error)
    raise ConfigError(f"{path} exists and is not overwritten ({problem}): move it away or choose another name")


def read_json(path: Path) -> Any:
    """Read a JSON file that this program wrote.

    Raises:
        BulletError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_regular(path).decode())
    except FileNotFoundError:
        raise BulletError(f"{path} is missing: run the stage that writes it again") from None
    except OSError as error:
        raise BulletError(f"cannot read {path} ({error.strerror}): it should be a file that this program wrote") from None
    except (ValueError, RecursionError) as error:
        raise BulletError(f"{path} is damaged ({error}): delete it and run the stage again") from None


def expand_home(path: str | os.PathLike[str]) -> Path:
    """A path with ~ or ~USER replaced by the home folder; unchanged if that user does not exist, where Path.expanduser raises an error."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    import hashlib  # here, since `bullet generate` starts faster without it

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    import hashlib

    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename durable. Some systems (Windows) cannot open a folder and do not need this."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explain(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    source = error.filename
    if isinstance(source, (str, bytes, os.PathLike)) and not str(os.fsdecode(source)).startswith(str(path)):
        return f"{printable(os.fsdecode(source))}: {reason}"  # a file that is read while this one is written
    if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)):
        return f"cannot write {path}: {reason}; free some space or choose another folder, then run again"
    return f"cannot write {path}: {reason}; check the permissions of the folder or choose another one, then run again"
