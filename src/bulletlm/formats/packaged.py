"""The models that are part of the package. It needs no numpy."""

from pathlib import Path

MODELS = Path(__file__).parents[1] / "models"
"""Folder of the package with its .bullet files; it may be missing."""

BASE = "marathi-english"
"""The model from which `bullet run FOLDER` starts."""


def packaged_model(name: str = BASE) -> Path | None:
    """The file of a model of the package; None if the package has no model of this name."""
    path = MODELS / f"{name}.bullet"
    return path if path.parent == MODELS and path.is_file() else None


def packaged_names() -> list[str]:
    """The names of the models of the package, in alphabetical order."""
    return sorted(path.stem for path in MODELS.glob("*.bullet"))
