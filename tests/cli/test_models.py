"""Tests that commands accept the names of runs and models, and that `bullet list` shows what is there."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from bulletlm.cli.app import main
from bulletlm.cli.models import default_model, find_any, find_model, find_models, find_run
from bulletlm.errors import BulletError, ConfigError
from bulletlm.formats.convert import ConvertOptions, convert


@pytest.fixture
def place(tmp_path: Path, micro_run: Path, bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run "micro", a run without a model, two models in files, and things that are neither."""
    shutil.copytree(micro_run, tmp_path / "runs/micro")
    (tmp_path / "runs/begun").mkdir()
    (tmp_path / "runs/begun/stages.json").write_text('{"data": {}, "tokenizer": {}, "tokens": {}}')
    # Also what a repair leaves, and steps beyond a million, whose names are longer.
    for name in ("step-000120", "step-999999", "step-1000000", "step-1000001.damaged-2", "step-1000002.partial", "step-x1"):
        (tmp_path / "runs/begun/checkpoints" / name).mkdir(parents=True)
        (tmp_path / "runs/begun/checkpoints" / name / "state.json").touch()
    (tmp_path / "models").mkdir()
    shutil.copy(bullet_path, tmp_path / "models/tiny.bullet")
    shutil.copy(bullet_path, tmp_path / "छोटा.bullet")
    (tmp_path / "my-texts").mkdir()
    (tmp_path / "my-texts/a.txt").write_text("text")
    (tmp_path / "notes.txt").write_text("एक लहान ओळ")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_found(place: Path) -> None:
    found = {(item.name, str(item.path), item.is_run) for item in find_models()}
    assert found == {
        ("micro", "runs/micro", True),
        ("begun", "runs/begun", True),
        ("tiny", "models/tiny.bullet", False),
        ("छोटा", "छोटा.bullet", False),
    }
    assert [(item.name, item.path) for item in find_models(place / "runs/micro")] == [("micro", place / "runs/micro")]


def test_names_and_paths(place: Path) -> None:
    assert find_model(Path("micro")) == find_model(Path("runs/micro")) == Path("runs/micro/model.bullet")
    assert find_model(Path("छोटा")) == Path("छोटा.bullet")
    assert find_model(Path("runs/micro/export/npy")) == Path("runs/micro/export/npy")
    assert find_model(Path("models/tiny.bullet")) == Path("models/tiny.bullet")
    assert find_run(Path("micro")) == Path("runs/micro")
    assert find_run(Path("runs/other")) == Path("runs/other")


def test_a_folder_of_text_does_not_hide_the_run_that_was_made_from_it(place: Path) -> None:
    (place / "micro").mkdir()
    (place / "micro/a.txt").write_text("text")
    assert find_model(Path("micro")) == Path("runs/micro/model.bullet")


def test_a_name_of_two_models(place: Path) -> None:
    shutil.copy(place / "छोटा.bullet", place / "micro.bullet")
    with pytest.raises(ConfigError, match=r"2 models named micro: micro\.bullet and runs/micro; give the path of one"):
        find_model(Path("micro"))
    assert find_run(Path("micro")) == Path("runs/micro")


def test_commands_in_messages_can_be_pasted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "माझे मजकूर").mkdir()
    with pytest.raises(BulletError, match=r"bullet run 'माझे मजकूर'$"):
        find_model(Path("माझे मजकूर"))
    with pytest.raises(SystemExit):
        main(["run", "demo", "--hours", "1"])
    assert "bullet plan demo --hours 1 --write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mikro", "did you mean micro?"),
        ("quite-other", "`bullet list` shows"),
        ("begun", "has no model.bullet yet: finish it with `bullet run runs/begun`"),
        ("runs/begun", "has no model.bullet yet"),
        ("my-texts", "is a folder without a model"),
    ],
)
def test_words_that_are_no_model(place: Path, word: str, message: str) -> None:
    with pytest.raises(BulletError) as caught:
        find_model(Path(word))
    assert message in str(caught.value)


def test_an_unreadable_folder_is_left_out(place: Path) -> None:
    (place / "models").chmod(0)
    try:
        names = {item.name for item in find_models()}
    finally:
        (place / "models").chmod(0o700)
    assert {"micro", "begun", "छोटा"} <= names


