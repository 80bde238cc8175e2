"""Parses documents in a separate process with limits on memory and time, so that a failing library cannot stop the run.

The process reads requests from its standard input and writes answers to its standard output, one JSON object per line:

    {"path", "member", "kind"} or {"wikitext"}
    {"alive"}; {"paragraphs": [[page, text], ...]}, as often as needed; {"left_out": [[reason, page, text], ...]}; {"note"}
    {"end"} or {"error": why the document is not read}
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bulletlm.data.readers.extra import needs_extra
from bulletlm.data.readers.opened import DAMAGE, explain, read_whole
from bulletlm.data.readers.raw import BadRow, Block, Listener, NotReadError
from bulletlm.data.sources import SourceFile

SILENT_SECONDS = 120.0
"""Reading of a document stops after this time without a new page or part."""

MEMORY_BYTES = 4 << 30
_MOST_BYTES = 512 << 20
_PART_CHARACTERS = 1_000_000
_LIBRARIES = {
    ".docx": ("defusedxml", "Word documents"),
    ".epub": ("selectolax", "EPUB books"),
    ".html": ("selectolax", "HTML"),
    ".md": ("markdown_it", "Markdown"),
    ".pdf": ("pypdf", "PDF"),
}
_SAID = {".docx": "Word document", ".epub": "book (EPUB)", ".html": "web page", ".md": "Markdown", ".pdf": "PDF, its text layer"}


class DocumentProcess:
    """The process that parses documents; it is started for the first document, and again after it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes] = queue.Queue(maxsize=64)

    def __enter__(self) -> "DocumentProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the process."""
        if self._process:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._process = None

    def read(self, file: SourceFile) -> Iterator[dict[str, Any]]:
        """The answers for one file.

        Raises:
            NotReadError: the process reported an error, ended, or sent nothing for too long.
        """
        yield from self._ask({"path": os.fsencode(file.path.absolute()).hex(), "member": file.member, "kind": file.kind}, SILENT_SECONDS)

    def convert_wikitext(self, text: str, seconds: float) -> list[str]:
        """The paragraphs of wikitext.

        Raises:
            NotReadError: the parser failed, needed too much memory, or took longer than `seconds`.
        """
        return [paragraph for answer in self._ask({"wikitext": text}, seconds) for _, paragraph in answer.get("paragraphs", ())]

    def _ask(self, request: dict[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
        process = self._process or self._start()
        finished = False
        try:
            if process.stdin is None:
                raise NotReadError("the process that reads documents could not be started")
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while True:
                line = self._answers.get(timeout=seconds)
                if not line:
                    raise NotReadError("the library that reads it failed, or needed too much memory: convert it to another format")
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer or "end" in answer:
                    finished = True
                if "error" in answer:
                    raise NotReadError(answer["error"])
                if "end" in answer:
                    return
                yield answer
        except queue.Empty:
            raise NotReadError(f"reading stopped after {seconds:.0f} seconds without a result: convert it to another format") from None
        except BrokenPipeError:
            raise NotReadError("the library that reads it failed: convert it to another format") from None
        finally:
            if not finished:
                self.stop()

    def _start(self) -> "subprocess.Popen[bytes]":
        # -P: do not import modules from the user's current folder.
        command = [sys.executable, "-P", "-m", "bulletlm.data.readers.isolated"]
        self._process = process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        answers: queue.Queue[bytes] = queue.Queue(maxsize=64)
        self._answers = answers
        threading.Thread(target=_receive, args=(process.stdout, answers), daemon=True).start()
        return process


def _receive(pipe: IO[bytes], answers: "queue.Queue[bytes]") -> None:
    with contextlib.suppress(ValueError, OSError):  # closed by `stop`
        for line in pipe:
            answers.put(line)
    answers.put(b"")


def blocks(file: SourceFile, listener: Listener, process: DocumentProcess) -> Iterator[Block | BadRow]:
    """Read the document as blocks of JSON lines: [[page, paragraph], ...].

    Raises:
        DataError: the library that reads it is not installed.
    """
    needs_extra(*_LIBRARIES[file.kind])
    listener.taken_for(_SAID[file.kind])
    for answer in process.read(file):
        if "note" in answer:
            listener.note(answer["note"])
        for reason, page, text in answer.get("left_out", ()):
            yield BadRow(file.name, page, reason, text)
        part = answer.get("paragraphs")
        if part:
            yield Block(file, part[0][0], part[-1][0], json.dumps(part, ensure_ascii=False).encode("utf-8", "replace"))
    listener.advance(file.bytes_on_disk)


def main() -> None:
    """Answer requests until standard input ends."""
    _limit_memory()
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)  # output that a library prints must not mix with the answers

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "wikitext" in request:
                from bulletlm.data.readers.wiki import plain_wikitext

                _send_parts(enumerate(plain_wikitext(request["wikitext"]), 1), send)
            else:
                path = Path(os.fsdecode(bytes.fromhex(request["path"])))
                _answer(SourceFile(path, "", request["kind"], "auto", False, member=request["member"]), send)
        except DAMAGE as error:
            send({"error": explain(error)})
        except MemoryError:
            send({"error": "it needs too much memory: split it"})
        except Exception as error:  # a malicious file can make a library raise any exception
            send({"error": f"the library that reads it failed ({type(error).__name__}): convert it to another format"})
        else:
            send({"end": True})


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(file: SourceFile, send: Any) -> None:
    data = read_whole(file, _MOST_BYTES)
    if file.kind == ".pdf":
        from bulletlm.data.readers.pdf import pdf_paragraphs

        paragraphs, furniture, note = pdf_paragraphs(data, lambda: send({"alive": True}))
        if note:
            send({"note": note})
        send({"left_out": [("page_furniture", page, text) for page, text in furniture]})
        _send_parts(iter(paragraphs), send)
        return
    _send_parts(((number, text) for number, text in enumerate(_paragraphs(file.kind, data), 1)), send)


def _paragraphs(kind: str, data: bytes) -> Iterator[str]:
    from bulletlm.data.readers.pages import decode_html, decode_text, html_paragraphs

    if kind == ".docx":
        from bulletlm.data.readers.office import docx_paragraphs

        return docx_paragraphs(data)
    if kind == ".epub":
        from bulletlm.data.readers.office import epub_paragraphs

        return epub_paragraphs(data)
    if kind == ".md":
        from bulletlm.data.readers.markdown import markdown_paragraphs

        return markdown_paragraphs(decode_text(data).replace("\r\n", "\n"))
    return html_paragraphs(decode_html(data))


def _send_parts(paragraphs: Iterator[tuple[int, str]], send: Any) -> None:
    """Send paragraphs in parts of bounded size."""
    part: list[tuple[int, str]] = []
    size = 0
    for number, text in paragraphs:
        part.append((number, text))
        size += len(text)
        if size >= _PART_CHARACTERS:
            send({"paragraphs": part})
            part, size = [], 0
    if part:
        send({"paragraphs": part})


if __name__ == "__main__":
    main()
