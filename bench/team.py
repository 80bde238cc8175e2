"""What it costs to sum the gradients of a step over processes of one machine: torch's gloo against a shared buffer.

    python bench/team.py                       2 processes, the seed's 9.4M parameters
    python bench/team.py --processes 4 --parameters 1300000

Both give the same sums (checked). Processor time a process is what the table says, and wall time beside it, medians in
milliseconds; on a busy machine only processor time means something.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


def measure(sum_up: Callable[[], None], rounds: int) -> dict[str, float]:
    """Medians in milliseconds."""
    cpu, wall = [], []
    for _ in range(rounds):
        dist.barrier()
        begun, clock = time.process_time(), time.perf_counter()
        sum_up()
        cpu.append(time.process_time() - begun)
        wall.append(time.perf_counter() - clock)
    return {"cpu_ms": round(1e3 * statistics.median(cpu), 2), "wall_ms": round(1e3 * statistics.median(wall), 2)}


def process(rank: int, size: int, port: int, count: int, rounds: int, shared: str) -> None:
    """One of the processes; the first prints the rows as JSON."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, size, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=datetime.timedelta(minutes=2))
    own = torch.randn(count, generator=torch.Generator().manual_seed(rank))
    expected = own.clone()
    dist.all_reduce(expected)
    scratch, small = own.clone(), torch.zeros(1, dtype=torch.float64)

    buffers = torch.from_file(shared, shared=True, size=size * count).view(size, count)
    part = slice(count * rank // size, count * (rank + 1) // size)

    def through_memory() -> None:
        dist.barrier()
        total = buffers[0, part].clone()
        for other in buffers[1:]:
            total += other[part]
        buffers[:, part] = total
        dist.barrier()

    buffers[rank] = own
    through_memory()
    torch.testing.assert_close(buffers[rank], expected)
    rows = {
        "gloo": measure(lambda: dist.all_reduce(scratch), rounds),
        "shared memory": measure(through_memory, rounds),
        "one number (gloo)": measure(lambda: dist.all_reduce(small), rounds),
    }
    if rank == 0:
        print(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parameters", type=int, default=9_443_584)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rank", nargs=3, metavar=("RANK", "PORT", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank, port, shared = arguments.rank
        process(int(rank), arguments.processes, int(port), arguments.parameters, arguments.rounds, shared)
        return
    store = dist.TCPStore("127.0.0.1", 0, arguments.processes, True, wait_for_workers=False)
    memory = Path("/dev/shm")
    with tempfile.NamedTemporaryFile(dir=memory if memory.is_dir() else None) as file:
        file.truncate(4 * arguments.processes * arguments.parameters)
        command = [sys.executable, __file__, *sys.argv[1:], "--rank"]
        others = [subprocess.Popen([*command, str(n), str(store.port), file.name]) for n in range(1, arguments.processes)]
        first = subprocess.run([*command, "0", str(store.port), file.name], check=True, capture_output=True, text=True)
        if any(other.wait() for other in others):
            sys.exit("a process failed")
    rows = json.loads(first.stdout)
    print(f"{arguments.processes} processes, {4 * arguments.parameters / 1e6:.1f} MB of gradients\n{'':<20}{'cpu ms':>10}{'wall ms':>10}")
    for name, row in rows.items():
        print(f"{name:<20}{row['cpu_ms']:>10.1f}{row['wall_ms']:>10.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
