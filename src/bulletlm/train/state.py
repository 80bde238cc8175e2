"""All that changes during a run: weights, optimiser, average, position. It is what a checkpoint holds."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import BulletError
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.train.checkpoint import Checkpoint, checkpoint_size, newest_checkpoint, save_checkpoint, step_folder
from bulletlm.train.distributed.group import ProcessGroup
from bulletlm.train.ema import EMA
from bulletlm.train.model import Transformer
from bulletlm.train.optimizer import build_optimizers, optimizer_tensors, restore_optimizers


@dataclass
class Position:
    """Where a run is, stored in state.json.

    Attributes:
        step: optimiser steps done.
        worse_in_a_row: evaluations since the best one.
        recent_losses: of the last steps, for telling a jump from noise.
        backoff_level: index into guard.rollback.LR_BACKOFF; state.json calls it "rung".
        skipped: numbers of the effective batches that are left out.
        rollbacks: what went wrong so far, as in metrics.jsonl.
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

    def batch(self, back: int = 0) -> int:
        """Number of the effective batch that the next step learns from, or that the step `back` before that one did."""
        number = self.step - back
        for skipped in self.skipped:  # in ascending order
            number += skipped <= number
        return number

    def to_json(self) -> dict[str, Any]:
        """As JSON values, under the names that state.json uses."""
        values = asdict(self)
        values["rung"] = values.pop("backoff_level")
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        """From what `to_json` returned."""
        named = dict(values)
        level = named.pop("rung")
        return cls(**named, backoff_level=level)


class TrainState:
    """A run at one moment.

    Args:
        config: settings of the optimiser and the average.
        shape: of the model, which starts from `seed`.
        key: fingerprint of everything that decides the result; checkpoints of another key are refused.
        device: where all tensors are.
    """

    def __init__(self, config: TrainConfig, shape: ModelShape, seed: int, key: str, device: torch.device) -> None:
        self.key = key
        self.model = Transformer(shape)
        self.model.initialise(seed)
        self.model.to(device)
        self.optimizers = build_optimizers(self.model, config)
        self.ema = EMA(self.model, config.ema_decay) if config.ema_decay else None
        self.position = Position()

    def weights(self, which: str = "raw") -> dict[str, Tensor]:
        """The "raw" weights of the model or their moving average, "ema", by name."""
        if which == "ema":
            assert self.ema
            return self.ema.average
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def is_finite(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters())

    def size(self) -> int:
        """Bytes of a checkpoint."""
        return checkpoint_size(self.model)

    def checkpoint(self) -> Checkpoint:
        """Everything; the tensors are those of the run, not copies."""
        tensors = {"model": self.weights(), "optimizer": optimizer_tensors(self.optimizers, self.model)}
        if self.ema:
            tensors["ema"] = self.ema.average
        return Checkpoint(tensors, {"key": self.key, "position": self.position.to_json()})

    def save(self, checkpoints: Path) -> None:
        """Write the checkpoint of this step."""
        save_checkpoint(step_folder(checkpoints, self.position.step), self.checkpoint())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `checkpoint` holds."""
        self.position = Position.from_json(checkpoint.state["position"])
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(checkpoint.tensors["model"][name])
        restore_optimizers(self.optimizers, self.model, checkpoint.tensors["optimizer"], self.position.step)
        if self.ema:
            self.ema.average = {name: average.to(self.model.rope.device) for name, average in checkpoint.tensors["ema"].items()}

    def copy_from_main(self, group: ProcessGroup) -> None:
        """Become what the first process of the group is.

        Raises:
            ProcessLost: another process is gone.
        """
        if group.size == 1:
            return
        own = self.checkpoint()
        sizes = {file: {name: list(tensor.shape) for name, tensor in tensors.items()} for file, tensors in own.tensors.items()}
        told = group.broadcast_object({"state": own.state, "sizes": sizes})
        tensors: dict[str, dict[str, Tensor]] = {}
        for file, names in told["sizes"].items():
            tensors[file] = {name: own.tensors[file][name].cpu() if group.is_main else torch.empty(size) for name, size in names.items()}
            for tensor in tensors[file].values():
                group.broadcast(tensor)
        if not group.is_main:
            self.restore(Checkpoint(tensors, told["state"]))

    def resume(self, checkpoints: Path, progress: Progress) -> None:
        """Go to the newest checkpoint that is whole, if there are any; a damaged one is reported and set aside.

        Raises:
            BulletError: the checkpoint was made with other settings or data, or none is whole.
        """
        if found := newest_checkpoint(checkpoints, "train anew with --restart", progress):
            folder, checkpoint = found
            if checkpoint.state["key"] != self.key:
                raise BulletError(f"{folder} was trained with other settings or data: choose another --name, or train anew with --restart")
            self.restore(checkpoint)
            progress.log(f"resuming from {folder}")
