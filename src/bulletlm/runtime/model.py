"""Loads a model: the file, an engine that runs it, and its tokenizer. It needs numpy only if the native engine is missing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.errors import BulletError, BulletWarning, ConfigError, FormatError
from bulletlm.formats.bullet.reader import BulletFile, open_bullet
from bulletlm.hardware import available_cores
from bulletlm.runtime.native import Broken, NativeEngine, NotFinite, TensorBytes, Unavailable, working_path
from bulletlm.runtime.sampling import Sampling
from bulletlm.sampling_limits import SAMPLING_LIMITS
from bulletlm.shape import ModelShape
from bulletlm.text.bpe import Vocabulary
from bulletlm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from bulletlm.runtime.engine import Engine

ENGINES = ("auto", "native", "numpy")

MAX_THREADS = 1024


@dataclass(frozen=True)
class Model:
    """A loaded model: everything needed to generate text. It does not change, so threads may share it.

    Attributes:
        engine: the weights and the forward pass, native or in numpy.
        tokenizer: text <-> ids.
        shape: the model's shape.
        sampling: the default settings for generation, from the file.
        header: the header of a .bullet, or the manifest of a folder.
    """

    engine: Engine[Any]
    tokenizer: Tokenizer
    shape: ModelShape
    sampling: Sampling
    header: dict[str, Any]

    def hidden_sums(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float64]]:
        """Yield the sum of the last hidden states (after the final norm), float64[dim], of one part of `tokens` after the other.

        The total of these sums, divided by the number of tokens, is an embedding of the text. A program can do other work,
        or stop, between the parts, which are as long as those of `Session.read`.

        Raises:
            ValueError: an id is outside the vocabulary, or there are more than the context holds.
        """
        cache = self.engine.new_cache()
        at = 0
        while at < len(tokens):
            part = tokens[at : at + self.engine.part]
            yield self.engine.hidden(part, cache).sum(axis=0, dtype="float64")
            at += len(part)


def load(path: str | Path, engine: str = "auto", turbo: bool = False, threads: int | None = None) -> Model:
    """Load a `.bullet` file, or a folder of FP32 .npy tensors (export/npy of a run).

    Args:
        path: the file or folder.
        engine: "native" is the C library, "numpy" needs no C library; "auto" uses native for a file if it is available, and
            numpy for a folder, because the native kernels are not optimized for FP32 weights.
        turbo: native only: 8-bit activations, faster and slightly less exact.
        threads: native only: threads for prompts and scoring, 1 to MAX_THREADS; by default all cores that this process may use.

    Raises:
        BulletError: there is nothing at `path`, or engine is "native" and there is no native engine.
        ConfigError: engine or threads is none of these.
        FormatError: it is damaged or not such a file; the message names the field.
    """
    path = Path(path)
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine}: it must be one of {', '.join(ENGINES)}")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads is {threads}: it must be from 1 to {MAX_THREADS}")
    model = _load_folder(path, engine, turbo, threads) if path.is_dir() else _load_file(path, engine, turbo, threads)
    if turbo and not isinstance(model.engine, NativeEngine):
        warnings.warn("turbo has no effect: numpy runs this model, not the native engine", BulletWarning, stacklevel=2)
    return model


def _load_file(path: Path, engine: str, turbo: bool, threads: int | None) -> Model:
    file = open_bullet(path)
    try:
        tokenizer = Vocabulary(file.pieces, file.tokenizer_proto)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    started: Engine[Any]
    if chosen := _native_path(engine, turbo):
        tensors = {name: TensorBytes(file.type(name), file.read_bytes(name), mapped=True) for name in file.tensors}
        try:
            started = NativeEngine(file.shape, tensors, chosen, turbo, threads or available_cores())
        except NotFinite:
            _name_what_is_not_finite(file)
            raise
    else:
        from bulletlm.runtime.engine import NumpyEngine

        started = NumpyEngine(file.shape, {name: file.dequantize(name) for name in file.tensors})
    return Model(started, tokenizer, file.shape, default_sampling(file.metadata), file.header)


def _load_folder(path: Path, engine: str, turbo: bool, threads: int | None) -> Model:
    from bulletlm.formats.npy import TOKENIZER, read_npy
    from bulletlm.runtime.engine import NumpyEngine

    shape, tensors, _, metadata = read_npy(path)
    tokenizer = Tokenizer.load(path / TOKENIZER)
    if tokenizer.vocab_size != shape.vocab_size:
        raise FormatError(f"{path}: the tokenizer has {tokenizer.vocab_size} pieces, but vocab_size is {shape.vocab_size}")
    started: Engine[Any]
    if engine == "native" and (chosen := _native_path(engine, turbo)):
        started = NativeEngine(shape, tensors, chosen, turbo, threads or available_cores())
    else:
        started = NumpyEngine(shape, tensors)
    return Model(started, tokenizer, shape, default_sampling(metadata), {"shape": shape.to_dict(), **metadata})


def default_sampling(metadata: Mapping[str, Any]) -> Sampling:
    """The sampling settings in the metadata of a model, and the usual ones for those that it does not have."""
    given = metadata.get("sampling", {})
    # A file may contain 1 instead of 1.0.
    known: dict[str, Any] = {name: given[name] for name in SAMPLING_LIMITS if name in given}
    whole = [name for name, value in known.items() if SAMPLING_LIMITS[name][0] is float and type(value) is int]
    return Sampling(**(known | {name: float(known[name]) for name in whole}))


def _native_path(engine: str, turbo: bool) -> str | None:
    """The instruction set that the native engine uses on this CPU; None if numpy runs the model."""
    if engine == "numpy":
        return None
    try:
        path, broken = working_path(turbo)
        if broken:
            warnings.warn(f"{broken}; {path} is used instead, which is slower", BulletWarning, stacklevel=4)
        return path
    except Broken as error:
        if engine == "native":
            raise BulletError(f"the native engine cannot be used: {error}") from None
        warnings.warn(f"the native engine is not used: {error}; numpy is used instead, which is slower", BulletWarning, stacklevel=4)
    except Unavailable as error:
        if engine == "native":
            raise BulletError(f"there is no native engine: {error}; see `bullet doctor`") from None
    return None


def _name_what_is_not_finite(file: BulletFile) -> None:
    """Raises: FormatError naming the tensor."""
    for name in file.tensors:
        file.read_blocks(name)
