"""Splits a text file into documents and joins wrapped lines to paragraphs.

    file        the whole file is one document: a book, a play, a poem, a collection of recipes
    blank_line  an empty line separates documents, each line is a paragraph: a list of articles
    form_feed   the character U+000C separates documents
    heading     each heading begins a document
    auto        `choose_structure` looks at the beginning of the file and decides

In most files an empty line does not separate documents: it separates speeches in plays, stanzas in songs, paragraphs in books.
Unless the lines show clearly that each block is a separate article, auto keeps the file together.

All functions here are pure: lines in, documents out. Line ends and blank lines are not counted as characters; every other
character of the lines is in a document, in a `Dropped`, or in the `changed` counts of a document.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Documents = Literal["auto", "file", "blank_line", "form_feed", "heading"]

DOCUMENT_CHARACTERS = 8_000
"""With blank_line, text without an empty line is cut after the paragraph that exceeds this size."""

SAMPLE_LINES = 20_000
"""`choose_structure` examines at most this many lines."""

_LONG_LINE = 100
"""Range of wrap widths in characters; manually broken lines are shorter, and lines that are whole paragraphs are longer."""

_ARTICLE_SHARE = 0.8
_LEAST_BLOCKS = 3
_WIDTHS = range(50, 101)
_FULL_LINES = 0.9
_LEAST_WRAPPED_LINES = 4

_SENTENCE_END = re.compile(r"[.!?…।॥。！？؟۔።][)\"”’'»\]*_]*$")
_SPEAKER = re.compile(r"^\S[^.!?]{0,40}[:.]$")
_START = re.compile(r"^\s*\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)", re.I)
_END = re.compile(r"^\s*(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)|End of (?:the )?Project Gutenberg['’]?s? )", re.I)
_CREDITS = re.compile(r"^\s*(?:produced by|e-?text prepared by|transcribed (?:by|from)|this ebook was produced by)\b", re.I)

_HEADINGS = {
    "markdown": re.compile(r"^# +\S"),
    "markdown_2": re.compile(r"^## +\S"),
    "wiki": re.compile(r"^=[^=].*[^=]=\s*$"),
    "wiki_2": re.compile(r"^==[^=].*[^=]==\s*$"),
    "numbered": re.compile(
        r"^\s*(?!\d)[^\W\d_][^.!?:;,।]{0,30}\s(?:[0-9]+|[०-९]+|[IVXLC]+)(?:[.:–—-].{0,60})?\s*$",
    ),
}
"""Kinds of headings, in the order in which they are looked for; "short" is any short first line of a block."""

_LEAST_HEADINGS = 2
_HEADING_CHARACTERS = 80


@dataclass(frozen=True)
class Structure:
    """The structure of a file, as `choose_structure` detects it.

    Attributes:
        documents: what separates documents.
        chosen: whether auto decided, so that the screen should say what it chose.
        width: length at which the lines of a paragraph are wrapped, so that they are joined again; 0: every line is a paragraph.
        gutenberg: whether the file has the header of Project Gutenberg.
        heading: kind of heading that begins a document; only with `documents` = "heading".
    """

    documents: Literal["file", "blank_line", "form_feed", "heading"]
    chosen: bool = False
    width: int = 0
    gutenberg: bool = False
    heading: str = ""

    def describe(self) -> str:
        """A phrase for the screen, such as "one document a file, lines wrapped at 72 characters are joined"."""
        parts = [
            {
                "file": "one document a file",
                "blank_line": "an empty line separates documents",
                "form_feed": "a form feed separates documents",
                "heading": "a heading begins a document",
            }[self.documents]
        ]
        if self.width:
            parts.append(f"lines wrapped at {self.width} characters are joined")
        if self.gutenberg:
            parts.append("the header and licence of Project Gutenberg are left out")
        return ", ".join(parts)


@dataclass
class TextDocument:
    """A document of a text file.

    Attributes:
        line: number of its first line.
        paragraphs, lines: its paragraphs, and the number of the first line of each.
        changed: per rule of the log, the characters that are in the lines but not in the paragraphs; negative if characters
            were added, such as the spaces between joined lines.
    """

    line: int
    paragraphs: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Dropped:
    """Lines that do not belong to the text of the document, such as a licence; `reason` is a rule of the log."""

    line: int
    reason: str
    text: str


def choose_structure(sample: Sequence[str], documents: Documents = "auto") -> Structure:
    """Choose how to read a text file.

    Args:
        sample: the first lines of the file without their ends; all of them if the file is small.
        documents: the setting of the source. Other values than "auto" are kept; wrapped lines and the header of Project
            Gutenberg are recognized in any case.
    """
    sample = list(sample[:SAMPLE_LINES])
    gutenberg = any(_START.match(line) for line in sample)
    if gutenberg:
        sample = _body(sample)
    blocks = _blocks(sample)
    width = _wrap_width(blocks)
    if documents == "auto":
        return Structure(_choose(sample, blocks, width), True, width, gutenberg)
    heading = _heading_kind(sample, blocks) if documents == "heading" else ""
    return Structure(documents, False, width, gutenberg, heading)


def split_documents(lines: Iterable[tuple[int, str]], structure: Structure) -> Iterator[TextDocument | Dropped]:
    """Split lines into documents, in order.

    Args:
        lines: number and text of each line, without its end: a whole file, or a part of it that ends at a document's end.
    """
    if structure.gutenberg:
        yield from _without_licence(lines, structure)
        return
    document, size = TextDocument(0), 0
    for begins, removed, block in _pieces(lines, structure):
        if removed:
            document.changed["spaces"] += removed
        if document.paragraphs and begins:
            yield document
            document, size = TextDocument(0), 0
        for number, text, joined in _paragraphs(block, structure):
            full = structure.documents == "blank_line" and size > DOCUMENT_CHARACTERS
            heading = structure.documents == "heading" and _is_heading(text, structure.heading)
            if document.paragraphs and (full or heading):
                yield document
                document, size = TextDocument(0), 0
            if not document.paragraphs:
                document.line = number
            document.paragraphs.append(text)
            document.lines.append(number)
            size += len(text)
            if joined:
                document.changed["unwrapped"] += joined
    if document.paragraphs:
        yield document


Block = list[tuple[int, str]]


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    return [[line for _, line in block] for block in _numbered_blocks(enumerate(lines))]


def _numbered_blocks(lines: Iterable[tuple[int, str]], separator: str = "") -> Iterator[Block]:
    """Lines between empty lines; a line with `separator` is not empty."""
    block: Block = []
    for number, line in lines:
        if line and (not line.isspace() or (separator and separator in line)):
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _choose(sample: list[str], blocks: list[list[str]], width: int) -> Literal["file", "blank_line", "form_feed"]:
    if _form_feeds_separate(sample):
        return "form_feed"
    if width or len(blocks) < _LEAST_BLOCKS:
        return "file"
    articles = [block for block in blocks if _is_article(block)]
    first_lines = Counter(block[0] for block in blocks)
    titles_differ = len(first_lines) > _ARTICLE_SHARE * len(blocks)
    return "blank_line" if titles_differ and len(articles) >= _ARTICLE_SHARE * len(blocks) else "file"


def _is_article(block: list[str]) -> bool:
    """Whether a block has several paragraphs, with or without a title; then an empty line is more than the end of a paragraph."""
    body = block if len(block[0]) >= _LONG_LINE else block[1:]
    long = sum(len(line) >= _LONG_LINE for line in body)
    return len(body) >= 2 and 2 * long > len(body) and not _SPEAKER.match(block[0])


def _form_feeds_separate(sample: list[str]) -> bool:
    """Whether form feeds separate documents; if they separated pages, most of them would be in the middle of a sentence."""
    ends: list[bool] = []
    before = ""
    for line in sample:
        if "\f" in line and before:
            ends.append(bool(_SENTENCE_END.search(before.strip())))
        if not line.isspace():
            before = line.rpartition("\f")[2] or before
    return len(ends) >= 2 and sum(ends) >= _ARTICLE_SHARE * len(ends)


def _wrap_width(blocks: list[list[str]]) -> int:
    """The length at which the lines of paragraphs are wrapped; 0 if they are not wrapped.

    A program that wraps text fills each line: the first word of the next line would not fit on the line before. Lines of verse,
    lists and tables do not have this property.
    """
    pairs = [(first, second) for block in blocks for first, second in itertools.pairwise(block) if _plain(first, second)]
    if len(pairs) < _LEAST_WRAPPED_LINES:
        return 0
    lengths = sorted(len(first) for first, _ in pairs)
    width = lengths[min(int(0.98 * len(lengths)), len(lengths) - 1)]
    if width not in _WIDTHS or max(lengths) > 1.5 * width:
        return 0
    full = sum(_is_full(first, second, width) for first, second in pairs)
    # Verse inside a book lowers the share; a file of verse has almost no full lines.
    long = median(len(first) for first, _ in pairs) > 0.8 * width
    # If a text has one sentence per line, the lines end like sentences.
    sentences = sum(_SENTENCE_END.search(first.rstrip()) is not None for first, _ in pairs)
    return width if long and full >= 0.6 * len(pairs) and 2 * sentences < len(pairs) else 0


def _plain(first: str, second: str) -> bool:
    return not first[:1].isspace() and not second[:1].isspace()


def _is_full(first: str, second: str, width: int) -> bool:
    """Whether the first word of `second` would not have fitted on the line `first`."""
    word = second.split(maxsplit=1)[0]
    return len(first) + 1 + len(word) > width - 2


def _paragraphs(block: Block, structure: Structure) -> Iterator[tuple[int, str, int]]:
    """Line number, text and number of removed characters of each paragraph: a wrapped block is joined, else each line is a paragraph."""
    texts = [text for _, text in block]
    if structure.width and _is_wrapped(texts, structure.width):
        joined = texts[0].rstrip()
        for text in texts[1:]:
            text = text.strip()
            joined += text if joined.endswith(("-", "\u2010")) and joined[-2:-1].isalpha() else f" {text}"
        yield block[0][0], joined, sum(map(len, texts)) - len(joined)
    else:
        yield from ((number, text, 0) for number, text in block)


def _is_wrapped(texts: list[str], width: int) -> bool:
    pairs = list(itertools.pairwise(texts))
    # The first line of a paragraph may be indented; if other lines are indented too, it is a list, a table or verse.
    if not pairs or any(text[:1].isspace() for text in texts[1:]) or max(map(len, texts)) > 1.5 * width:
        return False
    return sum(_is_full(first, second, width) for first, second in pairs) >= _FULL_LINES * len(pairs)


def _pieces(lines: Iterable[tuple[int, str]], structure: Structure) -> Iterator[tuple[bool, int, Block]]:
    """For each block: whether it begins a document, the number of separator characters removed before or in it, and the block."""
    if structure.documents != "form_feed":
        for block in _numbered_blocks(lines):
            short = structure.documents == "heading" and structure.heading == "short" and _is_short_title(block[0][1])
            yield structure.documents == "blank_line" or short, 0, block
        return
    begins = False
    for block in _numbered_blocks(lines, separator="\f"):
        part: Block = []
        removed = 0
        for number, line in block:
            blank = line.isspace()  # blank lines are not counted
            for n, piece in enumerate(line.split("\f")):
                if n:
                    yield begins, removed, part
                    begins, removed, part = True, 0 if blank else 1, []
                if piece and not piece.isspace():
                    part.append((number, piece))
                elif not blank:
                    removed += len(piece)
        yield begins, removed, part
        begins = False


def _heading_kind(sample: list[str], blocks: list[list[str]]) -> str:
    for kind, pattern in _HEADINGS.items():
        if sum(pattern.match(line) is not None for line in sample) >= _LEAST_HEADINGS:
            return kind
    return "short"


def _is_heading(text: str, kind: str) -> bool:
    return kind in _HEADINGS and len(text) <= _HEADING_CHARACTERS and _HEADINGS[kind].match(text) is not None


def begins_document(line: str, follows_text: bool, structure: Structure) -> bool:
    """Whether a line is a heading that begins a document; `follows_text`: the line before it is not empty."""
    if structure.heading == "short":
        return not follows_text and bool(line.strip()) and _is_short_title(line)
    return _is_heading(line, structure.heading)


def _is_short_title(text: str) -> bool:
    return len(text) <= _HEADING_CHARACTERS and not _SENTENCE_END.search(text.strip())


def _body(sample: list[str]) -> list[str]:
    """The lines between the start and end markers of Project Gutenberg."""
    begin = next(n for n, line in enumerate(sample) if _START.match(line)) + 1
    end = next((n for n, line in enumerate(sample) if n > begin and _END.match(line)), len(sample))
    return sample[begin:end]


def _without_licence(lines: Iterable[tuple[int, str]], structure: Structure) -> Iterator[TextDocument | Dropped]:
    """Keep the text between the start and end markers of Project Gutenberg; drop header, credits and licence.

    A part of a file without markers is text: the markers are in the first and last part of the file.
    """
    kept = [(number, line) for number, line in lines]
    begin = next((n + 1 for n, (_, line) in enumerate(kept) if _START.match(line)), 0)
    end = next((n for n, (_, line) in enumerate(kept) if n >= begin and _END.match(line)), len(kept))
    while begin < end and (not kept[begin][1].strip() or _CREDITS.match(kept[begin][1])):
        credit = _CREDITS.match(kept[begin][1])
        begin += 1
        while credit and begin < end and kept[begin][1].strip():
            begin += 1
    plain = Structure(structure.documents, structure.chosen, structure.width, False, structure.heading)
    yield from _dropped(kept[:begin])
    yield from split_documents(kept[begin:end], plain)
    yield from _dropped(kept[end:])


def _dropped(lines: Block) -> Iterator[Dropped]:
    texts = [(number, line) for number, line in lines if line and not line.isspace()]
    if texts:
        yield Dropped(texts[0][0], "gutenberg", "\n".join(line for _, line in texts))
