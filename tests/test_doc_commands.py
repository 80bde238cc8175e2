"""Tests that the commands of README and docs work.

Commands that need only a finished model run for real, on a micro model (`RUNS` lists them). All others are read by the real parsers:
the command, its options and its settings must exist, and so must the files of the repository that it names.
"""

import io
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from bulletlm.cli.app import app, main
from bulletlm.cli.builder import app as builder
from bulletlm.config.loader import load_config
from doc_commands import PAGES, Command, commands
from micro_model import write_texts
from paths import ROOT

EVERY = [command for page in PAGES if page.name != "CHANGELOG.md" for command in commands(page)]

RUNS = ("bench", "chat", "compare", "config", "convert", "doctor", "generate", "help", "info", "init", "list", "verify")
"""Commands of `bullet` that run here. The others train, serve until they are stopped, or need text and minutes."""

PLACES = {
    "CONFIG": "demo",
    "FILE": "demo",
    "MODEL": "demo",
    "SOURCE": "demo",
    "SRC": "demo",
    "OLD": "demo",
    "FILE.bullet": "demo",
    "A": "demo",
    "B": "demo",
    "RUN": "demo",
    "NAME": "demo",
    "FOLDER": "my-texts",
    "TEXT": "text",
    "COMMAND": "run",
}
"""What stands for something that readers fill in -> an example."""


def words_of(command: Command) -> list[str]:
    """The words of a command with its placeholders filled in; an ellipsis ends it."""
    words = [PLACES.get(word, word) for word in command.words]
    return words[: words.index("...")] if "..." in words else words


def is_complete(command: Command) -> bool:
    """Whether a command can be typed as it is; inside a sentence, the name of a command alone stands for the command in general."""
    return command.in_block or len(command.words) > 2


def id_of(command: Command) -> str:
    return f"{command.page}:{command.line}:{' '.join(command.words[:2])}"


BULLET = [command for command in EVERY if command.words[0] in ("bullet", "bullet-builder") and is_complete(command)]


def runs_here(command: Command) -> bool:
    """Whether `test_commands_that_run_here` runs it."""
    foreign = any(word == "llama.cpp" or word.startswith("other") for word in command.words)  # needs another program's model or library
    return command.words[0] == "bullet" and command.in_block and command.words[1] in RUNS and not foreign


@pytest.mark.parametrize("command", BULLET, ids=id_of)
def test_command_and_options_exist(command: Command) -> None:
    words = words_of(command)
    parser = builder if words[0] == "bullet-builder" else app
    if len(words) == 1 or "--help" in words:
        return
    try:
        _, bound, unused, *_ = parser.parse_known_args(words[1:])
    except MissingArgumentError:
        assert not command.in_block, f"{command.page}, line {command.line}: {command.text} is not complete"
        return
    except CycloptsError as error:
        raise AssertionError(f"{command.page}, line {command.line}: {command.text}: {error}") from None
    assert not unused, f"{command.page}, line {command.line}: {command.text}: {unused}"
    settings = [word for word in bound.args if isinstance(word, str)] if words[1] != "score" else []
    while settings and not settings[0].startswith("--"):
        settings.pop(0)
    if words[0] == "bullet" and settings and not any(word.startswith("--out") or word == "--quant" for word in settings):
        load_config(None, settings)


@pytest.mark.parametrize("command", [command for command in EVERY if command.words[0] in ("make", "python")], ids=id_of)
def test_targets_and_scripts_exist(command: Command) -> None:
    if command.words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(command.words[1:2]) <= set(targets), f"{command.page}, line {command.line}: {command.text}"
        return
    script = next((word for word in command.words[1:] if word.endswith(".py")), None)
    if script is None or script == "setup.py":
        return
    text = (ROOT / script).read_text(encoding="utf-8")
    for option in (word.partition("=")[0] for word in command.words if word.startswith("--")):
        assert f'"{option}"' in text, f"{command.page}, line {command.line}: {script} has no option {option}"


@pytest.mark.parametrize("command", EVERY, ids=id_of)
def test_files_of_the_repository_exist(command: Command) -> None:
    for word in command.words[1:]:
        if re.match(r"(recipes|docs|bench|tests|src|tools)/", word) and "*" not in word and "NAME" not in word:
            assert (ROOT / word).exists(), f"{command.page}, line {command.line}: {word}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, micro_run: Path) -> Path:
    """A folder as a reader has it: a finished run "demo" and others, and texts."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("demo", "lessons", "novel", "novel-2", "base-1", "wide-1", "fp32", "start", "my-texts", "texts-de"):
        shutil.copytree(micro_run, folder / "runs" / name)
    shutil.copy(micro_run / "model.bullet", folder / "asha.bullet")
    write_texts(folder / "my-texts")
    return folder


PAGES_THAT_RUN = sorted({command.page for command in EVERY if runs_here(command)})


@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_commands_that_run_here(page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of a page, in the order in which a reader types them."""
    monkeypatch.chdir(place)
    for path in place.iterdir():
        if path.name not in ("runs", "my-texts", "asha.bullet"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if page == "ecosystem.md":
        pytest.importorskip("gguf")
    for command in EVERY:
        if command.page != page or not runs_here(command):
            continue
        words = list(command.words[1:])
        if words[0] in ("chat", "generate"):
            words += [] if "--max-tokens" in words else ["--max-tokens", "3"]
        if words[0] == "bench":
            words += ["--rounds", "1", "--tokens", "4"]
        if words[0] == "compare":
            words += ["--no-answers"]
        monkeypatch.setattr(sys, "stdin", io.StringIO("नमस्कार\n/exit\n"))
        try:
            main(words)
        except SystemExit as stop:
            assert not stop.code, f"{page}, line {command.line}: {command.text}: {capsys.readouterr().err}"
        assert capsys.readouterr().out


PYTHON = [
    (page.name, code) for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if "from bulletlm" in code and "runs/demo/model.bullet" in code and "transformers" not in code and "xllamacpp" not in code
]  # fmt: skip


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_examples_run(page: str, code: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(place)
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "example.py"), run_name="__main__")


def test_the_pages_have_commands_of_both_kinds() -> None:
    """So that a change of the pages' form cannot leave the tests above without work."""
    assert len(BULLET) > 40 and sum(map(runs_here, EVERY)) > 15 and len(PYTHON) >= 2
