"""Load-tests the server: many clients send requests at the same time for a minute, on this computer.

    python bench/serve.py                          32 clients, 60 seconds, a random model of the seed's shape
    python bench/serve.py --model FILE.bullet --clients 8 --seconds 20

Every client is a thread with its own connection. It holds conversations of three turns. Half of the answers are streamed, half of
the questions are in Marathi, and one stream in ten is closed before its end. The exit code is 1 if there was an error or a wrong
answer, or if memory, open files or threads grew. Latency is measured at the client; clients and server run on the same computer.
"""

import argparse
import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import bulletlm
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import standard_types
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import END, EOS, Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer

SAMPLE = Path(bulletlm.__file__).parent / "data/sample"
QUESTIONS = ("मैत्री म्हणजे काय?", "Who lived in the old house?", "शेतकऱ्याने शेतात काय पेरले?", "Tell me a short story about rain.")
MAX_TOKENS = 48
Counts = dict[str, float]
MEMORY_MAY_GROW = 24 * 2**20
"""Bytes, after the warm-up. The allocator stays below this in a minute; a leak of one kilobyte per request would not."""

THREADS_MAY_GROW = 8
"""The web framework starts threads as it needs them, up to 40. One leaked thread per request would be hundreds."""


def random_model(path: Path) -> Path:
    """A model of the seed recipe's shape with random weights; speed does not depend on the weights."""
    names = ("stories.mr.txt", "stories.en.txt", "thoughts.mr.txt", "explanations.en.txt")
    texts = [line for name in names for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]
    tokenizer = Tokenizer(train_tokenizer(texts, 4000, 0, SilentProgress()))
    shape, rng = ModelShape(4000, 256, 8, 4, 4, 1024, 512), np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal(size) * 2 / size[-1] ** 0.5 if len(size) == 2 else np.ones(size)).astype(np.float32)
        for name, size in shape.tensors().items()
    }
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=tensors,
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata={},
        ),
    )
    return path


@contextmanager
def server_of(model: Path, clients: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server and return its port and its process."""
    command = [
        sys.executable,
        "-m",
        "bulletlm",
        "serve",
        str(model),
        "--port",
        "0",
        "--name",
        "bench",
        "--queue",
        str(2 * clients),
        "--timeout",
        "600",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)/v1", process.stdout.readline())
        if not found:
            sys.exit("the server did not start")
        yield int(found[1]), psutil.Process(process.pid)
        process.terminate()
        if process.wait(20):
            sys.exit(f"the server ended with {process.returncode}")


class Client(threading.Thread):
    """A client that holds conversations until a point in time."""

    def __init__(self, number: int, port: int, until: float) -> None:
        super().__init__()
        self.rng, self.port, self.until = np.random.default_rng([1, number]), port, until
        self.whole: list[float] = []  # seconds of complete answers
        self.first: list[float] = []  # seconds to the first text of streamed ones
        self.tokens, self.left, self.errors = 0, 0, list[str]()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        messages: list[dict[str, str]] = []
        while time.monotonic() < self.until:
            if len(messages) >= 6:
                messages = []
            messages.append({"role": "user", "content": str(self.rng.choice(QUESTIONS))})
            try:
                answer = self._ask(connection, messages)
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                connection.close()
                answer = None
            messages = [*messages, {"role": "assistant", "content": answer}] if answer and answer.strip() else []
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, messages: list[dict[str, str]]) -> str | None:
        stream = bool(self.rng.random() < 0.5)
        body = {"model": "bench", "messages": messages, "max_tokens": MAX_TOKENS, "seed": int(self.rng.integers(1 << 31)), "stream": stream}
        started = time.monotonic()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {answer.read()[:200]!r}")
        if not stream:
            result = json.loads(answer.read())
            self.whole.append(time.monotonic() - started)
            self.tokens += result["usage"]["completion_tokens"]
            return str(result["choices"][0]["message"]["content"])
        return self._read_stream(connection, answer, started)

    def _read_stream(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, started: float) -> str | None:
        text, reason, leaves = "", None, bool(self.rng.random() < 0.1)
        while (line := answer.readline().decode()) != "data: [DONE]\n":
            if not line:
                raise ValueError("the stream ended early")
            if line == "\n":
                continue
            choice = json.loads(line.removeprefix("data: "))["choices"][0]
            part = choice["delta"].get("content")
            if part and not text:
                self.first.append(time.monotonic() - started)
            text, reason = text + (part or ""), choice["finish_reason"] or reason
            if leaves and text:
                self.left += 1
                connection.close()
                return None
        answer.read()
        if reason not in ("stop", "length"):
            raise ValueError(f"finish_reason {reason}")
        self.whole.append(time.monotonic() - started)
        return text


def run_clients(port: int, count: int, seconds: float) -> list[Client]:
    clients = [Client(number, port, time.monotonic() + seconds) for number in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return clients


def fill_contexts(port: int) -> None:
    """Make the server allocate all the memory that it keeps: all its sessions, each with a full context."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    never_end = {str(END): -100, str(EOS): -100}
    body = {"model": "bench", "prompt": "a", "n": 16, "max_tokens": 1 << 20, "logit_bias": never_end}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"the warm-up failed: {answer.read()!r}")
    answer.read()
    connection.close()


