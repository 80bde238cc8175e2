"""Gradients of matrix products in 8-bit integers, which many processors multiply four times as fast as floats (VNNI).

y = x W^T stays FP32; the products of its gradients, dx = g W and dW = g^T x, are made of factors that are int8 times one scale a
row. The sums are exact int32, so all that is lost is what rounding the factors loses. This is for the QAT stage, whose predictions
must be exact; training rounds likewise, in its predictions too (train/native).

What keeps it near to FP32 (docs/training-speed.md has the measurement):

* Weights and activations are rounded to nearest, gradients so that they are right on average: a number between two steps goes
  up as often as it is near the upper one. Rounded to nearest, the many small gradients of a row would all vanish beside a
  large one.
* What decides up or down is a hash of the number's own bits, so that the same numbers give the same bytes in every process.
* The gradient of the logits is one large number a row among thousands of tiny ones: it is cut into two int8 digits, 15 bits.

int8 training with a scale a row, and rounding up or down at random: Wortsman et al. 2023, arXiv:2304.13013; Gupta et al. 2015,
arXiv:1502.02551.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 127
"""-128 is left out, so that the grid is symmetric."""

DIGIT = 254
"""Steps of the second digit in one of the first; half of them above, half below."""

GOLDEN = -1640531527
"""2^32 / golden ratio, odd: the multiplier of Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4)."""


def linear(x: Tensor, weight: Tensor, two_bytes: bool = False) -> Tensor:
    """x W^T, with its gradients in int8.

    Args:
        x: float32 (..., inputs).
        weight: float32 (outputs, inputs).
        two_bytes: give the gradient that comes back 15 bits, at the price of two products more.

    Returns:
        float32 (..., outputs).
    """
    return _Linear.apply(x, weight, two_bytes)  # type: ignore[no-any-return, no-untyped-call]


def products_are_exact() -> bool:
    """Whether torch multiplies int8 without saturating here; the products of some processors without VNNI do not."""
    ones = torch.full((16, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(ones, -ones.T) == -64 * LARGEST**2).all())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, two_bytes: bool) -> Tensor:
        ctx.save_for_backward(*_nearest(x.reshape(-1, x.shape[-1])), *_nearest(weight))
        ctx.shape, ctx.two_bytes = x.shape, two_bytes
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        # The scales that would stand inside of a sum go into the gradient before it is rounded.
        steps, scale, weight_steps, weight_scale = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        to_input = _product(gradient * weight_scale.T, weight_steps, ctx.two_bytes)
        to_weight = _product((gradient * scale).T, steps, ctx.two_bytes)
        return to_input.view(ctx.shape), to_weight, None


def _product(gradient: Tensor, steps: Tensor, two_bytes: bool) -> Tensor:
    """gradient (n, k) float32 times steps (k, m) int8, float32 (n, m)."""
    largest = _largest(gradient)
    exact, scale = gradient * (LARGEST / largest), largest * (1 / LARGEST)
    if not two_bytes:
        return torch._int_mm(_round_stochastically(exact, gradient), steps).float() * scale
    first = exact.round()
    second = _round_stochastically((exact - first) * DIGIT, gradient)
    return (torch._int_mm(first.to(torch.int8), steps).float() + torch._int_mm(second, steps).float() * (1 / DIGIT)) * scale


def _largest(x: Tensor) -> Tensor:
    """Of each row, (rows, 1), and never 0."""
    return x.abs().amax(1, keepdim=True).clamp_min(1e-30)


def _nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Steps, int8, and their size for each row, (rows, 1)."""
    largest = _largest(x)  # multiplying by its inverse is many times faster than dividing by it
    return (x * (LARGEST / largest)).round().to(torch.int8), largest * (1 / LARGEST)


def _round_stochastically(steps: Tensor, source: Tensor) -> Tensor:
    """Round numbers within +-LARGEST up or down, in the mean to the number itself; the bits of `source` decide."""
    # A little less than -1/2 ... 1/2: 127 and a half would be rounded to 128, which wraps round to -128.
    noise = (source.view(torch.int32) * GOLDEN >> 8).float() * (2.0**-24 - 2.0**-37)
    return (steps + noise).round().to(torch.int8)
