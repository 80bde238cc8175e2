"""Fake quantization for quantization-aware training: the model computes with the rounded weights that its file would contain.

Rounding is that of `bulletlm.quant.bq4`, bit for bit (a test compares them), done once per optimizer step on all matrices and
outside the compiled graph. Gradients use the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): the gradient of a rounded
weight is applied to the exact one, also beyond the end of the range of codes.
"""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bulletlm.quant import calibrate
from bulletlm.quant.bq4 import Quantized, pack_bq4
from bulletlm.shape import BLOCK

BLOCKS_AT_ONCE = 4096
"""Blocks that are rounded together: 131,072 weights stay in the caches of the cores that share the work."""


class FakeQuant:
    """Fake quantization of a model.

    Args:
        model: parameters are named as in `types`; a tensor of a type other than F32 must be contiguous float32.
        types: "BQ4", "BQ8", "F16" or "F32" for every parameter.
        scales: fixed BQ4 scales, float32[..., n // 32] that float16 holds, for some parameters; those of the others follow the
            largest weight of each block.
    """

    def __init__(self, model: nn.Module, types: Mapping[str, str], scales: Mapping[str, Tensor] | None = None) -> None:
        self._weights = {name: weight for name, weight in model.named_parameters() if types[name] != "F32"}
        self._model, self._types, self._scales = model, dict(types), dict(scales or {})
        self._rounded = {name: torch.empty_like(weight.data) for name, weight in self._weights.items()}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the rounded weights; afterwards its own again, with the gradients of the rounded ones.

        A weight that is NaN, infinite or too large for its type becomes NaN or infinite.
        """
        exact = {name: weight.data for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.data = self._round(name, exact[name], self._rounded[name])
        try:
            yield
        finally:
            for name, weight in self._weights.items():
                weight.data = exact[name]

    def rounded(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Round other weights of this model, by name; those of type F32 are returned unchanged."""
        return {
            name: self._round(name, weight.contiguous(), torch.empty_like(weight)) if name in self._weights else weight
            for name, weight in weights.items()
        }

    def _round(self, name: str, weight: Tensor, out: Tensor) -> Tensor:
        round_to(self._types[name], weight, out, self._scales.get(name))
        return out

    def quantized(self) -> dict[str, calibrate.Tensor]:
        """The tensors that a file would contain now, by name: exactly the weights that the model has inside `applied`.

        Raises:
            BulletError: a weight is NaN, infinite or too large for its type.
        """
        tensors: dict[str, calibrate.Tensor] = {}
        for name, weight in self._model.named_parameters():
            values = weight.detach().cpu().clone()
            if name in self._scales:
                scales = self._scales[name].cpu()
                codes = _codes(values.view(-1, BLOCK), scales.reshape(-1, 1)).view_as(values)
                tensors[name] = Quantized("BQ4", pack_bq4((codes + 8).numpy().astype(np.uint8), scales.numpy().astype(np.float16)))
            else:
                tensors[name] = calibrate.round_plainly(values.numpy(), self._types[name])
        return tensors


@torch.no_grad()
def round_to(type: str, weights: Tensor, out: Tensor, scales: Tensor | None = None) -> None:
    """Write the values that `weights` (contiguous float32) have as "BQ4", "BQ8" or "F16" to `out`; `scales` as in FakeQuant."""
    if type == "F16":
        out.copy_(weights.half())
        return
    blocks, rounded = weights.view(-1, BLOCK), out.view(-1, BLOCK)
    fixed = None if scales is None else scales.reshape(-1, 1)
    for at in range(0, len(blocks), BLOCKS_AT_ONCE):
        part = slice(at, at + BLOCKS_AT_ONCE)
        if type == "BQ8":
            _round_bq8(blocks[part], rounded[part])
        elif fixed is None:
            _round_bq4(blocks[part], rounded[part])
        else:
            _codes(blocks[part], fixed[part], rounded[part]).mul_(fixed[part])


def _round_bq4(blocks: Tensor, out: Tensor) -> None:
    """float32 [b, 32] -> the values of `dequantize_bq4(quantize_bq4(blocks))`."""
    scales = _first_largest(blocks).div_(-8)
    torch.mul(blocks, _reciprocal(scales), out=out)
    out.add_(8.5).trunc_().clamp_(max=15).sub_(8).mul_(scales.half().float())


def _first_largest(blocks: Tensor) -> Tensor:
    """The number of largest magnitude in each row, the first one where several are equal: float32 [b, 32] -> [b, 1]."""
    # amax and amin are five times faster than max with indices, and leave only x and -x in one row undecided.
    high, low = blocks.amax(1, keepdim=True), blocks.amin(1, keepdim=True)
    largest = torch.where(high > -low, high, low)
    ties = (high == -low).squeeze(1).nonzero().squeeze(1)
    if len(ties):
        rows = blocks[ties]
        largest[ties] = rows.gather(1, rows.abs().max(1, keepdim=True).indices)
    return largest


def _codes(blocks: Tensor, scales: Tensor, out: Tensor | None = None) -> Tensor:
    """The nearest of -8 ... 7 to float32 [b, 32] / scales [b, 1], as float32; + 0 makes -0 to 0."""
    return torch.mul(blocks, _reciprocal(scales), out=out).round_().clamp_(-8, 7).add_(0.0)


def _round_bq8(blocks: Tensor, out: Tensor) -> None:
    """float32 [b, 32] -> the values of `dequantize_bq8(quantize_bq8(blocks))`."""
    # A tensor as divisor: CUDA multiplies by the rounded reciprocal of a plain number.
    scales = blocks.abs().amax(1, keepdim=True) / torch.full((), 127.0, device=blocks.device)
    exact = blocks * _reciprocal(scales)
    torch.trunc(exact, out=out)
    # An integer has one zero: + 0 makes -0 to 0.
    out.add_(exact.sub_(out).mul_(2).trunc_()).add_(0.0).mul_(scales.half().float())


def _reciprocal(scales: Tensor) -> Tensor:
    """1 / scale, and 0 where that is infinite (`bq4._reciprocal`)."""
    return scales.reciprocal().nan_to_num_(nan=float("nan"), posinf=0.0, neginf=0.0)
