"""Estimates of time, memory and loss of a run on this machine.

Speed is measured with real training steps of the configured shape and a few others. The expected loss comes from the scaling law in
train/scaling.json, which `bench/scaling.py` fitted to runs of this repository.
"""

import contextlib
import gzip
import lzma
import math
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import psutil
import torch

from bulletlm.config.schema import Config, TrainConfig
from bulletlm.data.sources import SourceFile, find_files
from bulletlm.data.tokens import TokenFile, read_index
from bulletlm.errors import ConfigError
from bulletlm.files import open_regular, read_json, write_json
from bulletlm.hardware import largest_size
from bulletlm.pipeline.limits import MOST_EPOCHS, fed_parameters, refuse_too_large, require_sources
from bulletlm.pipeline.start import resolve
from bulletlm.progress import Progress, SilentProgress, format_duration
from bulletlm.quant.types import tensor_bytes, weight_types
from bulletlm.shape import ModelShape
from bulletlm.terminal import echo, printable_json
from bulletlm.train.backend.choose import choose_compute
from bulletlm.train.backend.compute import denormals_are_zero, pick_device
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.scaling import LAW_FILE, Law, effective_tokens, family
from bulletlm.train.schedule import count_steps, sequences_per_step
from bulletlm.train.state import initial_state
from bulletlm.train.step import accumulate, clip, update

MEASURED_WIDTHS = (64, 128, 256)
"""Widths that are measured in addition to the configured shape. The time of other widths is interpolated from the arithmetic."""

WIDTHS = range(32, 1025, 32)
"""Widths from which the best shape is chosen."""

ALWAYS_COMPILE_TOKENS = 10**15
"""Number of training tokens with which a run of any shape is compiled."""

LONG_HOURS = 24.0
"""A run that takes longer than this gets a note."""

MIN_CPU_SHARE = 0.6
"""If the measurement gets a smaller share of the cores' time, a note says that other programs were busy."""


@dataclass(frozen=True)
class Measured:
    """Times of one shape in seconds: `micro_batch` for a forward and backward pass, `update` for clipping, optimizer and average."""

    shape: ModelShape
    sequences: int
    micro_batch: float
    update: float


@dataclass(frozen=True)
class Estimate:
    """The estimate of a run.

    Attributes:
        bullet_bytes: size of the weights in the .bullet file, without tokenizer and header.
        seconds: time of the training, without validation.
        bits_per_byte: expected loss on held-out text like that of bench/scaling.jsonc.
        epochs: passes over the text; None if its size is unknown.
    """

    shape: ModelShape
    parameters: int
    steps: int
    tokens: int
    seconds: float
    tokens_per_s: float
    tokens_per_parameter: float
    epochs: float | None
    bits_per_byte: float
    bullet_bytes: int


Text = TypedDict("Text", {"tokens": int | None, "from": str})
"""Number of training tokens, None if unknown, and where the number comes from."""


class Plan(TypedDict):
    """The result of `bullet plan`, as JSON values.

    Attributes:
        text: size of the training text.
        memory_bytes: peak memory while training the configured shape.
        length: why the configured run has its number of steps.
        configured: estimate of the configured run.
        law: content of train/scaling.json.
        same_time: estimate of the configured shape for the given hours; this and the following only if hours are given.
        best: estimate of the best shape for the given hours; of a run that starts from a model, its own shape.
        with_more_text: the same with ten times as much text, if the size of the text is known and the shape can be chosen.
        config: the settings of the best run.
        warnings: notes for the user.
    """

    text: Text
    memory_bytes: int
    length: str
    configured: dict[str, Any]
    law: dict[str, Any]
    same_time: NotRequired[dict[str, Any]]
    best: NotRequired[dict[str, Any]]
    with_more_text: NotRequired[dict[str, Any]]
    config: NotRequired[dict[str, Any]]
    warnings: list[str]


