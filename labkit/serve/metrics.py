"""Counters and times of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client as prometheus

from labkit.serve.scheduler import Ticket

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The figures of one server."""

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float], cached: Callable[[], float]) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        counter = prometheus.Counter
        self.answers = counter("labkit_answers", "Answers by path and status", ("path", "status"), registry=registry)
        self._tokens = counter("labkit_tokens", "Tokens of ended requests", ("kind",), registry=registry)
        self._first, self._whole = (
            prometheus.Histogram(f"labkit_{name}_seconds", what, buckets=_SECONDS, registry=registry)
            for name, what in (
                ("first_token", "From a request to its first token"),
                ("request", "From a request to its end"),
            )
        )
        for name, what, value in (
            ("labkit_requests_running", "Requests that have a slot", running),
            ("labkit_requests_waiting", "Requests that wait for a slot", waiting),
            ("labkit_prefix_store_bytes", "Prefixes kept outside the slots", cached),
        ):
            prometheus.Gauge(name, what, registry=registry).set_function(value)

    def ended(self, ticket: Ticket) -> None:
        """Count a request that ended, or whose client left."""
        self._tokens.labels("prompt").inc(len(ticket.prepared.request.prompt) if ticket.first_s else 0)
        self._tokens.labels("prompt_cached").inc(ticket.n_cached)
        self._tokens.labels("generated").inc(ticket.n_generated)
        if ticket.first_s:
            self._first.observe(ticket.first_s - ticket.arrived_s)
        if ticket.ended_s:
            self._whole.observe(ticket.ended_s - ticket.arrived_s)

    def text(self) -> bytes:
        """Return them in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)
