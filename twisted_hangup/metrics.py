"""`Metrics`: the numbers of a site for Prometheus; needs the extra ``metrics``.

docs/metrics.md lists all names; they are an interface.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, TypeAlias, get_args

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "metrics need prometheus_client: pip install 'twisted_hangup[metrics]'"
    ) from error
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.web.resource import Resource

from ._arguments import must_be
from .async_resource import AsyncResource
from .client.retry import Attempt
from .errors import QUIET_PHASES, ClientError, ClientHangUp, OutboxUnavailable, UpstreamError
from .journal.merged import WorkerState
from .outbox import Delivery, Outbox, OutboxStats, Verdict
from .report import LOOKALIKES, lookalike_of
from .server.client_socket import LingerEnd
from .server.context import SiteContext
from .server.room import WHYS
from .server.site import HangupSite, SiteErrors, errors_of
from .transport.clock import steady

#: Methods with a label of their own; clients cannot create more labels.
METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"}
)

#: Most values of a label whose values come from elsewhere.
MOST_NAMES: Final = 200

#: From the time for a page out of memory to the time that a whole request may take.
REQUEST_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0),
)

#: An error is answered at once, or after the requests before it and the handlers.
ERROR_BUCKETS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0)

#: How long the database of an outbox may take to answer: half of Prometheus's default timeout.
ASK_SECONDS: Final = 5.0

_PHASES: Final = ("handshake", "idle", "head", "body", "response", "closing")
_OUTCOMES: Final = ("handled", "passed", "failed", "cancelled")


class Metrics:
    """Counts what happens at a site, an agent and an outbox, for Prometheus.

        metrics = Metrics(site)
        root.putChild(b"metrics", metrics.resource())

    Requests of the site cost a little more from now on; other sites do not.

    Args:
        site: A `HangupSite`, or the `SiteErrors` that `forward_client_errors` has returned.
        registry: Where to register the metrics; it must not have them yet.  By default a new one,
            with the process's CPU time, memory and open files.

    Raises:
        TypeError: *site* is neither of these.

    Attributes:
        registry: The ``prometheus_client.CollectorRegistry``.
    """

    def __init__(
        self, site: HangupSite | SiteErrors, *, registry: CollectorRegistry | None = None
    ) -> None:
        errors = errors_of(site)
        must_be("registry", registry, (CollectorRegistry, type(None)))
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        self.registry = registry
        self._outbox: _OutboxMetrics | None = None
        self._client_errors = Counter(
            "hangup_client_errors",
            "Clients that sent something other than HTTP, stalled or hung up.",
            ["code", "phase"],
            registry=registry,
        )
        self._hang_ups = Counter(
            "hangup_hang_ups",
            "Of these, clients that reset the connection or left.",
            ["phase"],
            registry=registry,
        )
        self._quiet = Counter(
            "hangup_quiet_client_errors",
            "Of these, clients without a request under way: probes, resets between requests, "
            "connections on which nothing was ever sent.",
            ["phase"],
            registry=registry,
        )
        for phase in QUIET_PHASES:
            self._quiet.labels(phase)
        self._lookalikes = Counter(
            "hangup_lookalikes",
            "Of these, clients whose bytes look like another protocol or a known mistake.",
            ["looks_like"],
            registry=registry,
        )
        for name in LOOKALIKES:
            self._lookalikes.labels(name)
        self._answers = Counter(
            "hangup_client_error_answers",
            "Client errors by the status that was sent, or none.",
            ["status"],
            registry=registry,
        )
        self._error_seconds = Histogram(
            "hangup_client_error_duration_seconds",
            "Time from a client error to the end of its answer.",
            buckets=ERROR_BUCKETS,
            registry=registry,
        )
        self._upstream_errors = Counter(
            "hangup_upstream_errors",
            "Failures of servers behind a proxy.",
            ["code"],
            registry=registry,
        )
        self._requests = Counter(
            "hangup_requests",
            "Requests that are over, by their status in the access log.",
            ["method", "status"],
            registry=registry,
        )
        self._body_bytes = Counter(
            "hangup_response_body_bytes",
            "Bytes of response bodies that were sent, as in the access log.",
            registry=registry,
        )
        self._request_seconds = Histogram(
            "hangup_request_duration_seconds",
            "Time from the whole request to the end of its response.",
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._attempts = Counter(
            "hangup_agent_attempts",
            "Attempts of a RetryAgent, by class of status or code of the error.",
            ["result"],
            registry=registry,
        )
        self._retries = Counter(
            "hangup_agent_retries",
            "Attempts of a RetryAgent that are followed by another one.",
            registry=registry,
        )
        registry.register(_State(errors.context))
        #: When each error that is not answered yet was recorded: at most one per connection.
        self._unsettled: dict[ClientError, float] = {}
        # Codes may be OpenSSL's, and results those of any exception.
        self._codes, self._results = _Names(), _Names()
        # Kept, because finding a child by its labels takes longer than counting.
        self._client_errors_with = _remembered_labels(self._client_errors)
        self._answers_with = _remembered_labels(self._answers)
        self._requests_with = _remembered_labels(self._requests)
        errors.journal.watch(self._client_error)
        errors.journal.watch_settled(self._settled)
        errors.journal.watch_upstream(self._upstream_error)
        # An attribute of the instance: a site without metrics pays nothing, and a class with a
        # log() of its own is counted, too.
        instance: Any = errors.site
        instance.log = self._logged(instance.log)

    def count_attempt(self, attempt: Attempt) -> None:
        """Count an attempt of a `RetryAgent`: ``RetryAgent(agent,
        on_attempt=metrics.count_attempt)``."""
        if attempt.status is not None:
            result = f"{attempt.status // 100}xx"
        else:
            result = str(getattr(attempt.error, "code", type(attempt.error).__name__))
        self._attempts.labels(self._results(result)).inc()
        if attempt.retry_in is not None:
            self._retries.inc()

    def watch_outbox(self, outbox: Outbox) -> None:
        """Count the deliveries of *outbox*, and report how much is queued in it.

        Raises:
            ValueError: Another outbox is watched already.
        """
        must_be("outbox", outbox, Outbox)
        if self._outbox is not None:
            raise ValueError("one outbox is watched already")
        self._outbox = _OutboxMetrics(outbox, self.registry)

    async def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """All metrics as they are now.

        Args:
            accept: The reader's ``Accept`` header.

        Returns:
            The content type and the text, in the OpenMetrics format if *accept* asks for it.
        """
        if self._outbox is not None:
            await self._outbox.ask()
        return _encoded(self.registry, accept)

    def resource(self) -> Resource:
        """A resource that answers GET with all metrics, for Prometheus."""
        return _MetricsResource(self)

    def _client_error(self, error: ClientError) -> None:
        self._unsettled[error] = time.monotonic()
        self._client_errors_with(self._codes(error.code), error.phase).inc()
        if isinstance(error, ClientHangUp):
            self._hang_ups.labels(error.phase).inc()
        if error.quiet:
            self._quiet.labels(error.phase).inc()
        if lookalike := lookalike_of(error):
            self._lookalikes.labels(lookalike.name).inc()

    def _settled(self, error: ClientError, status: int | None) -> None:
        self._answers_with("none" if status is None else _status_label(status)).inc()
        self._body_bytes.inc(error.answered_bytes)
        recorded = self._unsettled.pop(error, None)
        if recorded is not None:
            self._error_seconds.observe(time.monotonic() - recorded)

    def _upstream_error(self, error: UpstreamError) -> None:
        self._upstream_errors.labels(self._codes(error.code)).inc()

    def _logged(self, log: Callable[[Any], object]) -> Callable[[Any], None]:
        """*log*, with each request that it gets counted."""

        def log_and_count(request: Any) -> None:
            log(request)
            method, code = request.method, request.code
            known = method.decode("ascii") if method in METHODS else "other"
            self._requests_with(known, _status_label(code)).inc()
            self._body_bytes.inc(request.sentLength)
            if request.begun_at is not None:
                self._request_seconds.observe(time.monotonic() - request.begun_at)

        return log_and_count


def _encoded(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    """The content type and the text of all metrics in *registry*."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # an invalid version in Accept
        encode, content_type = choose_encoder("")
    return content_type, encode(registry)


