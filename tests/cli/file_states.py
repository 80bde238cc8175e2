"""Run every command on files and folders in ordinary bad states; print one JSON object per case. Run by test_file_states.py.

Arguments: a folder for the files, a finished run folder, a configuration file. File permissions apply to this process even if it
belongs to root, because it gives up the capabilities that override them.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from bulletlm.cli.app import main as bullet
from bulletlm.cli.builder import main as builder

OBJECT = '{"unknown": 1}'
"""JSON that is no configuration, so that no state starts a whole run."""

Words = Callable[[str], list[str]]


def give_up_capabilities() -> None:
    """Drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from the effective set (Linux)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~0b110
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def make_states(folder: Path, ending: str) -> Iterator[tuple[str, str]]:
    """Name of the state, and a path in this state whose name ends in `ending`."""
    folder.mkdir()

    def path(name: str) -> Path:
        return folder / f"{name}{ending}"

    def state(name: str, make: Callable[[Path], object]) -> tuple[str, str]:
        make(path(name))
        return name, str(path(name))

    yield "missing", str(path("missing"))
    yield state("folder", lambda it: it.mkdir())
    yield state("empty", lambda it: it.touch())
    yield state("binary", lambda it: it.write_bytes(bytes(range(256)) * 8))
    yield state("list", lambda it: it.write_text("[1, 2]"))
    yield state("object", lambda it: it.write_text(OBJECT))
    yield state("dangling", lambda it: it.symlink_to("nowhere"))
    yield state("loop", lambda it: it.symlink_to(it.name))
    yield state("unreadable", lambda it: (it.write_text(OBJECT), it.chmod(0)))
    yield state("pipe", lambda it: os.mkfifo(it))
    yield state("device", lambda it: it.symlink_to("/dev/zero"))
    locked = folder / "locked"
    locked.mkdir()
    (locked / f"file{ending}").write_text(OBJECT)
    locked.chmod(0)
    yield "in an unreadable folder", str(locked / f"file{ending}")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind(f"socket{ending}")
    yield "socket", str(path("socket"))
    yield "below a file", str(path("empty") / f"x{ending}")
    yield "no such user", f"~nosuchuser/x{ending}"
    yield "too long", str(folder / ("x" * 300 + ending))
    name = os.fsdecode(b"\xff\xfe" + os.fsencode(ending))
    (folder / name).write_text(OBJECT)
    yield "not UTF-8", str(folder / name)
    (folder / f"a\nb\x1b[2J{ending}").write_text(OBJECT)
    yield "control characters", str(folder / f"a\nb\x1b[2J{ending}")


