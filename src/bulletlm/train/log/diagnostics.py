"""What is measured on the way besides losses, to see trouble coming."""

import math
from collections.abc import Iterator

import psutil
import torch
from torch import Tensor, nn

from bulletlm.train.model import Transformer

UPDATE_RATIO_EVERY_STEPS = 25
"""Steps between two measurements of `update_ratio`, which needs a copy of the weights."""


@torch.no_grad()
def copy_matrices(model: nn.Module) -> list[Tensor]:
    """The matrices of the model as they are now."""
    return [weight.detach().clone() for weight in _matrices(model)]


@torch.no_grad()
def update_ratio(before: list[Tensor], model: nn.Module) -> float:
    """Norm of what a step changed over the norm of the weights, all matrices together; about 1e-3 is usual at the peak rate."""
    now = list(_matrices(model))
    moved = sum(float((new - old).pow(2).sum()) for new, old in zip(now, before, strict=True))
    return math.sqrt(moved / max(1e-30, sum(float(old.pow(2).sum()) for old in before)))


@torch.no_grad()
def activation_rms(model: Transformer, tokens: Tensor) -> float:
    """Root mean square of the residual stream before the final norm, over token ids (B, T)."""
    seen: list[float] = []
    hook = model.final_norm.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].float().pow(2).mean().sqrt())))
    try:
        model(tokens)
    finally:
        hook.remove()
    return seen[0]


def memory_mb() -> float:
    """Resident memory of this process in megabytes."""
    return round(float(psutil.Process().memory_info().rss) / 1e6, 1)


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    return (weight for weight in model.parameters() if weight.dim() >= 2)
