"""Ways to do the arithmetic: all give the gradients of the plain one; the choice among them is kept and survives damage."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bulletlm.config.schema import TrainConfig
from bulletlm.errors import ConfigError
from bulletlm.hardware import inspect_machine
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.train.backend import autotune as tune
from bulletlm.train.backend.autotune import autotune, choose_compute, default_plan
from bulletlm.train.backend.compute import Compute, compiled, denormals_are_zero, pick_device, set_up
from bulletlm.train.backend.native import why_not
from bulletlm.train.backend.plan import ComputePlan, cached_plan_file, cached_plans, parse_plan, read_plan, write_plan
from bulletlm.train.distributed.group import ProcessGroup
from bulletlm.train.model import IGNORE, Layer, Transformer, attend
from machines import MACHINES

SHAPE = ModelShape(vocab_size=300, dim=64, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=128, max_seq_len=16)
EAGER = ComputePlan(compiled=False, precision="fp32", threads=1, micro_batch=4)


class Said(SilentProgress):
    """Remembers what a user would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


@pytest.fixture
def model() -> Transformer:
    model = Transformer(SHAPE)
    model.initialise(5)
    return model


def batch(sequences: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 300, (sequences, 17), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, 3:7] = IGNORE
    return tokens[:, :-1], targets


def gradients(model: Transformer, compute: Compute) -> list[torch.Tensor]:
    model.zero_grad()
    loss = compute.accumulate_gradients(*batch(), 60)
    return [torch.tensor(loss), *(weight.grad.clone() for weight in model.parameters())]


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x.double() - y.double()).norm() / y.double().norm()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("length", [2, 127, 128, 129, 300])
def test_attention_is_torchs_at_any_length(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v, wanted = (torch.randn(2, 3, length, 8, generator=generator, dtype=torch.float64) for _ in range(4))
    results = []
    for function in (attend, partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        output = function(*inputs)
        output.backward(wanted)
        results.append([output.detach(), *(x.grad for x in inputs)])
    # Softmax is float32, and so are its errors.
    assert distance(*results) < 1e-6


def test_bf16_has_fp32_gradients_close_to_those_of_fp32(model: Transformer) -> None:
    exact = gradients(model, set_up(EAGER, model))
    rounded = gradients(model, set_up(ComputePlan(False, "bf16", 1, 4), model))
    assert all(gradient.dtype == torch.float32 for gradient in rounded)
    assert 1e-4 < distance(rounded, exact) < 0.03
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.slow
@pytest.mark.skipif(inspect_machine().compiler is None, reason="no C++ compiler")
def test_compiled_gradients_are_those_of_eager_mode(model: Transformer) -> None:
    exact = gradients(model, set_up(EAGER, model))
    assert distance(gradients(model, set_up(ComputePlan(True, "fp32", 1, 4), model)), exact) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(inspect_machine().compiler is None, reason="no C++ compiler")
def test_a_process_may_compile_for_many_shapes() -> None:
    double = compiled(lambda x: 2 * x)
    for length in range(1, 10):
        assert torch.equal(double(torch.ones(length)), 2 * torch.ones(length))


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor keeps them")
def test_denormal_numbers_count_as_zero_in_training_alone() -> None:
    many = torch.full((10,), 1e-20)  # so few that this thread does it all
    with denormals_are_zero():
        assert not (many * many).any()
    assert (many * many).all()
    with pytest.raises(KeyError), denormals_are_zero():
        raise KeyError
    assert (many * many).all()


THREADS = """
import sys, warnings, torch
from bulletlm.train.backend import compute

def parts_that_keep():
    denormal = torch.full((1 << 20,), 1 << 20, dtype=torch.int32).view(torch.float32)
    return (denormal * 0.5).view(torch.int32).view(16, -1).any(1).tolist()  # as integers, which no flag changes

warnings.simplefilter("error")
torch.set_num_threads(2)
if "early" in sys.argv:
    print(all(parts_that_keep()), end=" ")
if "stay" in sys.argv:
    compute.end_worker_threads = lambda: (torch.set_num_threads(1), torch.set_num_threads(2))
with compute.denormals_are_zero():
    print(any(parts_that_keep()), end=" ")
print(all(parts_that_keep()), torch.get_num_threads())
"""


@pytest.mark.skipif(sys.platform != "linux" or not torch.set_flush_denormal(False), reason="GNU's OpenMP, and processors that can")
def test_denormal_numbers_count_as_zero_in_every_thread() -> None:
    def run(*how: str) -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", THREADS, *how], capture_output=True, text=True, timeout=120)
        return done.stdout.strip(), (done.stderr.strip().splitlines() or [""])[-1]

    assert run() == ("False True 2", "")
    assert run("early") == ("True False True 2", ""), "threads that were there before"
    shown, error = run("early", "stay")
    assert shown == "True" and "BulletWarning: torch's worker threads do not count denormal numbers as zero here" in error


def test_a_device_that_is_not_there_is_one_line() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"train.device is 'cuda', but torch finds only .*cpu here"):
            pick_device("cuda")


@pytest.mark.parametrize(
    ("instruction_sets", "missing", "expected"),
    [((), None, "int8"), (("avx512_bf16",), None, "int8"), (("avx512_bf16",), "no compiler", "bf16"), (("avx2",), "no compiler", "fp32")],
)
@pytest.mark.parametrize("flops", [1e10, 1e15])
def test_the_precision_that_suits_a_processor(
    instruction_sets: tuple[str, ...], missing: str | None, expected: str, flops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "why_not", lambda: missing)
    machine = dataclasses.replace(inspect_machine(), instruction_sets=instruction_sets, compiler="g++ 12")
    choice = default_plan(TrainConfig(), machine, "cpu", flops)
    assert choice.precision == expected
    assert choice.compiled == (expected != "int8" and flops == 1e15), "so short a run is not compiled, and int8 need not be"
    assert default_plan(TrainConfig(precision="bf16"), machine, "cpu", flops).precision == "bf16"
    assert default_plan(TrainConfig(), machine, "mps", flops).precision == "fp32"


def test_measuring_chooses_the_fastest_and_is_done_once(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=4, threads=1)
    plain, measured = ComputePlan(False, "fp32", 1, 2), []

    def pretend(ways: list[ComputePlan], model: Transformer) -> tuple[ComputePlan, float]:
        measured.append(ways)
        return ways[-1], 1234.0

    monkeypatch.setattr(tune, "_fastest", pretend)
    said, computer = Said(), MACHINES["no AVX-512"]
    assert autotune(plain, config, model, computer, said) == ComputePlan(False, "fp32", 1, 8)
    assert measured == [[plain, ComputePlan(False, "fp32", 1, 4), ComputePlan(False, "fp32", 1, 8)]]
    assert said.lines == ["measured on this machine: fp32, eager, 1 thread, 8 sequences a pass is fastest, about 1,234 tokens/s"]
    assert autotune(plain, config, model, computer, said) == ComputePlan(False, "fp32", 1, 8)
    assert len(measured) == len(said.lines) == 1
    assert cached_plans(computer.processor) == ["0.1M x 16: fp32, eager, 1 thread, 8 sequences a pass, 1,234 tokens/s"]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"choice": 1}',
        '{"choice": {"compiled": 1, "precision": "fp32", "threads": 1, "micro_batch": 2}}',
        # As it was when torch computed in int8.
        '{"choice": {"compiled": true, "precision": "int8", "threads": 1, "micro_batch": 2}}',
    ],
)
def test_a_damaged_cache_is_measured_again(model: Transformer, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=4, threads=1)
    plain = ComputePlan(False, "fp32", 1, 2)
    file = cached_plan_file(tune._question(plain, config, SHAPE, inspect_machine()))
    file.parent.mkdir(parents=True)
    file.write_text(damage)
    monkeypatch.setattr(tune, "_fastest", lambda ways, model: (ways[0], 1.0))
    assert cached_plans(inspect_machine().processor) == []
    assert autotune(plain, config, model, inspect_machine(), SilentProgress()) == plain
    assert read_plan(file) == plain


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("int8", marks=pytest.mark.skipif(why_not() is not None, reason=str(why_not())))]
)
def test_measuring_really_runs_and_leaves_the_model_alone(model: Transformer, precision: Any) -> None:
    before = [weight.detach().clone() for weight in model.parameters()]
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=2, threads=1, compile="off")
    choice = autotune(ComputePlan(False, precision, 1, 2), config, model, inspect_machine(), SilentProgress())
    assert choice.micro_batch in (2, 4)
    assert all(torch.equal(weight, old) and weight.grad is None for weight, old in zip(model.parameters(), before, strict=True))


