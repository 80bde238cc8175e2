"""Tests log.txt of a run folder, and what --quiet and --verbose show."""

import re
from pathlib import Path

import pytest

from bulletlm.cli.app import main
from bulletlm.config.loader import load_config
from bulletlm.pipeline.run_log import FIRST_LINE, LOG, LoggedProgress
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import ConsoleProgress, SilentProgress
from micro_model import write_micro_config

ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (DEBUG  |INFO   |WARNING|ERROR  ) .*")


def test_a_run_says_what_it_did_and_why(micro_run: Path) -> None:
    text = (micro_run / LOG).read_text(encoding="utf-8")
    assert text.startswith(FIRST_LINE)
    assert all(ENTRY.fullmatch(line) or line.startswith("    ") for line in text.splitlines()[1:])
    for expected in ("BulletLM ", "Training: runs, because it has not finished before", "Training: finished in", "build: "):
        assert expected in text


def command(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert not caught.value.code


def test_levels_of_the_terminal_and_of_the_file(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_micro_config(tmp_path, texts))
    command(["data", config, "-q"])
    assert capsys.readouterr().err == ""
    command(["data", config, "--quiet"])
    command(["data", config])
    shown = capsys.readouterr().err
    assert "up to date" in shown and "Python" not in shown
    command(["data", config, "--val-tokens=700", "-v"])
    shown = capsys.readouterr().err
    assert "runs again, because its settings or inputs have changed" in shown
    log = (tmp_path / "runs/micro" / LOG).read_text(encoding="utf-8")
    assert log.count("DEBUG   BulletLM") == 4 and log.count("Data: up to date") == 2
    with pytest.raises(SystemExit) as caught:
        main(["data", config, "-q", "-v"])
    assert caught.value.code == 2


def test_an_error_is_in_the_log(tmp_path: Path, texts: Path) -> None:
    path = write_micro_config(tmp_path, texts)
    run_stages(load_config(path), "data", SilentProgress())
    (tmp_path / "runs/micro/stages.json").write_text("[]")
    with pytest.raises(Exception, match="damaged"):
        run_stages(load_config(path), "data", SilentProgress())
    assert re.search(r" ERROR   .*stages.json is damaged", (tmp_path / "runs/micro" / LOG).read_text(encoding="utf-8"))


def test_control_characters_and_several_lines(tmp_path: Path) -> None:
    progress = LoggedProgress(SilentProgress(), tmp_path)
    progress.log("one\x1b[2J\ntwo")
    assert (tmp_path / LOG).read_text(encoding="utf-8").endswith("INFO    one\ufffd[2J\n    two\n")


@pytest.mark.parametrize("state", ["file", "folder", "dangling"])
def test_what_is_in_the_way_stays_and_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str) -> None:
    path = tmp_path / LOG
    if state == "file":
        path.write_text("my own notes\n")
    elif state == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "missing" / "file")
    progress = LoggedProgress(ConsoleProgress("warning"), tmp_path)
    progress.log("one")
    progress.log("two")
    shown = capsys.readouterr().err
    assert shown.count(f"note: {path} is not written") == 1 and "two" not in shown
    assert state != "file" or path.read_text() == "my own notes\n"
