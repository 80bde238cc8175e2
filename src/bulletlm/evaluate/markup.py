"""HTML as strings that cannot be confused with plain text.

The report shows texts from data files and models, so every helper here takes plain text and escapes it unless it is `Html`.
"""

import html
from collections.abc import Iterable
from typing import Any


class Html(str):
    """Text that is already HTML. Adding plain text to it escapes that text."""

    def __add__(self, other: str) -> "Html":
        return Html(str.__add__(self, escape(other)))


_CONTROLS = {
    **{n: 0x2400 + n for n in range(32) if n not in (9, 10)},
    **dict.fromkeys((127, *range(128, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}
"""Visible replacements for characters that HTML forbids or that change the direction of text; a model can write any of them."""


def escape(value: object) -> Html:
    """`value` as HTML; `Html` is returned unchanged."""
    return value if isinstance(value, Html) else Html(html.escape(str(value).translate(_CONTROLS)))


def tag(name: str, content: object, cls: str = "", **attributes: str) -> Html:
    """One element with its content; `cls` is the class attribute."""
    if cls:
        attributes["class"] = cls
    written = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{escape(content)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """All parts one after the other."""
    return Html("".join(escape(part) for part in parts))


def html_table(head: list[str], rows: list[list[Any]]) -> Html:
    """A table that scrolls sideways on small screens; the first cell of each row is its heading."""
    top = join(tag("th", cell, scope="col") for cell in head)
    body = join(tag("tr", tag("th", row[0], scope="row") + join(tag("td", cell) for cell in row[1:])) + "\n" for row in rows)
    return tag("div", tag("table", tag("thead", tag("tr", top)) + tag("tbody", Html(body))), cls="scroll")