def test_a_resumed_run_keeps_its_choice_unless_told(model: Transformer, tmp_path: Path) -> None:
    write_plan(tmp_path / "compute.json", ComputePlan(False, "fp32", 1, 4))
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=2, compile="off")
    assert choose_compute(config, model, 1000, tmp_path, SilentProgress()).micro_batch == 4
    pinned = config.model_copy(update={"threads": 2})
    assert "2 threads, 4 sequences" in choose_compute(pinned, model, 1000, tmp_path, SilentProgress()).description
    assert parse_plan(json.loads((tmp_path / "compute.json").read_text())["choice"]) == ComputePlan(False, "fp32", 2, 4)
    torch.set_num_threads(1)


def test_a_run_is_not_continued_in_int8_where_there_is_none(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "why_not", lambda: "no compiler")
    write_plan(tmp_path / "compute.json", ComputePlan(False, "int8", 1, 4))
    said = Said()
    machine = dataclasses.replace(inspect_machine(), instruction_sets=())
    monkeypatch.setattr(tune, "inspect_machine", lambda: machine)
    compute = choose_compute(TrainConfig(threads=1, compile="off"), model, 1000, tmp_path, said)
    assert compute.description == "fp32, eager, 1 thread, 4 sequences a pass"
    assert said.lines == ["training in fp32 instead of int8: no compiler"]
    assert read_plan(tmp_path / "compute.json") == ComputePlan(False, "fp32", 1, 4)
    with pytest.raises(
        ConfigError, match=r"^train.precision: int8 is not to be had here: no compiler. Take fp32, or auto for what fits best$"
    ):
        choose_compute(TrainConfig(precision="int8"), model, 1000, tmp_path, said)


