"""Reads the text layer of .pdf files: joins lines to paragraphs and removes lines that are repeated on every page.

The text layer of an Indian script is not reliable: in many files the letters are in the order in which they were drawn. A file
in which more than 2 % of the Devanagari words are broken is not read.
"""

import io
import re
from collections import Counter
from collections.abc import Callable

from bulletlm.data.encodings import is_legacy_font
from bulletlm.data.letters import broken_words
from bulletlm.data.readers.opened import one_line
from bulletlm.data.readers.raw import NotReadError

MOST_BROKEN = 0.02
_MOST_CHARACTERS = 64_000_000
_LETTERS_ON_PAGE = 10
_FULL_LINE = 0.8
_SHORT_LINE = 45
_REPEATED_PAGES = 0.4
_LEAST_REPEATED = 3
_EDGE_LINES = 2
_DEVANAGARI = re.compile("[\u0904-\u0939]")
_LOST = re.compile("[\ufffd\ue000-\uf8ff]")
_WORD = re.compile(r"\S*[\u0900-\u097f\ufffd\ue000-\uf8ff]\S*")
_SENTENCE_END = re.compile(r"[.!?…।॥:][\"”’')\]]*$")
_OCR = "recognize its text first, for example with `ocrmypdf`"


def pdf_paragraphs(data: bytes, alive: Callable[[], None]) -> tuple[list[tuple[int, str]], list[tuple[int, str]], str]:
    """Return the paragraphs with the page on which each begins, the repeated page lines that are left out, and a note.

    Args:
        alive: called after every page.
    """
    pages, empty = _pages(data, alive)
    lines = [line for page in pages for line in page]
    letters = sum(character.isalpha() for line in lines for character in line)
    if not pages or letters < _LETTERS_ON_PAGE * max(len(pages) - empty, 1) or not lines:
        raise NotReadError(f"it has no text layer (scanned pages have none): {_OCR}")
    _check_script(lines)
    pages, furniture = _without_furniture(pages)
    note = f"{empty:,} of {len(pages):,} pages have no text layer: {_OCR}" if empty else ""
    return _join(pages), furniture, note


def _pages(data: bytes, alive: Callable[[], None]) -> tuple[list[list[str]], int]:
    import logging

    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise NotReadError("protected by a password: save it without one, for example with `qpdf --decrypt`")
        pages, empty, size = [], 0, 0
        for page in reader.pages:
            text = page.extract_text()
            size += len(text)
            if size > _MOST_CHARACTERS:
                raise NotReadError(f"it has more than {_MOST_CHARACTERS:,} characters: split it")
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            pages.append(lines)
            empty += not lines
            alive()
        return pages, empty
    except DependencyError:
        raise NotReadError("protected: save it without protection, for example with `qpdf --decrypt`") from None
    except NotReadError:
        raise
    except RecursionError:
        raise NotReadError("the file is damaged (its parts contain each other)") from None
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, NotImplementedError, OSError) as error:
        # The library raises these on damaged files.
        raise NotReadError(f"the file is damaged ({one_line(error) or type(error).__name__})") from None


def _check_script(lines: list[str]) -> None:
    text = "\n".join(lines)
    words = _WORD.findall(text)
    if _DEVANAGARI.search(text) or words:
        broken = sum(bool(_LOST.search(word)) or broken_words(word) > 0 for word in words)
        if broken > MOST_BROKEN * len(words):
            share = broken / len(words)
            raise NotReadError(
                f"{share:.0%} of the Devanagari words of its text layer are broken: use the document that the PDF was made from, or {_OCR}"
            )
    judged = [line for line in lines if len(line.split()) >= 6][:400]
    old = sum(is_legacy_font(line) for line in judged)
    if len(judged) >= 5 and old > 0.6 * len(judged):
        raise NotReadError(f"its text is Devanagari in a legacy font such as Kruti Dev: {_OCR}")


def _without_furniture(pages: list[list[str]]) -> tuple[list[list[str]], list[tuple[int, str]]]:
    """Remove page numbers, and lines at the top or bottom that are repeated on many pages."""

    def key(line: str) -> str:
        return re.sub(r"^\d+|\d+(?= of \d+$)|\d+$", "0", line.strip()).lower()

    seen: Counter[str] = Counter()
    for lines in pages:
        seen.update({key(line) for line in [*lines[:_EDGE_LINES], *lines[-_EDGE_LINES:]]})
    often = max(_LEAST_REPEATED, _REPEATED_PAGES * len(pages))
    kept, furniture = [], []
    for number, lines in enumerate(pages, 1):
        edges = {*range(min(_EDGE_LINES, len(lines))), *range(max(len(lines) - _EDGE_LINES, 0), len(lines))}
        out = {at for at in edges if seen[key(lines[at])] >= often or not re.search(r"[^\W\d_]{2}", lines[at])}
        furniture += [(number, lines[at]) for at in sorted(out)]
        kept.append([line for at, line in enumerate(lines) if at not in out])
    return kept, furniture


def _join(pages: list[list[str]]) -> list[tuple[int, str]]:
    """Join lines to paragraphs: a line that fills the page width or ends inside a sentence continues on the next line."""
    lengths = sorted(len(line) for lines in pages for line in lines)
    full = _FULL_LINE * lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0
    paragraphs: list[tuple[int, str]] = []
    ends = [_SENTENCE_END.search(line) is not None for lines in pages for line in lines]
    # In short lines, or if most lines end like a sentence, the end of a sentence ends the paragraph.
    sentences = sum(ends) > 0.5 * len(ends) or full < _FULL_LINE * _SHORT_LINE
    goes_on = False
    for number, lines in enumerate(pages, 1):
        for line in lines:
            if goes_on and paragraphs and not re.match(r"[•▪●–*-]\s", line):
                page, text = paragraphs[-1]
                hyphen = len(text) > 1 and text[-1] in "-\u2010\xad" and text[-2].isalpha() and line[:1].islower()
                paragraphs[-1] = (page, text[:-1] + line if hyphen else f"{text} {line}")
            else:
                paragraphs.append((number, line))
            ended = _SENTENCE_END.search(line) is not None
            goes_on = len(line) >= full and not (ended and (sentences or len(line) < 0.9 * full / _FULL_LINE))
    return paragraphs
