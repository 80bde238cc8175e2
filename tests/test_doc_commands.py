"""Tests that the commands of README and docs work: each runs here, on a tiny text and a tiny model, unless `ELSEWHERE` says why not.

Those that do not run here are still read by the real parsers: the command, its options, its settings and the files of the repository
that it names must exist.
"""

import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from bulletlm.cli.app import app, main
from bulletlm.cli.builder import app as builder
from bulletlm.cli.builder import main as build
from bulletlm.config.loader import load_config, parse_flags
from bulletlm.data.sources import EMBEDDED
from bulletlm.formats.packaged import BASE
from bulletlm.pipeline.auto import Speed
from bulletlm.pipeline.plan import Clock, Measured, training_flops
from bulletlm.train.scaling import family
from doc_commands import PAGES, PROGRAMS, Command, commands, programs
from micro_model import MICRO, write_texts
from paths import ROOT, SAMPLE_CORPUS

EVERY = [command for page in PAGES if page.name != "CHANGELOG.md" for command in commands(page)]

ELSEWHERE = {
    r"make (demo|chat|bench|docs)\b": "it installs torch into .venv: the check `checkout` of `make release-check`, on a fresh clone",
    r"(source|\.) .venv/bin/activate": "it needs the .venv of `make demo`: the check `checkout` of `make release-check`",
    r"pip install": "it needs the network: the checks `checkout` and `extras` of `make release-check`",
    r"make (test|lint|sanitize)\b": "it runs this test, or minutes of checks: .ci/run",
    r"make (wheels|release-check)\b": "it is `make release-check` itself, or its first step",
    r"make pins\b": "it needs the network, and replaces constraints.txt: who runs it looks at the result",
    r"make fuzz\b": "20 minutes; tests/formats and tests/native mutate files for seconds",
    r"python bench/(runtime|train_speed)\.py": "minutes of measurements; `make bench` runs it with --quick",
    r"python bench/": "minutes or hours of measurements; test_bench_scripts.py tests what they decide",
    r"python setup.py build_ext": "it compiles the libraries that these tests use; every installation from source does",
    r"python tools/build_wasm.py": "it needs clang and lld; tests/formats builds the same files where they are",
    r"bullet run bench/model.jsonc|bullet qat runs/bench": "it trains for an evening on text that is not in the repository",
    r"bullet plan marathi-english": "it needs the text of docs/corpus.md, which is not in the repository; the recipe is parsed",
    r"bullet train \S+ .*--prove-resume": "it trains in processes that it kills; test_around.py runs it",
    r"bullet train \S+ --train\.workers=2": "test_distributed.py trains with two processes",
    r"torchrun": "test_distributed.py starts torchrun on this computer; the page's example needs two computers, or eight",
    r"llama-(cli|server) ": "it needs llama.cpp; tests/formats checks the file with its library where that is installed",
    r"apt-get ": "it needs the network and root rights",
    r"ollama ": "it needs Ollama; tests/formats checks the file and its Modelfile, and bench/clients.py the protocol",
    r"bullet serve \S+ --host 0\.0\.0\.0": "it opens this computer to the network; test_access.py does that with a key",
    r"bullet bench demo --against llama.cpp": "it needs llama.cpp; the tests of `bench` compare with it where it is installed",
    r"bullet --install-completion": "it changes the start file of the shell; test_completion.py does that in a home of its own",
}
"""Commands that do not run here, as regular expressions -> why, and what runs them instead."""

PLACES = {
    "CONFIG": "micro.jsonc",
    "FILE": "demo",
    "MODEL": "demo",
    "SOURCE": "demo",
    "SRC": "demo",
    "OLD": "demo",
    "DST": "target.gguf",
    "NEW": "new.bullet",
    "TARGET": "target.gguf",
    "FILE.bullet": "demo",
    "A": "demo",
    "B": "runs/demo/model.bullet",
    "RUN": "demo",
    "BASE": "runs/demo",
    "NAME": "demo",
    "FOLDER": "my-texts",
    "TEXT": "my-texts",
    "COMMAND": "run",
}
"""What stands for something that readers fill in -> an example."""


def words_of(command: Command) -> list[str]:
    """The words of a command with its placeholders filled in; an ellipsis ends it."""
    special = (
        {"CONFIG": "start.jsonc"}
        if "--from" in command.words
        else {"build": {"FOLDER": "runs/demo"}, "benchmark": {"NAME": "pairs.jsonl"}}.get("".join(command.words[1:2]), {})
    )
    words = [{**PLACES, **special}.get(word, word).replace("/NAME/", "/my-texts/") for word in command.words]
    return words[: words.index("...")] if "..." in words else words


