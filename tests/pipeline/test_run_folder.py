"""Tests that a run replaces and deletes only files that it wrote, and needs its sources only for the stages that read them."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bulletlm.cli import listing
from bulletlm.config.loader import RECORD_KEY, load_config
from bulletlm.config.schema import Config
from bulletlm.dashboard.runs import STAGE_NAMES
from bulletlm.errors import BulletError, ConfigError, DataError
from bulletlm.files import foreign_files, read_json, sha256_of_file, write_json
from bulletlm.pipeline.recipe import text_run
from bulletlm.pipeline.run_folder import OUTPUT_FOLDERS, locked
from bulletlm.pipeline.runner import finish_run, run_stages
from bulletlm.pipeline.stages import STAGES
from bulletlm.progress import SilentProgress
from micro_model import write_micro_config

FOLDERS = ("data", "cleaned", "tokenizer", "tokens", "export/npy", "qat", "checkpoints", "checkpoints/best", "")
FOREIGN = ("mine.txt", "texts/मराठी.txt", "mine.npy", "extra.safetensors")


class Log(SilentProgress):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        if level != "debug":
            self.lines.append(text)


@pytest.fixture
def copy(micro_run: Path, tmp_path: Path) -> Config:
    """A copy of the finished run."""
    shutil.copytree(micro_run, tmp_path / "runs" / "micro")
    return load_config(tmp_path / "runs/micro/config.json", [f"--runs-dir={tmp_path / 'runs'}"])


def put_foreign(run: Path) -> dict[Path, bytes]:
    """Files of the user in every folder that a run writes."""
    found = {}
    for folder in FOLDERS:
        for name in FOREIGN:
            path = run / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{folder}/{name}".encode())
            found[path] = path.read_bytes()
    return found


def same(files: dict[Path, bytes]) -> bool:
    return all(path.is_file() and path.read_bytes() == content for path, content in files.items())


def test_foreign_files_survive_a_whole_run(tmp_path: Path, texts: Path, micro_run: Path) -> None:
    config = load_config(write_micro_config(tmp_path, texts), ["--qat.steps=2", "--qat.tokens-per-step=256"])
    files = put_foreign(config.run_dir)
    log = Log()
    run_stages(config, "evaluate", log)
    assert same(files)
    notes = [line for line in log.lines if "are not from this run and stay" in line]
    assert any("data/mine.txt" in line for line in notes) and any("export/npy/mine.npy" in line for line in notes)
    assert sha256_of_file(config.run_dir / "export/npy/manifest.json") == sha256_of_file(micro_run / "export/npy/manifest.json")
    # Every stage a second time, with other settings; then without QAT.
    run_stages(load_config(None, [*flags(config), "--val-tokens=700", "--lr=0.02"]), "evaluate", log, restart=True)
    finish_run(config.run_dir, ["--qat.steps=0"], log)
    assert same(files) and not (config.run_dir / "qat" / "model.bullet").exists()
    # Foreign files are no part of the outputs: nothing is done again when they change.
    for path in files:
        path.write_bytes(b"changed")
    log.lines.clear()
    run_stages(load_config(config.run_dir / "config.json"), "evaluate", log)
    assert log.lines == [f"{stage.title}: up to date" for stage in STAGES.values()]


def flags(config: Config) -> list[str]:
    """The settings of `config` as words of a command line."""
    words = []
    for section, values in config.model_dump(mode="json").items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        for name, value in pairs:
            if not isinstance(value, dict) and value is not None:
                path = f"{section}.{name}".rstrip(".")
                words.append(f"--{path}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def test_every_file_that_a_stage_writes_is_known(micro_run: Path) -> None:
    """Unknown files count as the user's: they could block a stage, or would never be removed."""
    checked = [pattern for stage in STAGES.values() if stage.checked for pattern in stage.files]
    others = ["config.json", "stages.json", "files.json", ".lock", "metrics.jsonl", "log.txt", "checkpoints/*", "augment-cache/*"]
    assert foreign_files(micro_run, [*checked, *others]) == []
    written = read_json(micro_run / "files.json")
    assert written["unfinished"] == []
    for name, sha256 in written["written"].items():
        assert sha256_of_file(micro_run / name) == sha256
    for stage in STAGES.values():
        for pattern in stage.files:
            assert "/" not in pattern or pattern.split("/")[0] in OUTPUT_FOLDERS


