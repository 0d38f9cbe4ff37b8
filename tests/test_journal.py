"""What went wrong is recorded at once, and what it was answered when it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from cleanliness import LoggedErrors
from twisted.python.failure import Failure
from wire import BAD, SLOW, Client, Served, in_thread, pause, talk

from twisted_hangup import ClientError, ClientSocket, ParseError
from twisted_hangup.journal import RECENT_BYTES, RECENT_ERRORS, Journal

Serve = Callable[..., Served]


def error(packet: bytes = b"") -> ParseError:
    return ParseError("broken", code="HPE_STRICT", phase="head", raw_packet=packet)


def test_counts_and_recent() -> None:
    """Errors are counted by code, and the last ones kept."""
    journal = Journal()
    errors = [error() for _ in range(RECENT_ERRORS + 5)]
    for one in errors:
        journal.record(one)
    assert journal.counts == {"HPE_STRICT": RECENT_ERRORS + 5}
    assert journal.recent == tuple(errors[5:])


def test_recent_is_bounded_in_bytes() -> None:
    """Large packets push out more of what was before."""
    journal = Journal()
    for _ in range(RECENT_ERRORS):
        journal.record(error(bytes(64 * 1024)))
    assert len(journal.recent) == RECENT_BYTES // (64 * 1024)


def test_watcher_that_fails(expected_errors: LoggedErrors) -> None:
    """A watcher's bug is logged and keeps nobody else from seeing the error."""
    journal = Journal()
    seen: list[ClientError] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    journal.watch(fail)
    unwatch = journal.watch(seen.append)
    journal.watch_settled(fail)
    journal.record(error())
    journal.settle(error(), 400)
    unwatch()
    unwatch()
    journal.record(error())
    assert len(seen) == 1
    assert len(expected_errors.flush(ZeroDivisionError)) == 3


@pytest.mark.parametrize(
    "answer, status",
    [
        (lambda failure, socket: failure, 400),
        (lambda failure, socket: socket.respond(418), 418),
        (lambda failure, socket: b"HTTP/1.1 503 Busy\r\n\r\n", 503),
        (lambda failure, socket: b"not HTTP", None),
        (lambda failure, socket: socket.destroy(), None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_settled_with_what_was_sent(serve: Serve, answer: Any, status: int | None) -> None:
    """Each error is settled once, with the status that the client was sent."""
    served = serve()
    served.site.on_client_error(answer)
    settled: list[tuple[ClientError, int | None]] = []
    served.site.journal.watch_settled(lambda error, status: settled.append((error, status)))
    try:
        await talk(served.port, BAD)
    except ConnectionResetError:
        assert status is None
    await pause()
    assert settled == [(served.errors[0], status)]


@pytest.mark.parametrize("wire", [SLOW, SLOW + BAD])
@pytest_twisted.ensureDeferred
async def test_settled_without_an_answer(serve: Serve, wire: bytes) -> None:
    """A client that has left is settled with no status, also one whose error had to wait."""
    served = serve()
    settled: list[int | None] = []
    served.site.journal.watch_settled(lambda error, status: settled.append(status))

    @served.site.on_client_error
    def pass_on(failure: Failure, socket: ClientSocket) -> Failure:
        return failure

    client = await in_thread(lambda: Client(served.port).send(wire))
    await pause()
    client.reset()
    await pause()
    assert settled == [None]
