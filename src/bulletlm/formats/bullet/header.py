"""The JSON header and its rules, which are checked before any other part of the file is read; the writer runs the same checks."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bulletlm.errors import ConfigError, FormatError
from bulletlm.formats.bullet.layout import (
    ARCHITECTURE,
    FOOTER_BYTES,
    HEADER_END,
    HEADER_MAX_BYTES,
    PIECES_SECTION,
    SENTENCEPIECE_SECTION,
    TOKENIZER_KIND,
    aligned,
)
from bulletlm.quant.types import WEIGHT_TYPES, tensor_bytes
from bulletlm.sampling_limits import SAMPLING_LIMITS
from bulletlm.shape import ModelShape
from bulletlm.text.pieces import SPECIAL_PIECES

MAX_DEPTH = 32
SHAPE_LIMITS = {
    "vocab_size": 1 << 20,
    "dim": 1 << 16,
    "n_layers": 1 << 10,
    "n_heads": 1 << 12,
    "n_kv_heads": 1 << 12,
    "hidden_dim": 1 << 18,
    "max_seq_len": 1 << 20,
}
"""Large enough for any model of this kind, and so small that no product of two of them overflows 64 bits."""

RESERVED = ("bullet_version", "architecture", "shape", "tokenizer", "tensors", "sections")
"""Keys that the format itself uses; everything else at the top level is metadata."""

METADATA_KINDS = {
    "name": (str, "text"),
    "license": (str, "text"),
    "languages": (list, "a list"),
    "chat_template": (str, "text"),
    "sampling": (dict, "an object"),
    "training": (dict, "an object"),
    "quantised": (dict, "an object"),
    "parents": (list, "a list"),
}
"""Metadata that means the same in every file; other keys are free."""


class TensorEntry(NamedTuple):
    """The position of a tensor: `size` bytes from byte `offset`. `shape` is (outputs, inputs) or (length,)."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    size: int


class SectionEntry(NamedTuple):
    """The position of a section: `size` bytes from byte `offset`."""

    name: str
    offset: int
    size: int


class Header(NamedTuple):
    """A header that has passed every check."""

    values: dict[str, Any]
    shape: ModelShape
    special: dict[str, int]
    tensors: dict[str, TensorEntry]
    sections: dict[str, SectionEntry]
    """Both in the order of the file; sections come after the tensors."""

    file_size: int


def read_header(text: bytes) -> Header:
    """Parse and check the JSON of a header (without its four NULs).

    Raises:
        FormatError: the first rule that is broken; the message names the field.
    """
    if len(text) > HEADER_MAX_BYTES:
        raise FormatError(f"the header has {len(text)} bytes: it must have at most {HEADER_MAX_BYTES}")
    values = _parse(text)
    shape = _read_shape(values)
    special = _read_tokenizer(values, shape)
    tensors = _read_tensors(values, shape)
    sections = _read_sections(values)
    file_size = _check_layout(len(text), tensors, sections)
    check_metadata(values)
    return Header(values, shape, special, {t.name: t for t in tensors}, {s.name: s for s in sections}, file_size)


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """Parse an untrusted JSON object strictly.

    Raises:
        FormatError: not UTF-8, not JSON, a key twice, NaN or an infinity, half a surrogate pair, a number beyond
            64 bits, or nesting deeper than 32.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise FormatError(f"{where}: the key {show(key)} is given twice in one object")
            found[key] = value
        return found

    def constant(word: str) -> Any:
        raise FormatError(f"{where}: {word} is not a JSON number")

    try:
        value = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise FormatError(f"{where}: nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise FormatError(f"{where}: must be a JSON object")
    _check_values(value, where, MAX_DEPTH)
    return value


def read_shape(fields: Any, where: str) -> ModelShape:
    """A ModelShape from an untrusted JSON object.

    Raises:
        FormatError: a field is missing, of the wrong type, out of range, or does not fit the others.
    """
    if not isinstance(fields, dict):
        raise FormatError(f"{where} is {show(fields)}: it must be an object")
    whole = {name: _integer(fields, name, where, 1, limit) for name, limit in SHAPE_LIMITS.items()}
    tied = _get(fields, "tied_embeddings", where)
    if not isinstance(tied, bool):
        raise FormatError(f"{where}.tied_embeddings is {show(tied)}: it must be true or false")
    theta = _real(fields, "rope_theta", where, 1e-6, 1e12)
    eps = _real(fields, "norm_eps", where, 1e-30, 1.0)
    try:
        return ModelShape(**whole, rope_theta=theta, norm_eps=eps, tied_embeddings=tied)
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from None


def check_metadata(values: dict[str, Any]) -> None:
    """Check the metadata keys whose meaning the format fixes.

    Raises:
        FormatError: one is of the wrong kind or out of range.
    """
    for key, (container, word) in METADATA_KINDS.items():
        if key in values and not isinstance(values[key], container):
            raise FormatError(f"{key} is {show(values[key])}: it must be {word}")
    for i, language in enumerate(values.get("languages", [])):
        if not isinstance(language, str):
            raise FormatError(f"languages[{i}] is {show(language)}: it must be text")
    sampling = values.get("sampling", {})
    for key, (kind, low, high) in SAMPLING_LIMITS.items():
        if key in sampling and kind is int:
            _integer(sampling, key, "sampling", int(low), int(high))
        elif key in sampling:
            _real(sampling, key, "sampling", low, high)


def parent_names(metadata: Mapping[str, Any]) -> list[str]:
    """The names of the models from which a model was trained, the nearest first; "unnamed" for a model without a name."""
    parents = metadata.get("parents", [])
    named = [parent.get("name") for parent in parents if isinstance(parent, dict)] if isinstance(parents, list) else []
    return [name if isinstance(name, str) and name else "unnamed" for name in named]


def show(value: Any) -> str:
    """A value from the file for a message: short, one line, ASCII only."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _parse(text: bytes) -> dict[str, Any]:
    values = parse_json(text, "header")
    version = _get(values, "bullet_version", "header")
    if not isinstance(version, str) or not re.fullmatch(r"2\.[0-9]{1,4}", version):
        raise FormatError(f'header.bullet_version is {show(version)}: it must be "2." and a number')
    architecture = _get(values, "architecture", "header")
    if architecture != ARCHITECTURE:
        raise FormatError(f'header.architecture is {show(architecture)}: only "{ARCHITECTURE}" is known')
    return values


