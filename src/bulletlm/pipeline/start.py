"""Starting from an existing model, the setting `model.start_from` (docs/fine-tuning.md).

`resolve` reads the model and gives the configuration its shape, its vocabulary and the defaults of fine-tuning. The start stage
keeps the model in RUN/start/npy, so that a run can be continued and its report made when the source is gone. `export_metadata`
writes the origin into the new model: its parents, nearest first, and a licence line that names them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from bulletlm.config.loader import RECORD_KEY, load_run_config
from bulletlm.config.schema import Config, ModelConfig, TrainConfig
from bulletlm.data.tokens import read_index
from bulletlm.errors import BulletError, ConfigError, FormatError
from bulletlm.files import expand_home, read_json, sha256_of_file, sha256_of_json
from bulletlm.formats.convert import read_model
from bulletlm.formats.hf import read_hf
from bulletlm.formats.npy import MANIFEST, read_npy, write_npy
from bulletlm.formats.packaged import packaged_model, packaged_names
from bulletlm.formats.provenance import PRIVATE_KEY, is_private, tokens_seen
from bulletlm.formats.stored import StoredModel, as_floats
from bulletlm.pipeline.build import fingerprint
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer

START = Path("start") / "npy"
"""Where a run folder keeps the model from which it starts."""

FACTS = "start"
"""Key of the manifest there with the hash and the parents of that model."""

SOURCES_LISTED = 50
"""Hashes of source files that an entry of "parents" lists at most."""

FINE_TUNING: dict[str, Any] = {
    "learning_rate": 2e-4,
    "min_learning_rate": 1e-5,
    "warmup_steps": 20,
    "epochs": 4.0,
    "gradient_accumulation_steps": 1,
    "ema_decay": 0.99,
    "eval_every_steps": 50,
    "save_every_steps": 250,
    "patience_early_stop": 4,
}
"""Values of train.* that a run from an existing model has where the configuration gives none."""

GENERAL_SHARE = 0.2
"""data.mix.general of a run that starts from a model of Marathi and English."""

GENERAL_LANGUAGES = frozenset({"mr", "en"})
"""Languages of the general text."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A model to start from.

    Attributes:
        where: how the user named it.
        shape: its shape.
        tensors: its weights, float32.
        tokenizer_proto: its sentencepiece model.
        metadata: name, license, languages and others.
        sha256: hash of weights and tokenizer.
        parents: entries of the header key "parents" for a model that is trained from it: itself first.
        notes: what the user should know about it.
    """

    where: str
    shape: ModelShape
    tensors: Mapping[str, Floats]
    tokenizer_proto: bytes
    metadata: Mapping[str, Any]
    sha256: str
    parents: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name, or how the user named it."""
        return str(self.metadata.get("name") or self.where)

    @property
    def tokens_seen(self) -> int:
        """Tokens on which it and its own parents were trained; 0 if unknown."""
        return tokens_seen(self.metadata)

    @property
    def languages(self) -> list[str]:
        """The codes of its languages, without the one for text of an unknown language."""
        return [str(language) for language in self.metadata.get("languages", []) if language != "und"]


def read_parent(where: str, runs_dir: str = "runs", own: Path | None = None) -> Parent:
    """Read the model that `model.start_from` names.

    Args:
        where: a file, a folder, the name of a run, or that of a model of the package; looked for in this order.
        runs_dir: folder of the runs.
        own: folder of the run that starts, which is not a model to start from.

    Raises:
        ConfigError: there is nothing of this name, or a folder is not a model.
        FormatError: the model is damaged, of another architecture, or has another kind of tokenizer; the message says which.
    """
    path = locate(where, runs_dir, own)
    if path is None:
        names = packaged_names()
        known = f", or a model of the package ({', '.join(names)})" if names else ""
        raise ConfigError(
            f"model.start_from: there is no {printable(where)}: give a .bullet or .gguf file, a run, a checkpoint or a Hugging Face "
            f"folder{known}"
        )
    if own and path.resolve().is_relative_to(own.resolve()):
        raise ConfigError(
            f"model.start_from: {printable(where)} is in the folder of this run, which overwrites it: give this run another name "
            f"(--name={printable(own.name)}-2), or copy the model to another place"
        )
    try:
        model = _read(path)
        tensors = {name: as_floats(model.tensors[name]) for name in model.shape.tensors()}
    except BulletError as error:
        raise type(error)(f"model.start_from: {error}") from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise FormatError(f"model.start_from: {printable(where)}: {name} holds a number that is NaN or infinite: the model is damaged")
    sha256 = sha256_of_json([fingerprint(tensors), sha256_of_json(model.tokenizer_proto.hex())])
    entry = _entry(model, sha256, sha256_of_file(path) if path.is_file() else None)
    return Parent(
        where=where,
        shape=model.shape,
        tensors=tensors,
        tokenizer_proto=model.tokenizer_proto,
        metadata=model.metadata,
        sha256=sha256,
        parents=[entry, *(each for each in model.metadata.get("parents", []) if isinstance(each, dict))],
        notes=model.notes,
    )


