"""What happens at a site is counted, under names that Prometheus can read."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hyperframe.frame import RstStreamFrame
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.explaining import broken
from support.http2_client import H2Client
from support.outboxes import FakeAgent, Start
from support.outboxes import start as start
from support.wire import (
    BAD,
    GOOD,
    PATIENCE,
    SLOW,
    Client,
    HandClock,
    Paths,
    Serve,
    Served,
    in_thread,
    pause,
    statuses,
    talk,
    until,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.static import Data

from twisted_hangup import (
    Attempt,
    ClientSocket,
    HangupSite,
    Limits,
    ServerHangUp,
    Timeouts,
    UpstreamError,
)
from twisted_hangup.errors import ClientError
from twisted_hangup.journal.merged import WorkerState
from twisted_hangup.metrics import MOST_NAMES, Metrics, WorkerMetrics, metrics_report
from twisted_hangup.outbox import Outbox
from twisted_hangup.report import LOOKALIKES

ROOT = Path(__file__).parent.parent
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def counted(serve: Serve, *arguments: Any, **options: Any) -> tuple[Served, Metrics]:
    served = serve(*arguments, **options)
    return served, Metrics(served.site)


def samples(metrics: Metrics) -> list[Sample]:
    """All of the site's samples, but when they were created."""
    return [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The values of one metric that are not 0, by the values of its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for sample in samples(metrics)
        if sample.name == name and sample.value
    }


@pytest_twisted.ensureDeferred
async def test_client_errors(serve: Serve) -> None:
    """An error is counted by code and phase, and by what was answered."""
    served, metrics = counted(serve)
    await talk(served.port, BAD)
    await talk(served.port, b"GET / HT", fin=True)
    await served.emptied()
    assert values(metrics, "hangup_client_errors_total") == {
        ("HPE_INVALID_HEADER_TOKEN", "head"): 1,
        ("HPE_INVALID_EOF_STATE", "head"): 1,
    }
    assert values(metrics, "hangup_client_error_answers_total") == {("400",): 2}
    assert values(metrics, "hangup_client_error_duration_seconds_count") == {(): 2}
    assert values(metrics, "hangup_hang_ups_total") == {}
    assert values(metrics, "hangup_requests_total") == {}
    assert metrics._unsettled == {}


@pytest_twisted.ensureDeferred
async def test_error_after_a_slow_request(serve: Serve) -> None:
    """It lasts from when the error is found to when it can be answered."""
    served, metrics = counted(serve)
    began = time.monotonic()
    client = await in_thread(lambda: Client(served.port).send(SLOW + BAD))
    await until(lambda: served.errors)
    found = time.monotonic()
    await pause(0.1)
    least = time.monotonic() - found  # the reactor's clock may be set meanwhile
    assert values(metrics, "hangup_client_error_duration_seconds_count") == {}
    served.root.slow.requests[0].finish()
    assert statuses(await in_thread(client.read_all)) == [200, 400]
    client.close()
    (seconds,) = values(metrics, "hangup_client_error_duration_seconds_sum").values()
    assert least <= seconds <= time.monotonic() - began


@pytest_twisted.ensureDeferred
async def test_hang_up(serve: Serve) -> None:
    """A client that left is an error, a hang-up, and a request with the status 499."""
    served, metrics = counted(serve)
    started = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW))
    await started
    client.reset()
    await served.emptied()
    assert values(metrics, "hangup_client_errors_total") == {("ECONNRESET", "response"): 1}
    assert values(metrics, "hangup_hang_ups_total") == {("response",): 1}
    assert values(metrics, "hangup_client_error_answers_total") == {("none",): 1}
    assert values(metrics, "hangup_requests_total") == {("GET", "499"): 1}


