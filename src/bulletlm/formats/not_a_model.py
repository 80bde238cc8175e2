"""Recognizes files that are not models but the result of a failed or partial download. It needs no numpy."""

import re

_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = re.compile(rb"\A\S*/annex/objects/")
_HTML = re.compile(rb"\A(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\A(\xef\xbb\xbf)?\s*<\?xml\b", re.IGNORECASE)
_HUB_ERRORS = (b"Entry not found", b"Repository not found", b"Invalid username or password", b"Access to model ")

INSTEAD = (
    "the nearest that works is a Llama model with a tokenizer of BulletLM, or text that this model writes, as training text for a new one"
)
"""What to do with a model of another architecture."""


def what_was_downloaded(head: bytes) -> str | None:
    """Say what a wrongly downloaded file is and what to do; None for any other file.

    Args:
        head: the beginning of the file; 1024 bytes are enough.
    """
    if head.startswith(_LFS):
        return "this is a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`"
    if _ANNEX.match(head):
        return "this is a git-annex pointer, not the file itself: fetch the file with `git annex get`"
    if _HTML.match(head):
        return "this is a web page (HTML), not a model: the download failed; fetch the file again and check the address"
    if _XML.match(head):
        return "this is an XML document, such as a storage server's error message, not a model: fetch the file again"
    if head.startswith(_HUB_ERRORS):
        return "this is an error message of a model hub, not a model: fetch the file again and check the address and your access"
    return None