def test_a_run_in_floats_goes_on_in_floats(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "why_not", lambda: None)
    write_plan(tmp_path / "compute.json", ComputePlan(False, "fp32", 1, 4))
    compute = choose_compute(TrainConfig(threads=1), model, 1000, tmp_path, SilentProgress())
    assert compute.description == "fp32, eager, 1 thread, 4 sequences a pass"


def follower(choice: ComputePlan) -> ProcessGroup:
    """The second of two processes, whose leader takes `choice`; no processes are needed to be told it."""
    group = ProcessGroup()
    group.rank = 1
    group.broadcast_object = lambda value=None, patient=False: choice.as_dict()  # type: ignore[method-assign]
    return group


def test_all_of_a_team_compute_alike_or_not_at_all(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "why_not", lambda: "no compiler")
    config = TrainConfig(threads=1, compile="off")
    with pytest.raises(ConfigError, match=r"cannot compute in int8 as the others of its group do: train with --precision=fp32"):
        choose_compute(config, model, 1000, tmp_path, SilentProgress(), follower(ComputePlan(False, "int8", 1, 4)))
    choose_compute(config, model, 1000, tmp_path, SilentProgress(), follower(ComputePlan(False, "bf16", 1, 4)))
    assert model.precision == "bf16"


def test_without_a_compiler_nothing_is_compiled(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "inspect_machine", lambda: dataclasses.replace(inspect_machine(), compiler=None))
    said = Said()
    config = TrainConfig(threads=1, precision="fp32", compile="on")
    assert choose_compute(config, model, 1000, tmp_path, said).description.startswith("fp32, eager")
    assert said.lines == ["training in eager mode, which is slower: torch.compile needs a C++ compiler (install g++ or clang++)"]
    choice = read_plan(tmp_path / "compute.json")
    assert choice and not choice.compiled


