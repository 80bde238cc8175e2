"""Tests quantization-aware training: the stage, the command, the main run with qat.start, and that latent weights are not exported."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from psutil import _ntuples as system

from bulletlm.cli.app import main
from bulletlm.cli.builder import main as builder
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config, QatConfig, QuantConfig, TrainConfig
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, ConfigError, Interrupted
from bulletlm.evaluate.compare import compare
from bulletlm.files import read_json, sha256_of_file
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.convert import convert
from bulletlm.formats.npy import read_npy
from bulletlm.pipeline import qat as qat_module
from bulletlm.pipeline.build import BuildOptions, build_bullet
from bulletlm.pipeline.qat import count_qat_steps
from bulletlm.pipeline.runner import finish_run, run_stages
from bulletlm.progress import SilentProgress
from bulletlm.quant.calibrate import QuantizeOptions, dequantize, quantize
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.quant.types import weight_types
from bulletlm.runtime import load
from bulletlm.shape import ModelShape
from bulletlm.train import distil as distil_module
from bulletlm.train import loop
from bulletlm.train.backend.native import why_no_distillation
from bulletlm.train.checkpoint import load_checkpoint
from bulletlm.train.distil import DistilJob, Distilled, below_noise, distil
from bulletlm.train.guard import stopping
from bulletlm.train.model import Transformer
from bulletlm.train.validation import validate
from machines import MACHINES, capabilities
from micro_model import write_micro_config

STEPS = ("--qat.steps=12", "--qat.tokens_per_step=256")


class StopAfter(SilentProgress):
    """Sends SIGTERM when the progress bar with this title reaches a position."""

    def __init__(self, title: str, when: int) -> None:
        self.title, self.when = title, when

    def task(self, title: str, total: float | None) -> Any:
        return super().task(title, total) if title != self.title else self._stopping()

    def _stopping(self) -> Any:
        import contextlib

        when = self.when

        class Task:
            done = 0.0

            def advance(self, amount: float = 1, note: str = "") -> None:
                self.done += amount
                if self.done == when:
                    os.kill(os.getpid(), signal.SIGTERM)

        return contextlib.nullcontext(Task())


@pytest.fixture
def copy(micro_run: Path, tmp_path: Path) -> Path:
    """A finished run that was moved and has lost its sources."""
    folder = tmp_path / "moved" / "micro"
    shutil.copytree(micro_run, folder)
    recorded = read_json(folder / "config.json")
    recorded["data"]["sources"][0]["path"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(recorded))
    return folder


@pytest.fixture(scope="module")
def sharp(micro_run: Path) -> Callable[..., Distilled]:
    """Distilling a model that 4 bits hurt: the micro model, with weights four times as large as its short training made them."""
    shape, tensors, _, _ = read_npy(micro_run / "export/npy")
    tensors = {name: 4 * weight if weight.ndim > 1 else weight for name, weight in tensors.items()}
    types = weight_types(shape)
    text, held_out = (open_tokens(micro_run / "tokens", split) for split in ("train", "val"))
    windows = text.tokens[: 2048 // 32 * 32].astype(np.int64).reshape(-1, 32)

    def work(
        folder: Path, method: str = "gptq", steps: int = 40, progress: Any = None, threads: int = 1, precision: Any = "fp32"
    ) -> Distilled:
        start = quantize(shape, tensors, QuantizeOptions(types=types, method=method, windows=windows), SilentProgress()).tensors
        config = QatConfig(steps=steps, tokens_per_step=512, learning_rate_share=0.03)
        train = TrainConfig(learning_rate=1e-2, batch_size_per_device=8, threads=threads, precision=precision, compile="off")
        folder.mkdir(parents=True, exist_ok=True)
        job = DistilJob(
            shape=shape,
            teacher=tensors,
            start=start,
            keep_scales=method != "none",
            types=types,
            config=config,
            train=train,
            seed=7,
            text=text,
            held_out=held_out,
            run_dir=folder,
            checkpoints=folder / "c",
            key="key",
        )
        return distil(job, progress or SilentProgress())

    return work


native = pytest.param("int8", marks=pytest.mark.skipif(why_no_distillation() is not None, reason=str(why_no_distillation())), id="native")
PRECISIONS = [pytest.param("fp32", id="torch"), native]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["none", "gptq"])
def test_it_comes_nearer_to_the_teacher(sharp: Callable[..., Distilled], tmp_path: Path, method: str, precision: str) -> None:
    result = sharp(tmp_path, method, precision=precision)
    assert result.chosen in ("raw", "ema")
    assert min(result.kl["raw"], result.kl["ema"]) < 0.8 * result.kl["start"]
    assert result.tokens == 40 * 512


def test_it_compiles_its_own_graph_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """If compilation fails, the run prints one line and continues without it."""
    teacher, student = (Transformer(ModelShape(300, 64, 1, 2, 2, 128, 16)) for _ in range(2))
    teacher.initialize(1)
    student.initialize(2)
    compiled, said = list[str](), list[str]()

    def untraceable(name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(*arguments: Any) -> torch.Tensor:
            torch._dynamo.graph_break()
            return function(*arguments)

        def compile(*arguments: Any) -> torch.Tensor:
            compiled.append(name)
            return torch.compile(run, fullgraph=True, backend="eager")(*arguments)

        return compile

    monkeypatch.setattr(distil_module, "compiled", lambda function: untraceable(function.__name__, function))
    progress = SilentProgress()
    monkeypatch.setattr(progress, "log", said.append)
    train, measured = distil_module._divergences(
        teacher, student, TrainConfig(compile="on", threads=1), 2, 1000, progress, capabilities(MACHINES["vnni"])
    )
    assert compiled == ["run_layer"], "tried, and not to be compiled"
    (line,) = said
    assert line.startswith("QAT in eager mode, which is slower: torch.compile failed (")
    assert train is measured and student.precision == "fp32"
    assert all(weight.grad is None for weight in student.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stopped_one_ends_with_the_same_bits(sharp: Callable[..., Distilled], tmp_path: Path, precision: str) -> None:
    whole = sharp(tmp_path / "whole", steps=8, precision=precision)
    with pytest.raises(Interrupted, match="stopped at step 5 of 8 of QAT; saved"):
        sharp(tmp_path / "stopped", steps=8, progress=StopAfter("Distilling", 5), precision=precision)
    assert_same(sharp(tmp_path / "stopped", steps=8, precision=precision), whole)


@pytest.mark.skipif(why_no_distillation() is not None, reason=str(why_no_distillation()))
def test_the_number_of_threads_makes_no_difference(sharp: Callable[..., Distilled], tmp_path: Path) -> None:
    one, three = (sharp(tmp_path / str(threads), steps=8, threads=threads, precision="int8") for threads in (1, 3))
    assert_same(three, one)


def assert_same(a: Distilled, b: Distilled) -> None:
    assert (a.chosen, a.kl) == (b.chosen, b.kl)
    for name, tensor in b.tensors.items():
        np.testing.assert_array_equal(dequantize(a.tensors[name]), dequantize(tensor))


@pytest.mark.skipif(why_no_distillation() is not None, reason=str(why_no_distillation()))
def test_torch_and_the_native_library_learn_the_same(sharp: Callable[..., Distilled], tmp_path: Path) -> None:
    """The KL before the first step, and what 40 steps make of it."""
    exact, native = (sharp(tmp_path / precision, precision=precision).kl for precision in ("fp32", "int8"))
    assert native["start"] == pytest.approx(exact["start"], abs=1e-5), "far below the 0.003 nats that 4 bits usually cost"
    assert native["ema"] == pytest.approx(exact["ema"], rel=0.1, abs=1e-5)


def test_it_pauses_on_battery(sharp: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power cable is disconnected at the first check and connected at the second."""
    looks = iter([system.sbattery(15, 900, False)])
    monkeypatch.setattr(stopping, "SENSOR_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr("psutil.sensors_battery", lambda: next(looks, None), raising=False)
    said: list[str] = []

    class Listening(SilentProgress):
        def log(self, text: str, level: str = "info") -> None:
            if level != "debug":
                said.append(text)

    sharp(tmp_path, "none", steps=1, progress=Listening())
    assert said[-2:] == ["paused: on battery with 15 % left (train.pause_on_battery); everything is saved", "going on"]
    assert (tmp_path / "c/step-000000/state.json").is_file()


def test_a_damaged_checkpoint_is_not_used(sharp: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.train.distil.SAVE_EVERY_STEPS", 1)
    with pytest.raises(Interrupted):
        sharp(tmp_path, steps=4, progress=StopAfter("Distilling", 3))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-000002", "step-000003"]
    shutil.copytree(tmp_path / "c", tmp_path / "all/c")
    for folder in ("c/step-000003", "all/c/step-000003", "all/c/step-000002"):
        path = tmp_path / folder / "optimizer.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    assert sharp(tmp_path, steps=4).kl == sharp(tmp_path / "other", steps=4).kl
    with pytest.raises(
        BulletError, match=r"no checkpoint in .*/all/c is intact \(.*\): restore one from a copy, or delete .*/all/c to start"
    ):
        sharp(tmp_path / "all", steps=4)


def test_it_stops_while_there_is_room_on_the_disk(sharp: Callable[..., Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(stopping.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
        with pytest.raises(Interrupted, match=r"stopped at step 0 of 4 of QAT \(only 1 MB are free .*: free some space\); saved"):
            sharp(tmp_path, steps=4)
    assert sharp(tmp_path, steps=4).tokens == 4 * 512


def test_steps_that_diverge_leave_the_weights_of_before(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is infinite in the third step."""
    config = load_config(copy / "config.json", STEPS)
    steps: list[float] = []

    def clip(*arguments: Any) -> float:
        steps.append(original(*arguments))
        return float("inf") if len(steps) == 3 else steps[-1]

    original = loop.clip
    monkeypatch.setattr(loop, "clip", clip)
    with pytest.raises(SystemExit) as ended:
        main(["qat", str(copy), *STEPS])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "the gradient is no longer a number at step 2, so the weights from before it are kept" in said
    assert "--learning-rate-share=" in said and len(steps) == 3
    header = open_bullet(copy / "model.bullet").metadata["quantised"]
    assert header["qat"]["chosen"] == "start" and header["qat"]["problem"].endswith("at step 2")
    assert header["qat"]["kl"].keys() == {"start"} and not list((copy / "qat/checkpoints").glob("step-*"))
    text, held_out = (open_tokens(copy / "tokens", split) for split in ("train", "val"))
    options = BuildOptions(config=config.quant, seed=config.seed, calibration=text, validation=held_out)
    calibrated = build_bullet(copy / "export/npy", copy / "calibrated.bullet", options, SilentProgress())
    assert calibrated["kl"] == header["kl"]


def test_the_command_on_a_finished_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fp32 = {path.name: sha256_of_file(path) for path in (copy / "export/npy").iterdir()}
    with pytest.raises(SystemExit) as ended:
        main(["qat", str(copy), "--steps", "12", "--qat.tokens_per_step=256", "--json"])
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["steps"] == 12 and said["tokens"] == 12 * 256 and set(said["kl"]) == {"start", "raw", "ema"}
    assert said["chosen"] == min(said["kl"], key=said["kl"].get)
    assert sorted(path.name for path in (copy / "qat").iterdir()) == ["model.bullet", "report.json"]
    assert {path.name: sha256_of_file(path) for path in (copy / "export/npy").iterdir()} == fp32
    built, trained = open_bullet(copy / "model.bullet"), open_bullet(copy / "qat/model.bullet")
    for name in built.tensors:
        assert built.read_bytes(name) == trained.read_bytes(name)
    measured = compare(load(copy / "export/npy"), load(copy / "model.bullet"), open_tokens(copy / "tokens", "val"), SilentProgress())
    assert measured.kl.mean == pytest.approx(said["kl"][said["chosen"]], rel=0.05, abs=2e-6)
    report = read_json(copy / "report.json")
    assert report["quantised"]["qat"]["kl"] == said["kl"] and "QAT" in (copy / "report.html").read_text()
    before = sha256_of_file(copy / "model.bullet")
    finish_run(copy, ("--qat.steps=12", "--qat.tokens_per_step=256"), SilentProgress())
    assert sha256_of_file(copy / "model.bullet") == before
    finish_run(copy, ("--qat.steps=0",), SilentProgress())
    assert not (copy / "qat").exists()
    assert "qat" not in open_bullet(copy / "model.bullet").metadata["quantised"]


def test_the_stage_stops_and_goes_on(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "micro"
    shutil.copytree(copy, other)
    finish_run(copy, STEPS, SilentProgress())
    with pytest.raises(Interrupted):
        finish_run(other, STEPS, StopAfter("Distilling", 7))
    assert [path.name for path in (other / "qat").rglob("*") if path.is_dir()] == ["checkpoints", "step-000007"]
    for latent in ("qat", "qat/checkpoints", "qat/checkpoints/step-000007"):  # never taken for a model, so never exported as one
        with pytest.raises(BulletError, match=r"not? a? ?model folder|has weights, but no config\.json"):
            convert(other / latent, tmp_path / "latent-npy")
    finish_run(other, STEPS, SilentProgress())
    for name in ("qat/model.bullet", "model.bullet"):
        assert (other / name).read_bytes() == (copy / name).read_bytes()


@pytest.mark.slow
def test_killed_stopped_and_out_of_room_it_ends_with_the_same_bytes(micro_run: Path, copy: Path, tmp_path: Path) -> None:
    """kill -9 at nine moments from calibration to the last file, SIGTERM, and a full disk; `bullet run` and `bullet qat` in turns."""
    shutil.copytree(micro_run, tmp_path / "killed" / "micro")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("qat_kills.py")), str(tmp_path / "killed" / "micro")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "9 kills"
    finish_run(copy, (*STEPS, "--calibration-tokens=1024"), SilentProgress())
    for name in ("qat/model.bullet", "model.bullet"):
        assert (tmp_path / "killed/micro" / name).read_bytes() == (copy / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed/micro/qat").iterdir()) == ["model.bullet", "report.json"]


def test_weights_of_another_model_or_type_are_refused(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish_run(copy, STEPS, SilentProgress())
    out = tmp_path / "model.bullet"
    builder([str(copy), "--out", str(out)])
    assert out.read_bytes() == (copy / "model.bullet").read_bytes()
    text, trained = open_tokens(copy / "tokens", "train"), copy / "qat/model.bullet"
    with pytest.raises(BulletError, match="from another model or for other weight types"):
        options = BuildOptions(config=QuantConfig(keep=["layers.0.*=BQ8"]), seed=1, calibration=text, trained=trained)
        build_bullet(copy / "export/npy", out, options, SilentProgress())
    path = copy / "export/npy/layers.0.mlp.up_proj.weight.npy"
    np.save(path, np.load(path) * np.float32(1.001))
    with pytest.raises(BulletError, match="from another model or for other weight types"):
        options = BuildOptions(config=QuantConfig(), seed=1, calibration=text, trained=trained)
        build_bullet(copy / "export/npy", out, options, SilentProgress())


def test_an_option_about_calibration_calibrates_anew(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """These options do not apply to weights from QAT. So the file has calibrated weights instead, and a message says so."""
    finish_run(copy, STEPS, SilentProgress())
    out, train = tmp_path / "model.bullet", copy / "tokens/train.bin"
    for words in (["--method", "gptq"], ["--calibration", train], ["--calibration-tokens", "2000"], ["--seed", "42"]):
        builder([str(word) for word in (copy, *words, "--out", out)])
        said = capsys.readouterr().err.strip().splitlines()
        assert f"note: {words[0]}: the FP32 weights are calibrated again, and the QAT weights are not used" in said
        assert "qat" not in open_bullet(out).metadata["quantised"]
    again = out.read_bytes()
    builder([str(copy), "--no-qat", "--out", str(out)])
    assert "note" not in capsys.readouterr().err and out.read_bytes() == again, "42 is the default"
    builder([str(copy), "--method", "search", "--seed", "3", "--out", str(out)])
    assert "note: --method, --seed: the FP32" in capsys.readouterr().err
    assert open_bullet(out).metadata["quantised"]["method"] == "search"


def test_what_is_no_finished_run_is_one_line(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BulletError, match="is not a run folder"):
        finish_run(tmp_path, (), SilentProgress())
    with pytest.raises(ConfigError, match=r"--qat\.steps -1: must be 0 or more"):
        finish_run(copy, ("--qat.steps=-1",), SilentProgress())
    (copy / "checkpoints/best/state.json").unlink()
    with pytest.raises(BulletError, match="holds no trained model: the stage train is missing or changed"):
        finish_run(copy, STEPS, SilentProgress())


@pytest.fixture(scope="module")
def on_grid(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that trains with rounded weights in its second half."""
    config = load_config(write_micro_config(tmp_path_factory.mktemp("grid"), texts, qat={"start": 0.5}))
    run_stages(config, "evaluate", SilentProgress())
    return config


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_qat_start_exports_the_very_weights_that_it_measured(on_grid: Config, tmp_path: Path) -> None:
    run = on_grid.run_dir
    best, file = load_checkpoint(run / "checkpoints/best"), open_bullet(run / "model.bullet")
    _, fp32, _, metadata = read_npy(run / "export/npy")
    for name in file.tensors:
        np.testing.assert_array_equal(file.dequantize(name), best.tensors["model"][name].numpy())
        np.testing.assert_array_equal(file.dequantize(name), fp32[name])
    assert best.state["qat_start"] == metadata["training"]["qat_start"] == 0.5
    assert file.metadata["quantised"]["method"] == "none"
    assert not (run / "qat").exists()
    lowest = min(events(run, "eval"), key=lambda event: event["val/loss_bq4"])
    assert best.state["step"] == lowest["step"] and best.state["val_loss"] == lowest["val/loss_bq4"]
    report = read_json(run / "report.json")
    assert report["bq4"]["loss"] == pytest.approx(lowest["val/loss_bq4"], abs=1e-5)
    assert report["comparison"]["kl"]["mean"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_qat_start_with_two_processes(on_grid: Config, texts: Path, tmp_path: Path) -> None:
    """The same to rounding, and the file has the weights that val/loss_bq4 was measured on."""
    config = load_config(write_micro_config(tmp_path, texts, qat={"start": 0.5}), ["--train.workers=2"])
    run = run_stages(config, "build", SilentProgress()).folder
    for kind, name in (("train", "train/loss"), ("eval", "val/loss_bq4")):
        ours, theirs = ([event[name] for event in events(folder, kind)] for folder in (run, on_grid.run_dir))
        assert ours == pytest.approx(theirs, rel=5e-3)
        assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    best, file = load_checkpoint(run / "checkpoints/best"), open_bullet(run / "model.bullet")
    model = Transformer(file.shape)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            np.testing.assert_array_equal(file.dequantize(name), best.tensors["model"][name].numpy())
            weight.copy_(torch.from_numpy(np.array(file.dequantize(name))))
    nats, count = validate(model, open_tokens(run / "tokens", "val"), config.train.batch_size_per_device)
    lowest = min(event["val/loss_bq4"] for event in events(run, "eval"))
    assert nats / count == pytest.approx(lowest, rel=1e-12)


def test_the_latent_weights_are_other_ones(on_grid: Config) -> None:
    run = on_grid.run_dir
    best = load_checkpoint(run / "checkpoints/best")
    last = load_checkpoint(max((run / "checkpoints").glob("step-*")))
    name = "layers.0.mlp.up_proj.weight"
    assert not torch.equal(best.tensors["model"][name], last.tensors["model"][name])


def test_until_its_start_a_run_is_as_ever(on_grid: Config, micro_run: Path) -> None:
    ours, theirs = ([event["train/loss"] for event in events(run, "train")] for run in (on_grid.run_dir, micro_run))
    assert ours[:30] == theirs[:30]
    assert ours[30] != theirs[30]


def test_a_run_on_the_grid_is_not_continued_with_other_types(on_grid: Config) -> None:
    for flags in (("--qat.start=0.6",), ("--keep=layers.0.*=BQ8",)):
        with pytest.raises(ConfigError, match="trained with other settings"):
            run_stages(load_config(on_grid.run_dir / "config.json", flags), "train", SilentProgress())


def test_the_loss_of_four_bits_is_that_of_the_file(micro_run: Path, tmp_path: Path) -> None:
    """Of the best step's weights, in every bit, and of their loss."""
    out = tmp_path / "model.bullet"
    builder([str(micro_run / "export/npy"), "--method", "none", "--out", str(out)])
    best = load_checkpoint(micro_run / "checkpoints/best")
    event = next(event for event in events(micro_run, "eval") if event["step"] == best.state["step"])
    file, model = open_bullet(out), Transformer(open_bullet(out).shape)
    types = {name: file.type(name) for name in file.tensors}
    for name, rounded in FakeQuant(model, types).rounded(best.tensors["model"]).items():
        np.testing.assert_array_equal(rounded.numpy().view(np.uint32), np.array(file.dequantize(name)).view(np.uint32))
    score = compare(load(out, engine="numpy"), load(out, engine="numpy"), open_tokens(micro_run / "tokens", "val"), SilentProgress())
    assert score.a.loss == pytest.approx(event["val/loss_bq4"], abs=1e-5)
    assert event["val/loss_bq4"] != event["val/loss"]


def test_a_stopped_stage_calibrates_once(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a damaged or foreign calibrated.bullet is not used."""
    other = tmp_path / "other" / "micro"
    shutil.copytree(copy, other)
    keep = "--keep=layers.0.attention.*=F16"
    finish_run(other, (*STEPS, keep), SilentProgress())
    calls: list[int] = []
    original = qat_module.fit_to_text

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(qat_module, "fit_to_text", counted)
    for moment in (3, 7):
        with pytest.raises(Interrupted):
            finish_run(copy, (*STEPS, keep), StopAfter("Distilling", moment))
    assert len(calls) == 1
    stored = copy / "qat" / "calibrated.bullet"
    stored.write_bytes(stored.read_bytes()[:-9])
    finish_run(copy, (*STEPS, keep), SilentProgress())
    assert len(calls) == 2
    for name in ("qat/model.bullet", "model.bullet"):
        assert (other / name).read_bytes() == (copy / name).read_bytes()
    assert sorted(path.name for path in (copy / "qat").iterdir()) == ["model.bullet", "report.json"]


def test_by_default_the_steps_follow_the_length_of_the_run(texts: Path, tmp_path: Path) -> None:
    def steps(*flags: str) -> int:
        config = load_config(write_micro_config(tmp_path, texts, qat={}), flags)
        return count_qat_steps(config, 50_000)

    assert steps("--total-steps=26") == 0, "a short training needs none"
    assert 0 < steps("--total-steps=10000") < steps("--total-steps=20000") <= 400
    assert steps("--total-steps=1000000") == 400
    assert steps("--total-steps=26", "--qat.steps=7") == 7, "what the configuration says is done"


def test_noise_is_not_trained_away(copy: Path) -> None:
    """The micro model has lost less by rounding than its validation text can show."""
    said: list[str] = []

    class Listening(SilentProgress):
        def log(self, text: str, level: str = "info") -> None:
            if level != "debug":
                said.append(text)

    flags = ("--qat.steps=null", "--qat.tokens_per_step=32")
    finish_run(copy, flags, Listening())
    assert any(line.startswith("QAT: KL from FP32") and "no steps are needed" in line for line in said)
    report = read_json(copy / "qat/report.json")
    assert (report["steps"], report["tokens"], report["chosen"], set(report["kl"])) == (0, 0, "start", {"start"})
    assert "QAT was not needed" in next(line for line in said if line.startswith("build:"))
    assert "was left out" in (copy / "report.html").read_text()


@pytest.mark.parametrize(("kl", "tokens", "noise"), [(4e-5, 1_600, True), (4e-5, 100_000, False), (3e-3, 600, False), (1e-3, 8_000, False)])
def test_what_counts_as_noise(kl: float, tokens: int, noise: bool) -> None:
    assert below_noise(kl, tokens) == noise