def locate(where: str, runs_dir: str, own: Path | None = None) -> Path | None:
    """The file or folder that a value of model.start_from means; None if there is none. See `read_parent`."""
    path, run = expand_home(where), Path(runs_dir) / where
    others = [run] if run.is_dir() and run != own else []
    others += [packaged] if (packaged := packaged_model(where)) else []
    if path.exists() and not (others and _holds_no_model(path)):
        return path
    return others[0] if others else None


def _holds_no_model(path: Path) -> bool:
    """Whether a path is a folder without any file or folder that `_read` looks for, such as a folder of text with the name of a model."""
    return path.is_dir() and not any((path / name).exists() for name in ("state.json", "export", "checkpoints", "config.json", MANIFEST))


def _read(path: Path) -> StoredModel:
    if path.is_dir():
        if (path / "state.json").is_file():
            return _read_checkpoint(path)
        if (path / "export" / "npy" / MANIFEST).is_file():
            return read_model(path / "export" / "npy")[1]
        if (path / "checkpoints").is_dir():
            from bulletlm.train.checkpoint import list_checkpoints

            best, steps = path / "checkpoints" / "best", list_checkpoints(path / "checkpoints")
            if (best / "state.json").is_file() or steps:
                return _read_checkpoint(best if (best / "state.json").is_file() else steps[-1][1])
        if (path / "config.json").is_file() and not (path / MANIFEST).exists():
            if RECORD_KEY in _object(path / "config.json"):
                raise ConfigError(f"{path} is a run without a trained model: train it first, or name another")
            return read_hf(path, marks=False)
    return read_model(path)[1]


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def _read_checkpoint(folder: Path) -> StoredModel:
    """A checkpoint of a run: its averaged weights where they were the better ones at the last evaluation."""
    from bulletlm.evaluate.report import named_languages
    from bulletlm.train.checkpoint import load_checkpoint

    run = folder.absolute().parents[1]
    needed = [run / "config.json", run / "tokenizer" / "tokenizer.model"]
    if absent := [path for path in needed if not path.is_file()]:
        raise ConfigError(
            f"{folder} is a checkpoint, and {absent[0].name} of its run is not at {absent[0]}: a checkpoint has weights only, so leave "
            "it in its run folder"
        )
    config = load_run_config(run)
    recorded = _object(run / "config.json").get(RECORD_KEY, {})
    checkpoint = load_checkpoint(folder)
    if checkpoint.state.get("key") != recorded.get("fingerprint"):
        raise ConfigError(f"{folder} was trained with other settings than {run / 'config.json'} has: take a newer checkpoint of this run")
    tokenizer = Tokenizer.load(run / "tokenizer" / "tokenizer.model")
    shape = config.model.shape(tokenizer.vocab_size)
    position = checkpoint.state.get("position", {})
    averaged = position.get("best_weights") == "ema" and "ema" in checkpoint.tensors
    weights = checkpoint.tensors["ema" if averaged else "model"]
    for name, extents in shape.tensors().items():
        if name not in weights or tuple(weights[name].shape) != extents:
            raise FormatError(f"{folder}: {name} does not have the shape {list(extents)} of the run's configuration")
    index = read_index(run / "tokens") if (run / "tokens" / "index.json").is_file() else None
    metadata: dict[str, Any] = {
        "name": config.model_name or config.name,
        "license": config.license,
        "languages": named_languages(index) if index else [],
        "sampling": config.sampling.model_dump(mode="json"),
        "training": {
            "step": checkpoint.state.get("step", position.get("step")),
            "weights": "ema" if averaged else checkpoint.state.get("weights", "raw"),
            "sources": recorded.get("sources", []),
        },
    }
    private = bool(_object(report).get("private_messages")) if (report := run / "data" / "clean-report.json").is_file() else False
    if (run / START / MANIFEST).is_file():
        parent = read_copy(run)
        metadata |= {"parents": parent.parents, "license": license_line(config.license, parent)}
        private |= is_private(parent.metadata)
    if private:
        metadata[PRIVATE_KEY] = True
    return StoredModel(shape, {name: weights[name].numpy() for name in shape.tensors()}, tokenizer.proto, metadata)


