"""Which tensor is stored how."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from bulletlm.errors import ConfigError
from bulletlm.formats.bullet.layout import WEIGHT_TYPES, standard_types
from bulletlm.shape import ModelShape

METHOD_WORDS = {"none": "rounded to nearest", "search": "searched scales", "gptq": "GPTQ"}
"""What a file's header says under quantised.method, for people."""


def weight_types(shape: ModelShape, weights: str = "BQ4", embedding: str | None = None, keep: Sequence[str] = ()) -> dict[str, str]:
    """The type of every tensor; norm gains are always F32.

    Args:
        shape: the model's shape.
        weights: type of the matrices.
        embedding: type of the embedding and of the output matrix; by default BQ8 where `weights` is BQ4, else the same.
        keep: exceptions for some matrices, "PATTERN=TYPE"; a pattern is a tensor's name, `*` stands for anything, and
            ".weight" may be left out. The last one that fits decides.

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
            raise ConfigError(f'keep {rule!r}: write NAME=TYPE with a type of {", ".join(WEIGHT_TYPES)}, for example "layers.0.*=BQ8"')
        found = [name for name in matrices if fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(".weight"), pattern)]
        if not found:
            raise ConfigError(
                f"keep {rule!r} fits none of the matrices {matrices[0]}, {matrices[1]} ... {matrices[-1]}: `*` stands for anything"
            )
        types |= dict.fromkeys(found, type)
    return types
