"""The plan line of the next run: size, memory, time and expected loss, while the user types.

The speed of this machine is measured once, in a process of its own, and kept in the workspace: python -m bulletlm.dashboard.planner FILE
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.config.loader import nested
from bulletlm.config.schema import Config
from bulletlm.dashboard.processes import read_record
from bulletlm.errors import BulletError
from bulletlm.files import expand_home, write_json
from bulletlm.pipeline.limits import MOST_EPOCHS, fed_parameters, training_bytes
from bulletlm.shape import ModelShape
from bulletlm.train.schedule import count_steps, sequences_per_step

if TYPE_CHECKING:
    from bulletlm.pipeline.plan import Clock
    from bulletlm.pipeline.start import Parent

SPEED_FILE = "speed.json"

ACTIVATION_COPIES = 24
"""Float32 values of activations for each token, layer and unit of width that a training pass keeps, measured with torch."""

PROCESS_BYTES = 400_000_000
"""Memory of a process that has torch loaded, before it trains."""


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """What the next run would be.

    Attributes:
        parameters: of the model.
        file_bytes: weights in the model file, in bytes.
        memory_bytes: main memory of the training, about.
        steps: optimizer steps; None if they depend on the size of the text, which is unknown.
        epochs: passes over the text; None if its size is unknown.
        tokens_per_s, seconds: speed and time of the training; None before the machine is measured.
        bits_per_byte: expected loss on unseen text; None if the number of tokens is unknown, or if the run starts from a model.
        warnings: what is likely to go wrong, as (text, values to fill in).
    """

    parameters: int
    file_bytes: int
    memory_bytes: int
    steps: int | None
    epochs: float | None
    tokens_per_s: float | None
    seconds: float | None
    bits_per_byte: float | None
    warnings: tuple[tuple[str, dict[str, Any]], ...]


def speed_file(state: Path) -> Path:
    """The file with the measured speed of this machine."""
    return state / SPEED_FILE


def load_clock(state: Path) -> "Clock | None":
    """The measured speed; None if it is not measured yet."""
    from bulletlm.pipeline.plan import Clock, Measured

    rows = read_record(speed_file(state)).get("measured")
    if not isinstance(rows, list) or not rows:
        return None
    try:
        return Clock(Measured(**{**row, "shape": ModelShape(**row["shape"])}) for row in rows)
    except (TypeError, KeyError, ValueError, BulletError):
        return None


def _parent(where: str, folder: Path) -> "Parent":
    """The model from which a run in `folder` would start, without its weights; it is read again when its file changed."""
    from bulletlm.pipeline.start import locate

    here = folder / expand_home(where)
    found = here if here.exists() else locate(where, str(folder / "runs"))
    changed = found.stat().st_mtime_ns if found else 0
    return _read_parent(str(here) if here.exists() else where, str(folder / "runs"), changed)


@lru_cache(maxsize=8)
def _read_parent(where: str, runs_dir: str, changed: int) -> "Parent":
    """The model at `where`, without its weights; `changed` tells that it is another one."""
    from bulletlm.pipeline.start import read_parent

    return replace(read_parent(where, runs_dir), tensors={})


def plan_line(given: Mapping[str, Any], text_tokens: int | None, clock: "Clock | None", memory: int, folder: Path) -> PlanLine:
    """The plan of a configuration without mistakes.

    Args:
        given: settings by their full names.
        text_tokens: number of training tokens, about; None if unknown.
        clock: the speed of this machine; None if it is not measured yet.
        memory: main memory of this machine, in bytes.
        folder: the working directory of the run, from which model.start_from is looked for.

    Raises:
        BulletError: the model from which the run starts cannot be read, or a setting contradicts it.
    """
    from bulletlm.pipeline.plan import bullet_bytes

    config = _with_parent(Config.model_validate(nested(given)), folder)
    fresh = config.model.start_from is None
    shape = config.model.shape(config.tokenizer.vocab_size)
    per_step = sequences_per_step(config.train) * shape.max_seq_len
    steps = _steps(config, shape, text_tokens)
    tokens = steps * per_step if steps else None
    step_seconds = clock.seconds(shape, config.train) if clock else None
    needed = _memory_bytes(config, shape)
    return PlanLine(
        parameters=shape.n_parameters,
        file_bytes=bullet_bytes(config, shape),
        memory_bytes=needed,
        steps=steps,
        epochs=tokens / text_tokens if tokens and text_tokens else None,
        tokens_per_s=per_step / step_seconds if step_seconds else None,
        seconds=steps * step_seconds if steps and step_seconds else None,
        bits_per_byte=_expected_loss(shape, tokens, text_tokens) if tokens and fresh else None,
        warnings=tuple(_warnings(config, shape, tokens, text_tokens, lacks_memory=needed > memory)),
    )


def _with_parent(config: Config, folder: Path) -> Config:
    """The configuration with what the model in model.start_from decides; without one, the same configuration."""
    if config.model.start_from is None:
        return config
    from bulletlm.pipeline.start import with_parent
    from bulletlm.progress import SilentProgress

    return with_parent(config, _parent(config.model.start_from, folder), SilentProgress())


def _steps(config: Config, shape: ModelShape, text_tokens: int | None) -> int | None:
    """Optimizer steps of the run; None if they depend on the size of the text, which is unknown."""
    windows = text_tokens // shape.max_seq_len if text_tokens else None
    if windows is None and config.train.total_steps is None:
        return None
    return count_steps(config.train, windows or 10**12)[0]


def _expected_loss(shape: ModelShape, tokens: int, text_tokens: int | None) -> float:
    """Bits per byte that the scaling law expects after a training over `tokens` tokens, of which the text has `text_tokens`."""
    from bulletlm.pipeline.plan import load_law
    from bulletlm.train.scaling import effective_tokens

    law, facts = load_law()
    counted = shape.n_parameters - (shape.vocab_size * shape.dim if facts["counted"] == "layer_parameters" else 0)
    return law.loss(counted, effective_tokens(tokens, text_tokens or tokens))


def _memory_bytes(config: Config, shape: ModelShape) -> int:
    """Main memory of the training, about: the process, weights and optimizer, activations and logits."""
    activations = ACTIVATION_COPIES * shape.n_layers * shape.dim + 2 * shape.vocab_size
    batch = config.train.batch_size_per_device * shape.max_seq_len
    return PROCESS_BYTES + training_bytes(shape, config.train) + 4 * batch * activations


def _warnings(
    config: Config, shape: ModelShape, tokens: int | None, text_tokens: int | None, *, lacks_memory: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is likely to go wrong in a training over `tokens` tokens, of which the text has `text_tokens`; see `PlanLine`."""
    if lacks_memory:
        yield "It needs more memory than this computer has: choose a smaller width or a smaller batch.", {}
    if tokens and text_tokens:
        epochs = tokens / text_tokens
        if epochs > MOST_EPOCHS + 0.5:
            times = f"{epochs:,.0f}"
            yield "The text would be read {times} times; more than {most} times teaches little.", {"times": times, "most": MOST_EPOCHS}
        if config.model.start_from is None and shape.n_parameters > fed_parameters(tokens):
            yield (
                "The text is small for this model: it is enough for about {enough} parameters. A smaller model learns as much.",
                {"enough": f"{fed_parameters(tokens):,}"},
            )
        if epochs < 0.5:
            yield "Less than half of the text would be read: give more steps or epochs.", {}
    if config.train.epochs is not None and config.train.total_steps is not None:
        yield "Both epochs and total_steps are given: the shorter of the two ends the run.", {}


def measure(target: Path) -> None:
    """Measure this machine for about ten seconds and write the result to `target`."""
    from bulletlm.hardware import park_idle_threads

    park_idle_threads()
    from bulletlm.pipeline.auto import MEASURED_SECONDS, MEASURED_WIDTHS
    from bulletlm.pipeline.plan import measure as measure_shape
    from bulletlm.train.scaling import family

    train = Config.model_validate({"train": {"batch_size_per_device": 16, "gradient_accumulation_steps": 1}}).train
    rows = [asdict(measure_shape(family(width, 2_000, 128), train, MEASURED_SECONDS)) for width in MEASURED_WIDTHS]
    write_json(target, {"measured": rows})


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
