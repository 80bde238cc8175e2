"""Converts between model formats: .bullet (versions 1 and 2), GGUF, Hugging Face folder, folder of .npy tensors; and to an HTML page."""

import os
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bulletlm.errors import BulletError, ConfigError, FormatError
from bulletlm.files import open_regular, read_regular
from bulletlm.formats.bullet.header import parse_json
from bulletlm.formats.bullet.reader import PICKLE, open_bullet
from bulletlm.formats.bullet.version1 import check_v1, is_v1, read_v1, rounds_for_v1, write_v1
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.gguf import modelfile_path, read_gguf, write_gguf
from bulletlm.formats.hf import FILES as HF_FILES
from bulletlm.formats.hf import INDEX as HF_INDEX
from bulletlm.formats.hf import METADATA as HF_METADATA
from bulletlm.formats.hf import WEIGHTS as HF_WEIGHTS
from bulletlm.formats.hf import read_hf, write_hf
from bulletlm.formats.html.page import write_page
from bulletlm.formats.not_a_model import what_was_downloaded
from bulletlm.formats.npy import FORMAT as NPY_FORMAT
from bulletlm.formats.npy import MANIFEST, TOKENIZER, read_npy, write_npy
from bulletlm.formats.provenance import PRIVATE_NOTE, has_paths, is_private, without_paths
from bulletlm.formats.stored import EncodedTensor, StoredModel, as_floats, check_tokenizer, type_of
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.quant.types import standard_types
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable

KINDS = ("bullet", "gguf", "hf", "npy", "html")
"""The formats that can be written; all but "html" can be read too."""


