"""The commands that README and docs tell readers to type."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from paths import DOCS, ROOT

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])

PROGRAMS = (
    *("bullet", "bullet-builder", "python", "python3", "make", "pip", "git", "torchrun"),
    *("apt-get", "curl", "llama-cli", "llama-server", "ollama", "printf", "source", "."),
)

SHELLS = ("sh", "bash", "shell", "console")


class Command(NamedTuple):
    """A command of a page: the file, the line, its words, and whether it is a block of its own (not part of a sentence)."""

    page: str
    line: int
    words: tuple[str, ...]
    in_block: bool

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.words)


def commands(page: Path) -> list[Command]:
    """All commands of a page: in fenced blocks, in indented blocks and as code inside sentences."""
    found = []
    for line, text, in_block in _code(page.read_text(encoding="utf-8")):
        for words in _split(text):
            if words and words[0] in PROGRAMS and (in_block or words[0] in ("bullet", "bullet-builder", "make")):
                found.append(Command(page.name, line, tuple(words), in_block))
    return found


def programs(page: Path) -> set[str]:
    """The programs that the shell blocks of a page start."""
    fences = re.findall(rf"^[ ]*```+(?:{'|'.join(SHELLS)})\n(.*?)^[ ]*```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for fence in fences for line in fence.replace("\\\n", " ").split("\n")]
    return {words[0] for line in lines for words in _split(line) if words}


def _code(text: str) -> Iterator[tuple[int, str, bool]]:
    """(line number, code, whether it is in a block) of everything on a page that could be a command."""
    language: str | None = None
    joined, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if fence := re.match(r"\s*```+\s*(\S*)", line):
            language = (fence.group(1) or "text") if language is None else None
        elif language is not None:
            if language not in (*SHELLS, "text"):
                continue
            joined, start = joined + line.strip(), start or number
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            yield start, joined, True
            joined, start = "", 0
        elif line.startswith("    ") and line.split()[:1] and line.split()[0] in PROGRAMS:
            yield number, line.strip(), True
        else:
            yield from ((number, span, False) for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", line.replace("\\|", "|")))


def _split(text: str) -> list[list[str]]:
    """The commands of a line, split into words; a pipe or && separates commands."""
    text = re.split(r"\s{3,}(?=[a-z])", text)[0]  # an explanation that stands beside the command
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    parts: list[list[str]] = [[]]
    try:
        for token in lexer:
            if set(token) <= set("|&;"):
                parts.append([])
            else:
                parts[-1].append(token)
    except ValueError:  # not a command: prose with a single quotation mark
        return []
    return [[word for word in part if not re.fullmatch(r"[A-Z_]+=\S*", word) or part.index(word)] for part in parts]