def _read_shape(values: dict[str, Any]) -> ModelShape:
    return read_shape(_get(values, "shape", "header"), "shape")


def _read_tokenizer(values: dict[str, Any], shape: ModelShape) -> dict[str, int]:
    tokenizer = _get(values, "tokenizer", "header")
    if not isinstance(tokenizer, dict):
        raise FormatError(f"tokenizer is {show(tokenizer)}: it must be an object")
    kind = _get(tokenizer, "kind", "tokenizer")
    if kind != TOKENIZER_KIND:
        raise FormatError(f'tokenizer.kind is {show(kind)}: only "{TOKENIZER_KIND}" is known')
    special = _get(tokenizer, "special", "tokenizer")
    if not isinstance(special, dict):
        raise FormatError(f"tokenizer.special is {show(special)}: it must be an object of ids")
    names = [name for name in SPECIAL_PIECES.values() if name in special or name in ("unk", "bos", "eos")]
    ids = {name: _integer(special, name, "tokenizer.special", 0, shape.vocab_size - 1) for name in names}
    owner: dict[int, str] = {}
    for name, i in ids.items():
        if owner.setdefault(i, name) != name:
            raise FormatError(f"tokenizer.special.{name} is {i}, which tokenizer.special.{owner[i]} is already")
    return ids


def _read_tensors(values: dict[str, Any], shape: ModelShape) -> list[TensorEntry]:
    entries = _list(values, "tensors")
    expected_count = len(shape.tensors())
    names = [_name(entry, f"tensors[{i}]") for i, entry in enumerate(entries)]
    _check_unique(names, "tensors")
    if len(entries) != expected_count:
        raise FormatError(f"tensors has {len(entries)} entries, but shape implies {expected_count}")
    found = []
    for i, (entry, (name, extents)) in enumerate(zip(entries, shape.tensors().items(), strict=True)):
        where = f"tensors[{i}]"
        if names[i] != name:
            raise FormatError(f"{where}.name is {show(names[i])}: shape implies {show(name)} at this place")
        where = f"{where} ({name})"
        kind = _get(entry, "type", where)
        if not isinstance(kind, str) or kind not in WEIGHT_TYPES:
            raise FormatError(f"{where}.type is {show(kind)}: it must be one of {', '.join(WEIGHT_TYPES)}")
        if len(extents) == 1 and kind != "F32":
            raise FormatError(f"{where}.type is {show(kind)}: norm gains must be F32")
        given = _get(entry, "shape", where)
        if not isinstance(given, list) or any(type(extent) is not int for extent in given) or tuple(given) != extents:
            raise FormatError(f"{where}.shape is {show(given)}: shape implies {list(extents)}")
        size = _integer(entry, "bytes", where, 0, None)
        if size != tensor_bytes(kind, extents):
            raise FormatError(f"{where}.bytes is {size}: {kind} of shape {list(extents)} takes {tensor_bytes(kind, extents)}")
        found.append(TensorEntry(name, kind, extents, _integer(entry, "offset", where, 0, None), size))
    return found


