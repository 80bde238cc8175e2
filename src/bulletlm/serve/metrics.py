"""The server's counters, in Prometheus' text format."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server. Two servers in one process do not share them."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("bulletlm_requests", "Answered requests", ("route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "bulletlm_request_seconds",
            "Seconds from a request to the end of its answer",
            ("route",),
            buckets=BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "bulletlm_first_token_seconds", "Seconds from a request to its first token", buckets=BUCKETS_SECONDS, registry=self.registry
        )
        self.tokens = Counter(
            "bulletlm_tokens", "Tokens of prompts, prompt tokens from the cache, generated tokens", ("kind",), registry=self.registry
        )
        for kind in ("prompt", "cached", "completion"):
            self.tokens.labels(kind)
        self.abandoned = Counter("bulletlm_abandoned", "Requests whose client disconnected before the end", registry=self.registry)
        for name, text, value in (
            ("bulletlm_running", "Completions being generated", running),
            ("bulletlm_waiting", "Completions waiting for their turn", waiting),
        ):
            self.watch(name, text, value)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that shows what `value` returns."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self.registry)


class CountRequests:
    """ASGI middleware that counts every request under its route. Requests without a route count as `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 499, time.monotonic()  # stays 499 if nothing is sent: the client disconnected

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)
