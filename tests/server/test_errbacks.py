"""Each row of the table of what a handler may return or raise; in memory, on a clock."""

from __future__ import annotations

from typing import Any, Final

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import BAD, DEFAULT, GOOD, HandClock, Paths, Serve, talk, until
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from twisted_hangup import (
    ClientSocket,
    HangupChannel,
    HangupSite,
    HeaderOverflow,
    MaskingPolicy,
    ParseError,
)
from twisted_hangup.testing import feed

#: What handlers wait by.
CLOCK: Final = HandClock()


def later(value: Any) -> Deferred[Any]:
    return deferLater(CLOCK, 1, lambda: value)


class InMemory:
    """A site with *handlers*, and a client that has sent *wire*."""

    def __init__(self, *handlers: Any, wire: bytes = BAD, **arguments: Any) -> None:
        self.site = HangupSite(Paths(), reactor=CLOCK, **arguments)
        for handler in handlers:
            self.site.on_client_error(handler)
        self.client = feed(self.site, wire)


def not_mine(failure: Failure, socket: ClientSocket) -> Failure:
    return failure


def trap_another(failure: Failure, socket: ClientSocket) -> None:
    failure.trap(HeaderOverflow)
    socket.end(b"never")


def raise_the_same(failure: Failure, socket: ClientSocket) -> None:
    failure.raiseException()


def take_and_end(failure: Failure, socket: ClientSocket) -> None:
    socket.end(b"taken\n")


def respond(failure: Failure, socket: ClientSocket) -> None:
    socket.respond(418, b"short and stout\n", {"X-Pot": "tea"})


def give_bytes(failure: Failure, socket: ClientSocket) -> bytes:
    return b"given\n"


def give_bytes_later(failure: Failure, socket: ClientSocket) -> Deferred[bytes]:
    return later(b"later\n")


def pass_on_later(failure: Failure, socket: ClientSocket) -> Deferred[Failure]:
    return later(failure)


async def answer_in_a_coroutine(failure: Failure, socket: ClientSocket) -> bytes:
    await later(None)
    return b"awaited\n"


async def pass_on_in_a_coroutine(failure: Failure, socket: ClientSocket) -> None:
    await later(None)
    failure.raiseException()


async def trap_in_a_coroutine(failure: Failure, socket: ClientSocket) -> None:
    failure.trap(HeaderOverflow)


def write_and_pass_on(failure: Failure, socket: ClientSocket) -> Failure:
    socket.write(b"begun ")
    return failure


def write_and_respond(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"begun ")
    socket.respond(400, b"too late")


def write_and_end(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"one ")
    socket.end(b"two\n")


POT = (
    b"HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\nX-Pot: tea\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n\r\nshort and stout\n"
)


@pytest.mark.parametrize(
    "handlers, answer",
    [
        ([], DEFAULT),
        ([not_mine], DEFAULT),
        ([trap_another], DEFAULT),
        ([raise_the_same], DEFAULT),
        ([pass_on_later], DEFAULT),
        ([pass_on_in_a_coroutine], DEFAULT),
        ([trap_in_a_coroutine], DEFAULT),
        ([not_mine, take_and_end], b"taken\n"),
        ([trap_another, pass_on_later, give_bytes], b"given\n"),
        ([give_bytes, take_and_end], b"given\n"),
        ([give_bytes_later], b"later\n"),
        ([answer_in_a_coroutine], b"awaited\n"),
        ([respond], POT),
        ([write_and_end], b"one two\n"),
        # Once something is written, nothing is added to it.
        ([write_and_pass_on], b"begun "),
        ([write_and_pass_on, give_bytes], b"begun "),
        ([write_and_pass_on, respond], b"begun "),
        ([write_and_respond], b"begun "),
    ],
    ids=lambda value: "+".join(f.__name__ for f in value) if isinstance(value, list) else "",
)
def test_answer(handlers: list[Any], answer: bytes) -> None:
    """What the client reads is what the first handler that takes the error made of it."""
    client = InMemory(*handlers).client.advance(2)
    assert (client.received, client.ended) == (answer, "fin")
    assert [error.code for error in client.errors] == ["HPE_INVALID_HEADER_TOKEN"]


@pytest.mark.parametrize(
    "handlers, answer",
    [
        ([], DEFAULT),
        ([trap_another, give_bytes_later], b"later\n"),
        ([pass_on_in_a_coroutine, respond], POT),
        ([write_and_pass_on, give_bytes], b"begun "),
    ],
)
@pytest_twisted.ensureDeferred
async def test_answer_over_a_socket(serve: Serve, handlers: list[Any], answer: bytes) -> None:
    """The same rules hold where there is a kernel, too."""
    served = serve(reactor=CLOCK)
    for handler in handlers:
        served.site.on_client_error(handler)
    received = talk(served.port, BAD)
    await until(lambda: served.errors)
    CLOCK.wait(2)
    assert await received == answer


CHUNKED = b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "wire, status_line",
    [
        (BAD, b"400 Bad Request"),
        (b"GET /", b"408 Request Timeout"),
        (CHUNKED + b"1;a=" + b"b" * 20_000, b"413 Payload Too Large"),
        (GOOD[:-2] + b"X: " + b"a" * 20_000, b"431 Request Header Fields Too Large"),
        (GOOD[:-2] + b"X: a\r\n" * 1001, b"431 Request Header Fields Too Large"),
    ],
)
def test_default_answers(wire: bytes, status_line: bytes) -> None:
    """The default answers are Node's, byte for byte."""
    answer = b"HTTP/1.1 " + status_line + b"\r\nConnection: close\r\n\r\n"
    assert InMemory(wire=wire).client.advance(61).received == answer