def is_complete(command: Command) -> bool:
    """Whether a command can be typed as it is; inside a sentence, `bullet run` or `bullet run --hours` speaks of it in general."""
    return command.in_block or (len(command.words) > 2 and (not command.words[2].startswith("-") or command.words[2] == "--help"))


def id_of(command: Command) -> str:
    return f"{command.page}:{command.line}:{' '.join(command.words[:2])}"


def why_elsewhere(command: Command) -> str | None:
    """Why a command does not run here; None if it does."""
    typed = " ".join(command.words)
    return next((reason for pattern, reason in ELSEWHERE.items() if re.match(pattern, typed)), None)


BULLET = [command for command in EVERY if command.words[0] in ("bullet", "bullet-builder") and is_complete(command)]


def runs_here(command: Command) -> bool:
    """Whether `test_commands_run` runs it."""
    program = "python -c" if command.words[:2] == ("python", "-c") else command.words[0]
    return is_complete(command) and program in ("bullet", "bullet-builder", "curl", "python -c") and why_elsewhere(command) is None


@pytest.mark.parametrize("command", EVERY, ids=id_of)
def test_every_command_runs_or_has_a_reason(command: Command) -> None:
    known = not is_complete(command) or command.words[0] == "printf" or runs_here(command)  # printf is the text for a pipe
    assert known or why_elsewhere(command), f"{command.page}, line {command.line}: nothing runs {command.text}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_start_known_programs(page: Path) -> None:
    assert programs(page) <= set(PROGRAMS), "tests/doc_commands.py does not see the commands of other programs"


def test_every_reason_is_for_a_command() -> None:
    for pattern in ELSEWHERE:
        assert any(re.match(pattern, " ".join(command.words)) for command in EVERY), pattern


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


TINY = {
    "data.val_tokens": 600,
    "tokenizer.vocab_size": 500,
    "model.dim": 32,
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.max_seq_len": 32,
    "train.total_steps": 8,
    "train.warmup_steps": 2,
    "train.eval_every_steps": 4,
    "train.save_every_steps": 4,
    "train.batch_size_per_device": 4,
    "train.gradient_accumulation_steps": 1,
    "train.threads": 1,
    "train.precision": "fp32",
    "qat.steps": 0,
    "quant.calibration_tokens": 1_024,
    "evaluate.prompts": "few-prompts.jsonl",
    "sampling.max_tokens": 4,
}
"""Settings that end a run in a second; those that a page gives win, except that `SHORTER` cuts the steps."""

SHORTER = [
    (r"--total-steps=\d+", "--total-steps=12"),
    (r"--eval-every=\d+", "--eval-every=4"),
    (r"--qat\.steps=\d+", "--qat.steps=2"),
    (r"--steps \d+", "--steps 2"),
    (r"--max-tokens \d+", "--max-tokens 3"),
    (r"--use step-\d+", "--use step-4"),
    (r"--epochs=\d+", "--epochs=1"),
    (r"--dim=\d+", "--dim=64"),
]

SPEED = Speed(
    clock=Clock(
        [Measured(shape, 16, 16 * 128 * training_flops(shape) / 1e11, 1e-3) for shape in (family(w, 2_000, 128) for w in (64, 256))]
    ),
    exact=2.0,
    cores=2,
    words="a machine",
)
"""What stands for the measurement of this machine, which takes seconds."""

SAME = r"--hours \S+ ?|(?<=--name base-)\d|(?<=--seed=)\d"
"""What differs between two commands that do the same; `test_command_and_options_exist` reads both."""

STAGES = ("run", "data", "tokenizer", "train", "export", "build", "evaluate")

SLOW = (*STAGES, "plan", "qat")
"""Commands that do not run a second time if another page has the same words."""


