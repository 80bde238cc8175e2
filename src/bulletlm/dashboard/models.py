"""The models that can be tried and exported: the 4-bit file, the FP32 weights and the checkpoints of every run."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulletlm.config.schema import Config
from bulletlm.dashboard.processes import own_folder, read_record
from bulletlm.dashboard.runs import configuration
from bulletlm.dashboard.uploads import uploaded
from bulletlm.dashboard.workspace import Workspace, is_name
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import write_json
from bulletlm.formats.npy import MANIFEST, write_npy
from bulletlm.formats.packaged import packaged_model, packaged_names
from bulletlm.runtime import Model, Sampling, Session, load
from bulletlm.runtime.prompt import chat_prompt
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.train.checkpoint import list_checkpoints

KEPT_MODELS = 3
"""Loaded models that stay in memory."""

FOUR_BIT, FP32, BEST, START = "4bit", "fp32", "best", "start"

UPLOADS = "uploads"
"""What stands for the name of the run in the name of an uploaded model."""

MODEL_FILES = (".bullet", ".gguf")
"""Endings of model files that can be uploaded to start from."""


def versions(run: Path) -> list[str]:
    """What can be loaded from a run: "4bit", "fp32", "best", "step-000500", the most useful first; "start" is from what it started."""
    found = []
    if (run / "model.bullet").is_file():
        found.append(FOUR_BIT)
    if (run / "export" / "npy" / MANIFEST).is_file():
        found.append(FP32)
    checkpoints = run / "checkpoints"
    if (run / "tokenizer" / "tokenizer.model").is_file() and checkpoints.is_dir():
        found += [BEST] if (checkpoints / BEST / "state.json").is_file() else []
        found += [path.name for _, path in reversed(list_checkpoints(checkpoints)) if (path / "state.json").is_file()]
    if (run / "start" / "npy" / MANIFEST).is_file():
        found.append(START)
    return found


def start_models(workspace: Workspace, runs: Sequence[str]) -> dict[str, str]:
    """Models from which a new run can start: value of model.start_from -> name; models of the package, runs and uploaded files."""
    found = {name: name for name in packaged_names()}
    for run in runs:
        if {FP32, BEST} & set(versions(workspace.runs / run)):
            found[str(workspace.runs / run)] = run
    for upload in uploaded(workspace):
        if is_model_file(upload.name):
            found[str(workspace.uploads / upload.name)] = f"uploads/{upload.name}"
    return found


def is_model_file(name: str) -> bool:
    """Whether a file of this name is a model, and not text to learn from."""
    return name.lower().endswith(MODEL_FILES)


def model_names(workspace: Workspace, runs: Sequence[str]) -> list[str]:
    """All models that can be tried: "RUN/VERSION", "uploads/FILE.bullet", and the names of the models of the package."""
    found = [f"{run}/{version}" for run in runs for version in versions(workspace.runs / run)]
    found += [f"{UPLOADS}/{upload.name}" for upload in uploaded(workspace) if upload.name.lower().endswith(".bullet")]
    return [*found, *packaged_names()]


def model_path(workspace: Workspace, name: str) -> Path:
    """The .bullet file or the folder of FP32 tensors of a model (`model_names`); a checkpoint is written as such a folder first.

    Raises:
        ConfigError: there is no such model.
        BulletError: the checkpoint is damaged.
    """
    if "/" not in name and (packaged := packaged_model(name)) is not None:
        return packaged
    run_name, _, version = name.rpartition("/")
    file = workspace.uploads / version
    if run_name == UPLOADS and is_name(version) and version.lower().endswith(".bullet") and file.is_file():
        return file
    run = workspace.run_folder(run_name)
    if version not in versions(run):
        raise ConfigError(f"{run.name} has no model {version!r}")
    if version == FOUR_BIT:
        return run / "model.bullet"
    if version == FP32:
        return run / "export" / "npy"
    if version == START:
        return run / "start" / "npy"
    return checkpoint_folder(run, version)


def checkpoint_folder(run: Path, version: str) -> Path:
    """A checkpoint of a run as a folder of FP32 tensors; it is written when it is first asked for, and when the checkpoint changed.

    Raises:
        BulletError: the checkpoint or the configuration cannot be read.
    """
    from bulletlm.train.checkpoint import load_checkpoint

    source, target = run / "checkpoints" / version, own_folder(run) / "checkpoints" / version
    written = read_record(source / "state.json").get("sha256")
    if (target / MANIFEST).is_file() and read_record(target.with_suffix(".json")).get("sha256") == written:
        return target
    config = configuration(run)
    if config is None:
        raise BulletError(f"the configuration of {run.name} cannot be read")
    found = load_checkpoint(source)
    tokenizer = Tokenizer.load(run / "tokenizer" / "tokenizer.model")
    shape = config.model.shape(tokenizer.vocab_size)
    tensors = {name: found.tensors["model"][name].float().numpy() for name in shape.tensors()}
    write_npy(target, shape, tensors, tokenizer.proto, _metadata(config, run, found.state))
    write_json(target.with_suffix(".json"), {"sha256": written})
    return target


def _metadata(config: Config, run: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of a checkpoint says about itself, as the export stage does."""
    train = read_record(run / "tokens" / "index.json").get("train")
    languages = train.get("by_language") if isinstance(train, dict) else None
    training = {name: value for name, value in state.items() if name in ("step", "val_loss", "weights", "tokens_seen")}
    return {
        "name": config.name,
        "license": config.license,
        "languages": sorted(languages) if isinstance(languages, dict) else [],
        "sampling": config.sampling.model_dump(mode="json"),
        "training": training,
    }


