"""What is left of web pages, wikis and Markdown in text that should be plain."""

import html
import re

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")

_INLINE = "a|abbr|acronym|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|var|wbr"
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|caption|center|col|colgroup|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|"
    "h[1-6]|head|header|hr|html|iframe|img|input|label|legend|li|link|main|meta|nav|noscript|object|ol|optgroup|option|p|param|picture|pre|"
    "section|select|source|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video|audio|svg|gallery|nowiki|includeonly|noinclude"
)
_HIDDEN = re.compile(
    r"<(script|style|ref|math)\b[^<>]*>.*?</\1\s*>|<ref\b[^<>]*/>|<!--.*?-->|<!DOCTYPE[^<>]*>|<!\[CDATA\[|\]\]>", re.I | re.S
)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.I)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK})(?:\s[^<>]*)?/?>", re.I)
_WIKI = (
    (re.compile(r"\{\{[^{}]*\}\}"), ""),
    (re.compile(r"\[\[(?:File|Image|Category|चित्र|वर्ग):[^\[\]]*\]\]", re.I), ""),
    (re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"), r"\1"),
    (re.compile(r"'''([^']+)'''"), r"\1"),
    (re.compile(r"(?<![\w'])''([^']+)''(?![\w'])"), r'"\1"'),
    (re.compile(r"^(={2,6})\s*([^=]*?)\s*\1\s*$"), r"\2"),
    (re.compile(r"\[https?://\S+ ([^\[\]]+)\]"), r"\1"),
)
_MARKDOWN = (
    (re.compile(r"\[\[[\d, -]+\]\]\([^()\s]*\)"), ""),
    (re.compile(r"!?\[([^\[\]]*)\]\((?:https?:|/|\.|#|mailto:)[^()\s]*(?:\s\"[^\"]*\")?\)"), r"\1"),
    (re.compile(r"^```.*$"), ""),
    (re.compile(r"^#{1,6} +"), ""),
    (re.compile(r"\*\*(?=\S)([^*]+?)(?<=\S)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)__(?=\S)([^_]+?)(?<=\S)__(?!\w)"), r"\1"),
)


def decode_entities(text: str) -> str:
    """&amp; &nbsp; &#2350; and the like as the characters they stand for, also where they were encoded twice."""
    for _ in range(3):
        if "&" not in text or not _ENTITY.search(text):
            break
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return text


def remove_markup(text: str) -> str:
    """A line without HTML tags, wiki marks and Markdown; what they enclose stays, but for scripts, references and templates.

    Only names that HTML has are tags: <tool> and a < b stay.
    """
    while True:
        start = text
        if "<" in text:
            text = _HIDDEN.sub("", text)
            text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))
        if "](" in text or "**" in text or "__" in text or text.startswith(("#", "```")):
            for pattern, left in _MARKDOWN:
                text = pattern.sub(left, text)
        if "[[" in text or "{{" in text or "''" in text or "==" in text or "[http" in text:
            for pattern, left in _WIKI:
                text = pattern.sub(left, text)
        if text == start:
            return text


_RULER_HINT = re.compile(r"[-_=*~.!?#+—–•·|/\\]{4}")
_RULER = re.compile(r"([-_=*~.!?#+—–•·|/\\])\1{3,}")
_RULER_LEFT = {".": "...", "!": "!!!", "?": "???"}


def shorten_rulers(text: str) -> str:
    """Rows of four or more of one sign: dots, ! and ? as three of them, others as a space."""
    if not _RULER_HINT.search(text):
        return text
    return _RULER.sub(lambda found: _RULER_LEFT.get(found[1], " "), text)
