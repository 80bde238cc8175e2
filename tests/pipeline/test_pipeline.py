"""Tests the pipeline end to end: torch, numpy and the file have the same numbers, and no finished stage runs twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bulletlm.cli.app import main
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import read_json, sha256_of_file
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.pipeline.runner import run_stages
from bulletlm.pipeline.stages import STAGES
from bulletlm.progress import SilentProgress
from bulletlm.runtime import load
from bulletlm.train.model import Transformer
from micro_model import write_micro_config

MODEL_FILES = ["model.bullet", "checkpoints/best/model.safetensors", "tokenizer/tokenizer.model", "tokens/train.bin", "data/train.jsonl"]


class Listening(SilentProgress):
    """A Progress that records the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        if level != "debug":
            self.said.append(text)


def again(config: Config, *flags: str, restart: bool = False) -> list[str]:
    progress = Listening()
    path = config.run_dir / "config.json"
    run_stages(load_config(path, flags), "evaluate", progress, restart=restart)
    return progress.said


def torch_logits(shape, tensors, tokens: np.ndarray) -> np.ndarray:
    model = Transformer(shape)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(np.array(tensors[name])))
        return model(torch.from_numpy(tokens)).numpy()


def test_the_run_folder_is_the_documented_one(micro_run: Path) -> None:
    expected = """config.json data/train.jsonl data/val.jsonl data/clean-report.json data/rejected.jsonl tokenizer/tokenizer.model
    tokenizer/report.json tokens/train.bin tokens/val.bin tokens/index.json checkpoints/best/model.safetensors metrics.jsonl
    export/npy/manifest.json model.bullet report.html report.json stages.json""".split()
    for name in expected:
        assert (micro_run / name).is_file(), name
    assert [p.name for p in micro_run.rglob("*.partial")] == []


def test_runtime_logits_are_torchs_in_fp32(micro_run: Path) -> None:
    shape, tensors, _, _ = read_npy(micro_run / "export/npy")
    tokens = open_tokens(micro_run / "tokens", "val").tokens[: 4 * 32].astype(np.int64).reshape(4, 32)
    ours = load(micro_run / "export/npy").engine.score(tokens)
    np.testing.assert_allclose(ours, torch_logits(shape, tensors, tokens), rtol=0, atol=1e-4)


def test_bullet_logits_are_torchs_on_the_dequantized_weights(micro_run: Path) -> None:
    file = open_bullet(micro_run / "model.bullet")
    tensors = {name: file.dequantize(name) for name in file.tensors}
    tokens = open_tokens(micro_run / "tokens", "val").tokens[: 4 * 32].astype(np.int64).reshape(4, 32)
    expected = torch_logits(file.shape, tensors, tokens)
    ours = load(micro_run / "model.bullet", engine="numpy").engine.score(tokens)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    best = load(micro_run / "model.bullet").engine.score(tokens)  # the native engine where there is one
    np.testing.assert_allclose(best, expected, rtol=0, atol=5e-3)
    fp32 = load(micro_run / "export/npy").engine.score(tokens)
    assert np.abs(ours - fp32).max() > 1e-3, "the file was not quantized at all"


def test_the_exported_weights_are_the_best_checkpoints(micro_run: Path) -> None:
    report = read_json(micro_run / "report.json")
    best = read_json(micro_run / "checkpoints/best/state.json")
    assert report["fp32"]["loss"] == pytest.approx(best["val_loss"], abs=1e-5)
    assert report["bq4"]["loss"] == pytest.approx(report["fp32"]["loss"], abs=0.1)
    assert report["comparison"]["kl"]["mean"] > 0


def test_it_learned(micro_run: Path) -> None:
    assert read_json(micro_run / "report.json")["fp32"]["loss"] < 0.8 * np.log(700)


def test_config_json_reproduces_the_run(micro_run: Path, micro_config: Config, tmp_path: Path) -> None:
    run_stages(load_config(micro_run / "config.json", [f"--runs-dir={tmp_path}"]), "build", SilentProgress())
    for name in MODEL_FILES:
        assert sha256_of_file(tmp_path / "micro" / name) == sha256_of_file(micro_run / name), name
    recorded = read_json(micro_run / "config.json")["recorded"]
    assert recorded["sources"][0]["sha256"] == sha256_of_file(Path(recorded["sources"][0]["path"]))
    assert recorded["torch"] == torch.__version__


def test_nothing_is_done_twice(micro_run: Path, micro_config: Config) -> None:
    before = {path: path.stat().st_mtime_ns for path in micro_run.rglob("*") if path.is_file()}
    said = again(micro_config)
    assert said == [f"{stage.title}: up to date" for stage in STAGES.values()]
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed <= {"config.json", "log.txt", ".lock"}


@pytest.fixture
def copy(micro_run: Path, micro_config: Config, tmp_path: Path) -> Config:
    """A copy of the finished run, which a test may damage."""
    shutil.copytree(micro_run, tmp_path / "micro")
    path = tmp_path / "micro" / "config.json"
    return load_config(path, [f"--runs-dir={tmp_path}"])


def rerun(config: Config, *flags: str) -> list[str]:
    progress = Listening()
    run_stages(load_config(config.run_dir / "config.json", [f"--runs-dir={config.runs_dir}", *flags]), "evaluate", progress)
    return [line.split(":")[0] for line in progress.said if line.endswith("up to date")]


