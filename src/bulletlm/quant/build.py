"""From a folder of FP32 tensors to a `.bullet` file."""

from pathlib import Path
from typing import Any

from bulletlm.bulletfile.layout import standard_types
from bulletlm.bulletfile.writer import write_bullet
from bulletlm.export.npy import read_npy
from bulletlm.progress import Progress
from bulletlm.tokenizer import Tokenizer


def build_bullet(npy_folder: Path, path: Path, progress: Progress) -> dict[str, Any]:
    """Quantise the tensors of `npy_folder` and write `path`, atomically.

    Raises:
        BulletError: the folder is incomplete or the disk is full; an older file stays as it was.
    """
    shape, tensors, proto, metadata = read_npy(npy_folder)
    with progress.task("Building", 1) as task:
        write_bullet(path, shape, tensors, standard_types(shape), proto, Tokenizer(proto).pieces(), metadata)
        task.advance(1)
    return metadata
