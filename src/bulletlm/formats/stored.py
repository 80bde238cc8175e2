"""A model in memory between two file formats, with each tensor as its file stores it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from bulletlm.errors import FormatError
from bulletlm.quant.bq4 import Quantized, scales_of
from bulletlm.quant.types import WEIGHT_TYPES
from bulletlm.shape import ModelShape
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
EncodedTensor = npt.NDArray[np.floating] | Quantized
"""float32 or float16 of the tensor's own shape, or blocks of BQ4 or BQ8."""


class StoredModel(NamedTuple):
    """The parts of a model that every format stores.

    Attributes:
        shape: the model's shape.
        tensors: every tensor of `shape.tensors()`, in any order.
        tokenizer_proto: the sentencepiece model.
        metadata: name, license, languages, sampling, training and others.
        notes: what the user should know about the source file, one sentence each.
    """

    shape: ModelShape
    tensors: Mapping[str, EncodedTensor]
    tokenizer_proto: bytes
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def type_of(tensor: EncodedTensor) -> str:
    """BQ4, BQ8, F16 or F32."""
    if isinstance(tensor, Quantized):
        return tensor.type
    return "F16" if tensor.dtype == np.float16 else "F32"


def as_floats(tensor: EncodedTensor) -> Floats:
    """The weights as float32, exactly."""
    if isinstance(tensor, Quantized):
        return tensor.dequantize()
    return cast(Floats, tensor.astype(np.float32, copy=False))


def view_tensor(stored: npt.NDArray[np.uint8], type: str, extents: tuple[int, ...]) -> EncodedTensor:
    """The bytes of a tensor, uint8[bytes], viewed as blocks or numbers; no copy."""
    if type in ("BQ4", "BQ8"):
        return Quantized(type, stored.reshape(*extents[:-1], -1, WEIGHT_TYPES[type].bytes))
    return cast(EncodedTensor, stored.view("<f2" if type == "F16" else "<f4").reshape(extents))


def check_finite(tensor: EncodedTensor, where: str) -> None:
    """Raises:
    FormatError: a number, or the scale of a block, is NaN or infinite; `where` names the tensor.
    """
    if not np.isfinite(scales_of(tensor.blocks) if isinstance(tensor, Quantized) else tensor).all():
        raise FormatError(f"{where} holds a scale or number that is NaN or infinite")


def check_tokenizer(proto: bytes, vocab_size: int, where: str) -> Tokenizer:
    """The tokenizer of a file of unknown origin.

    Raises:
        FormatError: not a sentencepiece model, not one of BulletLM's, or of another size than the embedding; `where` names it.
    """
    try:
        tokenizer = Tokenizer(proto)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    if tokenizer.vocab_size != vocab_size:
        raise FormatError(f"{where}: it has {tokenizer.vocab_size} tokens, but the embedding has {vocab_size} rows")
    return tokenizer


def brief(text: str) -> str:
    """Text of a file as a message may show it: one line of at most 200 characters."""
    return printable(text, limit=200)
