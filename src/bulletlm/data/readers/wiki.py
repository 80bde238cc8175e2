"""Reads wikis: MediaWiki XML dumps, and the output of wikiextractor.

A dump is read as a stream. Document types and custom entities are refused, so no entity is expanded.
"""

import contextlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from bulletlm.data.readers.extra import needs_extra
from bulletlm.data.readers.isolated import DocumentProcess
from bulletlm.data.readers.lines import BLOCK_BYTES, LINE_BYTES, line_blocks, lines_of
from bulletlm.data.readers.opened import DAMAGE, pieces
from bulletlm.data.readers.raw import BadRow, Block, Listener, NotReadError, RawDocument
from bulletlm.data.sources import SourceFile

_DOC = re.compile(r"^<doc\s[^>]*>\s*$")
_KEPT_BYTES = 4 << 20
PAGE_SECONDS = 10.0
_CHARACTERS_PER_SECOND = 20_000
"""The parser is stopped after PAGE_SECONDS and the time of this speed; ordinary pages are parsed more than ten times as fast."""
_MOST_GIVEN_UP = 5
"""After this number of pages in a block of about a megabyte, its other pages are given up too."""
_LEFT_OUT = re.compile(r"^\s*#\s*(?:redirect|पुनर्निर्देशन|अनुप्रेषित)", re.IGNORECASE)
_LINK_NAMESPACES = (
    "file",
    "image",
    "category",
    "चित्र",
    "वर्ग",
    "श्रेणी",
    "datei",
    "kategorie",
    "fichier",
    "catégorie",
    "archivo",
    "categoría",
)
_NOT_TEXT_TAGS = ("ref", "table", "gallery", "math", "timeline", "imagemap", "score", "syntaxhighlight", "templatestyles")


