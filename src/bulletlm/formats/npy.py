"""Writes and reads the FP32 model as a folder of .npy arrays that any program can read.

manifest.json          shape, tensors, metadata
NAME.npy               one float32 array a tensor, named as in `ModelShape.tensors()`
tokenizer.model        the sentencepiece model
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError, FormatError
from bulletlm.files import atomic_folder, open_regular, read_regular, write_json
from bulletlm.formats.bullet.header import check_metadata, parse_json, read_shape, show
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable

FORMAT = "bulletlm-npy"
VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"

FILES = (
    MANIFEST,
    TOKENIZER,
    "token_embedding.weight.npy",
    "layers.*.weight.npy",
    "final_norm.weight.npy",
    "lm_head.weight.npy",
)
"""Names of the files that `write_npy` writes, as patterns."""

Floats = npt.NDArray[np.float32]


def write_npy(folder: Path, shape: ModelShape, tensors: Mapping[str, Floats], tokenizer_proto: bytes, metadata: Mapping[str, Any]) -> None:
    """Write the folder, atomically; an older one at the same place is replaced.

    Args:
        folder: where it appears once it is complete.
        shape: says which tensors there must be.
        tensors: float32 arrays.
        tokenizer_proto: the sentencepiece model.
        metadata: JSON values for people and later stages: license, sampling, training ...

    Raises:
        FormatError: a tensor is missing, has another shape, or holds a number that is not finite; or the metadata is
            not allowed in a model file.
        BulletError: the disk is full or the folder is not writable.
    """
    check_metadata(dict(metadata))
    for name, extents in shape.tensors().items():
        if name not in tensors:
            raise FormatError(f"the tensor {name} is missing")
        _check(tensors[name], extents, f"the tensor {name}")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "shape": shape.to_dict(),
        "tensors": {name: list(extents) for name, extents in shape.tensors().items()},
        "metadata": dict(metadata),
    }
    with atomic_folder(folder, FILES) as partial:
        for name in shape.tensors():
            np.save(partial / f"{name}.npy", np.ascontiguousarray(tensors[name], dtype="<f4"), allow_pickle=False)
        (partial / TOKENIZER).write_bytes(tokenizer_proto)
        write_json(partial / MANIFEST, manifest)


def read_npy(folder: Path) -> tuple[ModelShape, dict[str, Floats], bytes, dict[str, Any]]:
    """Read such a folder: shape, tensors (memory-mapped, read-only), sentencepiece model, metadata.

    Raises:
        BulletError: there is no such folder.
        FormatError: a file is missing or damaged, or does not fit the manifest; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BulletError(f"there is no folder {folder}: export a model to it first")
    if not (folder / MANIFEST).exists():
        raise FormatError(_no_export(folder))
    where = str(folder / MANIFEST)
    manifest = parse_json(_read(folder / MANIFEST), where)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise FormatError(f'{where}: format and version must be "{FORMAT}" and {VERSION}: export the model again')
    metadata = manifest.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FormatError(f"{where}: metadata is {show(metadata)}: it must be an object")
    try:
        check_metadata(metadata)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    shape = read_shape(manifest.get("shape"), f"{where}: shape")
    expected = {name: list(extents) for name, extents in shape.tensors().items()}
    if manifest.get("tensors") != expected:
        raise FormatError(f"{where}: tensors must be the names and shapes that shape implies: export the model again")
    tensors = {name: _array(folder / f"{name}.npy", extents) for name, extents in shape.tensors().items()}
    return shape, tensors, _read(folder / TOKENIZER), metadata


def _no_export(folder: Path) -> str:
    """What a folder without a manifest is, and what to name instead."""
    file, export = folder / "model.bullet", folder / "export" / "npy"
    models = [f"{path} ({kind})" for path, kind in ((file, "the model file"), (export, "FP32")) if path.exists()]
    if models:
        return f"{folder} is a run folder: name the model in it, {' or '.join(models)}"
    return f"{folder} holds no model, because {MANIFEST} is missing: name a .bullet file or the folder export/npy of a run"


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise FormatError(f"cannot read {path} ({error.strerror}): export the model again") from None


def _array(path: Path, extents: tuple[int, ...]) -> Floats:
    try:
        with open_regular(path):
            # Mapped rather than read: a damaged header could ask for any amount of memory.
            array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise FormatError(f"{path} is missing: export the model again") from None
    except OSError as error:
        raise FormatError(f"cannot read {path} ({error.strerror}): export the model again") from None
    except Exception as error:  # numpy's header parser raises many kinds of errors
        reason = printable(str(error), limit=120) or type(error).__name__
        raise FormatError(f"{path} is not a whole .npy file ({reason}): export the model again") from None
    _check(array, extents, str(path))
    return np.asarray(array)


def _check(array: npt.NDArray[Any], extents: tuple[int, ...], where: str) -> None:
    if array.dtype != np.float32:
        raise FormatError(f"{where} must be a float32 array")
    if array.shape != extents:
        raise FormatError(f"{where} has shape {list(array.shape)}, but the model's shape implies {list(extents)}")
    if not np.isfinite(array).all():
        raise FormatError(f"{where} holds a number that is NaN or infinite")