def _status_label(status: int) -> str:
    """A status as the value of a label; a program may send any number."""
    return str(status) if 100 <= status <= 599 else "other"


class _Names:
    """Values of a label that come from elsewhere: at most `MOST_NAMES`, then ``other``."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return "other"
            self._names.add(name)
        return name


def _remembered_labels(counter: Counter) -> Callable[..., Counter]:
    """Its ``labels``, which remembers the children it has returned."""
    return lru_cache(maxsize=256)(counter.labels)


class _State(Collector):
    """Metrics that are read when Prometheus asks."""

    def __init__(self, context: SiteContext) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            "hangup_open_connections",
            "Connections by what they wait for; closing: for the client to read the rest.",
            labels=["phase"],
        )
        phases = self._context.phases()
        for phase in _PHASES:
            connections.add_metric([phase], phases[phase])
        yield connections
        outcomes = CounterMetricFamily(
            "hangup_handler_outcomes",
            "Results of the handlers of client errors.",
            labels=["outcome"],
        )
        for outcome in _OUTCOMES:
            outcomes.add_metric([outcome], self._context.errbacks.outcomes[outcome])
        yield outcomes
        closes = CounterMetricFamily(
            "hangup_lingering_closes",
            "Connections closed after an answer to an error, by what ended the reading.",
            labels=["end"],
        )
        for end in get_args(LingerEnd):
            closes.add_metric([end], self._context.lingered[end])
        yield closes
        turned_away = CounterMetricFamily(
            "hangup_connections_turned_away",
            "Connections closed to make room for others, by reason.",
            labels=["why"],
        )
        for why in WHYS:
            turned_away.add_metric([why], self._context.room.turned_away[why])
        yield turned_away
        yield CounterMetricFamily(
            "hangup_unused_connections",
            "Connections that ended without a request. This is no error.",
            value=self._context.journal.unused,
        )
        yield CounterMetricFamily(
            "hangup_stream_resets",
            "Requests that an HTTP/2 client has cancelled. This is no error.",
            value=self._context.journal.stream_resets,
        )


class _OutboxMetrics(Collector):
    """What an outbox has delivered, and what is queued in it."""

    def __init__(self, outbox: Outbox, registry: CollectorRegistry) -> None:
        self._outbox = outbox
        self._stats: OutboxStats | None = None
        self._deliveries = Counter(
            "hangup_outbox_deliveries",
            "Delivery attempts of this process, by result.",
            ["verdict"],
            registry=registry,
        )
        for verdict in Verdict:
            self._deliveries.labels(verdict.value)
        registry.register(self)
        outbox.watch(self._delivery)

    async def ask(self) -> None:
        """Ask the outbox's database, for `collect`."""
        from twisted.internet import reactor

        self._stats = None
        with suppress(OutboxUnavailable, DeferredTimeout):  # `collect` reports it
            stats: Deferred[OutboxStats] = self._outbox.stats()
            self._stats = await stats.addTimeout(ASK_SECONDS, steady(reactor))

    def _delivery(self, delivery: Delivery) -> None:
        self._deliveries.labels(delivery.verdict.value).inc()

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield GaugeMetricFamily(
            "hangup_outbox_up",
            "Whether the database of the outbox has answered; the other gauges depend on it.",
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


class WorkerMetrics(Collector):
    """The metrics of all workers as one.

    Counters are added, also those of workers that have gone, so they never go back.  Gauges are
    added over the workers that there are.  A source is whatever stands for a process.
    """

    def __init__(
        self,
        workers: Callable[[], Sequence[WorkerState]],
        ask: Callable[[], Awaitable[object]],
    ) -> None:
        """
        Args:
            workers: Returns how the workers are.
            ask: Asks all workers for a new report, before each exposition.
        """
        self._workers = workers
        self._ask = ask
        #: The last report of each process, and what of it has been counted.
        self._reports: dict[Hashable, bytes] = {}
        self._counted: dict[Hashable, _Samples] = {}
        #: For each metric its help and its type, and its samples.
        self._families: dict[str, tuple[str, str]] = {}
        self._totals: dict[str, _Samples] = {}
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def report(self, source: Hashable, data: bytes) -> None:
        """Keep the `metrics_report` of *source*, which is decoded when somebody reads it."""
        self._reports[source] = data

    def knows(self, source: Hashable) -> bool:
        """Whether *source* has reported."""
        return source in self._reports

    def forget(self, source: Hashable) -> None:
        """*source* has gone; what it has counted stays."""
        self._count(source)
        self._reports.pop(source, None)
        self._counted.pop(source, None)

    async def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """As `Metrics.exposition`."""
        await self._ask()
        return _encoded(self.registry, accept)

    def resource(self) -> Resource:
        """As `Metrics.resource`."""
        return _MetricsResource(self)

    def describe(self) -> list[Metric]:
        """None: which metrics there are is known once a worker has reported."""
        return []

    def collect(self) -> Iterator[Metric]:
        gauges: dict[str, _Samples] = {}
        for source in [*self._reports]:
            for name, samples in self._count(source).items():
                of_all = gauges.setdefault(name, {})
                for key, value in samples.items():
                    of_all[key] = of_all.get(key, 0.0) + value
        for name, (text, kind) in self._families.items():
            family = Metric(name, text, kind)
            of_family = (gauges if kind == "gauge" else self._totals).get(name, {})
            for (sample, labels), value in of_family.items():
                family.add_sample(sample, dict(labels), value)
            yield family
        yield from self._of_workers()

    def _count(self, source: Hashable) -> dict[str, _Samples]:
        """Count what is new in the report of *source*; returns its gauges."""
        gauges: dict[str, _Samples] = {}
        counted = self._counted.setdefault(source, {})
        for name, text, kind, samples in json.loads(self._reports.get(source, b"[]")):
            self._families[name] = text, kind
            if kind == "gauge":
                gauges[name] = {(one, _key(labels)): value for one, labels, value in samples}
                continue
            totals = self._totals.setdefault(name, {})
            for sample, labels, value in samples:
                key = sample, _key(labels)
                if sample.endswith("_created"):
                    totals[key] = min(value, totals.get(key, value))
                else:
                    totals[key] = totals.get(key, 0.0) + value - counted.get(key, 0.0)
                    counted[key] = value
        return gauges

    def _of_workers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("hangup_worker_up", "Whether the worker serves.", labels=["worker"])
        connections = GaugeMetricFamily(
            "hangup_worker_connections",
            "Connections that the worker holds, with those of its processes that finish.",
            labels=["worker"],
        )
        lost = CounterMetricFamily(
            "hangup_worker_lost_records",
            "Records that the worker could not pass on to the first process.",
            labels=["worker"],
        )
        for state in self._workers():
            up.add_metric([str(state.number)], float(state.up))
            connections.add_metric([str(state.number)], state.connections)
            lost.add_metric([str(state.number)], state.lost_records)
        yield up
        yield connections
        yield lost


#: The values of a metric by the name of the sample and its labels.
_Samples: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _key(labels: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in labels)


def metrics_report(registry: CollectorRegistry) -> bytes:
    """All metrics in *registry*, for `WorkerMetrics`."""
    report = [
        (
            *(family.name, family.documentation, family.type),
            [(one.name, [*one.labels.items()], one.value) for one in family.samples],
        )
        for family in registry.collect()
    ]
    return json.dumps(report).encode("ascii")


class _MetricsResource(AsyncResource):
    isLeaf = True

    def __init__(self, metrics: Metrics | WorkerMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    async def render_GET(self, request: Any) -> bytes:
        accept = (request.getHeader(b"accept") or b"").decode("latin-1")
        content_type, text = await self._metrics.exposition(accept)
        request.setHeader(b"Content-Type", content_type.encode("ascii"))
        return text
