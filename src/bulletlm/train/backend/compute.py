"""Executes a compute plan: device, threads, precision, compiled or not."""

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
from bulletlm.train.backend.plan import Capabilities, ComputePlan
from bulletlm.train.model import Layer, Transformer

CPU = torch.device("cpu")

Arguments = ParamSpec("Arguments")
LossOf = Callable[[Tensor, Tensor], Tensor]
AccumulateGradients = Callable[[Tensor, Tensor, float], float]


@dataclass(frozen=True)
class Compute:
    """A compute plan in the form in which the training loop uses it.

    Attributes:
        accumulate_gradients: takes (tokens, targets, count): int64 (B, T) on the model's device, targets of IGNORE do not count,
            and the number by which the loss is divided. Returns the summed loss / count in nats; the gradients of that are
            added to the gradients of the weights, float32.
        load_weights: must be called before `accumulate_gradients` whenever the weights have changed.
        micro_batch: number of sequences in one forward and backward pass.
        description: the whole plan in words.
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
    """The device of a run. "auto" takes a GPU that torch calls cuda, otherwise Apple's mps, otherwise the CPU.

    Raises:
        ConfigError: the device that is configured does not exist.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present[wanted]:
        raise ConfigError(f"train.device is {wanted}, but torch finds only {', '.join(n for n, there in present.items() if there)} here")
    return torch.device(wanted)


@contextlib.contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Treat denormal numbers (magnitude below 1.2e-38) as 0 within the block.

    The attention weights of a trained model contain many of them, and processors take about a hundred times as long for each.
    A thread inherits this mode from the thread that starts it and it cannot be changed from outside later. Therefore torch's
    worker threads are ended, and started again with the next operation, at the begin and at the end of the block.
    """
    possible = torch.set_flush_denormal(True)
    end_worker_threads()
    try:
        if possible and platform.machine().lower() in ("x86_64", "amd64") and _keeps_denormals():
            warnings.warn(
                "torch's worker threads do not treat denormal numbers as zero here, which slows training down as the model learns: "
                "compare with train.threads=1",
                BulletWarning,
                stacklevel=3,
            )
        yield
    finally:
        torch.set_flush_denormal(False)
        end_worker_threads()


def end_worker_threads() -> None:
    """End the threads with which torch computes for the calling thread; the next operation starts new ones.

    `torch.set_num_threads` does not do this. Only GNU's OpenMP, which torch uses on Linux, is asked: LLVM's OpenMP would also
    forget how many threads were set.
    """
    if sys.platform == "linux":
        loaded = ctypes.CDLL(None)
        if hasattr(loaded, "omp_pause_resource_all") and not hasattr(loaded, "__kmpc_fork_call"):
            loaded.omp_pause_resource_all(2)  # omp_pause_hard


def _keeps_denormals() -> bool:
    """Whether any of the threads that share a long operation keeps denormal numbers."""
    smallest = torch.ones(torch.get_num_threads() << 16, dtype=torch.int32).view(torch.float32)
    return bool((smallest * 2).view(torch.int32).any())


def set_up(plan: ComputePlan, model: Transformer) -> Compute:
    """Apply `plan` to this process and to `model`.

    Raises:
        Unavailable, ConfigError, BulletError: as `Trainer`, in int8.
    """
    device = model.rope.device
    activate(plan, model)
    if plan.precision == "int8":
        trainer = Trainer(model, plan.threads)
        return Compute(trainer.accumulate_gradients, trainer.load_weights, plan.micro_batch, str(plan))
    accumulate = _autograd(compiled_loss(model) if plan.compiled else model.loss)
    description = str(plan) if device.type == "cpu" else f"{plan}, on {device.type}"
    return Compute(accumulate, _nothing, plan.micro_batch, description, device)


def activate(plan: ComputePlan, model: Transformer) -> None:
    """Apply only the number of threads and the precision, which may change between two passes."""
    torch.set_num_threads(plan.threads)
    # What the native library does not compute, such as validation, is FP32.
    model.compute_in("fp32" if plan.precision == "int8" else plan.precision)


def gradient_pass(plan: ComputePlan, model: Transformer) -> Callable[[], None]:
    """A function that runs forward and backward over one micro-batch, to try or to time `plan`; it leaves no gradients behind."""
    compute = set_up(plan, model)
    compute.load_weights()
    tokens = torch.arange(plan.micro_batch * model.shape.max_seq_len, device=model.rope.device).remainder(model.shape.vocab_size)
    tokens = tokens.view(plan.micro_batch, -1)

    def run() -> None:
        activate(plan, model)
        compute.accumulate_gradients(tokens, tokens, tokens.numel())
        model.zero_grad(set_to_none=True)

    return run


def compile_problem(run: Callable[[], object], model: Transformer, capabilities: Capabilities) -> str | None:
    """Compile what `run` calls by calling it once.

    The gradients of `model` are set to None.

    Returns:
        What went wrong, as one line; None if it works.
    """
    if capabilities.device == "cpu" and capabilities.machine.compiler is None:
        return "torch.compile needs a C++ compiler (install g++ or clang++)"
    try:
        run()
    # Tracer, code generator, compiler and cache raise exceptions of many types. A fault of the model itself shows again in eager mode.
    except Exception as error:
        cause = getattr(error, "inner_exception", error)
        return f"torch.compile failed ({next(iter(str(cause).splitlines()), type(cause).__name__)})"
    finally:
        model.zero_grad(set_to_none=True)
    return None


def _autograd(loss_of: LossOf) -> AccumulateGradients:
    """`Compute.accumulate_gradients` by torch: `loss_of` and autograd."""

    def accumulate_gradients(tokens: Tensor, targets: Tensor, count: float) -> float:
        loss = loss_of(tokens, targets) / count
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    return accumulate_gradients


def _nothing() -> None:
    """torch reads the weights themselves, so there is nothing to load."""


def compiled_loss(model: Transformer) -> LossOf:
    """`model.loss` with compiled layers and a compiled head: int64 (B, T) tokens and targets -> float32 scalar, nats.

    One graph serves all layers: a graph of the whole model is not faster and takes ten times as long to compile.
    """
    layer = compiled(run_layer)
    head = compiled(_run_head)

    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        return head(model, model.hidden(tokens, layer), targets)

    return loss_of


def compiled(function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """`function`, compiled at the first call with arguments of each shape.

    Compiled code is kept in the user's cache folder, or where TORCHINDUCTOR_CACHE_DIR points.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    # Every precision, micro-batch and shape has its own graph; with the default limit torch would refuse the ninth.
    torch._dynamo.config.recompile_limit = 100
    return torch.compile(function, dynamic=False, fullgraph=True)


def run_layer(layer: Layer, x: Tensor, rope: Tensor) -> Tensor:
    """Call `layer`, as `Transformer.hidden` needs it: x (B, T, dim) and the table of `rope_table` -> (B, T, dim)."""
    return layer(x, rope)  # type: ignore[no-any-return]


def _run_head(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    return model.loss_of_hidden(hidden, targets)