@pytest.mark.parametrize("name", ["data/train.jsonl", "cleaned/summary.json", "tokenizer/tokenizer.model", "tokens/val.bin"])
def test_a_foreign_file_in_the_way_stops_the_run(tmp_path: Path, texts: Path, name: str) -> None:
    config = load_config(write_micro_config(tmp_path, texts))
    path = config.run_dir / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name} was not written by this run.*move it"):
        run_stages(config, "tokens", SilentProgress())
    assert path.read_text() == "mine"
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=rf"{name} was not written by this run"):
        run_stages(config, "tokens", SilentProgress())
    path.rmdir()
    run_stages(config, "tokens", SilentProgress())


@pytest.mark.parametrize("name", ["data/val.jsonl", "tokens/train.bin", "export/npy/final_norm.weight.npy", "tokenizer/report.json"])
def test_a_changed_output_is_not_overwritten(copy: Config, name: str) -> None:
    path = copy.run_dir / name
    path.write_bytes(path.read_bytes() + b"\n")
    content = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"{name} has changed since this run wrote it"):
        run_stages(copy, "evaluate", SilentProgress())
    assert path.read_bytes() == content


def test_a_run_folder_of_an_earlier_version(copy: Config) -> None:
    """It has stages.json, but no files.json: files with the known names are the run's."""
    (copy.run_dir / "files.json").unlink()
    damaged = copy.run_dir / "export/npy/final_norm.weight.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    (copy.run_dir / "data" / "mine.txt").write_text("mine")
    run_stages(copy, "evaluate", SilentProgress())
    assert damaged.read_bytes() == whole and (copy.run_dir / "data" / "mine.txt").read_text() == "mine"
    assert read_json(copy.run_dir / "files.json")["written"]["tokens/val.bin"] == sha256_of_file(copy.run_dir / "tokens/val.bin")


def test_texts_in_the_runs_own_folders_are_refused(tmp_path: Path, texts: Path) -> None:
    path = write_micro_config(tmp_path, tmp_path / "runs/micro/data")
    config = load_config(path)
    shutil.copytree(texts, config.run_dir / "data")
    before = {file: file.read_bytes() for file in (config.run_dir / "data").iterdir()}
    with pytest.raises(ConfigError, match=r"the source .*micro/data/.* is in .*micro/data, where this run writes its own files"):
        run_stages(config, "data", SilentProgress())
    (tmp_path / "link").symlink_to(config.run_dir / "data", target_is_directory=True)
    linked = load_config(path, [f"--data.sources=[{json.dumps(str(tmp_path / 'link'))}]"])
    with pytest.raises(ConfigError, match="where this run writes its own files"):
        run_stages(linked, "data", SilentProgress())
    assert same(before)
    run_stages(load_config(path, ["--name=other"]), "data", SilentProgress())
    assert same(before)


def test_a_config_file_of_the_user_is_not_overwritten(tmp_path: Path, texts: Path) -> None:
    config = load_config(write_micro_config(tmp_path, texts))
    config.run_dir.mkdir(parents=True)
    mine = config.run_dir / "config.json"
    for content in ('{"dim": 64}', "[1, 2]", "{ // mine\n}"):
        mine.write_text(content)
        with pytest.raises(BulletError, match=r"config\.json"):
            run_stages(config, "data", SilentProgress())
        assert mine.read_text() == content


