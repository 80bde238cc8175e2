"""Tests that the fast parser for simple command lines returns the same values as the full parser, or nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulletlm.cli.app import app as cli
from bulletlm.cli.chat import chat
from bulletlm.cli.fast_start import ALIASES, NAMES, parse
from bulletlm.cli.generate import generate

PLAIN = [
    ["m.bullet", "-p", "मैत्री म्हणजे काय?"],
    ["-p", "a b", "m.bullet", "--raw", "--max-tokens", "7", "--temperature=0.5", "--seed", "3"],
    ["--prompt=x=y", "--top-p", "1", "--min-p", "0", "--json", "--whole-letters", "folder/m.bullet"],
    ["m.bullet", "--prompt", "", "--repetition-penalty", "1e0", "--turbo"],
]

NOT_PLAIN = [
    [],
    ["m.bullet"],
    ["-p", "x"],
    ["m.bullet", "-p"],
    ["m.bullet", "-p", "-x"],
    ["m.bullet", "-p", "x", "--help"],
    ["m.bullet", "-p", "x", "-h"],
    ["m.bullet", "-p", "x", "extra"],
    ["m.bullet", "-p", "x", "--seed", "one"],
    ["m.bullet", "-p", "x", "--seed", "1.5"],
    ["m.bullet", "-p", "x", "--sed", "1"],
    ["m.bullet", "-p", "x", "--max_tokens", "1"],
    ["m.bullet", "-p", "x", "-p", "y"],
    ["m.bullet", "-p", "x", "--raw=true"],
    ["m.bullet", "-p", "x", "--stop", "a"],
    ["m.bullet", "-p", "x", "--", "y"],
]


@pytest.mark.parametrize("words", PLAIN)
def test_plain_words_mean_what_the_full_command_line_takes_them_for(words: list[str]) -> None:
    fast = parse(generate, words)
    command, bound, _ = cli.parse_args(["generate", *words], exit_on_error=False, print_error=False)
    assert command.__code__ is generate.__code__ and fast is not None
    positional, named = fast
    assert (tuple(positional), named) == (bound.args, bound.kwargs)
    assert [type(value) for value in named.values()] == [type(bound.kwargs[name]) for name in named]


@pytest.mark.parametrize("words", NOT_PLAIN)
def test_everything_else_is_left_to_it(words: list[str]) -> None:
    assert parse(generate, words) is None


def test_chat() -> None:
    assert parse(chat, []) == ([], {}) and parse(chat, ["--seed", "1"]) == ([], {"seed": 1})
    assert parse(chat, ["m.bullet"]) == ([Path("m.bullet")], {})
    assert parse(chat, ["m.bullet", "--system", "Be kind.", "--temperature", "0"]) == (
        [Path("m.bullet")],
        {"system": "Be kind.", "temperature": 0.0},
    )


def test_there_is_one_definition_of_the_options() -> None:
    for name, function in zip(NAMES, (generate, chat), strict=True):
        assert cli[name].default_command.__code__ is function.__code__
    assert set(ALIASES.values()) <= {"--" + name.replace("_", "-") for name in generate.__kwdefaults__ | {"prompt": None}}


def imported(*words: str) -> tuple[int, str, str, set[str]]:
    program = f"""
import sys
sys.argv = ["bullet", *{list(words)!r}]
from bulletlm.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environment)
    lines = done.stderr.splitlines()
    return done.returncode, done.stdout, "\n".join(lines[:-1]), set(lines[-1].split())


def test_what_a_command_imports(micro_run: Path) -> None:
    model = str(micro_run / "model.bullet")
    code, text, errors, modules = imported("generate", model, "-p", "नमस्कार", "--seed", "1", "--max-tokens", "30")
    assert code == 0 and errors == ""
    heavy = {"cyclopts", "pydantic", "rich", "torch", "sentencepiece", "subprocess", "importlib.metadata"}
    assert not heavy & modules
    full = imported("generate", model, "-p", "नमस्कार", "--seed", "1", "--max-tokens", "30", "--stop", "\u0001")
    assert full[1] == text and "cyclopts" in full[3]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    code, _, errors, modules = imported("generate", str(tmp_path / "no.bullet"), "-p", "x")
    assert code == 1 and errors == f"bullet: cannot open {tmp_path}/no.bullet (No such file or directory): name a .bullet file"
    assert "cyclopts" not in modules
    code, _, errors, _ = imported("generate", "x.bullet", "-p", "x", "--temperature", "-1")
    assert code in (1, 2) and len(errors.splitlines()) == 1


def test_a_warning_of_ours_is_one_line() -> None:
    program = "import warnings, bulletlm.cli.fast_start as q; q.report_errors(lambda: warnings.warn('so it goes', q.BulletWarning))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True)
    assert done.stderr == "bullet: so it goes\n"
