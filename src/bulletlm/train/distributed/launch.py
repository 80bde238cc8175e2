"""The processes of a group: how they start, what they receive, how they end.

The main process runs the pipeline. When training begins it sends the job to the worker processes. They receive all settings in
this way, so no two processes can have different settings. `torchrun` starts processes on one or more machines; the setting
`train.workers` starts them on this machine.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bulletlm.errors import BulletError, Interrupted
from bulletlm.progress import Progress, SilentProgress
from bulletlm.terminal import echo
from bulletlm.train.distributed.group import SINGLE_PROCESS, STEP_TIMEOUT, ProcessGroup, ProcessLost, check_shard, join
from bulletlm.train.log.samples import SamplePrompts
from bulletlm.train.schedule import sequences_per_step
from bulletlm.train.training import TrainJob, TrainResult, train

_LOST = 3
"""Exit code of a worker that ends because another process has ended."""


def run_main(
    job: TrainJob, group: ProcessGroup | None, workers: int, progress: Progress, samples: SamplePrompts | None = None
) -> TrainResult:
    """Train as the main process.

    Args:
        group: the processes that torchrun started; None starts `workers` - 1 processes on this machine.
        workers: number of processes; ignored if `group` is given.

    Raises:
        ConfigError: the processes cannot compute equal parts of the sequences of a step.
        ProcessLost: another process has ended.
        BulletError, Interrupted: as `train`.
    """
    sequences = sequences_per_step(job.config)
    with contextlib.nullcontext(group) if group else local_group(workers, sequences) as processes:
        processes.shard(sequences)
        processes.broadcast_object(job.to_json(), patient=True)
        return train(job, progress, processes, samples)


def run_worker(group: ProcessGroup) -> None:
    """Wait for the job of the main process and train with it; return at once if there is nothing to train.

    Raises:
        BulletError: as `train`; the message begins with the number of this process.
        Interrupted: one of the processes was asked to stop.
    """
    job = group.broadcast_object(patient=True)
    if job is None:
        return
    try:
        train(TrainJob.from_json(job), SilentProgress(), group)
    except (Interrupted, ProcessLost):
        raise
    except BulletError as error:
        raise BulletError(f"process {group.rank}: {error}") from error


@contextlib.contextmanager
def torchrun_group() -> Iterator[ProcessGroup]:
    """The group of the processes that torchrun started, in the main process. The others train here and end with exit code 0.

    Raises:
        ProcessLost: another process has ended or does not answer.
        SystemExit: in worker processes, when training is complete or there was nothing to train.
    """
    with join() as group:
        if not group.is_main:
            run_worker(group)
            sys.exit(0)
        try:
            yield group
        finally:
            if group.waiting:
                with contextlib.suppress(ProcessLost):
                    group.broadcast_object(None, patient=True)


@contextlib.contextmanager
def local_group(size: int, sequences: int) -> Iterator[ProcessGroup]:
    """A group of this process and `size` - 1 others on this machine, which end with the block.

    Args:
        sequences: number of sequences in one step; checked before a process is started.

    Raises:
        ConfigError: the processes cannot compute equal parts of them.
        ProcessLost: one of the processes has ended; the message says which one and how.
    """
    if size == 1:
        yield SINGLE_PROCESS
        return
    check_shard(size, sequences)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")  # local connections, not the network
    store = TCPStore("127.0.0.1", 0, size, True, STEP_TIMEOUT, wait_for_workers=False)
    command = [sys.executable, "-m", "bulletlm.train.distributed.launch", str(os.getpid()), str(store.port), str(size)]
    # Workers are in process groups of their own, so Ctrl-C reaches only the main process; it also reports what happened, so torch's
    # log of lost connections is switched off.
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "process_group": 0, "env": {**os.environ, "TORCH_CPP_LOG_LEVEL": "FATAL"}}
    processes = {rank: subprocess.Popen([*command, str(rank)], **quiet) for rank in range(1, size)}
    try:
        with join(0, size, store) as group:
            yield group
    except ProcessLost as lost:
        raise ProcessLost(_cause_of_loss(processes) or str(lost)) from lost
    finally:
        for process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()


def _cause_of_loss(processes: dict[int, "subprocess.Popen[bytes]"]) -> str | None:
    """Which process ended first, and how, as a message; None if no worker did. The others end because of that process."""
    for process in processes.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
    for rank, process in processes.items():
        code = process.returncode
        if code and code != _LOST:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return f"worker process {rank} {how}: the same command continues from the last checkpoint"
    return None


def _die_with(parent: int) -> None:
    """Let Linux end this process when the process that started it dies. On other systems the lost connection ends it."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def main(parent: int, port: int, size: int, rank: int) -> None:
    """A worker process: connect to the group, train, end."""
    _die_with(parent)
    try:
        with join(rank, size, TCPStore("127.0.0.1", port, size, False, STEP_TIMEOUT)) as group:
            run_worker(group)
    except ProcessLost:
        sys.exit(_LOST)  # the main process reports the cause
    except Interrupted as error:
        sys.exit(error.exit_code)
    except BulletError as error:
        echo(f"bullet: {error}", to_stderr=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