def dump_blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the articles of a dump as JSON lines: [number of the page, title, wikitext]."""
    needs_extra("mwparserfromhell", "a MediaWiki dump")
    listener.taken_for("MediaWiki dump")
    reader = _Dump()
    lines, size, first = list[bytes](), 0, 1
    problem: Exception | None = None
    try:
        for piece in pieces(file, encoding, listener.advance):
            for page in reader.feed(piece):
                lines.append(json.dumps(page, ensure_ascii=False).encode())
                size += len(lines[-1])
                if size >= BLOCK_BYTES:
                    yield Block(file, first, page[0], b"\n".join(lines))
                    lines, size, first = [], 0, page[0] + 1
        reader.finish()
    except (expat.ExpatError, *DAMAGE) as error:
        problem = error
    if lines and reader.is_dump:
        yield Block(file, first, reader.pages, b"\n".join(lines))
    if isinstance(problem, expat.ExpatError):
        if not reader.is_dump:
            raise NotReadError("XML of a kind that is not read: only dumps of MediaWiki are")
        raise NotReadError(f"the XML is damaged ({expat.errors.messages[problem.code]}, line {problem.lineno})")
    if problem:
        raise problem
    if reader.redirects or reader.other_pages:
        listener.note(f"{reader.redirects:,} redirects and {reader.other_pages:,} pages that are not articles are not read")


def dump_documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """An article each, beginning with its title.

    The parser runs in a process of its own: a page that is made for it can take hours or all of the memory.
    """
    given_up = 0
    with DocumentProcess() as process:
        for line in block.data.decode().split("\n"):
            number, title, text = json.loads(line)
            if len(text) > _KEPT_BYTES:
                yield BadRow(block.file.name, number, "longer_than_16_MB", text[:2_000], len(text))
                continue
            try:
                if given_up >= _MOST_GIVEN_UP:
                    raise NotReadError("too many pages before it")
                paragraphs = [title, *process.convert_wikitext(text, PAGE_SECONDS + len(text) / _CHARACTERS_PER_SECOND)]
            except NotReadError:
                given_up += 1
                yield BadRow(block.file.name, number, "wikitext_not_read", text[:2_000], len(text))
                continue
            yield RawDocument(block.file.name, number, block.file.language, paragraphs, [number] * len(paragraphs))


def plain_wikitext(text: str) -> list[str]:
    """The paragraphs of wikitext, without templates, tables, notes, and links to files and categories."""
    import mwparserfromhell

    code = mwparserfromhell.parse(text, skip_style_tags=False)
    for node in code.ifilter_tags(matches=lambda tag: str(tag.tag).strip().lower() in _NOT_TEXT_TAGS):
        _remove(code, node)
    for link in code.ifilter_wikilinks(matches=lambda link: str(link.title).partition(":")[0].strip().lower() in _LINK_NAMESPACES):
        if ":" in str(link.title):
            _remove(code, link)
    plain = code.strip_code(normalize=True, collapse=True, keep_template_params=False)
    lines = (re.sub(r"^[*#:;\s]+", "", line).strip() for line in plain.split("\n"))
    return [line for line in lines if line and not re.fullmatch(r"[|{}\[\]=!\s-]+", line)]


def _remove(code: Any, node: Any) -> None:
    with contextlib.suppress(ValueError):  # it was removed together with an enclosing node
        code.remove(node)


class _Dump:
    """Parses the XML of a dump piece by piece and returns its articles."""

    def __init__(self) -> None:
        self.is_dump = False
        self.pages = self.redirects = self.other_pages = 0
        self._path: list[str] = []
        self._text: list[str] = []
        self._size = 0
        self._page: dict[str, str] = {}
        self._found: list[tuple[int, str, str]] = []
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.buffer_text = True
        self._parser = parser

    def feed(self, piece: bytes) -> list[tuple[int, str, str]]:
        """Parse a piece and return the articles that end in it."""
        self._parser.Parse(piece, False)
        found, self._found = self._found, []
        return found

    def finish(self) -> None:
        """Check that the XML is complete."""
        self._parser.Parse(b"", True)

    def _refuse(self, *_: object) -> None:
        raise NotReadError("XML with a document type or entity declarations, which is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path:
            self.is_dump = name == "mediawiki"
            if not self.is_dump:
                raise NotReadError(f"XML of a kind that is not read (<{name[:40]}>): only dumps of MediaWiki are")
        self._path.append(name)
        if name == "page":
            self._page = {}
        elif name == "redirect":
            self._page["redirect"] = "yes"
        self._text, self._size = [], 0

    def _characters(self, text: str) -> None:
        if self._size <= LINE_BYTES and self._path and self._path[-1] in ("title", "ns", "text"):
            self._text.append(text)
            self._size += len(text)

    def _end(self, name: str) -> None:
        self._path.pop()
        if name in ("title", "ns", "text"):
            self._page[name] = "".join(self._text)  # the last revision if there are several
        elif name == "page":
            self._finish_page()
        self._text, self._size = [], 0

    def _finish_page(self) -> None:
        self.pages += 1
        text = self._page.get("text", "")
        if self._page.get("ns", "0").strip() != "0":
            self.other_pages += 1
        elif "redirect" in self._page or _LEFT_OUT.match(text):
            self.redirects += 1
        elif text.strip():
            self._found.append((self.pages, self._page.get("title", ""), text))


def extracted_blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the output of wikiextractor in blocks of complete articles."""
    listener.taken_for("articles of wikiextractor")
    yield from line_blocks(file, encoding, listener, border=b"</doc>\n", kind=".wiki")


def extracted_documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """An article each, beginning with its title."""
    document: RawDocument | None = None
    for item in lines_of(block):
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        begins = _DOC.match(line.removeprefix("\ufeff"))
        if begins or line.strip() == "</doc>":
            if document and document.paragraphs:
                yield document
            document = RawDocument(block.file.name, number, block.file.language)
        elif line.strip():
            document = document or RawDocument(block.file.name, number, block.file.language)
            document.paragraphs.append(html.unescape(line))
            document.lines.append(number)
    if document and document.paragraphs:
        yield document