def tiny(words: list[str]) -> list[str]:
    """The words after `bullet` with what makes the command quick."""
    line = "\n".join(words).replace("--steps\n", "--steps ").replace("--max-tokens\n", "--max-tokens ").replace("--use\n", "--use ")
    for long, short in SHORTER:
        line = re.sub(rf"^{long}$", short, line, flags=re.MULTILINE)
    command, *words = [part for word in line.split("\n") for part in (word.split(" ") if word.startswith("--") else [word])]
    paths = [word for word in words if not word.startswith("-")]
    if command in ("chat", "generate"):
        words += [] if "--max-tokens" in words else ["--max-tokens", "3"]
    if command == "bench":
        words += ["--rounds", "1", "--tokens", "4"]
    if command == "compare":
        words += ["--no-answers"]
    if command == "qat" and "--steps" not in words:
        words += ["--steps", "2"]
    if command == "dashboard":
        words += ["--port", "0", "--no-open"]
    if command == "plan" and paths[0] in ("seed", "micro.jsonc"):
        words += ["--seconds", "0.01", "--set", "data.sources=[my-texts]", "--train.compile=off", "--batch=1"]
    fixed = (paths or [""])[0].startswith(("runs/", "export/", "micro.jsonc"))  # a model or a configuration that is tiny already
    if command in STAGES and not fixed:
        given = settings_of([command, *words])
        # A run from another model has the shape and the vocabulary of that model.
        owned = ("model.", "tokenizer.") if given.get("model.start_from", "none") != "none" else ()
        if paths[0] == "demo":
            words += ["--set", "data.sources=[my-texts]"]
        if "train.epochs" in given and "name" not in given:
            words += ["--name", "epochs"]  # another length is another run
        if "train.epochs" in given:
            words += ["--train.batch_size_per_device=64"]  # fewer steps in a pass over the text
            given = {**given, "train.batch_size_per_device": 64}
        for name, value in TINY.items():
            if name not in given and not name.startswith(owned) and not (name == "train.total_steps" and "train.epochs" in given):
                words += [f"--{name}={value}"]
    return [command, *words]


