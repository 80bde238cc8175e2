"""The learning rate at every step, and how many steps there are."""

import math

from bulletlm.config import TrainConfig


def count_steps(config: TrainConfig, n_windows: int) -> tuple[int, str]:
    """Optimiser steps of a run over `n_windows` training sequences, and what decided them, in words."""
    per_step = config.batch_size_per_device * config.gradient_accumulation_steps
    wanted: list[tuple[int, str]] = []
    if config.total_steps is not None:
        wanted.append((config.total_steps, f"total_steps {config.total_steps:,}"))
    if config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * n_windows / per_step))
        wanted.append((steps, f"epochs {config.epochs:g} = {steps:,} steps"))
    steps, reason = min(wanted)
    if len(wanted) == 2:
        reason = f"{reason} (the shorter of epochs and total_steps)"
    return steps, reason


def warmup_length(config: TrainConfig, total_steps: int) -> int:
    """Warm-up steps: as configured, but at most a fifth of the run, so that short runs reach the peak at all."""
    return min(config.warmup_steps, total_steps // 5)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of step 0 ... total_steps - 1: linear warm-up, then cosine decay (arXiv:1608.03983) or constant."""
    warmup = warmup_length(config, total_steps)
    if step < warmup:
        return config.warmup_start + (config.learning_rate - config.warmup_start) * step / warmup
    if config.scheduler == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    low = min(config.min_learning_rate, config.learning_rate)
    return low + (config.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * progress))