def counters(port: int) -> Counts:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def at_rest(port: int, process: psutil.Process) -> Counts:
    """Return the resources that the server uses when it has no requests."""
    until = time.monotonic() + 10
    while (now := counters(port))["bulletlm_running"] + now["bulletlm_waiting"] and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    return {
        "running": now["bulletlm_running"] + now["bulletlm_waiting"],
        "memory": float(process.memory_info().rss),
        "files": float(process.num_fds() if hasattr(process, "num_fds") else 0),
        "threads": float(process.num_threads()),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {name: round(1000 * cuts[at], 1) for name, at in (("p50", 49), ("p95", 94), ("p99", 98))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(Path(folder) / "bench.bullet")
        with server_of(model, options.clients) as (port, process):
            fill_contexts(port)
            run_clients(port, options.clients, min(10.0, options.seconds / 2))
            before, started, cpu = at_rest(port, process), time.monotonic(), sum(process.cpu_times()[:2])
            counted = counters(port)
            clients = run_clients(port, options.clients, options.seconds)
            took, cpu = time.monotonic() - started, sum(process.cpu_times()[:2]) - cpu
            made = counters(port)
            after = at_rest(port, process)
    report(options, clients, before, after, took, cpu, {name: made[name] - counted.get(name, 0) for name in made})


def report(
    options: argparse.Namespace, clients: list[Client], before: Counts, after: Counts, took: float, cpu: float, made: Counts
) -> None:
    errors = [error for client in clients for error in client.errors]
    whole = [value for client in clients for value in client.whole]
    first = [value for client in clients for value in client.first]
    if len(whole) < 2 or len(first) < 2:
        sys.exit(f"too few answers for percentiles: {errors[:3]}")
    tokens, prompt, cached = (made[f'bulletlm_tokens_total{{kind="{kind}"}}'] for kind in ("completion", "prompt", "cached"))
    rows: list[dict[str, Any]] = [
        {"name": "answers", "value": len(whole)},
        {"name": "streams closed early", "value": sum(client.left for client in clients)},
        {"name": "answers/s", "value": round(len(whole) / took, 1)},
        {"name": "tokens/s", "value": round(tokens / took)},
        {"name": "tokens per second of the server's CPU", "value": round(tokens / cpu)},
        {"name": "prompt tokens from the cache", "value": f"{100 * cached / max(prompt, 1):.0f} %"},
        *({"name": f"first text, {name} ms", "value": value} for name, value in percentiles(first).items()),
        *({"name": f"complete answer, {name} ms", "value": value} for name, value in percentiles(whole).items()),
    ]
    grown, more_threads = after["memory"] - before["memory"], after["threads"] - before["threads"]
    bars = [
        {"name": "errors", "value": len(errors), "target": 0, "pass": not errors},
        {"name": "still running at the end", "value": after["running"], "target": 0, "pass": after["running"] == 0},
        {
            "name": "growth of memory, MiB",
            "value": round(grown / 2**20, 1),
            "target": MEMORY_MAY_GROW >> 20,
            "pass": grown <= MEMORY_MAY_GROW,
        },
        {
            "name": "additional open files",
            "value": after["files"] - before["files"],
            "target": 0,
            "pass": after["files"] <= before["files"],
        },
        {"name": "additional threads", "value": more_threads, "target": THREADS_MAY_GROW, "pass": more_threads <= THREADS_MAY_GROW},
    ]
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    memory = " -> ".join(f"{state['memory'] / 2**20:.0f}" for state in (before, after))
    print(f"{options.clients} clients, {took:.0f} s; memory {memory} MiB; load of the machine {machine['load']}")
    for row in rows:
        print(f"{row['name']:40} {row['value']}")
    for bar in bars:
        print(f"{bar['name']:40} {bar['value']} (at most {bar['target']}) {'ok' if bar['pass'] else 'FAILED'}")
    for error in errors[:5]:
        print(error, file=sys.stderr)
    if options.json:
        versions = {"bulletlm": bulletlm.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "versions": versions, "rows": rows, "bars": bars}, indent=2) + "\n")
    sys.exit(0 if all(bar["pass"] for bar in bars) else 1)


if __name__ == "__main__":
    main()