def settings_of(words: list[str]) -> dict[str, object]:
    """The settings among the words of a command, without its other options."""
    _, bound, *_ = app.parse_known_args(words)
    settings = [word for word in bound.args if isinstance(word, str)]
    first = next((n for n, word in enumerate(settings) if word.startswith("-")), len(settings))
    return parse_flags(settings[first:])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: texts, a finished run "demo", and the files that the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    texts = write_texts(folder / "my-texts", share=0.4)
    for part in EMBEDDED:  # a few lines of each file stand for the corpus of the package
        (folder / "package" / part).mkdir(parents=True)
        for path in (SAMPLE_CORPUS.parent / part).glob("*.*"):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:15]
            (folder / "package" / part / path.name).write_text("".join(lines), encoding="utf-8")
    for copy in ("lessons", "old-texts", "german/texts-de"):
        shutil.copytree(texts, folder / copy)
    shutil.copy(texts / "stories.en.txt", folder / "novel.txt")
    (folder / "letters.txt").write_text("".join(f"Dear friend, this is letter number {n}.\n\n" for n in range(300)))
    prompts = [{"prompt": "चहा?", "language": "mr", "kind": "short"}, {"prompt": "Tea?", "language": "en", "kind": "short"}]
    (folder / "few-prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    (folder / "held-out.txt").write_text("The river was quiet again, and they counted 14 boats.\n" * 20)
    pairs = [{"sentence_good": "What is a friend?", "sentence_bad": "What are a friend?"}] * 4
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "benchmarks").mkdir()
    for name, sentence in {"mar_Deva.devtest": "एका गावात एक शेतकरी राहत होता.", "eng_Latn.devtest": "A farmer lived in a village."}.items():
        (folder / "benchmarks" / name).write_text((sentence + "\n") * 3, encoding="utf-8")
    shutil.copytree(ROOT / "bench", folder / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(texts, folder / "growing")
    few = {"evaluate": {"prompts": "few-prompts.jsonl"}, "quant": {"calibration_tokens": 1_024}}
    small = {"dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "total_steps": 8, "eval_every": 4}
    start = {**MICRO, **few, **small, "name": "micro", "data": {"val_tokens": 600, "sources": ["growing"]}}
    (folder / "micro.jsonc").write_text(json.dumps({**start, "scheduler": "wsd"}), encoding="utf-8")
    shape = ("vocab_size", "dim", "layers", "heads", "kv_heads", "hidden_dim")
    free = {name: value for name, value in start.items() if name not in shape}
    (folder / "start.jsonc").write_text(json.dumps({**free, "name": "continued"}), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        run(tiny(["run", "demo"]))
        demo = folder / "runs" / "demo"
        (folder / "models").mkdir()
        for name in ("asha.bullet", "base.bullet", "model.bullet", f"models/{BASE}.bullet"):
            shutil.copy(demo / "model.bullet", folder / name)
        run(["convert", "model.bullet", "other.gguf"])
        run(["benchmark", "model.bullet", "--suite", "pairs.jsonl", "--out", "results.json"])
    finally:
        os.chdir(before)
    shutil.copytree(demo / "export", folder / "export")
    shutil.copy(demo / "tokens" / "train.bin", folder / "tokens.bin")
    return folder


def run(words: list[str], program: str = "bullet") -> None:
    """Run a command in this process; raises AssertionError if it fails."""
    try:
        (build if program == "bullet-builder" else main)(words)
    except SystemExit as stop:
        assert not stop.code, f"{program} {' '.join(words)} ended with {stop.code}"


PAGES_THAT_RUN = sorted({command.page for command in EVERY if runs_here(command)})


@pytest.fixture(scope="module")
def kept(place: Path) -> dict[str, bytes | None]:
    """What is in the folder before the first command: files, and None for folders. Each page begins with it, and with all runs."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in place.iterdir()}


@pytest.fixture(scope="module")
def done() -> set[str]:
    """The slow commands that ran already, with their words."""
    return set()


@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_commands_run(
    page: str,
    place: Path,
    kept: dict[str, bytes | None],
    done: set[str],
    start: Callable[[tuple[str, ...]], int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The commands of a page, in the order in which a reader types them."""
    for path in place.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in kept.items():
        if content is not None:
            (place / name).write_bytes(content)
    monkeypatch.chdir(place)
    monkeypatch.setattr("bulletlm.pipeline.auto.measure_speed", lambda progress: SPEED)
    monkeypatch.setattr("bulletlm.evaluate.question_use.MOST_PAIRS", 4)
    monkeypatch.setattr("bulletlm.evaluate.charts._chart", lambda *_: "<svg></svg>")
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", place / "models")  # a tiny model stands for the packaged one
    monkeypatch.setattr("bulletlm.data.sources._folder", lambda part: place / "package" / part)
    monkeypatch.setattr("bulletlm.pipeline.recipe._seconds_so_far", lambda: 1.0)  # the tests before this one are not a part of the command
    port = 0
    for command in EVERY:
        if command.page != page or not runs_here(command):
            continue
        where = f"{page}, line {command.line}: {command.text}"
        program, *words = words_of(command)
        capfd.readouterr()
        try:
            if program == "curl":
                shown = curl(words, port)
            elif program == "python":
                shown = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
            elif words[:1] in (["serve"], ["dashboard"]) and "--help" not in words:
                port = start(tuple(tiny([*words, "--port", "0"] if words[0] == "serve" else words)))
                continue
            else:
                typed = tiny(words) if program == "bullet" else words
                if (line := re.sub(SAME, "", " ".join(typed))) in done and typed[0] in SLOW:
                    continue
                if typed[0] == "run":
                    forget(typed, done)
                if where.endswith("bullet run CONFIG") and page == "training.md":
                    shutil.copy("letters.txt", "growing/letters.txt")  # "after text was added"
                done.add(line)
                monkeypatch.setattr(sys, "stdin", io.StringIO("नमस्कार\n/exit\n" if typed[0] == "chat" else "3333\n3333\n=\n"))
                run(typed, program)
                shown = capfd.readouterr().out
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{capfd.readouterr().err[-2000:]}") from None
        assert shown, where


def forget(words: list[str], done: set[str]) -> None:
    """Delete the run that another command made of the same text: pages name several commands of which a reader takes one."""
    name = words[words.index("--name") + 1] if "--name" in words else words[1].partition(".")[0]
    if any(line.startswith(f"run {words[1]} ") for line in done) and not words[1].endswith(".jsonc") and words[1] != "demo":
        shutil.rmtree(Path("runs") / name, ignore_errors=True)


@pytest.fixture(scope="module")
def start(place: Path) -> Iterator[Callable[[tuple[str, ...]], int]]:
    """A function that starts a command which runs until it is stopped, once for all pages, and returns its port."""
    started: list[subprocess.Popen[str]] = []

    @cache
    def start(words: tuple[str, ...]) -> int:
        command = [sys.executable, "-m", "bulletlm", *words]
        process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])
        raise AssertionError(f"bullet {' '.join(words)} ended with {process.wait()}")

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        assert process.wait(60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), process.args
        assert process.stdout is not None
        process.stdout.close()


def curl(words: list[str], port: int) -> str:
    """What curl gets from the server of this page, which listens at another port."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    words = [word.replace(":8000", f":{port}") for word in words]
    got = subprocess.run(["curl", "--fail-with-body", *words], capture_output=True, text=True, check=False)
    assert not got.returncode, got.stdout + got.stderr
    return got.stdout


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
    assert len(BULLET) > 40 and sum(map(runs_here, EVERY)) > 90 and len(PYTHON) >= 2
