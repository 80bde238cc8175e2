"""The native engine: calls the C library in native/; it has the interface of the numpy engine, and generates many tokens in one call.

The library is optional (setup.py builds it where there is a compiler). If it cannot be used, `library` raises the reason.
numpy is only imported where logits are returned; generating text does not need it.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bulletlm.errors import BulletError
from bulletlm.runtime import probe
from bulletlm.runtime.random import State
from bulletlm.runtime.sampling import LetterRules, Sampling
from bulletlm.sampling_limits import PENALTY_WINDOW
from bulletlm.shape import ModelShape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bulletlm.quant.bq4 import Quantized

    Floats = npt.NDArray[np.float32]
    Ids = Sequence[int] | npt.NDArray[np.integer]

PART_TOKENS_PER_THREAD = 192
"""Tokens of a part for each thread: twice what goes through the layers together (CHUNK_TOKENS in native/model.h)."""

ABI = 5
TYPES = {"BQ4": 0, "BQ8": 1, "F16": 2, "F32": 3}
TOKEN, FULL, MEMORY, ARGUMENT, BUSY, NAN = -1, -2, -3, -4, -5, -6


Functions = Mapping[str, tuple[Any, Sequence[Any]]]
"""Type of the result and of the arguments, by name."""


class Unavailable(Exception):
    """A C library of BulletLM cannot be used on this computer; the message says why."""


class Broken(Unavailable):
    """The library exists, but computes wrong numbers."""


class NotFinite(BulletError):
    """A weight is NaN or infinite."""


class TensorBytes(NamedTuple):
    """A tensor as a file stores it.

    Attributes:
        type: its weight type.
        data: its bytes, in writable memory so that ctypes can take their address; it is never written.
        mapped: whether that memory is the file itself, which the system can drop from memory after it is read.
    """

    type: str
    data: memoryview | bytearray
    mapped: bool = False


class _CShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len")),
        ("tied_embeddings", ctypes.c_int32),
        ("rope_theta", ctypes.c_double),
        ("norm_eps", ctypes.c_double),
    ]


class _CTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("type", ctypes.c_int32), ("mapped", ctypes.c_int32)]


class _CSampler(ctypes.Structure):
    _fields_ = [
        ("bias", ctypes.c_void_p),
        *(
            (name, ctypes.c_double)
            for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        ),
        *((name, ctypes.c_uint64) for name in ("state_high", "state_low", "step_high", "step_low")),
        ("top_k", ctypes.c_int32),
        ("recent_count", ctypes.c_int32),
        ("recent", ctypes.c_int32 * PENALTY_WINDOW),
        ("before", ctypes.c_int32),
        ("after", ctypes.c_char_p),
        ("ends", ctypes.c_char_p),
    ]


def c_shape(shape: ModelShape) -> ctypes.Structure:
    """A shape as C takes it."""
    return _CShape(**{field[0]: getattr(shape, field[0]) for field in _CShape._fields_})


def library_path(package: Path = Path(__file__).parent) -> str:
    """Return the path of the C library of a package, given the package's folder.

    Raises:
        Unavailable: it was not built.
    """
    # setup.py calls it _native.so; a build of an earlier version, named for one version of Python, comes last.
    for suffix in reversed(EXTENSION_SUFFIXES):
        path = package / f"_native{suffix}"
        if path.exists():
            return str(path)
    raise Unavailable("it was not built, since there was no C compiler when bulletlm was installed")


def open_library(path: str, name: str, abi: int, functions: Functions) -> ctypes.CDLL:
    """A C library whose function `name` says that its interface is number `abi`, with the types of its functions declared.

    Raises:
        Unavailable: it is of another version, or cannot be opened.
    """
    try:
        lib = ctypes.CDLL(path)
        found = getattr(lib, name)()  # an int, as without a declaration
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} cannot be opened: {error}") from None
    if found != abi:
        raise Unavailable(f"{path} is of another version: install bulletlm again")
    for function, (result, arguments) in functions.items():
        getattr(lib, function).restype, getattr(lib, function).argtypes = result, arguments
    return lib


@cache
def library() -> ctypes.CDLL:
    """The C library, with the types of its functions declared.

    Raises:
        Unavailable: it was not built, is of another version, or cannot be opened.
    """
    i32, i64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    functions: Functions = {
        "bullet_kernels": (ctypes.c_char_p, [i32]),
        "bullet_model_new": (i32, [pointer, pointer, i32, ctypes.c_char_p, i32, pointer]),
        "bullet_model_free": (None, [pointer]),
        "bullet_model_bytes": (i64, [pointer]),
        "bullet_cache_new": (i32, [pointer, i64, pointer]),
        "bullet_cache_free": (None, [pointer]),
        "bullet_cache_length": (i64, [pointer]),
        "bullet_cache_bytes": (i64, [pointer]),
        "bullet_cache_truncate": (i32, [pointer, i64]),
        "bullet_forward": (i32, [pointer, pointer, i64, i32, i32, pointer]),
        "bullet_hidden": (i32, [pointer, pointer, i64, i32, pointer]),
        "bullet_score": (i32, [pointer, pointer, i64, i64, i32, pointer]),
        "bullet_generate": (i64, [pointer, pointer, i64, pointer, pointer, i64, i32, pointer, i64]),
        "bullet_sample": (i32, [pointer, i32, pointer]),
    }
    return open_library(library_path(), "bullet_abi", ABI, functions)


def summary() -> str:
    """For `bullet doctor`: the engine that runs models on this machine, and the reason if it is not the native one."""
    try:
        path, broken = working_path(turbo=False)
    except Unavailable as error:
        return f"numpy, since the native engine is not available: {error}"
    return f"native, {path}" + (f", since {broken}" if broken else "")


def available_paths() -> list[str]:
    """The instruction sets that this CPU and the library support, fastest first.

    Raises:
        Unavailable: see `library`.
    """
    paths: list[str] = []
    while (name := library().bullet_kernels(len(paths))) is not None:
        paths.append(name.decode())
    return paths


def working_path(turbo: bool) -> tuple[str, str]:
    """The first of `available_paths` that passes `self_test`, and the errors of those before it ("" if there are none).

    Raises:
        Broken: none passes.
        Unavailable: see `library`.
    """
    broken = list[str]()
    for path in available_paths():
        try:
            self_test(path, turbo)
        except Broken as error:
            broken.append(str(error))
        else:
            return path, "; ".join(broken)
    raise Broken("; ".join(broken))


class NativeCache:
    """Keys and values of one sequence. For one thread at a time; memory is allocated as positions are added.

    A smaller `length` discards the later positions. `capacity` is the largest number of positions.
    """

    def __init__(self, engine: NativeEngine, capacity: int) -> None:
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
        tensors: under the names of `shape.tensors()`: Quantized, float16 or float32 arrays, or Raw bytes of a file.
        path: one of `available_paths()`; by default the first.
        turbo: round activations to 8 bits instead of 16: faster, and slightly less exact.
        threads: threads for prompts and for scoring; single tokens always run on one.
            Results do not depend on it. It may be changed at any time and applies to later calls.

    Raises:
        Unavailable: see `library`.
        NotFinite: a weight is NaN or infinite.
        BulletError: out of memory.
    """

    def __init__(
        self,
        shape: ModelShape,
        tensors: Mapping[str, npt.NDArray[Any] | Quantized | TensorBytes],
        path: str | None = None,
        turbo: bool = False,
        threads: int = 1,
    ) -> None:
        self._handle = ctypes.c_void_p()
        self.shape, self.turbo, self.threads = shape, turbo, threads
        self.path = path or available_paths()[0]
        stored = [_tensor_bytes(tensors[name]) for name in shape.tensors()]
        views = [(ctypes.c_char * len(s.data)).from_buffer(s.data) for s in stored]
        rows = (_CTensor * len(stored))(
            *(_CTensor(ctypes.addressof(v), len(s.data), TYPES[s.type], s.mapped) for v, s in zip(views, stored, strict=True))
        )
        result = library().bullet_model_new(
            ctypes.byref(c_shape(shape)), rows, len(stored), self.path.encode(), turbo, ctypes.byref(self._handle)
        )
        if result == NAN:
            raise NotFinite("a weight of this model is NaN or infinite: run `bullet verify` on the file")
        _check(result)

    def __del__(self) -> None:
        if self._handle:
            library().bullet_model_free(self._handle)

    @property
    def part(self) -> int:
        """The best number of tokens per call for a long prompt: dividing it this way costs almost no time."""
        return PART_TOKENS_PER_THREAD * self.threads

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
        import numpy as np

        ids = self._ids(tokens)
        batch, n = ids.shape
        logits = np.empty((batch, n, self.shape.vocab_size), dtype=np.float32)
        result = library().bullet_score(self._handle, ids.ctypes.data, batch, n, self.threads, logits.ctypes.data)
        if result == FULL:
            raise ValueError(f"{n} positions do not fit into a context of {self.shape.max_seq_len}")
        _check(result)
        return logits

    def hidden(self, tokens: Ids, cache: NativeCache | None = None) -> Floats:
        """Return the input of the output matrix after each of `tokens`, float32[N, dim]; append to `cache`, if given.

        Raises:
            ValueError: as `forward`.
        """
        import numpy as np

        ids, cache = self._ids(tokens), cache or self.new_cache()
        states = np.empty((len(ids), self.shape.dim), dtype=np.float32)
        result = library().bullet_hidden(cache._handle, ids.ctypes.data, len(ids), self.threads, states.ctypes.data)
        self._check_append(result, len(ids), cache)
        return states

    def generate(self, tokens: Ids, cache: NativeCache, sampler: NativeSampler, stop_ids: Collection[int], count: int) -> list[int]:
        """Append `tokens` (N ids), then up to `count` tokens that `sampler` draws, and return these, at least one.

        It ends early after one of `stop_ids`, which is included, and when the cache is full. The last token is not in the
        cache yet: it must be the first one of the next call.

        Raises:
            ValueError: a token id is outside the vocabulary, or the cache is full.
            BulletError: the logits are not finite, so the weights must be damaged.
        """
        try:
            ids = array("i", tokens)
        except OverflowError:
            raise self._bad_ids() from None
        stops, drawn = (ctypes.c_int32 * len(stop_ids))(*stop_ids), (ctypes.c_int32 * count)()
        written = library().bullet_generate(
            cache._handle, ids.buffer_info()[0], len(ids), sampler.pointer, stops, len(stop_ids), self.threads, drawn, count
        )
        self._check_append(written, len(ids), cache)
        return drawn[:written]

    def _forward(self, tokens: Ids, cache: NativeCache, all_of_them: bool) -> Floats:
        import numpy as np

        ids = self._ids(tokens)
        logits = np.empty((len(ids) if all_of_them else 1, self.shape.vocab_size), dtype=np.float32)
        result = library().bullet_forward(cache._handle, ids.ctypes.data, len(ids), all_of_them, self.threads, logits.ctypes.data)
        self._check_append(result, len(ids), cache)
        return logits

    def _ids(self, tokens: Ids) -> npt.NDArray[np.int32]:
        import numpy as np

        ids = np.asarray(tokens, dtype=np.int64)
        if not ids.size or ids.min() < 0 or ids.max() >= self.shape.vocab_size:
            raise self._bad_ids()
        return np.ascontiguousarray(ids, dtype=np.int32)

    def _bad_ids(self) -> ValueError:
        return ValueError(f"token ids must be from 0 to {self.shape.vocab_size - 1}, and at least one")

    def _check_append(self, result: int, n: int, cache: NativeCache) -> None:
        if result == TOKEN:
            raise self._bad_ids()
        if result == FULL:
            raise ValueError(f"{cache.length + n} positions do not fit into a context of {cache.capacity}")
        _check(result)


