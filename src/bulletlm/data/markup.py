"""Markup removal: detects documents in HTML, wiki text or Markdown and converts them to plain text.

A text about markup ("The <b> tag makes text bold") does not count as markup. A parser of the markup language decides:
most of the text must be inside HTML elements, or the parser must find several kinds of Markdown or wiki constructs.
"""

import html
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")

_INLINE = "a|abbr|acronym|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|var|wbr"
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|caption|center|col|colgroup|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|"
    "h[1-6]|head|header|hr|html|iframe|img|input|label|legend|li|link|main|meta|nav|noscript|object|ol|optgroup|option|p|param|picture|pre|"
    "section|select|source|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video|audio|svg|gallery|nowiki|includeonly|noinclude"
)
_HIDDEN = re.compile(r"<(script|style|ref|math)\b[^<>]*>|<!--|<!DOCTYPE[^<>]*>|<!\[CDATA\[|\]\]>", re.I)
_HIDDEN_ENDS = {name: re.compile(rf"</{name}\s*>", re.I) for name in ("script", "style", "ref", "math")} | {"": re.compile("-->")}
"""The end of an element or, "", of a comment."""
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.I)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK})(?:\s[^<>]*)?/?>", re.I)
_WIKI = (
    (re.compile(r"\{\{[^{}]*\}\}"), ""),
    (re.compile(r"\[\[(?:File|Image|Category|चित्र|वर्ग):[^\[\]]*\]\]", re.I), ""),
    (re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"), r"\1"),
    (re.compile(r"'''([^']+)'''"), r"\1"),
    (re.compile(r"(?<![\w'])''([^']+)''(?![\w'])"), r'"\1"'),
    (re.compile(r"^(={2,6})\s*([^=]*?)\s*\1\s*$"), r"\2"),
    (re.compile(r"\[https?://\S{1,2000} ([^\[\]]+)\]"), r"\1"),
)
_MARKDOWN = (
    (re.compile(r"\[\[[\d, -]+\]\]\([^()\s]*\)"), ""),
    (re.compile(r"!?\[([^\[\]]*)\]\((?:https?:|/|\.|#|mailto:)[^()\s]*(?:\s\"[^\"]*\")?\)"), r"\1"),
    (re.compile(r"^```.*$"), ""),
    (re.compile(r"^#{1,6} +"), ""),
    (re.compile(r"\*\*(?=\S)([^*]+?)(?<=\S)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)__(?=\S)(?!\w+__)([^_]+?)(?<=\S)__(?!\w)"), r"\1"),  # a single word is a name: __init__
)


DECISION_CHARACTERS = 200_000
"""Number of characters at the beginning of a document that are examined."""

_HTML_CHARACTERS = 50_000
"""HTML is recognized in fewer, because the parser of the library takes the square of the time for tags that do not end."""

_PASSES = 50
"""Constructs inside each other are removed to this depth: a line that is made for it would take the square of its time."""

_INSIDE_ELEMENTS = 0.7
_BLOCK_NAMES = frozenset(
    "address article aside blockquote body caption center dd div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 header html li main "
    "nav ol p pre section table tbody td th thead tr ul".split()
)
_MARKDOWN_KINDS = {
    "heading_open": "heading", "strong_open": "strong", "link_open": "link", "image": "link", "fence": "fence",
    "bullet_list_open": "list", "ordered_list_open": "list", "blockquote_open": "quote", "table_open": "table",
}  # fmt: skip
_WIKI_SIGNS = (
    re.compile(r"\[\[[^\[\]]+\]\]"),
    re.compile(r"^(={2,6})[^=]+\1\s*$", re.M),
    re.compile(r"\{\{[^{}]+\}\}"),
    re.compile(r"'{2,3}[^']+'{2,3}"),
)


def markup_of(lines: Sequence[str]) -> frozenset[str]:
    """The markup languages of a document: a subset of "html", "wiki", "markdown"; empty for plain text."""
    text = "\n".join(lines)[:DECISION_CHARACTERS]
    found = set()
    if "<" in text and _is_html(text):
        found.add("html")
    if ("[[" in text or "{{" in text or "==" in text) and _is_wiki(text):
        found.add("wiki")
    elif any(sign in text for sign in ("](", "**", "__", "```", "# ")) and _is_markdown(text):
        found.add("markdown")
    return frozenset(found)


class _Elements(HTMLParser):
    """Counts the characters of text inside and outside closed block elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside = self.outside = self.breaks = 0
        self.document = False
        self.closed = Counter[str]()
        self._open: list[str] = []
        self._pending = 0

    def handle_decl(self, decl: str) -> None:
        self.document |= decl.lower().startswith("doctype html")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.document |= tag in ("html", "body")
        self.breaks += tag in ("br", "hr")
        if tag in _BLOCK_NAMES:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
            self.closed[tag] += 1
            if not self._open:
                self.inside += self._pending
                self._pending = 0

    def handle_data(self, data: str) -> None:
        size = len(data.strip())
        if self._open:
            self._pending += size
        else:
            self.outside += size

    def done(self) -> None:
        self.close()
        self.outside += self._pending


def _is_html(text: str) -> bool:
    """Whether most of the text is inside HTML elements, or its lines end with <br>."""
    text = text[:_HTML_CHARACTERS]
    text = text[: text.rfind(">") + 1] + text[text.rfind(">") + 1 :].replace("<", " ")
    parser = _Elements()
    try:
        parser.feed(text)
        parser.done()
    except (AssertionError, ValueError):  # the library raises these for invalid declarations
        return False
    if parser.document and parser.closed:
        return True
    if parser.closed and parser.inside >= _INSIDE_ELEMENTS * (parser.inside + parser.outside):
        return True
    lines = [line for line in text.split("\n") if line.strip()]
    return parser.breaks >= 3 and sum(line.rstrip().lower().endswith(("<br>", "<br/>", "<br />")) for line in lines) >= len(lines) / 2


def _is_wiki(text: str) -> bool:
    """Whether there are two kinds of wiki markup, or three wiki links; Markdown has none of them."""
    counts = [len(sign.findall(text)) for sign in _WIKI_SIGNS]
    return counts[0] >= 3 or (counts[0] + counts[2] > 0 and sum(count > 0 for count in counts) >= 2)


def _is_markdown(text: str) -> bool:
    """Whether a Markdown parser finds two kinds of constructs, or several headings or links."""
    from markdown_it import MarkdownIt

    counts = Counter[str]()
    for token in MarkdownIt("commonmark").parse(text):
        for part in (token, *(token.children or ())):
            if part.type in _MARKDOWN_KINDS and not (part.type == "heading_open" and part.markup[:1] in "=-"):
                counts[_MARKDOWN_KINDS[part.type]] += 1
    clear = sum(counts[kind] > 0 for kind in ("heading", "strong", "link", "fence"))
    return clear >= 2 or counts["heading"] >= 2 or counts["link"] >= 2 or (clear == 1 and counts["list"] + counts["quote"] > 1)


def decode_entities(text: str) -> str:
    """Decode HTML entities such as &amp; &nbsp; &#2350;, including entities that were encoded twice."""
    for _ in range(3):
        if "&" not in text or not _ENTITY.search(text):
            break
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return text


EVERY_KIND = frozenset({"html", "wiki", "markdown"})


def remove_markup(text: str, kinds: frozenset[str] = EVERY_KIND) -> str:
    """Remove HTML tags, wiki markup and Markdown from a line; the enclosed text stays, except scripts, references and templates.

    Only names of HTML elements count as tags: <tool> and a < b stay.
    """
    for _ in range(_PASSES):
        start = text
        if "html" in kinds and "<" in text:
            text = _without_hidden(text)
            text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))
        if "markdown" in kinds and ("](" in text or "**" in text or "__" in text or text.startswith(("#", "```"))):
            for pattern, left in _MARKDOWN:
                text = pattern.sub(left, text)
        if "wiki" in kinds and ("[[" in text or "{{" in text or "''" in text or "==" in text or "[http" in text):
            for pattern, left in _WIKI:
                text = pattern.sub(left, text)
        if text == start:
            break
    return text


