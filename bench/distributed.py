"""Measures the cost of summing the gradients of a step over the processes of one machine: torch's gloo against a shared buffer.

    python bench/distributed.py                       2 processes, the seed's 9.4M parameters
    python bench/distributed.py --processes 4 --parameters 1300000
    python bench/distributed.py --train               `bullet train` of the seed's shape: one process with all cores, or several

The script checks that both give the same sums. The table has the CPU time per process and the wall time, as medians in milliseconds;
on a busy machine only the CPU time is meaningful. --train makes short runs in turns, checks that their losses agree, and prints the
median tokens/s of their steps and the memory of all their processes.
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
    """Run one of the processes; the first one prints the rows as JSON."""
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


def train(processes: int, turns: int, steps: int) -> None:
    """Run `bullet train` with one process and with several, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "group.jsonc").write_text('{"data": {"sources": ["sample"]}, "model": {"dim": 256, "n_layers": 8, "n_heads": 4}}')
        settings = ["--vocab-size=4000", "--max-seq-len=128", f"--total-steps={steps}", "--compile=on", "--learning-rate=5e-4"]
        settings += ["--batch-size-per-device=8", "--gradient-accumulation-steps=8", "--runs-dir=runs", "--eval-every-steps=100000"]
        speeds: dict[int, list[float]] = {1: [], processes: []}
        losses, memory = dict[int, float](), dict[int, float]()
        for turn in range(turns + 1):
            for workers in speeds:
                run = f"{workers}-{turn}"
                command = [sys.executable, "-m", "bulletlm", "train", "group.jsonc", *settings]
                command += [f"--name={run}", f"--train.workers={workers}"]
                memory[workers] = peak_memory_of(command, folder)
                lines = (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
                events = [event for event in map(json.loads, lines) if event["event"] == "train"]
                losses[workers] = events[-1]["train/loss"]
                if turn:  # the first step includes compilation, if there is any
                    speeds[workers] += [event["tokens_per_s"] for event in events[3:]]
    if abs(losses[1] - losses[processes]) > 0.02:
        sys.exit(f"they do not train alike: {losses}")
    print(f"{'':<20}{'tokens/s':>10}{'memory':>12}{'last loss':>12}")
    for workers, each in speeds.items():
        what = f"{workers} process{'es' * (workers > 1)}"
        print(f"{what:<20}{statistics.median(each):>10,.0f}{memory[workers] / 1e9:>9.2f} GB{losses[workers]:>12.4f}")


def peak_memory_of(command: list[str], folder: Path) -> float:
    """Run a command and return the peak memory in bytes of it and its children (on Linux: proportional set size)."""
    most = 0.0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(proportional_size(pid) for pid in family_of(process.pid)))
            time.sleep(0.5)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return most


def family_of(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in family_of(int(child)))]


def proportional_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has just ended, or this is not Linux
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parameters", type=int, default=9_443_584)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--turns", type=int, default=3, help="number of rounds of --train")
    parser.add_argument("--steps", type=int, default=12, help="number of steps of each run of --train")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rank", nargs=3, metavar=("RANK", "PORT", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank, port, shared = arguments.rank
        process(int(rank), arguments.processes, int(port), arguments.parameters, arguments.rounds, shared)
        return
    if arguments.train:
        train(arguments.processes, arguments.turns, arguments.steps)
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
