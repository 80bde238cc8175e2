"""The native training pass: the C library in train/native computes the gradients of a micro-batch with int8 matrix products.

It computes what `Transformer.loss` and autograd compute, and like the library of the engine it is optional: `why_not` says why it
cannot be used. This module does not import torch; it only reads and writes the memory of tensors that it receives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bulletlm.errors import BulletError, ConfigError, DataError
from bulletlm.runtime.native import MEMORY, TOKEN, Functions, Unavailable, c_shape, library_path, open_library

if TYPE_CHECKING:
    from torch import Tensor

    from bulletlm.shape import ModelShape
    from bulletlm.train.model import Transformer

ABI = 5
MAX_TOKENS = 1 << 16
"""Largest number of tokens in one call of the C library, each sequence rounded up to a multiple of 4."""

MAX_SHAPE = {"vocab_size": 1 << 17, "hidden_dim": 1 << 16, "dim": 1 << 15}
"""Largest sizes of a model: with larger ones a sum of products of int8 codes could overflow int32."""

NO_INT8 = "int8 training needs AVX-512 VNNI or AVX-VNNI; this CPU has neither"
NO_NATIVE_OPTIMIZER = "the native optimizer needs AVX2, which this CPU does not have"
NO_AVX2 = "QAT in the native library needs AVX2, which this CPU does not have"


@cache
def library() -> ctypes.CDLL:
    """The C library, with the types of its functions declared.

    Raises:
        Unavailable: it was not built, has another version or cannot be opened. The message is a clause.
    """
    i32, i64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    functions: Functions = {
        "bullet_train_kernels": (ctypes.c_char_p, [i32]),
        "bullet_distil_kernels": (ctypes.c_char_p, [i32]),
        "bullet_optimizer_kernels": (ctypes.c_char_p, [i32]),
        "bullet_gradient_norm": (i32, [ctypes.c_char_p, pointer, i64, i32, pointer]),
        "bullet_optimizer_step": (i32, [ctypes.c_char_p, pointer, i64, pointer, i32]),
        "bullet_trainer_new": (i32, [pointer, ctypes.c_char_p, pointer]),
        "bullet_trainer_free": (None, [pointer]),
        "bullet_trainer_load_weights": (i32, [pointer, pointer, i32]),
        "bullet_trainer_accumulate_gradients": (i32, [pointer, pointer, pointer, i64, i64, ctypes.c_double, pointer, i32, pointer]),
        "bullet_trainer_load_teacher": (i32, [pointer, pointer, i32]),
        "bullet_trainer_distil": (i32, [pointer, pointer, pointer, i64, i64, ctypes.c_double, pointer, i32, pointer]),
    }
    try:
        return open_library(library_path(Path(__file__).parents[1]), "bullet_train_abi", ABI, functions)
    except Unavailable as error:
        raise Unavailable(f"the native training library cannot be used ({error})") from None


def paths() -> list[str]:
    """Names of the instruction sets with which the library can train on this CPU, the fastest first.

    Raises:
        Unavailable: see `library`.
    """
    return _names(library().bullet_train_kernels)


def distillation_paths() -> list[str]:
    """Names of the instruction sets with which the library can distil on this CPU, the fastest first.

    Raises:
        Unavailable: see `library`.
    """
    return _names(library().bullet_distil_kernels)


def optimizer_paths() -> list[str]:
    """Names of the instruction sets with which the library can take optimizer steps on this CPU, the fastest first.

    Raises:
        Unavailable: see `library`.
    """
    return _names(library().bullet_optimizer_kernels)


def _names(kernels: Callable[[int], bytes | None]) -> list[str]:
    found: list[str] = []
    while name := kernels(len(found)):
        found.append(name.decode())
    return found


def why_not() -> str | None:
    """Why the library cannot train here, as a clause; None if it can."""
    return _problem(paths, NO_INT8)


def why_no_distillation() -> str | None:
    """Why the library cannot distil here, as a clause; None if it can."""
    return _problem(distillation_paths, NO_AVX2)


def shape_problem(shape: ModelShape) -> str | None:
    """Why the library can neither train nor distil a model of this shape, as a clause; None if it can."""
    for name, most in MAX_SHAPE.items():
        if (size := getattr(shape, name)) > most:
            return f"int8 is for models with a {name} of up to {most:,}, and this one has {size:,}"
    return None


def optimizer_problem(device: str = "cpu") -> str | None:
    """Why the library cannot take the optimizer steps of a model on a device of this type, as a clause; None if it can."""
    return f"the native optimizer runs on the CPU, not on {device}" if device != "cpu" else _problem(optimizer_paths, NO_NATIVE_OPTIMIZER)


def _problem(names: Callable[[], list[str]], missing: str) -> str | None:
    try:
        return None if names() else f"{missing}, or the compiler that built bulletlm does not know them"
    except Unavailable as error:
        return str(error)


class Trainer:
    """Computes the gradients of a model on the CPU. Not thread-safe: one call at a time.

    Args:
        model: its weights are contiguous float32. They remain the model's; `load_weights` reads their current values.
        threads: number of threads that share the work. The results do not depend on it.
        path: one of `paths()`, or with a teacher of `distillation_paths()`; None is the first. Different instruction sets round sums of
            floats differently.
        teacher: the loss is KL(teacher || model) instead of the cross-entropy; the weights of the teacher, contiguous float32, are
            read now. Predictions are then exact to 13 bits of the weights (BQ4 weights to all) and 15 bits of the activations.

    Raises:
        Unavailable: `why_not`, or with a teacher `why_no_distillation`.
        ConfigError: the model is too large (`shape_problem`).
        BulletError: out of memory.
    """

    def __init__(self, model: Transformer, threads: int, path: str | None = None, teacher: Transformer | None = None) -> None:
        self._handle = ctypes.c_void_p()
        if problem := why_not() if teacher is None else why_no_distillation():
            raise Unavailable(problem)
        self._free = library().bullet_trainer_free  # at the exit of Python `library` may be gone before this object
        self._threads, self._shape = threads, model.shape
        if problem := shape_problem(model.shape):
            raise ConfigError(f"train.precision: {problem}; train with --precision=fp32")
        self._weights = _in_file_order(model)
        name = path.encode() if path else None
        self._check(library().bullet_trainer_new(ctypes.byref(c_shape(model.shape)), name, ctypes.byref(self._handle)))
        self._run = library().bullet_trainer_accumulate_gradients
        if teacher is not None:
            assert teacher.shape == model.shape
            self._taught_by = [weight.data for weight in _in_file_order(teacher)]  # C reads some of these tensors later
            self._check(library().bullet_trainer_load_teacher(self._handle, _addresses(self._taught_by), threads))
            self._run = library().bullet_trainer_distil

    def __del__(self) -> None:
        if self._handle:
            self._free(self._handle)

    def load_weights(self) -> None:
        """Read the current weights; needed before the first `accumulate_gradients` and whenever they have changed.

        Raises:
            BulletError: out of memory.
        """
        # C reads these tensors until the next call, even if the model has received other tensors since then.
        self._loaded = [weight.data for weight in self._weights]
        self._check(library().bullet_trainer_load_weights(self._handle, _addresses(self._loaded), self._threads))

    def accumulate_gradients(self, tokens: Tensor, targets: Tensor, count: float) -> float:
        """Add the gradients of (summed loss / count) to the gradients of the weights, float32.

        Args:
            tokens, targets: int64 (B, T), T <= max_seq_len; positions with the target -1 do not count.
            count: number by which the summed loss is divided.

        Returns:
            Summed loss / count in nats, for the weights that `load_weights` read.

        Raises:
            DataError: an id is outside the vocabulary.
            BulletError: out of memory.
        """
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = weight.new_zeros(weight.shape)
        return self._pass(tokens, targets, count, _addresses([weight.grad for weight in self._weights if weight.grad is not None]))

    def divergence(self, tokens: Tensor, targets: Tensor) -> float:
        """KL(teacher || model), summed over the positions that count, in nats; tokens and targets as in `accumulate_gradients`.

        Raises:
            DataError: an id is outside the vocabulary.
            BulletError: out of memory.
        """
        return self._pass(tokens, targets, 1.0, None)

    def _pass(self, tokens: Tensor, targets: Tensor, count: float, gradients: ctypes.Array[ctypes.c_void_p] | None) -> float:
        at_once = max(1, MAX_TOKENS // (tokens.shape[1] + 3))
        loss, total = ctypes.c_double(), 0.0
        for first in range(0, len(tokens), at_once):
            ids, answers = (each[first : first + at_once].int().contiguous() for each in (tokens, targets))
            result = self._run(
                self._handle, ids.data_ptr(), answers.data_ptr(), *ids.shape, 1 / count, gradients, self._threads, ctypes.byref(loss)
            )
            self._check(result)
            total += loss.value
        return total / count

    def _check(self, result: int) -> None:
        if result == MEMORY:
            raise BulletError("there is not enough memory for this model and micro-batch: lower train.batch_size_per_device")
        if result == TOKEN:
            raise DataError(f"a token id is outside the vocabulary of {self._shape.vocab_size:,}: delete the folder tokens/ of the run")
        if result:
            raise RuntimeError(f"the native training library rejected its arguments ({result})")


def _in_file_order(model: Transformer) -> list[Tensor]:
    """The weights of a model in the order of its file."""
    named = dict(model.named_parameters())
    return [named[name] for name in model.shape.tensors()]


def _addresses(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """The addresses of n contiguous float32 tensors, as C's float *[n]."""
    assert all(tensor.is_contiguous() and tensor.dtype.itemsize == 4 for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
