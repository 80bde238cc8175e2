"""Tests that a damaged or missing checkpoints/best is written again if the weights still exist, and that the run can continue if not."""

import shutil
from pathlib import Path

import pytest

from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.errors import BulletError
from bulletlm.files import read_json, sha256_of_file
from bulletlm.pipeline.runner import run_stages
from bulletlm.progress import SilentProgress
from bulletlm.train.checkpoint import list_checkpoints
from micro_model import write_micro_config

BEST = ("model.safetensors", "state.json")


class Log(SilentProgress):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        if level != "debug":
            self.lines.append(text)


@pytest.fixture(scope="module", params=[(), ("--qat.start=0.5",)], ids=["exact", "rounded"])
def trained(request: pytest.FixtureRequest, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("trained")
    config = load_config(write_micro_config(folder, texts), request.param)
    run_stages(config, "train", SilentProgress())
    return config


@pytest.fixture
def copy(trained: Config, tmp_path: Path) -> Config:
    shutil.copytree(trained.run_dir, tmp_path / "micro")
    return load_config(tmp_path / "micro" / "config.json", [f"--runs-dir={tmp_path}"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def hashes(config: Config) -> list[str]:
    return [sha256_of_file(config.run_dir / "checkpoints/best" / name) for name in BEST]


@pytest.mark.parametrize("damage", ["missing", "no state", "no weights", "cut state", "cut weights"])
def test_it_is_written_again_from_the_checkpoint_of_its_step(copy: Config, damage: str) -> None:
    best, before = copy.run_dir / "checkpoints" / "best", hashes(copy)
    if damage == "missing":
        shutil.rmtree(best)
    elif damage.startswith("no"):
        (best / {"no state": "state.json", "no weights": "model.safetensors"}[damage]).unlink()
    else:
        cut(best / {"cut state": "state.json", "cut weights": "model.safetensors"}[damage])
    log = Log()
    run_stages(copy, "export", log)
    assert hashes(copy) == before
    assert any("was written again from step-" in line for line in log.lines)


def leave_one_checkpoint(config: Config) -> None:
    """Remove all numbered checkpoints except one that remembers a best step, but is not of that step."""
    for _, folder in reversed(list_checkpoints(config.run_dir / "checkpoints")):
        position = read_json(folder / "state.json")["position"]
        if position["best_step"] not in (-1, position["step"]):
            for _, other in list_checkpoints(folder.parent):
                if other != folder:
                    shutil.rmtree(other)
            return
    raise AssertionError("this run has no such checkpoint")


def test_lost_weights_are_named_and_the_run_can_go_on(copy: Config) -> None:
    leave_one_checkpoint(copy)
    best = copy.run_dir / "checkpoints" / "best"
    cut(best / "model.safetensors")
    damaged = (best / "model.safetensors").read_bytes()
    with pytest.raises(BulletError, match=r"restore the folder from a copy, or delete it.*the best weights \(step .*\) are lost"):
        run_stages(copy, "train", SilentProgress())
    assert (best / "model.safetensors").read_bytes() == damaged
    shutil.rmtree(best)
    log = Log()
    run_stages(copy, "export", log)
    assert any("are lost; the best weights from step" in line for line in log.lines)
    assert (copy.run_dir / "export/npy/manifest.json").is_file()


def test_without_any_checkpoint_a_damaged_best_is_not_trained_again_silently(copy: Config) -> None:
    checkpoints = copy.run_dir / "checkpoints"
    for _, folder in list_checkpoints(checkpoints):
        shutil.rmtree(folder)
    assert hashes(copy)
    run_stages(copy, "export", SilentProgress())  # an intact one is enough
    cut(checkpoints / "best" / "model.safetensors")
    with pytest.raises(BulletError, match=r"no checkpoint to write it again: restore the folder from a copy, use .*export/npy.*--restart"):
        run_stages(copy, "train", SilentProgress())
    run_stages(copy, "train", SilentProgress(), restart=True)


def test_a_run_that_stopped_early_stays_stopped(texts: Path, tmp_path: Path) -> None:
    config = load_config(write_micro_config(tmp_path, texts), ["--patience=1", "--lr=1", "--eval-every=5", "--total-steps=200"])
    log = Log()
    run_stages(config, "train", log)
    checkpoints = config.run_dir / "checkpoints"
    steps = [step for step, _ in list_checkpoints(checkpoints)]
    assert steps[-1] < 200
    best = read_json(checkpoints / "best" / "state.json")["step"]
    for step, folder in list_checkpoints(checkpoints):
        if step == best:
            shutil.rmtree(folder)
    shutil.rmtree(checkpoints / "best")
    run_stages(config, "train", log)
    assert list_checkpoints(checkpoints)[-1][0] == steps[-1]
    assert read_json(checkpoints / "best" / "state.json")["step"] == steps[-1]
