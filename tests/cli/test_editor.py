"""Tests the input line of `bullet chat` in a real pseudo-terminal: what is typed and what arrives as the message."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pseudo_terminal import Terminal

pytest.importorskip("prompt_toolkit")

PROGRAM = """
import sys, json
from bulletlm.cli.editor import open_editor
read = open_editor("> ", ("/exit", "/help", "/reset", "/save", "/set"), ("temperature", "top_k", "top_p"), sys.stdout)
print("ready")
while True:
    try:
        print("got " + json.dumps(read()) + ".")
    except EOFError:
        break
"""

PASTE, PASTE_END, UP, LEFT, BACKSPACE, DELETE = "\033[200~", "\033[201~", "\033[A", "\033[D", "\x7f", "\033[3~"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    programs: list[Terminal] = []

    def new() -> Terminal:
        programs.append(Terminal([sys.executable, "-c", PROGRAM], XDG_STATE_HOME=str(tmp_path / "state")))
        programs[-1].read_until("ready", 60)
        programs[-1].read_until("> ", 20)
        return programs[-1]

    yield new
    for program in programs:
        program.close()


def message(program: Terminal, typed: str) -> str:
    """What arrives when this and Enter are typed."""
    program.type(typed + "\r")
    found = re.search(r"got (\".*\")\.\r?\n", program.read_until(r"got \".*\"\.\r?\n", 60))
    assert found
    program.read_until("> ", 60)  # before that, the system and not the editor handles keys such as Backspace
    return json.loads(found.group(1))


def test_keys(start: Callable[[], Terminal]) -> None:
    program = start()
    assert message(program, "नमस्कार") == "नमस्कार"
    assert message(program, f"{PASTE}line one\nline two\n\nline four{PASTE_END}") == "line one\nline two\n\nline four"
    assert message(program, "one\033\rtwo") == "one\ntwo"
    # A letter with all its marks is one step for Backspace, Delete and the arrows.
    assert message(program, "नमस्ते" + BACKSPACE) == "नम"
    assert message(program, "अक्षि" + BACKSPACE) == "अ"
    assert message(program, "e\u0301x" + BACKSPACE * 2) == ""
    assert message(program, "a👨‍👩‍👧b" + LEFT * 2 + BACKSPACE) == "👨‍👩‍👧b"
    assert message(program, "मुलगी" + LEFT + DELETE + "गा") == "मुलगा"
    assert message(program, BACKSPACE + LEFT + DELETE + "x") == "x"
    program.type("\x04")
    assert program.exit_code() == 0


def test_completion(start: Callable[[], Terminal]) -> None:
    program = start()
    assert message(program, "/he\t") == "/help"
    assert message(program, "/set te\t 0.5") == "/set temperature 0.5"
    assert message(program, "see /he\t") == "see /he"
    assert message(program, "/se\t top\t") == "/set top_"


def test_history_of_earlier_chats(start: Callable[[], Terminal], tmp_path: Path) -> None:
    first = start()
    message(first, "एक")
    message(first, f"{PASTE}दोन\nओळी{PASTE_END}")
    first.type("\x04")
    assert first.exit_code() == 0
    path = tmp_path / "state/bulletlm/chat-history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = start()
    assert message(second, UP + UP + UP) == "एक"
    path.unlink()
    path.mkdir()  # the history cannot be written: the chat goes on
    assert message(second, "तीन") == "तीन"
    third = start()
    assert message(third, "चार") == "चार"


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux, whose terminal wraps lines again when it is resized")
def test_a_resize_repeats_nothing(tmp_path: Path) -> None:
    # On a full screen. Above the text of an empty one, tmux scrolls lines away that no program can reach.
    (tmp_path / "program.py").write_text(PROGRAM.replace('print("ready")', 'print("line\\n" * 30 + "ready")'))
    tmux = ["tmux", "-L", f"bulletlm-{tmp_path.name}-{os.getpid()}", "-f", os.devnull]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}

    def run(*words: str) -> str:
        return subprocess.run([*tmux, *words], capture_output=True, text=True, timeout=60, check=True, env=environment).stdout

    def screen_when(pattern: str) -> str:
        for _ in range(300):
            time.sleep(0.1)
            if re.search(pattern, shown := run("capture-pane", "-p", "-t", "0"), re.DOTALL):
                return shown
        raise AssertionError(f"no {pattern} in {shown}")

    run("new-session", "-d", "-x", "80", "-y", "24", shlex.join([sys.executable, str(tmp_path / "program.py")]))
    try:
        screen_when(r"ready\n>")
        run("send-keys", "-l", "मुलगी " + " ".join(f"word{number}" for number in range(25)))
        screen_when("word24")
        for columns in (60, 100, 34, 80):
            run("resize-window", "-x", str(columns))
            time.sleep(1)
            shown = screen_when("word24")
            assert shown.count("ready") == 1 and shown.count(">") == 1, shown
            assert re.findall(r"word\d+", re.sub(r"\s", "", shown)) == [f"word{number}" for number in range(25)], shown
    finally:
        run("kill-server")
