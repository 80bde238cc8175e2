"""Checkpoints: a folder a step, written whole or not at all, checked before it is used.

    checkpoints/step-002500/  model.safetensors  optimizer.safetensors  ema.safetensors  state.json
    checkpoints/best/         model.safetensors  state.json     (the weights that will be exported)

state.json carries the SHA-256 of the other files. Nothing is ever unpickled.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bulletlm.errors import BulletError
from bulletlm.files import atomic_folder, read_json, sha256_of_file, write_json
from bulletlm.progress import Progress

_STEP = re.compile(r"step-(\d{6,})")


@dataclass
class Checkpoint:
    """Named tensors by file, and plain values."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of `step` lives."""
    return checkpoints / f"step-{step:06d}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder atomically.

    Raises:
        BulletError: the disk is full or not writable; an older folder of that name is untouched.
    """
    with atomic_folder(folder) as temporary:
        hashes = {}
        for name, tensors in checkpoint.tensors.items():
            path = temporary / f"{name}.safetensors"
            path.write_bytes(save({key: value.detach().contiguous() for key, value in tensors.items()}))
            hashes[path.name] = sha256_of_file(path)
        write_json(temporary / "state.json", {**checkpoint.state, "sha256": hashes})


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder after checking every file's SHA-256.

    Raises:
        BulletError: something is missing, cut or changed; the message names the file.
    """
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or not isinstance(state.get("sha256"), dict):
        raise BulletError(f"{folder / 'state.json'} is damaged: it lists no files")
    tensors = {}
    for name, expected in state.pop("sha256").items():
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
    """(step, folder) of the numbered checkpoints, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [(int(match[1]), path) for path in checkpoints.iterdir() if (match := _STEP.fullmatch(path.name))]
    return sorted(found)


def newest_checkpoint(checkpoints: Path, progress: Progress) -> tuple[Path, Checkpoint] | None:
    """The newest numbered checkpoint that is whole; damaged ones are reported and removed, and with them what a kill left behind."""
    for leftover in checkpoints.glob("step-*.partial"):
        shutil.rmtree(leftover)
    for _, folder in reversed(list_checkpoints(checkpoints)):
        try:
            return folder, load_checkpoint(folder)
        except BulletError as error:
            progress.say(f"{error}; falling back to the checkpoint before it")
            shutil.rmtree(folder)
    return None
