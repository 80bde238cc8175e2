"""Exponential moving average of the weights. It is often the better model, and its loss varies less from step to step."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `average = d * average + (1 - d) * weight` for every parameter, in float32.

    The first steps use d = min(decay, (1 + t) / (10 + t)), so that the random initial weights have little influence soon.

    Args:
        model: starts the average.
        decay: the largest d, per step.

    Attributes:
        start: number of the step from which t counts.
        average: float32 tensors by parameter name, each of the shape of its parameter.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.start = 0
        self.average = {name: weight.detach().float().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Replace the average by the present weights."""
        for name, weight in model.named_parameters():
            self.average[name].copy_(weight)

    def decay_at(self, step: int) -> float:
        """The decay d of the average at optimizer step number `step`; the first step is 1."""
        since = step - self.start
        return min(self.decay, (1 + since) / (10 + since))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after optimizer step number `step` to the average; the first step is 1."""
        averages, weights = [], []
        for name, weight in model.named_parameters():
            averages.append(self.average[name])
            weights.append(weight.detach().float())
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(step))

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Context in which the model has the averaged weights; afterwards it has its own again, bit for bit."""
        own: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, weight in model.named_parameters():
                own[name] = weight.detach().clone()
                weight.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    weight.copy_(own[name])
