"""One optimiser step: gradients of an effective batch, clipping, optimiser, average."""

import torch

from bulletlm.config.schema import TrainConfig
from bulletlm.train.backend.compute import Compute
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.model import IGNORE
from bulletlm.train.state import TrainState


def accumulate(config: TrainConfig, windows: TrainingWindows, batch: int, compute: Compute, group: ProcessGroup = SINGLE_PROCESS) -> float:
    """Forward and backward over effective batch number `batch`, this process's share of it; returns the mean loss of all.

    Each micro-batch is divided by the number of target tokens of the whole batch, so that the sum of the
    gradients is that of one large batch, however unevenly the targets are spread over micro-batches and processes.
    """
    sequences = config.batch_size_per_device * config.gradient_accumulation_steps
    share = group.shard(sequences)
    size = max(n for n in range(1, compute.micro_batch + 1) if len(share) % n == 0)
    batches = [windows.batch(batch * sequences + first, size) for first in share[::size]]
    count = max(1.0, group.sum(sum(int((targets != IGNORE).sum()) for _, targets in batches))[0])
    compute.load_weights()
    total = sum(compute.accumulate_gradients(tokens.to(compute.device), targets.to(compute.device), count) for tokens, targets in batches)
    return group.sum(total)[0]


def clip(state: TrainState, limit: float) -> float:
    """Scale the gradients down to the global norm `limit`; returns the norm that they had."""
    return float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), limit, foreach=True))


def update(state: TrainState) -> None:
    """Apply the gradients, forget them, take the new weights into the average; the position moves on by one."""
    for optimizer in state.optimizers:
        optimizer.step()
    forget_gradients(state)
    state.position.step += 1
    if state.ema:
        state.ema.update(state.model, state.position.step)


def forget_gradients(state: TrainState) -> None:
    """Set the gradients to zero."""
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=False)
