"""Tests compute plans: all give the gradients of the eager FP32 plan; the plan of a run is decided once, saved, and survives damage."""

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
from bulletlm.hardware import Machine, inspect_machine
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.train.backend import autotune as autotune_module
from bulletlm.train.backend import choose, plan
from bulletlm.train.backend.autotune import autotune
from bulletlm.train.backend.choose import choose_compute, measured
from bulletlm.train.backend.compute import Compute, compiled, denormals_are_zero, pick_device, set_up
from bulletlm.train.backend.native import MAX_SHAPE, NO_AVX2, NO_INT8, why_not
from bulletlm.train.backend.plan import (
    ComputePlan,
    cached_plan_file,
    cached_plans,
    default_plan,
    inspect_capabilities,
    parse_plan,
    read_plan,
    write_plan,
)
from bulletlm.train.distributed.group import ProcessGroup
from bulletlm.train.model import IGNORE, Layer, Transformer, attend
from machines import MACHINES, capabilities, machine

SHAPE = ModelShape(vocab_size=300, dim=64, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=128, max_seq_len=16)
PLAIN = capabilities(MACHINES["no-avx512"])
EAGER = ComputePlan(compiled=False, precision="fp32", threads=1, micro_batch=4)


class Said(SilentProgress):
    """Keeps the lines that a user would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


@pytest.fixture
def model() -> Transformer:
    model = Transformer(SHAPE)
    model.initialize(5)
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
@pytest.mark.skipif(inspect_machine().compiler is None, reason="torch.compile needs a C++ compiler")
def test_compiled_gradients_are_those_of_eager_mode(model: Transformer) -> None:
    exact = gradients(model, set_up(EAGER, model))
    assert distance(gradients(model, set_up(ComputePlan(True, "fp32", 1, 4), model)), exact) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(inspect_machine().compiler is None, reason="torch.compile needs a C++ compiler")
def test_a_process_may_compile_for_many_shapes() -> None:
    double = compiled(lambda x: 2 * x)
    for length in range(1, 10):
        assert torch.equal(double(torch.ones(length)), 2 * torch.ones(length))


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU cannot treat denormal numbers as zero")
def test_denormal_numbers_count_as_zero_in_training_alone() -> None:
    many = torch.full((10,), 1e-20)  # few enough for one thread
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


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does torch use GNU's OpenMP")
@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU cannot treat denormal numbers as zero")
def test_denormal_numbers_count_as_zero_in_every_thread() -> None:
    def run(*how: str) -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", THREADS, *how], capture_output=True, text=True, timeout=120)
        return done.stdout.strip(), (done.stderr.strip().splitlines() or [""])[-1]

    assert run() == ("False True 2", "")
    assert run("early") == ("True False True 2", ""), "threads that were there before"
    shown, error = run("early", "stay")
    assert shown == "True" and "BulletWarning: torch's worker threads do not treat denormal numbers as zero here" in error


def test_a_device_that_is_not_there_is_one_line() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"train.device is cuda, but torch finds only .*cpu here"):
            pick_device("cuda")


each_machine = pytest.mark.parametrize("computer", MACHINES.values(), ids=MACHINES)


@each_machine
@pytest.mark.parametrize("library_problem", [None, "the native training library cannot be used (it was not built)"])
def test_capabilities_of_a_machine(computer: Machine, library_problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "why_not", lambda: library_problem)
    monkeypatch.setattr(plan, "why_no_distillation", lambda: library_problem)
    found = inspect_capabilities("cpu", computer)
    assert found.distillation_problem == (library_problem if "avx2" in computer.instruction_sets else NO_AVX2)
    assert found.int8_problem == (library_problem if "avx512_vnni" in computer.instruction_sets else NO_INT8)
    assert found.best_float == ("bf16" if {"avx512_bf16", "bf16"} & set(computer.instruction_sets) else "fp32")
    apple = inspect_capabilities("mps", computer)
    assert (apple.best_float, apple.int8_problem) == ("fp32", "int8 training runs on the CPU, not on mps")
    assert apple.distillation_problem == "native QAT runs on the CPU, not on mps"


def test_without_a_list_of_instruction_sets_the_library_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux has such a list."""
    for problem in (None, NO_INT8):
        monkeypatch.setattr(plan, "why_not", lambda problem=problem: problem)
        assert inspect_capabilities("cpu", machine()).int8_problem == problem