def _entry(model: StoredModel, sha256: str, file_sha256: str | None) -> dict[str, Any]:
    """The entry of a model in "parents": facts without paths or names of files."""
    training = model.metadata.get("training", {})
    listed = training.get("sources", []) if isinstance(training, dict) else []
    sources = [source for source in listed if isinstance(source, dict) and isinstance(source.get("sha256"), str)]
    kept = ("label", "bytes", "sha256", "license")
    entry: dict[str, Any] = {
        "name": str(model.metadata.get("name") or "unnamed"),
        "license": str(model.metadata.get("license") or "unspecified"),
        "languages": model.metadata.get("languages", []),
        "parameters": model.shape.n_parameters,
        "sha256": sha256,
        "sources": [{name: source[name] for name in kept if name in source} for source in sources[:SOURCES_LISTED]],
    }
    if len(sources) > SOURCES_LISTED:
        entry["more_sources"] = len(sources) - SOURCES_LISTED
    if file_sha256:
        entry["file_sha256"] = file_sha256
    if isinstance(training, dict) and type(training.get("tokens_seen")) is int:
        entry["tokens_seen"] = training["tokens_seen"]
    return entry


def write_copy(run_dir: Path, parent: Parent) -> None:
    """Write a parent into the run folder, with its hash and its parents.

    Raises:
        BulletError: the disk is full or the folder is not writable.
    """
    facts = {"where": parent.where, "sha256": parent.sha256, "parents": parent.parents}
    write_npy(run_dir / START, parent.shape, parent.tensors, parent.tokenizer_proto, {**parent.metadata, FACTS: facts})


def read_copy(run_dir: Path) -> Parent:
    """The parent that `write_copy` wrote.

    Raises:
        BulletError: it is missing or damaged.
    """
    shape, tensors, proto, metadata = read_npy(run_dir / START)
    facts = metadata.get(FACTS)
    if not isinstance(facts, dict) or not {"where", "sha256", "parents"} <= facts.keys():
        raise FormatError(f"{run_dir / START / MANIFEST} does not say where the model is from: train again with --restart")
    rest = {name: value for name, value in metadata.items() if name != FACTS}
    return Parent(
        where=facts["where"],
        shape=shape,
        tensors=tensors,
        tokenizer_proto=proto,
        metadata=rest,
        sha256=facts["sha256"],
        parents=facts["parents"],
    )


def resolve(config: Config, progress: Progress) -> tuple[Config, Parent | None]:
    """The configuration with the shape and the vocabulary of the model from which it starts, and that model.

    Settings of train and data that the configuration does not give get the values for fine-tuning. A configuration that starts from
    random weights is returned unchanged.

    Args:
        config: the configuration as it was given.
        progress: receives what the user should know.

    Raises:
        ConfigError: a setting contradicts the model; the message names both values.
        BulletError: the model cannot be read (`read_parent`), and the run folder has no copy of it.
    """
    where = config.model.start_from
    if where is None:
        return config, None
    parent = _parent_of(config, where, progress)
    return with_parent(config, parent, progress), parent


