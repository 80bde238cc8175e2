"""On-disk cache of model outputs: the same sentence is never sent to the same model twice, even after a crash."""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bulletlm.errors import BulletError

FILE = "sentences.sqlite"
_WAIT_SECONDS = 60.0


def key_of(identity: str, source: str, target: str, sentence: str) -> bytes:
    """The cache key (16 bytes) of a request: a hash of the model, the two languages and the sentence."""
    return hashlib.blake2b("\0".join((identity, source, target, sentence)).encode(), digest_size=16).digest()


class Cache:
    """A table of key -> answer in one SQLite file; each `put` is atomic and durable.

    Raises:
        BulletError: the file cannot be written, is damaged, or is locked by another process.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BulletError(f"cannot make the folder {folder} ({error.strerror}): set augment.cache to another one") from None
        try:
            self._table = sqlite3.connect(self._path, timeout=_WAIT_SECONDS)
            self._table.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
            self._table.commit()
        except sqlite3.Error as error:
            raise self._problem(error) from None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return the answers that the cache has."""
        marks = ",".join("?" * len(keys))
        try:
            return dict(self._table.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", keys))
        except sqlite3.Error as error:
            raise self._problem(error) from None

    def put(self, answers: Mapping[bytes, str]) -> None:
        """Store answers; all of them are on disk when this returns."""
        try:
            with self._table:
                self._table.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())
        except sqlite3.Error as error:
            raise self._problem(error) from None

    def _problem(self, error: sqlite3.Error) -> BulletError:
        if isinstance(error, sqlite3.OperationalError):
            return BulletError(
                f"cannot use {self._path} ({error}): free disk space, end the other process, or set augment.cache to another folder"
            )
        return BulletError(f"{self._path} is damaged ({error}): delete it; the models will compute the answers again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._table.close()
