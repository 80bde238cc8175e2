"""Gradients of matrix products in 8-bit integers, which CPUs with VNNI multiply four times as fast as FP32.

y = x W^T stays FP32. The products of its gradients, dx = g W and dW = g^T x, have factors that are encoded as int8 codes with one
FP32 scale for each row. Sums of products of codes are exact in int32, so the only error is that of rounding the factors to codes.
The QAT stage uses this, because its predictions must be exact; the native training library (train/native) rounds in the same way,
and in its predictions too.

How each factor is rounded (docs/training.md has measurements):

* Weights and activations to the nearest code: an error of at most scale / 2 for each number, where scale is the largest magnitude
  of the row / 127.
* Gradients stochastically: up with a probability equal to the fractional part, so the expected value is the number itself
  (unbiased). The error of one number is less than scale. Rounded to nearest, the many small gradients in a row with one large
  gradient would all become 0.
* The random bits are a hash of the number's own bits, so that the same numbers give the same bytes in every process.
* The gradient of the logits has one large number in a row of thousands of tiny ones. It is encoded in two int8 codes, a high and
  a low byte, with an error of less than scale / 254: about 15 bits.

int8 training with a scale for each row: Wortsman et al. 2023, arXiv:2304.13013; stochastic rounding: Gupta et al. 2015,
arXiv:1502.02551.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 127
"""Largest magnitude of a code. -128 is not used, so that the codes are symmetric."""

LOW_CODES = 254
"""Number of steps of the low byte in one step of the high byte; half of them are above it and half below."""

GOLDEN = -1640531527
"""2^32 / golden ratio, odd, as int32: the multiplier of Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4)."""


def linear(x: Tensor, weight: Tensor, two_bytes: bool = False) -> Tensor:
    """x W^T, whose gradients are computed in int8.

    Args:
        x: float32 (..., inputs).
        weight: float32 (outputs, inputs).
        two_bytes: encode the incoming gradient in a high and a low byte (15 bits), which needs twice as many products.

    Returns:
        float32 (..., outputs), exactly `torch.nn.functional.linear(x, weight)`.
    """
    return _Linear.apply(x, weight, two_bytes)  # type: ignore[no-any-return, no-untyped-call]


def products_are_exact() -> bool:
    """Whether torch multiplies int8 without saturation on this CPU; some CPUs without VNNI saturate sums of two products to int16."""
    ones = torch.full((16, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(ones, -ones.T) == -64 * LARGEST**2).all())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, two_bytes: bool) -> Tensor:
        ctx.save_for_backward(*_round_to_nearest(x.reshape(-1, x.shape[-1])), *_round_to_nearest(weight))
        ctx.shape, ctx.two_bytes = x.shape, two_bytes
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        # A scale that differs within a sum cannot be applied after it, so it is multiplied into the gradient before rounding.
        codes, scale, weight_codes, weight_scale = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        to_input = _product(gradient * weight_scale.T, weight_codes, ctx.two_bytes)
        to_weight = _product((gradient * scale).T, codes, ctx.two_bytes)
        return to_input.view(ctx.shape), to_weight, None


def _product(gradient: Tensor, codes: Tensor, two_bytes: bool) -> Tensor:
    """gradient (n, k) float32 times codes (k, m) int8, float32 (n, m)."""
    largest = _largest(gradient)
    exact, scale = gradient * (LARGEST / largest), largest * (1 / LARGEST)
    if not two_bytes:
        return torch._int_mm(_round_stochastically(exact, gradient), codes).float() * scale
    high = exact.round()
    low = _round_stochastically((exact - high) * LOW_CODES, gradient)
    return (torch._int_mm(high.to(torch.int8), codes).float() + torch._int_mm(low, codes).float() * (1 / LOW_CODES)) * scale


def _largest(x: Tensor) -> Tensor:
    """Largest magnitude in each row of x (rows, columns), at least 1e-30; float32 (rows, 1)."""
    return x.abs().amax(1, keepdim=True).clamp_min(1e-30)


def _round_to_nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of x (rows, columns) float32, int8 of the same shape, and the scale of each row, float32 (rows, 1)."""
    largest = _largest(x)  # multiplying by the inverse is many times faster than dividing
    return (x * (LARGEST / largest)).round().to(torch.int8), largest * (1 / LARGEST)


def _round_stochastically(exact: Tensor, source: Tensor) -> Tensor:
    """Round numbers to a neighbouring integer so that the expected value is the number itself.

    Args:
        exact: float32 within +-LARGEST.
        source: float32 of the same shape; a hash of its bits replaces random numbers.

    Returns:
        int8 of the same shape; the error of each number is less than 1.
    """
    # The noise is slightly narrower than -1/2 ... 1/2: 127.5 would be rounded to 128, which wraps round to -128.
    noise = (source.view(torch.int32) * GOLDEN >> 8).float() * (2.0**-24 - 2.0**-37)
    return (exact + noise).round().to(torch.int8)
