"""The native engine: the C library under native/, with the interface of the numpy engine and a generation loop in one call.

The library is optional (setup.py builds it where there is a compiler). `library` says why it cannot be used, if so.
"""

import ctypes
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.runtime.sampling import PENALTY_WINDOW, Sampling, biased
from bulletlm.shape import ModelShape

Floats = npt.NDArray[np.float32]
Ids = Sequence[int] | npt.NDArray[np.integer]

ABI = 2
TYPES = {"BQ4": 0, "BQ8": 1, "F16": 2, "F32": 3}
TOKEN, FULL, MEMORY, ARGUMENT, BUSY, NAN = -1, -2, -3, -4, -5, -6


class Unavailable(Exception):
    """There is no native engine on this computer; the message says why."""


class Broken(Unavailable):
    """There is one, but it computes wrong numbers."""


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len")),
        ("tied_embeddings", ctypes.c_int32),
        ("rope_theta", ctypes.c_double),
        ("norm_eps", ctypes.c_double),
    ]


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("type", ctypes.c_int32), ("unused", ctypes.c_int32)]


class _Sampler(ctypes.Structure):
    _fields_ = [
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_double) for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")),
        *((name, ctypes.c_uint64) for name in ("state_high", "state_low", "step_high", "step_low")),
        ("top_k", ctypes.c_int32),
        ("recent_count", ctypes.c_int32),
        ("recent", ctypes.c_int32 * PENALTY_WINDOW),
    ]


def library_path() -> str:
    """Where the C library is.

    Raises:
        Unavailable: it was not built.
    """
    spec = importlib.util.find_spec("bulletlm.runtime._native")
    if spec is None or spec.origin is None:
        raise Unavailable("it was not built, since there was no C compiler when bulletlm was installed")
    return spec.origin


