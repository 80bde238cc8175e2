"""What a model file says about its training text: labels, sizes and hashes of the source files, and whether it was private.

A path or a file name can name a person, so a model carries neither. Files of earlier versions have paths; they are left out when such
a model is written again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PRIVATE_KEY = "private_messages"
"""Metadata key that is true if the model was trained on private messages, such as an exported chat; otherwise it is missing."""

PRIVATE_NOTE = "trained on private messages: share the model only with people who may read them"

_KEPT = ("label", "bytes", "sha256")


def is_private(metadata: Mapping[str, Any]) -> bool:
    """Whether a model was trained on private messages."""
    return metadata.get(PRIVATE_KEY) is True


def public_sources(sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Label, size and SHA-256 of the source files, without their paths; a file without a label gets its number."""
    return [
        {"label": f"source-{number}", **{name: source[name] for name in _KEPT if name in source}}
        for number, source in enumerate(sources, 1)
    ]


def has_paths(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata has paths of source files, as earlier versions wrote them."""
    return any(isinstance(source, dict) and "path" in source for source in _sources(metadata))


def without_paths(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without paths of source files."""
    if not has_paths(metadata):
        return dict(metadata)
    sources = [source for source in _sources(metadata) if isinstance(source, dict)]
    return {**metadata, "training": {**metadata["training"], "sources": public_sources(sources)}}


def tokens_seen(metadata: Mapping[str, Any]) -> int:
    """Training tokens of a model and of those from which it goes on; 0 if nothing is recorded."""
    training, parents = metadata.get("training"), metadata.get("parents")
    entries = [training, *(parents if isinstance(parents, list) else [])]
    counts = [entry.get("tokens_seen") for entry in entries if isinstance(entry, dict)]
    return sum(count for count in counts if type(count) is int and count > 0)


def _sources(metadata: Mapping[str, Any]) -> list[Any]:
    """`training.sources`; files of other programs can have anything under these keys."""
    training = metadata.get("training")
    sources = training.get("sources") if isinstance(training, dict) else None
    return sources if isinstance(sources, list) else []
