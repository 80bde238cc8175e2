"""From FP32 tensors to a `.bullet` file: which tensor gets which type, and the packing."""

from pathlib import Path
from typing import Any

from bulletlm.bulletfile.writer import write_bullet
from bulletlm.export.npy import read_npy
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.tokenizer import Tokenizer


def tensor_types(shape: ModelShape) -> dict[str, str]:
    """BQ4 for the matrices of the layers, BQ8 for the embedding (4 bits there cost more than anywhere else), F32 for norm gains."""
    types = {}
    for name, extents in shape.tensors().items():
        if len(extents) == 1:
            types[name] = "F32"
        elif name.startswith("layers."):
            types[name] = "BQ4"
        else:
            types[name] = "BQ8"
    return types


def build_bullet(npy_folder: Path, path: Path, progress: Progress) -> dict[str, Any]:
    """Quantise the tensors of `npy_folder` and write `path`, atomically.

    Raises:
        BulletError: the folder is incomplete or the disk is full; an older file stays as it was.
    """
    shape, tensors, proto, metadata = read_npy(npy_folder)
    with progress.task("Building", 1) as task:
        write_bullet(path, shape, tensors, tensor_types(shape), proto, Tokenizer(proto).pieces(), metadata)
        task.advance(1)
    return metadata