PRECISIONS = {"no-avx512": "fp32", "vnni": "int8", "bf16": "bf16", "vnni-bf16": "int8", "arm": "bf16"}


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("flops", [1e10, 1e15])
def test_the_default_plan_suits_the_machine(name: str, flops: float) -> None:
    found = capabilities(MACHINES[name])
    default = default_plan(TrainConfig(), found, flops)
    assert default.precision == PRECISIONS[name]
    assert default.compiled == (PRECISIONS[name] != "int8" and flops == 1e15), "short runs are not compiled, and int8 never is"
    assert default.threads == 2 and default_plan(TrainConfig(), found, flops, processes=2).threads == 1
    assert default_plan(TrainConfig(precision="bf16"), found, flops).precision == "bf16"
    assert default_plan(TrainConfig(), capabilities(MACHINES[name], "mps"), flops).precision in ("fp32", "int8")
    without_library = dataclasses.replace(found, int8_problem="it was not built")
    assert default_plan(TrainConfig(), without_library, flops).precision == found.best_float


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_the_default_micro_batch_gives_each_thread_a_sequence(name: str, cores: int) -> None:
    found = capabilities(dataclasses.replace(MACHINES[name], cores=cores))
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=8)
    default = default_plan(config, found, 1e10)
    assert default.threads == cores
    assert default.micro_batch == (min(16, max(2, 2 * cores)) if default.precision == "int8" else 2)


MEASURED = {
    "no-avx512": ("fp32, eager", [["fp32"]]),
    "vnni": ("int8, native", [["int8"]]),
    "bf16": ("fp32, eager", [["bf16", "fp32"], ["fp32"]]),
    "vnni-bf16": ("bf16, eager", [["int8", "bf16"], ["bf16"]]),
    "arm": ("fp32, eager", [["bf16", "fp32"], ["fp32"]]),
}
"""By machine: the plan that is chosen if the last one of every comparison is the fastest, and the precisions in the comparisons."""


@pytest.mark.parametrize("name", MACHINES)
def test_measuring_chooses_the_fastest_and_is_done_once(name: str, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=4, threads=1, compile="off")
    found = capabilities(MACHINES[name])
    comparisons: list[list[ComputePlan]] = []

    def pretend(plans: list[ComputePlan], model: Transformer) -> tuple[ComputePlan, float]:
        comparisons.append(plans)
        return plans[-1], 1234.0

    monkeypatch.setattr(autotune_module, "_fastest", pretend)
    default, said = default_plan(config, found, 1e10), Said()
    description, precisions = MEASURED[name]
    best = measured(default, config, model, found, said)
    assert str(best) == f"{description}, 1 thread, 8 sequences a pass"
    assert [list(dict.fromkeys(each.precision for each in plans)) for plans in comparisons] == precisions
    assert [each.micro_batch for each in comparisons[-1]] == [2, 4, 8]
    assert said.lines == [f"measured on this machine: {best} is fastest, about 1,234 tokens/s"]
    assert measured(default, config, model, found, said) == best
    assert len(comparisons) == len(precisions) and len(said.lines) == 1
    assert cached_plans("a test CPU") == [f"0.1M x 16: {best}, 1,234 tokens/s"]
    assert cached_plans("another CPU") == []


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"choice": 1}',
        '{"choice": {"compiled": 1, "precision": "fp32", "threads": 1, "micro_batch": 2}}',
        # An earlier version of the program wrote this when torch computed in int8.
        '{"choice": {"compiled": true, "precision": "int8", "threads": 1, "micro_batch": 2}}',
    ],
)
def test_a_damaged_cache_is_measured_again(model: Transformer, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=4, threads=1)
    simple = ComputePlan(False, "fp32", 1, 2)
    file = cached_plan_file(choose._question(simple, config, SHAPE, PLAIN))
    file.parent.mkdir(parents=True)
    file.write_text(damage)
    monkeypatch.setattr(autotune_module, "_fastest", lambda plans, model: (plans[0], 1.0))
    assert cached_plans("a test CPU") == []
    assert measured(simple, config, model, PLAIN, SilentProgress()) == simple
    assert read_plan(file) == simple


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("int8", marks=pytest.mark.skipif(why_not() is not None, reason=str(why_not())))]
)
def test_measuring_really_runs_and_leaves_the_model_alone(model: Transformer, precision: Any) -> None:
    before = [weight.detach().clone() for weight in model.parameters()]
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=2, threads=1, compile="off")
    best, tokens_per_s = autotune(ComputePlan(False, precision, 1, 2), config, model, PLAIN, SilentProgress())
    assert best.micro_batch in (2, 4) and tokens_per_s and tokens_per_s > 0
    assert all(torch.equal(weight, old) and weight.grad is None for weight, old in zip(model.parameters(), before, strict=True))


