"""Measurements besides losses that show early when training starts to diverge."""

import math
from collections.abc import Iterator

import psutil
import torch
from torch import Tensor, nn

from bulletlm.train.model import Transformer

UPDATE_RATIO_EVERY_STEPS = 25
"""Number of steps between two measurements of `update_ratio`, which needs a copy of the weights."""


@torch.no_grad()
def copy_matrices(model: nn.Module) -> list[Tensor]:
    """Copies of all matrices of the model, in the order of its parameters."""
    return [weight.detach().clone() for weight in _matrices(model)]


@torch.no_grad()
def update_ratio(before: list[Tensor], model: nn.Module) -> float:
    """Norm of the change since `before` over the norm of `before`, of all matrices together; about 1e-3 is usual at the peak learning rate.

    Args:
        before: what `copy_matrices` returned.
    """
    now = list(_matrices(model))
    moved = sum(float((new - old).pow(2).sum()) for new, old in zip(now, before, strict=True))
    return math.sqrt(moved / max(1e-30, sum(float(old.pow(2).sum()) for old in before)))


@torch.no_grad()
def activation_rms(model: Transformer, tokens: Tensor) -> float:
    """Root mean square of the residual stream before the final norm, for token ids int64 (B, T) on the device of the model."""
    seen: list[float] = []
    hook = model.final_norm.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].float().pow(2).mean().sqrt())))
    try:
        model(tokens)
    finally:
        hook.remove()
    return seen[0]


def memory_mb() -> float:
    """Resident memory of this process in MB (1e6 bytes)."""
    return round(float(psutil.Process().memory_info().rss) / 1e6, 1)


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    return (weight for weight in model.parameters() if weight.dim() >= 2)