@pytest.mark.parametrize(
    ("plain", "settings", "expected"),
    [
        ((False, "int8"), {}, [(False, "int8"), (True, "bf16"), (False, "bf16")]),
        ((True, "bf16"), {}, [(True, "bf16"), (True, "fp32"), (False, "bf16"), (False, "fp32")]),
        ((False, "fp32"), {}, [(False, "fp32"), (False, "bf16")]),  # because compiling failed
        ((False, "int8"), {"precision": "int8"}, [(False, "int8")]),
        ((False, "int8"), {"compile": "on"}, [(False, "int8"), (True, "bf16")]),
        ((False, "int8"), {"compile": "off"}, [(False, "int8"), (False, "bf16")]),
    ],
)
@pytest.mark.parametrize("problem", [None, "torch.compile failed (so)"])
def test_ways_that_make_sense_are_compared(
    model: Transformer,
    monkeypatch: pytest.MonkeyPatch,
    plain: tuple[bool, Any],
    settings: dict[str, Any],
    expected: list[tuple[bool, str]],
    problem: str | None,
) -> None:
    compared: list[list[tuple[bool, str]]] = []
    tried = []

    def pretend(ways: list[ComputePlan], model: Transformer) -> tuple[ComputePlan, float]:
        compared.append([(way.compiled, way.precision) for way in ways])
        return ways[0], 1.0

    monkeypatch.setattr(tune, "_fastest", pretend)
    monkeypatch.setattr(tune, "_pass", lambda model, way: tried.append(way))
    monkeypatch.setattr(tune, "compile_problem", lambda *arguments: problem)
    machine = dataclasses.replace(inspect_machine(), instruction_sets=("avx512_bf16",))
    said = Said()
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=1, threads=1, **settings)
    autotune(ComputePlan(*plain, 1, 2), config, model, machine, said)
    assert bool(tried) == (not plain[0] and any(graph for graph, _ in expected)), "what is compiled already is not tried again"
    if tried and problem:
        expected = [(graph, precision) for graph, precision in expected if not graph]
        assert said.lines[0] == f"comparing without compiled ways: {problem}"
    assert compared == [expected] * (len(expected) > 1)


def test_int8_is_not_compared_with_fp32(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be compiled for nothing: int8 is several times as fast."""
    monkeypatch.setattr(tune, "_pass", None)
    machine = dataclasses.replace(inspect_machine(), instruction_sets=())
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=1, threads=1)
    assert autotune(ComputePlan(False, "int8", 1, 2), config, model, machine, SilentProgress()) == ComputePlan(False, "int8", 1, 2)


BROKEN = """
import sys
from pathlib import Path
import torch
from bulletlm.config.schema import TrainConfig
from bulletlm.train.model import Transformer
from bulletlm.shape import ModelShape
from bulletlm.train.backend import autotune as tune
import test_compute as t

tune.TUNE_FROM_FLOPS = 0.0  # with what is measured before
model = Transformer(t.SHAPE)
model.initialise(5)
said = t.Said()
config = TrainConfig(threads=1, batch_size_per_device=2, gradient_accumulation_steps=2, precision='fp32')
compute = tune.choose_compute(config, model, 10**15, Path(sys.argv[1]), said)
compute.load_weights()
compute.accumulate_gradients(*t.batch(), 60)
print("\\n".join(said.lines))
"""


@pytest.mark.slow
@pytest.mark.skipif(inspect_machine().compiler is None, reason="no C++ compiler")
def test_a_compiler_that_fails_is_announced(tmp_path: Path) -> None:
    """A real one: it ends with 1 whatever it is asked to compile, and nothing is in the cache."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CXX": "/bin/false"}
    command = [sys.executable, "-c", BROKEN, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert re.match(r"training in eager mode, which is slower: torch.compile failed \(.+\)$", lines[0])
    assert "compile" not in "".join(lines[1:]), "eager ways alone are measured"
    choice = read_plan(tmp_path / "compute.json")
    assert choice and not choice.compiled


def test_a_model_that_cannot_be_traced_is_announced(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer's own exceptions are no relatives of the compiler's."""

    def untraceable(layer: Layer, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return layer(x, rope)  # type: ignore[no-any-return]

    monkeypatch.setattr("bulletlm.train.backend.compute.run_layer", untraceable)
    monkeypatch.setattr(tune, "inspect_machine", lambda: dataclasses.replace(inspect_machine(), compiler="g++"))
    said = Said()
    compute = choose_compute(TrainConfig(compile="on", threads=1, precision="fp32"), model, 1000, tmp_path, said)
    assert compute.description.startswith("fp32, eager")
    (line,) = said.lines
    assert line.startswith("training in eager mode, which is slower: torch.compile failed (")
    assert all(weight.grad is None for weight in model.parameters())
