"""Converts HTML to paragraphs: the main text without menus, scripts and forms."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from bulletlm.data.code_pages import marked_encoding, old_encoding, wide_encoding
from bulletlm.data.readers.raw import NotReadError

_NOT_TEXT = ",".join(
    "script style noscript template nav aside form button select svg math iframe object embed audio video canvas head [hidden] "
    "[aria-hidden=true]".split()
)
_FURNITURE = "header,footer,[role=navigation],[role=banner],[role=contentinfo]"
_BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr html li main nav ol p pre section summary table tbody tfoot thead tr ul".split()
)
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w.-]{2,30})|<\?xml[^>]{0,100}encoding\s*=\s*[\"']([\w.-]{2,30})", re.IGNORECASE
)
_LOOKED_AT = 1 << 16


def decode_html(data: bytes) -> str:
    """Decode HTML with the encoding of its byte order mark or its head; detect the encoding if there is none that works."""
    named = _CHARSET.search(data[:4_096])
    return decode_text(data, (named[1] or named[2]).decode("ascii", "replace") if named else "")


def decode_text(data: bytes, name: str = "") -> str:
    """Decode text with the encoding of its byte order mark or `name`, else with UTF-8 or a legacy code page.

    Raises:
        NotReadError: the encoding cannot be detected with certainty.
    """
    for codec in (marked_encoding(data), name, wide_encoding(data[:_LOOKED_AT]), "utf-8"):
        try:
            if codec:
                return data.decode("cp1252" if codec.lower() in ("iso-8859-1", "latin1", "us-ascii") else codec).removeprefix("\ufeff")
        except (LookupError, UnicodeDecodeError):
            continue
    page = old_encoding(b"\n".join(line for line in data.split(b"\n") if not line.isascii()))
    if page is None:
        raise NotReadError("its encoding cannot be detected with certainty: save it as UTF-8")
    return data.decode(page, "replace")


def html_paragraphs(markup: str, whole: bool = False) -> Iterator[str]:
    """The paragraphs of a page in order.

    Args:
        whole: keep headers and footers, as in the chapters of a book.
    """
    from selectolax.lexbor import LexborHTMLParser

    if "<title>Exported Data</title>" in markup[:4_096]:
        raise NotReadError("a Telegram export, which is not read: export the chat as text, or write its messages as .jsonl")
    tree = LexborHTMLParser(markup)
    for node in tree.css(_NOT_TEXT if whole else f"{_NOT_TEXT},{_FURNITURE}"):
        if node.parent is not None and not _holds_article(node):
            node.decompose()
    mains = [] if whole else tree.css("main") or tree.css("article")
    roots = [node for node in mains if node.text(strip=True)] or ([tree.body] if tree.body is not None else [])
    for root in roots:
        lines = _Lines()
        lines.feed(root.html or "")
        lines.close()
        yield from lines.paragraphs()


def _holds_article(node: object) -> bool:
    """Whether an element that would be removed contains the main text, as in pages that consist of one form."""
    return bool(node.css_first("article, main")) if hasattr(node, "css_first") else False


class _Lines(HTMLParser):
    """Extracts the text of well-formed HTML, with a line end at the borders of block elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = []
        self._text: list[str] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _BLOCKS:
            self._end_line()
        elif tag in ("td", "th") and self._text:
            self._text.append(" ")
        self._verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._end_line()
        self._verbatim -= tag == "pre" and self._verbatim > 0

    def handle_data(self, data: str) -> None:
        if self._verbatim:
            first, *others = data.split("\n")
            self._text.append(first)
            for line in others:
                self._lines.append("".join(self._text).rstrip())
                self._text = [line]
        else:
            self._text.append(re.sub(r"[ \t\r\n\f]+", " ", data))

    def _end_line(self) -> None:
        if self._text:
            line = "".join(self._text)
            self._lines.append(line.rstrip() if self._verbatim else re.sub(" +", " ", line).strip())
            self._text = []

    def paragraphs(self) -> list[str]:
        """Lines with text."""
        self._end_line()
        return [line for line in self._lines if line.strip()]
