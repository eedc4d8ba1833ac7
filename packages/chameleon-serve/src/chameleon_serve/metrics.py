"""What the server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from chameleon_core import Chameleon
from chameleon_core.pipeline import Event, Finished, ImageFinished, ImageStarted, TextDelta

from .gate import Gate

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.answers = Counter(
            "chameleon_http_requests", "Requests that were answered.", ("endpoint", "status"), registry=registry
        )
        self.rows = Counter("chameleon_rows", "Rows that ended, by why.", ("reason",), registry=registry)
        self.tokens = Counter("chameleon_generated_tokens", "Ids that were written.", registry=registry)
        self.pictures = Counter("chameleon_generated_pictures", "Pictures that were drawn.", registry=registry)
        self.first = Histogram(
            "chameleon_time_to_first_output_seconds",
            "From a request's arrival to its first text or the beginning of its first picture.",
            buckets=SECONDS,
            registry=registry,
        )
        self.seconds = Histogram(
            "chameleon_request_seconds", "From a row's arrival to its end.", buckets=SECONDS, registry=registry
        )
        self._running = Gauge("chameleon_running_rows", "Rows that run.", registry=registry)
        self._waiting = Gauge("chameleon_waiting_requests", "Requests that wait.", registry=registry)

    def watch(self, gate: Gate, chameleon: Chameleon) -> None:
        """Show who runs and waits, and how full the cache is where the engine is the toolkit's own."""
        self._running.set_function(lambda: gate.rows)
        self._waiting.set_function(lambda: gate.num_waiting)
        shared: Any = getattr(chameleon, "shared", None)
        if shared is not None:
            positions = Gauge("chameleon_cached_positions", "Positions of the cache in use.", registry=self.registry)
            positions.set_function(lambda: shared.positions)

    def request(self, arrived: float) -> Callable[[Event], None]:
        """Return what counts the events of one request."""
        is_first = True

        def count(event: Event) -> None:
            nonlocal is_first
            if is_first and isinstance(event, TextDelta | ImageStarted):
                is_first = False
                self.first.observe(time.monotonic() - arrived)
            if isinstance(event, ImageFinished):
                self.pictures.inc()
            elif isinstance(event, Finished):
                self.rows.labels(event.reason).inc()
                self.tokens.inc(len(event.new_ids))
                self.seconds.observe(time.monotonic() - arrived)

        return count

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        return generate_latest(self.registry)