@cache
def library() -> ctypes.CDLL:
    """The C library, with the types of its functions declared.

    Raises:
        Unavailable: it was not built, is of another version, or cannot be opened.
    """
    path = library_path()
    try:
        lib = ctypes.CDLL(path)
        lib.bullet_abi.restype = ctypes.c_int32
        abi = lib.bullet_abi()
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} cannot be opened: {error}") from None
    if abi != ABI:
        raise Unavailable(f"{path} is of another version: install bulletlm again")
    i32, i64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    functions: dict[str, tuple[Any, list[Any]]] = {
        "bullet_path": (ctypes.c_char_p, [i32]),
        "bullet_model_new": (i32, [pointer, pointer, i32, ctypes.c_char_p, i32, pointer]),
        "bullet_model_free": (None, [pointer]),
        "bullet_model_bytes": (i64, [pointer]),
        "bullet_cache_new": (i32, [pointer, i64, pointer]),
        "bullet_cache_free": (None, [pointer]),
        "bullet_cache_length": (i64, [pointer]),
        "bullet_cache_bytes": (i64, [pointer]),
        "bullet_cache_truncate": (i32, [pointer, i64]),
        "bullet_forward": (i32, [pointer, pointer, i64, i32, i32, pointer]),
        "bullet_score": (i32, [pointer, pointer, i64, i64, i32, pointer]),
        "bullet_generate": (i64, [pointer, pointer, i64, pointer, pointer, i64, i32, pointer, i64]),
        "bullet_sample": (i32, [pointer, i32, pointer]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def summary() -> str:
    """What `bullet doctor` says: the engine that runs models here, and why if it is not the native one."""
    try:
        path = available_paths()[0]
        self_test(path, turbo=False)
    except Unavailable as error:
        return f"numpy, since the native engine is not available: {error}"
    return f"native, {path}"


def available_paths() -> list[str]:
    """The ways to compute that this processor has, best first.

    Raises:
        Unavailable: see `library`.
    """
    paths: list[str] = []
    while (name := library().bullet_path(len(paths))) is not None:
        paths.append(name.decode())
    return paths


class NativeCache:
    """Keys and values of one sequence. For one thread at a time; memory is taken as positions come.

    Setting `length` back forgets the later positions. `capacity` is the most there may be.
    """

    def __init__(self, engine: "NativeEngine", capacity: int) -> None:
        self._handle = ctypes.c_void_p()
        self._engine = engine  # the model must live as long as the cache
        self.capacity = capacity
        _check(library().bullet_cache_new(engine._handle, capacity, ctypes.byref(self._handle)))

    def __del__(self) -> None:
        if self._handle:
            library().bullet_cache_free(self._handle)

    @property
    def length(self) -> int:
        """Positions filled."""
        return int(library().bullet_cache_length(self._handle))

    @length.setter
    def length(self, length: int) -> None:
        _check(library().bullet_cache_truncate(self._handle, length))

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values take."""
        return int(library().bullet_cache_bytes(self._handle))


class NativeEngine:
    """A model in memory, repacked for the native kernels. It does not change while running, so threads may share it.

    Args:
        shape: the model's shape.
        tensors: under the names of `shape.tensors()`: Quantized, float16 or float32 arrays, as `BulletFile.raw` has them.
        path: one of `available_paths()`; by default the first.
        turbo: round activations to 8 bits instead of 16: faster, and slightly less exact.
        threads: threads for prompts and for scoring; single tokens always run on one.
            Results do not depend on it.

    Raises:
        Unavailable: see `library`.
        BulletError: out of memory.
    """

    def __init__(
        self,
        shape: ModelShape,
        tensors: Mapping[str, npt.NDArray[Any] | Quantized],
        path: str | None = None,
        turbo: bool = False,
        threads: int = 1,
    ) -> None:
        self._handle = ctypes.c_void_p()
        self.shape, self.turbo, self.threads = shape, turbo, threads
        self.path = path or available_paths()[0]
        stored = [_stored(tensors[name]) for name in shape.tensors()]
        rows = (_Tensor * len(stored))(*(_Tensor(array.ctypes.data, array.nbytes, TYPES[type], 0) for type, array in stored))
        fields = _Shape(**{field[0]: getattr(shape, field[0]) for field in _Shape._fields_})
        result = library().bullet_model_new(ctypes.byref(fields), rows, len(stored), self.path.encode(), turbo, ctypes.byref(self._handle))
        _check(result)

    def __del__(self) -> None:
        if self._handle:
            library().bullet_model_free(self._handle)

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return int(library().bullet_model_bytes(self._handle))

    def new_cache(self, capacity: int | None = None) -> NativeCache:
        """An empty cache for one sequence of up to `capacity` tokens; by default the model's context."""
        return NativeCache(self, capacity or self.shape.max_seq_len)

    def forward(self, tokens: Ids, cache: NativeCache) -> Floats:
        """Append `tokens` (N ids) to the sequence in `cache`; logits after each of them, float32[N, vocab_size].

        Raises:
            ValueError: a token id is outside the vocabulary, or the cache is full.
        """
        return self._forward(tokens, cache, all_of_them=True)

    def prefill(self, tokens: Ids, cache: NativeCache) -> Floats:
        """Like `forward`, but gives only the logits after the last token, float32[vocab_size]."""
        logits: Floats = self._forward(tokens, cache, all_of_them=False)[0]
        return logits

    def score(self, tokens: npt.NDArray[np.integer]) -> Floats:
        """Logits after each token of many sequences that begin at position 0: int[B, N] -> float32[B, N, vocab_size]."""
        ids = self._ids(tokens)
        batch, n = ids.shape
        logits = np.empty((batch, n, self.shape.vocab_size), dtype=np.float32)
        result = library().bullet_score(self._handle, ids.ctypes.data, batch, n, self.threads, logits.ctypes.data)
        if result == FULL:
            raise ValueError(f"{n} positions do not fit into a context of {self.shape.max_seq_len}")
        _check(result)
        return logits

    def generate(self, tokens: Ids, cache: NativeCache, sampler: "NativeSampler", stop_ids: Collection[int], count: int) -> list[int]:
        """Append `tokens` (N ids), then up to `count` tokens that `sampler` draws; gives those, at least one.

        It ends early after one of `stop_ids`, which is among them, and when the cache is full. The last one is not in the
        cache yet: it comes first in the next call.

        Raises:
            ValueError: a token id is outside the vocabulary, or the cache is full.
            BulletError: the logits are not finite, so the weights must be damaged.
        """
        ids = self._ids(tokens)
        stops, drawn = (ctypes.c_int32 * len(stop_ids))(*stop_ids), (ctypes.c_int32 * count)()
        written = library().bullet_generate(
            cache._handle, ids.ctypes.data, len(ids), sampler.pointer, stops, len(stop_ids), self.threads, drawn, count
        )
        self._check_append(written, len(ids), cache)
        return drawn[:written]

    def _forward(self, tokens: Ids, cache: NativeCache, all_of_them: bool) -> Floats:
        ids = self._ids(tokens)
        logits = np.empty((len(ids) if all_of_them else 1, self.shape.vocab_size), dtype=np.float32)
        result = library().bullet_forward(cache._handle, ids.ctypes.data, len(ids), all_of_them, self.threads, logits.ctypes.data)
        self._check_append(result, len(ids), cache)
        return logits

    def _ids(self, tokens: Ids) -> npt.NDArray[np.int32]:
        ids = np.asarray(tokens, dtype=np.int64)
        if not ids.size or ids.min() < 0 or ids.max() >= self.shape.vocab_size:
            raise ValueError(f"token ids must be from 0 to {self.shape.vocab_size - 1}, and at least one")
        return np.ascontiguousarray(ids, dtype=np.int32)

    def _check_append(self, result: int, n: int, cache: NativeCache) -> None:
        if result == FULL:
            raise ValueError(f"{cache.length + n} positions do not fit into a context of {cache.capacity}")
        _check(result)


class NativeSampler:
    """How tokens are chosen, with the random numbers and the recent tokens that the choice depends on.

    Draws exactly what runtime.sampling.sample draws from the same logits, with the generator `rng` as it is now.

    Args:
        sampling: the settings.
        rng: a PCG64 generator; it is read, and does not move on itself.
        history: the tokens before; the last 64 are penalised.
        vocab_size: length of the logits to come.

    Raises:
        BulletError: logit_bias names a token outside the vocabulary.
    """

    def __init__(self, sampling: Sampling, rng: np.random.Generator, history: Sequence[int], vocab_size: int) -> None:
        self._bias = biased(np.zeros(vocab_size, dtype=np.float32), sampling) if sampling.logit_bias else None
        state = rng.bit_generator.state["state"]
        recent = history[-PENALTY_WINDOW:]
        self._fields = _Sampler(
            **{
                name: getattr(sampling, name)
                for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "top_k")
            },
            bias=None if self._bias is None else self._bias.ctypes.data,
            state_high=state["state"] >> 64,
            state_low=state["state"] & 0xFFFF_FFFF_FFFF_FFFF,
            step_high=state["inc"] >> 64,
            step_low=state["inc"] & 0xFFFF_FFFF_FFFF_FFFF,
            recent_count=len(recent),
        )
        self._fields.recent[: len(recent)] = recent
        self.pointer = ctypes.byref(self._fields)

    def sample(self, logits: Floats) -> int:
        """Draw one token from float32[vocab_size]. It does not join the recent tokens by itself.

        Raises:
            BulletError: the logits are not finite, so the weights must be damaged.
        """
        logits = np.ascontiguousarray(logits if self._bias is None else logits + self._bias, dtype=np.float32)
        token = int(library().bullet_sample(logits.ctypes.data, len(logits), self.pointer))
        _check(token)
        return token


@cache
def self_test(path: str, turbo: bool) -> None:
    """Compare a tiny model with the numpy engine, once a process; takes a few milliseconds.

    Compilers have bugs: one turned an earlier form of these kernels into nonsense, and made it faster.

    Raises:
        Broken: the logits differ.
        Unavailable: see `library`.
    """
    from bulletlm.runtime.engine import Engine

    shape = ModelShape(48, 64, 2, 4, 2, 96, 16, tied_embeddings=False)
    rng = np.random.default_rng(0)
    kinds = {"layers.1.attention.o_proj.weight": np.float16, "layers.1.attention.v_proj.weight": np.float32}
    stored: dict[str, npt.NDArray[Any] | Quantized] = {}
    exact: dict[str, Floats] = {}
    for name, extents in shape.tensors().items():
        values = (rng.standard_normal(extents) * extents[-1] ** -0.5 if len(extents) == 2 else np.ones(extents)).astype(np.float32)
        if len(extents) == 1 or name in kinds:
            stored[name] = values.astype(kinds.get(name, np.float32))
            exact[name] = values.astype(kinds.get(name, np.float32)).astype(np.float32)
        else:
            type = "BQ4" if name.startswith("layers.") else "BQ8"
            blocks = Quantized(type, quantize_bq4(values) if type == "BQ4" else quantize_bq8(values))
            stored[name], exact[name] = blocks, blocks.dequantize()
    tokens = rng.integers(0, shape.vocab_size, 16)
    reference = Engine(shape, exact)
    expected = reference.forward(tokens, reference.new_cache())
    engine = NativeEngine(shape, stored, path, turbo)
    kv = engine.new_cache()
    got = np.concatenate([engine.forward(part, kv) for part in (tokens[:13], tokens[13:14], tokens[14:])])
    error = float(np.abs(got - expected).max())
    if not error <= (0.2 if turbo else 0.002):
        raise Broken(f"its path {path} computes wrong numbers (logits differ by {error:.3g}): this build must not be used")


def _stored(tensor: npt.NDArray[Any] | Quantized) -> tuple[str, npt.NDArray[Any]]:
    if isinstance(tensor, Quantized):
        return tensor.type, np.ascontiguousarray(tensor.blocks)
    return ("F16" if tensor.dtype == np.float16 else "F32"), np.ascontiguousarray(tensor)


def _check(result: int) -> None:
    if result == MEMORY:
        raise BulletError("there is not enough memory for this model")
    if result == NAN:
        raise BulletError("the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
    if result == BUSY:
        raise RuntimeError("two threads use the same cache")
    if result < 0:
        raise RuntimeError(f"the native engine refused its arguments ({result})")
