"""The release check without builds and installations: which Pythons it takes, its table, its time limits, and that servers are stopped."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import environments
import release_check
from check_results import CheckError, Result, Skipped, record, skip, step, table
from programs import run_program, running_server

WRITE_PID = "echo $$ > pid; exec sleep 1000"
"""A program for sh that writes its process id and then hangs."""

SERVER = """
import http.server, signal, sys, os
print(os.getpid(), file=open("pid", "w"))
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print("some words first", flush=True)
print(f"at http://127.0.0.1:{server.server_port}/v1 ", flush=True)
server.serve_forever()
"""

STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER


def runs(pid: int) -> bool:
    """Whether a process still runs; one that ended but was not collected by its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def written_pid(folder: Path) -> int:
    """The process id in the file `pid`, when it is complete."""
    while not (folder / "pid").is_file() or not (text := (folder / "pid").read_text(encoding="utf-8")).endswith("\n"):
        time.sleep(0.02)
    return int(text)


def await_end(pid: int) -> None:
    """Wait until a killed process is gone; the test hangs if it was not killed."""
    while runs(pid):
        time.sleep(0.02)


def fake_python(path: Path, prints: str) -> None:
    """A program at `path` that answers as an interpreter of a version."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho {prints}\n", encoding="utf-8")
    path.chmod(0o755)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["", "a1", "b12", "rc2"])), min_size=1, max_size=8, unique=True))
def test_releases_of_pyenv_are_sorted_by_number(tmp_path_factory: pytest.TempPathFactory, releases: list[tuple[int, str]]) -> None:
    pyenv = tmp_path_factory.mktemp("pyenv")
    for patch, stage in releases:
        (pyenv / "versions" / f"3.12.{patch}{stage}").mkdir(parents=True)
    found = [path.parents[1].name.removeprefix("3.12.") for path in environments.pyenv_pythons("3.12", pyenv)]
    order = sorted(releases, key=lambda each: (each[0], each[1] == "", each[1][:1], int(re.sub(r"\D", "", each[1]) or 0)), reverse=True)
    assert found == [f"{patch}{stage}" for patch, stage in order]


def test_the_newest_python_that_works_is_found_for_each_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("3.9.18", "3.11.9", "3.11.10", "3.12.2", "3.13.0t", "3.13.1"):
        fake_python(tmp_path / "pyenv" / "versions" / name / "bin" / "python", ".".join(name.split(".")[:2]))
    fake_python(tmp_path / "pyenv" / "versions" / "3.12.10" / "bin" / "python", "'no module named ensurepip' >&2; exit 1")
    fake_python(tmp_path / "shims" / "python3.13", "'3.13 is not installed' >&2; exit 127")
    fake_python(tmp_path / "bin" / "python3.13", "3.13")
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{tmp_path / 'bin'}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    versions = tmp_path / "pyenv" / "versions"
    assert list(environments.find_pythons().items()) == [
        ("3.11", versions / "3.11.10" / "bin" / "python"),
        ("3.12", versions / "3.12.2" / "bin" / "python"),
        ("3.13", tmp_path / "bin" / "python3.13"),
    ]


def test_every_check_ends_as_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {
        "a": Skipped("this needs npm"),
        "b": CheckError("pip failed", "line one\nline two"),
        "c": FileNotFoundError("node"),
        "d": AssertionError(),
        "e": None,
    }
    results: list[Result] = []
    for name, error in errors.items():
        with step(results, name):
            if error:
                raise error
    assert [(each.check, each.state) for each in results] == [*zip("abcde", ("skipped", *["failed"] * 3, "passed"), strict=True)]
    shown = capsys.readouterr().out
    assert "a: skipped: this needs npm\n" in shown
    assert "b: failed: pip failed\n    line one\n    line two\n" in shown
    assert "c: failed: FileNotFoundError: node\n    Traceback" in shown
    rows = table(results).splitlines()
    assert [row.split()[:2] for row in rows[:-1]] == [["check", "result"], *([each.check, each.state] for each in results)]
    assert rows[1].endswith("  this needs npm") and rows[2].endswith("  pip failed")
    assert rows[-1].startswith("1 passed, 1 skipped, 3 failed, in ")


def test_an_interruption_ends_the_step() -> None:
    results: list[Result] = []
    with pytest.raises(KeyboardInterrupt), step(results, "a"):
        raise KeyboardInterrupt
    assert [each.state for each in results] == ["failed"] and results[0].reason == "it was stopped"


@given(st.text(alphabet="ab \t\n\r\v\f\x1c\x85\u2028"))
def test_a_reason_is_one_line(reason: str) -> None:
    results: list[Result] = []
    record(results, "a", 0.0, CheckError(reason))
    assert len(table(results).splitlines()) == 3


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo a; echo b >&2; exit 3", "ended with exit code 3"),
        (WRITE_PID, "did not end within 0.5 s and was killed"),
        (f"(echo a; echo b >&2; {WRITE_PID}) & exit 4", "ended with exit code 4"),
    ],
)
def test_a_program_that_fails_is_named(script: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckError) as caught:
        run_program(["sh", "-c", script, "a name"], timeout=0.5 if "within" in message else 300, cwd=tmp_path)
    assert str(caught.value).startswith("sh -c ") and str(caught.value).endswith(f"'a name' {message}")
    if "echo a" in script and "sleep" not in script:
        assert caught.value.output == "a\nb\n"


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"^no-such-program --help does not start: No such file or directory$"):
        run_program(["no-such-program", "--help"])


def test_what_a_program_starts_ends_with_it(tmp_path: Path) -> None:
    script = f"({WRITE_PID}) & while ! [ -s pid ]; do sleep 0.02; done; "
    assert run_program(["sh", "-c", script + "cat; echo end"], cwd=tmp_path, text="नमस्कार\n") == "नमस्कार\nend\n"
    await_end(written_pid(tmp_path))
    (tmp_path / "pid").unlink()
    with pytest.raises(CheckError, match="did not end within 1 s"):
        run_program(["sh", "-c", script + "wait"], timeout=1, cwd=tmp_path)
    await_end(written_pid(tmp_path))


def test_programs_do_not_use_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "TORCH"):
        monkeypatch.setenv(name, "x")
    names = {line.partition("=")[0] for line in run_program(["env"]).splitlines()}
    assert "TORCH" in names and not names & {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS"}


@pytest.mark.parametrize("fault", ["none", "the body fails", "it ignores SIGTERM", "both"])
def test_a_server_is_always_stopped(fault: str, tmp_path: Path) -> None:
    server, seconds = (STUBBORN, (300, 0.2)) if fault in ("it ignores SIGTERM", "both") else (SERVER, (300, 300))
    expected = {
        "the body fails": pytest.raises(ZeroDivisionError),
        "it ignores SIGTERM": pytest.raises(CheckError, match=r"did not end within 0.2 s after SIGTERM and was killed$"),
        "both": pytest.raises(ZeroDivisionError),
    }
    command = [sys.executable, "-c", server]
    with (
        expected.get(fault, contextlib.nullcontext()),
        running_server(command, r"http://\S+/v1", cwd=tmp_path, seconds=seconds) as address,
    ):
        with urllib.request.urlopen(address.removesuffix("v1"), timeout=60) as answer:
            assert b"pid" in answer.read()
        assert runs(written_pid(tmp_path))
        if fault in ("the body fails", "both"):
            raise ZeroDivisionError
    assert not runs(written_pid(tmp_path))


@pytest.mark.parametrize(
    ("script", "seconds", "message"),
    [
        (f"echo no address; {WRITE_PID}", 0.5, "was not ready within 0.5 s and was killed"),
        ("echo no address; echo $$ > pid; exit 5", 300, "ended with exit code 5 before it was ready"),
    ],
)
def test_a_server_that_does_not_start_is_stopped(script: str, seconds: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckError) as caught, running_server(["sh", "-c", script], "http://", cwd=tmp_path, seconds=(seconds, 300)):
        raise AssertionError("it has no address")
    assert str(caught.value).endswith(message) and caught.value.output == "no address\n"
    assert not runs(written_pid(tmp_path))


@pytest.mark.parametrize(
    ("words", "model", "chosen"),
    [
        ([], False, [*release_check.CHECKS]),
        ([], True, [*release_check.CHECKS]),
        (["npm", "sdist"], True, ["sdist", "npm"]),
        (["npm,sdist"], True, ["sdist", "npm"]),
        (["sdist, npm", "wheels"], True, ["wheels", "sdist", "npm"]),
        (["sdist", "sdist"], False, ["train", "sdist"]),
        (["checkout"], False, ["checkout"]),
    ],
)
def test_checks_that_only_names(words: list[str], model: bool, chosen: list[str]) -> None:
    assert release_check.choose_checks([part for word in words for part in word.split(" ")], model) == chosen


@pytest.mark.parametrize(("fails", "model", "skipped"), [("train", False, True), ("train", True, False), ("wheels", True, True)])
def test_a_given_model_needs_no_training(fails: str, model: bool, skipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(release: object, folder: Path, results: list[Result]) -> None:
        with step(results, name := "sdist" if results else fails):
            if name == fails:
                raise CheckError("a fault")

    for each in (fails, "sdist"):
        monkeypatch.setitem(release_check.CHECKS, each, release_check.CHECKS[each]._replace(run=check))
    monkeypatch.setenv("TMPDIR", "restored by monkeypatch")
    path = tmp_path / "m.bullet"
    if model:
        path.write_bytes(b"")
    results: list[Result] = []
    release_check.run_checks([fails, "sdist"], release_check.Release(dist=tmp_path, model=path, pythons={}), tmp_path, results)
    assert [each.state for each in results] == ["failed", "skipped" if skipped else "passed"]


@pytest.mark.parametrize("words", [[""], [","], ["sdist", "all"], ["sdist,all"]])
def test_a_name_that_is_no_check(words: list[str]) -> None:
    with pytest.raises(ValueError, match=f"^--only {'all' if 'all' in words[-1] else ''}: the checks are wheels, checkout, "):
        release_check.choose_checks(words, True)


def test_what_builds_on_a_check_that_did_not_pass_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(release: object, folder: Path, results: list[Result]) -> None:
        with step(results, "wheels"):
            raise CheckError("no compiler")

    def pass_or_fail(release: object, folder: Path, results: list[Result]) -> None:
        with step(results, "checkout, one"):
            assert os.environ["TMPDIR"] == str(folder) and folder.parent == tmp_path
        skip(results, "checkout, two", "this needs git")
        (folder / "left").write_text("", encoding="utf-8")
        raise OSError("the disk is full")

    monkeypatch.setitem(release_check.CHECKS, "wheels", release_check.Check(fail))
    monkeypatch.setitem(release_check.CHECKS, "checkout", release_check.Check(pass_or_fail))
    monkeypatch.setenv("TMPDIR", "restored by monkeypatch")
    release = release_check.Release(dist=tmp_path, model=tmp_path / "m.bullet", pythons={})
    results: list[Result] = []
    release_check.run_checks([*release_check.CHECKS], release, tmp_path, results)
    assert [(each.check, each.state) for each in results] == [
        ("wheels", "failed"),
        ("checkout, one", "passed"),
        ("checkout, two", "skipped"),
        ("checkout", "failed"),
        *((name, "skipped") for name in ("train", "extras", "plain", "sdist", "aarch64", "clients", "npm")),
    ]
    assert [*tmp_path.iterdir()] == []


def release_command(tmp_path: Path, *words: object, path: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The command of a release check with an empty folder of wheels, and its variables: temporary files are written to tmp_path / "tmp"."""
    for name in ("tmp", "dist", "pyenv"):
        (tmp_path / name).mkdir()
    command = [sys.executable, str(ROOT / "tools" / "release_check.py"), "--dist", str(tmp_path / "dist"), *map(str, words)]
    changes = {"TMPDIR": str(tmp_path / "tmp"), "PYENV_ROOT": str(tmp_path / "pyenv"), "PATH": path or os.environ["PATH"]}
    return command, {**os.environ, **changes}