def crash(failure: Failure, socket: ClientSocket) -> None:
    raise ZeroDivisionError("a bug")


def return_a_failure(failure: Failure, socket: ClientSocket) -> Failure:
    return Failure(ZeroDivisionError("a bug"))


async def crash_in_a_coroutine(failure: Failure, socket: ClientSocket) -> None:
    await later(None)
    raise ZeroDivisionError("a bug")


def return_nonsense(failure: Failure, socket: ClientSocket) -> Any:
    return 42


@pytest.mark.parametrize("bug", [crash, return_a_failure, crash_in_a_coroutine, return_nonsense])
def test_bug(expected_errors: LoggedErrors, bug: Any) -> None:
    """A handler's bug is logged, and the chain goes on with the original error."""
    seen: list[Failure] = []

    def after(failure: Failure, socket: ClientSocket) -> Failure:
        seen.append(failure)
        return failure

    client = InMemory(bug, after).client.advance(2)
    assert client.received == DEFAULT
    assert [failure.value for failure in seen] == client.errors
    (logged,) = expected_errors.flush()
    if bug is not return_nonsense:
        assert logged["log_failure"].check(ZeroDivisionError)


def test_what_a_handler_sees() -> None:
    """The failure holds the error, with the packet and the place where it broke."""
    seen: list[Any] = []

    def look(failure: Failure, socket: ClientSocket) -> Failure:
        failure.trap(ParseError)
        seen.append((failure.value, socket.peer, socket.writable, socket.headers_sent))
        return failure

    client = InMemory(look).client
    ((error, peer, writable, headers_sent),) = seen
    assert error.raw_packet == BAD
    assert error.bytes_parsed == error.offset == BAD.index(b" header")
    assert (error.phase, error.status, error.field) == ("head", 400, b"bad")
    assert error.request.target == b"/fast"
    assert error.request.fields == [(b"Host", b"a")]
    assert error.peer == peer == client.peer
    assert writable and not headers_sent


def test_handler_added_later_sees_nothing_earlier() -> None:
    """A handler that is added while an error is settled does not see that error."""
    seen: list[Failure] = []

    def late(failure: Failure, socket: ClientSocket) -> Failure:
        seen.append(failure)
        return failure

    def add_another(failure: Failure, socket: ClientSocket) -> Failure:
        memory.site.on_client_error(late)
        return failure

    memory = InMemory(wire=b"")
    memory.site.on_client_error(add_another)
    memory.client.feed(BAD)
    assert seen == []
    feed(memory.site, BAD)
    assert len(seen) == 1


def test_waiting_handler_is_cancelled() -> None:
    """Past handler_seconds a waiting handler is cancelled, and the default goes out."""
    cancelled: list[Deferred[None]] = []
    skipped: list[Failure] = []

    def wait(failure: Failure, socket: ClientSocket) -> Deferred[None]:
        return Deferred(cancelled.append)

    def after(failure: Failure, socket: ClientSocket) -> Failure:
        skipped.append(failure)
        return failure

    client = InMemory(wait, after).client.advance(29)
    assert (client.received, cancelled) == (b"", [])
    client.advance(2)
    assert (client.received, len(cancelled)) == (DEFAULT, 1)
    assert skipped == []


@pytest.mark.parametrize("of_channel", [False, True])
def test_forgetful_handler_is_answered_for(of_channel: bool) -> None:
    """A handler that said None, wrote nothing and never closes: the default answer goes out."""

    class Forgetful(HangupChannel):
        def client_error(self, failure: Failure, socket: ClientSocket) -> None: ...

    def forget(failure: Failure, socket: ClientSocket) -> None: ...

    memory = InMemory(channel=Forgetful) if of_channel else InMemory(forget)
    client = memory.client.advance(29)
    assert (client.received, client.ended) == (b"", None)
    client.advance(2)
    assert (client.received, client.ended) == (DEFAULT, "fin")


@pytest.mark.parametrize("waits", [False, True])
def test_handler_that_wrote_and_forgot_is_closed_for(waits: bool) -> None:
    """One that wrote something and never closes, or waits for ever, has its socket destroyed."""
    sockets: list[ClientSocket] = []

    def forget(failure: Failure, socket: ClientSocket) -> Deferred[None] | None:
        sockets.append(socket)
        socket.write(b"begun ")
        return Deferred() if waits else None

    client = InMemory(forget).client.advance(29)
    assert client.ended is None
    assert client.advance(2).ended == "reset"
    assert (client.received, sockets[0].closed) == (b"begun ", True)


def test_late_answer_goes_nowhere() -> None:
    """A handler whose turn comes after the time of all writes nothing after the default."""
    waits: Deferred[bytes] = Deferred(lambda _: None)
    client = InMemory(lambda failure, socket: waits, give_bytes).client.advance(31)
    assert client.received == DEFAULT


def test_bug_in_a_flood(expected_errors: LoggedErrors) -> None:
    """A handler that fails every time is told about ever more seldom."""

    def crash_each_time(failure: Failure, socket: ClientSocket) -> None:
        raise KeyError("a bug")

    site = InMemory(crash_each_time).site
    for _ in range(19):
        feed(site, BAD)
    assert len(expected_errors.flush()) == 5


def test_report_masks_what_the_site_masks() -> None:
    """The site's policy decides what report() hides."""
    masking = MaskingPolicy(extra_fields=frozenset({b"x-api-key"}))
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: TOPSECRET\x01\r\n\r\n"
    (error,) = InMemory(wire=wire, masking=masking).client.errors
    assert "TOPSECRET" not in error.report()
    assert "TOPSECRET" in error.report(masked=False)