def commands(run: Path, config: str, scratch: Path) -> Iterator[tuple[str, str, Words]]:
    """Command and argument, ending of the path that is tried, and the words of the command line for a path."""
    model, npy = str(run / "model.bullet"), str(run / "export" / "npy")
    for stage in ("run", "data", "tokenizer", "train", "export", "build", "evaluate", "plan", "config"):
        yield f"{stage} CONFIG", ".json", lambda path, stage=stage: [stage, path]
    yield "qat RUN", "", lambda path: ["qat", path]
    for command in ("info", "verify", "chat", "bench", "serve"):
        yield f"{command} FILE", ".bullet", lambda path, command=command: [command, path]
    yield "generate FILE", ".bullet", lambda path: ["generate", path, "--prompt", "a", "--max-tokens", "1", "--seed", "1"]
    yield "benchmark FILE", ".bullet", lambda path: ["benchmark", path, "--suite", path]
    yield "score RUN", "", lambda path: ["score", path]
    yield "card FILE", ".bullet", lambda path: ["card", path]
    yield "dashboard FOLDER", "", lambda path: ["dashboard", path, "--no-open", "--port", "99999"]
    yield "compare A", "", lambda path: ["compare", path, model]
    yield "compare B", ".bullet", lambda path: ["compare", model, path]
    yield "compare --tokens", "", lambda path: ["compare", npy, model, "--tokens", path]
    yield "convert SRC", ".gguf", lambda path: ["convert", path, str(scratch / "out.bullet")]
    yield "convert DST", ".gguf", lambda path: ["convert", model, path]
    yield "init PATH", ".jsonc", lambda path: ["init", path]
    yield "plan --write", ".json", lambda path: ["plan", config, "--hours=1", "--seconds=0.01", f"--write={path}"]
    yield "builder FOLDER", "", lambda path: ["builder", path, "--out", str(scratch / "out.bullet")]
    for option in ("--calibration", "--validation"):
        yield f"builder {option}", ".bin", lambda path, option=option: ["builder", npy, option, path, "--out", str(scratch / "out.bullet")]
    yield "builder --out", ".bullet", lambda path: ["builder", npy, "--method=none", "--out", path]
    yield "builder --report", ".json", lambda path: ["builder", npy, "--method=none", "--out", str(scratch / "o.bullet"), "--report", path]
    here = f"--runs-dir={scratch / 'runs'}"
    yield "data.sources", ".txt", lambda path: ["data", config, here, f"--data.sources=[{json.dumps(path)}]"]
    yield "data.sources folder", "", lambda path: ["data", config, here, f"--data.sources=[{json.dumps(path)}]"]
    yield (
        "evaluate.prompts",
        ".jsonl",
        lambda path: ["train", config, f"--runs-dir={run.parent}", f"--evaluate.prompts={path}", "--restart"],
    )
    yield "runs_dir", "", lambda path: ["data", config, f"--runs-dir={path}"]


def cases(folder: Path, run: Path, config: str) -> Iterator[dict[str, object]]:
    for number, (command, ending, words) in enumerate(commands(run, config, folder)):
        for state, path in make_states(folder / f"{number}", ending):
            os.chdir(folder / f"{number}")  # what is written to a relative path is not found by the next command
            yield {"command": command, "state": state, **call(words(path))}
    contents = ["{}", "[]", '{"val": 1, "train": []}']
    damaged = [*(("tokens/index.json", content) for content in contents), ("report.json", "[]"), ("metrics.jsonl", "[]\n3\nnull\n")]
    for name, content in [*damaged, ("export/npy/manifest.json", "[]")]:
        copy = folder / "copy"
        shutil.copytree(run, copy)
        (copy / name).write_text(content)
        plan = ["plan", config, f"--runs-dir={folder}", "--name=copy", "--seconds=0.01"]
        for words in (["compare", str(copy), str(copy / "model.bullet")], ["qat", str(copy), "--qat.steps=0"], plan):
            yield {"command": words[0], "state": f"{name} {content!r}", **call(words)}
        shutil.rmtree(copy)
    readonly = folder / "readonly"
    shutil.copytree(run, readonly)
    for path in (readonly, *(path for path in readonly.rglob("*") if path.is_dir())):
        path.chmod(0o500)
    place = [f"--runs-dir={folder}", "--name=readonly"]
    for words in (["run", config, *place], ["evaluate", config, *place], ["qat", str(readonly), "--qat.steps=0"]):
        yield {"command": words[0], "state": "read-only run folder", **call(words)}


def call(words: list[str]) -> dict[str, object]:
    """Exit code and standard error of a command; "traceback" if it raised anything but SystemExit."""
    errors, output = io.StringIO(), io.StringIO()
    result: dict[str, object] = {"words": words, "code": 0}
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            builder(words[1:]) if words[0] == "builder" else bullet(words)
        except SystemExit as stop:
            result["code"] = stop.code
        except BaseException:
            result["traceback"] = traceback.format_exc()
    return {**result, "stderr": errors.getvalue()}


if __name__ == "__main__":
    give_up_capabilities()
    sys.stdin = io.StringIO()
    for case in cases(*map(Path, sys.argv[1:3]), sys.argv[3]):
        print(json.dumps(case), flush=True)