def test_a_failed_check_does_not_stop_the_others(bullet_path: Path, tmp_path: Path) -> None:
    fake_python(tmp_path / "bin" / "python3.11", "3.11")
    command, variables = release_command(tmp_path, "--model", bullet_path, "--only", "plain,sdist", "npm", path=str(tmp_path / "bin"))
    before = bullet_path.read_bytes()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    *rows, last = lines[lines.index("") + 2 :]
    assert [re.split(r"  +", row)[:2] for row in rows] == [
        ["plain, Python 3.11", "failed"],
        *([f"plain, Python 3.{minor}", "skipped"] for minor in (12, 13, 14)),
        ["sdist", "failed"],
        ["npm", "skipped"],
    ]
    assert rows[0].endswith("/dist has no bulletlm-*" + os.uname().machine + ".whl: run make wheels")
    assert rows[-1].endswith("  this needs Node.js and npm")
    assert last.startswith("0 passed, 4 skipped, 2 failed, in ")
    assert [*(tmp_path / "tmp").iterdir(), *(tmp_path / "dist").iterdir()] == [] and bullet_path.read_bytes() == before


def test_without_python_nothing_passes(bullet_path: Path, tmp_path: Path) -> None:
    command, variables = release_command(tmp_path, "--model", bullet_path, "--only", "plain", path=str(tmp_path))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("0 passed, 4 skipped, 0 failed, in ")


def test_a_stopped_release_check_leaves_nothing_behind(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin" / "python3.11", f'> /dev/null; cd "{tmp_path}"; {WRITE_PID}')
    command, variables = release_command(tmp_path, "--only", "checkout", path=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        pid = written_pid(tmp_path)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and out.endswith("stopped before the end\n")
    await_end(pid)
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_an_unknown_check_and_an_unknown_model_are_named(tmp_path: Path) -> None:
    command, variables = release_command(tmp_path, "--only", "plain,all")
    for words, message in (([], "--only all: the checks are wheels, checkout, "), (["--model", "none.bullet"], "--model none.bullet: ")):
        done = subprocess.run([*command, *words], env=variables, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 2 and message in done.stderr


def test_the_list_describes_every_check(tmp_path: Path) -> None:
    command, variables = release_command(tmp_path, "--list")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*release_check.CHECKS]
    assert all(re.fullmatch(r"\w+ +[A-Z].+\.", line) and len(line) <= 140 for line in done.stdout.splitlines())
