"""The configurations that come with the package (recipes). It needs no library, so that shell completion stays fast."""

from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
"""The folder of the configurations that come with the package."""


def find_recipe(name: str | Path) -> Path | None:
    """The configuration of the package that `demo` or `recipes/demo.jsonc` names; None if it is another path, or exists here."""
    path = Path(name)
    if path.exists() or str(path.parent) not in (".", "recipes") or path.suffix not in ("", ".jsonc"):
        return None
    recipe = RECIPES / f"{path.stem}.jsonc"
    return recipe if recipe.is_file() else None


def recipe_names() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.jsonc"))
