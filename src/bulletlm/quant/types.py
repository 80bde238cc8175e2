"""Defines the weight types, and chooses the type of each tensor."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from bulletlm.errors import ConfigError
from bulletlm.shape import BLOCK, BQ4_BYTES, BQ8_BYTES, ModelShape

WeightType = Literal["BQ4", "BQ8", "F16", "F32"]
"""How the weights of a tensor are stored; docs/bullet-format.md defines each."""


class BlockLayout(NamedTuple):
    """A block of a weight type: `weights` weights take `bytes` bytes."""

    weights: int
    bytes: int


WEIGHT_TYPES: dict[str, BlockLayout] = {
    "BQ4": BlockLayout(BLOCK, BQ4_BYTES),
    "BQ8": BlockLayout(BLOCK, BQ8_BYTES),
    "F16": BlockLayout(1, 2),
    "F32": BlockLayout(1, 4),
}

BITS = {"BQ4": 4, "BQ8": 8, "F16": 16, "F32": 32}
"""Bits of a weight, without the scales of the blocks: what texts call a model file whose matrices have this type."""


def bits_of(type: object) -> int:
    """The entry of BITS; 4 for what is no known type, since `type` may come from a damaged report."""
    return BITS.get(type, BITS["BQ4"]) if isinstance(type, str) else BITS["BQ4"]


def bits_of_file(report: Mapping[str, Any]) -> int:
    """How many bits the weights of the model file have that a report judges, by which texts call it: the 4-bit file."""
    quantised = report.get("quantised")
    return bits_of(quantised.get("weights") if isinstance(quantised, Mapping) else None)


METHOD_WORDS = {"none": "rounded to nearest", "search": "searched scales", "gptq": "GPTQ"}
"""Readable names of the values of `quantised.method` in a header."""


def tensor_bytes(type: str, shape: Sequence[int]) -> int:
    """Bytes that a tensor of this type and shape takes in the file."""
    layout = WEIGHT_TYPES[type]
    return math.prod(shape) // layout.weights * layout.bytes


def standard_types(shape: ModelShape, quant: str = "BQ4") -> dict[str, str]:
    """The weight type of each tensor: `quant` for matrices, F32 for norm gains.

    With BQ4 the embedding (and the output matrix) are BQ8: at this size four bits there cost 1.4 % perplexity
    alone, eight bits 0.02 %.
    """
    types = {}
    for name, extents in shape.tensors().items():
        if len(extents) == 1:
            types[name] = "F32"
        elif quant == "BQ4" and not name.startswith("layers."):
            types[name] = "BQ8"
        else:
            types[name] = quant
    return types


def weight_types(shape: ModelShape, weights: str = "BQ4", embedding: str | None = None, keep: Sequence[str] = ()) -> dict[str, str]:
    """The type of every tensor; norm gains are always F32.

    Args:
        shape: the model's shape.
        weights: type of the matrices.
        embedding: type of the embedding and of the output matrix; by default BQ8 where `weights` is BQ4, else the same.
        keep: exceptions for some matrices, "PATTERN=TYPE"; a pattern is a tensor's name, `*` stands for anything, and
            ".weight" may be left out. The last one that matches decides.

    Raises:
        ConfigError: an exception is not of that form, or fits no matrix.
    """
    types = standard_types(shape, weights)
    matrices = [name for name, extents in shape.tensors().items() if len(extents) > 1]
    if embedding:
        types |= {name: embedding for name in matrices if not name.startswith("layers.")}
    for rule in keep:
        pattern, equals, type = (part.strip() for part in rule.partition("="))
        if not equals or type not in WEIGHT_TYPES:
            raise ConfigError(f'keep {rule}: write NAME=TYPE with a type of {", ".join(WEIGHT_TYPES)}, for example "layers.0.*=BQ8"')
        found = [name for name in matrices if fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(".weight"), pattern)]
        if not found:
            raise ConfigError(
                f"keep {rule} fits none of the matrices {matrices[0]}, {matrices[1]} ... {matrices[-1]}: `*` stands for anything"
            )
        types |= dict.fromkeys(found, type)
    return types
