"""Tracebacks in the log: few in a flood, of a length with a bound, and all are counted."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import Client, Serve, in_thread, talk
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    eventAsText,
    globalLogPublisher,
)
from twisted.web.resource import Resource
from zope.interface import implementer

from twisted_hangup import HangupWSGIResource
from twisted_hangup.journal.failures import TRACEBACK_LINES, bound_failures
from twisted_hangup.journal.flood import MOST_COUNTS
from twisted_hangup.service.process import DaemonThreads

#: No second adds more lines to the log.
MOST_LINES: Final = TRACEBACK_LINES + MOST_COUNTS


@implementer(ILogObserver)
class Log:
    """The lines of a log, as an operator has them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if event["log_level"] is not LogLevel.info:
            self.lines += eventAsText(event).splitlines()

    def failures(self) -> int:
        """How many failures there are a traceback of, or a count."""
        text = "\n".join(self.lines)
        counts = re.findall(r"and ([\d,]+) more failures with ", text)
        whole = text.count("\nTraceback (most recent call last):")
        return whole + sum(int(count.replace(",", "")) for count in counts)


@pytest.fixture
def log(expected_errors: LoggedErrors) -> Iterator[Log]:
    """What is logged meanwhile; errors are expected."""
    observer = Log()
    globalLogPublisher.addObserver(observer)
    yield observer
    globalLogPublisher.removeObserver(observer)
    expected_errors.flush()


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The time by which the bound holds."""
    clock = Clock()
    end = bound_failures(clock)
    yield clock
    end()


def fail(error: Exception, depth: int = 0) -> None:
    """Log *error* as of an application with so many calls in one another."""

    def down(depth: int) -> None:
        if depth:
            down(depth - 1)
        raise error

    try:
        down(depth)
    except Exception:
        Logger(namespace="test").failure("It failed")


@pytest.mark.parametrize("depth", [0, 5, 30, 900])
def test_flood(log: Log, clock: Clock, depth: int) -> None:
    """In each second, so many lines and a count."""
    for _ in range(3):
        before = len(log.lines)
        for _ in range(100):
            fail(KeyError("key"), depth)
        clock.advance(1)
        assert len(log.lines) - before <= MOST_LINES
    assert sum(line.endswith("It failed") for line in log.lines) >= 3
    assert log.failures() == 300


def test_flood_of_many_types(log: Log, clock: Clock) -> None:
    """The counts have a bound as well."""
    for number in range(100):
        fail(type(f"Error{number}", (Exception,), {})())
    clock.advance(1)
    assert len(log.lines) <= MOST_LINES
    assert log.failures() == 100


def test_short_traceback_is_whole(log: Log, clock: Clock) -> None:
    """What is rare and short is logged as ever."""
    fail(KeyError("key"), 3)
    assert "lines left out" not in "\n".join(log.lines)
    assert log.lines[0].endswith("It failed")
    assert log.lines[-1].strip() == "builtins.KeyError: 'key'"


@pytest.mark.parametrize(
    "error", [KeyError("key"), ValueError("\n" * 5000), ValueError("x" * 10_000_000)]
)
def test_long_traceback_is_cut(log: Log, clock: Clock, error: Exception) -> None:
    """Of a long one the beginning and the end are there, and how much is not."""
    fail(error, 900)
    assert len(log.lines) <= TRACEBACK_LINES
    assert max(map(len, log.lines)) < 1000
    assert re.search(r"\.\.\. \d+ lines left out \.\.\.", "\n".join(log.lines))


def test_without_a_bound(log: Log) -> None:
    """A library logs each, whole: who tests an application looks for it."""
    for _ in range(10):
        fail(KeyError("key"), 50)
    assert log.failures() == 10
    assert "left out" not in "\n".join(log.lines)


def test_errors_that_nobody_handles(log: Log, clock: Clock) -> None:
    """Those of Deferreds have a headline besides, and the same bound."""
    for _ in range(100):
        Deferred().errback(KeyError("key"))
    gc.collect()
    clock.advance(1)
    assert len(log.lines) <= MOST_LINES
    assert sum("Unhandled error in Deferred" in line for line in log.lines) >= 1
    assert log.failures() >= 100


def test_errors_of_threads(log: Log, clock: Clock) -> None:
    """They wait for the reactor's thread, whose clock tells when a second is over."""
    calls: list[Callable[[], object]] = []
    clock.callFromThread = lambda *call: calls.append(partial(*call))  # type: ignore[attr-defined]
    threads = [threading.Thread(target=fail, args=(KeyError("key"),)) for _ in range(100)]
    for thread in threads:
        thread.start()
        thread.join()
    assert log.lines == [] and len(calls) == 100
    for call in calls:
        call()
    clock.advance(1)
    assert len(log.lines) <= MOST_LINES
    assert log.failures() == 100


# Through a server.


class Broken(Resource):
    """Fails for each request, before its response or in it."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        if request.path == b"/late":
            request.write(b"begun")
        raise ZeroDivisionError(request.path.decode())


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["PATH_INFO"] == "/late":
        start_response("200 OK", [])(b"begun")
    raise ZeroDivisionError("in a thread")


@pytest.fixture(params=["resource", "wsgi"])
def broken(request: pytest.FixtureRequest) -> Iterator[Any]:
    from twisted.internet import reactor as installed

    if request.param == "resource":
        yield Broken()
        return
    reactor: Any = installed
    threads = DaemonThreads(2, "test")
    yield HangupWSGIResource(reactor, threads, application)
    threads.stop()


@pytest_twisted.ensureDeferred
async def test_requests(serve: Serve, log: Log, clock: Clock, broken: Any) -> None:
    """Whatever content raises, a client cannot fill the log with it."""
    served = serve(broken)

    def run() -> bytes:
        wire = b"GET / HTTP/1.1\r\nHost: a\r\n"
        client = Client(served.port).send(
            (wire + b"\r\n") * 299, wire, b"Connection: close\r\n\r\n"
        )
        try:
            return client.read_all()
        finally:
            client.close()

    assert (await in_thread(run)).count(b"HTTP/1.1 500 ") == 300
    clock.advance(1)
    assert len(log.lines) <= MOST_LINES
    assert log.failures() == 300


@pytest_twisted.ensureDeferred
async def test_late_failures(serve: Serve, log: Log, clock: Clock, broken: Any) -> None:
    """A response that breaks in the middle does not look whole, and is counted, too."""
    served = serve(broken)
    for _ in range(20):
        response = await talk(served.port, b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"begun" in response and not response.endswith(b"0\r\n\r\n")
    clock.advance(1)
    assert log.failures() == 20
