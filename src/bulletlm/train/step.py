"""The parts of one optimizer step: gradients of an effective batch, clipping, optimizer update, moving average."""

from typing import Any, Protocol

import torch
from torch import Tensor

from bulletlm.config.schema import TrainConfig
from bulletlm.train.batches import TrainingWindows
from bulletlm.train.distributed.group import SINGLE_PROCESS, ProcessGroup
from bulletlm.train.model import IGNORE
from bulletlm.train.schedule import sequences_per_step
from bulletlm.train.state import TrainState


class GradientBackend(Protocol):
    """Computes a loss and its gradients. Implementations: torch and the native library (`Compute`), and `distil.TeacherBackend`."""

    @property
    def device(self) -> torch.device:
        """Device of the model, to which tokens and targets have to be moved."""

    def pass_size(self, sequences: int, /) -> int:
        """Sequences in one forward and backward pass when `sequences` are to be processed; the last pass may have fewer."""

    def load_weights(self) -> None:
        """Read the weights of the model again; to be called before `accumulate_gradients` whenever they have changed."""

    def accumulate_gradients(self, tokens: Tensor, targets: Tensor, count: float, /) -> float:
        """Add the gradients of (summed loss / count) to those of the weights.

        Args:
            tokens, targets: int64 (B, T) on `device`; targets equal to IGNORE do not count.
            count: number of targets by which the sum is divided.

        Returns:
            the summed loss / count, in nats.
        """


def accumulate(
    config: TrainConfig, windows: TrainingWindows, batch: int, backend: GradientBackend, group: ProcessGroup = SINGLE_PROCESS
) -> float:
    """Forward and backward passes over this process's share of an effective batch; the gradients are added to those of the weights.

    Every pass divides by the number of targets of the whole batch. The sum of the gradients is therefore that of one large
    batch, however unevenly the targets are spread over passes and processes.

    Args:
        config: decides how many sequences an effective batch has.
        windows: the training text.
        batch: number of the effective batch, from 0.

    Returns:
        mean loss over the targets of the whole batch, of all processes, in nats per token.

    Raises:
        ProcessLost: another process has ended or does not answer.
    """
    sequences = sequences_per_step(config)
    share = group.shard(sequences)
    size = backend.pass_size(len(share))
    batches = [windows.batch(batch * sequences + first, min(size, share.stop - first)) for first in share[::size]]
    count = max(1.0, group.sum(sum(int((targets != IGNORE).sum()) for _, targets in batches))[0])
    backend.load_weights()
    device = backend.device
    total = sum(backend.accumulate_gradients(tokens.to(device), targets.to(device), count) for tokens, targets in batches)
    return group.sum(total)[0]


def clip(state: TrainState[Any], limit: float) -> float:
    """The global norm of the gradients. They are scaled down to `limit`, if it is larger: here, or in `update` by the native library."""
    if state.native:
        return state.native.clip(limit)
    return float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), limit, foreach=True))


def update(state: TrainState[Any]) -> None:
    """Apply the gradients, set them to zero, add the new weights to the moving average. The position moves on by one step."""
    state.position.step += 1
    step, ema = state.position.step, state.ema
    if state.native:
        state.native.step(ema, ema.decay_at(step) if ema else 0.0)
        return
    for optimizer in state.optimizers:
        optimizer.step()
    clear_gradients(state)
    if ema:
        ema.update(state.model, step)


def clear_gradients(state: TrainState[Any]) -> None:
    """Set the gradients to zero."""
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=False)
