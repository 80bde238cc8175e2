"""Data parallelism: several processes train one model.

Every process of a group holds the whole model and starts from the same state. Each process computes the gradients of its part of a
step's sequences, the gradients are summed, and all processes take the same step. Processes exchange what only one of them knows,
such as a request to stop. What follows from the numbers needs no exchange, because the numbers are the same in all processes.
A process that trains alone is a group of one, without any cost.
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
"""How long a process waits for the others in a step: longer than any validation or checkpoint, and short enough to notice that a
machine is down."""

START_TIMEOUT = datetime.timedelta(hours=12)
"""How long processes that torchrun started wait while the main process prepares the text."""


class ProcessLost(BulletError):
    """Another process of the group has ended or does not answer."""


class ProcessGroup:
    """This process and those with which it trains.

    Attributes:
        rank: number of this process, from 0. Number 0 is the main process, which alone writes files and messages.
        size: number of processes on all machines.
        local_size: number of processes on this machine, which share its cores.
        waiting: whether the other processes still wait for their task.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_size: int = 1) -> None:
        self.rank, self.size, self.local_size = rank, size, local_size
        self._patient: Any = dist.new_group(backend="gloo", timeout=START_TIMEOUT) if size > 1 else None
        self._flat: Tensor | None = None
        self.waiting = size > 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes files and messages."""
        return self.rank == 0

    @property
    def description(self) -> str:
        """Text for the line that says how a run is computed; empty for one process."""
        return "" if self.size == 1 else f", {self.size} processes"

    def shard(self, sequences: int) -> range:
        """Which of the `sequences` of an optimizer step this process computes: equal parts without overlap.

        Raises:
            ConfigError: equal parts are not possible; the message says with how many processes they are.
        """
        check_shard(self.size, sequences)
        part = sequences // self.size
        return range(self.rank * part, (self.rank + 1) * part)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient, float32, by its sum over the group, in one message.

        At the first call the gradients become views of one flat buffer. They stay there unless they are set to None.

        Raises:
            ProcessLost: another process has ended or does not answer.
        """
        if self.size == 1:
            return
        weights = list(parameters)
        flat = self._gather(weights)
        with _communication(self.rank):
            dist.all_reduce(flat)

    def _gather(self, weights: list[torch.nn.Parameter]) -> Tensor:
        """The flat buffer, float32 (number of parameters,), which then contains the gradients."""
        count = sum(weight.numel() for weight in weights)
        if self._flat is None:
            self._flat = torch.zeros(count, device=weights[0].device)
        assert len(self._flat) == count, "a group sums the gradients of one model only"
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
            ProcessLost: another process has ended or does not answer.
        """
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with _communication(self.rank):
            dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor`, of any shape and type, with that of the main process.

        Raises:
            ProcessLost: another process has ended or does not answer.
        """
        if self.size > 1:
            with _communication(self.rank):
                dist.broadcast(tensor, 0)

    def broadcast_object(self, value: Any = None, patient: bool = False) -> Any:
        """The JSON value that the main process passes, in every process; what the others pass is ignored.

        Args:
            patient: wait for START_TIMEOUT instead of STEP_TIMEOUT.

        Raises:
            ProcessLost: another process has ended or does not answer.
        """
        if self.size == 1:
            return value
        self.waiting = self.waiting and not patient
        group = self._patient if patient else None
        message = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(message)])
        with _communication(self.rank):
            dist.broadcast(length, 0, group=group)
            if not self.is_main:
                message = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(message, 0, group=group)
        return json.loads(message.numpy().tobytes())


SINGLE_PROCESS = ProcessGroup()


def check_shard(size: int, sequences: int) -> None:
    """Check that `size` processes can compute equal parts of the `sequences` of a step.

    Raises:
        ConfigError: they cannot; the message says with how many processes it is possible.
    """
    if sequences % size:
        fits = [str(n) for n in range(1, min(sequences, 4 * size) + 1) if sequences % n == 0]
        raise ConfigError(
            f"{size} processes cannot share the {sequences} sequences of a step (batch_size_per_device x "
            f"gradient_accumulation_steps) equally: {', '.join(fits[:-1])}{' or ' * (len(fits) > 1)}{fits[-1]} can"
        )


@contextlib.contextmanager
def join(rank: int | None = None, size: int | None = None, store: TCPStore | None = None) -> Iterator[ProcessGroup]:
    """Connect to the other processes; the group ends with the block.

    Args:
        rank, size, store: for processes of one machine; None reads the variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR,
            MASTER_PORT, LOCAL_RANK, LOCAL_WORLD_SIZE).

    Raises:
        ProcessLost: the others did not connect within STEP_TIMEOUT.
    """
    local_size = size
    if rank is None or size is None:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    with _communication(rank):
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT)
        group = ProcessGroup(rank, size, local_size or 1)
    try:
        yield group
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _communication(rank: int) -> Iterator[None]:
    """Turn torch's errors of communication into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        reason = "does not answer" if "imed out" in str(error) else "has ended"
        raise ProcessLost(
            f"process {rank} stops, because another process of its group {reason}; see the messages of that process. "
            "The same command continues from the last checkpoint"
        ) from error
