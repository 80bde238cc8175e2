"""Implements `bullet serve`: loads the model, opens the port, answers requests, and stops cleanly."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bulletlm.errors import BulletError, ConfigError
from bulletlm.extras import install_command
from bulletlm.hardware import available_cores
from bulletlm.runtime import load
from bulletlm.serve.options import ServeOptions, is_loopback
from bulletlm.terminal import echo, printable
from bulletlm.text.tokenizer import Tokenizer

try:
    import uvicorn
    from fastapi import FastAPI

    from bulletlm.serve.app import create_app
    from bulletlm.serve.connections import REFUSED_CONNECTIONS, Connection
    from bulletlm.serve.scheduler import Scheduler
    from bulletlm.serve.service import Service
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in ("fastapi", "prometheus_client", "starlette", "uvicorn"):
        raise
    raise BulletError(f"the server needs {error.name}, which this installation does not have: {install_command('serve')}") from None

KEY_VARIABLE = "BULLET_API_KEY"

GRACE_SECONDS = 3.0
"""Seconds that running answers may continue after Ctrl-C or SIGTERM; then they end where they are."""

FORCE_SECONDS = 5
"""Seconds after GRACE_SECONDS until connections whose clients do not read are closed."""

OTHER_FILES = 64
"""Open files that the process needs besides the connections: the model, libraries, pipes."""

TICKS_PER_CHECK = 10
"""uvicorn ticks ten times a second; slow clients are looked for once a second."""


def serve(file: Path, options: ServeOptions) -> None:
    """Serve a model until SIGTERM or Ctrl-C. Without `options.api_key`, the key is the value of BULLET_API_KEY, if it is set.

    Raises:
        ConfigError: an option is out of range, or the server would be open to the network without a key.
        BulletError: the file cannot be loaded, or the port cannot be opened.
    """
    if options.api_key is None and KEY_VARIABLE in os.environ:
        options = replace(options, api_key=os.environ[KEY_VARIABLE])
    if options.api_key is None and not is_loopback(options.host):
        raise ConfigError(f"--host {options.host} opens the server to the network: set a key with --api-key, or in {KEY_VARIABLE}")
    _raise_file_limit(options.connections + REFUSED_CONNECTIONS + OTHER_FILES)
    model = load(file, turbo=options.turbo, threads=options.threads or available_cores())
    # The tokenizer that loads quickly is replaced: this one gives the same ids and is ten times faster with long prompts.
    model = replace(model, tokenizer=Tokenizer(model.tokenizer.proto))
    # Answers are UTF-8, which an argument or the name of a file may not be.
    name = printable(options.name or str(model.header.get("name") or file.stem))
    app = create_app(model, name, options)
    service: Service = app.state.service
    with contextlib.closing(service):
        _run(app, service, _listen(options.host, options.port))


def _run(app: FastAPI, service: Service, listener: socket.socket) -> None:
    """Answer requests at `listener` until a signal."""
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    config = uvicorn.Config(
        app,
        http=partial(Connection, service.options.connections),  # type: ignore[arg-type]  # uvicorn only calls it
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=int(GRACE_SECONDS) + FORCE_SECONDS,
    )
    server = _Server(config, service.scheduler, f"{service.name} at http://{shown}:{port}/v1  (Ctrl-C stops it)")
    service.metrics.watch("bulletlm_connections", "Open connections", lambda: len(server.server_state.connections))
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, with answers that end early but complete on shutdown, and exit code 0 after a signal."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, greeting: str) -> None:
        super().__init__(config)
        self._scheduler, self._greeting = scheduler, greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        echo(self._greeting, flush=True)  # only now does the server answer requests and handle signals

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_CHECK == 0:
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.enforce_timeouts()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._scheduler.drain()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._scheduler.cut)
        await super().shutdown(sockets)
        # What still runs now is dropped, after a second Ctrl-C or because its client does not read. That is not an error to log.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's method, but without raising the signal again at the end."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _raise_file_limit(count: int) -> None:
    """Allow this process `count` open files: sockets are files too, and the default limit is too low for many connections."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        room = max(hard - REFUSED_CONNECTIONS - OTHER_FILES, 0)
        raise ConfigError(f"--connections is too high: this system allows {hard} open files per process, which is enough for {room}")
    if soft != resource.RLIM_INFINITY and count > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


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
