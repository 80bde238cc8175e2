"""The native training pass: the C library under native/ computes the gradients of a micro-batch, its matrix products in int8.

It does what `Transformer.loss` and autograd do, and like the engine's library it is optional: `library` says why it cannot be used, if so.
torch is needed by the tensors alone, which come from outside.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bulletlm.errors import BulletError, ConfigError, DataError
from bulletlm.runtime.native import MEMORY, TOKEN, Functions, Unavailable, c_shape, library_path, open_library

if TYPE_CHECKING:
    from torch import Tensor

    from bulletlm.train.model import Transformer

ABI = 3
MOST_TOKENS = 1 << 16
"""That C takes at once, each sequence rounded up to a multiple of 4."""

MOST_IDS = 1 << 17
"""The largest vocabulary: sums over it are int32."""


@cache
def library() -> ctypes.CDLL:
    """The C library, with the types of its functions declared.

    Raises:
        Unavailable: it was not built, is of another version, cannot be opened, or this processor is not one of those it is for.
    """
    i32, i64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    functions: Functions = {
        "bullet_train_kernels": (ctypes.c_char_p, [i32]),
        "bullet_trainer_new": (i32, [pointer, ctypes.c_char_p, pointer]),
        "bullet_trainer_free": (None, [pointer]),
        "bullet_trainer_load_weights": (i32, [pointer, pointer, i32]),
        "bullet_trainer_accumulate_gradients": (i32, [pointer, pointer, pointer, i64, i64, ctypes.c_double, pointer, i32, pointer]),
    }
    lib = open_library(library_path(Path(__file__).parents[1]), "bullet_train_abi", ABI, functions)
    if lib.bullet_train_kernels(0) is None:
        raise Unavailable("this processor has no VNNI, or none that the compiler knew when bulletlm was installed")
    return lib


def paths() -> list[str]:
    """What the library can compute with on this processor, the fastest first.

    Raises:
        Unavailable: see `library`.
    """
    found: list[str] = []
    while name := library().bullet_train_kernels(len(found)):
        found.append(name.decode())
    return found


def why_not() -> str | None:
    """Why the library cannot be used here; None where it can."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None


class Trainer:
    """Computes gradients of a model on the processor. For one thread at a time.

    Args:
        model: its weights are contiguous float32, and stay the model's; what they are replaced by is seen by `load_weights`.
        threads: how many share the work; results do not depend on it.
        path: one of `paths()`, or None for the first. They round sums of floats differently.

    Raises:
        Unavailable: see `library`.
        ConfigError: the vocabulary is too large.
        BulletError: out of memory.
    """

    def __init__(self, model: Transformer, threads: int, path: str | None = None) -> None:
        self._handle = ctypes.c_void_p()
        self._free = library().bullet_trainer_free  # when Python ends, `library` may be gone before this is
        self._threads, self._shape = threads, model.shape
        if model.shape.vocab_size > MOST_IDS:
            raise ConfigError(f"train.precision: int8 is for vocabularies of up to {MOST_IDS:,} tokens; train with --precision=fp32")
        named = dict(model.named_parameters())
        self._weights = [named[name] for name in model.shape.tensors()]
        name = path.encode() if path else None
        self._check(library().bullet_trainer_new(ctypes.byref(c_shape(model.shape)), name, ctypes.byref(self._handle)))

    def __del__(self) -> None:
        if self._handle:
            self._free(self._handle)

    def load_weights(self) -> None:
        """Take over the weights as they are now: before the first `accumulate_gradients`, and whenever they have changed."""
        # Those tensors are read until the next time, also when the model has got others meanwhile.
        self._taken = [weight.data for weight in self._weights]
        self._check(library().bullet_trainer_load_weights(self._handle, _addresses(self._taken), self._threads))

    def accumulate_gradients(self, tokens: Tensor, targets: Tensor, count: float) -> float:
        """Add the gradients of (summed loss / count) to those of the weights.

        Args:
            tokens, targets: int64 (B, T), T <= max_seq_len; targets of -1 do not count.

        Returns:
            Summed loss / count in nats, of the weights that `load_weights` took.

        Raises:
            DataError: an id is outside of the vocabulary.
            BulletError: out of memory.
        """
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = weight.new_zeros(weight.shape)
        gradients = _addresses([weight.grad for weight in self._weights if weight.grad is not None])
        at_once = max(1, MOST_TOKENS // (tokens.shape[1] + 3))
        loss, total = ctypes.c_double(), 0.0
        for first in range(0, len(tokens), at_once):
            ids, answers = (each[first : first + at_once].int().contiguous() for each in (tokens, targets))
            result = library().bullet_trainer_accumulate_gradients(
                self._handle, ids.data_ptr(), answers.data_ptr(), *ids.shape, 1 / count, gradients, self._threads, ctypes.byref(loss)
            )
            self._check(result)
            total += loss.value
        return total / count

    def _check(self, result: int) -> None:
        if result == MEMORY:
            raise BulletError("there is not enough memory for this model and so many sequences a pass: lower train.batch_size_per_device")
        if result == TOKEN:
            raise DataError(f"a token id is outside of the vocabulary of {self._shape.vocab_size:,}: delete the folder tokens/ of the run")
        if result:
            raise RuntimeError(f"the native training pass refused its arguments ({result})")


def _addresses(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """float *[n] of contiguous float32 tensors."""
    assert all(tensor.is_contiguous() and tensor.dtype.itemsize == 4 for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
