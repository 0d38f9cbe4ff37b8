"""Handlers that misbehave: the client is answered, the log says it in a line, nothing is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cleanliness import LoggedErrors
from support.wire import BAD, DEFAULT, PATIENCE, SLOW, Paths, codes
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_hangup import ClientSocket, HangupSite
from twisted_hangup.server.handler_log import HandlerLog, handler_log
from twisted_hangup.testing import feed

LEAKS = Path(__file__).parents[2] / "benchmarks" / "leaks.py"


def test_nothing_leaks() -> None:
    """Descriptors, timers, objects and memory are back where they were after each kind."""
    command: list[str | Path] = [sys.executable, LEAKS, "100", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.endswith("nothing has grown\n"), done.stdout + done.stderr
    assert done.returncode == 0


# What the log says.


@implementer(ILogObserver)
class Said:
    """What handlers made the log say."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace") == HandlerLog.__module__:
            self.events.append(event)

    @property
    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events]


@pytest.fixture
def said(expected_errors: LoggedErrors) -> Iterator[Said]:
    """What handlers made the log say since the test began, which expects it."""
    handler_log._times.clear()
    said = Said()
    globalLogPublisher.addObserver(said)
    yield said
    globalLogPublisher.removeObserver(said)
    expected_errors.events = [e for e in expected_errors.events if e not in said.events]


CLOCK = Clock()


def later(seconds: float) -> Deferred[None]:
    return deferLater(CLOCK, seconds, lambda: None)


def site_with(*handlers: Any) -> HangupSite:
    site = HangupSite(Paths(), reactor=CLOCK)
    for handler in handlers:
        site.on_client_error(handler)
    return site


def never_answers(failure: Failure, client: ClientSocket) -> None: ...


async def never_answers_later(failure: Failure, client: ClientSocket) -> None: ...


def answers_too_late(failure: Failure, client: ClientSocket) -> None:
    later(35).addCallback(lambda _: client.respond(418))


def never_closes(failure: Failure, client: ClientSocket) -> None:
    client.write(b"begun")


def closes_twice(failure: Failure, client: ClientSocket) -> None:
    client.end(b"once")
    client.end()


def writes_after_its_end(failure: Failure, client: ClientSocket) -> None:
    client.end(b"once")
    client.write(b"twice")


def answers_twice(failure: Failure, client: ClientSocket) -> bytes:
    client.respond(400)
    return b"twice"


def raises(failure: Failure, client: ClientSocket) -> None:
    raise ZeroDivisionError("a\nbug")


async def raises_later(failure: Failure, client: ClientSocket) -> None:
    await later(0.01)
    raise KeyError


def waits_for_ever(failure: Failure, client: ClientSocket) -> Deferred[None]:
    return Deferred()


async def waits_against_its_will(failure: Failure, client: ClientSocket) -> bytes:
    try:
        await Deferred()
    except CancelledError:
        await later(0.1)
    return b"late"


def returns_nonsense(failure: Failure, client: ClientSocket) -> Any:
    return 42


#: What each makes the log say, before the client error; and at which level.
SAYS: dict[Any, list[tuple[LogLevel, str]]] = {
    never_answers: [
        (
            LogLevel.warn,
            "returned None, but neither answered nor closed within Timeouts.handler_seconds",
        )
    ],
    answers_too_late: [
        (
            LogLevel.warn,
            "returned None, but neither answered nor closed within Timeouts.handler_seconds",
        ),
        (LogLevel.warn, "answered after Timeouts.handler_seconds, too late for the client"),
    ],
    never_closes: [
        (LogLevel.warn, "began an answer, but did not close within Timeouts.handler_seconds")
    ],
    closes_twice: [(LogLevel.warn, "closed the connection twice")],
    writes_after_its_end: [(LogLevel.warn, "closed the connection twice")],
    answers_twice: [(LogLevel.warn, "closed the connection twice")],
    raises: [(LogLevel.critical, r"failed with ZeroDivisionError: a\nbug")],
    raises_later: [(LogLevel.critical, "failed with KeyError")],
    waits_for_ever: [
        (LogLevel.warn, "still waits after Timeouts.handler_seconds and is cancelled")
    ],
    waits_against_its_will: [
        (LogLevel.warn, "still waits after Timeouts.handler_seconds and is cancelled"),
        (LogLevel.warn, "answered after Timeouts.handler_seconds, too late for the client"),
    ],
    returns_nonsense: [
        (
            LogLevel.error,
            "returned int, and must return None, bytes, the failure, a Deferred or a coroutine",
        )
    ],
}

