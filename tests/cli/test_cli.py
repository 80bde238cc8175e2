"""Tests the command line: every mistake gives one clear line and an exit code, and every command has an example."""

import io
import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bulletlm.cli.app import app, main
from bulletlm.runtime import load
from micro_model import write_micro_config

COMMANDS = "run data tokenizer train export build evaluate generate chat serve bench info verify compare config init doctor".split()


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command that must fail; its exit code and its last line on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("bullet: ")
    assert isinstance(caught.value.code, int)
    return caught.value.code, lines[-1]


def works(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        main(list(words))
    except SystemExit as exit:
        assert not exit.code, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = works(capsys, command, "--help")
    assert re.search(rf"Example: bullet {command}\b", text)


def test_help_lists_exactly_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = works(capsys, "--help")
    listed = re.findall(r"^│ ([a-z]+) ", text, re.M)
    assert set(COMMANDS) <= set(listed)
    assert works(capsys, "--version").strip() == app.version


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "missing.jsonc"], 2, "there is no configuration file missing.jsonc"),
        (["run"], 2, "requires an argument"),
        (["rum", "x"], 2, 'Unknown command "rum". Did you mean "run"?'),
        (["generate", "x.bullet"], 2, "--prompt"),
        (["generate", "x.bullet", "-p", "a", "--seed", "one"], 2, "--seed"),
        (["generate", "missing.bullet", "-p", "a"], 1, "missing.bullet"),
        (["chat", "missing.bullet"], 1, "missing.bullet"),
        (["info", "missing.bullet"], 1, "missing.bullet"),
        (["verify", "missing.bullet"], 1, "missing.bullet"),
        (["compare", "missing.bullet", "other.bullet"], 1, "missing.bullet"),
        (["config", "--laers=3"], 2, "did you mean --layers?"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str) -> None:
    got, line = fails(capsys, *words)
    assert got == code
    assert message in line


def bad_text(folder: Path, kind: str) -> Path:
    """A source that cannot become a corpus."""
    path = folder / "text.txt"
    if kind == "missing":
        return path
    contents = {
        "empty": b"",
        "blank": b"\n\n \n",
        "small": "एक लहान ओळ.\n".encode() * 3,
        "binary": bytes(range(256)) * 200,
        "program": b"\x7fELF\x02\x01\x01" + bytes(5000),
    }
    path.write_bytes(contents.get(kind, b""))
    if kind == "cut":
        path = folder / "text.txt.xz"
        path.write_bytes(lzma.compress("ओळ नंबर\n".encode() * 20000)[:-40])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "text.txt"),
        ("empty", "empty"),
        ("blank", "no"),
        ("binary", "text"),
        ("program", "text"),
        ("cut", "text.txt.xz"),
    ],
)
def test_bad_corpora(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, message: str) -> None:
    config = write_micro_config(tmp_path, bad_text(tmp_path, kind))
    code, line = fails(capsys, "run", str(config))
    assert code == 1
    assert message in line
    assert not (tmp_path / "runs/micro/data").exists()


def test_a_corpus_that_is_too_small(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, line = fails(capsys, "run", str(write_micro_config(tmp_path, bad_text(tmp_path, "small"))))
    assert (code, "add text" in line) == (1, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dim=100"], "try 96"),
        (["--dim=64", "--heads=5"], "n_heads"),
        (["--seq-len=30000"], "max_seq_len"),
        (["--name=a/b"], "name"),
    ],
)
def test_impossible_shapes(capsys: pytest.CaptureFixture[str], tmp_path: Path, texts: Path, flags: list[str], message: str) -> None:
    code, line = fails(capsys, "run", str(write_micro_config(tmp_path, texts)), *flags)
    assert code in (1, 2)
    assert message in line


def test_a_run_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path, texts: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    code, line = fails(capsys, "run", str(write_micro_config(tmp_path, texts)))
    assert (code, "--runs-dir" in line) == (1, True)


def test_init_then_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonc"
    assert "bullet run" in works(capsys, "init", str(path))
    assert '"name": "mine"' in works(capsys, "config", str(path))
    code, line = fails(capsys, "init", str(path))
    assert code == 2
    assert "exists already" in line


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(works(capsys, "doctor", "--json"))
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["torch"].startswith("2.")
    assert facts["training"].startswith("int8") == facts["int8"] == ("(" not in facts["training"])
    text = works(capsys, "doctor")
    for name, extra in facts["missing_extras"].items():
        assert f"{name} " in text and extra["install"] in text
    assert f"training in    {facts['training']}\n" in text
    assert "compiler" in text


