"""A plain installation (no torch, no extra) runs, checks and converts models, and names the extra for everything else.

The commands run in a virtual environment that contains only the packages that pyproject.toml requires without extras, and what these
require. They are linked from the environment of the tests, so nothing is downloaded; `make release-check` installs the real wheel.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from bulletlm.cli.app import app
from micro_model import write_micro_config
from paths import ROOT


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


RUN_ALL = """
import contextlib, io, json, sys, traceback
from bulletlm.__main__ import main

results = []
for words in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["bullet", *words]
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 99
            traceback.print_exc()
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
"""Runs command lines one after the other in one process, since starting Python for each takes long."""


def required(names: Iterable[str]) -> set[str]:
    """The packages of requirements, and all that these require, as they are installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += map(Requirement, distribution(name).requires or [])
    return found


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the packages of a plain installation."""
    folder = tmp_path_factory.mktemp("plain") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in required(project["dependencies"]):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(installed.locate_file(top))))
    (packages / "bulletlm.pth").write_text(f"{ROOT / 'src'}\n")
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *commands: str) -> list[Result]:
    """Run command lines of `bullet` in a folder."""
    words = json.dumps([shlex.split(command) for command in commands])
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [python, "-c", RUN_ALL], cwd=folder, env=environment, input=words, capture_output=True, text=True, timeout=300, check=True
    )
    return [Result(*each) for each in json.loads(done.stdout)]


WORK = set("benchmark build card chat bench compare config convert doctor generate help info init list score verify".split())
"""Commands that this page runs in the plain installation."""

NEED_AN_EXTRA = set("dashboard data evaluate export plan qat run serve tokenizer train".split())
"""Commands that must name the extra that they need."""


def test_every_command_is_tried() -> None:
    names = {name for name in app if not name.startswith("-")}
    assert names == WORK | NEED_AN_EXTRA


def test_torch_is_not_there(plain_python: Path) -> None:
    for module in ("torch", "matplotlib", "ftfy", "fastapi"):
        assert subprocess.run([plain_python, "-c", f"import {module}"], capture_output=True, check=False).returncode


def test_models_run_and_convert(plain_python: Path, micro_run: Path, tmp_path: Path) -> None:
    model, tensors = shlex.quote(str(micro_run / "model.bullet")), shlex.quote(str(micro_run / "export" / "npy"))
    commands = [
        "--help",
        "--version",
        f"info {model}",
        f"info {model} --tensors --json",
        f"verify {model}",
        f"generate {model} -p 'Good evening!' --max-tokens 5 --seed 1",
        f"generate {tensors} -p 'Good evening!' --max-tokens 5 --seed 1 --json",
        f"convert {model} m.gguf",
        f"convert {model} hf-m",
        f"convert {model} npy-m",
        "convert m.gguf back.bullet",
        "convert hf-m back2.bullet",
        "verify back.bullet",
        f"build {tensors} --quant BQ8 --out eight.bullet",
        f"compare {tensors} {model}",
        "doctor",
        "doctor --json",
        "help",
        "help chat",
        "list",
        "init mine.jsonc",
        "config mine.jsonc --layers=3",
        f"benchmark {model} --suite pairs.jsonl",
        f"card {model}",
    ]
    (tmp_path / "pairs.jsonl").write_text('{"good": "मुले शाळेत जातात आणि खेळतात.", "bad": "मुले शाळेत जातो आणि खेळतात."}', encoding="utf-8")
    results = run(plain_python, tmp_path, *commands)
    assert "".join(result.err for result in results if result.code) == ""
    assert (tmp_path / "back.bullet").is_file()
    assert "models can run but not be trained" in results[commands.index("doctor")].out
    assert "[documents]" in results[commands.index("doctor")].out


def test_scoring_needs_scores_only(plain_python: Path, micro_run: Path, tmp_path: Path) -> None:
    (result,) = run(plain_python, tmp_path, f"score {shlex.quote(str(micro_run))} --summary")
    assert result.code == 1
    assert re.fullmatch("bullet: no score .*\n", result.err)


def test_chat_and_bench(plain_python: Path, bullet_path: Path, tmp_path: Path) -> None:
    for words, text in ((["chat", "--max-tokens", "3"], "Hello!\n"), (["bench", "--tokens", "8", "--rounds", "1"], "")):
        command = [plain_python, "-m", "bulletlm", words[0], bullet_path, *words[1:]]
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_rest_names_the_extra(plain_python: Path, micro_run: Path, texts: Path, tmp_path: Path) -> None:
    paths = micro_run, micro_run / "model.bullet", texts, write_micro_config(tmp_path, texts)
    folder, model, text, config = (shlex.quote(str(path)) for path in paths)
    commands = {
        f"run {text}": "train",
        f"run {config}": "train",
        f"plan {text} --hours 1": "train",
        f"plan {config}": "train",
        **{f"{stage} {config}": "train" for stage in ("data", "tokenizer", "train", "export", "build", "evaluate")},
        f"train {config} --prove-resume": "train",
        f"qat {folder} --steps 3": "train",
        f"serve {model}": "serve",
        "dashboard --no-open --port 0": "dashboard",
    }
    before = sorted(tmp_path.iterdir())
    for command, result in zip(commands, run(plain_python, tmp_path, *commands), strict=True):
        assert result.code == 1, (command, result)
        assert re.fullmatch(rf'bullet: .*: ".*python\S*" -m pip install .*\[{commands[command]}\]\'\n', result.err), (command, result)
        assert not result.out
    assert sorted(tmp_path.iterdir()) == before
