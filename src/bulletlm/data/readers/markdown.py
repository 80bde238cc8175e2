"""Converts Markdown to paragraphs without markup; code stays unchanged."""

import re
from collections.abc import Iterator
from typing import Any

_FRONT_MATTER = re.compile(r"\A\ufeff?---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)


def markdown_paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a Markdown text in order; a list item, a heading, a row of a table and a line of code are one each."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    row: list[str] = []
    in_row = False
    for token in parser.parse(_FRONT_MATTER.sub("", text)):
        if token.type == "inline":
            lines = [line.strip() for line in _inline(token.children or []).split("\n")]
            if in_row:
                row.append(" ".join(lines))
            else:
                yield from (line for line in lines if line)
        elif token.type == "tr_open":
            in_row, row = True, []
        elif token.type == "tr_close":
            if any(row):
                yield " ".join(cell for cell in row if cell)
            in_row = False
        elif token.type in ("fence", "code_block"):
            yield from (line for line in token.content.split("\n") if line.strip())
        elif token.type == "html_block":
            from bulletlm.data.readers.pages import html_paragraphs

            yield from html_paragraphs(token.content, whole=True)


def _inline(children: list[Any]) -> str:
    parts = []
    for child in children:
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type == "softbreak":
            parts.append(" ")
        elif child.type == "hardbreak":
            parts.append("\n")
        elif child.type == "image":
            parts.append(child.content)
    return "".join(parts)
