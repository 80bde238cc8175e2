"""Tests that quant.auto_fix improves a file until the limits hold, and that a run may export another checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from bulletlm.cli.app import main
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, ConfigError
from bulletlm.evaluate.perplexity import score
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.pipeline.checkpoints import checkpoint_names, evaluate_checkpoints
from bulletlm.pipeline.runner import finish_run
from bulletlm.progress import SilentProgress
from bulletlm.runtime import load


@pytest.fixture
def run(micro_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(micro_run, tmp_path / micro_run.name))


def bullet(*words: str) -> None:
    """Run a command that succeeds."""
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert ended.value.code == 0


def config_of(run: Path) -> Config:
    return load_config(run / "config.json", [f"--runs-dir={run.parent}"])


def test_fixes_until_the_limit_holds(run: Path) -> None:
    flags = ["--calibration=none", "--calibration-tokens=1024", "--sampling.max-tokens=4"]
    finish_run(run, flags, SilentProgress())
    plain = json.loads((run / "quantization.json").read_text(encoding="utf-8"))
    assert "auto_fix" not in plain
    limit = plain["kl"] * 0.6
    finish_run(run, [*flags, "--quant.auto-fix=true", f"--report.limits.kl={limit}"], SilentProgress())
    fixed = json.loads((run / "quantization.json").read_text(encoding="utf-8"))
    trail = fixed["auto_fix"]
    assert [step["holds"] for step in trail] == [*[False] * (len(trail) - 1), True] and fixed["kl"] <= limit
    assert trail[0]["setting"] is None and trail[1]["setting"].startswith("--calibration-tokens=")
    assert open_bullet(run / "model.bullet").metadata["quantised"]["kl"] == fixed["kl"] == trail[-1]["kl"]
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["auto_fix"] == trail and "Steps of auto_fix" in (run / "report.html").read_text(encoding="utf-8")
    assert not (run / "auto-fix").exists()
    before = (run / "model.bullet").read_bytes()
    finish_run(run, [], SilentProgress())  # the settings are recorded, so nothing is built again
    assert (run / "model.bullet").read_bytes() == before


def test_nothing_helps_enough(run: Path) -> None:
    flags = [
        "--quant.auto-fix=true",
        "--report.limits.kl=0",
        "--sampling.max-tokens=4",
        "--qat.tokens-per-step=64",
        "--qat.steps=10",
        "--calibration-tokens=1024",
    ]
    finish_run(run, flags, SilentProgress())
    trail = json.loads((run / "quantization.json").read_text(encoding="utf-8"))["auto_fix"]
    assert not any(step["holds"] for step in trail)
    assert trail[-1]["setting"].endswith("--qat.steps=20") and any("8 bits" in step["action"] for step in trail)
    kept = [step["kl"] for step in trail if step["kept"]]
    assert kept == sorted(kept, reverse=True)
    # The settings of the steps that are kept say all that is different in the file, also what was undone before.
    settings = " ".join(step["setting"] for step in trail if step["kept"] and step["setting"])
    file = open_bullet(run / "model.bullet").metadata["quantised"]
    assert ("--quant.keep=" in settings) == bool(file["keep"]) and ("--calibration-tokens=" in settings) == (
        file["calibration_tokens"] > 1024
    )


def test_another_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = evaluate_checkpoints(run, config_of(run), SilentProgress())
    assert [row["used"] for row in rows] == [True, *[False] * (len(rows) - 1)] and len(rows) > 1
    assert rows[0]["loss"] == min(row["loss"] for row in rows)
    other = rows[1]
    bullet("evaluate", str(run), "--use", f"step-{other['step']}", "--sampling.max-tokens=4", "--quiet")
    capsys.readouterr()
    model = load(run / "export" / "npy")
    loss = score(model.engine, open_tokens(run / "tokens", "val"), model.tokenizer, SilentProgress()).total.loss  # type: ignore[arg-type]
    assert loss == pytest.approx(other["loss"])
    assert model.header["training"]["step"] == other["step"] and model.header["training"]["weights"] == other["weights"]
    assert f"This report describes the model of step {other['step']}" in (run / "report.html").read_text(encoding="utf-8")
    bullet("evaluate", str(run), "--checkpoints", "--quiet")
    lines = [line for line in capsys.readouterr().out.splitlines() if "*" in line[:20]]
    assert lines[0].startswith(f"{other['name']} *")


def test_unknown_checkpoint(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step-999 is not kept"):
        finish_run(run, ["--evaluate.checkpoint=step-999"], SilentProgress())
    assert checkpoint_names(run)[0] == "best"
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(BulletError, match="no checkpoints"):
        evaluate_checkpoints(run, config_of(run), SilentProgress())


@pytest.mark.parametrize("words", [["--checkpoints"], ["--use", "step-5"]])
def test_only_for_a_run(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path / "none.jsonc"), *words])
    assert ended.value.code == 2 and "needs the folder of a trained run" in capsys.readouterr().err