def test_a_changed_sampling_setting_leaves_the_training_alone(copy: Config) -> None:
    weights = sha256_of_file(copy.run_dir / "checkpoints/best/model.safetensors")
    assert rerun(copy, "--temperature=0.5") == ["Data", "Tokenizer", "Tokens", "Training"]
    assert sha256_of_file(copy.run_dir / "checkpoints/best/model.safetensors") == weights
    assert load(copy.run_dir / "model.bullet").sampling.temperature == 0.5


@pytest.mark.parametrize("name", ["model.bullet", "report.html", "export/npy/final_norm.weight.npy"])
def test_a_missing_output_is_made_again_and_a_changed_one_is_not_overwritten(copy: Config, micro_run: Path, name: str) -> None:
    path = copy.run_dir / name
    path.unlink()
    rerun(copy)
    whole = path.read_bytes()  # the report contains the name of its folder, which differs here
    assert name == "report.html" or whole == (micro_run / name).read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{name} has changed since this run wrote it.*move it"):
        rerun(copy)
    assert path.read_bytes() == data
    path.unlink()
    rerun(copy)
    assert path.read_bytes() == whole


def test_a_trained_model_is_not_overwritten_by_other_settings(copy: Config) -> None:
    weights = sha256_of_file(copy.run_dir / "checkpoints/best/model.safetensors")
    with pytest.raises(ConfigError, match=r"train.learning_rate 0.01 -> 0.02.*--name=micro-2.*--restart"):
        rerun(copy, "--lr=0.02")
    with pytest.raises(ConfigError, match="holds a model trained with other settings"):
        rerun(copy, "--vocab-size=650")
    assert sha256_of_file(copy.run_dir / "checkpoints/best/model.safetensors") == weights
    progress = Listening()
    config = load_config(copy.run_dir / "config.json", [f"--runs-dir={copy.runs_dir}", "--lr=0.02"])
    run_stages(config, "train", progress, restart=True)
    assert sha256_of_file(copy.run_dir / "checkpoints/best/model.safetensors") != weights


def test_restart_trains_anew_where_nothing_was_changed(copy: Config, micro_run: Path) -> None:
    """The message of a run without an intact checkpoint says how to continue."""
    for file in (copy.run_dir / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BulletError, match=r"no checkpoint in .* is intact"):
        run_stages(copy, "train", Listening())
    run_stages(copy, "train", Listening(), restart=True)
    best = "checkpoints/best/model.safetensors"
    assert sha256_of_file(copy.run_dir / best) == sha256_of_file(micro_run / best)


def test_two_processes_do_not_share_a_run_folder(copy: Config) -> None:
    import fcntl

    with open(copy.run_dir / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is working in"):
            rerun(copy)


def test_a_damaged_notes_file_is_one_clear_line(copy: Config) -> None:
    (copy.run_dir / "stages.json").write_text("{")
    with pytest.raises(BulletError, match=r"stages.json is damaged"):
        rerun(copy)


@pytest.mark.slow
def test_stopping_at_any_moment_loses_nothing(micro_run: Path, texts: Path, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM and kill -9 at moments spread over a whole run; the run that is let through ends the same."""
    config = write_micro_config(tmp_path, texts)
    command = [sys.executable, "-m", "bulletlm", "run", str(config), "--name=micro"]
    signals = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM]
    for n, moment in enumerate((0.8, 1.4, 2.2, 3.0, 3.6, 4.2, 5.0)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(moment)
        process.send_signal(signals[n % 3])
        errors = process.communicate(timeout=120)[1]
        assert "Traceback" not in errors
        if process.returncode == 0:
            break
        assert process.returncode in (130, -9, -15, -2)
    final = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert final.returncode == 0, final.stderr
    for name in MODEL_FILES:
        ours, whole = tmp_path / "runs/micro" / name, micro_run / name
        assert sha256_of_file(ours) == sha256_of_file(whole), name
    assert not list((tmp_path / "runs").rglob("*.partial"))


@pytest.mark.skipif(os.name != "posix", reason="this system has no POSIX resource limits")
def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_later(texts: Path, micro_run: Path, tmp_path: Path) -> None:
    """A limit on file sizes stops every write at 100 KB, as a full disk would: at a different file each time."""
    config = write_micro_config(tmp_path, texts)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)"
    script = f"{limited}; from bulletlm.cli.app import main; main(sys.argv[2:])"
    for limit in (60_000, 120_000, 400_000):
        command = [sys.executable, "-c", script, str(limit), "run", str(config)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 1, result.stderr
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("bullet: cannot write ") and "free some space" in last
        assert "Traceback" not in result.stderr
    result = subprocess.run(
        [sys.executable, "-m", "bulletlm", "run", str(config), "--json"], capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["name"] == "micro"
    assert sha256_of_file(tmp_path / "runs/micro/model.bullet") == sha256_of_file(micro_run / "model.bullet")


def test_a_training_that_keeps_diverging_gives_the_best_model_so_far(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With this threshold, every rise of the loss counts as divergence."""
    path = write_micro_config(tmp_path, texts)
    flags = ["--train.spike-threshold=0.001", "--qat.steps=0", "--samples=0", "--max-tokens=4"]
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path), *flags])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "the training ends here, and the model is made from the best weights so far, of step 20" in said
    folder = tmp_path / "runs/micro"
    assert open_bullet(folder / "model.bullet").metadata["training"]["step"] == 20
    assert read_json(folder / "report.json")["training"]["ended"] == "diverged"
    assert "Training: up to date" in again(load_config(path, flags))