def _without_hidden(text: str) -> str:
    """Remove comments, scripts, styles, notes and formulas with what is in them. One that does not end stays, and takes no time."""
    parts, at = [], 0
    endless: set[str] = set()
    for found in _HIDDEN.finditer(text):
        if found.start() < at:
            continue
        name = (found[1] or "").lower()
        end = found.end()
        if (name and not found[0].endswith("/>")) or found[0] == "<!--":
            ends = None if name in endless else _HIDDEN_ENDS[name].search(text, end)
            if ends is None:
                endless.add(name)
                continue
            end = ends.end()
        elif name and name != "ref":
            continue
        parts.append(text[at : found.start()])
        at = end
    return "".join(parts) + text[at:] if parts else text


_RULER_HINT = re.compile(r"[-_=*~.!?#+—–•·|/\\]{4}")
_RULER = re.compile(r"([-_=*~.!?#+—–•·|/\\])\1{3,}")
_RULER_LEFT = {".": "...", "!": "!!!", "?": "???"}


def shorten_rulers(text: str) -> str:
    """Shorten runs of four or more of one symbol: dots, ! and ? to three of them, others to a space."""
    if not _RULER_HINT.search(text):
        return text
    return _RULER.sub(lambda found: _RULER_LEFT.get(found[1], " "), text)
