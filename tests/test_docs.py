"""Tests that the generated parts of docs/ are up to date, and that the targets of links between pages exist."""

import importlib.util
import re
import unicodedata
from pathlib import Path

import pytest

from paths import DOCS, ROOT

PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])


def generate() -> object:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_files_is_up_to_date() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert generate().with_file_list(page) == page, "run `make docs`"  # type: ignore[attr-defined]


def test_every_source_file_says_in_its_first_line_what_it_is() -> None:
    for line in generate().file_list().splitlines():  # type: ignore[attr-defined]
        name, colon, summary = line.partition(":")
        assert not line.startswith("- ") or (colon and len(summary.split()) >= 2), f"{name}: a docstring or comment at the top is missing"


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown renderer makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {"".join(c for c in heading.lower() if is_kept(c)).replace(" ", "-") for heading in headings}


def is_kept(character: str) -> bool:
    """Letters, marks (Devanagari vowel signs), numbers and a few signs stay in an anchor."""
    return character in "-_ " or unicodedata.category(character)[0] in "LMN"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links to {target}"