class NativeSampler:
    """Chooses tokens; holds the settings, the random generator's state and the recent tokens.

    Draws exactly what runtime.sampling.sample draws from the same logits, with numpy's generator in the same state.

    Args:
        sampling: the settings.
        random: state of the generator.
        history: the earlier tokens; the last 64 are penalized.
        vocab_size: length of the logits.
        letters: where tokens may stand, for Sampling.whole_letters; or None.
    """

    def __init__(
        self, sampling: Sampling, random: State, history: Sequence[int], vocab_size: int, letters: LetterRules | None = None
    ) -> None:
        self._bias = (ctypes.c_float * vocab_size)() if sampling.logit_bias else None
        for token, bias in sampling.logit_bias.items():
            self._bias[token] = bias  # type: ignore[index]
        recent = history[-PENALTY_WINDOW:]
        self._letters = letters  # C reads its memory
        (state, step), low = random, 0xFFFF_FFFF_FFFF_FFFF
        self._fields = _CSampler(
            **{
                name: getattr(sampling, name)
                for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "top_k")
            },
            bias=None if self._bias is None else ctypes.addressof(self._bias),
            state_high=state >> 64,
            state_low=state & low,
            step_high=step >> 64,
            step_low=step & low,
            recent_count=len(recent),
            before=letters.before if letters else 0,
            after=letters.after if letters else None,
            ends=letters.ends if letters else None,
        )
        self._fields.recent[: len(recent)] = recent
        self.pointer = ctypes.byref(self._fields)

    def sample(self, logits: Floats) -> int:
        """Draw one token from float32[vocab_size]. The caller must add it to the recent tokens.

        Raises:
            BulletError: the logits are not finite, so the weights must be damaged.
        """
        import numpy as np

        logits = np.ascontiguousarray(logits if self._bias is None else logits + np.array(self._bias), dtype=np.float32)
        token = int(library().bullet_sample(logits.ctypes.data, len(logits), self.pointer))
        _check(token)
        return token


