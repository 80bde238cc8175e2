"""Text of unknown origin (model output, file names, contents of files) as a terminal may show it.

Control characters can move the cursor, recolour or erase what is there, rename the window or answer for the user; bidirectional
overrides show text in another order than it has. Joiners (U+200C, U+200D) stay: Devanagari needs them.
"""

import json
import sys
from typing import Any

REPLACEMENT = "\ufffd"

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_LINE_BREAKS = (0x2028, 0x2029)
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)  # bytes of a file name that are not UTF-8

_UNSAFE = dict.fromkeys((*_CONTROLS, *_LINE_BREAKS, *_DIRECTIONS, *_SURROGATES), REPLACEMENT)
_UNSAFE_IN_LINES = {**_UNSAFE, ord("\n"): "\n", ord("\t"): "\t"}
_ONE_LINE = _UNSAFE | dict.fromkeys(map(ord, "\t\n\r"), " ")


def printable(text: str, *, lines: bool = False, limit: int | None = None) -> str:
    """`text` with every control character and direction mark replaced by U+FFFD.

    Args:
        text: any text.
        lines: keep line feeds and tabs; otherwise they and carriage returns become spaces, and the result is one line.
        limit: characters at most; a longer text ends in "...".
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 3, 0)] + "..."
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_UNSAFE_IN_LINES if lines else _ONE_LINE)


def model_text(text: str) -> str:
    """Text that a model wrote as standard output gets it: `printable` in a terminal; unchanged in a file or another program."""
    return printable(text, lines=True) if sys.stdout.isatty() else text


def echo(text: object = "", *, to_stderr: bool = False, flush: bool = False) -> None:
    """`print` for text that holds anything from outside: names of files, contents of files, messages of libraries."""
    print(printable(str(text), lines=True), file=sys.stderr if to_stderr else sys.stdout, flush=flush)


def printable_json(value: Any, *, indent: int | None = 2) -> str:
    """`value` as JSON that a terminal may show: the same characters as `printable` replaces are escaped, so that nothing is lost."""
    return escape_json(json.dumps(value, ensure_ascii=False, indent=indent))


def escape_json(text: str) -> str:
    """The same for JSON that is text already, as in a file."""
    # Below U+0020 there are only the line feeds and spaces between values: json.dumps escapes control characters in texts itself.
    return text.translate({code: f"\\u{code:04x}" for code in _UNSAFE if code > 0x1F})
