"""The run folder: which of its files the run wrote, and the lock that keeps other processes out.

files.json records the SHA-256 of every file that a stage wrote. A stage that runs again replaces or deletes only files with the
recorded content. Every other file stays in its place, and the run refuses to start a stage if such a file has a name that the stage
writes.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import expand_home, foreign_files, read_json, sha256_of_file, write_json
from bulletlm.progress import Progress
from bulletlm.terminal import printable

RECORD = "files.json"
STAGES_FILE = "stages.json"
"""File of a run folder: the records of the finished stages."""

OUTPUT_FOLDERS = ("start", "data", "cleaned", "augment-cache", "tokenizer", "tokens", "checkpoints", "export", "qat", "auto-fix")
"""The folders of a run folder in which the stages write."""

PROCESS = "process.json"
"""File of a run folder while a process works in it: the id of the process and when it started, so that others can find it."""

NAMES_SHOWN = 20


class WrittenFiles:
    """files.json of a run folder: the names of the files that stages wrote, relative to the folder, and their SHA-256.

    Args:
        folder: the run folder.
        patterns: `fnmatch` patterns of all files that stages write. Earlier versions did not write files.json, so if stages.json
            exists without it, existing files with these names count as written by the run.

    Raises:
        BulletError: files.json is damaged.
    """

    def __init__(self, folder: Path, patterns: Iterable[str] = ()) -> None:
        self.folder = folder
        path = folder / RECORD
        content = read_object(path) if path.exists() else {}
        written, unfinished = content.get("written", {}), content.get("unfinished", [])
        if not isinstance(written, dict) or not isinstance(unfinished, list):
            raise BulletError(f"{path} is damaged: delete it if all files of the run folder are from this run, then run again")
        self._written: dict[str, str] = written
        self._unfinished: list[str] = unfinished
        if not path.exists() and (folder / STAGES_FILE).exists():
            names = [name for name in self._matching(tuple(patterns)) if (folder / name).is_file()]
            self._written = {name: sha256_of_file(folder / name) for name in names}

    def begin(self, stage: str, patterns: Iterable[str], progress: Progress) -> None:
        """Check that `stage` may write the files named by `patterns` (relative to the run folder), and record that it has begun.

        Until it is finished, files with these names count as written by the run, because the program may be killed at any moment.

        Raises:
            ConfigError: a file with such a name exists that the run did not write, or that has changed since.
        """
        patterns = tuple(patterns)
        existing = list(self._matching(patterns))
        if stage not in self._unfinished:
            for name in existing:
                if not self._is_own(name):
                    known = "has changed since this run wrote it" if name in self._written else "was not written by this run"
                    raise ConfigError(
                        f"{printable(str(self.folder / name))} {known}, and the {stage} stage must write a file of this name: "
                        "move it to another place (or delete it), then run again"
                    )
        others = self._others(patterns)
        if others:
            shown = ", ".join(printable(name) for name in others[:NAMES_SHOWN])
            more = f" and {len(others) - NAMES_SHOWN} more" if len(others) > NAMES_SHOWN else ""
            progress.log(f"{stage}: these files are not from this run and stay unchanged: {shown}{more}", "warning")
        self._unfinished = [*(name for name in self._unfinished if name != stage), stage]
        self._save()

    def finish(self, stage: str, patterns: Iterable[str], known: Mapping[str, str | None]) -> None:
        """Record what `stage` has written; `known` are hashes that have been computed already."""
        patterns = tuple(patterns)
        kept = {name: value for name, value in self._written.items() if not _matches(name, patterns)}
        self._written = kept | {name: known.get(name) or sha256_of_file(self.folder / name) for name in self._matching(patterns)}
        self._unfinished.remove(stage)
        self._save()

    def record(self, name: str) -> None:
        """Record a file that was written outside of a stage."""
        self._written[name] = sha256_of_file(self.folder / name)
        self._save()

    def _save(self) -> None:
        write_json(self.folder / RECORD, {"written": dict(sorted(self._written.items())), "unfinished": self._unfinished})

    def _is_own(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and self._written.get(name) == sha256_of_file(path)

    def _matching(self, patterns: tuple[str, ...]) -> Iterator[str]:
        """Names of existing files (or other things) that match the patterns, in order."""
        for pattern in patterns:
            for path in sorted(self.folder.glob(pattern)) if "*" in pattern else [self.folder / pattern]:
                if path.exists() or path.is_symlink():
                    yield path.relative_to(self.folder).as_posix()

    def _others(self, patterns: tuple[str, ...]) -> list[str]:
        """Names of files that stay in the folders that a stage writes."""
        names: list[str] = []
        for folder in sorted({pattern.rpartition("/")[0] for pattern in patterns} - {""}):
            if (self.folder / folder).is_dir():
                owned = [pattern.removeprefix(f"{folder}/") for pattern in patterns if pattern.startswith(f"{folder}/")]
                inside = foreign_files(self.folder / folder, [*owned, "checkpoints/*"])
                names += [f"{folder}/{name}" for _, name in inside]
        return names


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of the run folder that must hold an object.

    Raises:
        BulletError: the file is missing, cannot be read, is not JSON, or holds another kind of value.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
        raise BulletError(f"{path} is damaged: it must hold a JSON object, not {kind}; delete it and run again")
    return value


def refuse_text_folder(folder: Path, sources: Iterable[str]) -> None:
    """Raise a ConfigError if the run folder is a folder of the text: its files would count as those of a run, and not be read."""
    for source in sources:
        if source and os.path.realpath(expand_home(source)) == os.path.realpath(folder):
            raise ConfigError(
                f"{printable(str(folder))} is the folder of the text, and this run would write its files there too: give the run another "
                "--name or --runs-dir"
            )


def refuse_own_outputs(folder: Path, sources: Iterable[Path], outputs: Iterable[str]) -> None:
    """Raise a ConfigError if a source lies in a folder of the run that a stage writes."""
    inside = [Path(os.path.realpath(folder / name)) for name in outputs]
    for source in sources:
        path = Path(os.path.realpath(source))
        for output in inside:
            if path.is_relative_to(output):
                raise ConfigError(
                    f"the source {printable(str(source))} is in {printable(str(output))}, where this run writes its own files: "
                    "move the text to another folder, or give this run another --name"
                )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of the run folder; the system releases the lock when the process ends.

    Raises:
        ConfigError: another process has the lock.
        BulletError: the folder is not writable.
    """
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"another process is working in {folder}: wait for it, or give this run another --name") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BulletError(f"cannot write in the run folder {folder} ({reason}): choose another with --runs-dir=FOLDER") from None
    process = psutil.Process()
    try:
        write_json(folder / PROCESS, {"pid": process.pid, "started": process.create_time(), "booted": psutil.boot_time()})
        yield
    finally:
        (folder / PROCESS).unlink(missing_ok=True)
        lock.release()
