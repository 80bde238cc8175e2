"""Tests that Ctrl-C and SIGTERM end `bullet run` in every stage with one line that says what is kept and how to go on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from bulletlm.config.loader import load_config
from bulletlm.errors import Interrupted
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import SilentProgress
from micro_model import write_micro_config, write_texts

STOP_AT = """
import os, sys
from bulletlm.progress import ConsoleProgress

number, moment = int(sys.argv[1]), sys.argv[2]

def watched(method):
    def call(self, text, *rest):
        if text == moment or (": runs" in moment and text.startswith(moment)):
            os.kill(os.getpid(), number)
        return method(self, text, *rest)
    return call

ConsoleProgress.task, ConsoleProgress.log = watched(ConsoleProgress.task), watched(ConsoleProgress.log)
sys.argv[1:] = sys.argv[3:]

from bulletlm.__main__ import main

main()
"""
"""Runs the command line, and sends a signal to this process when a bar appears, or at the message that a stage runs."""

MOMENTS = [
    ("data: cleaning", signal.SIGINT, "stopped in the stage data, before a stage was finished"),
    ("data: writing", signal.SIGTERM, "stopped in the stage data, before a stage was finished"),
    ("tokenizer: words", signal.SIGTERM, "stopped in the stage tokenizer; the finished stages (data) are kept in "),
    ("tokens", signal.SIGINT, "stopped in the stage tokens; the finished stages (data, tokenizer) are kept in "),
    ("Training: runs", signal.SIGTERM, "stopped in the stage train; the finished stages (data, tokenizer, tokens) are kept in "),
    ("Training", signal.SIGINT, "stopped at step 0 of 8; saved"),
    ("Export: runs", signal.SIGTERM, "stopped in the stage export; the finished stages (data, tokenizer, tokens, train) are kept in "),
    ("Quantizing", signal.SIGINT, "stopped in the stage qat; the finished stages (data, tokenizer, tokens, train, export) are kept in "),
    ("Distilling", signal.SIGTERM, "stopped at step 0 of 2 of QAT; saved"),
    ("Comparing", signal.SIGINT, "stopped in the stage build; the finished stages (data, tokenizer, tokens, train, export, qat) are kept "),
    ("Evaluation: runs", signal.SIGTERM, "stopped in the stage evaluate; the finished stages (data, tokenizer, tokens, train, export, "),
]
"""The bar or message at which a signal arrives, the signal, and the beginning of what the command says."""


def stop(words: list[str], moment: str, number: int) -> str:
    """Run a command that a signal stops; returns its message."""
    command = [sys.executable, "-c", STOP_AT, str(number), moment, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 130, (moment, done.returncode, done.stderr)
    *before, last = done.stderr.strip().splitlines()
    assert last.startswith("bullet: stopped"), done.stderr
    assert not any(line.startswith("bullet:") or "Traceback" in line for line in before), done.stderr
    return last.removeprefix("bullet: ")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="this system has no POSIX signals")
def test_every_stage_says_what_is_kept_and_the_same_command_goes_on(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    changes = {"total_steps": 8, "eval_every": 8, "compile": "off", "qat": {"steps": 2, "tokens_per_step": 256}}
    config = write_micro_config(tmp_path, texts, **changes, quant={"calibration_tokens": 1024})
    words = ["run", str(config)]
    for moment, number, expected in MOMENTS:
        message = stop(words, moment, number)
        assert message.startswith(expected)
        assert "run the same command again" in message
    done = subprocess.run([sys.executable, "-m", "bulletlm", *words], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "runs" / "micro" / "log.txt").read_text(encoding="utf-8")
    assert log.count("ERROR") == log.count("ERROR   stopped ") == len(MOMENTS)
    assert not list((tmp_path / "runs").rglob("*.partial"))


class CtrlC(SilentProgress):
    """Stops the command as Ctrl-C does, when the first bar appears."""

    def task(self, title: str, total: float | None) -> NoReturn:
        raise KeyboardInterrupt


@pytest.mark.parametrize("restart", [False, True])
def test_a_stopped_restart_is_not_continued_with_a_restart(restart: bool, tmp_path: Path) -> None:
    config = load_config(write_micro_config(tmp_path, write_texts(tmp_path / "texts")))
    with pytest.raises(Interrupted, match="run the same command again") as stopped:
        run_stages(config, "data", CtrlC(), restart=restart)
    assert str(stopped.value).endswith(", without --restart") is restart


@pytest.mark.skipif(os.name != "posix", reason="this system has no POSIX signals")
def test_ctrl_c_stops_a_command_without_stages(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    assert stop(["plan", str(texts)], "Looking at the text", signal.SIGINT) == "stopped"