@cache
def self_test(path: str, turbo: bool) -> None:
    """Compare the logits of a tiny model with the expected values, once per process; this takes a few milliseconds.

    The test exists because compilers have bugs: one compiled an earlier version of these kernels into fast but wrong code.

    Raises:
        Broken: the logits differ.
        Unavailable: see `library`.
    """
    error = max(abs(got - right) for got, right in zip(_probed(path, turbo), probe.LOGITS, strict=True))
    if not error <= (0.05 if turbo else 0.002):
        raise Broken(f"its path {path} computes wrong numbers (logits differ by {error:.3g}): this build must not be used")


def _probed(path: str, turbo: bool) -> list[float]:
    """Logits after the last of probe.TOKENS, read in three parts so that every kernel is used."""
    engine = NativeEngine(probe.SHAPE, {name: TensorBytes(*tensor) for name, tensor in probe.weights().items()}, path, turbo)
    cache, logits = engine.new_cache(), (ctypes.c_float * probe.SHAPE.vocab_size)()
    for part in (probe.TOKENS[:13], probe.TOKENS[13:14], probe.TOKENS[14:]):
        ids = array("i", part)
        _check(library().bullet_forward(cache._handle, ids.buffer_info()[0], len(ids), 0, 1, logits))
    return list(logits)


def _tensor_bytes(tensor: npt.NDArray[Any] | Quantized | TensorBytes) -> TensorBytes:
    if isinstance(tensor, TensorBytes):
        return tensor
    import numpy as np

    from bulletlm.quant.bq4 import Quantized

    values, type = (tensor.blocks, tensor.type) if isinstance(tensor, Quantized) else (tensor, "F16" if tensor.dtype == "f2" else "F32")
    if not (values.flags.c_contiguous and values.flags.writeable):
        values = values.copy()
    return TensorBytes(type, np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _check(result: int) -> None:
    if result == MEMORY:
        raise BulletError("there is not enough memory for this model")
    if result == NAN:
        raise BulletError("the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
    if result == BUSY:
        raise RuntimeError("two threads use the same cache")
    if result < 0:
        raise RuntimeError(f"the native engine refused its arguments ({result})")
