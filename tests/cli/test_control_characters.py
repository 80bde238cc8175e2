"""Tests that no command prints control characters or direction marks that come from file names, files or a model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bulletlm.cli.app import app, main
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.convert import read_model
from bulletlm.formats.stored import type_of
from bulletlm.progress import ConsoleProgress
from bulletlm.terminal import printable
from bulletlm.text.tokenizer import Tokenizer
from micro_model import write_micro_config, write_texts

EVIL = "a\x1b[31m\x9b2J\u202eb\r\x7f\x08\u2066c"
"""An escape sequence in 7 and 8 bits, an override of the direction, a carriage return, DEL, backspace; short enough for a file name."""


def assert_harmless(shown: str, command: str) -> None:
    """Line feeds and tabs are the only control characters that a terminal got."""
    unsafe = {c for c in shown if c != printable(c, lines=True)}
    assert not unsafe, f"{command} printed {unsafe}: {shown!r}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evil") / EVIL
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def config(base: Path) -> Path:
    """A configuration, run folder, text folder and text files with hostile names; one of the files cannot be read as text."""
    texts = write_texts(base / f"texts {EVIL}")
    for path in sorted(texts.iterdir()):
        path.rename(texts / f"{EVIL}{path.name}")
    (texts / f"{EVIL}.txt").write_text(f"{EVIL} " * 50, encoding="utf-8")
    (texts / f"picture{EVIL}.xyz").write_bytes(bytes(range(256)))
    return write_micro_config(base, texts)


@pytest.fixture(scope="module")
def evil_model(base: Path, micro_run: Path) -> Path:
    """A model with hostile metadata and a hostile file name."""
    path = base / f"{EVIL}.bullet"
    _, model = read_model(micro_run / "model.bullet")
    metadata = {
        **model.metadata,
        "name": EVIL,
        "license": EVIL,
        "languages": [EVIL],
        EVIL: {EVIL: [EVIL]},
        "training": {"tokens_seen": 1, "step": 2, "weights": EVIL},
        "quantised": {"method": EVIL, "calibration_tokens": 5},
        "sampling": {**model.metadata["sampling"], EVIL: EVIL},
    }
    types = {name: type_of(tensor) for name, tensor in model.tensors.items()}
    pieces = Tokenizer(model.tokenizer_proto).pieces()
    contents = ModelContents(
        shape=model.shape, tensors=model.tensors, types=types, tokenizer_proto=model.tokenizer_proto, pieces=pieces, metadata=metadata  # type: ignore[arg-type]
    )  # fmt: skip
    write_bullet(path, contents)
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command and return what it printed to standard output, after checking all of it."""

    def call(*words: str | Path, code: int | None = 0) -> str:
        found = 0
        try:
            main([str(word) for word in words])
        except SystemExit as error:
            found = int(error.code or 0)
        out, err = capfd.readouterr()
        assert_harmless(out + err, str(words[0]))
        assert found == code if code is not None else found in (1, 2), err
        return out

    return call


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The run folder of `config`."""
    words = [sys.executable, "-m", "bulletlm", "run", str(config)]
    done = subprocess.run(words, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    assert_harmless((done.stdout + done.stderr).decode(), "run")
    return next(path.parent for path in config.parent.rglob("report.json") if path.parent.name != "qat")


STAGES = ["run", "data", "tokenizer", "train", "export", "build", "evaluate"]


@pytest.mark.parametrize("command", STAGES)
def test_stages(run: Callable[..., str], finished: Path, config: Path, command: str) -> None:
    run(command, config)
    if command == "run":
        assert json.loads(run(command, config, "--json"))["summary"]


def test_commands_on_a_run(run: Callable[..., str], finished: Path, config: Path, base: Path) -> None:
    run("config", config)
    run("plan", config, "--seconds", "0.2")
    run("plan", config, "--seconds", "0.2", "--json")
    run("qat", finished, "--steps", "2")
    run("compare", finished, finished / "model.bullet")
    run("compare", finished, finished / "model.bullet", "--json")
    run("build", finished, "--out", base / f"again {EVIL}.bullet")
    run("init", base / f"{EVIL}.jsonc")
    run("init", base / f"{EVIL}.jsonc", code=2)
    run("doctor")
    run("doctor", "--json")


def test_commands_on_a_model(run: Callable[..., str], evil_model: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("verify", evil_model)
    monkeypatch.chdir(evil_model.parent)
    assert "\ufffd" in run("list")
    assert json.loads(run("list", "--json"))
    run("help", EVIL, code=2)
    assert "a\ufffd[31m\ufffd2J\ufffdb" in run("info", evil_model, "--tensors")
    assert json.loads(run("info", evil_model, "--json"))["header"]["name"] == EVIL
    run("convert", evil_model, base / f"{EVIL}.gguf", code=2)  # a carriage return would begin a line of the Modelfile
    name = EVIL.replace("\r", "")
    for target in ("x.gguf", "hf", "npy", "y.bullet"):
        run("convert", evil_model, base / f"{name}-{target}")
        run("convert", evil_model, base / f"{name}-{target}", code=2)
        run("convert", base / f"{name}-{target}", base / f"again-{target}.bullet")
    run("bench", evil_model, "--tokens", "4", "--rounds", "1")
    assert json.loads(run("bench", evil_model, "--tokens", "4", "--rounds", "1", "--json"))


def test_what_a_model_writes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, evil_model: Path) -> None:
    """In a terminal; a file or another program gets the text as it is (tests/cli/test_chat_command.py has a real terminal)."""
    sampling = ["--temperature", "9", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--max-tokens", "200", "--seed", "3"]
    with pytest.raises(SystemExit):
        main(["generate", str(evil_model), "-p", EVIL, "--json", *sampling])
    text = json.loads(shown := capsys.readouterr().out)["text"]
    assert_harmless(shown, "generate --json")
    assert text != printable(text, lines=True), "the model wrote control characters"
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        main(["generate", str(evil_model), "-p", EVIL, *sampling])
    shown = capsys.readouterr().out
    assert_harmless(shown, "generate")
    assert shown == printable(text, lines=True) + "\n"


def test_chat_and_serve(evil_model: Path) -> None:
    words = [sys.executable, "-m", "bulletlm"]
    chat = subprocess.run([*words, "chat", evil_model, "--max-tokens", "1"], input=f"/save {EVIL}/no/x\n/{EVIL}\n/set {EVIL} 1\n".encode(),
                          capture_output=True, timeout=240)  # fmt: skip
    assert chat.returncode == 0
    assert_harmless((chat.stdout + chat.stderr).decode(), "chat")
    with subprocess.Popen([*words, "serve", evil_model, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdout is not None
        greeting = server.stdout.readline().decode()
        server.terminate()
        assert " at http://" in greeting
        assert_harmless(greeting + server.stdout.read().decode(), "serve")


def test_errors(run: Callable[..., str], base: Path) -> None:
    """Every command that takes a file gets a missing file with a hostile name, and a file with hostile content."""
    missing, strange = base / "missing" / EVIL, base / f"strange {EVIL}"
    strange.write_text(json.dumps({EVIL: EVIL, "layers": EVIL}) + EVIL, encoding="utf-8")
    for path in (missing, strange):
        for command in (*STAGES, "config", "plan"):
            run(command, path, code=None)  # 1 where the name is read as a pattern of texts, 2 where it is a configuration
        for command in ("qat", "bench", "info", "verify", "generate", "chat", "serve"):
            more = ["-p", EVIL] if command == "generate" else []
            run(command, path, *more, code=None)
        run("compare", path, path, code=1)
        run("benchmark", path, "--suite", path, code=None)
        run("score", path, code=None)
        run("card", path, code=None)
        run("convert", path, base / "out.bullet", code=1)
    run("dashboard", strange, code=None)
    run("generate", strange, EVIL, EVIL, code=2)
    run(f"verify{EVIL}", code=2)
    run("info", strange, f"--{EVIL}", code=2)
    run("config", f"--set=name={EVIL}")
    run("config", f"--{EVIL}=1", code=2)


def test_progress(capfd: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress()
    progress.log(EVIL)
    with progress.task(EVIL, 10) as task:
        task.advance(1, EVIL)
    assert_harmless("".join(capfd.readouterr()), "a progress bar")


def test_a_file_name_that_is_not_utf8(run: Callable[..., str], micro_run: Path, tmp_path: Path) -> None:
    path = Path(f"{tmp_path}/\udcff\udc9b.bullet")
    shutil.copy(micro_run / "model.bullet", path)
    assert "\ufffd\ufffd.bullet" in run("info", path)
    run("verify", path)
    run("convert", path, Path(f"{tmp_path}/\udcff.gguf"))


def test_every_command_is_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for command in (name for name in app if not name.startswith("-")):
        assert f'"{command}"' in here, f"no test of what `bullet {command}` prints"
