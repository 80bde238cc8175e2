"""Reads .docx and .epub files: ZIP archives of XML and HTML.

The XML is parsed by defusedxml, which refuses document types and entities. The unpacked size is checked before unpacking.
"""

import io
import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from bulletlm.data.readers.opened import one_line
from bulletlm.data.readers.raw import NotReadError

MOST_UNPACKED_BYTES = 256 << 20
_FREE_BYTES = 16 << 20
_LARGEST_RATIO = 100
_MOST_MEMBERS = 20_000
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"


def docx_paragraphs(data: bytes) -> Iterator[str]:
    """The paragraphs of a Word document in order, including tables, then its notes. Deleted text of tracked changes is left out."""
    if data.startswith(_OLD_OFFICE):
        raise NotReadError("protected by a password, or a document of Word 97-2003: save it as .docx without a password")
    with _open(data) as archive:
        names = set(archive.namelist())
        main = next((name for name in ("word/document.xml", "word/document2.xml") if name in names), None)
        if main is None:
            raise NotReadError("it is not a Word document: it has no word/document.xml")
        for name in (main, "word/footnotes.xml", "word/endnotes.xml"):
            if name in names:
                yield from _word_paragraphs(_xml(archive.read(name)))


def _word_paragraphs(root: Any) -> Iterator[str]:
    for node in root.iter():
        if _local(node.tag) == "p":
            text = "".join(_word_text(node)).strip()
            yield from (line.strip() for line in text.split("\n") if line.strip())


def _word_text(paragraph: Any) -> Iterator[str]:
    """Text of a paragraph; nested paragraphs, as in a text box, are returned separately."""
    waiting = list(reversed(paragraph))
    while waiting:
        node = waiting.pop()
        name = _local(node.tag)
        if name in ("p", "del", "moveFrom", "Fallback", "instrText", "delText", "pPr", "rPr"):
            continue
        if name == "t":
            yield node.text or ""
        elif name == "tab":
            yield " "
        elif name in ("br", "cr"):
            yield "\n"
        elif name == "noBreakHyphen":
            yield "-"
        else:
            waiting.extend(reversed(node))


def epub_paragraphs(data: bytes) -> Iterator[str]:
    """The paragraphs of a book in reading order, all chapters together."""
    from bulletlm.data.readers.pages import decode_html, html_paragraphs

    with _open(data) as archive:
        names = set(archive.namelist())
        if "META-INF/encryption.xml" in names and _is_protected(archive):
            raise NotReadError("protected against copying (DRM): its text cannot be read")
        if "META-INF/container.xml" not in names:
            raise NotReadError("it is not an EPUB file: it has no META-INF/container.xml")
        container = _xml(archive.read("META-INF/container.xml"))
        package_name = next((node.get("full-path") for node in container.iter() if _local(node.tag) == "rootfile"), None)
        if package_name not in names:
            raise NotReadError("the EPUB is damaged: its package file is missing")
        package = _xml(archive.read(package_name))
        items = {node.get("id"): node for node in package.iter() if _local(node.tag) == "item"}
        for reference in (node for node in package.iter() if _local(node.tag) == "itemref"):
            item = items.get(reference.get("idref"))
            if item is None or "nav" in (item.get("properties") or "").split():
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(package_name), unquote(item.get("href") or "")))
            if name in names and "html" in (item.get("media-type") or "html"):
                yield from html_paragraphs(decode_html(archive.read(name)), whole=True)


def _is_protected(archive: zipfile.ZipFile) -> bool:
    """Whether anything other than fonts is encrypted."""
    references = [
        node.get("URI") or "" for node in _xml(archive.read("META-INF/encryption.xml")).iter() if _local(node.tag) == "CipherReference"
    ]
    return any(not name.lower().endswith((".ttf", ".otf", ".woff", ".woff2")) for name in references)


def _open(data: bytes) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise NotReadError(f"the file is damaged ({one_line(error)})") from None
    entries = archive.infolist()
    if any(entry.flag_bits & 1 for entry in entries):
        raise NotReadError("protected by a password: save it without one")
    size = sum(entry.file_size for entry in entries if entry.filename.lower().endswith((".xml", ".html", ".xhtml", ".htm", ".opf")))
    if len(entries) > _MOST_MEMBERS or size > min(MOST_UNPACKED_BYTES, _FREE_BYTES + _LARGEST_RATIO * len(data)):
        raise NotReadError(f"it unpacks to {size >> 20:,} MB of text, far more than documents of its size do")
    return archive


def _xml(data: bytes) -> Any:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        return fromstring(data, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except DefusedXmlException:
        raise NotReadError("its XML defines entities, which are not expanded") from None
    except ParseError as error:
        raise NotReadError(f"its XML is damaged ({one_line(error)})") from None


def _local(tag: Any) -> str:
    return str(tag).rpartition("}")[2]
