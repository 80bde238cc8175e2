"""Ordinary bad states of files, for every command: one line that says what is wrong, and exit code 1 or 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bulletlm.cli.app import app
from micro_model import write_micro_config

SCRIPT = Path(__file__).with_name("file_states.py")

WITHOUT_PATHS = {"doctor", "help", "list"}

NEW_FILE = {"missing", "no such user", "not UTF-8", "control characters"}

MAY_WORK = {
    # A new file can be written and a run folder can be made.
    "init PATH": NEW_FILE,
    "plan --write": NEW_FILE,
    "convert DST": NEW_FILE,
    "builder --out": NEW_FILE,
    "builder --report": NEW_FILE,
    "runs_dir": {"missing", "folder", "no such user", "control characters"},
}


@pytest.fixture(scope="module")
def cases(micro_run: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if sys.platform != "linux":
        pytest.skip("pipes, sockets and capabilities as on Linux")
    folder = tmp_path_factory.mktemp("states")
    config = write_micro_config(folder, texts)
    (folder / "files").mkdir()
    run = folder / "run" / "micro"
    shutil.copytree(micro_run, run)  # some cases change the run folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    command = [sys.executable, str(SCRIPT), str(folder / "files"), str(run), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_is_in_the_table(cases: list[dict[str, Any]]) -> None:
    tried = {case["words"][0] for case in cases}
    assert {name for name in app if not name.startswith("-")} - tried <= WITHOUT_PATHS
    assert "builder" in tried


def test_no_state_gives_a_traceback(cases: list[dict[str, Any]]) -> None:
    failed = [f"{case['command']}, {case['state']}: {case['traceback'].splitlines()[-1]}" for case in cases if "traceback" in case]
    assert not failed, "\n".join(failed)


def test_every_error_is_one_clear_line(cases: list[dict[str, Any]]) -> None:
    problems = []
    for case in cases:
        where = f"{case['command']}, {case['state']}"
        lines = case["stderr"].splitlines()
        errors = [line for line in lines if line.startswith(("bullet: ", "bullet-builder: "))]
        if case["code"] == 0:
            continue
        if case["code"] not in (1, 2):
            problems.append(f"{where}: exit code {case['code']}")
        elif len(errors) != 1 or lines[-1] != errors[0]:
            problems.append(f"{where}: {case['stderr']!r}")
        elif any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in errors[0]):
            problems.append(f"{where}: control characters in {errors[0]!r}")
    assert not problems, "\n".join(problems)


def test_bad_states_are_not_accepted_silently(cases: list[dict[str, Any]]) -> None:
    accepted = [
        f"{case['command']}, {case['state']}"
        for case in cases
        if case["code"] == 0 and case["state"] not in MAY_WORK.get(case["command"], ()) and "/" not in case["state"]
    ]
    accepted = [each for each in accepted if "report.json" not in each and "metrics.jsonl" not in each]  # which these do not need
    assert not accepted, "\n".join(accepted)


def bullet(*words: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after the Python code `before`."""
    code = f"import sys\n{before}\nfrom bulletlm.__main__ import main\nsys.argv[0] = 'bullet'\nmain()"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, encoding="latin-1", timeout=300, check=False)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_unicode(micro_run: Path, tmp_path: Path, encoding: str) -> None:
    model = str(micro_run / "model.bullet")
    for words in (
        ["info", model],
        ["generate", model, "-p", "नमस्कार", "--max-tokens", "8", "--seed", "1"],
        ["config", "--name=नमस्कार"],
        ["compare", str(micro_run), model],
        ["info", "नमस्कार.bullet"],
    ):
        done = bullet(*words, PYTHONIOENCODING=encoding)
        assert "Traceback" not in done.stderr
        assert done.returncode == (1 if words[1] == "नमस्कार.bullet" else 0), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX systems")
@pytest.mark.parametrize("limit", [8, 12, 20])
def test_few_file_descriptors(micro_run: Path, tmp_path: Path, texts: Path, limit: int) -> None:
    config = str(write_micro_config(tmp_path, texts))
    before = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
    for words in (["info", str(micro_run / "model.bullet")], ["data", config], ["tokenizer", config]):
        done = bullet(*words, before=before)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1)
