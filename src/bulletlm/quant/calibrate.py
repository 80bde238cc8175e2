"""Quantizes the FP32 tensors of a model, one matrix after another, with calibration text.

Two copies of the network read the same windows of text: FP32, and the one whose earlier matrices are already quantized.
Each matrix is fitted to the inputs that it gets in the quantized network, and to the outputs of the FP32 network at the
same place. Where the output is added to the hidden state, the error of the hidden state so far is added to the target, so
that later matrices compensate the error of earlier ones. Memory holds the hidden states of both copies, and one layer and
the statistics of one group of matrices at a time.

numpy only.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bulletlm.errors import BulletError, DataError
from bulletlm.progress import Progress
from bulletlm.quant import forward, gptq
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.quant.curvature import output_curvature
from bulletlm.shape import ModelShape

Floats = npt.NDArray[np.float32]
Tensor = Floats | Quantized

METHODS = ("none", "search", "gptq")
"""How BQ4 scales and codes are chosen: largest / -8 (ggml's Q4_0); searched scales; the full method of gptq.py."""

CURVATURE_TOKENS = 8_192
"""Calibration tokens whose gradients weight the errors of the outputs (curvature.py)."""

TOKENS_PER_PASS = 2_048
"""Positions that go through a layer together; limits the memory of the values inside a layer."""


class Group(NamedTuple):
    """Matrices of a layer with the same input, the function that computes it, and whether their output is added to the hidden state."""

    inputs: Callable[[Floats, forward.Weights, ModelShape], Floats]
    matrices: tuple[str, ...]
    adds: bool


GROUPS = (
    Group(forward.attention_input, ("attention.q_proj.weight", "attention.k_proj.weight", "attention.v_proj.weight"), False),
    Group(forward.output_input, ("attention.o_proj.weight",), True),
    Group(forward.mlp_input, ("mlp.gate_proj.weight", "mlp.up_proj.weight"), False),
    Group(forward.down_input, ("mlp.down_proj.weight",), True),
)


@dataclass(frozen=True)
class TensorReport:
    """The errors that rounding made in a matrix.

    relative_rmse: root mean square of (rounded - FP32) / root mean square of FP32.
    output_error: mean square error of its outputs in the quantized network against the target, as a share of the target's mean
    square, over the calibration text; output_error_rtn: the same if this matrix were rounded to nearest. None without
    calibration text. seconds: time spent on quantizing it.
    """

    type: str
    relative_rmse: float
    output_error: float | None
    output_error_rtn: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass
class Calibrated:
    """`tensors`: what write_bullet takes. `report`: one row a matrix. `tokens`: how many were used for calibration."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    report: dict[str, TensorReport] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True)
class Moments:
    """Statistics of calibration text for matrices of R rows with inputs x and target outputs y.

    hessian: E[x x^T], float64[n, n]. cross: E[y x^T], float64[R, n]. energy: E[y^2], float64[R].
    """

    hessian: npt.NDArray[np.float64]
    cross: npt.NDArray[np.float64]
    energy: npt.NDArray[np.float64]

    @classmethod
    @forward.quiet
    def of(cls, pairs: Iterable[tuple[Floats, Floats]], pool: ThreadPoolExecutor) -> "Moments":
        """Average over pairs of float32[..., R] outputs y and float32[..., n] inputs x.

        Raises:
            BulletError: an input or output is NaN or infinite.
        """
        sums: list[Any] = [0.0, 0.0, 0.0]
        count = 0
        for outputs, inputs in pairs:
            y, x = outputs.reshape(-1, outputs.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
            products = pool.map(_product, (x.T, y.T), (x, x))
            for i, product in enumerate((*products, np.square(y).sum(axis=0))):
                sums[i] = sums[i] + product.astype(np.float64)
            count += len(x)
        if not all(np.isfinite(total).all() for total in sums):
            raise BulletError("the model computes infinite or undefined numbers on the calibration text: its training has diverged")
        return cls(*(total / count for total in sums))

    def rows(self, which: slice) -> "Moments":
        """Return the statistics of some of the rows."""
        return Moments(self.hessian, self.cross[which], self.energy[which])

    def output_error(self, rounded: Floats) -> float:
        """E |y - V x|^2 / E |y|^2 of V float32[R, n]; 0 if y is zero."""
        v = rounded.astype(np.float64)
        energy = float(self.energy.sum())
        error = energy + float(np.vdot(v @ self.hessian - 2 * self.cross, v))
        return max(error, 0.0) / energy if energy else 0.0


@forward.quiet
def _product(a: Floats, b: Floats) -> Floats:
    return a @ b


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """The options of quantization.

    Attributes:
        types: "BQ4", "BQ8", "F16" or "F32" for every tensor.
        method: one of METHODS. It applies to BQ4 matrices of the layers and an untied output matrix; the embedding and all
            other types are rounded to nearest.
        windows: calibration text, token ids int[count, length]; not needed for the method "none" or without BQ4 matrices.
    """

    types: Mapping[str, str]
    method: str
    windows: npt.NDArray[np.integer] | None = None


def quantize(shape: ModelShape, tensors: Mapping[str, Floats], options: QuantizeOptions, progress: Progress) -> Calibrated:
    """Convert every tensor to its weight type.

    The same inputs give the same bits with any number of processor cores.

    Args:
        shape: the model's shape.
        tensors: float32 arrays; they may be memory-mapped, and are not changed.
        options: weight types, method and calibration text.
        progress: shows the bar.

    Raises:
        DataError: a token of `windows` is not in the vocabulary, or there are none.
        BulletError: a tensor holds a number that is NaN, infinite or too large for its type.
    """
    types, method, windows = options.types, options.method, options.windows
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}")
    for name in shape.tensors():
        if not np.isfinite(tensors[name]).all():
            raise BulletError(f"the tensor {name} holds a number that is NaN or infinite: the training that made it has diverged")
    done = Calibrated()
    with progress.task("Quantizing", sum(len(extents) > 1 for extents in shape.tensors().values())) as task:

        def finish(name: str, tensor: Tensor, report: TensorReport | None) -> None:
            done.tensors[name] = tensor
            if report:
                done.report[name] = report
                task.advance(1, name.removesuffix(".weight"))

        if method != "none" and "BQ4" in types.values():
            if windows is None or not windows.size:
                raise DataError("there is no calibration text: give some, or choose the method none")
            _check(windows, shape)
            done.tokens = windows.size
            # BLAS threads busy-wait for each other: with one other busy program this becomes ten times slower.
            # Two threads of our own are equally fast on an idle machine.
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(2) as pool:
                for row in _calibrate(_Network(shape, tensors, types, method), windows, pool, progress):
                    finish(*row)
        for name in shape.tensors():
            if name not in done.tensors:
                finish(name, *_plain(name, tensors[name], types[name]))
    done.tensors = {name: done.tensors[name] for name in shape.tensors()}
    return done


def dequantize(tensor: Tensor) -> Floats:
    """The float32 weights that a reader of the file sees."""
    return tensor.dequantize() if isinstance(tensor, Quantized) else tensor


def round_plainly(tensor: Floats, type: str) -> Tensor:
    """Round to nearest: ggml's rule for BQ4 and BQ8; F16 comes back as the float32 numbers that float16 holds.

    Raises:
        BulletError: a number is too large for the type.
    """
    if type == "BQ4":
        return Quantized(type, quantize_bq4(tensor))
    if type == "BQ8":
        return Quantized(type, quantize_bq8(tensor))
    if type == "F16":
        with np.errstate(over="ignore"):
            halves = tensor.astype(np.float16)
        if not np.isfinite(halves).all():
            raise BulletError("a weight is too large for F16: store this tensor as F32")
        return halves.astype(np.float32)
    return tensor


Row = tuple[str, Tensor, TensorReport | None]


class _Network(NamedTuple):
    """The FP32 model and the weight types of its quantized tensors."""

    shape: ModelShape
    tensors: Mapping[str, Floats]
    types: Mapping[str, str]
    method: str


def _calibrate(network: _Network, windows: npt.NDArray[np.integer], pool: ThreadPoolExecutor, progress: Progress) -> Iterator[Row]:
    """The embedding, then each layer in order, then the output matrix if it is not tied."""
    shape, tensors, types, method = network
    curvature: dict[str, Floats] = {}
    if method == "gptq":
        curvature = output_curvature(shape, tensors, windows[: max(1, CURVATURE_TOKENS // windows.shape[1])], progress)
    embedding = tensors["token_embedding.weight"]
    rounded, report = _plain("token_embedding.weight", embedding, types["token_embedding.weight"])
    yield "token_embedding.weight", rounded, report
    exact, quantized = embedding[windows], dequantize(rounded)[windows]  # hidden states of both copies, [windows, length, dim]
    at_once = max(1, TOKENS_PER_PASS // windows.shape[1])
    chunks = [slice(at, at + at_once) for at in range(0, len(windows), at_once)]
    for n in range(shape.n_layers):
        prefix = f"layers.{n}."
        before = {name.removeprefix(prefix): np.asarray(tensors[name]) for name in shape.tensors() if name.startswith(prefix)}
        after = dict(before)
        for group in GROUPS:
            weights = np.concatenate([before[name] for name in group.matrices])

            def flow(chunk: slice, group: Group = group, weights: Floats = weights, layers: Any = (before, after)) -> tuple[Floats, Floats]:
                """Wanted outputs, float32[windows, length, R], and inputs, float32[windows, length, n]."""
                states = exact[chunk], quantized[chunk]
                a, b = pool.map(group.inputs, states, layers, (shape, shape))
                y = a @ weights.T
                if group.adds:
                    y += states[0] - states[1]
                return y, b

            moments = Moments.of(map(flow, chunks), pool)
            for name, tensor, report in _group(network, prefix, group.matrices, moments, curvature):
                yield name, tensor, report
                after[name.removeprefix(prefix)] = dequantize(tensor)
            if group.adds:
                new = after[group.matrices[0]]
                for chunk in chunks:
                    y, b = flow(chunk)
                    exact[chunk] = quantized[chunk] + y
                    quantized[chunk] += b @ new.T
    if not shape.tied_embeddings:
        gain, head = tensors["final_norm.weight"], tensors["lm_head.weight"]
        last = ((forward.head_input(exact[c], gain, shape) @ head.T, forward.head_input(quantized[c], gain, shape)) for c in chunks)
        yield from _group(network, "", ("lm_head.weight",), Moments.of(last, pool), curvature)


def _group(network: _Network, prefix: str, matrices: tuple[str, ...], moments: Moments, curvature: Mapping[str, Floats]) -> Iterator[Row]:
    """Quantize matrices that share their input. `moments` are those of all their rows, in order."""
    _, tensors, types, method = network
    at = 0
    for matrix in matrices:
        name = prefix + matrix
        weights = tensors[name]
        part = moments.rows(slice(at, at + len(weights)))
        at += len(weights)
        plain, rtn = _plain(name, weights, types[name], part)
        if types[name] != "BQ4":
            yield name, plain, rtn
            continue
        start = time.perf_counter()
        if method == "gptq":
            tensor = gptq.calibrated(gptq.corrected(weights, part.hessian, part.cross), part.hessian, curvature.get(name))
        else:
            tensor = gptq.search(weights, np.diag(part.hessian).astype(np.float32))
        report = tensor_report(weights, tensor, "BQ4", part, time.perf_counter() - start)
        yield name, tensor, replace(report, output_error_rtn=rtn.output_error if rtn else None)


def _plain(name: str, exact: Floats, type: str, moments: Moments | None = None) -> tuple[Tensor, TensorReport | None]:
    """Rounded to nearest; norm gains have no report."""
    start = time.perf_counter()
    try:
        tensor = round_plainly(exact, type)
    except BulletError as error:
        raise BulletError(f"the tensor {name} cannot be quantized: {error}") from None
    if exact.ndim == 1:
        return tensor, None
    return tensor, tensor_report(exact, tensor, type, moments, time.perf_counter() - start)


def tensor_report(exact: Floats, tensor: Tensor, type: str, moments: Moments | None = None, seconds: float = 0.0) -> TensorReport:
    """The errors of rounding the float32 matrix `exact` to `tensor`; with `moments` also those of its outputs."""
    rounded = dequantize(tensor)
    scale = float(np.sqrt(np.mean(np.square(exact), dtype=np.float64)))
    rmse = float(np.sqrt(np.mean(np.square(rounded - exact), dtype=np.float64)))
    error = moments.output_error(rounded) if moments else None
    return TensorReport(type, rmse / scale if scale else 0.0, error, error, seconds)


def _check(windows: npt.NDArray[np.integer], shape: ModelShape) -> None:
    low, high = int(windows.min()), int(windows.max())
    if low < 0 or high >= shape.vocab_size:
        raise DataError(
            f"the calibration text holds the token {low if low < 0 else high}, but the model has {shape.vocab_size:,} tokens: "
            "it was made with another tokenizer"
        )
