"""How the arithmetic of a run is done: device, threads, precision, compiled or not. Chosen once, at the start (train/tune.py)."""

import contextlib
import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, ParamSpec

import torch
from torch import Tensor

from bulletlm.errors import BulletWarning, ConfigError
from bulletlm.hardware import cache_folder
from bulletlm.train.backend.native import Trainer
from bulletlm.train.backend.plan import ComputePlan
from bulletlm.train.model import Layer, Transformer

CPU = torch.device("cpu")

Arguments = ParamSpec("Arguments")
LossOf = Callable[[Tensor, Tensor], Tensor]
AccumulateGradients = Callable[[Tensor, Tensor, float], float]


@dataclass(frozen=True)
class Compute:
    """The choices, in the form in which the loop uses them.

    Attributes:
        accumulate_gradients: (tokens, targets, count), int64 (B, T) on the model's device -> their summed loss / count, in nats;
            its gradients are added to those of the weights.
        load_weights: to be called before `accumulate_gradients` whenever the weights have changed.
        micro_batch: sequences in one forward and backward pass.
        description: all of it in words.
        device: where the model is.
    """

    accumulate_gradients: AccumulateGradients
    load_weights: Callable[[], None]
    micro_batch: int
    description: str
    device: torch.device = CPU

    def pass_size(self, sequences: int) -> int:
        """Sequences in one pass: the largest divisor of `sequences` up to `micro_batch`, so that all passes have the same size."""
        return max(n for n in range(1, self.micro_batch + 1) if sequences % n == 0)


def pick_device(wanted: Literal["auto", "cpu", "cuda", "mps"]) -> torch.device:
    """The device of a run: with "auto" a GPU that torch calls cuda, else Apple's mps, else the processor.

    Raises:
        ConfigError: a device was asked for that is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present[wanted]:
        raise ConfigError(f"train.device is {wanted!r}, but torch finds only {', '.join(n for n, there in present.items() if there)} here")
    return torch.device(wanted)


@contextlib.contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Inside, numbers nearer to 0 than 1e-38 count as 0.

    The attention of a trained model is full of them, and processors take a hundred times as long for each. Threads take this over
    from the one that starts them and nobody can tell them later, so torch's begin anew, here and at the end.
    """
    possible = torch.set_flush_denormal(True)
    end_worker_threads()
    try:
        if possible and platform.machine().lower() in ("x86_64", "amd64") and _keeps_denormals():
            warnings.warn(
                "torch's worker threads do not count denormal numbers as zero here, which slows training down as the model learns: "
                "compare with train.threads=1",
                BulletWarning,
                stacklevel=3,
            )
        yield
    finally:
        torch.set_flush_denormal(False)
        end_worker_threads()


def end_worker_threads() -> None:
    """End the threads with which torch computes for this one; its next operation starts others. (`torch.set_num_threads` does not.)

    Only GNU's OpenMP, which torch has on Linux, is asked: LLVM's would also forget how many there were to be.
    """
    if sys.platform == "linux":
        loaded = ctypes.CDLL(None)
        if hasattr(loaded, "omp_pause_resource_all") and not hasattr(loaded, "__kmpc_fork_call"):
            loaded.omp_pause_resource_all(2)  # omp_pause_hard


def _keeps_denormals() -> bool:
    """Whether any of the threads that share a long operation does."""
    smallest = torch.ones(torch.get_num_threads() << 16, dtype=torch.int32).view(torch.float32)
    return bool((smallest * 2).view(torch.int32).any())


def set_up(choice: ComputePlan, model: Transformer) -> Compute:
    """Put `choice` into force, in this process and for `model`."""
    device = model.rope.device
    activate(choice, model)
    if choice.precision == "int8":
        trainer = Trainer(model, choice.threads)
        return Compute(trainer.accumulate_gradients, trainer.load_weights, choice.micro_batch, str(choice))
    accumulate = _autograd(compiled_loss(model) if choice.compiled else model.loss)
    description = str(choice) if device.type == "cpu" else f"{choice}, on {device.type}"
    return Compute(accumulate, _nothing, choice.micro_batch, description, device)


def activate(choice: ComputePlan, model: Transformer) -> None:
    """The part of `set_up` that can be changed between two passes."""
    torch.set_num_threads(choice.threads)
    # What the native pass does not compute, such as validation, is FP32.
    model.compute_in("fp32" if choice.precision == "int8" else choice.precision)


def _autograd(loss_of: LossOf) -> AccumulateGradients:
    """torch's way: `loss_of` and autograd."""

    def accumulate_gradients(tokens: Tensor, targets: Tensor, count: float) -> float:
        loss = loss_of(tokens, targets) / count
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    return accumulate_gradients


def _nothing() -> None:
    """torch reads the weights themselves."""


def compiled_loss(model: Transformer) -> LossOf:
    """`model.loss` with the layers, and what comes after them, compiled.

    One graph serves all layers: a graph of the whole model runs no faster, and takes ten times as long to compile.
    """
    layer = compiled(run_layer)
    head = compiled(_run_head)

    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        return head(model, model.hidden(tokens, layer), targets)

    return loss_of


def compiled(function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """`function`, compiled when it is first called with arguments of some shape; what was compiled is kept in the user's cache folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    # Every precision, micro-batch and shape is a graph of its own; after the 8 of the default, torch would refuse the next.
    torch._dynamo.config.recompile_limit = 100
    return torch.compile(function, dynamic=False, fullgraph=True)


def run_layer(layer: Layer, x: Tensor, rope: Tensor) -> Tensor:
    """A call of a layer, as `Transformer.hidden` takes it."""
    return layer(x, rope)  # type: ignore[no-any-return]


def _run_head(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    return model.loss_of_hidden(hidden, targets)
