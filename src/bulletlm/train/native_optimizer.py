"""The optimizer step in the native library (train/native/update.h): gradient norm, clipping, AdamW, Muon, weight decay and moving average.

It computes what the optimizers of `build_optimizers`, `clip_grad_norm_` and `EMA.update` compute, with their settings and in their state,
so checkpoints do not depend on which of them takes a step. Muon's products are of 16-bit integers: its updates differ from those in
float32 by less than 1 %.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bulletlm.errors import BulletError
from bulletlm.runtime.native import MEMORY
from bulletlm.train.backend.native import library, optimizer_paths
from bulletlm.train.ema import EMA
from bulletlm.train.muon import Muon


class _Parameter(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "first", "second", "average")),
        *((name, ctypes.c_int64) for name in ("rows", "columns")),
        *((name, ctypes.c_double) for name in ("learning_rate", "weight_decay")),
    ]


class _Update(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_double)
        for name in ("gradient_scale", "beta1", "beta2", "eps", "correction1", "correction2", "momentum", "average_weight")
    ]


class NativeOptimizer:
    """Takes the steps of torch optimizers on the CPU.

    Args:
        model: its parameters are contiguous float32, with a multiple of 32 elements each.
        optimizers: torch.optim.AdamW and perhaps Muon, for all parameters. Their settings are read at every step, and their state
            remains theirs.
        path: one of `optimizer_paths()`; None is the first. Different instruction sets round sums differently.

    Raises:
        Unavailable: see `optimizer_paths`.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], path: str | None = None) -> None:
        self._library = library()
        self.path = path or optimizer_paths()[0]
        owners = {weight: (optimizer, group) for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]}
        self._parameters = [(name, weight, *owners[weight]) for name, weight in model.named_parameters()]
        self._scale = 1.0

    def clip(self, limit: float) -> float:
        """The global norm of the gradients; the next step scales them down to `limit` if it is larger."""
        norm = ctypes.c_double()
        parameters = (_Parameter * len(self._parameters))()
        for entry, (_, weight, _, _) in zip(parameters, self._parameters, strict=True):
            assert weight.grad is not None
            entry.gradient = _address(weight.grad)
            entry.rows, entry.columns = _extents(weight)
            entry.second = 1  # any address: the norm of a vector or of a matrix with few columns is wanted too
        self._check(
            self._library.bullet_gradient_norm(self.path.encode(), parameters, len(parameters), torch.get_num_threads(), ctypes.byref(norm))
        )
        self._scale = min(1.0, limit / (norm.value + 1e-6))
        return norm.value

    def step(self, ema: EMA | None = None, ema_decay: float = 0.0) -> None:
        """One step with the gradients scaled as the last `clip` decided; they become zero.

        Args:
            ema: receives the new weights, with `ema_decay` as the decay; None: no average is kept.

        Raises:
            BulletError: out of memory.
        """
        parameters = (_Parameter * len(self._parameters))()
        update = _Update(gradient_scale=self._scale, average_weight=1 - ema_decay)
        for entry, (name, weight, optimizer, group) in zip(parameters, self._parameters, strict=True):
            state = optimizer.state[weight]
            if isinstance(optimizer, Muon):
                first, second = self._state(state, weight, "momentum"), None
                update.momentum = group["momentum"]
            else:
                first, second = self._state(state, weight, "exp_avg"), self._state(state, weight, "exp_avg_sq")
                state.setdefault("step", torch.tensor(0.0)).add_(1)
                self._adamw(update, group, float(state["step"]))
            assert weight.grad is not None
            entry.weight, entry.gradient, entry.first = _address(weight.data), _address(weight.grad), _address(first)
            entry.second = None if second is None else _address(second)
            entry.average = _address(ema.average[name]) if ema else None
            entry.rows, entry.columns = _extents(weight)
            entry.learning_rate, entry.weight_decay = group["lr"], group["weight_decay"]
        self._check(
            self._library.bullet_optimizer_step(
                self.path.encode(), parameters, len(parameters), ctypes.byref(update), torch.get_num_threads()
            )
        )
        self._scale = 1.0

    @staticmethod
    def _state(state: dict[str, Any], weight: Tensor, part: str) -> Tensor:
        if part not in state:
            state[part] = torch.zeros_like(weight)
        tensor: Tensor = state[part]
        return tensor

    @staticmethod
    def _adamw(update: _Update, group: dict[str, Any], step: float) -> None:
        update.beta1, update.beta2 = group["betas"]
        update.eps = group["eps"]
        update.correction1, update.correction2 = 1 - update.beta1**step, 1 - update.beta2**step

    @staticmethod
    def _check(result: int) -> None:
        if result == MEMORY:
            raise BulletError("there is not enough memory for an optimizer step: close other programs or train a smaller model")
        if result:
            raise RuntimeError(f"the native training library rejected the parameters ({result})")


def _extents(weight: Tensor) -> tuple[int, int]:
    """Rows and columns; a vector is one row."""
    rows, columns = (1, weight.numel()) if weight.dim() == 1 else weight.shape
    return rows, columns


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous() and tensor.dtype == torch.float32
    return tensor.data_ptr()