OVER = "the client error is HPE_INVALID_HEADER_TOKEN"


@pytest.mark.parametrize("handler", SAYS)
def test_one_line(said: Said, handler: Any) -> None:
    """A handler's mistake is one line that names the handler, the mistake and the error."""
    site = site_with(handler)
    feed(site, BAD).advance(40)
    assert [event["log_level"] for event in said.events] == [level for level, _ in SAYS[handler]]
    for line, (_, words) in zip(said.lines, SAYS[handler], strict=True):
        start = f"Client error handler {__name__}.{handler.__qualname__} {words}; {OVER}"
        assert line.startswith(start)
        assert "\n" not in line
    assert site.open_connections == 0
    assert CLOCK.getDelayedCalls() == []


@pytest.mark.parametrize("handler", [never_answers, never_answers_later])
def test_nothing_to_forget(said: Said, handler: Any) -> None:
    """Where nothing is sent (status None), None closes at once, and is no mistake."""
    client = feed(site_with(handler))
    client.advance(61)  # past ``head_seconds``: nothing has ever come
    assert (codes(client), client.ended, said.lines) == (["ERR_HTTP_REQUEST_TIMEOUT"], "fin", [])


@pytest.mark.parametrize("handler", SAYS)
def test_a_flood_of_it_is_few_lines(said: Said, handler: Any) -> None:
    """The 1st, 2nd, 4th, 8th and 16th time are told; a traceback stands below the first."""
    site = site_with(handler)
    clients = [feed(site, BAD) for _ in range(20)]
    clients[0].advance(40)
    assert len(said.lines) == 5 * len(SAYS[handler])
    assert sum("log_failure" in event for event in said.events) == handler.__name__.startswith(
        "raises"
    )
    assert said.lines[-1].endswith("(16 times so far)")


def test_answer_after_the_client_has_gone(said: Said) -> None:
    """It goes nowhere, and is told at info level: it is nobody's mistake."""
    answer: Deferred[bytes] = Deferred()
    sockets: list[ClientSocket] = []

    def answers_the_dead(failure: Failure, client: ClientSocket) -> Deferred[bytes]:
        sockets.append(client)
        return answer

    feed(site_with(answers_the_dead), BAD).reset()
    assert sockets[0].closed
    answer.callback(b"anybody there?")
    ((level, line),) = [(event["log_level"], formatEvent(event)) for event in said.events]
    assert level is LogLevel.info
    assert "answers_the_dead answered after the client had left; the client error is" in line
    assert CLOCK.getDelayedCalls() == []


def test_tidy_handlers_are_not_told_of(said: Said) -> None:
    """Closing what has closed, and passing on what was answered, are no mistakes."""
    sockets: list[ClientSocket] = []

    def answers_and_passes_on(failure: Failure, client: ClientSocket) -> Failure:
        sockets.append(client)
        client.respond(400)
        return failure

    feed(site_with(answers_and_passes_on, passes_on), BAD).fin()
    assert sockets[0].closed
    sockets[0].destroy()
    assert said.lines == []


def passes_on(failure: Failure, client: ClientSocket) -> Failure:
    return failure


def test_closing_for_a_client_that_has_gone_is_not_told_of(said: Said) -> None:
    """A handler may close what it took in any case."""
    sockets: list[ClientSocket] = []

    def keeps(failure: Failure, client: ClientSocket) -> None:
        sockets.append(client)

    feed(site_with(keeps), BAD).reset()
    sockets[0].end()
    sockets[0].destroy()
    assert said.lines == []


def test_default_answer_to_nobody_is_not_told_of(said: Said) -> None:
    """That a client leaves before its error is answered is its own affair."""
    client = feed(site_with(passes_on), SLOW + BAD).reset()
    assert codes(client) == ["HPE_INVALID_HEADER_TOKEN"]
    assert said.lines == []


def test_handler_after_a_handler_that_failed(said: Said) -> None:
    """The line names the handler that is meant, not the first or the last."""
    client = feed(site_with(raises, waits_for_ever, never_closes), BAD).advance(40)
    assert client.received == DEFAULT
    assert [line.split()[3].rpartition(".")[2] for line in said.lines] == [
        "raises",
        "waits_for_ever",
    ]
