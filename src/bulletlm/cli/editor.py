"""The input line of `bullet chat` in a terminal, with prompt_toolkit: history, completion of commands, messages of several lines."""

import contextlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.utils import get_cwidth
from wcwidth import iter_graphemes

from bulletlm.cli.wrap import character_width

HISTORY = "chat-history"
MAX_HISTORY_BYTES = 1_000_000
"""Size of the history above which the next chat begins another one."""

LOOK_BEHIND = 256
"""Characters before or after the cursor among which the edge of a letter is looked for; letters are far shorter."""


def history_path() -> Path:
    """Where the questions of earlier chats are kept, as the XDG base directories define it."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "bulletlm" / HISTORY


def open_editor(prompt: str, commands: Sequence[str], settings: Sequence[str], standard_output: TextIO) -> Callable[[], str]:
    """A function that reads one message and returns it without a newline at its end.

    Enter sends the message. Alt-Enter and pasted line breaks become line breaks in it. The function raises EOFError for Ctrl-D and
    KeyboardInterrupt for Ctrl-C, as `input` does.

    Args:
        prompt: shown at the start of the first line.
        commands: names that are completed at the start of a message, such as "/help".
        settings: names that are completed after "/set".
        standard_output: the stream of a terminal.
    """
    _widen_spacing_marks()
    session: PromptSession[str] = PromptSession(
        [("fg:ansidefault", prompt)],  # with a colour, the space at its end is drawn at once
        output=_output(standard_output),
        history=_history(),
        completer=_Commands(commands, settings),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        multiline=True,  # pasted line breaks stay; Enter is bound below
        prompt_continuation=" " * len(prompt),
        key_bindings=_keys(),
        enable_open_in_editor=False,
    )
    # Terminals wrap the lines again when their width changes; prompt_toolkit does not expect that and would leave parts behind.
    session.app._on_resize = lambda: _redraw_after_resize(session.app)  # type: ignore[method-assign]
    return lambda: session.prompt().encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _output(stream: TextIO) -> Output | None:
    """Where the message is drawn; None lets prompt_toolkit choose.

    Some terminals, and programs that use one, do not answer when they are asked where the cursor is, and prompt_toolkit would warn.
    """
    if os.name == "nt":
        return None

    def size() -> Size:
        try:
            columns, rows = os.get_terminal_size(stream.fileno())
        except OSError:
            columns, rows = 0, 0
        return Size(rows=rows or 24, columns=columns or 80)

    return Vt100_Output(stream, size, term=os.environ.get("TERM"), enable_cpr=False)


def _keys() -> KeyBindings:
    """Enter sends; the keys that move or delete treat a letter and its marks as one."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("backspace")
    def delete_before(event: KeyPressEvent) -> None:
        event.current_buffer.delete_before_cursor(_before(event.current_buffer.document))

    @keys.add("delete")
    def delete_after(event: KeyPressEvent) -> None:
        event.current_buffer.delete(_after(event.current_buffer.document))

    @keys.add("left")
    def left(event: KeyPressEvent) -> None:
        event.current_buffer.cursor_position -= _before(event.current_buffer.document)

    @keys.add("right")
    def right(event: KeyPressEvent) -> None:
        event.current_buffer.cursor_position += _after(event.current_buffer.document)

    return keys


def _before(document: Document) -> int:
    """Characters of the letter before the cursor; 0 at the start."""
    letters = list(iter_graphemes(document.text_before_cursor[-LOOK_BEHIND:]))
    return len(letters[-1]) if letters else 0


def _after(document: Document) -> int:
    """Characters of the letter after the cursor; 0 at the end."""
    return len(next(iter(iter_graphemes(document.text_after_cursor[:LOOK_BEHIND])), ""))


class _Commands(Completer):
    """Completes /commands, the settings after /set and the files after /save."""

    def __init__(self, commands: Sequence[str], settings: Sequence[str]) -> None:
        self._commands, self._settings = commands, settings
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        command, space, rest = text.partition(" ")
        if "\n" in document.text or not text.startswith("/"):
            return
        if not space:
            yield from _matching(self._commands, command)
        elif command == "/set" and " " not in rest:
            yield from _matching(self._settings, rest)
        elif command == "/save":
            yield from self._files.get_completions(Document(rest), complete_event)


def _matching(names: Iterable[str], start: str) -> Iterator[Completion]:
    return (Completion(name, start_position=-len(start)) for name in names if name.startswith(start))


class _History(FileHistory):
    """Does without the file where it cannot be written; a chat must not end because of its history."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string.encode("utf-8", "replace").decode())


def _history() -> FileHistory:
    """The history file, which only this user may read. It is begun again when it is large."""
    path = history_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        if path.stat().st_size > MAX_HISTORY_BYTES:
            os.replace(path, path.with_name(f"{HISTORY}.old"))
            path.touch(mode=0o600)
    return _History(str(path))


def _redraw_after_resize(app: "Application[str]") -> None:
    """Draw the message again after the terminal has wrapped its lines for another width."""
    screen = app.renderer.last_rendered_screen
    if screen:
        cursor = screen.get_cursor_position(app.layout.current_window)
        columns = max(1, app.output.get_size().columns)
        widths = [max((x + 1 for x, cell in screen.data_buffer[y].items() if cell.char.strip()), default=1) for y in range(cursor.y)]
        rows = sum(-(-width // columns) for width in widths) + cursor.x // columns
        app.output.write_raw("\r")
        app.output.cursor_up(max(0, rows - cursor.y))
    app.renderer.erase(leave_alternate_screen=False)
    app._redraw()


def _widen_spacing_marks() -> None:
    """Let prompt_toolkit count the vowel signs that take a cell (का, की) as terminals do.

    wcwidth gives such a mark no width of its own and widens the letter before it, which prompt_toolkit, asking for one character at a
    time, does not see. The cursor would be in the wrong place in Devanagari text.
    """
    from prompt_toolkit import utils

    known = utils._CHAR_SIZES_CACHE
    for code in range(0x0300, 0x20000):
        if unicodedata.category(chr(code)) == "Mc" and get_cwidth(chr(code)) == 0:
            known[chr(code)] = character_width(chr(code))