@pytest_twisted.ensureDeferred
async def test_bytes_of_bodies(serve: Serve) -> None:
    """What lay in our buffers when its client left is not counted."""
    size = 20_000_000
    served, metrics = counted(serve, HangupSite(Paths(large=Data(b"x" * size, "text/plain"))))
    asked = b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n"
    client = await in_thread(lambda: Client(served.port).send(asked))
    await until(lambda: values(metrics, "hangup_requests_total"))
    (small,) = values(metrics, "hangup_response_body_bytes_total").values()
    assert small == 4
    await in_thread(lambda: client.send(asked.replace(b"fast", b"large")))
    await in_thread(lambda: client.read_until(b"xxxx"))
    await in_thread(client.reset)
    await served.emptied()
    (bytes_taken,) = values(metrics, "hangup_response_body_bytes_total").values()
    assert small < bytes_taken < size


@pytest_twisted.ensureDeferred
async def test_probes(serve: Serve) -> None:
    """A reset is an error that is nobody's fault, and counted apart; a FIN is no error."""
    served, metrics = counted(serve)
    for leave in (Client.reset, Client.close):
        client = await in_thread(lambda: Client(served.port))
        await until(lambda: served.site.open_connections)
        leave(client)
        await served.emptied()
    assert values(metrics, "hangup_client_errors_total") == {("ECONNRESET", "idle"): 1}
    assert values(metrics, "hangup_quiet_client_errors_total") == {("idle",): 1}
    assert values(metrics, "hangup_unused_connections_total") == {(): 1}