def make_plan(config: Config, hours: float | None, seconds: float, write: Path | None, progress: Progress) -> Plan:
    """Measure this machine, estimate the configured run and, if `hours` is given, the best run for that time.

    Args:
        config: the configured run.
        hours: time for the best run; None estimates only the configured run.
        seconds: approximate time of the measurement.
        write: file for the configuration of the best run; None writes none.
        progress: shows messages.

    Raises:
        ConfigError: hours or seconds are not positive, `write` exists or is given without hours.
        DataError: a source does not exist.
    """
    _check_options(hours, seconds, write)
    require_sources(config)
    config, parent = resolve(config, progress)
    shape = config.model.shape(config.tokenizer.vocab_size)
    refuse_too_large(shape, config.train)
    text = text_tokens(config)
    law, facts = load_law()
    windows = text["tokens"] // shape.max_seq_len if text["tokens"] else None
    if windows is None and config.train.total_steps is None:
        raise ConfigError(
            "the length of the run depends on the size of its text, which is unknown: run `bullet tokenizer` first, or give --total-steps"
        )
    steps, reason = count_steps(config.train, windows or 10**12)
    progress.log(f"measuring this machine for about {seconds:.0f} s ...")
    tokens = steps * config.train.batch_size_per_device * config.train.gradient_accumulation_steps * shape.max_seq_len
    machine = _measure_machine(config.train, shape, seconds, tokens if hours is None else ALWAYS_COMPILE_TOKENS)
    estimator = Estimator(
        config=config, clock=machine.clock, law=law, facts=facts, available=text["tokens"], seen=parent.tokens_seen if parent else 0
    )
    configured = estimator.estimate(shape, steps)
    plan: Plan = {
        "text": text,
        "memory_bytes": machine.memory,
        "length": reason,
        "configured": asdict(configured),
        "law": facts,
        "warnings": [],
    }
    chosen = configured
    if hours is not None:
        available = text["tokens"]
        plan["same_time"] = asdict(estimator.estimate(shape, estimator.steps_within(shape, hours) or 1))
        chosen = best_shape(hours, estimator)
        if available and not parent:
            plan["with_more_text"] = asdict(best_shape(hours, replace(estimator, available=10 * available)))
        plan["best"] = asdict(chosen)
        plan["config"] = fragment(chosen, config)
        if write:
            _write_config(write, config, plan["config"], hours)
    plan["warnings"] = list(_warnings(chosen, text, facts, machine.cpu_share, fresh=parent is None))
    return plan


def _check_options(hours: float | None, seconds: float, write: Path | None) -> None:
    """Raise a ConfigError for options that make no plan; see `make_plan`."""
    for name, value in (("hours", hours), ("seconds", seconds)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"--{name}={value:g}: must be more than 0")
    if write and hours is None:
        raise ConfigError("--write needs --hours=H, because it writes the best configuration for that time")
    if write and os.path.lexists(write):
        raise ConfigError(f"{write} already exists: choose another name, for example {write.with_stem(write.stem + '-2')}")


def _write_config(path: Path, config: Config, chosen: dict[str, Any], hours: float) -> None:
    """Write the configuration with the settings of the best run for `hours`."""
    values = config.model_dump(mode="json")
    for section, settings in chosen.items():
        values[section].update(settings)
    write_json(path, {**values, "name": f"{config.name}-{hours:g}h"})


@denormals_are_zero()
def measure(shape: ModelShape, config: TrainConfig, seconds: float, tokens: int = 0) -> Measured:
    """Train on random tokens for about `seconds`; at least two micro-batches and one update, however long they take.

    Args:
        tokens: compute as a run of this many tokens would, except for what it would choose by measuring; 0: always in eager mode.
    """
    settings = config.model_copy(update={"tune": "off", "gradient_accumulation_steps": 1, **({} if tokens else {"compile": "off"})})
    state = initial_state(settings, shape, 1, pick_device(config.device))
    with tempfile.TemporaryDirectory() as folder:
        compute = choose_compute(settings, state.model, tokens, Path(folder), SilentProgress())
    text = np.random.default_rng(1).integers(0, shape.vocab_size, 64 * shape.max_seq_len).astype(np.uint32)
    windows = TrainingWindows(TokenFile(text, None, {}), shape.max_seq_len, 1)
    passes: list[float] = []
    updates: list[float] = []
    started = time.perf_counter()
    accumulate(settings, windows, 0, compute)  # the first one allocates
    while not passes or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        compute.load_weights()  # once a step, as the update: `accumulate` does it again
        refreshed = time.perf_counter()
        accumulate(settings, windows, len(passes), compute)
        done = time.perf_counter()
        clip(state, config.clip_grad_norm)
        update(state)
        once = min(refreshed - begun, (done - refreshed) / 2)  # the first may take long, and no pass takes less than nothing
        passes.append(done - refreshed - once)
        updates.append(time.perf_counter() - done + once)
    return Measured(shape, config.batch_size_per_device, statistics.median(passes), statistics.median(updates))


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: that of torch on a GPU, otherwise the main memory.

    On systems that do not report the peak (Linux does), it is the current value.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return largest_size() or int(psutil.Process().memory_info().rss)