def _read_sections(values: dict[str, Any]) -> list[SectionEntry]:
    entries = _list(values, "sections")
    names = [_name(entry, f"sections[{i}]") for i, entry in enumerate(entries)]
    _check_unique(names, "sections")
    for required in (PIECES_SECTION, SENTENCEPIECE_SECTION):
        if required not in names:
            raise FormatError(f"sections has no {show(required)}, which every file needs")
    found = []
    for i, (entry, name) in enumerate(zip(entries, names, strict=True)):
        where = f"sections[{i}]"
        found.append(SectionEntry(name, _integer(entry, "offset", where, 0, None), _integer(entry, "bytes", where, 1, None)))
    return found


def _check_layout(header_size: int, tensors: Sequence[TensorEntry], sections: Sequence[SectionEntry]) -> int:
    """Check that each tensor and section begins at the first multiple of 64 after the one before; return the size of the file in bytes."""
    end = header_size + len(HEADER_END)
    groups: tuple[tuple[str, Sequence[TensorEntry | SectionEntry]], ...] = (("tensors", tensors), ("sections", sections))
    for kind, found in groups:
        for i, entry in enumerate(found):
            if entry.offset != aligned(end):
                raise FormatError(
                    f"{kind}[{i}] ({show(entry.name)}).offset is {entry.offset}: it must be {aligned(end)}, "
                    f"the first multiple of 64 after what comes before"
                )
            end = entry.offset + entry.size
    return aligned(end) + FOOTER_BYTES


def _check_values(value: Any, where: str, depth: int) -> None:
    """Refuse what json.loads accepts: deep nesting, infinities written as 1e999, integers beyond 64 bits, lone surrogates."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FormatError(f"{where}: {show(value)} holds half of a surrogate pair") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise FormatError(f"{where}: a number is too large")
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise FormatError(f"{where}: a whole number does not fit into 64 bits")
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise FormatError(f"{where}: nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            for key, item in value.items():
                _check_values(key, where, depth)
                _check_values(item, where, depth - 1)
        else:
            for item in value:
                _check_values(item, where, depth - 1)


def _check_unique(names: Sequence[str], where: str) -> None:
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        if first.setdefault(name, i) != i:
            raise FormatError(f"{where}[{i}].name is {show(name)}, which {where}[{first[name]}] is already")


def _get(holder: dict[str, Any], key: str, where: str) -> Any:
    if key not in holder:
        raise FormatError(f"{where}.{key} is missing")
    return holder[key]


def _list(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = _get(holder, key, "header")
    if not isinstance(value, list):
        raise FormatError(f"header.{key} is {show(value)}: it must be a list")
    for i, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise FormatError(f"{key}[{i}] is {show(entry)}: it must be an object")
    return value


def _name(entry: dict[str, Any], where: str) -> str:
    name = _get(entry, "name", where)
    if not isinstance(name, str):
        raise FormatError(f"{where}.name is {show(name)}: it must be text")
    return name


def _integer(holder: dict[str, Any], key: str, where: str, low: int, high: int | None) -> int:
    value = _get(holder, key, where)
    label = f"{where}.{key}"
    if type(value) is not int:  # bool is an int to isinstance
        raise FormatError(f"{label} is {show(value)}: it must be a whole number")
    if value < low or (high is not None and value > high):
        raise FormatError(f"{label} is {value}: it must be {low} or more" + (f" and at most {high}" if high is not None else ""))
    return value


def _real(holder: dict[str, Any], key: str, where: str, low: float, high: float) -> float:
    value = _get(holder, key, where)
    if type(value) not in (int, float) or not low <= value <= high:
        raise FormatError(f"{where}.{key} is {show(value)}: it must be a number from {low:g} to {high:g}")
    return float(value)