KILL = """
import os, signal, sys
from bulletlm.cli.app import main
import bulletlm.data.{module} as module
real = module.{function}
def killed(*arguments, **more):
    result = real(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
module.{function} = killed
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("module", "function"), [("prepare", "prepare_data"), ("vocabulary", "prepare_tokenizer"), ("tokens", "write_tokens")]
)
def test_a_kill_between_writing_and_recording_is_no_dead_end(tmp_path: Path, texts: Path, module: str, function: str) -> None:
    path = write_micro_config(tmp_path, texts)
    command = [sys.executable, "-c", KILL.format(module=module, function=function), "train", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    config = load_config(path)
    assert read_json(config.run_dir / "files.json")["unfinished"]
    run_stages(config, "tokens", SilentProgress())
    assert read_json(config.run_dir / "files.json")["unfinished"] == []


def test_finished_stages_do_not_need_their_sources(tmp_path: Path, texts: Path) -> None:
    shutil.copytree(texts, tmp_path / "texts")
    path = write_micro_config(tmp_path, tmp_path / "texts")
    config = load_config(path, ["--total-steps=4", "--warmup=1"])
    run_stages(config, "train", SilentProgress())
    (tmp_path / "texts" / "parallel.tsv").unlink()
    for gone in ("parallel.tsv", "texts"):
        shutil.rmtree(tmp_path / "texts", ignore_errors=gone == "texts") if gone == "texts" else None
        log = Log()
        run_stages(config, "build", log)
        notes = [line for line in log.lines if line.startswith("note:")]
        assert len(notes) == 1 and gone in notes[0] and "finished stages" in notes[0]
        assert log.lines[1:5] == ["Data: up to date", "Tokenizer: up to date", "Tokens: up to date", "Training: up to date"]
    with pytest.raises(DataError, match="texts"):  # this stage would have to read them
        run_stages(load_config(path, ["--total-steps=4", "--warmup=1", "--name=new"]), "data", SilentProgress())
    (config.run_dir / "data" / "val.jsonl").unlink()
    with pytest.raises(DataError, match="texts"):
        run_stages(config, "data", SilentProgress())


def test_changed_sources_are_still_noticed(copy: Config, texts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(texts, other)
    config = load_config(copy.run_dir / "config.json", [f"--runs-dir={copy.runs_dir}", f"--data.sources=[{json.dumps(str(other))}]"])
    (other / "parallel.tsv").unlink()
    with pytest.raises(ConfigError, match="holds a model trained with other settings"):
        run_stages(config, "data", SilentProgress())


def test_every_list_of_the_stages_is_the_same() -> None:
    """`bullet list` and the dashboard have their own, because they start without the pipeline."""
    assert listing.STAGE_NAMES == tuple(STAGE_NAMES) == tuple(STAGES)


def test_finishing_a_run_keeps_what_is_recorded_about_its_text(copy: Config) -> None:
    """Without the record, a run whose sources are gone would count as one with other settings."""
    path = copy.run_dir / "config.json"
    content = read_json(path)
    content[RECORD_KEY] |= {"held_out": ["5e1f"], "augmentation": {"inflect": {"rate": 0.5}}}
    write_json(path, content)
    finish_run(copy.run_dir, [], SilentProgress())
    assert read_json(path)[RECORD_KEY] == content[RECORD_KEY]


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', "{", "\x00", '{"data": 1}', '{"data": {"outputs": []}}'])
@pytest.mark.parametrize("name", ["stages.json", "files.json", "config.json"])
def test_json_of_the_wrong_type_is_one_clear_line(copy: Config, name: str, content: str) -> None:
    (copy.run_dir / name).write_text(content)
    before = {path: path.read_bytes() for path in copy.run_dir.rglob("*") if path.is_file() and path.name != "log.txt"}
    if name == "files.json" and content.startswith('{"data'):
        return  # other keys are not checked
    with pytest.raises(BulletError) as caught:
        run_stages(copy, "evaluate", SilentProgress())
    assert name in str(caught.value) and "\n" not in str(caught.value)
    if name != "stages.json":
        assert same(before)


def test_the_lock_is_released(copy: Config) -> None:
    with locked(copy.run_dir), pytest.raises(ConfigError, match="another process is working in"), locked(copy.run_dir):
        pass
    with locked(copy.run_dir):
        pass
    write_json(copy.run_dir / "unrelated.json", {})


def test_a_restart_that_cannot_begin_keeps_the_checkpoints(copy: Config, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (copy.run_dir / "checkpoints").rglob("*") if path.is_file()}
    (tmp_path / "prompts.jsonl").write_text("no prompts")
    flags = [f"--runs-dir={copy.runs_dir}", f"--evaluate.prompts={tmp_path / 'prompts.jsonl'}"]
    with pytest.raises(DataError, match=r"prompts\.jsonl"):
        run_stages(load_config(copy.run_dir / "config.json", flags), "train", SilentProgress(), restart=True)
    assert before and same(before)


def test_a_restart_with_text_that_cannot_be_read_keeps_the_checkpoints(copy: Config, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (copy.run_dir / "checkpoints").rglob("*") if path.is_file()}
    flags = [f"--runs-dir={copy.runs_dir}", f"--data.held-out=[{json.dumps(str(tmp_path / 'gone.txt'))}]"]
    with pytest.raises(DataError, match=r"gone\.txt"):
        run_stages(load_config(copy.run_dir / "config.json", flags), "train", SilentProgress(), restart=True)
    assert before and same(before)


def test_the_folder_of_the_text_is_no_run_folder(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(texts, tmp_path / "runs" / "micro"))
    before = sorted(folder.iterdir())
    with pytest.raises(ConfigError, match="is the folder of the text"):
        run_stages(load_config(write_micro_config(tmp_path, folder)), "data", SilentProgress())
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ConfigError, match="is the folder of the text"):
        text_run(["micro"], ["--runs-dir=."], None)
    assert sorted(folder.iterdir()) == before
