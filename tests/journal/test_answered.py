"""What was sent to a client that went wrong: every log says the same, and it is the truth."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from typing import Any, cast

import pytest
from support.cleanliness import LoggedErrors
from support.wire import BAD, Paths, statuses
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from twisted.python.failure import Failure

from twisted_hangup import ClientError, ClientSocket, HangupSite
from twisted_hangup.journal.access_log import refused_line
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.journal.error_log import ErrorLog
from twisted_hangup.metrics import Metrics
from twisted_hangup.status.snapshots import entry_record
from twisted_hangup.testing import feed


def forget(failure: Failure, socket: ClientSocket) -> None: ...


async def forget_later(failure: Failure, socket: ClientSocket) -> None: ...


async def swallow_the_cancellation(failure: Failure, socket: ClientSocket) -> None:
    with suppress(CancelledError):
        await Deferred()


def fire_when_cancelled(failure: Failure, socket: ClientSocket) -> Deferred[None]:
    return Deferred(lambda waiting: waiting.callback(None))


def write_and_forget(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"HTTP/1.1 418 I'm a teapot\r\n")


def write_and_destroy(failure: Failure, socket: ClientSocket) -> None:
    write_and_forget(failure, socket)
    socket.destroy()


async def write_and_wait(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"HTTP/1.1 418 I'm a teapot\r\n")
    await swallow_the_cancellation(failure, socket)


def write_nothing_of_http(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"#!")


def write_in_pieces(failure: Failure, socket: ClientSocket) -> None:
    for byte in b"HTTP/1.1 418 I'm a teapot\r\n\r\n":
        socket.write(bytes([byte]))
    socket.end()


class Logs:
    """All that tells of the client errors of one site, in memory."""

    def __init__(self, *handlers: Any) -> None:
        self.clock = Clock()
        self.site = HangupSite(Paths(), reactor=self.clock)
        for handler in handlers:
            self.site.on_client_error(handler)
        self.metrics = Metrics(self.site)
        self.events: list[LogEvent] = []
        logger = Logger(namespace="test", observer=cast(ILogObserver, self.events.append))
        self._json = io.BytesIO()
        self.access: list[str | None] = []
        journal = self.site.journal
        journal.watch(ConsoleLog(self.clock, logger=logger))
        journal.watch(ErrorLog(self._json, self.clock))
        journal.watch_settled(self._refused)

    def _refused(self, error: ClientError, status: int | None) -> None:
        self.access.append(refused_line("[]", error, status))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._json.getvalue().splitlines()]

    @property
    def told(self) -> set[int | None]:
        """The status that each of them names."""
        (event,), (line,), (access,) = self.events, self.lines, self.access
        (entry,) = self.site.journal.snapshot().entries
        record = entry_record(entry, self.site.masking)
        (answer,) = (
            sample.labels["status"]
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "hangup_client_error_answers_total" and sample.value
        )
        report = re.search(r"\((?:not answered|answered (\d+))\)$", entry.error.report(), re.M)
        assert access is not None and report is not None
        refused = int(access.split('" ')[1].split()[0])
        return {
            event["status"],
            _status(formatEvent(event).split()[0]),
            line["status"],
            record["status"],
            record["answered"],
            None if refused == 444 else refused,
            _status(answer),
            _status(report[1]),
        }


def _status(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


@pytest.mark.parametrize(
    "handler, status",
    [
        (lambda failure, socket: failure, 400),
        (lambda failure, socket: socket.respond(418), 418),
        (lambda failure, socket: b"HTTP/1.1 503 Busy\r\n\r\n", 503),
        (lambda failure, socket: b"", None),
        (lambda failure, socket: socket.end(b"not HTTP"), None),
        (lambda failure, socket: socket.destroy(), None),
        (write_and_destroy, None),
        (write_in_pieces, 418),
        (write_nothing_of_http, None),
        (write_and_forget, 418),
        (write_and_wait, 418),
        (forget, 400),
        (forget_later, 400),
        (swallow_the_cancellation, 400),
        (fire_when_cancelled, 400),
    ],
)
def test_all_agree(expected_errors: LoggedErrors, handler: Any, status: int | None) -> None:
    """Console, error log, status page, access log, metrics and report name what was sent."""
    logs = Logs(handler)
    client = feed(logs.site, BAD).advance(31)
    assert logs.told == {status}
    assert statuses(client.received) == ([] if status is None else [status])
    assert client.errors[0].settled


def respond_in_pieces(failure: Failure, socket: ClientSocket) -> None:
    for piece in (b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 7\r\n\r", b"\nte", b"apots"):
        socket.write(piece)
    socket.end()


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    "handler, length",
    [
        (lambda failure, socket: failure, 0),
        (lambda failure, socket: socket.respond(418, b"teapot"), 6),
        (lambda failure, socket: b"HTTP/1.1 503 Busy\r\n\r\nbusy\r\n\r\n", 8),
        (lambda failure, socket: socket.end(b"no HTTP\r\n\r\nat all"), 0),
        (respond_in_pieces, 7),
        (write_and_forget, 0),
    ],
)
def test_bytes_of_the_body(handler: Any, length: int, method: bytes) -> None:
    """Access log and metrics have those that were sent, as of a request that was not refused."""
    logs = Logs(handler)
    received = feed(logs.site, BAD.replace(b"GET", method, 1)).advance(31).received
    if method == b"HEAD" and length == 6:
        length = 0  # `respond` knows that it has none
    head, _, body = received.partition(b"\r\n\r\n")
    assert not head.startswith(b"HTTP") or len(body) == length
    (line,) = logs.access
    assert line is not None and line.split('" ')[1].split()[1] == (str(length) if length else "-")
    assert logs.metrics.registry.get_sample_value("hangup_response_body_bytes_total") == length


@pytest.mark.parametrize("leave", ["fin", "reset"])
def test_client_that_left_was_not_answered(leave: str) -> None:
    """Where an answer was due and nobody was there to read it, nobody says that it was given."""
    logs = Logs(forget)
    client = feed(logs.site, BAD)
    getattr(client, leave)()
    client.advance(31)
    (line,) = logs.lines
    assert line["status"] == (400 if leave == "fin" else None)
    assert line["status"] == logs.events[0]["status"] == client.errors[0].answered


def test_logs_wait_for_the_answer() -> None:
    """While a handler takes its time the journal has the error, and no log a status for it."""
    answer: Deferred[bytes] = Deferred()
    logs = Logs(lambda failure, socket: answer)
    client = feed(logs.site, BAD)
    assert (logs.events, logs.lines) == ([], [])
    (entry,) = logs.site.journal.snapshot().entries
    assert not entry.settled
    assert entry.error.report().splitlines()[0].endswith("  (default answer 400)")
    answer.callback(b"HTTP/1.1 418 I'm a teapot\r\n\r\n")
    assert logs.told == {418}
    assert statuses(client.advance(0).received) == [418]


def test_line_is_written_before_the_connection_closes() -> None:
    """Whoever sees the end of the connection finds the line."""
    logs = Logs()
    client = feed(logs.site, BAD)
    assert client.ended == "fin"
    assert len(logs.lines) == len(logs.events) == 1
