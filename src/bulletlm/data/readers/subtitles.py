"""Reads .srt and .vtt subtitles: the spoken text without cue numbers, times and styling; lines of one sentence are joined."""

import re
from collections.abc import Iterator

from bulletlm.data.readers.lines import line_blocks, lines_of
from bulletlm.data.readers.raw import BadRow, Block, Listener, RawDocument
from bulletlm.data.sources import SourceFile

_TIME = re.compile(r"^\s*(?:\d+:)?\d{1,2}:\d{2}[,.]\d{1,3}\s*-->")
_STYLE = re.compile(r"</?(?:[ibuc]|v|font|ruby|rt|lang|\d\d:\d\d)(?:[ .:][^>]*)?>|<\d[\d:.]*>|\{\\[^}]*\}")
_SENTENCE_END = re.compile(r"[.!?…।॥。！？؟۔♪\])][\"”’'»]*$")
_NOT_SPOKEN = ("WEBVTT", "NOTE", "STYLE", "REGION", "X-TIMESTAMP-MAP")


def blocks(file: SourceFile, encoding: str, listener: Listener) -> Iterator[Block | BadRow]:
    """Read the file in blocks of complete cues."""
    listener.taken_for("subtitles")
    yield from line_blocks(file, encoding, listener, border=b"\n\n")


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """Read the block as one document."""
    document = RawDocument(block.file.name, block.first, block.file.language)
    untimed: list[tuple[int, str]] = []  # lines of a cue before its time line
    spoken = False
    before = ""

    def without_time() -> Iterator[BadRow]:
        """The lines of a cue that has no time line, except numbers and comments."""
        if not spoken and untimed and not untimed[0][1].startswith(_NOT_SPOKEN):
            yield from (BadRow(block.file.name, number, "no_time", line) for number, line in untimed if not line.strip().isdigit())
        untimed.clear()

    for item in lines_of(block):
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        line = line.removeprefix("\ufeff")
        if not line.strip():
            yield from without_time()
            spoken = False
        elif not spoken:
            spoken = _TIME.match(line) is not None
            if not spoken:  # the number or the name of the cue, or a comment
                untimed.append((number, line))
        else:
            text = _STYLE.sub("", line).strip()
            if not text or text == before:  # automatic subtitles repeat the line above
                continue
            before = text
            if document.paragraphs and not _SENTENCE_END.search(document.paragraphs[-1]) and not text.startswith(("-", "–", "—", "♪")):
                document.paragraphs[-1] += f" {text}"
            else:
                document.paragraphs.append(text)
                document.lines.append(number)
    yield from without_time()
    if document.paragraphs:
        document.line = document.lines[0]
        yield document
