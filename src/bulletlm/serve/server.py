"""`bullet serve`: open a port, say where, and leave in good order."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bulletlm.errors import BulletError, ConfigError
from bulletlm.hardware import available_cores
from bulletlm.runtime import load
from bulletlm.runtime.model import MOST_THREADS
from bulletlm.text.tokenizer import Tokenizer

try:
    import uvicorn

    from bulletlm.serve.connections import REFUSALS, Connection
    from bulletlm.serve.guard import LOCAL_NAMES, is_loopback
    from bulletlm.serve.openai_api import Access, Limits, create_app
    from bulletlm.serve.scheduler import Scheduler
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in ("fastapi", "prometheus_client", "starlette", "uvicorn"):
        raise
    raise BulletError(f"the server needs {error.name}, which is not installed: pip install 'bulletlm[serve]'") from None

KEY_VARIABLE = "BULLET_API_KEY"

GRACE_SECONDS = 3.0
"""After Ctrl-C or SIGTERM running answers go on for so long, then they end where they are."""

FORCE_SECONDS = 5
"""After that, connections whose clients do not read are closed."""

OTHER_FILES = 64
"""Files besides the connections that the process may have open: the model, libraries, pipes."""


def serve(
    file: Path,
    host: str,
    port: int,
    key: str | None,
    origins: Sequence[str],
    name: str | None,
    threads: int | None,
    turbo: bool,
    concurrency: int,
    queue: int,
    seconds: float,
    request_bytes: int,
    prompt_tokens: int | None,
    connections: int,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: an option is out of range, or others on the network could come in without a key.
        BulletError: the file cannot be loaded, or the port cannot be opened.
    """
    key = os.environ.get(KEY_VARIABLE) if key is None else key
    cores = available_cores() if threads is None else threads
    _check_options(host, port, key, cores, concurrency, queue, seconds, request_bytes, connections)
    _make_room_for_files(connections + REFUSALS + OTHER_FILES)
    model = load(file, turbo=turbo, threads=cores)
    # Ten times faster with long prompts than the one that starts quickly, and the same ids.
    model = replace(model, tokenizer=Tokenizer(model.tokenizer.proto))
    context = model.shape.max_seq_len
    prompt_tokens = context if prompt_tokens is None else prompt_tokens
    if not 1 <= prompt_tokens <= context:
        raise ConfigError(f"--max-prompt-tokens is {prompt_tokens}: it must be from 1 to {context}, the model's context")
    limits = Limits(request_bytes, prompt_tokens, concurrency, queue, seconds, min(cores, concurrency))
    # A page on another name that points here must not get in; with a key it could not anyway, and other names are real.
    access = Access(key, LOCAL_NAMES if is_loopback(host) else (), origins)
    name = name or str(model.header.get("name") or file.stem)
    listener = _listen(host, port)
    app = create_app(model, name, limits, access)
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    scheduler = app.state.scheduler
    config = uvicorn.Config(
        app,
        http=partial(Connection, connections),  # type: ignore[arg-type]  # uvicorn only calls it
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=int(GRACE_SECONDS) + FORCE_SECONDS,
    )
    server = _Server(config, scheduler, f"{name} at http://{shown}:{port}/v1  (Ctrl-C stops it)")
    app.state.metrics.watch("bulletlm_connections", "Open connections", lambda: len(server.server_state.connections))
    try:
        server.run(sockets=[listener])
    finally:
        scheduler.close()


TICKS = 10
"""uvicorn has ten a second; this often slow clients are looked for."""


class _Server(uvicorn.Server):
    """uvicorn, with answers that are cut rather than dropped, and 0 as the exit code of a server that was asked to stop."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, greeting: str) -> None:
        super().__init__(config)
        self._scheduler, self._greeting = scheduler, greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._greeting, flush=True)  # now that it answers, and leaves when it is asked to

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.hurry()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._scheduler.drain()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._scheduler.cut)
        await super().shutdown(sockets)
        # What is still there now is dropped, after a second Ctrl-C or since its client does not read: that is no error to tell of.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, which raises the signal again when all is done."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _make_room_for_files(count: int) -> None:
    """Let the process have so many open files: sockets are files too, and the usual limit is made for other programs."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and count > most:
        room = max(most - REFUSALS - OTHER_FILES, 0)
        raise ConfigError(f"--connections is too high: this system lets a process have {most} open files, which is enough for {room}")
    if now != resource.RLIM_INFINITY and count > now:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))


def _check_options(
    host: str, port: int, key: str | None, threads: int, concurrency: int, queue: int, seconds: float, request_bytes: int, connections: int
) -> None:
    if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigError("the API key must be letters, digits and signs of ASCII without spaces, and not empty")
    if key is None and not is_loopback(host):
        raise ConfigError(f"--host {host} lets the network in: set a key with --api-key, or in {KEY_VARIABLE}")
    for option, value, low, high in (
        ("--port", port, 0, 65_535),
        ("--threads", threads, 1, MOST_THREADS),
        ("--concurrency", concurrency, 1, 1024),
        ("--queue", queue, 0, 100_000),
        ("--timeout", seconds, 0.1, 86_400),
        ("--max-request-bytes", request_bytes, 1, 1 << 30),
        ("--connections", connections, 1, 100_000),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{option} is {value:g}: it must be from {low:g} to {high:g}")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BulletError(f"cannot listen at {host}:{port} ({reason}): choose another --port or --host") from None
    return listener
