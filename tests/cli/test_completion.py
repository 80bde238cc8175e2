"""Tests that shells complete the names of models, runs and recipes, and paths: the candidates, and the installed scripts in real shells."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bulletlm.cli.app import main
from bulletlm.cli.complete import LINE_OF_ZSH, LINES_OF_ZSH
from bulletlm.config.recipes import recipe_names
from paths import ROOT
from pseudo_terminal import Terminal


@pytest.fixture
def place(tmp_path: Path, bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two models, an unfinished run, text, and names that need care."""
    models, here = tmp_path / "models", tmp_path / "here"
    models.mkdir()
    shutil.copy(bullet_path, models / "marathi-english.bullet")
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", models)
    for name in ("runs/tiny", "runs/begun", "runs/evil\x1b[2J"):
        (here / name).mkdir(parents=True)
        (here / name / "stages.json").write_text("{}", encoding="utf-8")
    for name in ("runs/tiny/model.bullet", "runs/evil\x1b[2J/model.bullet", "माझे मॉडेल.bullet"):
        shutil.copy(bullet_path, here / name)
    (here / "my texts").mkdir()
    (here / ".hidden").mkdir()
    (here / "my texts/notes.txt").write_text("एक", encoding="utf-8")
    (here / "mine.jsonc").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(here)
    return here


def candidates(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What a shell is offered for the last word."""
    with pytest.raises(SystemExit) as stop:
        main(["__complete", *words])
    assert not stop.value.code
    return [line.split("\t")[0] for line in capsys.readouterr().out.split("\x1fbegin\n")[1].splitlines()]


USES_A_MODEL = ["chat", "generate", "info", "verify", "serve", "bench", "card", "convert", "compare", "benchmark"]


@pytest.mark.parametrize("command", USES_A_MODEL)
def test_commands_that_take_a_model_complete_models(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert candidates(capsys, command, "") == ["tiny", "माझे मॉडेल", "marathi-english"]
    assert candidates(capsys, command, "t") == ["tiny"]
    assert candidates(capsys, command, "runs/t") == ["runs/tiny/"]
    assert candidates(capsys, command, "./runs/tiny/") == ["./runs/tiny/model.bullet"]
    assert candidates(capsys, command, "nothing") == [] == candidates(capsys, command, "no/folder/")


def test_runs_recipes_and_paths(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert candidates(capsys, "qat", "") == ["begun", "tiny"]
    assert candidates(capsys, "run", "") == [*recipe_names(), "mine.jsonc", "my texts/", "runs/", "माझे मॉडेल.bullet"]
    assert candidates(capsys, "run", "my texts", "m") == ["mine.jsonc", "my texts/"]
    assert candidates(capsys, "plan", "my texts/") == ["my texts/notes.txt"]
    assert candidates(capsys, "train", "m") == ["marathi-english", "mine.jsonc", "my texts/"]
    assert candidates(capsys, "evaluate", "t") == ["tiny"]
    assert candidates(capsys, "run", ".h") == [".hidden/"]
    assert set(candidates(capsys, "help", "")) > {"run", "chat"}


def test_a_recipe_and_a_run_of_one_name_are_one_candidate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("runs/tiny", "runs/demo")
    assert candidates(capsys, "evaluate", "d") == ["demo"]


def test_completion_waits_for_no_large_library(place: Path) -> None:
    for command in ("chat", "run"):
        words = [sys.executable, "-X", "importtime", "-m", "bulletlm", "__complete", command, ""]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "bulletlm.cli.complete" in imported and "tiny" in done.stdout + "tiny" * (command == "run")
        assert not imported & {"torch", "numpy", "pydantic", "json5", "sentencepiece"}


@pytest.fixture
def home(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user who has `bullet` on PATH."""
    folder = tmp_path / "home"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "bullet"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bulletlm "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR", "ZSH", "ZSH_CUSTOM", "BASH_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return folder


def install(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run(["bullet", "--install-completion", "--shell", shell], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bullet chat ti\t", "bullet chat tiny "),
        ("bullet info marathi\t", "bullet info marathi-english "),
        ("bullet run qui\t", "bullet run quick "),
        ("bullet chat run\ttin\t", "bullet chat runs/tiny/"),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_in_a_real_shell(shell: str, line: str, expected: str, home: Path) -> None:
    install(shell)
    if shell == "zsh":
        with (home / ".zshrc").open("a", encoding="utf-8") as file:
            file.write("autoload -Uz compinit && compinit -u\n")
    terminal = Terminal([str(shutil.which(shell)), "-i"], PS1="ready> ")
    try:
        terminal.read_until("[>#$] ")
        terminal.type(line)
        terminal.read_until(re.escape(expected.rstrip()))
    finally:
        terminal.close()


def test_in_fish(home: Path) -> None:
    install("fish")

    def offered(line: str) -> list[str]:
        done = subprocess.run(["fish", "-c", f'complete -C "{line}"'], capture_output=True, text=True, check=True)
        return [row.split("\t")[0] for row in done.stdout.splitlines()]

    assert offered("bullet chat ti") == ["tiny"] and "marathi-english" in offered("bullet chat ")
    assert offered("bullet chat runs/ti") == ["runs/tiny/"]
    assert set(recipe_names()) < set(offered("bullet run "))


def test_the_script_for_zsh_still_has_the_line_that_is_changed(home: Path) -> None:
    """The command-line library writes it; without it, zsh would add a space after folders."""
    subprocess.run(["bullet", "--install-completion", "--shell", "zsh"], check=True, capture_output=True)
    script = next((home / ".zsh/completions").iterdir()).read_text(encoding="utf-8")
    assert LINES_OF_ZSH in script and script.count(LINE_OF_ZSH) == LINES_OF_ZSH.count(LINE_OF_ZSH)