def training_flops(shape: ModelShape) -> float:
    """Floating-point operations per token, forward and backward: 6 per matrix weight, plus the two products of attention."""
    looked_up = 0 if shape.tied_embeddings else shape.vocab_size * shape.dim
    return 6.0 * (shape.n_parameters - looked_up) + 12.0 * shape.n_layers * shape.max_seq_len * shape.dim


class Clock:
    """Time of an optimizer step of any shape, fitted to measured shapes.

    A token takes a + b * operations, an update c + d * parameters; none of the four coefficients is negative.
    """

    def __init__(self, measured: Iterable[Measured]) -> None:
        self._known = {m.shape: m for m in measured}
        rows = list(self._known.values())
        per_token = [m.micro_batch / (m.sequences * m.shape.max_seq_len) for m in rows]
        self._token = _line([training_flops(m.shape) for m in rows], per_token)
        self._update = _line([m.shape.n_parameters for m in rows], [m.update for m in rows])

    def seconds(self, shape: ModelShape, config: TrainConfig) -> float:
        """Seconds of one optimizer step."""
        sequences = config.batch_size_per_device * config.gradient_accumulation_steps
        if shape in self._known:
            m = self._known[shape]
            return m.micro_batch * sequences / m.sequences + m.update
        update_start, update_slope = self._update
        return sequences * shape.max_seq_len * self.token_seconds(shape) + update_start + update_slope * shape.n_parameters

    def token_seconds(self, shape: ModelShape) -> float:
        """Of the forward and backward pass of one token."""
        start, slope = self._token
        return start + slope * training_flops(shape)


class _Machine(NamedTuple):
    """What was measured: the time of steps, the peak of memory in bytes, and the share of the cores that this process got, 0 to 1."""

    clock: Clock
    memory: int
    cpu_share: float


def _measure_machine(config: TrainConfig, shape: ModelShape, seconds: float, tokens: int) -> _Machine:
    """Measure training steps of the configured shape and of MEASURED_WIDTHS for about `seconds`; `tokens` is the length of the run.

    Compiling every shape would take a minute, so the speed-up of the configured shape is used for all. The configured run is measured
    first, so that the peak of memory is its own.
    """
    long = measure(shape, config, seconds / 8, tokens)
    memory = peak_memory(pick_device(config.device))
    wall, cpu = time.perf_counter(), time.process_time()
    own = measure(shape, config, seconds / 4)
    others = [family(width, shape.vocab_size, shape.max_seq_len) for width in MEASURED_WIDTHS]
    eager = [own, *(measure(other, config, seconds / 4) for other in others)]
    cpu_share = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    gain = own.micro_batch / long.micro_batch
    return _Machine(Clock(replace(each, micro_batch=each.micro_batch / gain) for each in eager), memory, cpu_share)


def _line(x: list[float] | list[int], y: list[float]) -> tuple[float, float]:
    """(a, b) >= 0 of y = a + b x with the least squared relative error."""
    xs, ys = np.array(x, float), np.array(y, float)
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / ys, xs / ys], 1), np.ones(len(ys)), rcond=None)
    if a < 0:
        return 0.0, float((xs / ys).sum() / ((xs / ys) ** 2).sum())
    if b < 0:
        return float((1 / ys).sum() / ((1 / ys) ** 2).sum()), 0.0
    return float(a), float(b)