class Conversion(NamedTuple):
    """The result of a conversion: the formats of source and target, the types of the written weights, and notes for the user."""

    source_kind: str
    target_kind: str
    types: dict[str, str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """The options of a conversion.

    Attributes:
        to: the format to write, one of KINDS; by default it follows from the target's name.
        version: version of the .bullet to write, 1 or 2.
        quant: weight type of the matrices to write; by default they keep theirs.
        like: a model of the same shape whose tokenizer is given to a version 1 file.
        force: replace an existing target.
    """

    to: str | None = None
    version: int = 2
    quant: str | None = None
    like: Path | None = None
    force: bool = False


def convert(source: Path, target: Path, options: ConvertOptions | None = None) -> Conversion:
    """Read the model at `source` and write it at `target`. Nothing is written unless all of it can be.

    Numbers are unchanged wherever the target can hold them. A source that only has float32 (.npy, Hugging Face) is
    rounded for a .bullet, by default to BQ4 without calibration; `bullet-builder` gives a better model.

    Args:
        source: a .bullet of version 1 or 2, a .gguf, a Hugging Face folder, or a folder of .npy tensors.
        target: what to write.
        options: the format and how to write it; by default the format follows from the target's name.

    Raises:
        ConfigError: the arguments do not fit each other.
        FormatError: the source is damaged or is a model that the target cannot hold.
        BulletError: there is nothing at `source`, or `target` cannot be written.
    """
    source, target = Path(source), Path(target)
    options = options or ConvertOptions()
    version, quant = options.version, options.quant
    kind = options.to or _kind_by_name(target)
    if version == 1 and kind != "bullet":
        raise ConfigError(f"--format v1 is for .bullet files, but the target {target} is {kind}: leave one of them out")
    if quant and (kind in ("hf", "npy") or (version == 1 and quant != "BQ4")):
        what = "version 1, which is BQ4 throughout" if version == 1 else f"{kind}, which holds float32"
        raise ConfigError(f"--quant {quant} has no meaning for {what}: leave it out")
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the source itself: choose another name")
    _check_target(target, kind, options.force)
    source_kind, model = read_model(source, options.like)
    notes = list(model.notes)
    if has_paths(model.metadata):
        model = model._replace(metadata=without_paths(model.metadata))
        notes.append("the paths of the source files, which an earlier version wrote into the model, are left out")
    model = _rounded(model, source_kind, kind, options, notes)
    _write(target, kind, version, model)
    if version == 1:
        notes.append("version 1 has four bits for every tensor, the embedding too, which costs a small model more than 1 % perplexity")
    if is_private(model.metadata):
        notes.append(f"the model was {PRIVATE_NOTE}")
    types = {name: type_of(tensor) for name, tensor in model.tensors.items()} if kind in ("bullet", "gguf", "html") and version == 2 else {}
    return Conversion(source_kind, kind if version == 2 else "bullet v1", types, notes)


def read_model(path: Path, like: Path | None = None) -> tuple[str, StoredModel]:
    """The kind of a model ("bullet", "bullet v1", "gguf", "hf" or "npy"), recognized by its content, and the model.

    Raises:
        BulletError: there is nothing at `path`.
        FormatError: it is damaged, or no format that can be read.
    """
    kind = _kind_by_content(path)
    if like is not None and kind != "bullet v1":
        if kind == "bullet":
            open_bullet(path)  # reports a file that is no .bullet at all
        raise ConfigError(f"--like is for files of version 1, but {path} is {kind}: leave it out")
    if kind == "bullet v1":
        return kind, read_v1(path, read_model(like)[1] if like else None)
    if kind == "gguf":
        return kind, read_gguf(path)
    if kind == "hf":
        return kind, read_hf(path)
    if kind == "npy":
        shape, floats, proto, metadata = read_npy(path)
        check_tokenizer(proto, shape.vocab_size, str(path / TOKENIZER))
        return kind, StoredModel(shape, floats, proto, metadata)
    file = open_bullet(path)
    file.verify()  # a damaged file must not become an intact one with wrong numbers
    tensors = {name: file.read_blocks(name) for name in file.tensors}
    return kind, StoredModel(file.shape, tensors, file.tokenizer().proto, file.metadata)


def compatibility(shape: ModelShape, types: Mapping[str, str], version: int) -> list[str]:
    """Say which programs can run a model with these weights, and what a conversion for them loses, in one sentence per program.

    Args:
        shape: the model's shape.
        types: "BQ4", "BQ8", "F16" or "F32" of every tensor.
        version: of the .bullet that holds it.
    """
    if version == 1:
        return [
            "version 1's runtime reads this file: norm gains are in the matrices, and the output matrix is stored separately",
            "everything else: bullet convert makes version 2, GGUF, Hugging Face or .npy of it, with the same numbers",
        ]
    names = {"BQ4": "BQ4 as Q4_0", "BQ8": "BQ8 as Q8_0", "F16": "F16", "F32": "F32"}
    kinds = ", ".join(names[kind] for kind in names if kind in types.values())
    notes = [
        f"llama.cpp, Ollama, LM Studio: bullet convert FILE NAME.gguf keeps every number bit for bit ({kinds})",
        f"transformers: bullet convert FILE NAME-hf keeps every number, as float32 ({4 * shape.n_parameters:,} bytes)",
    ]
    try:
        check_v1(shape)
    except FormatError as error:
        return [*notes, f"version 1's runtime: no ({str(error).removeprefix('version 1 cannot hold this model: ')})"]
    return [*notes, "version 1's runtime: not this file, but one made with --format v1, in which the embedding has four bits too"]


def _kind_by_content(path: Path) -> str:
    if path.is_dir():
        return _kind_of_folder(path)
    try:
        with open_regular(path) as file:
            head = file.read(4096)
    except OSError as error:
        raise BulletError(f"cannot open {path} ({error.strerror}): name a model file or folder") from None
    if head.startswith(b"GGUF"):
        return "gguf"
    if head[:1] == b"\x80":
        raise FormatError(f"{path}: {PICKLE}")
    if head.startswith(b"PK"):
        raise FormatError(f"{path} is a zip file, such as torch.save writes: pickles inside it can run any program, so it is refused")
    if found := what_was_downloaded(head):
        raise FormatError(f"{path}: {found}")
    if path.suffix == ".safetensors":
        if (path.parent / "config.json").exists():
            raise FormatError(f"{path} has weights only: name its folder, {path.parent}")
        raise FormatError(f"{path} has weights only, and config.json is not beside it: a model needs its configuration and tokenizer too")
    return "bullet v1" if is_v1(head) else "bullet"


def _kind_of_folder(folder: Path) -> str:
    if (folder / MANIFEST).exists():
        return "npy"
    for inside in ("model.bullet", "export/npy"):
        if (folder / inside).exists():
            raise ConfigError(f"{folder} is a run: name {folder / inside}")
    if (folder / "adapter_config.json").exists() and not _has_weights(folder):
        raise FormatError(
            f"{folder} holds only an adapter (LoRA or another of peft), which changes a base model that is not here: "
            f"merge the two with peft's merge_and_unload, and save the result"
        )
    if (folder / "config.json").exists():
        return "hf"
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if ggufs:
        raise FormatError(f"{folder} is a folder with GGUF files: name the file, {folder / printable(ggufs[0])}")
    if _has_weights(folder):
        raise FormatError(f"{folder} has weights, but no config.json: the download is not complete")
    raise FormatError(f"{folder} has neither config.json (Hugging Face) nor {MANIFEST} (.npy tensors): it is not a model folder")


def _has_weights(folder: Path) -> bool:
    """Whether a folder holds weights of a whole model in the form of transformers."""
    return any((folder / name).exists() for name in (HF_WEIGHTS, HF_INDEX)) or any(folder.glob("model-*-of-*.safetensors"))


def _kind_by_name(target: Path) -> str:
    if target.suffix in (".bullet", ".gguf", ".html"):
        return target.suffix[1:]
    words = set(re.split("[^a-z0-9]+", target.name.lower()))
    kinds = [kind for kind in ("hf", "npy") if kind in words]
    if len(kinds) == 1:
        return kinds[0]
    raise ConfigError(f"{target}: end the name in .bullet, .gguf or .html, or choose the kind of folder with --to hf or --to npy")


def _check_target(target: Path, kind: str, force: bool) -> None:
    """Refuse a target that would replace something; with `force`, only what can never be an export of ours."""
    is_folder = kind in ("hf", "npy")
    for path in (target, modelfile_path(target)) if kind == "gguf" else (target,):
        if not os.path.lexists(path):
            continue
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link: name a path that is not one")
        if path.is_dir() and not is_folder:
            raise ConfigError(f"{path} is a folder: name a file for {kind}")
        if not path.is_dir() and is_folder:
            raise ConfigError(f"{path} is a file: name a folder for {kind}")
        if not path.is_dir() and not path.is_file():
            raise ConfigError(f"{path} is not a regular file: choose another name")
        if is_folder:
            known = _hf_export(target) if kind == "hf" else _npy_export(target)
            names = sorted(file.name for file in target.iterdir())
            others = [name for name in names if name not in known]
            if others:
                raise ConfigError(f"{target} holds other files ({printable(others[0])}): name a new folder")
            if not names:
                continue
        if not force:
            raise ConfigError(f"{path} exists: choose another name, or replace it with --force")


def _hf_export(folder: Path) -> Collection[str]:
    """The names of the files of an earlier export; empty if the folder has no file that only an export has."""
    return HF_FILES if (folder / HF_METADATA).is_file() else ()


def _npy_export(folder: Path) -> Collection[str]:
    """The names of the files of an earlier export; empty if there is no manifest of ours that lists them."""
    try:
        manifest = parse_json(read_regular(folder / MANIFEST), MANIFEST)
    except (OSError, FormatError):
        return ()
    tensors = manifest.get("tensors")
    if manifest.get("format") != NPY_FORMAT or not isinstance(tensors, dict):
        return ()
    return {MANIFEST, TOKENIZER, *(f"{name}.npy" for name in tensors)}


def _rounded(model: StoredModel, source_kind: str, kind: str, options: ConvertOptions, notes: list[str]) -> StoredModel:
    """The model with its matrices converted to the types of the target."""
    quant = options.quant
    if options.version == 1:
        return model._replace(metadata=_with_rounding(model.metadata, "BQ4", "BQ4")) if rounds_for_v1(model) else model
    if kind in ("hf", "npy"):
        return model
    floats_only = source_kind in ("hf", "npy", "bullet v1") and kind in ("bullet", "html")
    if not quant and not floats_only:
        return model
    types = standard_types(model.shape, quant or "BQ4")
    tensors = dict(model.tensors)
    again = 0
    for name, tensor in model.tensors.items():
        if type_of(tensor) == types[name] or (not quant and type_of(tensor) != "F32"):
            continue
        again += isinstance(tensor, Quantized) and types[name] in ("BQ4", "BQ8")
        tensors[name] = _as_type(name, tensor, types[name])
    if again:
        notes.append(f"{again} tensors were rounded to another type before and have been rounded again: start from FP32 if you can")
    metadata = model.metadata
    if any(tensors[name] is not tensor and ("quantised" in metadata or types[name] != "F32") for name, tensor in model.tensors.items()):
        metadata = _with_rounding(metadata, quant or "BQ4", types["token_embedding.weight"])
    return model._replace(tensors=tensors, metadata=metadata)


def _with_rounding(metadata: Mapping[str, Any], weights: str, embedding: str) -> dict[str, Any]:
    """The metadata of weights that are rounded here. Losses that were measured describe the weights before this rounding."""
    rounded = {"weights": weights, "embedding": embedding, "keep": [], "method": "none", "calibration_tokens": 0}
    return {**metadata, "quantised": rounded}


def _as_type(name: str, tensor: EncodedTensor, type: str) -> EncodedTensor:
    weights = as_floats(tensor)
    try:
        if type in ("BQ4", "BQ8"):
            return Quantized(type, quantize_bq4(weights) if type == "BQ4" else quantize_bq8(weights))
    except BulletError as error:
        raise FormatError(f"the tensor {name} cannot be written: {error}") from None
    with np.errstate(over="ignore"):
        numbers = weights.astype(np.float16) if type == "F16" else weights
    if not np.isfinite(numbers).all():
        raise FormatError(f"the tensor {name} cannot be written: a weight is too large for {type}")
    return numbers


def _write(target: Path, kind: str, version: int, model: StoredModel) -> None:
    if kind == "gguf":
        write_gguf(target, model)
    elif kind == "hf":
        write_hf(target, model)
    elif kind == "npy":
        floats = {name: as_floats(tensor) for name, tensor in model.tensors.items()}
        write_npy(target, model.shape, floats, model.tokenizer_proto, model.metadata)
    elif version == 1:
        write_v1(target, model)
    elif kind == "html":
        _write_page(target, model)
    else:
        _write_bullet(target, model)


def _write_page(target: Path, model: StoredModel) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.bullet"
        _write_bullet(file, model)
        write_page(target, file.read_bytes(), model.metadata)


def _write_bullet(target: Path, model: StoredModel) -> None:
    tokenizer = check_tokenizer(model.tokenizer_proto, model.shape.vocab_size, "the tokenizer")
    types = {name: type_of(tensor) for name, tensor in model.tensors.items()}
    tensors = {name: tensor if isinstance(tensor, Quantized) else as_floats(tensor) for name, tensor in model.tensors.items()}
    write_bullet(
        target,
        ModelContents(
            shape=model.shape,
            tensors=tensors,
            types=types,
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata=model.metadata,
        ),
    )