class ModelCache:
    """Loads models, and keeps the last few in memory until their files change."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[Path, int], Model] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> Model:
        """The model at `path`, a .bullet file or a folder of tensors.

        Raises:
            BulletError: it cannot be loaded.
        """
        changed = (path / MANIFEST if path.is_dir() else path).stat().st_mtime_ns
        with self._lock:
            model = self._models.pop((path, changed), None)
            if model is None:
                from bulletlm.runtime.native import Broken, Unavailable, working_path

                engine = "auto"
                if path.is_dir():  # FP32 weights: the native engine is faster, if there is one
                    try:
                        engine = "native" if working_path(False)[0] else "numpy"
                    except (Broken, Unavailable):
                        engine = "numpy"
                model = load(path, engine=engine)
            self._models[path, changed] = model
            while len(self._models) > KEPT_MODELS:
                self._models.popitem(last=False)
            return model


@dataclass(frozen=True)
class Piece:
    """A generated token: its text, its probability, and the likeliest tokens in its place with theirs."""

    text: str
    probability: float
    others: tuple[tuple[str, float], ...]


@dataclass
class Answer:
    """An answer that grows while it is generated; other threads may read it.

    Attributes:
        pieces: the tokens so far.
        note: what was left out of the prompt; "" if nothing was.
        error: why it could not be generated; "" if it could.
        seconds: how long it took; None while it is generated.
        stopped: set it to end the answer early.
    """

    pieces: list[Piece] = field(default_factory=list)
    note: str = ""
    error: str = ""
    seconds: float | None = None
    stopped: bool = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(piece.text for piece in list(self.pieces))


def generate(
    load_model: Callable[[], Model], messages: Sequence[Mapping[str, str]], sampling: Sampling, answer: Answer, alternatives: int = 4
) -> None:
    """Answer a conversation; the tokens appear in `answer` as they are generated.

    Args:
        load_model: gives the model.
        messages: role and content; the last one is the user's.
        sampling: how tokens are chosen.
        answer: receives tokens, or the error.
        alternatives: likeliest tokens to give for each token.
    """
    import math
    import time

    try:
        model = load_model()
        prompt = chat_prompt(model, messages, sampling.max_tokens)
        answer.note = prompt.note(model) or ""
        started = time.perf_counter()
        for token in Session(model).generate(prompt.ids, sampling, keep=prompt.keep, logprobs=min(alternatives, model.shape.vocab_size)):
            others = tuple((model.tokenizer.decode([other]), math.exp(value)) for other, value in token.top)
            answer.pieces.append(Piece(token.text, math.exp(token.logprob or 0.0), others))
            if answer.stopped:
                break
        answer.seconds = time.perf_counter() - started
    except (BulletError, OSError) as error:  # the model may have been deleted in the meantime
        answer.error = str(error)
        answer.seconds = 0.0