class Teapot(Resource):
    """Answers with a status that is none of HTTP's, or the one it is told."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(int(request.args.get(b"code", [b"999"])[0]))
        return b""


@pytest.mark.parametrize(
    "line, labels",
    [
        ("GET /fast HTTP/1.1", ("GET", "200")),
        ("HEAD /fast HTTP/1.1", ("HEAD", "200")),
        ("POST /missing HTTP/1.0", ("POST", "404")),
        ("PROPFIND /fast HTTP/1.1", ("other", "200")),
        ("GET /tea?code=418 HTTP/1.1", ("GET", "418")),
        ("GET /tea HTTP/1.1", ("GET", "other")),
        ("CONNECT a:1 HTTP/1.1", ("CONNECT", "501")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_requests(serve: Serve, line: str, labels: tuple[str, str]) -> None:
    """Requests are counted by method and status, of which there is a bounded number."""
    served, metrics = counted(serve, Paths(tea=Teapot()))
    host = "a:1" if line.startswith("CONNECT") else "a"
    await talk(served.port, f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert values(metrics, "hangup_requests_total") == {labels: 1}
    asked = {} if "CONNECT" in line else {(): 1}
    assert values(metrics, "hangup_request_duration_seconds_count") == asked


@pytest_twisted.ensureDeferred
async def test_request_duration(serve: Serve) -> None:
    """A request lasts until its response is finished."""
    served, metrics = counted(serve)
    began, started = time.monotonic(), served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW))
    request = await started
    asked = time.monotonic()
    await pause(0.1)
    least = time.monotonic() - asked  # the reactor's clock may be set meanwhile
    request.finish()
    await in_thread(lambda: client.read_until(b"\r\n\r\n"))
    client.close()
    (seconds,) = values(metrics, "hangup_request_duration_seconds_sum").values()
    assert least <= seconds <= time.monotonic() - began


@pytest_twisted.ensureDeferred
async def test_access_log_goes_on(serve: Serve) -> None:
    """The site's own log() is called as before."""

    class Logged(HangupSite):
        def log(self, request: Any) -> None:
            lines.append(request.uri)

    lines: list[bytes] = []
    served, _ = counted(serve, Logged(Paths()))
    await talk(served.port, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert lines == [b"/fast"]


@pytest_twisted.ensureDeferred
async def test_open_connections(serve: Serve) -> None:
    """Connections are counted by what they wait for, also those that are being closed."""
    served, metrics = counted(serve, reactor=HandClock())  # no time of a client's is over
    wires = [b"", GOOD, b"GET / HT", SLOW, BAD, BAD]
    clients = await in_thread(lambda: [Client(served.port).send(wire) for wire in wires])
    phases = {("idle",): 2, ("head",): 1, ("response",): 1, ("closing",): 2}
    await until(lambda: values(metrics, "hangup_open_connections") == phases)
    for client in clients:
        client.close()
    await served.emptied()
    assert values(metrics, "hangup_open_connections") == {}


@pytest_twisted.ensureDeferred
async def test_http2(serve: Serve) -> None:
    """HTTP/2 is counted as HTTP/1.1 is, a stream that is given up among the requests."""
    served, metrics = counted(serve, tls=server_context())
    client = await in_thread(lambda: H2Client(served.port))

    def run() -> None:
        stream = client.request(b"/slow")
        client.answer(client.request())
        client.send(RstStreamFrame(stream, error_code=8))

    await in_thread(run)
    await until(lambda: values(metrics, "hangup_stream_resets_total"))
    assert values(metrics, "hangup_requests_total") == {("GET", "200"): 1, ("GET", "499"): 1}
    assert values(metrics, "hangup_request_duration_seconds_count") == {(): 2}
    assert values(metrics, "hangup_stream_resets_total") == {(): 1}
    assert values(metrics, "hangup_open_connections") == {("idle",): 1}
    await in_thread(lambda: client.raw(bytes(3) + b"\x06" + bytes(5)))  # an empty PING
    await until(lambda: served.errors)
    errors = {("ERR_HTTP2_FRAME_SIZE_ERROR", "idle"): 1}
    assert values(metrics, "hangup_client_errors_total") == errors
    assert values(metrics, "hangup_open_connections") == {("closing",): 1}
    client.close()


def handled(failure: Failure, socket: ClientSocket) -> bytes:
    return b"HTTP/1.1 400 No\r\n\r\n"


def passed(failure: Failure, socket: ClientSocket) -> Failure:
    return failure


def failed(failure: Failure, socket: ClientSocket) -> None:
    raise ZeroDivisionError("a bug")


def nonsense(failure: Failure, socket: ClientSocket) -> Any:
    return 5


def slow(failure: Failure, socket: ClientSocket) -> Deferred[Any]:
    return Deferred()


async def slow_and_stubborn(failure: Failure, socket: ClientSocket) -> Failure:
    try:
        await Deferred()
    except CancelledError:
        return failure
    return failure


@pytest.mark.parametrize(
    "handlers, outcomes",
    [
        ([], {}),
        ([handled, passed], {("handled",): 1}),
        ([passed, handled], {("passed",): 1, ("handled",): 1}),
        ([failed, nonsense], {("failed",): 2}),
        ([slow, handled], {("cancelled",): 1}),
        ([slow_and_stubborn], {("passed",): 1}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_handler_outcomes(
    serve: Serve,
    handlers: list[Any],
    outcomes: dict[tuple[str, ...], float],
    expected_errors: LoggedErrors,
) -> None:
    """What handlers make of errors is counted; who is not asked is not."""
    served, metrics = counted(serve, timeouts=Timeouts(handler_seconds=0.2))
    for handler in handlers:
        served.site.on_client_error(handler)
    await talk(served.port, BAD)
    assert values(metrics, "hangup_handler_outcomes_total") == outcomes
    expected_errors.flush()


def test_upstream_errors_and_stream_resets() -> None:
    """A proxy's servers and the streams of HTTP/2 have numbers of their own."""
    site = HangupSite(Resource())
    metrics = Metrics(site)
    error = UpstreamError("away", code="ERR_UPSTREAM_RESET", phase="response")
    site.journal.record_upstream(error)
    site.journal.stream_resets += 3
    assert values(metrics, "hangup_upstream_errors_total") == {("ERR_UPSTREAM_RESET",): 1}
    assert values(metrics, "hangup_stream_resets_total") == {(): 3}
    assert values(metrics, "hangup_client_errors_total") == {}


def test_what_clients_look_like() -> None:
    """What came in place of a request has a label of its own; each name is there from the start."""
    site = HangupSite(Resource())
    metrics = Metrics(site, registry=CollectorRegistry())
    site.journal.record(broken(b"PROXY UNKNOWN\r\n"))
    site.journal.record(broken(b"\x01"))
    assert values(metrics, "hangup_lookalikes_total") == {("proxy-v1",): 1}
    names = [sample for sample in samples(metrics) if sample.name == "hangup_lookalikes_total"]
    assert {sample.labels["looks_like"] for sample in names} == {*LOOKALIKES}


def test_labels_are_bounded() -> None:
    """Whatever codes, statuses and exceptions there are, a label has so many values at most."""
    site = HangupSite(Resource())
    metrics = Metrics(site, registry=CollectorRegistry())
    for number in range(300):
        error = ClientError("r", code=f"ERR_SSL_{number}", phase="handshake")
        site.journal.record(error)
        site.journal.settle(error, 600 + number)
        odd = type(f"Odd{number}", (Exception,), {})()
        metrics.count_attempt(Attempt(1, b"GET", b"/", odd))
    errors = values(metrics, "hangup_client_errors_total")
    assert len(errors) == MOST_NAMES + 1
    assert errors["other", "handshake"] == 300 - MOST_NAMES
    assert values(metrics, "hangup_client_error_answers_total") == {("other",): 300}
    assert len(values(metrics, "hangup_agent_attempts_total")) == MOST_NAMES + 1


def test_attempts() -> None:
    """Attempts of an agent are counted by how they ended, and those that were repeated."""
    metrics = Metrics(HangupSite(Resource()))
    hang_up = ServerHangUp("socket hang up", code="ECONNRESET", phase="waiting")
    metrics.count_attempt(Attempt(1, b"GET", b"http://a/", error=hang_up, retry_in=0.0))
    metrics.count_attempt(Attempt(2, b"GET", b"http://a/", status=503, retry_in=1.0))
    metrics.count_attempt(Attempt(3, b"GET", b"http://a/", status=200))
    assert values(metrics, "hangup_agent_attempts_total") == {
        ("ECONNRESET",): 1,
        ("5xx",): 1,
        ("2xx",): 1,
    }
    assert values(metrics, "hangup_agent_retries_total") == {(): 2}


@pytest_twisted.ensureDeferred
async def test_outbox(start: Start, tmp_path: Path) -> None:
    """What an outbox delivers is counted, and what is queued is asked for."""
    answers = iter([200, 400])
    waiting: Deferred[int] = Deferred()
    agent = FakeAgent(lambda sent: next(answers, waiting))
    outbox = start(str(tmp_path / "outbox.sqlite"), agent=agent)
    metrics = Metrics(HangupSite(Resource()))
    metrics.watch_outbox(outbox)
    await outbox.send("POST", "http://there.test/1")
    await until(lambda: values(metrics, "hangup_outbox_deliveries_total"))
    await outbox.send("POST", "http://there.test/2")
    await until(lambda: len(agent.sent) == 2)
    await outbox.send("POST", "http://there.test/3")
    await until(lambda: len(agent.sent) == 3)
    await metrics.exposition()
    assert values(metrics, "hangup_outbox_deliveries_total") == {("delivered",): 1, ("dead",): 1}
    assert values(metrics, "hangup_outbox_up") == {(): 1}
    assert values(metrics, "hangup_outbox_requests") == {("running",): 1, ("dead",): 1}
    ((age,),) = [values(metrics, "hangup_outbox_oldest_seconds").values()]
    assert 0 < age < 60
    waiting.callback(200)
    await until(lambda: sum(values(metrics, "hangup_outbox_deliveries_total").values()) == 3)
    with pytest.raises(ValueError, match="one outbox"):
        metrics.watch_outbox(outbox)


@pytest_twisted.ensureDeferred
async def test_outbox_is_away(tmp_path: Path) -> None:
    """Where its database cannot be asked, that is what is told, beside all the rest."""
    metrics = Metrics(HangupSite(Resource()))
    metrics.watch_outbox(Outbox(str(tmp_path / "outbox.sqlite")))
    _, text = await metrics.exposition()
    assert b"\nhangup_outbox_up 0.0\n" in text
    assert b"hangup_outbox_requests" not in text
    assert b"hangup_requests" in text


@pytest_twisted.ensureDeferred
async def test_outbox_that_does_not_answer(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that hangs does not make Prometheus wait in vain."""
    monkeypatch.setattr("twisted_hangup.metrics.ASK_SECONDS", 0.05)
    outbox = start(str(tmp_path / "outbox.sqlite"))
    monkeypatch.setattr(outbox, "stats", Deferred)
    metrics = Metrics(HangupSite(Resource()))
    metrics.watch_outbox(outbox)
    _, text = await metrics.exposition()
    assert b"\nhangup_outbox_up 0.0\n" in text


@pytest.mark.parametrize(
    "accept, content_type, parse",
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0", parse_openmetrics),
        ("application/openmetrics-text; version=what", "text/plain; version=0.0.4", parse_text),
    ],
)
@pytest_twisted.ensureDeferred
async def test_resource(serve: Serve, accept: str, content_type: str, parse: Any) -> None:
    """The resource answers in the format that is asked for, and the client's parser reads it."""
    served, metrics = counted(serve)
    await talk(served.port, BAD)
    inside = serve(metrics.resource())
    fields = f"Host: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    answer = await talk(inside.port, f"GET /metrics HTTP/1.1\r\n{fields}".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"\r\nContent-Type: {content_type}".encode() in head
    families = {family.name: family for family in parse(body.decode())}
    errors = families["hangup_client_errors"]
    assert errors.type == "counter"
    assert [
        (sample.labels, sample.value)
        for sample in errors.samples
        if sample.name == "hangup_client_errors_total"
    ] == [({"code": "HPE_INVALID_HEADER_TOKEN", "phase": "head"}, 1)]


@pytest.mark.parametrize(
    "method, status, body", [("HEAD", 200, False), ("POST", 405, True)], ids=["head", "post"]
)
@pytest_twisted.ensureDeferred
async def test_other_methods(serve: Serve, method: str, status: int, body: bool) -> None:
    """HEAD gets the head, and nothing can be posted."""
    metrics = Metrics(HangupSite(Resource()))
    inside = serve(metrics.resource())
    fields = "Host: a\r\nConnection: close\r\n\r\n"
    answer = await talk(inside.port, f"{method} / HTTP/1.1\r\n{fields}".encode())
    assert statuses(answer) == [status]
    assert bool(answer.partition(b"\r\n\r\n")[2]) == body


def test_registry_of_your_own() -> None:
    """The metrics can be put beside others, and what others have is not added."""
    registry = CollectorRegistry()
    metrics = Metrics(HangupSite(Resource()), registry=registry)
    assert metrics.registry is registry
    names = {sample.name for sample in samples(metrics)}
    assert "hangup_agent_retries_total" in names
    assert not [name for name in names if name.startswith("process_")]
    assert [s for s in samples(Metrics(HangupSite(Resource()))) if s.name == "process_open_fds"]


@pytest_twisted.ensureDeferred
async def test_documented(start: Start, tmp_path: Path) -> None:
    """The page names each metric, with its type and labels, and no other."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    metrics = Metrics(HangupSite(Resource()), registry=CollectorRegistry())
    metrics.watch_outbox(start(str(tmp_path / "outbox.sqlite")))
    await metrics.exposition()
    for counter, number in [
        (metrics._client_errors, 2),
        (metrics._hang_ups, 1),
        (metrics._answers, 1),
        (metrics._upstream_errors, 1),
        (metrics._requests, 2),
        (metrics._attempts, 1),
    ]:
        counter.labels(*["x"] * number)
    workers = WorkerMetrics(lambda: [WorkerState(1, 71, True, 0, 0)], metrics.exposition)
    there = {}
    for family in [*metrics.registry.collect(), *workers.collect()]:
        assert family.documentation.endswith(".")
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted(family.samples[0].labels.keys() - {"le"})
        there[name] = (family.type, labels)
    assert {
        name: (kind, sorted(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows
    } == there


def test_not_needed() -> None:
    """Without prometheus-client everything else can be imported."""
    program = (
        "import sys; sys.modules['prometheus_client'] = None;"
        "import twisted_hangup, twisted_hangup.service, twisted_hangup.outbox"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE).returncode == 0


def has_read(served: Served, count: int) -> bool:
    """Whether the server has read so many bytes after its answer, or waits for no more."""
    return all(one._ending.socket._lingered_bytes >= count for one in served.site.context.open())


@pytest.mark.parametrize("end", ["client", "silence", "bytes", "time"])
@pytest_twisted.ensureDeferred
async def test_lingering_closes(serve: Serve, end: str) -> None:
    """Each end of a lingering close is counted under its own name."""
    clock = HandClock()
    served, metrics = counted(serve, reactor=clock, limits=Limits(linger_bytes=1000))
    client = await in_thread(lambda: Client(served.port).send(BAD))
    await until(lambda: values(metrics, "hangup_open_connections") == {("closing",): 1})
    if end == "client":
        client.end()
    elif end == "bytes":
        client.send(b"x" * 2000)
    elif end == "silence":
        clock.wait(Timeouts().linger_silence_seconds + 1)
    else:
        for sent in range(int(Timeouts().linger_seconds) + 1):
            client.send(b"x")
            await until(partial(has_read, served, sent + 1))
            clock.wait(1)
    await served.emptied()
    client.close()
    closes = values(metrics, "hangup_lingering_closes_total")
    assert {labels: count for labels, count in closes.items() if count} == {(end,): 1}


class Count:
    """A process of a worker, which counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = PrometheusCounter(
            "hangup_requests", "Requests.", ["status"], registry=self.registry
        )
        self.open = Gauge("hangup_open_connections", "Open.", registry=self.registry)
        self.seconds = Histogram(
            "hangup_request_duration_seconds", "Time.", buckets=[1, 2], registry=self.registry
        )

    def report(self) -> bytes:
        return metrics_report(self.registry)


@pytest_twisted.ensureDeferred
async def test_metrics_of_workers() -> None:
    """Counters are the sum of all that have ever been, gauges of those that are."""
    asked: list[int] = []
    states = [WorkerState(1, 71, True, 3, 0), WorkerState(2, 0, False, 0, 5)]

    async def ask() -> None:
        asked.append(1)
        metrics.report(first, first.report())

    metrics = WorkerMetrics(lambda: states, ask)
    first, second = Count(), Count()
    first.requests.labels("200").inc(2)
    second.requests.labels("200").inc(3)
    second.requests.labels("404").inc()
    first.seconds.observe(0.5)
    second.seconds.observe(1.5)
    first.open.set(3)
    second.open.set(4)
    metrics.report(second, second.report())
    assert metrics.knows(second) and not metrics.knows(first)

    async def read() -> dict[str, float]:
        content_type, text = await metrics.exposition(OPENMETRICS)
        assert content_type.startswith("application/openmetrics-text")
        return {
            f"{sample.name}{[*sample.labels.values()]}": sample.value
            for family in parse_openmetrics(text.decode())
            for sample in family.samples
        }

    read_first = await read()
    assert asked == [1]
    assert read_first["hangup_requests_total['200']"] == 5
    assert read_first["hangup_requests_total['404']"] == 1
    assert read_first["hangup_open_connections[]"] == 7
    assert read_first["hangup_request_duration_seconds_bucket['1.0']"] == 1
    assert read_first["hangup_request_duration_seconds_bucket['+Inf']"] == 2
    assert read_first["hangup_request_duration_seconds_sum[]"] == 2
    assert read_first["hangup_worker_up['1']"] == 1
    assert read_first["hangup_worker_up['2']"] == 0
    assert read_first["hangup_worker_connections['1']"] == 3
    assert read_first["hangup_worker_lost_records_total['2']"] == 5
    assert await read() == read_first | {
        name: value for name, value in (await read()).items() if name.startswith("process_")
    }
    # One goes, and another comes in its place.
    second.requests.labels("404").inc()
    metrics.report(second, second.report())
    metrics.forget(second)
    metrics.forget(second)
    third = Count()
    third.requests.labels("404").inc(10)
    metrics.report(third, third.report())
    read_last = await read()
    assert read_last["hangup_requests_total['200']"] == 5
    assert read_last["hangup_requests_total['404']"] == 12
    assert read_last["hangup_open_connections[]"] == 3
    created = "hangup_requests_created['404']"
    assert read_last[created] == read_first[created]