def works(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        main(list(words))
    except SystemExit as exit:
        assert not exit.code, capsys.readouterr().err
    return capsys.readouterr().out


def test_every_command_that_takes_a_model_takes_its_name(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "runs/micro/model.bullet: valid" in works(capsys, "verify", "micro")
    assert "parameters" in works(capsys, "info", "micro")
    assert works(capsys, "generate", "micro", "-p", "x", "--max-tokens", "3", "--seed", "1").endswith("\n")
    assert "-> demo.npy" in works(capsys, "convert", "micro", "demo.npy", "--to", "npy")
    assert "KL(A || B)" in works(capsys, "compare", "micro", "micro")
    assert "decode" in works(capsys, "bench", "micro", "--rounds", "1", "--tokens", "4")
    assert "again.bullet" in works(capsys, "build", "micro", "--quant", "BQ8", "--out", "again.bullet")
    monkeypatch.setattr(sys, "stdin", io.StringIO("/help\n"))
    assert "/reset" in works(capsys, "chat", "micro")


def test_list(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "models/broken.bullet").write_bytes(b"%PDF-1.4")
    rows = {row["name"]: row for row in json.loads(works(capsys, "list", "--json"))}
    assert rows["micro"]["state"] == "finished" and rows["micro"]["kind"] == "run"
    assert rows["micro"]["bytes"] == (place / "runs/micro/model.bullet").stat().st_size
    assert rows["begun"]["state"] == "stopped in train, step 1,000,000" and rows["begun"]["bytes"] is None
    assert rows["tiny"]["state"] == "ready" and rows["tiny"]["parameters"] > 10_000
    assert rows["broken"]["state"].startswith("not usable: this is a PDF document")
    table = works(capsys, "list").splitlines()
    assert table[0].split() == ["NAME", "KIND", "PARAMETERS", "SIZE", "CHANGED", "STATE", "PATH"]
    assert len([line for line in table if ".bullet" in line or "runs/" in line]) == 5
    assert table[-1].startswith("In the package: marathi-english; `bullet chat` without a name talks with marathi-english")
    with FileLock(place / "runs/begun/.lock"):
        assert "running" in works(capsys, "list")
    os.chdir(place / "my-texts")
    assert "no models and no runs" in works(capsys, "list")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert works(capsys, "help", "run") == works(capsys, "run", "--help")
    assert works(capsys, "help") == works(capsys, "--help")
    assert works(capsys, "-V") == works(capsys, "--version")
    with pytest.raises(SystemExit) as caught:
        main(["help", "rum"])
    assert caught.value.code == 2 and "run" in capsys.readouterr().err


def test_shell_completion_is_valid_shell(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    words = [sys.executable, "-m", "bulletlm", "--install-completion", "--shell", "bash", "--output", str(tmp_path / "bullet.sh")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "bullet.sh").read_text()
    assert all(name in script for name in ("chat", "--temperature", "verify"))
    assert subprocess.run(["bash", "-n", str(tmp_path / "bullet.sh")], check=False).returncode == 0


@pytest.fixture
def packaged(tmp_path: Path, bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a package with a model."""
    models, here = tmp_path / "models", tmp_path / "here"
    models.mkdir()
    here.mkdir()
    shutil.copy(bullet_path, models / "marathi-english.bullet")
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", models)
    monkeypatch.chdir(here)
    return models / "marathi-english.bullet"


def test_the_model_of_the_package_has_a_name_and_answers_where_none_is_named(packaged: Path, bullet_path: Path) -> None:
    assert default_model() == packaged
    assert find_model(Path("marathi-english")) == packaged == find_any(Path("marathi-english"))
    shutil.copy(bullet_path, "mine.bullet")
    assert default_model() == packaged
    shutil.copy(bullet_path, "marathi-english.bullet")  # what is here comes first
    assert find_model(Path("marathi-english")) == Path("marathi-english.bullet")


def test_without_a_model_in_the_package_chat_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"bullet chat requires an argument"):
        default_model()
    with pytest.raises(BulletError, match="there is no model marathi-english here"):
        find_model(Path("marathi-english"))


def test_a_folder_with_a_model_comes_before_a_name(tmp_path: Path, bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bullet convert other other.bullet` makes a file with the name of the folder: the folder and the file are two models."""
    monkeypatch.chdir(tmp_path)
    for kind in ("hf", "npy"):
        convert(bullet_path, tmp_path / kind, ConvertOptions(to=kind))
        shutil.copy(bullet_path, f"{kind}.bullet")
        assert find_any(Path(kind)) == find_model(Path(kind), other_folders=True) == Path(kind)
        assert find_any(Path(f"{kind}.bullet")) == Path(f"{kind}.bullet")
    Path("text").mkdir()
    shutil.copy(bullet_path, "text.bullet")
    assert find_any(Path("text")) == find_model(Path("text")) == Path("text.bullet")


def test_a_folder_that_holds_a_model_file(tmp_path: Path, bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has downloaded: model.bullet and its card, without the other files of a run."""
    monkeypatch.chdir(tmp_path)
    Path("downloaded").mkdir()
    Path("downloaded/README.md").write_text("---\nlicense: mit\n---\n")
    shutil.copy(bullet_path, "downloaded/model.bullet")
    assert find_model(Path("downloaded")) == Path("downloaded/model.bullet")
    assert find_model(Path("downloaded"), other_folders=True) == Path("downloaded/model.bullet")


def test_the_name_of_a_run_can_be_the_value_of_a_setting(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration of a run is built again under the name that it has, and a file may have the name of a run."""
    recorded = place / "runs/micro/config.json"
    assert works(capsys, "build", str(recorded), "--name", "micro").endswith("runs/micro/model.bullet\n")
    assert works(capsys, "build", "micro", "--quant", "BQ8", "--method", "none", "--out", "begun").startswith("begun (")
    assert (place / "begun").is_file()


def test_json_is_printed_for_a_configuration_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "verdicts" in json.loads(works(capsys, "evaluate", str(place / "runs/micro/config.json"), "--json"))


def test_contradicting_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "demo", "--checkpoints", "--use", "best"])
    assert caught.value.code == 2 and "give one of them" in capsys.readouterr().err
