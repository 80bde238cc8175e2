"""How the arithmetic of a run is done: threads, precision, compiled or not. Chosen once, at the start."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bulletlm.config import TrainConfig
from bulletlm.machine import inspect_machine, keep_memory
from bulletlm.model import Llama

COMPILE_FROM_FLOPS = 3e14
"""torch.compile costs 20-40 s and saves about a sixth: it pays from roughly this much arithmetic on."""


@dataclass(frozen=True)
class Compute:
    """The choices, in the form in which the loop uses them.

    Attributes:
        loss_of: (tokens, targets), int64 (B, T) -> summed loss in nats with gradients, as `Llama.loss`.
        bf16: whether matrix products run in bfloat16.
        description: the same in words.
    """

    loss_of: Callable[[Tensor, Tensor], Tensor]
    bf16: bool
    description: str

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Inside the block matrix products have the chosen precision."""
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()


def choose_compute(config: TrainConfig, model: Llama, tokens: int, processes: int = 1) -> Compute:
    """Set up this process, one of `processes` that share the cores, for a run over `tokens` training tokens."""
    keep_memory()
    machine = inspect_machine()
    torch.set_num_threads(config.threads or max(1, machine.cores // processes))
    bf16 = config.precision == "bf16" or (config.precision == "auto" and machine.has_bf16)
    flops = 6.0 * model.shape.n_parameters * tokens
    compiled = config.compile == "on" or (config.compile == "auto" and flops > COMPILE_FROM_FLOPS and machine.compiler is not None)
    loss_of = torch.compile(model.loss, dynamic=False) if compiled else model.loss
    return Compute(loss_of, bf16, f"{'bf16' if bf16 else 'fp32'}{', compiled' if compiled else ''}")