def test_info_verify_compare(capsys: pytest.CaptureFixture[str], micro_run: Path) -> None:
    model = str(micro_run / "model.bullet")
    assert ": valid" in works(capsys, "verify", model)
    card = works(capsys, "info", model, "--tensors")
    assert "layers.1.mlp.down_proj.weight" in card
    assert "4 heads (2 for keys and values)" in card
    assert json.loads(works(capsys, "info", model, "--json"))["header"]["bullet_version"] == "2.0"
    report = json.loads((micro_run / "report.json").read_text())
    result = json.loads(works(capsys, "compare", str(micro_run), model, "--json"))
    assert result["kl"]["mean"] == pytest.approx(report["comparison"]["kl"]["mean"])
    assert "KL(A || B)" in works(capsys, "compare", str(micro_run), model)


def test_damaged_files_are_refused(capsys: pytest.CaptureFixture[str], micro_run: Path, tmp_path: Path) -> None:
    data = (micro_run / "model.bullet").read_bytes()
    path = tmp_path / "model.bullet"
    for damaged in (data[:-1], data[: len(data) // 2], b"", data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :]):
        path.write_bytes(damaged)
        assert fails(capsys, "verify", str(path))[0] == 1


def test_generate_is_reproducible(capsys: pytest.CaptureFixture[str], micro_run: Path) -> None:
    words = ["generate", str(micro_run / "model.bullet"), "-p", "नमस्कार", "--max-tokens", "20"]
    texts = [works(capsys, *words, "--seed", str(seed)) for seed in range(6)]
    assert texts == [works(capsys, *words, "--seed", str(seed)) for seed in range(6)]
    assert len(set(texts)) > 2
    assert texts != [works(capsys, *words, "--raw", "--seed", str(seed)) for seed in range(6)]
    assert len({works(capsys, *words, "--temperature", "0") for _ in range(3)}) == 1


def test_the_report_repeats_with_generate(capsys: pytest.CaptureFixture[str], micro_run: Path) -> None:
    report = json.loads((micro_run / "report.json").read_text())
    row = report["generations"]["rows"][0]
    text = works(capsys, "generate", str(micro_run / "model.bullet"), "-p", row["prompt"], "--seed", str(report["generations"]["seed"]))
    assert text.rstrip("\n") == row["bq4"]["text"].rstrip("\n")


def test_chat_in_a_pipe(capsys: pytest.CaptureFixture[str], micro_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["/set temperature 0", "/set temprature 0", "/set top_k many", "/set temperature 99"]
    lines = ["नमस्कार", "", *settings, "/nonsense", "How are you?", "/reset", "/help", "/exit", "not read"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    text = works(capsys, "chat", str(micro_run / "model.bullet"), "--seed", "1", "--max-tokens", "8")
    for expected in (
        "there is no setting temprature",
        "many is not a valid number",
        "temperature is 99",
        "/nonsense: not a command",
        "started a new conversation",
        "/exit",
    ):
        assert expected in text


def test_a_long_chat_does_not_outgrow_the_context(
    capsys: pytest.CaptureFixture[str], micro_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("एक लांब प्रश्न ज्यात बरेच शब्द आहेत आणि जो संपतच नाही?\n" * 12))
    works(capsys, "chat", str(micro_run / "model.bullet"), "--seed", "1", "--max-tokens", "8")


def test_the_runtime_starts_without_torch(micro_run: Path) -> None:
    check = "assert not {'torch', 'pydantic', 'matplotlib'} & set(sys.modules)"
    script = f"import sys; from bulletlm.cli.app import main; main(sys.argv[1:]); {check}"
    command = [sys.executable, "-c", script, "generate", str(micro_run / "model.bullet"), "-p", "x", "--max-tokens", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_output_into_a_closed_pipe_is_quiet(micro_run: Path) -> None:
    command = f"{sys.executable} -m bulletlm config | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == "{"
    assert result.stderr == ""


def test_fp32_folder_runs_too(capsys: pytest.CaptureFixture[str], micro_run: Path) -> None:
    assert load(micro_run / "export/npy").shape.dim == 64
    words = ["generate", str(micro_run / "export/npy"), "-p", "Hello", "--raw", "--max-tokens", "5", "--seed"]
    assert any(works(capsys, *words, str(seed)).strip() for seed in range(6))
