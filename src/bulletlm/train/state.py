"""Everything that changes during a run: weights, optimizer state, moving average, position. A checkpoint holds exactly this."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bulletlm.config.schema import TrainConfig
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.backend.native import optimizer_problem
from bulletlm.train.checkpoint import Checkpoint, checkpoint_size, newest_checkpoint, save_checkpoint, step_folder
from bulletlm.train.dead_units import restart_dead_units
from bulletlm.train.distributed.group import ProcessGroup
from bulletlm.train.ema import EMA
from bulletlm.train.model import Transformer
from bulletlm.train.native_optimizer import NativeOptimizer
from bulletlm.train.optimizer import build_optimizers, optimizer_tensors, restore_optimizers


class Position(Protocol):
    """How far a run is, and what it has to remember besides tensors.

    Attributes:
        step: number of completed optimizer steps.
    """

    step: int

    def batch(self) -> int:
        """Number of the effective batch that the next step uses."""

    def optimizer_step(self) -> int:
        """Number of steps that the optimizers have taken."""

    def to_json(self) -> dict[str, Any]:
        """The entries of state.json, as JSON values."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The position from the entries of state.json; other entries are ignored."""


AnyPosition = TypeVar("AnyPosition", bound=Position)


@dataclass
class TrainPosition:
    """The position of a training on text.

    Attributes:
        step: number of completed optimizer steps.
        evaluated_step: step of the last evaluation; -1 before the first one.
        best_step: step of the best evaluation; -1 before the first one.
        best_loss: its loss in nats per token.
        best_weights: which weights had that loss, "raw" or "ema".
        worse_in_a_row: number of evaluations since the best one.
        recent_losses: losses of the last steps in nats per token; they show what a usual loss is.
        backoff_level: index into guard.rollback.LR_BACKOFF; state.json calls it "rung".
        skipped: numbers of the effective batches that are left out, ascending.
        rollbacks: the rollbacks so far, as in metrics.jsonl.
        schedule_start: step from which the schedule, the optimizer and the average count; more than 0 if an extended run began a new
            warm-up there. state.json has it only then.
    """

    step: int = 0
    evaluated_step: int = -1
    best_step: int = -1
    best_loss: float | None = None
    best_weights: str = "raw"
    worse_in_a_row: int = 0
    recent_losses: list[float] = field(default_factory=list)
    backoff_level: int = 0
    skipped: list[int] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    schedule_start: int = 0

    def batch(self, back: int = 0) -> int:
        """Number of the effective batch that the next step uses, or that the step `back` steps before it used."""
        number = self.step - back
        for skipped in self.skipped:
            number += skipped <= number
        return number

    def optimizer_step(self) -> int:
        """Number of steps that the optimizers have taken."""
        return self.step - self.schedule_start

    def to_json(self) -> dict[str, Any]:
        """The entries of state.json, as JSON values."""
        values = {"rung" if name == "backoff_level" else name: value for name, value in asdict(self).items()}
        if not self.schedule_start:
            del values["schedule_start"]
        return {"position": values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The position from the entries of state.json; other entries are ignored."""
        named = dict(values["position"])
        level = named.pop("rung")
        return cls(**named, backoff_level=level)


class TrainState(Generic[AnyPosition]):
    """A run at one moment.

    Args:
        model: already on its device.
        config: settings of the optimizers and of the moving average.
        position: where the run starts.
        key: fingerprint of everything that decides the result. A checkpoint with another key belongs to another run.

    Attributes:
        optimizers: hold settings and state; they also take the steps if `native` is None.
        native: takes the steps in the native library; None if that is not possible here, and `optimizer_problem` says why.
    """

    def __init__(self, model: Transformer, config: TrainConfig, position: AnyPosition, key: str) -> None:
        self.model, self.position, self.key = model, position, key
        self.optimizers = build_optimizers(model, config)
        self.optimizer_problem = optimizer_problem(model.rope.device.type)
        self.native = None if self.optimizer_problem else NativeOptimizer(model, self.optimizers)
        self.ema = EMA(model, config.ema_decay) if config.ema_decay else None

    @property
    def optimizer_description(self) -> str:
        """What takes the steps, in words."""
        return f"optimizer native ({self.native.path})" if self.native else f"optimizer in torch ({self.optimizer_problem})"

    def weights(self, which: str = "raw") -> dict[str, Tensor]:
        """The "raw" weights of the model or their moving average, "ema": float32 tensors by parameter name, not copies."""
        if which == "ema":
            assert self.ema
            return self.ema.average
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace the weights and their average by float32 arrays, by parameter name."""
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(torch.tensor(weights[name]))
        if self.ema:
            self.ema.restart(self.model)

    def restart_dead_units(self, seed: int) -> int:
        """Give units that cannot learn new weights (`dead_units`); returns their number."""
        units = restart_dead_units(self.model, seed)
        if self.ema:
            self.ema.restart(self.model)
        return units

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters())

    def size(self) -> int:
        """Upper bound for the size of a checkpoint in bytes."""
        return checkpoint_size(self.model)

    def checkpoint(self) -> Checkpoint:
        """The whole state; the tensors are those of the run, not copies."""
        tensors = {"model": self.weights(), "optimizer": optimizer_tensors(self.optimizers, self.model)}
        if self.ema:
            tensors["ema"] = self.ema.average
        return Checkpoint(tensors, {"key": self.key, **self.position.to_json()})

    def save(self, checkpoints: Path) -> None:
        """Write the checkpoint of this step.

        Raises:
            BulletError: the disk is full or not writable.
        """
        save_checkpoint(step_folder(checkpoints, self.position.step), self.checkpoint())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Replace the whole state by the one in `checkpoint`."""
        self.position = self.position.from_json(checkpoint.state)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(checkpoint.tensors["model"][name])
        restore_optimizers(self.optimizers, self.model, checkpoint.tensors["optimizer"], self.position.optimizer_step())
        if self.ema:
            self.ema.average = {name: average.to(self.model.rope.device) for name, average in checkpoint.tensors["ema"].items()}

    def copy_from_main(self, group: ProcessGroup) -> None:
        """Replace the whole state by that of the group's main process.

        Raises:
            ProcessLost: another process has ended or does not answer.
        """
        if group.size == 1:
            return
        self._choose_optimizer(group)
        own = self.checkpoint()
        sizes = {file: {name: list(tensor.shape) for name, tensor in tensors.items()} for file, tensors in own.tensors.items()}
        received = group.broadcast_object({"state": own.state, "sizes": sizes})
        tensors: dict[str, dict[str, Tensor]] = {}
        for file, names in received["sizes"].items():
            tensors[file] = {name: own.tensors[file][name].cpu() if group.is_main else torch.empty(size) for name, size in names.items()}
            for tensor in tensors[file].values():
                group.broadcast(tensor)
        if not group.is_main:
            self.restore(Checkpoint(tensors, received["state"]))

    def _choose_optimizer(self, group: ProcessGroup) -> None:
        """Take native steps only if all processes round alike: they must keep the same weights."""
        own = self.native.path if self.native else ""
        if group.sum(own != group.broadcast_object(own))[0]:
            self.native, self.optimizer_problem = None, "the processors of this group have different instruction sets"

    def resume(self, checkpoints: Path, restart: str, on_other_key: Callable[[Path], None], progress: Progress) -> bool:
        """Continue from the newest intact checkpoint. Damaged ones are reported and renamed.

        Args:
            checkpoints: folder with the checkpoints; it may be missing or empty.
            restart: how the user can start from the beginning, for the error message.
            on_other_key: receives the folder of a checkpoint of another run; it raises an error, or returns to start from the beginning.

        Returns:
            whether there was a checkpoint of this run.

        Raises:
            BulletError: there are checkpoints, but none is intact.
        """
        found = newest_checkpoint(checkpoints, restart, progress)
        if found is None:
            return False
        folder, checkpoint = found
        if checkpoint.state["key"] != self.key:
            on_other_key(folder)
            return False
        self.restore(checkpoint)
        progress.log(f"resuming from {folder}")
        return True


def initial_state(
    config: TrainConfig,
    shape: ModelShape,
    seed: int,
    device: torch.device,
    key: str = "",
    weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> TrainState[TrainPosition]:
    """The state before the first step of a training on text.

    Args:
        weights: initial weights by name, float32; None: random weights that depend on `seed` only.
    """
    model = Transformer(shape)
    model.initialize(seed)
    state = TrainState(model.to(device), config, TrainPosition(), key)
    if weights is not None:
        state.load_weights(weights)
    return state
