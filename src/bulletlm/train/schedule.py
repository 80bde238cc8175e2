"""The learning rate of every step, and the number of steps."""

import math

from bulletlm.config.schema import TrainConfig

SHORT_RUN_STEPS = 500
"""A run with fewer steps than these reads its text more often, if the configuration does not say how often."""

FEWEST_DEFAULT_EPOCHS, MOST_DEFAULT_EPOCHS = 3, 8


def sequences_per_step(config: TrainConfig) -> int:
    """Sequences in one effective batch, over all processes."""
    return config.batch_size_per_device * config.gradient_accumulation_steps


def count_steps(config: TrainConfig, n_windows: int) -> tuple[int, str]:
    """Number of optimizer steps of a run over `n_windows` training sequences, and the setting that decided it, in words."""
    per_step = sequences_per_step(config)
    wanted: list[tuple[int, str]] = []
    if config.total_steps is not None:
        wanted.append((config.total_steps, f"total_steps {config.total_steps:,}"))
    epochs = config.epochs
    if epochs is None and config.total_steps is None:
        needed = SHORT_RUN_STEPS * per_step / max(1, n_windows)
        epochs = min(MOST_DEFAULT_EPOCHS, max(FEWEST_DEFAULT_EPOCHS, math.ceil(needed)))
    if epochs is not None:
        steps = max(1, math.ceil(epochs * n_windows / per_step))
        wanted.append((steps, f"epochs {epochs:g} = {steps:,} steps"))
    steps, reason = min(wanted)
    if len(wanted) == 2:
        reason = f"{reason} (the shorter of epochs and total_steps)"
    return steps, reason


def warmup_length(config: TrainConfig, total_steps: int) -> int:
    """Warm-up steps: train.warmup_steps, but at most a fifth of the run, so that short runs reach the peak."""
    return min(config.warmup_steps, total_steps // 5)


def last_step(config: TrainConfig, n_windows: int, schedule_start: int) -> tuple[int, str]:
    """The step at which a run ends, and what decided it: `count_steps`, or after as many steps as that more if a run that was extended
    began a new warm-up at `schedule_start` and is past that already."""
    steps, reason = count_steps(config, n_windows)
    if schedule_start and steps <= schedule_start:
        return schedule_start + steps, f"{reason} after the {schedule_start:,} before"
    return steps, reason


def decay_start(config: TrainConfig, total_steps: int) -> int | None:
    """The first step with a lowered learning rate: None if the rate falls from the warm-up on, `total_steps` if it falls to no end."""
    if config.scheduler == "cosine":
        return None
    if config.scheduler == "wsd":
        return max(warmup_length(config, total_steps), total_steps - round(config.decay_share * total_steps))
    return total_steps


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of step 0 ... total_steps - 1: linear warm-up, then as `config.scheduler` says.

    "cosine": half a cosine down to min_learning_rate at the last step (arXiv:1608.03983).
    "constant": the peak.
    "noam": peak * sqrt(warm-up / step), the inverse square root schedule of arXiv:1706.03762.
    "wsd": the peak until the last decay_share of all steps, which go down to min_learning_rate as 1 - sqrt(progress). This
        shape is the best one in arXiv:2405.18392.
    """
    warmup, peak = warmup_length(config, total_steps), config.learning_rate
    low = min(config.min_learning_rate, peak)
    if step < warmup:
        return config.warmup_start + (peak - config.warmup_start) * step / warmup
    if config.scheduler == "constant":
        return peak
    if config.scheduler == "noam":
        return max(low, peak * math.sqrt(max(1, warmup) / max(1, step)))
    if config.scheduler == "cosine":
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * _progress(step, warmup, total_steps)))
    decay_from = decay_start(config, total_steps)
    assert decay_from is not None
    return peak if step < decay_from else low + (peak - low) * (1 - math.sqrt(_progress(step, decay_from, total_steps)))


def _progress(step: int, start: int, total_steps: int) -> float:
    """0 at step `start`, 1 at the last step."""
    return (step - start) / max(1, total_steps - 1 - start)
