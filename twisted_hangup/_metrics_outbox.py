"""What an outbox has delivered and what is queued in it, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from .errors import OutboxUnavailable
from .outbox.service import Delivery, Outbox, OutboxStats, Verdict

#: How long its database may take to answer: half of what Prometheus waits by default.
ASK_SECONDS: Final = 5.0


class OutboxMetrics(Collector):
    """The metrics of one outbox, once there is one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._outbox: Outbox | None = None
        self._stats: OutboxStats | None = None
        self._deliveries: Counter | None = None

    def watch(self, outbox: Outbox) -> None:
        """Count its attempts, and look at its queue.

        Raises:
            ValueError: There is an outbox already.
        """
        if self._outbox is not None:
            raise ValueError("one outbox is watched already")
        self._outbox = outbox
        self._deliveries = Counter(
            "hangup_outbox_deliveries",
            "Attempts of this process by what became of the request.",
            ["verdict"],
            registry=self._registry,
        )
        for verdict in Verdict:
            self._deliveries.labels(verdict.value)
        self._registry.register(self)
        outbox.watch(self._delivery)

    async def ask(self) -> None:
        """Ask its database, so that `collect` can tell."""
        if self._outbox is None:
            return
        from twisted.internet import reactor

        self._stats = None
        try:
            asked: Deferred[OutboxStats] = self._outbox.stats()
            self._stats = await asked.addTimeout(ASK_SECONDS, reactor)
        except (OutboxUnavailable, DeferredTimeout):
            pass  # which `collect` tells

    def _delivery(self, delivery: Delivery) -> None:
        assert self._deliveries is not None
        self._deliveries.labels(delivery.verdict.value).inc()

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield GaugeMetricFamily(
            "hangup_outbox_up",
            "Whether the database of the outbox has answered; the other gauges need it.",
            value=float(stats is not None),
        )
        if stats is None:
            return
        requests = GaugeMetricFamily(
            "hangup_outbox_requests",
            "Requests in the outbox: waiting, running (being delivered) or dead.",
            labels=["state"],
        )
        requests.add_metric(["waiting"], stats.queued - stats.running)
        requests.add_metric(["running"], stats.running)
        requests.add_metric(["dead"], stats.dead)
        yield requests
        yield GaugeMetricFamily(
            "hangup_outbox_oldest_seconds",
            "Age of the oldest request that waits to be delivered.",
            value=stats.oldest_seconds,
        )
