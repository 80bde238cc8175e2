"""The real server as a separate process, on a free port of this computer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI

TEST_TIMEOUT = 240
"""Seconds after which a wait counts as a deadlock. No test depends on the speed of the computer."""


class Server:
    """A running `bullet serve`."""

    def __init__(self, process: "subprocess.Popen[str]", host: str, port: int, errors: Path) -> None:
        self.process, self.port, self.errors = process, port, errors
        self.root = f"http://{host}:{port}"
        self.key: str | None = None

    def client(self, key: str = "unused", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.root}/v1", api_key=key, **{"max_retries": 0, "timeout": TEST_TIMEOUT, **options})

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None) -> tuple[int, Any, Any]:
        """Status, decoded body and headers; a body of bytes is sent unchanged."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TEST_TIMEOUT) as answer:
                status, raw, got = answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            status, raw, got = error.code, error.read(), error.headers
        return status, json.loads(raw) if got.get_content_type() == "application/json" else raw.decode(), got

    def metric(self, name: str) -> float:
        """The value of a counter or gauge, as `bulletlm_running` or `bulletlm_tokens_total{kind="cached"}`."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics", headers={"Authorization": f"Bearer {self.key}"})[1], re.M)
        assert found, name
        return float(found[1])

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has a value. The value must then stay long enough to be seen."""
        until = time.monotonic() + TEST_TIMEOUT
        while (now := self.metric(name)) != value:
            assert time.monotonic() < until, f"{name} is {now}, not {value}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TEST_TIMEOUT)


@contextmanager
def running(model: Path, errors: Path, *options: str, env: Mapping[str, str] | None = None, before: str = "") -> Iterator[Server]:
    """Start the server, and stop it at the end of the block. Fails if the server has printed anything on standard error.

    Args:
        before: Python code that its process runs first, for example to shorten timeouts.
    """
    program = f"{before}\nfrom bulletlm.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "serve", str(model), "--port", "0", *options]
    with open(errors, "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://([^/]+):(\d+)/v1", line)
        assert found, line + errors.read_text()
        server = Server(process, found[1], int(found[2]), errors)
        server.key = (env or {}).get("BULLET_API_KEY")
        yield server
        if process.poll() is None:
            process.terminate()
            assert process.wait(TEST_TIMEOUT) == 0
        assert errors.read_text() == ""
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
