"""The options of `bullet serve`. The module does not import the web server, so the command line can use it quickly."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from bulletlm.errors import ConfigError
from bulletlm.runtime.model import MAX_THREADS

LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])

RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "threads": (1, MAX_THREADS),
    "concurrency": (1, 1024),
    "queue": (0, 100_000),
    "timeout": (0.1, 86_400),
    "max_request_bytes": (1, 1 << 30),
    "connections": (1, 100_000),
}
"""Option -> its lowest and highest value."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of the server.

    Attributes:
        host: name or address to listen at; any other than this computer's own needs an `api_key`.
        port: TCP port; 0 takes a free one.
        api_key: what a request must carry as `Authorization: Bearer KEY`; None accepts requests without a key.
        cors: origins of web pages that may send requests, such as "http://localhost:3000"; "*" allows all.
        allowed_hosts: further names that the Host header may have, besides those of this computer; for containers and proxies.
        name: the model's name in answers; None takes the name in the file.
        threads: threads that compute; None takes one per core.
        turbo: 8-bit activations: faster and slightly less exact.
        concurrency: completions that are generated at the same time; each keeps one KV cache in memory.
        queue: completions that may wait for their turn.
        timeout: seconds for one request, from its arrival to its last token.
        max_request_bytes: largest size of a request's body in bytes.
        max_prompt_tokens: longest prompt in tokens; None takes the model's context length.
        connections: connections that may be open at the same time.
        overflow: what happens to a conversation that is longer than the context: "drop" leaves out its oldest messages, "error"
            refuses it.

    Raises:
        ConfigError: an option is out of range, or the key has characters that a header cannot carry.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    cors: Collection[str] = ()
    allowed_hosts: Collection[str] = ()
    name: str | None = None
    threads: int | None = None
    turbo: bool = False
    concurrency: int = 16
    queue: int = 64
    timeout: float = 120.0
    max_request_bytes: int = 1_000_000
    max_prompt_tokens: int | None = None
    connections: int = 256
    overflow: Literal["drop", "error"] = "drop"

    def __post_init__(self) -> None:
        key = self.api_key
        if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
            raise ConfigError("the API key must not be empty, and must consist of printable ASCII characters without spaces")
        for option, (low, high) in RANGES.items():
            value = getattr(self, option)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"--{option.replace('_', '-')} is {value:g}: it must be from {low:g} to {high:g}")


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, can be reached from this computer only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
