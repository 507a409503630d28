"""The server's numbers, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_VIEWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One registry for each server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "clsspec_requests",
            "Requests that were answered.",
            ("route", "status"),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "clsspec_request_seconds",
            "From a request's headers to the last byte of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.part_seconds = Histogram(
            "clsspec_part_seconds",
            "Of a request: fetch, decode, queue, model, encode.",
            ("part",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.pictures = Counter(
            "clsspec_pictures",
            "Pictures, by what became of them.",
            ("outcome",),
            registry=self._registry,
        )
        self.batch_views = Histogram(
            "clsspec_batch_views",
            "Views, pictures or windows of them, in a forward pass.",
            buckets=_VIEWS,
            registry=self._registry,
        )
        self.batch_seconds = Histogram(
            "clsspec_batch_seconds", "Of a forward pass.", buckets=_SECONDS, registry=self._registry
        )

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Report what `value` gives whenever the numbers are asked for."""
        Gauge(f"clsspec_{name}", meaning, registry=self._registry).set_function(value)

    def batch(self, views: int, seconds: float) -> None:
        """A forward pass is over."""
        self.batch_views.observe(views)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All numbers in the format of `CONTENT_TYPE`."""
        return generate_latest(self._registry)
