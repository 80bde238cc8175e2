"""Tests `bullet plan`: it measures this machine, calculates correctly, and refuses bad input with one line."""

import dataclasses
import gzip
import json
import lzma
import mmap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bulletlm.cli.app import main
from bulletlm.config.loader import load_config
from bulletlm.config.schema import Config
from bulletlm.errors import ConfigError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.pipeline import plan
from bulletlm.pipeline.limits import fed_parameters
from bulletlm.pipeline.plan import (
    Clock,
    Estimator,
    Measured,
    bullet_bytes,
    fragment,
    load_law,
    make_plan,
    peak_memory,
    print_plan,
    text_tokens,
    training_flops,
)
from bulletlm.pipeline.start import resolve
from bulletlm.progress import SilentProgress
from bulletlm.train.scaling import Law, family
from micro_model import write_micro_config


def test_a_slow_first_load_of_the_weights_gives_no_negative_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may take the core at that moment: the plan then counted with passes that took less than nothing."""
    choose, pauses = plan.choose_compute, iter([0.0, 0.2])

    def slow(*arguments: Any) -> Any:
        compute = choose(*arguments)

        def load_weights() -> None:
            time.sleep(next(pauses, 0.0))
            compute.load_weights()

        return dataclasses.replace(compute, load_weights=load_weights)

    monkeypatch.setattr(plan, "choose_compute", slow)
    measured = plan.measure(family(32, 300, 32), Config.model_validate({"train": {"precision": "fp32"}}).train, 0.0)
    assert measured.micro_batch > 0 and measured.update > 0


def test_plan_of_the_micro_model(micro_run: Path, micro_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "planned.json"
    before = peak_memory(torch.device("cpu"))  # other tests of this process may have needed more than the plan does
    plan = make_plan(micro_config, 0.5, 0.4, target, SilentProgress())
    configured, best = plan["configured"], plan["best"]
    shape = micro_config.model.shape(700)
    assert configured["parameters"] == shape.n_parameters
    assert (configured["steps"], configured["tokens"]) == (60, 60 * 8 * 32)
    index = json.loads((micro_run / "tokens/index.json").read_text())
    assert plan["text"]["tokens"] == index["train"]["tokens"]
    assert configured["epochs"] == pytest.approx(60 * 8 * 32 / index["train"]["tokens"])
    assert 1e8 < plan["memory_bytes"] < max(8e9, 1.2 * before)
    assert best["seconds"] <= 1800 * 1.05
    assert best["epochs"] <= 8 and plan["same_time"]["epochs"] <= 8, "whatever the time, the text is read 8 times at most"
    assert best["parameters"] <= max(fed_parameters(best["tokens"]), 60_000)
    assert best["bits_per_byte"] > plan["with_more_text"]["bits_per_byte"]
    print_plan(plan)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Ten times as much text" in printed
    assert f"expected bits/byte about {configured['bits_per_byte']:.3f} about" in printed
    assert "text of another kind has other figures" in printed
    planned = load_config(target)
    assert planned.name == "micro-0.5h"
    assert planned.train.total_steps == best["steps"]
    assert planned.train.epochs is None
    assert planned.model.shape(700).dim == best["shape"]["dim"]


def test_size_of_the_file(micro_run: Path, micro_config: Config) -> None:
    file = micro_run / "model.bullet"
    shape = open_bullet(file).shape
    assert 0 < file.stat().st_size - bullet_bytes(micro_config, shape) < 60_000  # header and tokenizer


def test_exceptions_count_and_those_of_layers_that_are_gone_do_not(texts: Path, tmp_path: Path) -> None:
    path = write_micro_config(tmp_path, texts)
    micro_config = load_config(path)
    changed = load_config(path)
    changed.quant.keep = ["layers.*.mlp.up_proj=BQ8", "layers.1.attention.q_proj=F32"]
    shape = changed.model.shape(700)
    one_layer = dataclasses.replace(shape, n_layers=1)
    more = bullet_bytes(changed, shape) - bullet_bytes(micro_config, shape)
    assert more == shape.n_layers * shape.dim * shape.hidden_dim // 2 + shape.dim**2 * (32 - 4.5) / 8
    assert bullet_bytes(changed, one_layer) - bullet_bytes(micro_config, one_layer) == shape.dim * shape.hidden_dim // 2


def test_what_is_proposed_can_be_loaded_and_is_of_the_family(texts: Path, tmp_path: Path) -> None:
    config = load_config(write_micro_config(tmp_path, texts), ["--tied-embeddings=false", "--layers=3"])
    config.quant.keep = ["layers.2.*=BQ8", "layers.0.*=BQ8"]
    clock = Clock([Measured(config.model.shape(700), 8, 1.0, 0.1)])
    law, facts = load_law()
    chosen = Estimator(config=config, clock=clock, law=law, facts=facts, available=None).estimate(family(64, 700, 32), 10)
    values = config.model_dump(mode="json")
    for section, settings in fragment(chosen, config).items():
        values[section].update(settings)
    assert values["quant"]["keep"] == ["layers.0.*=BQ8"]
    planned = Config(**values)
    assert bullet_bytes(planned, planned.model.shape(700)) == chosen.bullet_bytes
    assert planned.model.shape(700).n_parameters == chosen.parameters


def test_memory_is_the_peak_and_not_what_is_left_of_it() -> None:
    before = peak_memory(torch.device("cpu"))
    room = mmap.mmap(-1, before - psutil.Process().memory_info().rss + 100_000_000)
    for at in range(0, len(room), mmap.PAGESIZE):
        room[at] = 1
    room.close()
    after = peak_memory(torch.device("cpu"))
    if Path("/proc/self/status").exists():
        assert after > before + 50_000_000


def test_text_is_counted_before_there_are_tokens(micro_run: Path, texts: Path, tmp_path: Path) -> None:
    config = load_config(write_micro_config(tmp_path, texts))
    index = json.loads((micro_run / "tokens/index.json").read_text())
    estimated = text_tokens(config)
    assert estimated["from"] == "the size of the sources, before cleaning"
    assert 0.3 < estimated["tokens"] / index["train"]["tokens"] < 1.2  # a vocabulary of 700 makes more tokens of the same text


def test_only_the_text_that_is_used_counts(texts: Path, tmp_path: Path) -> None:
    def tokens(source: dict[str, Any], **mix: Any) -> int:
        values = {"name": "x", "runs_dir": str(tmp_path), "data": {"sources": [{"path": str(texts), **source}], "mix": mix}}
        found = text_tokens(Config.model_validate(values))["tokens"]
        assert found
        return found

    whole = tokens({})
    assert tokens({"share": 0.25}) == pytest.approx(whole / 4, rel=0.01)
    assert tokens({"tokens": 1_000, "weight": 3}) == 1_000
    assert tokens({}, general=0.2) == pytest.approx(whole / 0.8, rel=0.01)
    assert tokens({}, tokens=2_000) == 2_000 and tokens({}, tokens=10**9, max_repeats=2) == pytest.approx(2 * whole, rel=0.01)


def test_a_run_from_a_model_has_the_shape_of_the_model(micro_run: Path, texts: Path, tmp_path: Path) -> None:
    values = {"name": "new", "runs_dir": str(micro_run.parent), "data": {"sources": [str(texts)]}, "model": {"start_from": "micro"}}
    (tmp_path / "new.json").write_text(json.dumps({**values, "train": {"total_steps": 50}}))
    plan = make_plan(load_config(tmp_path / "new.json"), 0.5, 0.4, tmp_path / "planned.json", SilentProgress())
    shape = read_npy(micro_run / "export/npy")[0]
    assert plan["configured"]["shape"] == plan["best"]["shape"] == dataclasses.asdict(shape)
    assert "with_more_text" not in plan and list(plan["config"]) == ["train"]
    print_plan(plan)
    resolved, _ = resolve(load_config(tmp_path / "planned.json"), SilentProgress())
    assert resolved.model.shape(shape.vocab_size) == shape and resolved.train.total_steps == plan["best"]["steps"]


def test_time_is_interpolated_and_never_negative() -> None:
    shapes = [family(width, 4000, 128) for width in (64, 128, 256)]
    measured = [Measured(s, 8, 1024 * (1e-6 + training_flops(s) / 1e11), 1e-3 + 1e-9 * s.n_parameters) for s in shapes]
    clock = Clock(measured)
    config = load_config(None, ["--batch=8", "--grad-accum=4"]).train
    other = family(192, 4000, 128)
    expected = 4 * 1024 * (1e-6 + training_flops(other) / 1e11) + 1e-3 + 1e-9 * other.n_parameters
    assert clock.seconds(other, config) == pytest.approx(expected)
    assert clock.seconds(shapes[0], config) == pytest.approx(4 * measured[0].micro_batch + measured[0].update)
    steep = [Measured(s, 8, training_flops(s) ** 2 / 1e15, 1e-3) for s in shapes]
    assert Clock(steep).seconds(family(32, 4000, 128), config) > 0


def test_the_law_of_the_package() -> None:
    law, facts = load_law()
    assert isinstance(law, Law)
    assert law.loss(1e6, 1e6) > law.loss(2e6, 1e6) > law.loss(2e6, 4e6) > law.E >= 0
    assert facts["error"]["mean"] <= 0.05


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hours=0"], "--hours=0: must be more than 0"),
        (["--seconds=-1"], "--seconds=-1: must be more than 0"),
        (["--write=x.json"], "--write needs --hours"),
        (["--layers=0"], "layers"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["plan", str(write_micro_config(tmp_path, texts)), *words])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_is_never_replaced(micro_config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match="already exists"):
        make_plan(micro_config, 1, 1, tmp_path / "a.json", SilentProgress())


@pytest.mark.parametrize("name", ["cut.txt.gz", "cut.txt.xz", "bad.txt.gz", "bad.txt.xz"])
def test_a_damaged_archive_has_no_size(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith(".gz") else lzma.compress
    content = bytearray(pack(b"A line of text.\n" * 5_000))
    if name.startswith("cut"):
        del content[-20:]
    else:
        content[len(content) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(content)
    config = load_config(None, [f"--data.sources=[{json.dumps(str(tmp_path / name))}]", f"--runs-dir={tmp_path}"])
    assert text_tokens(config)["tokens"] is None