def with_parent(config: Config, parent: Parent, progress: Progress) -> Config:
    """The configuration with the shape, the vocabulary and the defaults of fine-tuning of a model that is read already.

    Raises:
        ConfigError: a setting contradicts the model; the message names both values.
    """
    for note in parent.notes:
        progress.log(f"start: {note}")
    config = _with_shape(config, parent, progress)
    train = {name: value for name, value in FINE_TUNING.items() if name not in config.train.model_fields_set}
    if config.train.total_steps is not None:
        train.pop("epochs", None)
    mix = config.data.mix
    if mix.general is None:
        mix = mix.model_copy(update={"general": GENERAL_SHARE if set(parent.languages) >= GENERAL_LANGUAGES else 0.0})
    resolved = config.model_copy(
        update={
            "train": TrainConfig.model_validate({**_given(config.train), **train}),
            "data": config.data.model_copy(update={"mix": mix}),
        }
    )
    resolved.weight_types()  # reports a mistake in quant.keep
    return resolved


def _given(train: TrainConfig) -> dict[str, Any]:
    return {name: getattr(train, name) for name in train.model_fields_set}


def _parent_of(config: Config, where: str, progress: Progress) -> Parent:
    """The model at `where`; if it is gone, the copy in the run folder."""
    copy = config.run_dir / START / MANIFEST
    if locate(where, config.runs_dir, config.run_dir) is None and copy.is_file():
        kept = read_copy(config.run_dir)
        if kept.where == where:
            progress.log(f"note: {printable(where)} no longer exists; the copy in {printable(str(copy.parent))} is used")
            return kept
    return read_parent(where, config.runs_dir, config.run_dir)


def _with_shape(config: Config, parent: Parent, progress: Progress) -> Config:
    own, shape = config.model, parent.shape
    values = {**shape.to_dict(), "start_from": own.start_from}
    values.pop("vocab_size")
    for name in sorted(own.model_fields_set & values.keys() - {"start_from", "max_seq_len"}):
        given = getattr(own, name)
        if given is not None and given != values[name]:
            raise ConfigError(
                f"model.{name} is {given}, but {printable(parent.where)}, from which this run starts, has {values[name]}: leave "
                f"model.{name} out, or start from random weights (--from none)"
            )
    if "vocab_size" in config.tokenizer.model_fields_set and config.tokenizer.vocab_size != shape.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size is {config.tokenizer.vocab_size}, but {printable(parent.where)}, from which this run starts, has "
            f"{shape.vocab_size}: leave tokenizer.vocab_size out, or start from random weights (--from none)"
        )
    if "max_seq_len" in own.model_fields_set:
        values["max_seq_len"] = own.max_seq_len
        if own.max_seq_len > shape.max_seq_len:
            progress.log(
                f"start: the context of {own.max_seq_len} tokens is longer than the {shape.max_seq_len} of {printable(parent.where)}: it "
                f"has never seen positions beyond {shape.max_seq_len} (RoPE turns by angles that are new to it), and learns them only from "
                "documents of that length"
            )
        elif own.max_seq_len < shape.max_seq_len:
            progress.log(
                f"start: the context of {own.max_seq_len} tokens is shorter than the {shape.max_seq_len} of {printable(parent.where)}: "
                "training is faster, and the new model reads no more than that at once"
            )
    try:
        model = ModelConfig.model_validate(values)
        tokenizer = type(config.tokenizer).model_validate({"vocab_size": shape.vocab_size})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{printable(parent.where)} cannot be trained: its {first['loc'][-1]} is {first['input']} ({first['msg']})"
        ) from None
    return config.model_copy(update={"model": model, "tokenizer": tokenizer})


def license_line(own: str, parent: Parent) -> str:
    """The licence of a model that was trained from `parent`: its own, and the attribution of the parent."""
    return f"{own}; based on {parent.parents[0]['name']} ({parent.parents[0]['license']})"


def describe(parent: Parent) -> str:
    """One line about the model from which a run starts."""
    languages = ", ".join(parent.languages)
    shape = parent.shape
    return (
        f"{printable(parent.name)}, {shape.n_parameters / 1e6:.2f}M parameters ({shape.dim} wide, {shape.n_layers} layers, context "
        f"{shape.max_seq_len}), vocabulary {shape.vocab_size:,}{', ' + languages if languages else ''}; licence "
        f"{printable(parent.parents[0]['license'])}"
    )
