"""Receives uploaded files: the bytes go to the disk as they arrive, so that a file may be larger than the memory."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bulletlm.dashboard.workspace import Workspace, free_name, safe_file_name
from bulletlm.errors import BulletError, ConfigError

LARGEST_UPLOAD_BYTES = 20 << 30

SPARE_BYTES = 256 << 20
"""Space that an upload leaves free on the disk."""

PARTIAL = ".partial"


@dataclass(frozen=True)
class Upload:
    """An uploaded file."""

    name: str
    bytes: int
    time: float


async def receive(workspace: Workspace, name: str, parts: AsyncIterator[bytes], expected: int | None) -> Path:
    """Write an uploaded file into the folder of uploads; an existing file of the same name is never replaced.

    Args:
        workspace: has the folder.
        name: as the browser sent it; only its last part is used, without special characters.
        parts: the contents.
        expected: length in bytes that the browser announced, if it did.

    Raises:
        ConfigError: the file is too large for the limit or the disk.
        BulletError: fewer bytes arrived than announced, or the disk is full.
    """
    folder = workspace.uploads
    folder.mkdir(parents=True, exist_ok=True)
    room = min(LARGEST_UPLOAD_BYTES, shutil.disk_usage(folder).free - SPARE_BYTES)
    if (expected or 0) > room:
        raise ConfigError(f"{safe_file_name(name)} has {expected:,} bytes, and there is room for {max(0, room):,}: free some space")
    partial = folder / free_name(f".{safe_file_name(name)}{PARTIAL}", folder)
    size = 0
    try:
        with open(partial, "xb") as file:
            async for part in parts:
                size += len(part)
                if size > room:
                    raise ConfigError(f"{safe_file_name(name)} is larger than the room on the disk ({room:,} bytes): free some space")
                file.write(part)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())  # takes seconds for a large file; the pages stay usable
        if expected is not None and size != expected:
            raise BulletError(f"only {size:,} of {expected:,} bytes of {safe_file_name(name)} arrived: upload it again")
        target = folder / free_name_with_suffix(safe_file_name(name), folder)
        os.replace(partial, target)
    except OSError as error:
        raise BulletError(f"cannot write {safe_file_name(name)}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def free_name_with_suffix(name: str, folder: Path) -> str:
    """`name`, or with a number before its extension, so that no file of this name exists."""
    stem, dot, suffix = name.partition(".")
    number, found = 1, name
    while os.path.lexists(folder / found):
        number += 1
        found = f"{stem}-{number}{dot}{suffix}"
    return found


def uploaded(workspace: Workspace) -> list[Upload]:
    """The uploaded files, the newest first."""
    found = []
    if workspace.uploads.is_dir():
        for path in workspace.uploads.iterdir():
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                found.append(Upload(path.name, status.st_size, status.st_mtime))
    return sorted(found, key=lambda upload: -upload.time)
