"""Writes the parts of docs/ that come from the code: settings.md, and the list of files in architecture.md (`make docs`)."""

import ast
import re
from pathlib import Path

from bulletlm.config.starter import settings_page

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "src" / "bulletlm"
BEGIN, END = "<!-- files: begin -->\n", "<!-- files: end -->\n"


def summary(path: Path) -> str:
    """The first sentence of a Python module's docstring, or of the comment at the top of a C file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        comment = ast.get_docstring(ast.parse(text)) or ""
    else:
        found = re.match(r"\s*/\*(.*?)\*/", text, re.DOTALL)
        comment = re.sub(r"\n \*?", "\n", found[1]) if found else ""
    paragraph = " ".join(comment.strip().split("\n\n")[0].split())
    sentence = re.match(r".*?\.(?=\s+[A-Z`]|$)", paragraph)
    return (sentence[0] if sentence else paragraph).rstrip(".:;")


def file_list() -> str:
    """One line for each source file that is not empty, grouped by folder, in Markdown."""
    lines: list[str] = []
    folder = None
    paths = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".c", ".h") and path.read_text(encoding="utf-8").strip()]
    for path in sorted(paths, key=lambda path: (path.parent != PACKAGE, path.relative_to(PACKAGE).parent.parts, path.name)):
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"**{(folder.relative_to(PACKAGE.parent)).as_posix()}/**", ""]
        lines.append(f"- `{path.name}`: {summary(path)}")
    return "\n".join([*lines[1:], "", ""])


def with_file_list(page: str) -> str:
    """The architecture page with its list of files brought up to date."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + file_list() + END + rest.split(END)[1]


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    architecture = DOCS / "architecture.md"
    architecture.write_text(with_file_list(architecture.read_text(encoding="utf-8")), encoding="utf-8")
