"""Configurations to begin with: those of the package and those in the folder recipes of the workspace."""

from pathlib import Path

from bulletlm.config.recipes import RECIPES
from bulletlm.dashboard.workspace import Workspace


def recipes(workspace: Workspace) -> dict[str, Path]:
    """Recipes by their names; one of the workspace takes the place of a packaged one of the same name."""
    found: dict[str, Path] = {}
    for folder in (RECIPES, workspace.folder / "recipes"):
        if folder.is_dir():
            found |= {path.stem: path for path in sorted(folder.glob("*.jsonc")) if path.is_file()}
    return found