def load_law() -> tuple[Law, dict[str, Any]]:
    """The fitted law, and the content of scaling.json."""
    facts: dict[str, Any] = read_json(LAW_FILE)
    return Law(**facts["law"]), facts


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Estimates runs of any shape and length.

    Attributes:
        config: the settings of the runs, except shape and length.
        clock: the speed of this machine.
        law: the expected loss.
        facts: content of scaling.json.
        available: number of training tokens; None if unknown.
        seen: tokens on which the model was trained from which the runs start; 0 for random weights.
    """

    config: Config
    clock: Clock
    law: Law
    facts: dict[str, Any]
    available: int | None
    seen: int = 0

    def steps_within(self, shape: ModelShape, hours: float) -> int:
        """Number of steps that fit into `hours` and that read the text at most MOST_EPOCHS times."""
        train = self.config.train
        steps = int(3600 * hours / self.clock.seconds(shape, train))
        if self.available is None:
            return steps
        return min(steps, max(1, int(MOST_EPOCHS * self.available / (sequences_per_step(train) * shape.max_seq_len))))

    def estimate(self, shape: ModelShape, steps: int) -> Estimate:
        """The estimate of a run of `shape` with this number of steps."""
        config, available = self.config, self.available
        per_step = config.train.batch_size_per_device * config.train.gradient_accumulation_steps * shape.max_seq_len
        tokens, seconds = steps * per_step, steps * self.clock.seconds(shape, config.train)
        return Estimate(
            shape=shape,
            parameters=shape.n_parameters,
            steps=steps,
            tokens=tokens,
            seconds=seconds,
            tokens_per_s=tokens / seconds,
            tokens_per_parameter=tokens / shape.n_parameters,
            epochs=tokens / available if available else None,
            bits_per_byte=self.law.loss(_counted(shape, self.facts), self.seen + effective_tokens(tokens, available or tokens)),
            bullet_bytes=bullet_bytes(config, shape),
        )


def _counted(shape: ModelShape, facts: dict[str, Any]) -> int:
    return shape.n_parameters - (shape.vocab_size * shape.dim if facts["counted"] == "layer_parameters" else 0)


def best_shape(hours: float, estimator: Estimator) -> Estimate:
    """The shape of the family, or the configured shape, with the lowest expected loss after `hours`.

    A run that starts from a model has the shape of that model.

    The text is read at most MOST_EPOCHS times. If the size of the text is known, a shape with more parameters than it can feed is not
    proposed, except the smallest shape if none is small enough.
    """
    config = estimator.config
    own = config.model.shape(config.tokenizer.vocab_size)
    fixed = config.model.start_from is not None
    widths = [] if fixed else [width for width in WIDTHS if width <= 256 or width % 64 == 0]  # heads of 64
    candidates = []
    for shape in [own, *(family(width, own.vocab_size, own.max_seq_len) for width in widths)]:
        steps = estimator.steps_within(shape, hours)
        if steps:
            candidates.append(estimator.estimate(shape, steps))
    if not candidates:
        raise ConfigError(f"--hours={hours:g}: the time is too short for one optimizer step of the smallest model")
    if estimator.available is not None and not fixed:
        smallest = min(candidates, key=lambda candidate: candidate.parameters)
        candidates = [candidate for candidate in candidates if candidate.parameters <= fed_parameters(candidate.tokens)] or [smallest]
    return min(candidates, key=lambda candidate: candidate.bits_per_byte)


def fragment(chosen: Estimate, config: Config) -> dict[str, Any]:
    """The settings that turn `config` into the chosen run."""
    own, shape = config.model, chosen.shape
    train = {"train": {"total_steps": chosen.steps, "epochs": None}}
    if own.start_from is not None:
        return train
    model: dict[str, Any] = {"dim": shape.dim, "n_layers": shape.n_layers, "n_heads": shape.n_heads}
    if own.n_kv_heads is not None:
        model["n_kv_heads"] = shape.n_kv_heads
    if own.hidden_dim is not None:
        model["hidden_dim"] = shape.hidden_dim
    if own.tied_embeddings != shape.tied_embeddings:
        model["tied_embeddings"] = shape.tied_embeddings
    keep = exceptions(config, shape)
    quant = {"quant": {"keep": keep}} if keep != config.quant.keep else {}
    return {"model": model, **quant, **train}


def exceptions(config: Config, shape: ModelShape) -> list[str]:
    """The rules of quant.keep that match a matrix of `shape`."""
    fitting = []
    for rule in config.quant.keep:
        with contextlib.suppress(ConfigError):
            weight_types(shape, keep=[rule])
            fitting.append(rule)
    return fitting


def bullet_bytes(config: Config, shape: ModelShape) -> int:
    """Size of the weights in the model file, in bytes."""
    types = weight_types(shape, config.quant.weights, config.quant.embedding, exceptions(config, shape))
    return sum(tensor_bytes(types[name], extents) for name, extents in shape.tensors().items())


def text_tokens(config: Config) -> Text:
    """Number of training tokens: exact if the run folder has them, else estimated from the size of the sources, else None.

    Raises:
        DataError: a source does not exist.
    """
    index = config.run_dir / "tokens" / "index.json"
    if index.exists():
        return {"tokens": read_index(index.parent)["train"]["tokens"], "from": str(index.parent)}
    per_token = load_law()[1]["bytes_per_token"]
    if any(source.path.startswith("hf://") for source in config.data.all_sources):
        return {"tokens": None, "from": "a dataset on the network"}
    by_source: dict[int, float] = {}
    for file in find_files(config.data)[0]:
        size = _text_bytes(file)
        if size is None:
            return {"tokens": None, "from": f"{file.path.name}, whose text is compressed"}
        by_source[file.source] = by_source.get(file.source, 0.0) + file.share * size / per_token
    own = general = 0.0
    for number, tokens in by_source.items():
        source = config.data.all_sources[number]
        if number < len(config.data.sources):
            own += min(tokens * source.weight, source.tokens or math.inf)
        else:
            general += tokens
    mix = config.data.mix
    if mix.general and general:
        own += min(mix.general / (1 - mix.general) * own, mix.max_repeats * general)
    total = own if mix.tokens is None else min(mix.tokens, mix.max_repeats * own)
    return {"tokens": int(total), "from": "the size of the sources, before cleaning"}


def _text_bytes(file: SourceFile) -> int | None:
    """Unpacked size; None if the file is damaged, or if the text is inside a document, a table or a .zip."""
    path, suffix = file.path, file.path.suffix.lower()
    if file.member or file.kind in (".parquet", ".arrow", ".docx", ".pdf", ".epub") or suffix == ".bz2":
        return None
    if suffix not in (".gz", ".xz"):
        return path.stat().st_size
    try:
        with open_regular(path) as packed, gzip.open(packed) if suffix == ".gz" else lzma.open(packed) as opened:
            return sum(len(block) for block in iter(lambda: opened.read(1 << 20), b""))
    except (OSError, EOFError, lzma.LZMAError, zlib.error):  # damaged: the data stage names it
        return None


def _warnings(chosen: Estimate, text: Text, facts: dict[str, Any], cpu_share: float, *, fresh: bool) -> Iterable[str]:
    """Notes for the user.

    Args:
        chosen: the run.
        text: size of the training text.
        facts: content of scaling.json.
        cpu_share: share of the cores that the measurement got, 0 to 1.
        fresh: whether the run starts from random weights, so that its shape can be chosen.
    """
    if cpu_share < MIN_CPU_SHARE:
        yield f"other programs were busy: the measurement got {cpu_share:.0%} of the cores' time; on an idle machine a run is faster"
    if chosen.epochs is None:
        yield f"the size of the text is unknown ({text['from']}): run `bullet tokenizer` first, then plan again"
    elif chosen.epochs > MOST_EPOCHS + 0.5:
        yield f"the text is small: it would be read {chosen.epochs:.0f} times, more than {MOST_EPOCHS}; more text helps more than more time"
    if fresh and chosen.epochs is not None and chosen.parameters > fed_parameters(chosen.tokens):
        yield (
            f"the text is small for {chosen.parameters / 1e6:.2g}M parameters: {chosen.tokens / 1e6:.2g}M training tokens are enough for "
            f"about {fed_parameters(chosen.tokens) / 1e6:.2g}M; a smaller shape learns as much in less time, and more text helps more"
        )
    if chosen.seconds > 3600 * LONG_HOURS:
        yield f"this takes {chosen.seconds / 86400:.1f} days: --hours=H finds the best run for a shorter time"
    n, d = _counted(chosen.shape, facts), chosen.tokens
    low, high = facts["range"]["parameters"], facts["range"]["tokens"]
    if not (low[0] / 2 <= n <= low[1] * 2 and high[0] / 2 <= d <= high[1] * 2):
        counted = "parameters in the layers" if facts["counted"] == "layer_parameters" else "parameters"
        yield (
            f"the expected loss is an extrapolation: the law is based on runs of {low[0] / 1e6:.2g}M to {low[1] / 1e6:.2g}M {counted} "
            f"and {high[0] / 1e6:.2g}M to {high[1] / 1e6:.2g}M tokens"
        )


def print_json(plan: Plan) -> None:
    """Print the plan as JSON."""
    print(printable_json(plan))


def print_plan(plan: Plan) -> None:
    """Print the plan as text."""
    text, configured, law = plan["text"], plan["configured"], plan["law"]
    known = f"{text['tokens']:,} (from {text['from']})" if text["tokens"] else f"unknown: {text['from']}"
    echo(f"training text      {known}")
    print(f"memory             {plan['memory_bytes'] / 1e9:.2f} GB while training the configured shape")
    echo(f"length             {plan['length']}\n")
    columns = {"configured": configured}
    if "best" in plan:
        columns |= {"same time": plan["same_time"], "best": plan["best"]}
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "shape": lambda e: f"{e['shape']['dim']} x {e['shape']['n_layers']}",
        "parameters": lambda e: f"{e['parameters'] / 1e6:.2f}M",
        "steps": lambda e: f"{e['steps']:,}",
        "tokens": lambda e: f"{e['tokens'] / 1e6:,.1f}M",
        "tokens per parameter": lambda e: f"{e['tokens_per_parameter']:.1f}",
        "passes over the text": lambda e: f"{e['epochs']:.1f}" if e["epochs"] else "?",
        "tokens/s": lambda e: f"{e['tokens_per_s']:,.0f}",
        "time": lambda e: format_duration(e["seconds"]),
        ".bullet": lambda e: f"{e['bullet_bytes'] / 1e6:.1f} MB",
        "expected bits/byte": lambda e: f"about {e['bits_per_byte']:.3f}",
    }
    print(" " * 20 + "".join(f"{name:>14}" for name in columns))
    for title, cell in rows.items():
        print(f"{title:<20}" + "".join(f"{cell(column):>14}" for column in columns.values()))
    error = law["error"]
    print(
        "\nThe expected bits/byte are rough: they hold for the text of the runs behind the scaling law, and text of another kind\n"
        "has other figures. Use them to compare sizes and times. The error for other runs on that text was "
        f"{error['mean']:.1%} on average, {error['largest']:.1%} at most."
    )
    print("The times are those of training alone; validation takes a little more.")
    if "with_more_text" in plan:
        for line in _trade_off(plan):
            print(line)
    for warning in plan["warnings"]:
        echo(f"note: {warning}")
    if "config" in plan:
        print("\n" + printable_json(plan["config"]))


def _trade_off(plan: Plan) -> Iterable[str]:
    """Sentences on the largest useful model for this text, and on the result of more text in the same time."""
    best, more = plan["best"], plan["with_more_text"]
    yield (
        f"This text, read {best['epochs']:.1f} times, is enough for at most {fed_parameters(best['tokens']) / 1e6:.2g}M parameters. More "
        f"parameters or more than {MOST_EPOCHS} passes only memorize it."
    )
    yield (
        f"Ten times as much text would give {more['parameters'] / 1e6:.2g}M parameters in {format_duration(more['seconds'])}: "
        f"{more['bits_per_byte']:.3f} expected bits/byte instead of {best['bits_per_byte']:.3f}."
    )
