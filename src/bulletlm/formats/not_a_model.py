"""Recognizes files that are not models: failed or partial downloads, and files of other kinds. It needs no numpy."""

import re

_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = re.compile(rb"\A\S*/annex/objects/")
_HTML = re.compile(rb"\A(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\A(\xef\xbb\xbf)?\s*<\?xml\b", re.IGNORECASE)
_TEXT = "to make a model from text: bullet run FILE"
_WEIGHTS = "give the folder that holds it to bullet convert: bullet convert FOLDER NEW.bullet"

_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "a PDF document", _TEXT),
    (b"{\\rtf", "an RTF document", "save it as text or .docx; " + _TEXT),
    (b"\xd0\xcf\x11\xe0", "a document of an older Microsoft Office", "save it as .docx; " + _TEXT),
    (b"\x89PNG", "a picture (PNG)", ""),
    (b"\xff\xd8\xff", "a picture (JPEG)", ""),
    (b"GIF8", "a picture (GIF)", ""),
    (b"\x1f\x8b", "a file packed with gzip", "unpack it first: gunzip FILE"),
    (b"\xfd7zXZ\0", "a file packed with xz", "unpack it first: unxz FILE"),
    (b"BZh", "a file packed with bzip2", "unpack it first: bunzip2 FILE"),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstd", "unpack it first: unzstd FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"SQLite format 3", "an SQLite database", ""),
    (b"\x7fELF", "a program or library", ""),
    (b"MZ", "a program or library of Windows", ""),
    (b"\x93NUMPY", "one array of numpy", "give the folder that holds all of them to bullet-builder"),
    (b"PAR1", "a Parquet file", _TEXT),
    (b"ggml", "a GGML file, the predecessor of GGUF", "fetch the model as .gguf"),
)
"""First bytes, kind, and what to do."""

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


def what_kind(head: bytes) -> str | None:
    """Name the kind of a file that is not a model, and what to do with it; None for bytes of an unknown kind.

    Args:
        head: the beginning of the file; 4096 bytes are enough.
    """
    for beginning, kind, advice in _BEGINNINGS:
        if head.startswith(beginning):
            return _saying(kind, advice)
    if head.startswith(b"PK\x03\x04"):
        return _packed(head)
    if head[8:9] == b"{" and head[6:8] == b"\0\0" and b'"dtype"' in head:
        return _saying("a safetensors file, which holds weights but neither their shape nor a tokenizer", _WEIGHTS)
    if head.startswith(b"\n") and b"<unk>" in head[:20]:
        return _saying("a sentencepiece tokenizer", "")
    if head[257:262] == b"ustar":
        return _saying("a tar archive", "unpack it first: tar -xf FILE")
    if _is_text(head):
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
            return _saying("a JSON file", "a configuration or text is for bullet run")
        return _saying("a text file", _TEXT)
    return None


def _saying(kind: str, advice: str) -> str:
    return f"this is {kind}, not a model{': ' + advice if advice else ''}"


def _packed(head: bytes) -> str:
    """A ZIP archive, or one of the formats that are ZIP archives inside."""
    if b"word/" in head or b"[Content_Types].xml" in head:
        return _saying("a document of Microsoft Office", _TEXT)
    if b"application/epub+zip" in head:
        return _saying("an EPUB book", _TEXT)
    if b"vnd.oasis.opendocument" in head:
        return _saying("an OpenDocument file", "save it as .docx; " + _TEXT)
    if b"data.pkl" in head:
        return (
            "this is a checkpoint of PyTorch (a pickle). Loading one can run any program, so it is refused: export the model to safetensors"
        )
    if b".npy" in head:
        return _saying("an archive of numpy arrays (.npz)", "save each array as .npy, for bullet-builder")
    return _saying("a ZIP archive", "unpack it first; " + _TEXT)


def _is_text(head: bytes) -> bool:
    """Whether this is UTF-8 text; its end may be inside a character."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8-sig")
    return bool(text) and all(character.isprintable() or character in "\t\n\r\f" for character in text)
