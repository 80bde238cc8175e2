"""The file types that are read, by file extension, and advice for those that are not."""

from pathlib import PurePath

PACKINGS = (".gz", ".xz", ".bz2")

KINDS = {
    ".txt": ".txt",
    ".text": ".txt",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
    ".json": ".json",
    ".tsv": ".tsv",
    ".tab": ".tsv",
    ".csv": ".csv",
    ".parquet": ".parquet",
    ".docx": ".docx",
    ".pdf": ".pdf",
    ".epub": ".epub",
    ".html": ".html",
    ".htm": ".html",
    ".xhtml": ".html",
    ".md": ".md",
    ".markdown": ".md",
    ".srt": ".srt",
    ".vtt": ".srt",
    ".xml": ".xml",
    ".wiki": ".wiki",
}
"""File extension in lower case -> file type."""

ARCHIVE = ".zip"

SAID = ".txt, .jsonl, .json, .tsv, .csv, .parquet, .docx, .pdf, .epub, .html, .md, .srt, .vtt, .xml or .zip"

_DOCX = "save it as .docx, for example with `soffice --convert-to docx FILE`"
_OCR = "a picture: recognize its text first (OCR)"
_UNPACK = "an archive of a kind that is not read: unpack it, or pack it as .zip"
_SOUND = "sound or video: only its subtitles (.srt, .vtt) can be read"
_SLIDES = "slides: save them as .pdf or .txt"
_BOOK = "a book in a format that is not read: convert it to .epub"
_SHEET = "a spreadsheet: save each sheet as .csv"
_DATABASE = "a database: export its text as .jsonl or .csv"

NOT_READ = {
    ".rtf": f"rich text, which is not read: {_DOCX}",
    ".odt": f"OpenDocument text, which is not read: {_DOCX}",
    ".fodt": f"OpenDocument text, which is not read: {_DOCX}",
    ".doc": f"a document of Word 97-2003, which is not read: {_DOCX}",
    ".docm": f"a document with macros, which is not read: {_DOCX}",
    ".pages": f"a document of Pages, which is not read: {_DOCX}",
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".numbers"), _SHEET),
    **dict.fromkeys((".ppt", ".pptx", ".odp", ".key"), _SLIDES),
    **dict.fromkeys((".mobi", ".azw", ".azw3", ".fb2", ".djvu"), _BOOK),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar", ".zst", ".lz4", ".lzma"), _UNPACK),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".svg"), _OCR),
    **dict.fromkeys((".mp3", ".wav", ".ogg", ".opus", ".m4a", ".flac", ".mp4", ".mkv", ".avi", ".mov", ".webm"), _SOUND),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), _DATABASE),
    ".tex": "TeX source, which is not read: convert it to .md or .html, for example with `pandoc`",
    ".eml": "an e-mail, which is not read: save its text as .txt",
    ".mbox": "e-mails, which are not read: save their text as .txt",
}
"""Extensions of files that are not read -> what they are and what to do."""

LITTER = ("__macosx", "desktop.ini", "ehthumbs.db", "thumbs.db")
"""Names in lower case of what Windows and macOS write beside the files of people."""

_UNKNOWN = f"not of a kind that is read ({SAID})"
_NO_ENDING = "its name has no known extension: add .txt if it is text"


def endings(path: PurePath) -> list[str]:
    """The extensions of a name in lower case, without that of a compression format."""
    found = [ending.lower() for ending in path.suffixes]
    return found[:-1] if found and found[-1] in PACKINGS else found


def kind_of_name(path: PurePath) -> str | None:
    """The type of a file by its name; None if it is not read, or if its contents decide."""
    found = endings(path)
    return KINDS.get(found[-1]) if found else None


def kind_of_beginning(beginning: bytes) -> str | None:
    """The type of a file without a known extension by its first bytes if they are unambiguous, else None."""
    start = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"<doc id=", b"<doc url=")):
        return ".wiki"
    return ".jsonl" if start.startswith(b'{"') else None


def why_hidden(name: str) -> str:
    """Why a file or folder is never text, by its name alone: what programs and systems put beside the files of people; else ""."""
    if name.startswith("."):
        return "hidden: its name begins with a dot"
    if name.startswith("~$"):
        return "hidden: it only says that a document was open in an Office program"
    return "hidden: the system wrote it" if name.lower() in LITTER else ""


def why_not_read(path: PurePath) -> str:
    """Why a file is not read, and what to do."""
    found = endings(path)
    return NOT_READ.get(found[-1], _UNKNOWN) if found else _NO_ENDING
