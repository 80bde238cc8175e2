"""Checkpoints: one folder per step, written completely or not at all, and checked before it is used.

    checkpoints/step-002500/  model.safetensors  optimizer.safetensors  ema.safetensors  state.json
    checkpoints/best/         model.safetensors  state.json     (the weights that will be exported)

state.json holds the SHA-256 of the other files and of its own other entries. No file is ever unpickled. torch is only imported where
tensors are read or written, so that `bullet list` can look for checkpoints without it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.errors import BulletError
from bulletlm.files import REPLACED, atomic_folder, bring_back_folder, read_json, remove_owned, sha256_of_file, sha256_of_json, write_json
from bulletlm.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

_STEP = re.compile(r"step-(\d{6,})")
_STATE = "state.json"

CHECKPOINT_FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", _STATE)
"""The files of a checkpoint folder."""


@dataclass
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        tensors: by file ("model", "optimizer", "ema"), the tensors by name.
        state: JSON values for state.json.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def step_folder(checkpoints: Path, step: int) -> Path:
    """Folder of the checkpoint of `step`."""
    return checkpoints / f"step-{step:06d}"


def checkpoint_size(model: nn.Module) -> int:
    """Upper bound for the size of a checkpoint in bytes: weights, two optimizer moments per weight, moving average."""
    return sum(4 * weight.nbytes for weight in model.parameters())


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder atomically.

    Raises:
        BulletError: the disk is full or not writable; an older folder of that name is unchanged then.
    """
    from safetensors.torch import save

    with atomic_folder(folder, CHECKPOINT_FILES) as temporary:
        hashes = {}
        for name, tensors in checkpoint.tensors.items():
            path = temporary / f"{name}.safetensors"
            path.write_bytes(save({key: value.detach().contiguous() for key, value in tensors.items()}))
            hashes[path.name] = sha256_of_file(path)
        hashes[_STATE] = sha256_of_json([checkpoint.state, hashes])
        write_json(temporary / _STATE, {**checkpoint.state, "sha256": hashes})


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder after checking every file's SHA-256.

    Raises:
        BulletError: a file is missing, truncated, changed or unreadable; the message names it.
    """
    try:
        return _load(folder)
    except OSError as error:
        raise BulletError(f"cannot read {error.filename or folder}: {error.strerror or error}") from None
    except ValueError as error:  # a number that JSON cannot hold, or an incomplete UTF-8 character
        raise BulletError(f"{folder / _STATE} is damaged: {error}") from None


def _load(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = read_json(folder / _STATE)
    hashes = state.pop("sha256", None) if isinstance(state, dict) else None
    if not isinstance(hashes, dict) or hashes.pop(_STATE, None) != sha256_of_json([state, hashes]):
        raise BulletError(f"{folder / _STATE} is damaged: its contents do not have the SHA-256 that it contains")
    tensors = {}
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise BulletError(f"{path} is missing")
        if sha256_of_file(path) != expected:
            raise BulletError(f"{path} is damaged: its SHA-256 differs from the one in state.json")
        try:
            tensors[path.stem] = load_file(path)
        except SafetensorError as error:
            raise BulletError(f"{path} is damaged: {error}") from None
    return Checkpoint(tensors, state)


def list_checkpoints(checkpoints: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every numbered checkpoint, oldest first; empty if the folder does not exist."""
    if not checkpoints.is_dir():
        return []
    found = [(int(match[1]), path) for path in checkpoints.iterdir() if (match := _STEP.fullmatch(path.name))]
    # A folder of a deleted checkpoint remains if it has files of another origin.
    return sorted((step, path) for step, path in found if any((path / name).exists() for name in CHECKPOINT_FILES))


def prune_checkpoints(checkpoints: Path, keep: int, needed: Callable[[int], bool]) -> None:
    """Delete all numbered checkpoints except the `keep` newest ones and those for whose step `needed` is true."""
    for step, folder in list_checkpoints(checkpoints)[:-keep]:
        if not needed(step):
            remove_owned(folder, CHECKPOINT_FILES)


def remove_checkpoints(checkpoints: Path) -> list[str]:
    """Delete all checkpoints with the compute plans beside them; returns the names of other files, which stay."""
    names = [f"{folder}/{name}" for folder in ("step-*", "best*") for name in CHECKPOINT_FILES]
    return remove_owned(checkpoints, (*names, "compute*.json"))


def newest_checkpoint(checkpoints: Path, restart: str, progress: Progress) -> tuple[Path, Checkpoint] | None:
    """The newest numbered checkpoint that is intact; None if there are no checkpoints.

    Newer ones are damaged: they are reported and renamed to "step-N.damaged". Folders that a killed process left incomplete
    are deleted; those that it was replacing, the best weights too, are brought back.

    Args:
        restart: how the user can start from the beginning, for the error message.

    Raises:
        BulletError: there are checkpoints, but none is intact.
    """
    for leftover in list(checkpoints.glob(f"*{REPLACED}")):
        bring_back_folder(leftover.with_name(leftover.name.removesuffix(REPLACED)))
    for leftover in list(checkpoints.glob("step-*.partial")):
        shutil.rmtree(leftover)
    damaged: list[tuple[Path, BulletError]] = []
    for _, folder in reversed(list_checkpoints(checkpoints)):
        try:
            found = load_checkpoint(folder)
        except BulletError as error:
            damaged.append((folder, error))
            continue
        for other, problem in damaged:
            kept = _unused(other.with_name(f"{other.name}.damaged"))
            progress.log(f"{problem}; continuing from the checkpoint before it (the damaged one is now {kept.name})", "warning")
            other.rename(kept)
        return folder, found
    if damaged:
        raise BulletError(f"no checkpoint in {checkpoints} is intact ({damaged[0][1]}): restore one from a copy, or {restart}")
    return None


def _unused(path: Path) -> Path:
    """`path` after removing the checkpoint there; with a number at the end if that leaves other files."""
    number, free = 1, path
    while free.exists() and remove_owned(free, CHECKPOINT_FILES):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
