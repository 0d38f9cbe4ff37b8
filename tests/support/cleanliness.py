"""What Trial does for each test and pytest-twisted does not: it ends, and leaves nothing behind.

A timer, a socket, an error in the log or a lost failure of a Deferred turns the test red
that left it, and is then cleared away, so that the next test starts clean.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import wraps
from inspect import iscoroutine
from itertools import count
from time import monotonic
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

#: Turns of the reactor that a timer may take to end by itself; and seconds that a connection may
#: take which is closing, on a machine that stops meanwhile.
SETTLING_TURNS = 10
SETTLING_SECONDS = 5.0

#: How long a test may take that waits for the reactor: several times the slowest, on a busy
#: machine.  Pytest's ``faulthandler_timeout`` ends what this cannot, such as a blocked thread.
LONGEST_SECONDS = 180.0

#: What lives on after so many tests, in caches and in pytest, is moved out of the garbage
#: collector's sight: the full collection after each test then takes a fraction of a
#: millisecond.  Over a whole run it would grow to eighty.
TESTS_TO_A_FREEZE = 50

_tests = count()


@implementer(ILogObserver)
class LoggedErrors:
    """The errors that one test logged: events with a failure, or of level *error* and above."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if failure_of(event) is None:
            # A lost Deferred logs a headline of its own before its failure.
            headline = event.get("log_namespace") == "twisted.internet.defer"
            level = event.get("log_level")
            if headline or level is None or level < LogLevel.error:
                return
        self.events.append(event)

    def flush(self, *types: type[BaseException]) -> list[LogEvent]:
        """Take the events whose failure is one of *types*; without types, all of them.

        Returns:
            The events, oldest first.  What is not taken turns the test red.
        """
        gc.collect()  # a lost Deferred speaks up when it is freed, at the latest
        taken = [
            event
            for event in self.events
            if not types or ((failure := failure_of(event)) is not None and failure.check(*types))
        ]
        self.events = [event for event in self.events if event not in taken]
        return taken


def failure_of(event: LogEvent) -> Failure | None:
    """The failure of a log event; ``twisted.python.log.err`` has it under another name."""
    failure: Failure | None = event.get("log_failure") or event.get("failure")
    return failure


@pytest.fixture
def expected_errors() -> Iterator[LoggedErrors]:
    """The errors logged so far; a test that causes some must ``flush`` them."""
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    yield errors
    globalLogPublisher.removeObserver(errors)


@pytest.fixture(autouse=True)
def nothing_left_behind(twisted_greenlet: object, expected_errors: LoggedErrors) -> Iterator[None]:
    """Fail a test that leaves timers, sockets, logged errors or lost failures."""
    if next(_tests) % TESTS_TO_A_FREEZE == 0:
        gc.collect()
        gc.freeze()
    from twisted.internet import reactor

    before = _Leftovers(reactor)
    yield
    ends = monotonic() + SETTLING_SECONDS
    for turn in count():
        left = _Leftovers(reactor).since(before)
        open_still = any(not hasattr(thing, "cancel") for thing in left) and monotonic() < ends
        if not left or (turn >= SETTLING_TURNS and not open_still):
            break
        pytest_twisted.blockon(deferLater(reactor, 0 if turn < SETTLING_TURNS else 0.001))
    complaints = [f"left in the reactor: {thing}" for thing in left]
    _clear_away(reactor, left)
    complaints += [f"logged: {_describe(event)}" for event in expected_errors.flush()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture(autouse=True)
def ends_in_time(twisted_greenlet: object, request: pytest.FixtureRequest) -> None:
    """Fail a test whose Deferred or coroutine waits for what does not come, where it waits."""
    from twisted.internet import reactor

    test = request.node.obj

    @wraps(test)
    def run(*args: Any, **kw: Any) -> Any:
        result = test(*args, **kw)
        if iscoroutine(result):
            result = ensureDeferred(result)
        if isinstance(result, Deferred):
            result.addTimeout(LONGEST_SECONDS, reactor, _where_it_waits)
        return result

    request.node.obj = run


def _where_it_waits(failure: Failure, seconds: float) -> Failure:
    """What fails a test: its own `CancelledError`, with the lines that led there."""
    assert failure.value is not None
    failure.value.args = (f"what this test waits for has not come in {seconds:g} seconds",)
    return failure


class _Leftovers(frozenset[Any]):
    """The timers and file descriptors of a reactor, but for those that wake it up."""

    def __new__(cls, reactor: Any) -> _Leftovers:
        things = {*reactor.getDelayedCalls(), *reactor.getReaders(), *reactor.getWriters()}
        return super().__new__(cls, things - getattr(reactor, "_internalReaders", set()))

    def since(self, before: frozenset[Any]) -> frozenset[Any]:
        return self - before


def _clear_away(reactor: Any, left: frozenset[Any]) -> None:
    for thing in left:
        if hasattr(thing, "cancel"):
            thing.cancel()
        else:
            reactor.removeReader(thing)
            reactor.removeWriter(thing)
            thing.connectionLost(Failure(ConnectionLost("left behind by a test")))


def _describe(event: LogEvent) -> str:
    failure = failure_of(event)
    text = formatEvent(event)
    return f"{text}\n{failure.getTraceback()}" if failure is not None else text
