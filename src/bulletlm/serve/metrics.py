"""What the server counts, in Prometheus' text format."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server; no two servers in a process share them."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("bulletlm_requests", "Answered requests", ("route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "bulletlm_request_seconds", "From a request to the end of its answer", ("route",), buckets=SECONDS, registry=self.registry
        )
        self.first_token = Histogram(
            "bulletlm_first_token_seconds", "From a request to its first token", buckets=SECONDS, registry=self.registry
        )
        self.tokens = Counter(
            "bulletlm_tokens", "Tokens: of prompts, of those from the cache, and generated", ("kind",), registry=self.registry
        )
        for kind in ("prompt", "cached", "completion"):
            self.tokens.labels(kind)
        self.abandoned = Counter("bulletlm_abandoned", "Requests whose client went away before the end", registry=self.registry)
        for name, text, value in (
            ("bulletlm_running", "Completions being generated", running),
            ("bulletlm_waiting", "Completions waiting for their turn", waiting),
        ):
            self.watch(name, text, value)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show what `value` gives as a gauge."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts every request under the route it took; those without one are `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 499, time.monotonic()  # nothing was sent: the client went away

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)