@each_machine
@pytest.mark.parametrize("tokens", [1000, 10**12])
def test_a_plan_is_decided_once_in_order(
    computer: Machine, tokens: int, model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new run and in one that is resumed."""
    steps: list[str] = []

    def recorded(name: str) -> Any:
        function = getattr(choose, name)

        def record(*arguments: Any, **named: Any) -> Any:
            steps.append(name)
            return function(*arguments, **named)

        return record

    for name in ("default_plan", "overridden", "supported", "measured"):
        monkeypatch.setattr(choose, name, recorded(name))
    monkeypatch.setattr(autotune_module, "_fastest", lambda plans, model: (plans[0], 1.0))
    monkeypatch.setattr(choose, "set_up", lambda plan, model: plan)
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=4, compile="off")
    new: Any = choose_compute(config, model, tokens, tmp_path, SilentProgress(), capabilities=capabilities(computer))
    assert steps == ["default_plan", "supported", *["measured"] * (tokens > 1000)]
    steps.clear()
    assert choose_compute(config, model, tokens, tmp_path, SilentProgress(), capabilities=capabilities(computer)) == new
    assert steps == ["default_plan", "overridden", "supported"]


def test_a_resumed_run_keeps_its_plan_except_for_explicit_settings(model: Transformer, tmp_path: Path) -> None:
    write_plan(tmp_path / "compute.json", ComputePlan(False, "fp32", 1, 4))
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=2, compile="off")
    assert choose_compute(config, model, 1000, tmp_path, SilentProgress(), capabilities=PLAIN).micro_batch == 4
    explicit = config.model_copy(update={"threads": 2})
    assert "2 threads, 4 sequences" in choose_compute(explicit, model, 1000, tmp_path, SilentProgress(), capabilities=PLAIN).description
    assert parse_plan(json.loads((tmp_path / "compute.json").read_text())["choice"]) == ComputePlan(False, "fp32", 2, 4)
    torch.set_num_threads(1)


@each_machine
@pytest.mark.parametrize("name", MAX_SHAPE)
def test_a_model_that_is_too_large_for_int8_trains_in_another_precision(computer: Machine, name: str) -> None:
    shape = dataclasses.replace(ModelShape(64, 32, 1, 1, 1, 32, 8), **{name: MAX_SHAPE[name] + 32})
    found = capabilities(computer).for_shape(shape)
    assert default_plan(TrainConfig(compile="off"), found, 0.0).precision == found.best_float
    with pytest.raises(ConfigError, match=f"^train.precision: int8 is for models with a {name} of up to"):
        default_plan(TrainConfig(precision="int8"), found, 0.0)
    assert found.distillation_problem


@pytest.mark.parametrize("name", ["no-avx512", "bf16", "arm"])
def test_a_run_is_not_continued_in_int8_on_a_cpu_without_it(name: str, model: Transformer, tmp_path: Path) -> None:
    write_plan(tmp_path / "compute.json", ComputePlan(False, "int8", 1, 4))
    said, found = Said(), capabilities(MACHINES[name])
    compute = choose_compute(TrainConfig(threads=1, compile="off"), model, 1000, tmp_path, said, capabilities=found)
    assert compute.description == f"{found.best_float}, eager, 1 thread, 4 sequences a pass"
    assert said.lines == [
        f"training in {found.best_float} instead of int8: int8 training needs AVX-512 VNNI or AVX-VNNI; this CPU has neither"
    ]
    assert read_plan(tmp_path / "compute.json") == ComputePlan(False, found.best_float, 1, 4)
    expected = (
        "train.precision: int8 training needs AVX-512 VNNI or AVX-VNNI; this CPU has neither; "
        "set fp32, or auto for the fastest precision that is available"
    )
    with pytest.raises(ConfigError, match=f"^{expected}$"):
        choose_compute(TrainConfig(precision="int8"), model, 1000, tmp_path, said, capabilities=found)


@each_machine
def test_a_run_in_fp32_continues_in_fp32(computer: Machine, model: Transformer, tmp_path: Path) -> None:
    write_plan(tmp_path / "compute.json", ComputePlan(False, "fp32", 1, 4))
    compute = choose_compute(TrainConfig(threads=1), model, 1000, tmp_path, SilentProgress(), capabilities=capabilities(computer))
    assert compute.description == "fp32, eager, 1 thread, 4 sequences a pass"


def worker(plan: ComputePlan) -> ProcessGroup:
    """The second of two processes, whose main process uses `plan`; the other process is not needed to receive it."""
    group = ProcessGroup()
    group.rank = 1
    group.broadcast_object = lambda value=None, patient=False: plan.as_dict()  # type: ignore[method-assign]
    return group


def test_all_processes_of_a_group_use_one_precision(model: Transformer, tmp_path: Path) -> None:
    config = TrainConfig(threads=1, compile="off")
    with pytest.raises(ConfigError, match=r"does not support int8, in which the other processes of its group train: train with --pre"):
        choose_compute(config, model, 1000, tmp_path, SilentProgress(), worker(ComputePlan(False, "int8", 1, 4)), PLAIN)
    choose_compute(config, model, 1000, tmp_path, SilentProgress(), worker(ComputePlan(False, "bf16", 1, 4)), PLAIN)
    assert model.precision == "bf16"


def test_without_a_compiler_nothing_is_compiled(model: Transformer, tmp_path: Path) -> None:
    said, found = Said(), capabilities(machine(compiler=None))
    config = TrainConfig(threads=1, precision="fp32", compile="on")
    assert choose_compute(config, model, 1000, tmp_path, said, capabilities=found).description.startswith("fp32, eager")
    assert said.lines == ["training in eager mode, which is slower: torch.compile needs a C++ compiler (install g++ or clang++)"]
    saved = read_plan(tmp_path / "compute.json")
    assert saved and not saved.compiled


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
def test_only_sensible_plans_are_compared(
    model: Transformer,
    monkeypatch: pytest.MonkeyPatch,
    plain: tuple[bool, Any],
    settings: dict[str, Any],
    expected: list[tuple[bool, str]],
    problem: str | None,
) -> None:
    compared: list[list[tuple[bool, str]]] = []
    tried = []

    def pretend(plans: list[ComputePlan], model: Transformer) -> tuple[ComputePlan, float]:
        compared.append([(plan.compiled, plan.precision) for plan in plans])
        return plans[0], 1.0

    monkeypatch.setattr(autotune_module, "_fastest", pretend)
    monkeypatch.setattr(autotune_module, "gradient_pass", lambda plan, model: tried.append(plan))
    monkeypatch.setattr(autotune_module, "compile_problem", lambda *arguments: problem)
    said = Said()
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=1, threads=1, **settings)
    autotune(ComputePlan(*plain, 1, 2), config, model, capabilities(MACHINES["vnni-bf16"]), said)
    assert bool(tried) == (not plain[0] and any(graph for graph, _ in expected)), "what is compiled already is not tried again"
    if tried and problem:
        expected = [(graph, precision) for graph, precision in expected if not graph]
        assert said.lines[0] == f"comparing eager mode only: {problem}"
    assert compared == [expected] * (len(expected) > 1)


def test_int8_is_not_compared_with_fp32(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling FP32 would be useless, because int8 is several times as fast."""
    monkeypatch.setattr(autotune_module, "gradient_pass", None)
    config = TrainConfig(batch_size_per_device=2, gradient_accumulation_steps=1, threads=1)
    int8 = ComputePlan(False, "int8", 1, 2)
    assert autotune(int8, config, model, capabilities(MACHINES["vnni"]), SilentProgress()) == (int8, None)


BROKEN = """
import sys
from pathlib import Path
import torch
from bulletlm.config.schema import TrainConfig
from bulletlm.train.model import Transformer
from bulletlm.shape import ModelShape
from bulletlm.train.backend import choose
import test_compute as t

choose.TUNE_FROM_FLOPS = 0.0  # so that it measures
model = Transformer(t.SHAPE)
model.initialize(5)
said = t.Said()
config = TrainConfig(threads=1, batch_size_per_device=2, gradient_accumulation_steps=2, precision='fp32')
compute = choose.choose_compute(config, model, 10**15, Path(sys.argv[1]), said, capabilities=t.PLAIN)
compute.load_weights()
compute.accumulate_gradients(*t.batch(), 60)
print("\\n".join(said.lines))
"""


@pytest.mark.slow
def test_a_compiler_that_fails_is_announced(tmp_path: Path) -> None:
    """The compiler is a real program that always ends with exit code 1. The cache is empty."""
    path = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CXX": "/bin/false"}
    command = [sys.executable, "-c", BROKEN, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert re.match(r"training in eager mode, which is slower: torch.compile failed \(.+\)$", lines[0])
    assert "compile" not in "".join(lines[1:]), "only eager plans are measured"
    saved = read_plan(tmp_path / "compute.json")
    assert saved and not saved.compiled


def test_a_model_that_cannot_be_traced_is_announced(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer raises other exceptions than the compiler."""

    def untraceable(layer: Layer, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return layer(x, rope)  # type: ignore[no-any-return]

    monkeypatch.setattr("bulletlm.train.backend.compute.run_layer", untraceable)
    said = Said()
    config = TrainConfig(compile="on", threads=1, precision="fp32")
    compute = choose_compute(config, model, 1000, tmp_path, said, capabilities=PLAIN)
    assert compute.description.startswith("fp32, eager")
    (line,) = said.lines
    assert line.startswith("training in eager mode, which is slower: torch.compile failed (")
    assert all(weight.grad is None for weight in model.parameters())
