"""Data parallelism: several processes, one model.

Every process of a group holds the whole model and starts from the same state. A step's sequences are shared out, each
process works on its own, the gradients are summed, and all take the same step. What a process decides for itself (its
user wants it to stop) is agreed on; what follows from the numbers needs no agreement, because the numbers are the same.
A process that works alone is a group of one, and nothing here costs it anything.
"""

import contextlib
import datetime
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bulletlm.errors import BulletError, ConfigError

STEP_TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others in a step: longer than any validation or checkpoint, short enough to notice a dead machine."""

START_TIMEOUT = datetime.timedelta(hours=12)
"""How long processes that torchrun started wait while the first one prepares the text."""


class ProcessLost(BulletError):
    """Another process of the group has ended or does not answer."""


class ProcessGroup:
    """This process and those it works with.

    Attributes:
        rank: number of this process, from 0; number 0 leads: it alone writes files and speaks.
        size: how many processes there are, on all machines.
        local_size: how many of them run on this machine and share its cores.
        waiting: whether the others still wait to be told what to train.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_size: int = 1) -> None:
        self.rank, self.size, self.local_size = rank, size, local_size
        self._patient: Any = dist.new_group(backend="gloo", timeout=START_TIMEOUT) if size > 1 else None
        self._flat: Tensor | None = None
        self.waiting = size > 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def description(self) -> str:
        """For the line that says how a run is computed; nothing for one process."""
        return "" if self.size == 1 else f", {self.size} processes"

    def shard(self, sequences: int) -> range:
        """Which of the `sequences` of one optimiser step are this process's: equal parts without overlap.

        Raises:
            ConfigError: they cannot be shared equally; the message says how many processes can.
        """
        check_shard(self.size, sequences)
        part = sequences // self.size
        return range(self.rank * part, (self.rank + 1) * part)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the group, in one message.

        The gradients become views of one flat buffer at the first call and stay there, as long as nobody sets them to None.

        Raises:
            ProcessLost: another process is gone.
        """
        if self.size == 1:
            return
        weights = list(parameters)
        flat = self._gather(weights)
        with _talking(self.rank):
            dist.all_reduce(flat)

    def _gather(self, weights: list[torch.nn.Parameter]) -> Tensor:
        """The flat buffer, float32 (all gradients,), with the gradients in it."""
        count = sum(weight.numel() for weight in weights)
        if self._flat is None:
            self._flat = torch.zeros(count, device=weights[0].device)
        assert len(self._flat) == count, "a group sums the gradients of one model"
        at = 0
        for weight in weights:
            view = self._flat[at : at + weight.numel()].view_as(weight)
            at += weight.numel()
            if weight.grad is None:
                view.zero_()
            elif weight.grad.data_ptr() != view.data_ptr():
                view.copy_(weight.grad)
            weight.grad = view
        return self._flat

    def sum(self, *values: float) -> list[float]:
        """Sums of numbers over the group, in float64, the same on every process.

        Raises:
            ProcessLost: another process is gone.
        """
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with _talking(self.rank):
            dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with the leader's.

        Raises:
            ProcessLost: another process is gone.
        """
        if self.size > 1:
            with _talking(self.rank):
                dist.broadcast(tensor, 0)

    def broadcast_object(self, value: Any = None, patient: bool = False) -> Any:
        """What the leader says (a JSON value), on every process; what others pass does not matter.

        Args:
            patient: wait for START_TIMEOUT instead of STEP_TIMEOUT.

        Raises:
            ProcessLost: another process is gone.
        """
        if self.size == 1:
            return value
        self.waiting = self.waiting and not patient
        group = self._patient if patient else None
        message = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(message)])
        with _talking(self.rank):
            dist.broadcast(length, 0, group=group)
            if not self.is_main:
                message = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(message, 0, group=group)
        return json.loads(message.numpy().tobytes())


SINGLE_PROCESS = ProcessGroup()


def check_shard(size: int, sequences: int) -> None:
    """Whether `size` processes can share the sequences of a step equally.

    Raises:
        ConfigError: they cannot; the message says how many processes can.
    """
    if sequences % size:
        fits = [str(n) for n in range(1, min(sequences, 4 * size) + 1) if sequences % n == 0]
        raise ConfigError(
            f"{size} processes cannot share the {sequences} sequences of a step (batch_size_per_device x "
            f"gradient_accumulation_steps) equally: {', '.join(fits[:-1])}{' or ' * (len(fits) > 1)}{fits[-1]} can"
        )


@contextlib.contextmanager
def join(rank: int | None = None, size: int | None = None, store: TCPStore | None = None) -> Iterator[ProcessGroup]:
    """Meet the other processes; the group ends with the block.

    Args:
        rank, size, store: given for processes of one machine; otherwise torchrun's variables say them (RANK, WORLD_SIZE,
            MASTER_ADDR, MASTER_PORT, LOCAL_RANK, LOCAL_WORLD_SIZE).

    Raises:
        ProcessLost: the others did not come within STEP_TIMEOUT.
    """
    local_size = size
    if rank is None or size is None:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    with _talking(rank):
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT)
        group = ProcessGroup(rank, size, local_size or 1)
    try:
        yield group
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _talking(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = "does not answer" if "imed out" in str(error) else "has ended"
        raise ProcessLost(
            f"process {rank} stops, because another process of its group {reason}; what that one says tells why. "
            "The same command continues from the last checkpoint"
        ) from error
